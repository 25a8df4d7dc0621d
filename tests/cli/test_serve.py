"""`acmeca serve` (cli/serve.py), as a process: its starts, its ends, and what it leaves."""

import json
import signal
import socket
import stat
from pathlib import Path

from acmeca.storage.lock import StoreLock
from tests.cli.conftest import Acmeca, issue
from tests.support.installations import Installation, make_installation
from tests.support.processes import Process, clean_environment


def files_of(installation: Installation) -> dict[str, bytes]:
    """The data directory without what a database, its journal, the audit's signed heads and a lock keep for themselves."""
    kept = ("acmeca.db", "acmeca.lock", "audit-heads")
    return {
        str(path.relative_to(installation.data_dir)): path.read_bytes()
        for path in installation.data_dir.rglob("*")
        if path.is_file() and not path.name.startswith(kept) and path.suffix != ".journal"
    }


def test_a_second_start_with_init_changes_nothing(acmeca: Acmeca, tmp_path: Path) -> None:
    """`serve --init` makes a CA once. The next start finds keys, listener and responder fresh and uses them."""
    installation = make_installation(tmp_path / "ca")
    with installation.serve("--init") as server:
        assert "Made a new CA in " in server.output
        server.wait_for_line(r"^SHA-256 +([0-9A-F]{2}:){31}[0-9A-F]{2}$")
        server.wait_for_line(r"REQUESTS_CA_BUNDLE=\S+/root\.pem certbot certonly ")
        assert server.terminate() == 0
        assert server.output.endswith("Stopped.\n")
    before, config = files_of(installation), installation.config_path.read_bytes()
    issued = acmeca(installation, "list", "--json").stdout
    with installation.serve("--init") as server:
        assert "Made a new CA" not in server.output
        assert "issued the" not in server.output
        server.send(signal.SIGINT)
        assert server.wait() == 0
    assert files_of(installation) == before
    assert installation.config_path.read_bytes() == config
    assert acmeca(installation, "list", "--json").stdout == issued
    assert not installation.socket_path.exists()


def test_what_a_killed_server_left_disturbs_nobody(acmeca: Acmeca, stopped: Installation) -> None:
    with stopped.serve() as server:
        assert stat.S_IMODE(stopped.socket_path.stat().st_mode) == 0o600
        server.kill()
    assert stopped.socket_path.exists()
    said = acmeca(stopped, "list")
    assert said.code == 0
    assert "(listener)" in said.stdout
    serial = issue(stopped, "www.localhost")
    assert acmeca(stopped, "revoke", serial, "--yes").code == 0
    with stopped.serve():
        assert json.loads(acmeca(stopped, "show", serial, "--json").stdout)["status"] == "revoked"


def test_one_server_for_one_directory(running: Installation, tmp_path: Path) -> None:
    other = make_installation(tmp_path / "other")
    other.config_path.write_text(other.config_path.read_text().replace('"ca"', f'"{running.data_dir}"'))
    said = other.cli("serve", "--init", code=1)
    assert said.stdout == ""
    assert said.stderr.startswith(f"acmeca: {running.data_dir} is in use by process ")
    assert said.stderr.count("\n") == 1


def test_no_ca_yet(tmp_path: Path) -> None:
    installation = make_installation(tmp_path / "ca")
    said = installation.cli("serve", code=1)
    assert said.stderr == f"acmeca: there is no CA in {installation.data_dir}; make one with: acmeca init\n"
    assert not installation.data_dir.exists()


def test_a_directory_of_somebody_else_is_refused(acmeca: Acmeca, tmp_path: Path) -> None:
    installation = make_installation(tmp_path / "ca")
    installation.data_dir.mkdir()
    (installation.data_dir / "notes.txt").touch()
    said = acmeca(installation, "serve", "--init")
    assert said.code == 1
    assert "holds files that are not acmeca's (notes.txt)" in said.stderr
    assert [path.name for path in installation.data_dir.iterdir()] == ["notes.txt"]


def test_a_port_that_is_taken_is_one_line(stopped: Installation) -> None:
    with socket.create_server(("127.0.0.1", stopped.acme_port)):
        said = stopped.cli("serve", "--log-level", "error", code=1)
    assert said.stderr == (
        f"acmeca: localhost:{stopped.acme_port} cannot be bound: Address already in use; "
        "choose another port in the configuration, or stop what uses it\n"
    )


def test_a_command_at_the_same_time_as_a_start(acmeca: Acmeca, stopped: Installation) -> None:
    """The command is given at once, without waiting for "Ready.": whoever comes first, the command has its answer."""
    with Process(stopped._command("serve"), env=clean_environment(), cwd=stopped.directory) as process:
        process.wait_for_line("issued the ocsp-responder")  # it has the lock, and no socket yet
        assert acmeca(stopped, "crl").code == 0
        process.wait_for_line(r"^Ready\.")


def test_a_start_waits_for_a_command_that_has_the_lock(stopped: Installation) -> None:
    lock = StoreLock(stopped.data_dir)
    lock.acquire()
    with Process(
        stopped._command("serve", "--log-level", "debug"), env=clean_environment(), cwd=stopped.directory
    ) as process:
        process.wait_for_line("waiting: .* is in use by process")
        lock.release()
        process.wait_for_line(r"^Ready\.")
