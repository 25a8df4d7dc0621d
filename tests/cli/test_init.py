"""`acmeca init` (cli/init.py): questions, options, what is written and when, and what is left when it is killed."""

import json
import os
import signal
import sqlite3
import stat
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography import x509

from acmeca.config import load_config
from tests.cli.conftest import Acmeca, issue
from tests.support.installations import CHECKOUT, Installation, make_installation
from tests.support.processes import clean_environment, run
from tests.support.terminal import on_terminal

OPTIONS = (
    *("--base-url", "https://ca.corp.internal:8443"),
    *("--status-url", "http://ca.corp.internal:8080"),
    *("--allow", "*.corp.internal", "--allow", "vpn.example.com"),
)


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a directory with its mode, but for the index of the database's log."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def issuers(database: Path) -> int:
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    ((count,),) = connection.execute("SELECT COUNT(*) FROM issuers").fetchall()
    connection.close()
    return int(count)


# --- options ------------------------------------------------------------------------------------------------------


def test_options_make_a_configuration_and_a_ca(acmeca: Acmeca, tmp_path: Path) -> None:
    path, data_dir = tmp_path / "acmeca.toml", tmp_path / "ca"
    said = acmeca(
        path,
        "init",
        *OPTIONS,
        "--data-dir",
        str(data_dir),
        "--organization",
        "Example [x]",
        "--common-name",
        "Example :CD:",
    )
    assert (said.code, said.stderr) == (0, "")
    config = load_config(path, {})
    assert config.policy.allowed_names == ("*.corp.internal", "vpn.example.com")
    root = x509.load_pem_x509_certificate((data_dir / "root.pem").read_bytes())
    assert root.signature_hash_algorithm is not None
    told = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in said.stdout.splitlines() if "  " in line}
    assert told["SHA-256"] == root.fingerprint(root.signature_hash_algorithm).hex(":").upper()
    assert told["Root"] == root.subject.rfc4514_string() == "CN=Example :CD: Root,O=Example [x]"
    assert Path(told["Certificate"]) == data_dir / "root.pem"
    assert Path(told["Root key"]).is_file()
    assert f"Wrote {path}\n" in said.stdout
    assert json.loads(acmeca(path, "list", "--json").stdout)["certificates"] == []


def test_what_is_secret_is_its_owners_alone(stopped: Installation) -> None:
    """RULES §6: private keys in files of mode 0600."""
    assert stat.S_IMODE(stopped.data_dir.stat().st_mode) == 0o700
    for path in stopped.data_dir.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o644 if path.name == "root.pem" else 0o600), path


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_umask_makes_no_difference_to_keys(acmeca: Acmeca, tmp_path: Path, umask: int) -> None:
    if umask == 0o777 and os.getuid() != 0:
        pytest.skip("nobody but root can work in a directory of mode 0")
    previous = os.umask(umask)
    try:
        assert acmeca(tmp_path / "acmeca.toml", "init", *OPTIONS, "--data-dir", str(tmp_path / "ca")).code == 0
    finally:
        os.umask(previous)
    keys = [*(tmp_path / "ca" / "keys").iterdir(), *(tmp_path / "ca" / "root").iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_without_a_terminal_every_missing_option_is_named(acmeca: Acmeca, tmp_path: Path) -> None:
    path = tmp_path / "acmeca.toml"
    said = acmeca(path, "init", "--data-dir", str(tmp_path / "ca"))
    assert said.code == 2
    for option in (
        "server.base_url (--base-url)",
        "server.status_url (--status-url)",
        "policy.allowed_names (--allow)",
    ):
        assert option in said.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--base-url", "http://ca.corp.internal", "server.base_url"),
        ("--status-url", "https://ca.corp.internal", "in a circle"),
        ("--allow", "*.com", "public top-level domain"),
        ("--organization", "", "1 to 64 characters"),
        ("--common-name", "x" * 49, "1 to 48 characters"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_written(
    acmeca: Acmeca, tmp_path: Path, option: str, value: str, told: str
) -> None:
    path = tmp_path / "acmeca.toml"
    said = acmeca(path, "init", *OPTIONS, "--data-dir", str(tmp_path / "ca"), option, value)
    assert (said.code, said.stdout) == (1, "")
    assert told in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_environment_answers_too(acmeca: Acmeca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "acmeca.toml"
    monkeypatch.setenv("ACMECA_CONFIG", str(path))
    monkeypatch.setenv("ACMECA_SERVER__STATUS_URL", "http://status.corp.internal")
    monkeypatch.setenv("ACMECA_SERVER__DATA_DIR", str(tmp_path / "ca"))
    assert acmeca(None, "init", *OPTIONS[:2], *OPTIONS[4:]).code == 0
    assert "status_url" not in path.read_text()
    crl = json.loads(acmeca(None, "crl", "--json").stdout)["crls"][0]
    assert crl["url"].startswith("http://status.corp.internal/crl/")


# --- an existing configuration --------------------------------------------------------------------------------------

WRITTEN = """\
# Ours. Ask Jo before you change it.

[policy]  # who may have what
allowed_names = [
  "*.corp.internal",  # the old net
]

[server]
base_url = "https://ca.corp.internal"   # behind the proxy
data_dir = "ca"
"""


def test_what_a_person_wrote_stays_as_it_was(acmeca: Acmeca, tmp_path: Path) -> None:
    """Rule 3."""
    path = tmp_path / "acmeca.toml"
    path.write_text(WRITTEN)
    path.chmod(0o640)
    assert acmeca(path, "init", "--status-url", "http://ca.corp.internal").code == 0
    text = path.read_text()
    assert text == WRITTEN + 'status_url = "http://ca.corp.internal"\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_configuration_that_says_everything_is_not_written(acmeca: Acmeca, tmp_path: Path) -> None:
    installation = make_installation(tmp_path / "ca")
    before = installation.config_path.stat()
    said = acmeca(installation, "init")
    assert said.code == 0
    assert "Wrote" not in said.stdout
    assert installation.config_path.stat().st_mtime_ns == before.st_mtime_ns
    assert installation.config_path.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[server\n", "is not TOML"),
        ("server = 5\n", "write a section, [server]"),
        ("policy = 'x'\n[server]\n", "write a section, [policy]"),
        (WRITTEN + "lifetime = '1d'\n", "it belongs in [policy]"),
    ],
)
def test_a_broken_configuration_stays_as_it_was(acmeca: Acmeca, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "acmeca.toml"
    path.write_text(text)
    said = acmeca(path, "init", *OPTIONS)
    assert said.code == 1
    assert told in said.stderr
    assert path.read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["acmeca.toml"]


# --- an existing CA ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), OPTIONS, ("--organization", "Other")], ids=["none", "all", "one"])
def test_a_second_init_changes_nothing(acmeca: Acmeca, stopped: Installation, options: tuple[str, ...]) -> None:
    """Rule 1: "A CA that is there is never touched, and neither is its configuration"."""
    before = contents(stopped.directory)
    said = acmeca(stopped, "init", *options)
    assert (said.code, said.stdout) == (1, "")
    assert said.stderr == f"acmeca: {stopped.data_dir} holds a CA already; nothing was changed\n"
    assert contents(stopped.directory) == before


def test_init_beside_a_running_server_changes_nothing(acmeca: Acmeca, running: Installation) -> None:
    before = running.config_path.read_bytes()
    said = acmeca(running, "init", *OPTIONS)
    assert said.code == 1
    assert "holds a CA already; nothing was changed" in said.stderr
    assert running.config_path.read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", ".bashrc", "keys"])
def test_a_directory_of_somebody_else_is_refused(acmeca: Acmeca, tmp_path: Path, name: str) -> None:
    installation = make_installation(tmp_path / "ca")
    installation.data_dir.mkdir()
    (installation.data_dir / name).write_text("mine")
    said = acmeca(installation, "init")
    assert said.code == 1
    assert f"holds files that are not acmeca's ({name}); choose an empty or a new directory" in said.stderr
    assert [entry.name for entry in installation.data_dir.iterdir()] == [name]


def test_a_data_dir_that_is_a_file(acmeca: Acmeca, tmp_path: Path) -> None:
    installation = make_installation(tmp_path / "ca")
    installation.data_dir.write_text("mine")
    said = acmeca(installation, "init")
    assert said.code == 1
    assert "is no directory" in said.stderr


def test_what_cannot_be_made_is_told_before_anything_is_written(acmeca: Acmeca, tmp_path: Path) -> None:
    path = tmp_path / "acmeca.toml"
    (tmp_path / "file").touch()
    said = acmeca(path, "init", *OPTIONS, "--data-dir", str(tmp_path / "file" / "ca"))
    assert (said.code, said.stderr) == (1, f"acmeca: {tmp_path / 'file' / 'ca'}: Not a directory\n")
    assert not path.exists()
    said = acmeca(tmp_path / "no" / "acmeca.toml", "init", *OPTIONS, "--data-dir", str(tmp_path / "ca"))
    assert said.code == 1
    assert "acmeca.toml cannot be written: No such file or directory; nothing was made" in said.stderr
    assert list((tmp_path / "ca").iterdir()) == []


def test_a_configuration_behind_a_link(acmeca: Acmeca, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link, real = tmp_path / "acmeca.toml", tmp_path / "real" / "ours.toml"
    real.write_text("# ours\n")
    link.symlink_to(real)
    assert acmeca(link, "init", *OPTIONS, "--data-dir", str(tmp_path / "ca")).code == 0
    assert link.is_symlink()
    assert real.read_text().startswith("# ours\n")


def test_an_empty_directory_is_good(acmeca: Acmeca, tmp_path: Path) -> None:
    """One that was made for us, also as a file system of its own, and also with the configuration in it."""
    path = tmp_path / "acmeca.toml"
    (tmp_path / "lost+found").mkdir()
    assert acmeca(path, "init", *OPTIONS, "--data-dir", str(tmp_path)).code == 0
    assert (tmp_path / "acmeca.db").exists()


# --- questions ----------------------------------------------------------------------------------------------------


def command(path: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "acmeca", "--config", str(path), "init", *arguments]


def test_questions_on_a_terminal(tmp_path: Path) -> None:
    """What the configuration does not say is asked; a wrong answer is asked again, with what is allowed."""
    path, data_dir = tmp_path / "acmeca.toml", tmp_path / "ca"
    with on_terminal(command(path), env=clean_environment()) as terminal:
        terminal.expect("ACME clients reach this server at")
        terminal.type("http://ca.corp.internal")
        terminal.expect("Error: RFC 8555")
        terminal.expect("ACME clients reach this server at")
        terminal.type("https://CA.corp.internal:8443")
        terminal.expect("OCSP and CRLs are at")
        terminal.type("https://ca.corp.internal")
        terminal.expect("in a circle")
        terminal.expect("OCSP and CRLs are at")
        terminal.type("http://ca.corp.internal:8080")
        terminal.expect("Names to issue for")
        terminal.type("*.com")
        terminal.expect("public top-level domain")
        terminal.expect("Names to issue for")
        terminal.type("*.corp.internal vpn.example.com")
        terminal.expect("Keys and database go to [/var/lib/acmeca]:")
        assert not path.exists(), "nothing is written before everything is known"
        terminal.type(str(data_dir))
        terminal.expect("The O= of the CA; it never changes [Internal]:")
        terminal.type("Example")
        terminal.expect("The CN= of the CA; it never changes [Internal CA]:")
        terminal.type("")
        terminal.expect("SHA-256")
        assert terminal.wait() == 0, terminal.output
    config = load_config(path, {})
    assert config.server.base_url == "https://ca.corp.internal:8443"
    assert config.policy.allowed_names == ("*.corp.internal", "vpn.example.com")
    assert (config.ca.organization, config.ca.common_name) == ("Example", "Internal CA")
    assert config.server.data_dir == data_dir
    assert path.read_text().startswith("# acmeca's configuration.")
    assert issuers(data_dir / "acmeca.db") == 2


def test_only_what_is_open_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "acmeca.toml"
    path.write_text(WRITTEN)
    with on_terminal(command(path), env=clean_environment()) as terminal:
        before = terminal.expect("OCSP and CRLs are at")
        assert "ACME clients reach" not in before
        terminal.type("http://ca.corp.internal")
        after = terminal.expect("SHA-256")
        assert "Names to issue for" not in after
        assert terminal.wait() == 0
    assert tomllib.loads(path.read_text())["server"]["status_url"] == "http://ca.corp.internal"


def test_ctrl_c_at_a_question_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "acmeca.toml"
    with on_terminal(command(path), env=clean_environment()) as terminal:
        terminal.expect("ACME clients reach this server at")
        assert terminal.interrupt() == 128 + signal.SIGINT
        assert "Traceback" not in terminal.output
    assert list(tmp_path.iterdir()) == []


# --- killed in the middle -----------------------------------------------------------------------------------------

# Runs `acmeca init` once for each point, each in a process of its own that is killed there: before or after a call of a
# function. Prints the status of each.
KILLED_AT = """
import importlib, json, os, signal, sys
from acmeca.cli.main import run

def kill_at(module, name, when):
    owner = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, last)
    calls = 0

    def die(*args, **keywords):
        nonlocal calls
        calls += 1
        if when == f"before {calls}":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **keywords)
        if when == f"after {calls}":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, die)

statuses = []
for number, point in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.chdir(str(number))
        kill_at(*point)
        os._exit(run(sys.argv[2:]))
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(statuses))
"""
COMMAND = ("init", *OPTIONS, "--data-dir", "ca")

POINTS = [
    ("acmeca.keystore.pem", "os.fsync", "before 1"),  # the configuration is written, and not in its place
    ("acmeca.cli.init", "write_durably", "after 1"),  # the configuration is in its place
    ("acmeca.storage.lock", "fcntl.flock", "after 1"),  # the data directory is there, and locked
    ("acmeca.storage.sqlite", "_prepare_writer", "before 1"),  # the database is a file of no length
    ("acmeca.storage.sqlite", "migrate", "after 1"),  # its tables are there
    ("acmeca.service.issuers", "pem.write_key", "after 1"),  # the root's key
    ("acmeca.keystore.pem", "Path.replace", "before 3"),  # the intermediate's key, not in its place
    ("acmeca.service.issuers", "pem.write_key", "after 2"),  # both keys, and no rows
    ("acmeca.storage.sqlite", "_Committer.commit", "after 1"),  # this process is known as a writer
    ("acmeca.storage.sqlite", "_Committer.commit", "before 2"),
    ("acmeca.storage.journal", "os.fdatasync", "after 2"),  # the rows are journalled (1: its first line), and not there
    ("acmeca.storage.sqlite", "_Committer.commit", "after 2"),  # the rows are there, and with them the CA
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for each point with what was left there, by the point's number."""
    directory = tmp_path_factory.mktemp("killed")
    for number in range(len(POINTS)):
        (directory / str(number)).mkdir()
    code = [sys.executable, "-c", KILLED_AT, json.dumps(POINTS), "--config", "acmeca.toml", *COMMAND]
    done = run(code, env=clean_environment(PYTHONPATH=str(CHECKOUT)), cwd=directory)
    assert json.loads(done.stdout.splitlines()[-1]) == [-signal.SIGKILL] * len(POINTS), done
    return directory


@pytest.mark.parametrize("number", range(len(POINTS)), ids=[f"{name} {when}" for _, name, when in POINTS])
def test_what_a_killed_init_left_is_finished_by_another(
    acmeca: Acmeca, killed: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Rule 2. Once the rows are there, so is the hierarchy, and a second `init` says so."""
    directory = killed / str(number)
    monkeypatch.chdir(directory)
    path, database = directory / "acmeca.toml", directory / "ca" / "acmeca.db"
    is_made = number == len(POINTS) - 1
    assert (acmeca(path, "list").code == 1) is (not database.exists())
    said = acmeca(path, *COMMAND)
    assert said.code == (1 if is_made else 0), said.stderr
    assert ("holds a CA already" in said.stderr) is is_made
    assert issuers(database) == 2
    assert issue(Installation(directory, 0, 0, 0, 0), "www.corp.internal")
