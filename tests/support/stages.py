"""The stage of the failure tests: one CA, servers of it that are ended in every way, clients that never give up, and what has to
hold afterwards.

Rule 1: after each failure everything in `check` holds: no signature without its record, no serial twice, no certificate without
its audit records, no order without an end, nothing in the database that is not in the journal, and what a client holds is what
the store holds.
Rule 2: the client (`PersistentClient`) never gives up. Whatever the moment, it gets its certificate or is told why not.
Rule 3: a test proves that what it wanted to happen did happen: an exit code of -9, a limit that was hit, a trigger that fired.
"""

import asyncio
import hashlib
import itertools
import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import asyncpg
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from acmeca import app
from acmeca.config import Config, load_config
from acmeca.pki.signing import assemble_signed, certificate_from_tbs
from acmeca.storage import audit as audit_storage
from acmeca.storage.journal import Commit, Segment, read_segment, segments
from acmeca.storage.journals import gather
from tests.support import jose
from tests.support.crash_server import CrashServer, Plan, crash_server, noun_of
from tests.support.http_peer import HttpPeer, http_peer
from tests.support.installations import Installation, make_installation
from tests.support.persistent_client import Board, Obtained, PersistentClient, client_session

T = TypeVar("T")
Rows = list[dict[str, Any]]

KILLED: Final = -signal.SIGKILL
PATIENCE: Final = 60.0  # seconds in which a client has to be done, on a machine that others use too
TORTURE: Final = os.environ.get("ACMECA_TORTURE") == "1"
"""Whether everything is run (`make torture`), or the seeded part of it that `make test` has."""


def count(name: str, *, tested: int, tortured: int) -> int:
    """How many of something are run: what the environment says, else the number of `make test` or of `make torture`."""
    return int(os.environ.get(name, tortured if TORTURE else tested))


def chosen(cases: Sequence[T], *, tested: Sequence[T]) -> Sequence[T]:
    """All cases in `make torture`, those in `tested` otherwise."""
    assert set(tested) <= set(cases)
    return cases if TORTURE else tested


# --- a CA ---------------------------------------------------------------------------------------------------------


@dataclass
class Stage:
    """One CA with its data, and what its servers have signed so far."""

    installation: Installation
    starts: int = 0

    @property
    def config(self) -> Config:
        return load_config(self.installation.config_path, {})

    @property
    def signed_path(self) -> Path:
        """Where the issuer's key writes down what it signs."""
        return self.installation.directory / "signed"

    @property
    def log_of_database(self) -> Path:
        return Path(f"{self.installation.database_path}-wal")

    def plan(self, **options: Any) -> Plan:
        self.starts += 1
        options.setdefault("journal_path", self.signed_path)
        options.setdefault("log_path", self.installation.directory / f"log.{self.starts}")
        return Plan(config_path=self.installation.config_path, **options)

    def signed(self) -> list[bytes]:
        """Every to-be-signed value that the issuer's key was given, in order."""
        if not self.signed_path.exists():
            return []
        return [bytes.fromhex(line) for line in self.signed_path.read_text().splitlines()]

    def rows(self, sql: str, *args: object) -> Rows:
        """Straight from the file, beside acmeca's own code, and without a change to it: what a crash left stays as it is."""
        uri = f"{self.installation.database_path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=30)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(sql, args).fetchall()]

    def number(self, sql: str, *args: object) -> Any:
        """The one value of a query."""
        ((value,),) = [row.values() for row in self.rows(sql, *args)]
        return value

    async def evidence(self) -> "Evidence":
        """Every table that the rules speak of."""
        url = self.config.storage.url
        if url.startswith("sqlite"):
            return Evidence({table: self.rows(f"SELECT * FROM {table}") for table in _TABLES})
        connection = await asyncpg.connect(url)
        try:
            return Evidence(
                {table: [dict(row) for row in await connection.fetch(f"SELECT * FROM {table}")] for table in _TABLES}
            )
        finally:
            await connection.close()


def made_stage(directory: Path, *, more: str = "") -> Stage:
    """A CA that has run once, so that its own certificates and its first CRL are there."""
    stage = Stage(make_installation(directory, more=more))
    asyncio.run(app.init(stage.config, actor="system"))
    with crash_server(stage.plan(journal_path=None)) as server:
        assert server.terminate() == 0
    return stage


@asynccontextmanager
async def served(plan: Plan) -> AsyncIterator[CrashServer]:
    """A server, started and ended without holding the event loop up."""
    context = crash_server(plan)
    server = await asyncio.to_thread(context.__enter__)
    try:
        yield server
    except BaseException as error:
        error.add_note(f"the server said:\n{server.log[-20_000:]}")
        raise
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def died_at_start(plan: Plan) -> None:
    """A server that dies before it serves."""
    server = CrashServer(plan)
    try:
        assert not await asyncio.to_thread(server.wait_until_ready), "it served"
        assert await asyncio.to_thread(server.wait) == KILLED, server.log
    finally:
        server.close()


async def until(condition: Callable[[], object], *, what: str, seconds: float = PATIENCE) -> None:
    """Look every twentieth of a second until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not so after {seconds:g} s"
        await asyncio.sleep(0.05)


async def stopped(server: CrashServer) -> None:
    """Ended by SIGTERM, in good order."""
    assert await asyncio.to_thread(server.terminate) == 0, server.log


# --- clients ------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """Clients with what they need around them."""

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


@asynccontextmanager
async def clients_of(installation: Installation) -> AsyncIterator[Client]:
    """Clients of a CA, with the web server that answers for their names."""
    board = Board()
    async with (
        http_peer(board.script, port=installation.http_port) as peer,
        client_session(installation.root_path.read_bytes()) as session,
    ):
        client = Client(session, board, peer, installation)
        try:
            yield client
        finally:
            for task in client.tasks:
                task.cancel()
            await asyncio.gather(*client.tasks, return_exceptions=True)


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

    @property
    def revoked(self) -> int:
        """How many certificates the clients had revoked, once they have finished."""
        return sum(len(account.obtained) // 2 for account in self.accounts)

    @property
    def seen(self) -> Counter[str]:
        return sum((account.seen for account in self.accounts), Counter())

    async def finish(self) -> None:
        """Every client finishes what it does."""
        self.enough.set()
        await asyncio.gather(*self.tasks)


def start_load(client: Client, clients: int, *, seconds: float, others: Sequence[Client] = ()) -> Load:
    """`clients` accounts at work; with `others`, spread over the servers of all."""
    enough = asyncio.Event()
    places = [client, *others]
    accounts = [places[number % len(places)].account(seconds) for number in range(clients)]

    async def drive(number: int, account: PersistentClient) -> None:
        for turn in itertools.count():
            if enough.is_set():
                return
            obtained = await account.obtain(f"n{number}-{turn}.localhost")
            if turn % 2:
                await account.revoke(obtained)

    tasks = [client.start(drive(number, account)) for number, account in enumerate(accounts)]
    return Load(accounts, tasks, enough)


def identifiers(name: str) -> dict[str, object]:
    """What a newOrder says."""
    return {"identifiers": [{"type": "dns", "value": name}]}


def revocation(obtained: Obtained, *, reason: int | None = None) -> dict[str, object]:
    """What a revokeCert says."""
    payload: dict[str, object] = {"certificate": jose.encode(obtained.certificate.public_bytes(Encoding.DER))}
    return payload if reason is None else payload | {"reason": reason}


# --- status -------------------------------------------------------------------------------------------------------


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


async def is_revoked(client: Client, obtained: Obtained) -> bool:
    """What OCSP says of a certificate."""
    status = (await ocsp_answer(client, obtained)).certificate_status
    assert status is not ocsp.OCSPCertStatus.UNKNOWN
    return status is ocsp.OCSPCertStatus.REVOKED


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


# --- what has to hold ---------------------------------------------------------------------------------------------

_TABLES: Final = ("certificates", "audit", "orders", "authorizations", "validation_jobs", "crls", "issuers", "accounts")
UNFINISHED: Final = (
    "SELECT id FROM orders WHERE status = 'processing' UNION SELECT authorization_id FROM validation_jobs"
)


@dataclass(frozen=True)
class Evidence:
    """What a database holds: its rows by table."""

    tables: Mapping[str, Rows]

    @property
    def certificates(self) -> dict[str, dict[str, Any]]:
        return {row["serial"]: row for row in self.tables["certificates"]}

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(row["event"]) for row in self.tables["audit"] if row["kind"] == kind]


async def check(stage: Stage, obtained: Sequence[Obtained] = (), *, others: Sequence[Stage] = ()) -> None:
    """Every rule that a failure must not break; the servers have stopped. `others` share the stage's database."""
    async with app.opened_store(stage.config) as store:  # which also proves that the lock was let go
        assert await audit_storage.verify(store.database) == []
    evidence = await stage.evidence()
    certificates = evidence.certificates
    check_signed([tbs for one in (stage, *others) for tbs in one.signed()], evidence, is_one=not others)
    check_audit(evidence)
    check_orders(evidence)
    check_journal(evidence, [one.config.journal_dir for one in (stage, *others)])
    serials = [item.serial for item in obtained]
    assert len(serials) == len(set(serials))
    for item in obtained:
        assert der_of(certificates[item.serial]) == item.certificate.public_bytes(Encoding.DER)


def check_signed(signed: Sequence[bytes], evidence: Evidence, *, is_one: bool = True) -> None:
    """RULES §4: what was signed was recorded before, byte for byte; RULES §5: CRL numbers rise and never come twice.

    `is_one`: one process signed after another, so that the order is known.
    """
    certificates = evidence.certificates
    assert len(certificates) == len(evidence.tables["certificates"])
    numbers: list[int] = []
    for tbs in signed:
        if noun_of(tbs) == "crl":
            crl = x509.load_der_x509_crl(with_a_signature(tbs))
            numbers.append(crl_number(crl))
        else:
            serial = serial_of(x509.load_der_x509_certificate(with_a_signature(tbs)))
            assert certificates[serial]["tbs"] == tbs
    assert len(numbers) == len(set(numbers))
    if is_one:
        assert numbers == sorted(numbers)
    begun = {row["number"] for row in evidence.tables["crls"]}
    assert all(number in begun or number < max(begun) for number in numbers)


def check_audit(evidence: Evidence) -> None:
    """RULES §6: no certificate without its audit records, and no record of a certificate that is not there."""
    certificates = evidence.certificates
    recorded, issued = evidence.events("certificate.recorded"), evidence.events("certificate.issued")
    assert sorted(event["serial_hex"] for event in recorded) == sorted(certificates)
    for event in recorded:
        assert event["tbs_sha256"] == hashlib.sha256(certificates[event["serial_hex"]]["tbs"]).hexdigest()
    signed = {serial: row for serial, row in certificates.items() if row["signature"] is not None}
    assert sorted(event["serial_hex"] for event in issued) == sorted(signed)
    for event in issued:
        assert event["sha256"] == hashlib.sha256(der_of(signed[event["serial_hex"]])).hexdigest()
    issuers = {row["id"]: x509.load_der_x509_certificate(row["certificate"]) for row in evidence.tables["issuers"]}
    for row in signed.values():
        x509.load_der_x509_certificate(der_of(row)).verify_directly_issued_by(issuers[row["issuer_id"]])
    revoked = {serial for serial, row in certificates.items() if row["revoked_at"] is not None}
    assert {event["serial_hex"] for event in evidence.events("certificate.revoked")} == revoked


def check_orders(evidence: Evidence) -> None:
    """No order is left half-way, and an order is valid exactly when its one certificate was signed."""
    by_order = {row["order_id"]: row for row in evidence.certificates.values() if row["order_id"] is not None}
    for order in evidence.tables["orders"]:
        certificate = by_order.get(order["id"])
        is_signed = certificate is not None and certificate["signature"] is not None
        assert order["status"] in {"pending", "ready", "valid", "invalid"}
        assert (order["status"] == "valid") == is_signed
        assert (order["certificate_id"] is not None) == is_signed
        if order["status"] == "invalid":
            assert order["error"] is not None
    statuses = {row["id"]: row["status"] for row in evidence.tables["authorizations"]}
    for row in evidence.tables["validation_jobs"]:
        assert statuses[row["authorization_id"]] == "pending"


# --- the journal --------------------------------------------------------------------------------------------------


class Journalled:
    """What stands in journals, by what a restore would put back: it must hold whatever the database has."""

    def __init__(self) -> None:
        self.audit: dict[tuple[str, int], bytes] = {}
        self.accounts: set[str] = set()
        self.certificates: dict[str, bytes] = {}
        self.signatures: dict[str, bytes] = {}
        self.revocations: dict[str, tuple[int, int | None, int]] = {}
        self.crls: set[tuple[str, int]] = set()
        self.issuers: dict[str, bytes] = {}
        self._read: set[Path] = set()

    def read_new(self, directory: Path) -> None:
        """Read the segments that were not there at the last call; a damaged line raises `JournalError`."""
        for segment in segments(directory):
            if segment.path not in self._read:
                self._read.add(segment.path)
                self.add(_kept(segment))

    def add(self, commits: Iterator[Commit] | Sequence[Commit]) -> None:
        for commit in commits:
            for entry in commit.entries:
                values: Mapping[str, Any] = entry.values
                match entry.kind:
                    case "audit":
                        self.audit[values["writer"], values["sequence"]] = values["hash"]
                    case "account":
                        self.accounts.add(values["id"])
                    case "certificate":
                        self.certificates[values["id"]] = values["tbs"]
                    case "signature":
                        self.signatures[values["id"]] = values["signature"]
                    case "revocation":
                        self.revocations[values["id"]] = (
                            values["revoked_at"],
                            values["revocation_reason"],
                            values["revocation_sequence"],
                        )
                    case "crl":
                        self.crls.add((values["issuer_id"], values["number"]))
                    case "issuer":
                        self.issuers[values["id"]] = values["certificate"]

    def check(self, tables: Mapping[str, Rows]) -> None:
        """Every row of these tables stands here as it is there."""
        for row in tables.get("audit", ()):
            assert self.audit[row["writer"], row["sequence"]] == row["hash"]
        for row in tables.get("accounts", ()):
            assert row["id"] in self.accounts
        for row in tables.get("issuers", ()):
            assert self.issuers[row["id"]] == row["certificate"]
        for row in tables.get("crls", ()):
            assert (row["issuer_id"], row["number"]) in self.crls
        for row in tables.get("certificates", ()):
            assert self.certificates[row["id"]] == row["tbs"]
            if row["signature"] is not None:
                assert self.signatures[row["id"]] == row["signature"]
            if row["revoked_at"] is not None:
                found = (row["revoked_at"], row["revocation_reason"], row["revocation_sequence"])
                assert self.revocations[row["id"]] == found


def _kept(segment: Segment) -> Iterator[Commit]:
    return (commit for commit in read_segment(segment) if not commit.withdrawn)


def check_journal(evidence: Evidence, directories: Sequence[Path]) -> None:
    """Whatever the database holds stands in the journals as well, among the commits that a restore would do again."""
    journals, journalled = gather(directories), Journalled()
    journalled.add(journals.commits())
    assert journals.damages == []
    journalled.check(evidence.tables)


# --- signatures ---------------------------------------------------------------------------------------------------

_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")


def with_a_signature(tbs: bytes) -> bytes:
    """What is signed, wrapped so that the library can read it; the signature is none."""
    return assemble_signed(tbs, _ECDSA_SHA256, bytes(8))


def der_of(row: dict[str, Any]) -> bytes:
    """The certificate of a row."""
    return certificate_from_tbs(row["tbs"], row["signature"])


def serial_of(certificate: x509.Certificate) -> str:
    number = certificate.serial_number
    return number.to_bytes((number.bit_length() + 7) // 8).hex()


def copy_of(stage: Stage, directory: Path) -> Stage:
    """The same CA in another directory, which was copied there; it has the same ports."""
    return Stage(replace(stage.installation, directory=directory))
