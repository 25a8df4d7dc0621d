"""A server that dies at a named point, and the journal of everything that its issuer's key was asked to sign.

Rule 1: the product has no hooks for this. What is watched is what `acmeca.app` takes as a parameter (the clock, the opening of
keys) and what it is built from: the database's commits, the journal and its sync, blocks of nonces, turns, and the one call that
puts a file in its place.
Rule 2: the journal is synced before the key is used, so a signature that is in no journal does not exist.
Rule 3: a server is a process of its own, forked from one that has everything imported; it is ended by SIGKILL to its PID.
"""

import asyncio
import logging
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import uvloop
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from acmeca import app
from acmeca.acme.nonces import SpentWindow
from acmeca.config import Config, load_config
from acmeca.keystore import pem
from acmeca.pki.signing import PrivateKey
from acmeca.service import jobs, own_certificates
from acmeca.service.ambient import Ambient
from acmeca.service.probes import PROOF
from acmeca.storage import nonce_file, writers
from acmeca.storage.database import Entry, Row, Transaction, Value
from acmeca.storage.errors import FencedError
from acmeca.storage.lock import FileTurn
from acmeca.storage.nonce_file import FileNonces
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.writers import CommitSeal
from acmeca.web.connection import Patience
from acmeca.web.listener import Listener
from acmeca.workers.seat import Seat

T = TypeVar("T")

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
FULL_DISK: Final = (
    64 << 10
)  # octets to which a file may grow: a log and a journal have room, the database's log has not


@dataclass(frozen=True)
class Plan:
    """What a server is started for. `clock` is added to the machine's.

    `at` names a point (see `Points`), `happen` what happens there after it was passed `skip` times: "kill", "stop" (the process
    stands still until SIGCONT), "full" (no file may grow any more) or "fail" (the caller gets an exception, as from a token that
    was pulled). `gone_after` and `beat` are in seconds, as in `storage/writers.py`; `seat` makes it one of several processes on
    one data directory. With SIGUSR1 its clock leaps by `leap`, with SIGUSR2 back.
    """

    config_path: Path
    log_path: Path
    journal_path: Path | None = None
    verb: str = "serve"
    at: str | None = None
    happen: str = "kill"
    skip: int = 0
    times: int = 1
    clock: timedelta = timedelta()
    leap: timedelta = timedelta()
    sweep_seconds: float = 0.3
    renewal_seconds: float = 60.0
    shutdown_seconds: float = 10.0
    gone_after: float = writers.GONE_AFTER
    beat: float = writers.BEAT
    seat: int | None = None


class TokenLostError(Exception):
    """What an issuer's key in a token may raise: nothing that the product knows."""


# --- inside the server --------------------------------------------------------------------------------------------


@dataclass
class Points:
    """The points that a server passes, and what happens at one of them.

    "before commit of NOUN" and "after commit of NOUN" (see `_NOUNS`), "before signature of certificate" or "… crl" and
    "after …", "before replacing DIRECTORY" and "after replacing DIRECTORY" of a file in that directory; "before journalling KIND"
    (nothing is written yet), "before sync of KIND" (written), "after sync of KIND" (synced, and not committed) of a kind of entry
    in the journal; "before nonce block", "in nonce block" (cleared, and not allotted), "after nonce block"; "before turn" and
    "after turn" of a process that waits for others to renew its own certificates.
    """

    plan: Plan
    _left_out: int = 0
    _happened: int = 0

    def passed(self, point: str) -> None:
        if point != self.plan.at:
            return
        if self._left_out < self.plan.skip:
            self._left_out += 1
            return
        if self._happened >= self.plan.times:
            return
        self._happened += 1
        match self.plan.happen:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "full":
                _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_DISK, hard))
            case "fail":
                raise TokenLostError(f"{point}: the token is gone")


# The statement by which a write is known, as it begins, and what the write is called here.
_NOUNS: Final = {
    "INSERT INTO issuers": "hierarchy",
    "INSERT INTO accounts": "account",
    "INSERT INTO orders": "order",
    "INSERT INTO validation_jobs": "validation",
    "DELETE FROM validation_jobs": "outcome",
    "INSERT INTO certificates": "record",
    "UPDATE certificates SET signature": "signature",
    "UPDATE certificates SET revoked_at": "revocation",
    "INSERT INTO crls": "crl begun",
    "UPDATE crls SET der": "crl published",
    "INSERT INTO leases": "lease",
    "UPDATE leases SET instance = $1": "lease",
    "INSERT INTO writers": "claim",
    "UPDATE writers SET ended = 1": "release",
}


class _WatchedTransaction:
    """Hands everything on, and remembers which nouns were written."""

    def __init__(self, transaction: Transaction, nouns: list[str]) -> None:
        self._transaction = transaction
        self._nouns = nouns

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        return await self._transaction.fetch_one(sql, *args)

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        return await self._transaction.fetch_all(sql, *args)

    async def execute(self, sql: str, *args: Value) -> int:
        noun = next((noun for start, noun in _NOUNS.items() if sql.startswith(start)), None)
        if noun is not None and noun not in self._nouns:
            self._nouns.append(noun)
        return await self._transaction.execute(sql, *args)

    def journal(self, entry: Entry) -> None:
        self._transaction.journal(entry)


def _watch_database(points: Points, base: Any) -> Any:
    class WatchedDatabase(base):  # type: ignore[misc]  # SqliteDatabase or PostgresDatabase
        async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
            nouns: list[str] = []

            async def watched(transaction: Transaction) -> T:
                result = await body(_WatchedTransaction(transaction, nouns))
                for noun in nouns:
                    points.passed(f"before commit of {noun}")
                return result

            result: T = await super().write(watched)
            for noun in nouns:
                points.passed(f"after commit of {noun}")
            return result

    return WatchedDatabase


def _watch_journal(points: Points) -> None:
    """Between the bodies of a commit and its COMMIT."""
    kinds: list[str] = []
    sync = os.fdatasync

    class WatchedSeal(CommitSeal):
        def append(self, number: int, entries: Sequence[Entry]) -> None:
            kinds[:] = dict.fromkeys(entry.kind for entry in entries)
            for kind in kinds:
                points.passed(f"before journalling {kind}")
            super().append(number, entries)

    def watched_sync(file: int) -> None:  # acmeca calls it for its journal alone, SQLite does not go through Python
        for kind in kinds:
            points.passed(f"before sync of {kind}")
        sync(file)
        for kind in kinds:
            points.passed(f"after sync of {kind}")

    app.stores.CommitSeal = WatchedSeal  # type: ignore[attr-defined]  # as in `_watch_files`
    os.fdatasync = watched_sync


def _watch_nonces(points: Points) -> None:
    class WatchedNonces(FileNonces):
        def _take_block(self) -> None:
            points.passed("before nonce block")
            super()._take_block()
            points.passed("after nonce block")

    class WatchedWindow(SpentWindow):
        def admit(self, first: int, count: int) -> None:
            super().admit(first, count)
            points.passed("in nonce block")

    app.stores.FileNonces = WatchedNonces  # type: ignore[attr-defined]  # as in `_watch_files`
    nonce_file.SpentWindow = WatchedWindow  # type: ignore[attr-defined]  # as in `_watch_files`


def _watch_turns(points: Points) -> None:
    class WatchedTurn(FileTurn):
        async def __aenter__(self) -> None:
            points.passed("before turn")
            await super().__aenter__()
            points.passed("after turn")

    own_certificates.FileTurn = WatchedTurn  # type: ignore[attr-defined]  # as in `_watch_files`


class JournalledKey(ec.EllipticCurvePrivateKey):
    """An issuer's key that writes down what it signs, before it signs it."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, journal: int | None, points: Points) -> None:
        self._key = key
        self._journal = journal
        self._points = points

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        assert not isinstance(signature_algorithm.algorithm, Prehashed)
        tbs = bytes(data)
        if tbs == PROOF:  # readiness asks
            return self._key.sign(tbs, signature_algorithm)
        noun = noun_of(tbs)
        self._points.passed(f"before signature of {noun}")
        if self._journal is not None:
            os.write(self._journal, f"{tbs.hex()}\n".encode())
            os.fsync(self._journal)
        signature = self._key.sign(tbs, signature_algorithm)
        self._points.passed(f"after signature of {noun}")
        return signature

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._key.curve

    @property
    def key_size(self) -> int:
        return self._key.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        raise NotImplementedError("an issuer's key only signs")

    def private_numbers(self) -> NoReturn:
        raise NotImplementedError("a token does not hand its key out")

    def private_bytes(
        self,
        encoding: serialization.Encoding,
        format: serialization.PrivateFormat,  # noqa: A002  (the library's name)
        encryption_algorithm: serialization.KeySerializationEncryption,
    ) -> NoReturn:
        raise NotImplementedError("a token does not hand its key out")

    def __copy__(self) -> "JournalledKey":
        return self

    def __deepcopy__(self, memo: object) -> "JournalledKey":
        return self


def noun_of(tbs: bytes) -> str:
    """What is to be signed: a TBSCertificate begins with its [0] version, a TBSCertList with an INTEGER."""
    header = 2 if tbs[1] < 0x80 else 2 + (tbs[1] & 0x7F)
    return {0xA0: "certificate", 0x02: "crl"}[tbs[header]]


def _watch_files(points: Points) -> None:
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        points.passed(f"before replacing {target.parent.name}")
        result = replace(self, target)
        points.passed(f"after replacing {target.parent.name}")
        return result

    Path.replace = watched  # type: ignore[method-assign, assignment]  # a process of its own, which ends with the test


def _serve_process(plan: Plan, ready: Connection) -> None:
    """The main function of a server's process."""
    log = os.open(plan.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    points = Points(plan)
    _watch_files(points)
    _watch_journal(points)
    _watch_nonces(points)
    _watch_turns(points)
    app.stores.SqliteDatabase = _watch_database(points, SqliteDatabase)  # type: ignore[attr-defined]  # as above
    app.stores.PostgresDatabase = _watch_database(points, PostgresDatabase)  # type: ignore[attr-defined]  # as above
    writers.GONE_AFTER = plan.gone_after  # type: ignore[misc]  # as above
    jobs._RENEWAL_SECONDS = plan.renewal_seconds  # type: ignore[misc]  # as above
    jobs.BEAT = plan.beat  # type: ignore[attr-defined]  # as above
    jobs._SWEEP_SECONDS = plan.sweep_seconds  # type: ignore[misc]  # a dead process's work is taken up at once
    patience = Patience(stopping=plan.shutdown_seconds)
    (Listener.__init__.__kwdefaults__ or {})["patience"] = patience  # as above
    config = load_config(plan.config_path, {})
    offset = plan.clock

    def leap(number: int, _frame: object) -> None:
        nonlocal offset
        offset += plan.leap if number == signal.SIGUSR1 else -plan.leap

    ambient = Ambient(clock=lambda: datetime.now(UTC) + offset, entropy=os.urandom)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, leap)
    try:
        if plan.verb == "init":
            asyncio.run(app.init(config, actor="system", ambient=ambient))
        else:
            uvloop.run(_serve(config, plan, points, ambient, ready))
    except BaseException:
        traceback.print_exc()
        raise


async def _serve(config: Config, plan: Plan, points: Points, ambient: Ambient, ready: Connection) -> None:
    journal = None
    if plan.journal_path is not None:
        journal = os.open(plan.journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def open_key(path: Path) -> PrivateKey:
        key = pem.load_key(path)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return JournalledKey(key, journal=journal, points=points)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    seat = None if plan.seat is None else _seat(plan.seat)
    async with app.opened(config, ambient=ambient, open_key=open_key, seat=seat) as ca, app.serving(ca):
        ready.send("ready")
        asked, fenced = asyncio.create_task(stop.wait()), asyncio.create_task(ca.jobs.fenced.wait())
        await asyncio.wait((asked, fenced), return_when=asyncio.FIRST_COMPLETED)
        if fenced.done():
            raise FencedError("another process writes in the place of this one")


def _seat(place: int) -> Seat:
    """One of several processes on a data directory, each with listeners of its own."""
    return Seat(slot=place, of=1, place=place, lifeline=-1, lock=-1, sockets={})


# --- outside ------------------------------------------------------------------------------------------------------


class CrashServer:
    """A server's process as its test sees it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["acmeca.app", __name__])
        self._ready, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve_process, args=(plan, theirs))
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self.plan.log_path.read_text()

    def wait_until_ready(self) -> bool:
        """True when it serves, False when it has ended before."""
        if not self._ready.poll(START_SECONDS):
            raise AssertionError(f"the server neither serves nor ends:\n{self.log}")
        try:
            self._ready.recv()
        except EOFError:
            return False
        return True

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit code; -9 for one that was killed."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise AssertionError(f"the server did not end in {seconds:g} s:\n{self.log}")
        return self._process.exitcode

    def kill(self) -> int:
        self._process.kill()
        return self.wait()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> int:
        self._process.terminate()
        return self.wait()

    def allow_files_of(self, size: int | None) -> None:
        """Files may grow to this many octets (a full disk), or without a limit again."""
        limit = resource.RLIM_INFINITY if size is None else size
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def close(self) -> None:
        """End it if it still runs, and reap it."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join(STOP_SECONDS)
        self._process.close()
        self._ready.close()


@contextmanager
def crash_server(plan: Plan) -> Iterator[CrashServer]:
    """A server that serves, or has ended already (for a plan that kills it at its start)."""
    server = CrashServer(plan)
    try:
        server.wait_until_ready()
        yield server
    except BaseException as error:
        error.add_note(f"the server said:\n{server.log}")
        raise
    finally:
        server.close()
