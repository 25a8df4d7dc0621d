"""Secrets in files: for their owner alone, whole, never replaced."""

from pathlib import Path

import pytest

from acmeca.keystore.pem import KeystoreError
from acmeca.keystore.secret import SECRET_LENGTH, load_secret, write_secret

SECRET = bytes(range(SECRET_LENGTH))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "eab.key"


def test_written_and_read(path: Path) -> None:
    write_secret(path, SECRET)
    assert load_secret(path) == SECRET
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [item.name for item in path.parent.iterdir()] == ["eab.key"]


def test_never_replaced(path: Path) -> None:
    write_secret(path, SECRET)
    with pytest.raises(KeystoreError, match="never overwritten"):
        write_secret(path, bytes(SECRET_LENGTH))
    assert load_secret(path) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_readable_by_others(path: Path, mode: int) -> None:
    """RULES §6: "private keys in files of mode 0600, refused if group or others can read them"."""
    write_secret(path, SECRET)
    path.chmod(mode)
    with pytest.raises(KeystoreError, match="chmod 600") as caught:
        load_secret(path)
    assert_nothing_shown(caught.value)


@pytest.mark.parametrize("content", [b"", SECRET[:-1], SECRET + b"\n", b"-----BEGIN"])
def test_no_secret(path: Path, content: bytes) -> None:
    write_secret(path, SECRET)
    path.write_bytes(content)
    with pytest.raises(KeystoreError, match="bytes and not 32") as caught:
        load_secret(path)
    assert_nothing_shown(caught.value)


def test_missing(path: Path) -> None:
    with pytest.raises(KeystoreError, match="is missing"):
        load_secret(path)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_of_one_length(path: Path, length: int) -> None:
    with pytest.raises(ValueError, match="32"):
        write_secret(path, bytes(length))
    assert not path.exists()


def assert_nothing_shown(error: Exception) -> None:
    """Rule 2."""
    assert SECRET.hex() not in str(error)
    assert repr(SECRET)[2:8] not in str(error)
