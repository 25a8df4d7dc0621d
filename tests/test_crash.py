"""What a crash leaves: the server is killed at every step that matters, started again, and looked at from all sides.

Rule 1: after each crash everything in `check` holds: no signature without its record, no serial twice, no certificate without
its audit records, no order without an end, and what a client holds is what the store holds.
Rule 2: the client (`PersistentClient`) never gives up. Whatever the moment, it gets its certificate or is told why not.
Rule 3: a test that kills proves that the process died at that step (exit code -9), so a step that moved makes it fail.
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from acmeca import app
from acmeca.config import Config, load_config
from acmeca.errors import Conflict
from acmeca.keystore.pem import load_key
from acmeca.pki.signing import assemble_signed, certificate_from_tbs
from acmeca.storage import audit as audit_storage
from acmeca.storage.lock import StoreLock
from tests.support import jose
from tests.support.crash_server import FULL_DISK, CrashServer, Plan, crash_server, noun_of
from tests.support.http_peer import Connection, HttpPeer, http_peer
from tests.support.installations import Installation, make_installation, short_directory
from tests.support.persistent_client import Board, Obtained, PersistentClient, client_session

T = TypeVar("T")

KILLED: Final = -signal.SIGKILL
PATIENCE: Final = 30.0  # seconds in which a client has to be done

CRASHES: Final = int(os.environ.get("ACMECA_CRASHES", "25"))
SEED: Final = int(os.environ.get("ACMECA_CRASH_SEED", "8555"))


# --- the stage ----------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """One CA with its data, and what its servers have signed so far."""

    installation: Installation
    starts: int = 0

    @property
    def config(self) -> Config:
        return load_config(self.installation.config_path, {})

    @property
    def journal_path(self) -> Path:
        return self.installation.directory / "journal"

    @property
    def log_of_database(self) -> Path:
        return Path(f"{self.installation.database_path}-wal")

    def plan(self, **options: Any) -> Plan:
        self.starts += 1
        options.setdefault("journal_path", self.journal_path)
        return Plan(
            config_path=self.installation.config_path,
            log_path=self.installation.directory / f"log.{self.starts}",
            **options,
        )

    def journal(self) -> list[bytes]:
        """Every to-be-signed value that the issuer's key was given, in order."""
        if not self.journal_path.exists():
            return []
        return [bytes.fromhex(line) for line in self.journal_path.read_text().splitlines()]

    def rows(self, sql: str, *args: object) -> list[dict[str, Any]]:
        """Straight from the file, beside acmeca's own code."""
        with closing(sqlite3.connect(self.installation.database_path)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, args).fetchall()]


@pytest.fixture(scope="session")
def template() -> Iterator[Installation]:
    """A CA that has run once, so that its own certificates and its first CRL are there; copied for each test."""
    with short_directory() as directory:
        stage = Stage(make_installation(directory))
        asyncio.run(app.init(stage.config, actor="system"))
        with crash_server(stage.plan(journal_path=None)) as server:
            assert server.terminate() == 0
        yield stage.installation


@pytest.fixture
def stage(template: Installation) -> Iterator[Stage]:
    with short_directory() as directory:
        shutil.copytree(template.directory, directory, dirs_exist_ok=True)
        yield Stage(replace(template, directory=directory))


@pytest.fixture
def empty_stage() -> Iterator[Stage]:
    """A configuration, and no CA."""
    with short_directory() as directory:
        yield Stage(make_installation(directory))


@dataclass
class Client:
    """A client with what it needs around it."""

    session: aiohttp.ClientSession
    board: Board
    peer: HttpPeer
    installation: Installation
    tasks: list["asyncio.Task[Any]"] = field(default_factory=list)

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run beside the test; whatever is left at its end is cancelled."""
        task = asyncio.create_task(work)
        self.tasks.append(task)
        return task

    def account(self, seconds: float = PATIENCE) -> PersistentClient:
        return PersistentClient(
            self.session, self.installation.directory_url, self.board, deadline=time.monotonic() + seconds
        )


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[Client]:
    board = Board()
    async with (
        http_peer(board.script, port=stage.installation.http_port) as peer,
        client_session(stage.installation.root_path.read_bytes()) as session,
    ):
        client = Client(session, board, peer, stage.installation)
        try:
            yield client
        finally:
            for task in client.tasks:
                task.cancel()
            await asyncio.gather(*client.tasks, return_exceptions=True)


@asynccontextmanager
async def served(plan: Plan) -> AsyncIterator[CrashServer]:
    """A server, started and ended without holding the event loop up."""
    context = crash_server(plan)
    server = await asyncio.to_thread(context.__enter__)
    try:
        yield server
    except BaseException as error:
        error.add_note(f"the server said:\n{server.log}")
        raise
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def until(condition: Callable[[], object], *, what: str) -> None:
    """Look every twentieth of a second until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not so after {PATIENCE:g} s"
        await asyncio.sleep(0.05)


async def stopped(server: CrashServer) -> None:
    assert await asyncio.to_thread(server.terminate) == 0, server.log


# --- what has to hold ---------------------------------------------------------------------------------------------


async def check(stage: Stage, obtained: Sequence[Obtained] = ()) -> None:
    """Every rule that a crash must not break; the server has stopped."""
    async with app.opened_store(stage.config) as store:  # which also proves that the lock was let go
        assert await audit_storage.verify(store.database) == []
    certificates = {row["serial"]: row for row in stage.rows("SELECT * FROM certificates")}
    _check_journal(stage, certificates)
    _check_audit(stage, certificates)
    _check_orders(stage, certificates)
    serials = [item.serial for item in obtained]
    assert len(serials) == len(set(serials))
    for item in obtained:
        assert _der(certificates[item.serial]) == item.certificate.public_bytes(Encoding.DER)


def _check_journal(stage: Stage, certificates: dict[str, dict[str, Any]]) -> None:
    """RULES §4: what was signed was recorded before, byte for byte; RULES §5: CRL numbers rise and never come twice."""
    numbers: list[int] = []
    for tbs in stage.journal():
        if noun_of(tbs) == "crl":
            crl = x509.load_der_x509_crl(_with_a_signature(tbs))
            numbers.append(crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
        else:
            serial = _serial(x509.load_der_x509_certificate(_with_a_signature(tbs)))
            assert certificates[serial]["tbs"] == tbs
    assert numbers == sorted(set(numbers))
    begun = [row["number"] for row in stage.rows("SELECT number FROM crls ORDER BY number")]
    assert all(number in begun or number < begun[-1] for number in numbers)


def _check_audit(stage: Stage, certificates: dict[str, dict[str, Any]]) -> None:
    """RULES §6: no certificate without its audit records, and no record of a certificate that is not there."""
    recorded, issued = (
        [json.loads(row["event"]) for row in stage.rows("SELECT event FROM audit WHERE kind = ?", kind)]
        for kind in ("certificate.recorded", "certificate.issued")
    )
    assert sorted(event["serial_hex"] for event in recorded) == sorted(certificates)
    for event in recorded:
        assert event["tbs_sha256"] == hashlib.sha256(certificates[event["serial_hex"]]["tbs"]).hexdigest()
    signed = {serial: row for serial, row in certificates.items() if row["signature"] is not None}
    assert sorted(event["serial_hex"] for event in issued) == sorted(signed)
    for event in issued:
        assert event["sha256"] == hashlib.sha256(_der(signed[event["serial_hex"]])).hexdigest()
    issuers = {
        row["id"]: x509.load_der_x509_certificate(row["certificate"]) for row in stage.rows("SELECT * FROM issuers")
    }
    for row in signed.values():
        x509.load_der_x509_certificate(_der(row)).verify_directly_issued_by(issuers[row["issuer_id"]])


def _check_orders(stage: Stage, certificates: dict[str, dict[str, Any]]) -> None:
    """No order is left half-way, and an order is valid exactly when its one certificate was signed."""
    by_order = {row["order_id"]: row for row in certificates.values() if row["order_id"] is not None}
    for order in stage.rows("SELECT * FROM orders"):
        certificate = by_order.get(order["id"])
        is_signed = certificate is not None and certificate["signature"] is not None
        assert order["status"] in {"pending", "ready", "valid", "invalid"}
        assert (order["status"] == "valid") == is_signed
        assert (order["certificate_id"] is not None) == is_signed
        if order["status"] == "invalid":
            assert order["error"] is not None
    for row in stage.rows("SELECT a.status FROM validation_jobs j JOIN authorizations a ON a.id = j.authorization_id"):
        assert row["status"] == "pending"


_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")


def _with_a_signature(tbs: bytes) -> bytes:
    """What is signed, wrapped so that the library can read it; the signature is none."""
    return assemble_signed(tbs, _ECDSA_SHA256, bytes(8))


def _der(row: dict[str, Any]) -> bytes:
    return certificate_from_tbs(row["tbs"], row["signature"])


def _serial(certificate: x509.Certificate) -> str:
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8).hex()


# --- a certificate ------------------------------------------------------------------------------------------------

STEPS_OF_AN_ORDER: Final = (
    "before commit of account",
    "after commit of account",
    "before commit of order",
    "after commit of order",
    "before commit of validation",
    "after commit of validation",
    "before commit of outcome",
    "after commit of outcome",
    "before commit of record",
    "after commit of record",
    "before signature of certificate",
    "after signature of certificate",
    "before commit of signature",
    "after commit of signature",
)


@pytest.mark.parametrize("step", STEPS_OF_AN_ORDER)
async def test_a_crash_in_an_order(stage: Stage, client: Client, step: str) -> None:
    """The server dies at a step of an order. The client sees a broken connection and no answer; after the next start it
    comes to exactly one certificate, and no order had to be given up."""
    account = client.account()
    async with served(stage.plan(at=step)) as server:
        ordering = client.start(account.obtain("crash.localhost"))
        assert await asyncio.to_thread(server.wait) == KILLED
        assert not ordering.done()
    async with served(stage.plan()) as server:
        obtained = await ordering
        await stopped(server)
    assert account.failed_orders == []
    names = stage.rows(
        "SELECT c.serial FROM certificates c JOIN certificate_names n ON n.certificate_id = c.id"
        " WHERE n.name = 'crash.localhost'"
    )
    assert [row["serial"] for row in names] == [obtained.serial]
    await check(stage, [obtained])


async def test_nobody_comes_back_for_the_certificate(stage: Stage, client: Client) -> None:
    """The server finishes by itself what it had recorded, before it takes the first request."""
    account = client.account()
    async with served(stage.plan(at="after commit of record")) as server:
        ordering = client.start(account.obtain("alone.localhost"))
        assert await asyncio.to_thread(server.wait) == KILLED
        ordering.cancel()
    assert [row["status"] for row in stage.rows("SELECT status FROM orders")] == ["processing"]
    async with served(stage.plan()) as server:
        assert [row["status"] for row in stage.rows("SELECT status FROM orders")] == ["valid"]
        await stopped(server)
    await check(stage)


async def test_a_crash_while_a_host_is_asked(stage: Stage, client: Client) -> None:
    """Killed while the host that is validated has not answered yet: the validation is taken up at the next start."""
    account, asked = client.account(), asyncio.Event()

    async def silent(connection: Connection) -> None:
        asked.set()
        await connection.until_closed()

    client.peer.answers = [silent, client.board.script]
    async with served(stage.plan()) as server:
        ordering = client.start(account.obtain("slow.localhost"))
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
        assert await asyncio.to_thread(server.kill) == KILLED
    async with served(stage.plan()) as server:
        obtained = await ordering
        await stopped(server)
    assert account.failed_orders == []
    await check(stage, [obtained])


# --- a new CA -----------------------------------------------------------------------------------------------------

STEPS_OF_INIT: Final = (
    "before replacing root",  # the root's key lies there under a temporary name
    "after replacing root",
    "before replacing keys",  # the intermediate's
    "after replacing keys",
    "before commit of hierarchy",
    "after commit of hierarchy",
)


@pytest.mark.parametrize("step", STEPS_OF_INIT)
async def test_a_crash_in_init(empty_stage: Stage, step: str) -> None:
    """`init` dies anywhere: a CA is there whole or not at all, a second `init` makes it or says that it is there, and no
    key file is readable by others."""
    stage = empty_stage
    server = CrashServer(stage.plan(verb="init", at=step))
    try:
        assert await asyncio.to_thread(server.wait) == KILLED, server.log
    finally:
        server.close()
    if step == "after commit of hierarchy":
        with pytest.raises(Conflict):
            await app.init(stage.config, actor="system")
    else:
        await app.init(stage.config, actor="system")
    issuers = stage.rows("SELECT * FROM issuers ORDER BY parent_id IS NOT NULL")
    root, intermediate = (x509.load_der_x509_certificate(row["certificate"]) for row in issuers)
    intermediate.verify_directly_issued_by(root)
    key = load_key(stage.installation.data_dir / issuers[1]["key_reference"])
    assert key.public_key() == intermediate.public_key()
    root_key = load_key(stage.installation.data_dir / "root" / f"{issuers[0]['id']}.key.pem")
    assert root_key.public_key() == root.public_key()
    (crl,) = stage.rows("SELECT der FROM crls WHERE issuer_id = ?", issuers[0]["id"])
    assert x509.load_der_x509_crl(crl["der"]).is_signature_valid(root.public_key())  # type: ignore[arg-type]
    for path in stage.installation.data_dir.rglob("*"):
        if path.is_file() and path != stage.installation.root_path:
            assert path.stat().st_mode & 0o077 == 0, path
    async with served(stage.plan()) as server:
        await stopped(server)
    await check(stage)


# --- the responder's key ------------------------------------------------------------------------------------------

TEN_DAYS: Final = timedelta(days=10)  # two thirds of the responder's life are over, of the listener's they are not

STEPS_OF_A_ROTATION: Final = (
    "before commit of record",
    "after commit of record",
    "before signature of certificate",
    "after signature of certificate",
    "before commit of signature",
    "after commit of signature",
    "before replacing keys",
    "after replacing keys",
)


@pytest.mark.parametrize("step", STEPS_OF_A_ROTATION)
async def test_a_crash_while_the_responder_is_rotated(stage: Stage, client: Client, step: str) -> None:
    """RULES §5: the delegated key is rotated by itself. Killed at any step of that, the next start has a responder whose
    certificate is fresh, was recorded, and answers for what was issued before."""
    async with served(stage.plan()) as server:
        obtained = await client.account().obtain("rotated.localhost")
        await stopped(server)
    server_that_dies = CrashServer(stage.plan(at=step, clock=TEN_DAYS))
    try:
        assert not await asyncio.to_thread(server_that_dies.wait_until_ready), "it served"
        assert await asyncio.to_thread(server_that_dies.wait) == KILLED
    finally:
        server_that_dies.close()
    async with served(stage.plan(clock=TEN_DAYS)) as server:
        answer = await ocsp_answer(client, obtained)
        await stopped(server)
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
    (responder,) = answer.certificates
    assert responder.not_valid_before_utc > obtained.certificate.not_valid_before_utc + timedelta(days=9)
    (recorded,) = stage.rows("SELECT * FROM certificates WHERE serial = ?", _serial(responder))
    assert _der(recorded) == responder.public_bytes(Encoding.DER)
    await check(stage, [obtained])


async def ocsp_answer(client: Client, obtained: Obtained) -> ocsp.OCSPResponse:
    """What the CA says of a certificate now, its signature checked."""
    leaf, issuer = x509.load_pem_x509_certificates(obtained.chain_pem.encode())
    request = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256()).build()
    urls = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    url = next(item.access_location.value for item in urls if item.access_method == AuthorityInformationAccessOID.OCSP)
    async with client.session.post(url, data=request.public_bytes(Encoding.DER)) as response:
        answer = ocsp.load_der_ocsp_response(await response.read())
    assert answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    (responder,) = answer.certificates
    responder.verify_directly_issued_by(issuer)
    key = responder.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
    return answer


# --- revocation and CRLs ------------------------------------------------------------------------------------------

STEPS_OF_A_REVOCATION: Final = (
    "before commit of revocation",
    "after commit of revocation",
    "before commit of crl begun",
    "after commit of crl begun",
    "before signature of crl",
    "after signature of crl",
    "before commit of crl published",
    "after commit of crl published",
)


@pytest.mark.parametrize("step", STEPS_OF_A_REVOCATION)
async def test_a_crash_between_a_revocation_and_its_crl(stage: Stage, client: Client, step: str) -> None:
    """Killed anywhere between the request and the CRL: in the end the certificate is revoked, once; OCSP says so, and a CRL
    with a higher number than every one before lists it."""
    account = client.account()
    async with served(stage.plan()) as server:
        obtained = await account.obtain("revoked.localhost")
        kept = await account.obtain("kept.localhost")
        await stopped(server)
    async with served(stage.plan(at=step)) as server:
        before = await fetch_crl(client, obtained)
        revoking = client.start(account.revoke(obtained, reason=4))
        assert await asyncio.to_thread(server.wait) == KILLED
    is_committed = step != "before commit of revocation"
    (row,) = stage.rows("SELECT revoked_at, revocation_reason FROM certificates WHERE serial = ?", obtained.serial)
    assert (row["revoked_at"] is not None) == is_committed
    async with served(stage.plan()) as server:
        await revoking
        crl = await crl_listing(client, obtained)
        assert crl_number(crl) > crl_number(before)
        assert crl.get_revoked_certificate_by_serial_number(kept.certificate.serial_number) is None
        assert (await ocsp_answer(client, obtained)).certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert (await ocsp_answer(client, kept)).certificate_status is ocsp.OCSPCertStatus.GOOD
        await stopped(server)
    events = stage.rows("SELECT event FROM audit WHERE kind = 'certificate.revoked'")
    assert [json.loads(item["event"])["serial_hex"] for item in events] == [obtained.serial]
    await check(stage, [obtained, kept])


async def fetch_crl(client: Client, obtained: Obtained) -> x509.CertificateRevocationList:
    """The CRL at the URL in the certificate, its signature checked."""
    leaf, issuer = x509.load_pem_x509_certificates(obtained.chain_pem.encode())
    (point,) = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name is not None
    async with client.session.get(point.full_name[0].value) as response:
        crl = x509.load_der_x509_crl(await response.read())
    assert crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # an EC key
    return crl


async def crl_listing(client: Client, obtained: Obtained) -> x509.CertificateRevocationList:
    """The first CRL that lists a certificate."""
    async with asyncio.timeout(PATIENCE):
        while True:
            crl = await fetch_crl(client, obtained)
            if crl.get_revoked_certificate_by_serial_number(obtained.certificate.serial_number) is not None:
                return crl
            await asyncio.sleep(0.02)


def crl_number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


# --- any moment ---------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """Clients that order and revoke until they are told to stop."""

    accounts: list[PersistentClient]
    tasks: list["asyncio.Task[None]"]
    enough: asyncio.Event

    @property
    def obtained(self) -> list[Obtained]:
        return [item for account in self.accounts for item in account.obtained]

    @property
    def failed_orders(self) -> list[Any]:
        return [order for account in self.accounts for order in account.failed_orders]

    async def finish(self) -> None:
        """Every client finishes what it does."""
        self.enough.set()
        await asyncio.gather(*self.tasks)


def start_load(client: Client, clients: int, *, seconds: float) -> Load:
    enough = asyncio.Event()
    accounts = [client.account(seconds) for _ in range(clients)]

    async def drive(number: int, account: PersistentClient) -> None:
        for turn in itertools.count():
            if enough.is_set():
                return
            obtained = await account.obtain(f"n{number}-{turn}.localhost")
            if turn % 4 == 3:
                await account.revoke(obtained)

    tasks = [client.start(drive(number, account)) for number, account in enumerate(accounts)]
    return Load(accounts, tasks, enough)


UNFINISHED: Final = (
    "SELECT id FROM orders WHERE status = 'processing' UNION SELECT authorization_id FROM validation_jobs"
)


@pytest.mark.timeout(60 + 20 * CRASHES)
async def test_killed_at_random_moments(stage: Stage, client: Client) -> None:
    """kill -9 again and again under eight clients, at moments drawn from a seed (ACMECA_CRASHES and ACMECA_CRASH_SEED for
    more and for others). Nobody's order fails, nothing is lost, nothing is made twice, and every rule of `check` holds."""
    moments = random.Random(SEED)
    load = start_load(client, 8, seconds=50 + 18 * CRASHES)
    for _ in range(CRASHES):
        async with served(stage.plan()) as server:
            # How long it lives is drawn by lot, from dying with the first request to working for a while.
            done, _pending = await asyncio.wait(
                load.tasks, timeout=moments.choice((0.02, 0.1, 0.4)) * moments.random() * 2
            )
            assert not done, [task.exception() for task in done]
            assert await asyncio.to_thread(server.kill) == KILLED
    async with served(stage.plan()) as server:
        await load.finish()
        await until(lambda: not stage.rows(UNFINISHED), what="all work is finished")
        await stopped(server)
    assert load.failed_orders == []
    assert len(load.obtained) >= 8
    (row,) = stage.rows(
        "SELECT COUNT(*) AS many FROM certificates WHERE revoked_at IS NOT NULL AND revocation_sequence IS NOT NULL"
    )
    assert row["many"] == sum(len(account.obtained) // 4 for account in load.accounts)
    await check(stage, load.obtained)


# --- an orderly end -----------------------------------------------------------------------------------------------


async def test_sigterm_under_load(stage: Stage, client: Client) -> None:
    """`acmeca serve` gets SIGTERM while clients are at it: requests in flight are finished, it exits with 0, lock and socket are
    gone; after the next start the clients come to their certificates."""
    installation = stage.installation
    load = start_load(client, 8, seconds=2 * PATIENCE)
    server = await asyncio.to_thread(installation.serve)
    try:
        await until(lambda: len(load.obtained) >= 8, what="the clients are busy")
        assert installation.socket_path.exists()
        head = await slow_upload(installation, server.send)
        assert await asyncio.to_thread(server.wait) == 0, server.output
        assert "Stopped." in server.output
        assert "Traceback" not in server.output
    finally:
        await asyncio.to_thread(server.close)
    assert head.startswith(b"HTTP/1.1 400 "), head  # an answer to the whole request: its body is no JWS
    assert b"application/problem+json" in head
    assert not installation.socket_path.exists()
    with StoreLock(installation.data_dir):
        pass
    stops = [row["kind"] for row in stage.rows("SELECT kind FROM audit WHERE kind LIKE 'server.%' ORDER BY sequence")]
    assert stops[-2:] == ["server.started", "server.stopped"]
    async with served(stage.plan(journal_path=None)) as again:
        await load.finish()
        await stopped(again)
    assert load.failed_orders == []
    await check(stage, load.obtained)


async def test_sigterm_does_not_wait_for_ever(stage: Stage, client: Client) -> None:
    """A request whose body never comes holds the end up for the time that is set, and no longer."""
    async with served(stage.plan(shutdown_seconds=0.3)) as server:
        _, writer = await half_a_request(stage.installation)
        started = time.monotonic()
        await stopped(server)
        assert 0.3 <= time.monotonic() - started < 10
        writer.close()
    await check(stage)


async def half_a_request(installation: Installation) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which 10 of 20 octets of a body have been sent, and read by the server."""
    tls = ssl.create_default_context(cafile=str(installation.root_path))
    reader, writer = await asyncio.open_connection("localhost", installation.acme_port, ssl=tls)
    head = "POST /acme/new-order HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/jose+json\r\nContent-Length: 20\r\n"
    # The server says "100 Continue" when it has begun to read: from here on the request is in flight.
    writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{" + b" " * 9)
    await writer.drain()
    return reader, writer


async def slow_upload(installation: Installation, send: Callable[[signal.Signals], None]) -> bytes:
    """A request whose second half is sent after the server got SIGTERM and closed its listener; returns the answer."""
    reader, writer = await half_a_request(installation)
    send(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, probe = await asyncio.open_connection("localhost", installation.acme_port)
            except OSError:
                break
            probe.close()
            await asyncio.sleep(0.01)
    writer.write(b" " * 9 + b"}")
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    return answer


# --- a full disk --------------------------------------------------------------------------------------------------


async def test_a_full_disk(stage: Stage, client: Client) -> None:
    """No file can grow: everything that would have to be kept is a 5xx problem, OCSP and the CRL still answer, nothing is
    lost or invented; with room again, all goes on without a restart."""
    account = client.account()
    async with served(stage.plan(journal_path=None)) as server:
        before = await account.obtain("before.localhost")
        assert stage.log_of_database.stat().st_size > FULL_DISK
        server.allow_files_of(FULL_DISK)
        refused = await account.post(account.directory["newOrder"], identifiers("full.localhost"), once=True)
        assert refused.status == 503
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.document["type"] == "urn:ietf:params:acme:error:serverInternal"
        revoked = await account.post(account.directory["revokeCert"], revocation(before), once=True)
        assert revoked.status == 503
        assert (await ocsp_answer(client, before)).certificate_status is ocsp.OCSPCertStatus.GOOD
        await fetch_crl(client, before)
        ordering = client.start(account.obtain("full.localhost"))
        await until(lambda: account.seen["503 serverInternal"] >= 3, what="the client has met the full disk")
        server.allow_files_of(None)
        after = await ordering
        await account.revoke(before)
        assert (await ocsp_answer(client, before)).certificate_status is ocsp.OCSPCertStatus.REVOKED
        await stopped(server)
    assert account.failed_orders == []
    assert len(stage.rows("SELECT 1 FROM certificates WHERE account_id IS NOT NULL")) == 2
    await check(stage, [before, after])


@pytest.mark.parametrize("step", ["after commit of record", "after commit of crl begun"])
async def test_the_disk_fills_up_in_the_middle(stage: Stage, client: Client, step: str) -> None:
    """The disk fills up between a record and its signature, or between a CRL's number and the CRL: both are finished once there
    is room, and the client waits meanwhile on an order that is `processing`."""
    account = client.account()
    async with served(stage.plan(at=step, happen="full")) as server:
        ordering = client.start(obtain_and_revoke(account))
        await until(lambda: "the database refused" in server.log, what="a write has failed")
        if step == "after commit of record":
            assert not ordering.done()
            assert [row["status"] for row in stage.rows("SELECT status FROM orders")] == ["processing"]
        server.allow_files_of(None)
        obtained = await ordering
        await crl_listing(client, obtained)
        await stopped(server)
    assert account.failed_orders == []
    await check(stage, [obtained])


def identifiers(name: str) -> dict[str, object]:
    return {"identifiers": [{"type": "dns", "value": name}]}


def revocation(obtained: Obtained) -> dict[str, object]:
    return {"certificate": jose.encode(obtained.certificate.public_bytes(Encoding.DER))}


async def obtain_and_revoke(account: PersistentClient) -> Obtained:
    obtained = await account.obtain("filled.localhost")
    await account.revoke(obtained)
    return obtained


# --- a token that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_a_token_that_loses_its_key_for_a_while(stage: Stage, client: Client, times: int) -> None:
    """An issuer's key raises what its token raises. The order waits, and is finished from its record when the key is back."""
    account = client.account()
    plan = stage.plan(at="before signature of certificate", happen="fail", times=times)
    async with served(plan) as server:
        obtained = await account.obtain("token.localhost")
        await stopped(server)
        assert server.log.count("TokenLostError: ") == times
    assert account.failed_orders == []
    await check(stage, [obtained])
