"""acmeca.storage.node: a name that is made once, that others may write under, and that is never guessed."""

import socket
import stat
from pathlib import Path

import pytest

from acmeca.storage.errors import StorageError
from acmeca.storage.node import NODE_FILE, node_name


def entropy(length: int) -> bytes:
    return bytes(range(0xA0, 0xA0 + length))


def test_a_name_is_the_hosts_and_something_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "ca1.corp.internal")
    assert node_name(tmp_path, entropy=entropy) == "ca1-a0a1a2a3"


def test_it_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1: "it is made once and kept in a file", also when the host is called something else later."""
    name = node_name(tmp_path, entropy=entropy)
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert node_name(tmp_path, entropy=bytes) == name
    assert (tmp_path / NODE_FILE).read_text() == f"{name}\n"
    assert [path.name for path in tmp_path.iterdir()] == [NODE_FILE]
    assert stat.S_IMODE((tmp_path / NODE_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("", "node"),
        ("-", "node"),
        ("..", "node"),
        ("-a-", "a"),
        ("a_b/../c", "a-b"),
        ("bücher", "b-cher"),
        ("x" * 64, "x" * 32),
        ("@1234567890-", "1234567890"),
    ],
)
def test_a_host_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    """What stands in a file's name is letters, digits and `-`, whatever the machine is called."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert node_name(tmp_path, entropy=entropy) == f"{name}-a0a1a2a3"


@pytest.mark.parametrize("text", [b"", b"\n", b"../x", b"a b", b".a", b"a/b", b"x" * 64, b"\xff", b"a\nb", b"a@b"])
def test_a_file_that_holds_no_name(tmp_path: Path, text: bytes) -> None:
    """It is not replaced: who else writes under a name that was there before cannot be known."""
    (tmp_path / NODE_FILE).write_bytes(text)
    with pytest.raises(StorageError, match=NODE_FILE):
        node_name(tmp_path, entropy=entropy)
    assert (tmp_path / NODE_FILE).read_bytes() == text


def test_a_name_that_a_person_chose(tmp_path: Path) -> None:
    (tmp_path / NODE_FILE).write_text("Berlin_2.a\n")
    assert node_name(tmp_path, entropy=entropy) == "Berlin_2.a"


def test_what_a_crash_left_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / f"{NODE_FILE}.new").write_text("hal")
    assert node_name(tmp_path, entropy=entropy).endswith("-a0a1a2a3")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot read or make"):
        node_name(tmp_path / "missing", entropy=entropy)
