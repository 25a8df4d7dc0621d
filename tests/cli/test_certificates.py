"""list, show and revoke, against a server that runs and against a store that nobody serves."""

import asyncio
import json
import os
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509

from acmeca.cli import certificates, connection
from acmeca.config import load_config
from acmeca.storage.lock import StoreLock
from acmeca.web.control import user_name
from tests.cli.conftest import Acmeca, issue
from tests.support.installations import Installation
from tests.support.processes import clean_environment
from tests.support.terminal import on_terminal


@pytest.fixture
def serial(ca: Installation, acmeca: Acmeca) -> str:
    """A certificate that every test may look at and none may revoke."""
    (found,) = json.loads(acmeca(ca, "list", "--name", "first.localhost", "--json").stdout)["certificates"]
    return str(found["serial"])


# --- list ---------------------------------------------------------------------------------------------------------


def test_list_gives_a_line_for_each_certificate_that_begins_with_its_serial(
    ca: Installation, acmeca: Acmeca, serial: str
) -> None:
    said = acmeca(ca, "list", "--name", "*.localhost")
    assert (said.code, said.stderr) == (0, "")
    heading, row = said.stdout.splitlines()
    assert heading.split() == ["serial", "status", "expires", "days", "names"]
    assert row.split()[:2] == [serial, "valid"]
    assert row.split()[3:] == ["89", "first.localhost"]


def test_list_finds_nothing(ca: Installation, acmeca: Acmeca) -> None:
    said = acmeca(ca, "list", "--name", "nobody.localhost")
    assert (said.code, said.stdout, said.stderr) == (0, "", "No certificate fits.\n")
    assert json.loads(acmeca(ca, "list", "--name", "nobody.localhost", "--json").stdout) == {
        "certificates": [],
        "is_cut": False,
    }


def test_list_of_what_ends_soon(ca: Installation, acmeca: Acmeca, serial: str) -> None:
    assert serial in acmeca(ca, "list", "--expires-within", "90d").stdout
    assert serial not in acmeca(ca, "list", "--expires-within", "80d").stdout


def test_list_says_when_there_is_more(stopped: Installation, acmeca: Acmeca) -> None:
    for name in ("a.localhost", "b.localhost"):
        issue(stopped, name)
    said = acmeca(stopped, "list", "--limit", "1")
    assert len(said.stdout.splitlines()) == 2
    assert said.stderr == "More than 1 fit; narrow the search or raise --limit.\n"


def test_list_on_a_terminal_keeps_serials_whole(running: Installation) -> None:
    command = [sys.executable, "-P", "-m", "acmeca", "--config", str(running.config_path), "list"]
    with on_terminal(command, env=clean_environment(), columns=40) as terminal:
        assert terminal.wait() == 0
    rows = [line.split() for line in terminal.output.splitlines()[1:] if not line.startswith(" ")]
    assert {len(row[0]) for row in rows} == {34}


# --- show ---------------------------------------------------------------------------------------------------------


def test_show_tells_everything(ca: Installation, acmeca: Acmeca, serial: str) -> None:
    colons = ":".join(serial[place : place + 2] for place in range(0, len(serial), 2)).upper()
    said = acmeca(ca, "show", colons)
    assert said.code == 0
    told = dict(line.split("  ", 1) for line in said.stdout.splitlines())
    told = {name.strip(): value.strip() for name, value in told.items()}
    certificate = x509.load_pem_x509_certificate(acmeca(ca, "show", serial, "--pem").stdout.encode())
    assert told["serial"] == serial
    assert told["names"] == "first.localhost"
    assert told["status"] == "valid"
    assert told["issuer"] == certificate.issuer.rfc4514_string()
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert {told["OCSP"], told["issuer certificate"]} == {item.access_location.value for item in access}
    assert told["CRL"].startswith(f"{ca.status_url}/crl/")
    assert certificate.signature_hash_algorithm is not None
    assert told["SHA-256"] == certificate.fingerprint(certificate.signature_hash_algorithm).hex(":").upper()


def test_show_as_json_is_what_programs_read(ca: Installation, acmeca: Acmeca, serial: str) -> None:
    shown = json.loads(acmeca(ca, "show", serial, "--json").stdout)
    assert (shown["serial"], shown["status"], shown["revoked_at"]) == (serial, "valid", None)
    assert shown["pem"] == acmeca(ca, "show", serial, "--pem").stdout


@pytest.mark.parametrize(
    ("text", "told"), [("00ff", "was ever issued here; find it with: acmeca list"), ("xyz", "is no serial")]
)
@pytest.mark.parametrize("verb", [("show",), ("revoke", "--yes")], ids=lambda verb: verb[0])
def test_a_serial_that_is_none(ca: Installation, acmeca: Acmeca, verb: tuple[str, ...], text: str, told: str) -> None:
    said = acmeca(ca, *verb, text)
    assert (said.code, said.stdout) == (1, "")
    assert told in said.stderr
    assert said.stderr.count("\n") == 1


def test_a_certificate_that_was_never_signed_has_no_pem(stopped: Installation, acmeca: Acmeca) -> None:
    serial = issue(stopped, "www.localhost")
    database = sqlite3.connect(stopped.database_path)
    with database:
        database.execute("UPDATE certificates SET signature = NULL, issued_at = NULL")
    database.close()
    assert acmeca(stopped, "show", serial).code == 0
    said = acmeca(stopped, "show", serial, "--pem")
    assert (said.code, said.stdout) == (1, "")
    assert "recorded and never signed" in said.stderr


# --- revoke -------------------------------------------------------------------------------------------------------


def test_revoke_without_a_terminal_needs_yes(ca: Installation, acmeca: Acmeca, serial: str) -> None:
    said = acmeca(ca, "revoke", serial)
    assert (said.code, said.stdout) == (2, "")
    assert "nobody is here to ask whether to revoke it: add --yes when you are sure" in said.stderr
    assert json.loads(acmeca(ca, "show", serial, "--json").stdout)["status"] == "valid"


def test_revoke_with_a_stopped_server(stopped: Installation, acmeca: Acmeca) -> None:
    serial = issue(stopped, "www.localhost")
    said = acmeca(stopped, "revoke", serial.upper(), "--reason", "KEYCOMPROMISE", "--yes")
    assert (said.code, said.stderr) == (0, "")
    assert said.stdout.startswith(f"Revoked {serial} (www.localhost) at 20")
    assert "keyCompromise" in said.stdout
    (root, issuing) = json.loads(acmeca(stopped, "crl", "--json").stdout)["crls"]
    assert root["is_root"]
    assert f"CRL {issuing['number']} lists it" in said.stdout
    assert issuing["entries"] == 1
    again = acmeca(stopped, "revoke", serial, "--yes")
    assert (again.code, again.stdout) == (1, "")
    assert "revoked stays revoked" in again.stderr


def test_revoke_as_json(stopped: Installation, acmeca: Acmeca) -> None:
    serial = issue(stopped, "www.localhost")
    result = json.loads(acmeca(stopped, "revoke", serial, "--yes", "--json").stdout)
    assert (result["serial"], result["status"], result["reason"]) == (serial, "revoked", "unspecified")
    assert isinstance(result["crl_number"], int)


def test_revoke_says_when_the_crl_could_not_be_made(
    stopped: Installation, acmeca: Acmeca, monkeypatch: pytest.MonkeyPatch
) -> None:
    serial = issue(stopped, "www.localhost")
    original = certificates.run_operation
    monkeypatch.setattr(certificates, "run_operation", lambda *arguments: original(*arguments) | {"crl_number": None})
    said = acmeca(stopped, "revoke", serial, "--yes")
    assert said.code == 0
    assert said.stdout.startswith(f"Revoked {serial}")
    assert "CRL" not in said.stdout
    assert "The CRL could not be made now: the server tries again" in said.stderr


@pytest.mark.parametrize(("answer", "code", "status"), [("", 1, "valid"), ("y", 0, "revoked")])
def test_revoke_on_a_terminal_shows_what_it_is_about_to_do(
    stopped: Installation, acmeca: Acmeca, answer: str, code: int, status: str
) -> None:
    serial = issue(stopped, "www.localhost")
    command = [sys.executable, "-P", "-m", "acmeca", "--config", str(stopped.config_path), "revoke", serial]
    with on_terminal([*command, "--reason", "superseded"], env=clean_environment()) as terminal:
        shown = terminal.expect("Revoke it (superseded)? This cannot be undone [y/N]: ")
        assert serial in shown
        assert "www.localhost" in shown
        terminal.type(answer)
        assert terminal.wait() == code
    assert json.loads(acmeca(stopped, "show", serial, "--json").stdout)["status"] == status


def test_the_audit_names_the_user_of_the_operating_system(stopped: Installation, acmeca: Acmeca) -> None:
    serial = issue(stopped, "www.localhost")
    acmeca(stopped, "revoke", serial, "--yes")
    database = sqlite3.connect(f"{stopped.database_path.as_uri()}?mode=ro", uri=True)
    ((actor,),) = database.execute("SELECT actor FROM audit WHERE kind = 'certificate.revoked'").fetchall()
    database.close()
    assert actor == f"admin:{user_name(os.getuid())}"


# --- reaching it --------------------------------------------------------------------------------------------------


def test_a_lock_without_a_socket_is_waited_for(
    stopped: Installation, acmeca: Acmeca, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 3 of connection.py: another command, or a server that starts or stops."""
    issue(stopped, "www.localhost")
    lock = StoreLock(stopped.data_dir)
    lock.acquire()
    tried = threading.Event()
    original = connection.is_answered

    async def look(path: Path) -> bool:
        answered = await original(path)
        if tried.is_set():
            lock.release()
        tried.set()
        return answered

    monkeypatch.setattr(connection, "is_answered", look)
    said = acmeca(stopped, "list")
    assert said.code == 0
    assert "www.localhost" in said.stdout


def test_a_lock_that_stays_is_told(stopped: Installation, acmeca: Acmeca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.1)
    with StoreLock(stopped.data_dir):
        said = acmeca(stopped, "list")
    assert said.code == 1
    assert said.stderr.startswith("acmeca: process ")
    assert "starting or stopping, or another command; try again when it is done" in said.stderr


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n[]"]
)
def test_a_server_that_speaks_nonsense(stopped: Installation, acmeca: Acmeca, answer: bytes) -> None:
    """Whoever listens there: the command says so in a line."""
    ready, done = threading.Event(), threading.Event()

    async def serve() -> None:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(answer)
            writer.close()

        listener = await asyncio.start_unix_server(speak, stopped.socket_path)
        ready.set()
        async with listener:
            await asyncio.to_thread(done.wait, 30)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        said = acmeca(stopped, "list")
    finally:
        done.set()
        thread.join(30)
    assert said.code == 1
    assert said.stderr.startswith("acmeca: the running server ")
    assert load_config(stopped.config_path, {}).server.data_dir == stopped.data_dir
