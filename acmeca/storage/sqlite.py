"""The embedded database: SQLite in WAL mode, one writer with group commit, reads without a thread hop.

Rule 1: an acknowledged write survives a loss of power: `synchronous = FULL`, and callers are answered only after COMMIT
returned (RULES §6).
Rule 2: whatever waits is written in one transaction with one hop to the writer's thread; each body runs in a savepoint of
its own, so that one that fails rolls back alone.
Rule 3: bodies run in the writer's thread, reads inline on the event loop through a read-only connection (9 µs a row where a
hop costs 100 µs and more), scans in threads of their own. No connection is used by two threads.
Rule 4: no read leaves a statement open, so that no reader ever holds an old snapshot and with it the log's truncation.
Rule 5: of aiosqlite nothing private is used but `Connection._execute`, in `_run_in_thread` alone, under a test.
Rule 6: processes that share the file take turns by a lock of the kernel's, whose waiters are woken. SQLite's own waiters look
again at growing intervals, and under load that costs a tenth of a second at times.
"""

import asyncio
import fcntl
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar, cast

import aiosqlite

from acmeca.storage.database import Entry, Reader, Row, Seal, Transaction, Value
from acmeca.storage.errors import NotUniqueError, StorageError
from acmeca.storage.group_commit import Body, GroupCommit, Outcome
from acmeca.storage.observation import CommitObserver
from acmeca.storage.schema import Step, migrate, read_steps
from acmeca.storage.statements import parse_statement

T = TypeVar("T")

_QUEUE_LIMIT: Final = 2000  # writes that may wait while a commit is under way; 64 busy clients make it 63
_BUSY_TIMEOUT: Final = 5.0  # seconds a commit waits for another process (a backup, a person's sqlite3)
_READ_BUSY_TIMEOUT: Final = 0.5  # a reader waits only for the recovery of a log, and it holds the event loop meanwhile
_CACHED_STATEMENTS: Final = 512
_SCANS: Final = 2  # long reads at a time
_LOG_BYTES: Final = 64 << 20  # the log is cut to this after a checkpoint, should a long scan have let it grow
_LOG_LOOK: Final = 256  # commits between two looks at the log's size
_LOG_PATIENCE: Final = 100  # milliseconds for which the emptying of the log waits for a reader, and all writers with it

_WRITER_PRAGMAS: Final = (
    "PRAGMA synchronous = FULL",  # WAL with NORMAL loses acknowledged writes with the power
    "PRAGMA fullfsync = ON",  # macOS: fsync alone leaves the data in the drive
    "PRAGMA foreign_keys = ON",
    "PRAGMA wal_autocheckpoint = 1000",  # pages: 4 MB
    f"PRAGMA journal_size_limit = {_LOG_BYTES}",
    "PRAGMA secure_delete = OFF",  # some distributions switch it on; what is deleted here is no secret, and zeroing costs writes
    "PRAGMA trusted_schema = OFF",
    "PRAGMA temp_store = MEMORY",  # what a savepoint may have to undo would else be a file, made and deleted with each commit
    "PRAGMA cell_size_check = ON",
)


def _run(connection: sqlite3.Connection, sql: str, args: Sequence[Value]) -> tuple[list[Any], int]:
    """All rows of a statement, and how many it changed (-1 where SQLite does not say: SELECT, WITH).

    All at once: an open statement would keep its snapshot and could not be committed, and with RETURNING the count is
    known only at the end.
    """
    try:
        cursor = connection.execute(parse_statement(sql), args)
        return cursor.fetchall(), cursor.rowcount
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
        raise _storage_error(error) from error


_UNIQUE: Final = frozenset(
    {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID}
)
_ADVICE: Final[Mapping[int, str]] = MappingProxyType(
    {
        sqlite3.SQLITE_BUSY: "another process (a backup, a shell) holds it; end that",
        sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a backup",
        sqlite3.SQLITE_FULL: "make room on its disk",
        sqlite3.SQLITE_IOERR: "look at its disk and the system's log",
        sqlite3.SQLITE_NOTADB: "the file is something else, or damaged; restore a backup",
        sqlite3.SQLITE_READONLY: "give this user the right to write to the file and its directory",
    }
)


def _storage_error(error: Exception) -> StorageError:
    """The library's exception as one of ours. SQLite's texts name columns, never values."""
    if isinstance(error, StorageError):
        return error
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code in _UNIQUE:
        return NotUniqueError(tuple(str(error).partition(": ")[2].split(", ")))
    if isinstance(error, OverflowError | UnicodeEncodeError):  # their texts may hold the value
        return StorageError("a value cannot be kept: an integer beyond 64 bits, or text that is not Unicode")
    advice = "" if code is None else _ADVICE.get(code & 0xFF, "")
    return StorageError(f"the database refused: {error}" + (f" ({advice})" if advice else ""))


# --- the writer ---------------------------------------------------------------------------------------------------


class _SqliteTransaction:
    """The `Transaction` one body is given; its methods never suspend."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._finished = False
        self.entries: list[Entry] = []

    def journal(self, entry: Entry) -> None:
        self._require_open()
        self.entries.append(entry)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        self._require_open()
        rows = _run(self._connection, sql, args)[0]
        return rows[0] if rows else None

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        self._require_open()
        return _run(self._connection, sql, args)[0]

    async def execute(self, sql: str, *args: Value) -> int:
        self._require_open()
        _, changed = _run(self._connection, sql, args)
        if changed < 0:  # a compare-and-swap must not guess
            raise StorageError(f"execute is for INSERT, UPDATE and DELETE, not for {sql!r}")
        return changed

    def finish(self) -> None:
        """From here on the transaction belongs to somebody else."""
        self._finished = True

    def _require_open(self) -> None:
        if self._finished:
            raise StorageError("a transaction was used after its write had ended")
        # After some errors (disk full, out of memory) SQLite has rolled everything back by itself. A body that goes on
        # nevertheless would write outside of any transaction.
        if not self._connection.in_transaction:
            raise StorageError("the transaction was rolled back after an error before")


@dataclass(frozen=True, slots=True)
class _Committer:
    """What the writer's thread needs to commit."""

    connection: sqlite3.Connection
    seal: Seal | None
    turns: int  # the descriptor of the file by which processes take turns

    def commit(self, bodies: Sequence[Body]) -> list[Outcome]:
        """Run all bodies in one transaction. When this raises, none of them is kept."""
        with _turn(self.turns):
            return self._commit(bodies)

    def empty_log(self) -> None:
        """Copy the log into the database and cut it to nothing, unless a reader is at it for long."""
        connection = self.connection
        (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
        with _turn(self.turns):
            connection.execute(f"PRAGMA busy_timeout = {_LOG_PATIENCE}").fetchall()
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {patience}").fetchall()

    def _commit(self, bodies: Sequence[Body]) -> list[Outcome]:
        connection = self.connection
        journalled: int | None = None
        try:
            if connection.in_transaction:  # a rollback failed before
                connection.execute("ROLLBACK")
            connection.execute("BEGIN IMMEDIATE")
            entries: list[Entry] = []
            if len(bodies) == 1:  # it needs no savepoint: what undoes it undoes everything
                outcomes = [_run_alone(connection, bodies[0], entries)]
                if outcomes[0].error is not None:
                    return outcomes
            else:
                outcomes = [_run_body(connection, body, entries) for body in bodies]
            if self.seal is not None:
                transaction = _SqliteTransaction(connection)
                number = _run_now(self.seal.number(transaction))
                transaction.finish()
                if entries:
                    self.seal.append(number, entries)
                    journalled = number
            connection.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # the next batch tries again
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if journalled is not None and self.seal is not None and not _may_be_kept(connection, error):
                self.seal.withdraw(journalled)
            raise
        return outcomes


@contextmanager
def _turn(turns: int) -> Iterator[None]:
    """Rule 6."""
    fcntl.flock(turns, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(turns, fcntl.LOCK_UN)


def _may_be_kept(connection: sqlite3.Connection, error: BaseException) -> bool:
    """Whether a commit that failed could still be found done: after an I/O error, should the power fail right now."""
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return connection.in_transaction or code & 0xFF == sqlite3.SQLITE_IOERR


def _run_alone(connection: sqlite3.Connection, body: Body, entries: list[Entry]) -> Outcome:
    """Run the only body of a transaction, which is rolled back when it fails."""
    transaction = _SqliteTransaction(connection)
    try:
        value = _run_now(body(transaction))
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
            return Outcome(error=error)
        raise _undone(error) from error  # SQLite rolled back by itself
    finally:
        transaction.finish()
    entries += transaction.entries
    return Outcome(value=value)


def _run_body(connection: sqlite3.Connection, body: Body, entries: list[Entry]) -> Outcome:
    """Run one body in a savepoint. What it raises is an outcome; what is raised here ends the whole batch.

    What it journals is added to `entries` when it succeeds.
    """
    connection.execute("SAVEPOINT body")
    transaction = _SqliteTransaction(connection)
    try:
        outcome = Outcome(value=_run_now(body(transaction)))
    except BaseException as error:  # noqa: BLE001  (it is its caller's, whatever it is; the writer lives on)
        outcome = Outcome(error=error)
        if connection.in_transaction:
            connection.execute("ROLLBACK TO body")
    finally:
        transaction.finish()
    if not connection.in_transaction:  # SQLite rolled back by itself, and nothing of the batch is left
        raise _undone(outcome.error) from outcome.error
    connection.execute("RELEASE body")
    if outcome.error is None:
        entries += transaction.entries
    return outcome


def _undone(error: BaseException | None) -> StorageError:
    """What the callers of a commit that SQLite ended by itself are told. The text of an error of another kind may hold a value."""
    return StorageError(str(error) if isinstance(error, StorageError) else "the commit was rolled back after an error")


def _run_now(awaitable: Awaitable[T]) -> T:
    """Run what never suspends to its end, without an event loop."""
    steps = awaitable.__await__()
    try:
        next(steps)
    except StopIteration as end:
        return cast("T", end.value)
    steps.close()
    raise RuntimeError("the body of a write awaited something other than its transaction")


async def _run_in_thread(connection: aiosqlite.Connection, work: Callable[[], T]) -> T:
    """Run `work` in the connection's thread: one hop, however much it does.

    aiosqlite's public calls hop once a statement. What this relies on: `_execute` calls its argument in the thread that
    opened the connection, and returns or raises what that did.
    """
    return cast("T", await connection._execute(work))  # type: ignore[no-untyped-call]  # noqa: SLF001


class _Writer:
    """Commits in the connection's thread, one hop for all that waits."""

    def __init__(self, connection: aiosqlite.Connection, committer: _Committer, *, path: Path, log_bytes: int) -> None:
        self._connection = connection
        self._committer = committer  # used in the connection's thread alone
        self._log_path = path.with_name(path.name + "-wal")
        self._log_bytes = log_bytes
        self._commits = 0

    async def commit(self, bodies: Sequence[Body]) -> list[Outcome]:
        try:
            outcomes = await _run_in_thread(self._connection, partial(self._committer.commit, bodies))
        except StorageError:
            raise
        except Exception as error:
            raise _storage_error(error) from error
        await self._bound_log()
        return outcomes

    async def close(self) -> None:
        """Empty the log into the database, end the thread."""
        # A checkpoint that fails loses nothing: the log is read when the database is opened next.
        with suppress(sqlite3.Error):
            await _run_in_thread(self._connection, self._committer.empty_log)
        await self._connection.close()

    async def _bound_log(self) -> None:
        """SQLite starts the log anew only in a moment without readers; under load from several processes there may be none."""
        self._commits += 1
        if self._commits % _LOG_LOOK:
            return
        with suppress(OSError, sqlite3.Error):
            if self._log_path.stat().st_size > self._log_bytes:
                await _run_in_thread(self._connection, self._committer.empty_log)


# --- the database -------------------------------------------------------------------------------------------------


class SqliteDatabase:
    """A `Database` in one file. Made by `open`."""

    def __init__(
        self, path: Path, queue: GroupCommit, writer: _Writer, reader: sqlite3.Connection, *, turns: int
    ) -> None:
        self._path = path
        self._queue = queue
        self._writer = writer
        self._reader = reader
        self._turns = turns
        self._scans = ThreadPoolExecutor(max_workers=_SCANS, thread_name_prefix="acmeca-scan")
        self._close_lock = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        seal: Seal | None = None,
        observer: CommitObserver | None = None,
        steps: Sequence[Step] | None = None,
        busy_timeout: float = _BUSY_TIMEOUT,
        queue_limit: int = _QUEUE_LIMIT,
        stuck: float = 10.0,
        log_bytes: int = _LOG_BYTES,
    ) -> Self:
        """Open the database, made with mode 0600 when it is not there, and bring its schema up to date.

        `seal` numbers and journals the commits, `observer` is told of them; `steps` are the program's own unless given; `busy_timeout` is how many
        seconds a commit waits for another program (a backup, a shell); `queue_limit` is how many writes may wait; `stuck` is
        after how many seconds a commit counts as stuck, and `log_bytes` how long the log may grow. Raises `StorageError`.
        """
        _require_private(path)
        turns_path = path.with_name(path.name + "-turns")
        _require_private(turns_path)
        opened: list[sqlite3.Connection] = []

        def connect() -> sqlite3.Connection:
            opened.append(
                sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, cached_statements=_CACHED_STATEMENTS)
            )
            return opened[0]

        turns = os.open(turns_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            connection = await aiosqlite.Connection(connect, iter_chunk_size=64)
            # Not in `connect`: when that fails, aiosqlite lets its thread go without waiting for its end.
            try:
                await _run_in_thread(
                    connection, partial(_prepare_writer, opened[0], read_steps() if steps is None else steps)
                )
                reader = _open_reader(path)
            except BaseException:
                await connection.close()
                raise
        except BaseException as error:
            os.close(turns)
            if isinstance(error, sqlite3.Error):
                raise _storage_error(error) from error
            raise
        writer = _Writer(connection, _Committer(opened[0], seal, turns), path=path, log_bytes=log_bytes)
        queue = GroupCommit(
            writer.commit,
            queue_limit=queue_limit,
            batch_limit=queue_limit,
            name="acmeca-sqlite-writer",
            observer=observer,
            stuck=stuck,
        )
        return cls(path, queue, writer, reader, turns=turns)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        rows = _run(self._reader, sql, args)[0]
        return rows[0] if rows else None

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        return _run(self._reader, sql, args)[0]

    @property
    def waiting_writes(self) -> int:
        return self._queue.waiting

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        return cast("T", await self._queue.write(body))

    async def scan(self, sql: str, *args: Value) -> list[Row]:
        if self._closed:
            raise StorageError("the database is closed")
        return await asyncio.get_running_loop().run_in_executor(self._scans, _scan, self._path, sql, args)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        if self._closed:
            raise StorageError("the database is closed")
        async with read_snapshot(self._path) as reader:
            yield reader

    async def close(self) -> None:
        async with self._close_lock:
            if self._closed:
                return
            self._closed = True
            # Readers go first, for the log is emptied only when nobody reads it.
            self._reader.close()
            await asyncio.to_thread(self._scans.shutdown)
            await self._queue.close()
            await self._writer.close()
            os.close(self._turns)


def _require_private(path: Path) -> None:
    """Make the file, for its owner alone, or see that it is so: it holds what only the CA may read and write.

    SQLite gives its log and its index of the log the same mode.
    """
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        # Looked at, not opened: closing a file drops the locks that this process has on it.
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise StorageError(f"cannot create or read {path}: {error.strerror}") from error
    if mode & 0o077:
        raise StorageError(f"{path} has mode {mode:04o}, but is for its owner alone: chmod 600 {path}")


def _prepare_writer(connection: sqlite3.Connection, steps: Sequence[Step]) -> None:
    """Set the new connection up and bring the schema up to date, in the writer's thread."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StorageError(f"the database's file system has no shared memory (journal mode {mode}): use a local disk")
    for pragma in _WRITER_PRAGMAS:
        connection.execute(pragma).fetchall()
    migrate(connection, steps)
    connection.row_factory = sqlite3.Row


def _open_reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=_READ_BUSY_TIMEOUT,
        isolation_level=None,
        cached_statements=_CACHED_STATEMENTS,
    )
    connection.row_factory = sqlite3.Row
    return connection


def _scan(path: Path, sql: str, args: Sequence[Value]) -> list[Row]:
    try:
        connection = _open_reader(path)
    except sqlite3.Error as error:
        raise _storage_error(error) from error
    with closing(connection):
        return _run(connection, sql, args)[0]


# --- one moment of it ---------------------------------------------------------------------------------------------


@contextmanager
def open_snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees one moment of a database, beside its writers or without any, and writes nothing.

    The log is not emptied as long as it lasts; the next commits after it do that. It is opened as a writer would open it, for a
    reader of a file that nobody has open yet could not keep one away that comes later. Raises `StorageError`.
    """
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=_BUSY_TIMEOUT,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise _storage_error(error) from error
    with closing(connection):
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()  # from here on nothing changes
        except sqlite3.Error as error:
            raise _storage_error(error) from error
        yield connection


@asynccontextmanager
async def read_snapshot(path: Path) -> AsyncIterator["SnapshotReader"]:
    """The same as a `Reader`, in a thread of its own."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="acmeca-snapshot") as thread:
        loop = asyncio.get_running_loop()
        context = open_snapshot(path)
        connection = await loop.run_in_executor(thread, context.__enter__)
        try:
            version = await loop.run_in_executor(thread, _schema_version, connection)
            connection.row_factory = sqlite3.Row
            yield SnapshotReader(connection, thread, version)
        finally:
            await loop.run_in_executor(thread, context.__exit__, None, None, None)


def _schema_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@dataclass(frozen=True, slots=True)
class SnapshotReader:
    """A `Reader` of one moment; `version` is the schema's."""

    connection: sqlite3.Connection
    thread: ThreadPoolExecutor
    version: int

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        rows = await self.fetch_all(sql, *args)
        return rows[0] if rows else None

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        found = await asyncio.get_running_loop().run_in_executor(self.thread, _run, self.connection, sql, args)
        return found[0]
