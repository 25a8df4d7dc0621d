"""A server that dies at a named point, and the journal of everything that its issuer's key was asked to sign.

Rule 1: the product has no hooks for this. What is watched is what `acmeca.app` takes as a parameter (the clock, the opening of
keys) and what it is built from: the database's commits, and the one call that puts a file in its place.
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
from collections.abc import Awaitable, Callable, Iterator
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
from acmeca.config import Config, load_config
from acmeca.keystore import pem
from acmeca.pki.signing import PrivateKey
from acmeca.service import jobs
from acmeca.service.ambient import Ambient
from acmeca.service.probes import PROOF
from acmeca.storage.database import Entry, Row, Transaction, Value
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.web.connection import Patience
from acmeca.web.listener import Listener

T = TypeVar("T")

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
FULL_DISK: Final = (
    64 << 10
)  # octets to which a file may grow: a log and a journal have room, the database's log has not


@dataclass(frozen=True)
class Plan:
    """What a server is started for. `clock` is added to the machine's.

    `at` names a point (see `Points`), `happen` what happens there after it was passed `skip` times: "kill", "full" (no file
    may grow any more) or "fail" (the caller gets an exception, as from a token that was pulled).
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
    sweep_seconds: float = 0.3
    shutdown_seconds: float = 10.0


class TokenLostError(Exception):
    """What an issuer's key in a token may raise: nothing that the product knows."""


# --- inside the server --------------------------------------------------------------------------------------------


@dataclass
class Points:
    """The points that a server passes, and what happens at one of them.

    "before commit of NOUN" and "after commit of NOUN" (see `_NOUNS`), "before signature of certificate" or "… crl" and
    "after …", "before replacing DIRECTORY" and "after replacing DIRECTORY" of a file in that directory.
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


def _watched_database(points: Points) -> type[SqliteDatabase]:
    class WatchedDatabase(SqliteDatabase):
        async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
            nouns: list[str] = []

            async def watched(transaction: Transaction) -> T:
                result = await body(_WatchedTransaction(transaction, nouns))
                for noun in nouns:
                    points.passed(f"before commit of {noun}")
                return result

            result = await super().write(watched)
            for noun in nouns:
                points.passed(f"after commit of {noun}")
            return result

    return WatchedDatabase


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
    app.stores.SqliteDatabase = _watched_database(points)  # type: ignore[attr-defined]  # as above
    jobs._SWEEP_SECONDS = plan.sweep_seconds  # type: ignore[misc]  # a dead process's work is taken up at once
    patience = Patience(stopping=plan.shutdown_seconds)
    (Listener.__init__.__kwdefaults__ or {})["patience"] = patience  # as above
    config = load_config(plan.config_path, {})
    ambient = Ambient(clock=lambda: datetime.now(UTC) + plan.clock, entropy=os.urandom)
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
    async with app.opened(config, ambient=ambient, open_key=open_key) as ca, app.serving(ca):
        ready.send("ready")
        await stop.wait()


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
