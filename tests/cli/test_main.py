"""What all verbs share (cli/main.py): failures, exit codes, help."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from acmeca import __version__
from acmeca.cli.main import cli
from tests.cli.conftest import Acmeca, issue
from tests.support.installations import CHECKOUT, Installation
from tests.support.processes import Finished, clean_environment, run
from tests.support.terminal import on_terminal

VERBS = sorted(cli.commands)

# Runs a command as another user, with everything imported before: the interpreter may lie where that user cannot go.
AS_NOBODY = """
import os, sys
import encodings.idna, encodings.utf_8_sig
from acmeca.cli.main import run
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(run(sys.argv[1:]))
"""


def test_the_verbs() -> None:
    assert (
        " ".join(VERBS)
        == "audit backup crl doctor eab init journal keys limits list profiles renewal restore revoke serve show storage"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_each_verb_teaches_with_examples(acmeca: Acmeca, verb: str) -> None:
    said = acmeca(None, verb, "--help")
    assert said.code == 0
    _, _, examples = said.stdout.partition("Examples:\n")
    assert f"acmeca {verb}" in examples or f" {verb} " in examples
    assert "\b" not in said.stdout
    for line in examples.splitlines():
        assert line.startswith("    "), "examples are not folded"


@pytest.mark.parametrize("verb", ["verify", "export", "heads"])
def test_the_help_of_each_verb_of_the_audit(acmeca: Acmeca, verb: str) -> None:
    said = acmeca(None, "audit", verb, "--help")
    assert said.code == 0
    assert f"acmeca audit {verb}" in said.stdout.partition("Examples:\n")[2]


@pytest.mark.parametrize("verb", VERBS)
def test_the_overview_says_what_each_verb_does(acmeca: Acmeca, verb: str) -> None:
    said = acmeca(None, "--help")
    (line,) = [line for line in said.stdout.splitlines() if line.strip().startswith(f"{verb} ")]
    assert line.endswith("."), "a text that is cut is no text"
    assert not line.endswith("...")


def test_the_version(acmeca: Acmeca) -> None:
    assert acmeca(None, "--version").stdout == f"acmeca, version {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("explode",),
        ("list", "--colour"),
        ("list", "--limit", "0"),
        ("list", "--limit", "10001"),
        ("list", "--status", "lost"),
        ("list", "--expires-within", "soon"),
        ("show",),
        ("show", "01", "02"),
        ("show", "01", "--pem", "--json"),
        ("revoke", "01", "--reason", "certificateHold", "--yes"),
        ("crl", "--output", "x.crl"),
        ("crl", "--pem"),
        ("crl", "--issuer", "x", "--output", "x.crl", "--json"),
        ("serve", "--log-level", "loud"),
    ],
)
def test_a_wrong_use_is_exit_2(acmeca: Acmeca, stopped: Installation, arguments: tuple[str, ...]) -> None:
    said = acmeca(stopped, *arguments)
    assert said.code == 2
    assert said.stdout == ""
    assert "Error: " in said.stderr
    assert "Usage: acmeca" in said.stderr


def test_a_configuration_that_is_not_there(acmeca: Acmeca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = acmeca(tmp_path / "acmeca.toml", "list")
    assert said.code == 1
    assert "cannot be read: No such file or directory" in said.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACMECA_CONFIG", raising=False)
    if not Path("/etc/acmeca/acmeca.toml").exists():
        assert "make one with: acmeca init" in acmeca(None, "list").stderr


def test_mistakes_in_the_configuration_are_a_line_each(acmeca: Acmeca, stopped: Installation) -> None:
    stopped.config_path.write_text("[server]\nbase_url = 'x'\n")
    said = acmeca(stopped, "list")
    assert said.code == 1
    assert said.stderr.startswith(f"acmeca: {stopped.config_path}: 3 to mend:\n  server.base_url: got ")
    assert len(said.stderr.splitlines()) == 5


def test_no_ca_yet(acmeca: Acmeca, stopped: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACMECA_SERVER__DATA_DIR", str(tmp_path / "elsewhere"))
    said = acmeca(stopped, "list")
    assert (said.code, said.stdout) == (1, "")
    assert said.stderr == f"acmeca: there is no CA in {tmp_path / 'elsewhere'}; make one with: acmeca init\n"
    assert not (tmp_path / "elsewhere").exists()


def test_a_failure_of_the_system_is_one_line(acmeca: Acmeca, stopped: Installation, tmp_path: Path) -> None:
    said = acmeca(stopped, "crl", "--issuer", _root_id(stopped), "--output", str(tmp_path / "no" / "such" / "x.crl"))
    assert said.code == 1
    assert said.stderr.count("\n") == 1
    assert "No such file or directory" in said.stderr


def _root_id(installation: Installation) -> str:
    (path,) = (installation.data_dir / "root").iterdir()
    return path.name.removesuffix(".key.pem")


@pytest.fixture
def readable_directory() -> Iterator[Path]:
    """A directory that every user may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_another_user(installation: Installation, public: Path, private: Path, *verb: str) -> Finished:
    """Run a verb as a user who may read the configuration and not the data directory."""
    data_dir = installation.data_dir
    if os.getuid() != 0:
        (private / "hidden").mkdir(mode=0)
        data_dir = private / "hidden" / "ca"
    config = public / "acmeca.toml"
    config.write_text(installation.config_path.read_text().replace('"ca"', f'"{data_dir}"'))
    config.chmod(0o644)
    command = [sys.executable, "-c", AS_NOBODY, "--config", str(config), *verb]
    return run(command, env=clean_environment(PYTHONPATH=str(CHECKOUT)), code=1, cwd=public)


def test_the_ca_of_another_user(running: Installation, readable_directory: Path, tmp_path: Path) -> None:
    said = as_another_user(running, readable_directory, tmp_path, "list")
    assert said.stdout == ""
    assert said.stderr.startswith("acmeca: ")
    assert said.stderr.endswith("run this as the user that the server runs as\n")
    assert "belongs to another user" in said.stderr


def test_the_doctor_says_when_it_is_the_wrong_user(
    running: Installation, readable_directory: Path, tmp_path: Path
) -> None:
    said = as_another_user(running, readable_directory, tmp_path, "doctor")
    assert said.stderr == ""
    assert "cannot be looked at: Permission denied" in said.stdout
    assert "Run doctor as the server's user" in said.stdout


def test_a_reader_that_goes_away_is_no_failure_to_tell(stopped: Installation) -> None:
    """`acmeca list | head`."""
    issue(stopped, "www.localhost")
    command = [sys.executable, "-P", "-m", "acmeca", "--config", str(stopped.config_path), "list"]
    process = subprocess.Popen(
        command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=stopped.directory
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        said = process.stderr.read()
    assert process.wait(30) == 1
    assert said == b""


def test_ctrl_c_is_quiet(stopped: Installation) -> None:
    serial = issue(stopped, "www.localhost")
    command = [sys.executable, "-P", "-m", "acmeca", "--config", str(stopped.config_path), "revoke", serial]
    with on_terminal(command, env=clean_environment()) as terminal:
        terminal.expect("This cannot be undone [y/N]: ")
        assert terminal.interrupt() == 128 + signal.SIGINT
        assert "Traceback" not in terminal.output
        assert "Aborted" not in terminal.output


_COMMAND = re.compile(r"(?:`|^ {4,}|\n {4,})(?:sudo )?acmeca (?P<words>[a-z][a-z -]*)")

_NO_COMMAND = "`acmeca audit record "  # what a hash begins with


@pytest.mark.parametrize("path", sorted((CHECKOUT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_the_documents_name_commands_that_there_are(path: Path) -> None:
    """Every `acmeca VERB`, and the verb of a group behind it."""
    for match in _COMMAND.finditer(path.read_text(encoding="utf-8")):
        verb, *others = match["words"].split()
        if match[0] == _NO_COMMAND:
            continue
        command = cli.commands.get(verb)
        assert command is not None, match[0]
        if isinstance(command, click.Group) and others:
            assert others[0] in command.commands, match[0]
