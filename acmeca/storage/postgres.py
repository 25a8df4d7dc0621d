"""PostgreSQL for a CA on several hosts: one writer for each process with group commit, a few sessions for reads.

Rule 1: an acknowledged write was committed and is durable: callers are answered after COMMIT returned, and a session whose
`synchronous_commit` would wait for less than the disk is told to wait for it.
Rule 2: whatever waits is written in one transaction, each body in a savepoint, one after another. The transaction begins with
a lock that all processes share, so bodies of different processes never interleave; it is READ COMMITTED, so each statement sees
what was committed before.
Rule 3: a connection that is lost loses no acknowledged write and does none twice. Before COMMIT was sent the transaction is
surely gone, and the bodies run again. After that only the seal can tell: it is asked, under the lock, once a session is back.
Rule 4: every wait has an end, and an outage that outlasts the patience is told to every caller (`postgres_session.Limits`).
Rule 5: when the writer had to look for the database anew, the sessions of the readers are made anew too: what was the primary may
still answer.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, Final, Self, TypeAlias, TypeVar, cast

from acmeca.errors import Busy
from acmeca.storage.database import Entry, Reader, Row, Seal, Transaction, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.group_commit import Body, GroupCommit, Outcome
from acmeca.storage.observation import CommitObserver
from acmeca.storage.postgres_schema import WRITERS_LOCK, migrate
from acmeca.storage.postgres_session import (
    Limits,
    LockTimeoutError,
    LostConnectionError,
    Session,
    UncertainError,
    UnreachableError,
    connect,
    require_statement,
)
from acmeca.storage.postgres_url import PostgresUrl
from acmeca.storage.postgres_whole import read_whole
from acmeca.storage.schema import Step, read_steps

T = TypeVar("T")

_QUEUE_LIMIT: Final = 2000  # writes that may wait while a commit is under way
_BATCH_LIMIT: Final = (
    60  # bodies of one commit: a session keeps 64 subtransactions at hand, more slow every reader down
)
_READERS: Final = 4  # quick reads at a time
_SCANS: Final = 2  # long ones
_FIRST_DELAY: Final = 0.05  # seconds between two attempts to connect, doubled each time
_LONGEST_DELAY: Final = 1.0
_LONG_SILENCE: Final = 0.5  # seconds

_BEGIN: Final = (
    f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock({WRITERS_LOCK}); SAVEPOINT body"
)
_NEXT_BODY: Final = "RELEASE SAVEPOINT body; SAVEPOINT body"
_UNDO_BODY: Final = "ROLLBACK TO SAVEPOINT body"  # the savepoint stays, for the next body


# --- bodies -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Request:
    """A statement that a body asks for."""

    sql: str
    args: tuple[Value, ...]
    is_change: bool


@coroutine
def _ask(request: _Request) -> Generator[_Request, Any, Any]:
    return (yield request)


@dataclass(slots=True)
class _PostgresTransaction:
    """The `Transaction` one body is given. Its methods hand a request to whoever runs the body (`_run_body`)."""

    entries: list[Entry] = field(default_factory=list)
    is_finished: bool = False

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        rows = await self.fetch_all(sql, *args)
        return rows[0] if rows else None

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        self._require_open()
        require_statement(sql)
        return cast("list[Row]", await _ask(_Request(sql, args, is_change=False)))

    async def execute(self, sql: str, *args: Value) -> int:
        self._require_open()
        require_statement(sql, is_change=True)
        return cast("int", await _ask(_Request(sql, args, is_change=True)))

    def journal(self, entry: Entry) -> None:
        self._require_open()
        self.entries.append(entry)

    def _require_open(self) -> None:
        if self.is_finished:
            raise StorageError("a transaction was used after its write had ended")


class _GoesOnError(Exception):
    """A body went on after a statement of it had failed, which has spoilt the transaction."""


_Answer: TypeAlias = Callable[[Session, _Request], Awaitable[object]]


async def _answer(session: Session, request: _Request) -> object:
    run = session.execute if request.is_change else session.fetch
    return await run(request.sql, request.args)


async def _answer_in_savepoint(session: Session, request: _Request) -> object:
    """The same, but a statement that fails is undone alone."""
    await session.run("SAVEPOINT statement")
    try:
        answer = await _answer(session, request)
    except LostConnectionError:
        raise
    except StorageError:
        await session.run("ROLLBACK TO SAVEPOINT statement")
        raise
    await session.run("RELEASE SAVEPOINT statement")
    return answer


async def _run_body(
    session: Session,
    body: Callable[[_PostgresTransaction], Awaitable[T]],
    *,
    answer: _Answer = _answer,
    may_go_on: bool,
) -> tuple[T, list[Entry]]:
    """Run a body step by step: it asks, `answer` answers. What it raises comes out; it may await its transaction only.

    Raises `_GoesOnError` when the body goes on after a failed statement and may not, and `LostConnectionError` past the body.
    """
    tx = _PostgresTransaction()
    steps = body(tx).__await__()
    answered: object = None
    failure: StorageError | None = None
    try:
        while True:
            try:
                request = steps.send(answered) if failure is None else steps.throw(failure)
            except StopIteration as end:
                if failure is not None and not may_go_on:
                    raise _GoesOnError from None
                return cast("T", end.value), tx.entries
            except BaseException as error:
                if failure is not None and error is not failure and not may_go_on:
                    raise _GoesOnError from None
                raise
            if not isinstance(request, _Request):
                raise RuntimeError(  # noqa: TRY004  (it is not the type of a value that is wrong)
                    "the body of a write awaited something other than its transaction"
                )
            if failure is not None and not may_go_on:
                raise _GoesOnError
            answered, failure = None, None
            try:
                answered = await answer(session, request)
            except LostConnectionError:
                raise
            except StorageError as error:
                failure = error
    finally:
        tx.is_finished = True
        with suppress(Exception):  # what a body does in a `finally` once it was left is of no account any more
            steps.close()


# --- the writer ---------------------------------------------------------------------------------------------------


class _LostCommitError(Exception):
    """The answer to a COMMIT was lost. `number` is what the seal gave it; None without a seal."""

    def __init__(self, outcomes: list[Outcome], number: int | None, reason: str) -> None:
        super().__init__(reason)
        self.outcomes = outcomes
        self.number = number


class _Patience:
    """How long a database may be out of reach: from the moment it was lost until something was done again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lost_at: float | None = None

    def note_loss(self) -> None:
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()

    def note_success(self) -> None:
        self._lost_at = None

    def lasts(self, delay: float = 0.0) -> bool:
        """Whether it will not have ended in `delay` seconds. It is no shorter for one that finds the database lost already."""
        self.note_loss()
        now = asyncio.get_running_loop().time()
        return self._lost_at is not None and now + delay < self._lost_at + self._seconds

    async def connect(self, make: Callable[[], Awaitable[Session]]) -> Session:
        """Try to connect at least once, and again while the patience lasts. Raises `StorageError`."""
        delay = _FIRST_DELAY
        while True:
            try:
                return await make()
            except (UnreachableError, LostConnectionError) as error:
                pause = delay * random.uniform(0.5, 1.5)  # noqa: S311  (so that many servers do not come at once)
                if not self.lasts(pause):
                    raise StorageError(f"the database cannot be reached: {error}") from None
            await asyncio.sleep(pause)
            delay = min(2 * delay, _LONGEST_DELAY)


class _Writer:
    """The session that writes, and the way back to one."""

    def __init__(
        self, session: Session, *, reconnect: Callable[[], Awaitable[Session]], limits: Limits, seal: Seal | None
    ) -> None:
        self._session = session
        self._reconnect = reconnect
        self._limits = limits
        self._seal = seal
        self._patience = _Patience(limits.patience)

    async def commit(self, bodies: Sequence[Body]) -> list[Outcome]:
        """Run all bodies in one transaction, whatever becomes of the connection (rule 3)."""
        while True:
            session = await self._connected()
            try:
                outcomes = await self._commit_on(session, bodies)
            except LostConnectionError as error:
                self._note_loss()
                if not self._patience.lasts():
                    raise StorageError(f"the database does not hold its connections: {error}") from None
            except _LostCommitError as lost:
                self._note_loss()
                if await self._was_kept(lost):
                    self._patience.note_success()
                    return lost.outcomes
            except LockTimeoutError:
                await self._roll_back()
                raise Busy("another server's writes hold the database up; try again in a moment") from None
            except BaseException:
                await self._roll_back()
                raise
            else:
                self._patience.note_success()
                return outcomes

    async def close(self) -> None:
        await self._session.close()

    async def _connected(self) -> Session:
        if self._session.is_lost:
            self._patience.note_loss()
            self._session = await self._patience.connect(self._reconnect)
        return self._session

    def _note_loss(self) -> None:
        self._session.drop()
        self._patience.note_loss()

    async def _roll_back(self) -> None:
        """Have no transaction, or no session."""
        if self._session.is_lost or not self._session.is_in_transaction:
            return
        try:
            await self._session.run("ROLLBACK")
        except BaseException as error:
            self._session.drop()
            if not isinstance(error, StorageError):
                raise

    async def _commit_on(self, session: Session, bodies: Sequence[Body]) -> list[Outcome]:
        # Step 1: the lock, and the first savepoint with it.
        await session.run(_BEGIN)
        # Step 2: the bodies.
        outcomes: list[Outcome] = []
        entries: list[Entry] = []
        before = ""
        for body in bodies:
            if before:
                await session.run(before)
            outcome, journalled = await self._run_in_savepoint(session, body)
            outcomes.append(outcome)
            entries += journalled
            before = _NEXT_BODY if outcome.error is None else _UNDO_BODY
        if all(outcome.error is not None for outcome in outcomes):
            await session.run("ROLLBACK")
            return outcomes
        if before == _UNDO_BODY:
            await session.run(before)
        await self._seal_and_commit(session, outcomes, entries)
        return outcomes

    async def _seal_and_commit(self, session: Session, outcomes: list[Outcome], entries: Sequence[Entry]) -> None:
        # Step 3: the seal's number, and its journal beside the event loop.
        number = None if self._seal is None else (await _run_body(session, self._seal.number, may_go_on=True))[0]
        if self._seal is not None and number is not None and entries:
            await asyncio.to_thread(self._seal.append, number, entries)
        # Step 4: see that there is a transaction yet. After a long silence (a slow disk under the journal, a process that was
        # stopped) the server may have thrown us out, which we would hear of as the answer to COMMIT only, and not know.
        try:
            if session.is_lost or session.silence > _LONG_SILENCE:
                await session.run("SELECT 1")
        except LostConnectionError:
            self._withdraw(number, entries)
            raise
        # Step 5: the commit.
        try:
            await session.commit()
        except UncertainError:
            raise
        except LostConnectionError as error:
            raise _LostCommitError(outcomes, number, str(error)) from None
        except StorageError:
            self._withdraw(number, entries)
            raise

    async def _run_in_savepoint(self, session: Session, body: Body) -> tuple[Outcome, list[Entry]]:
        """What a body came to, with its savepoint still open. What is raised here ends the whole batch.

        A failed statement spoils the whole transaction, unless a savepoint was set before it. That costs two round trips a
        statement, and hardly any body goes on after a failure. So a body is run without; when it does go on, it is undone and
        run again from its beginning, each statement in a savepoint of its own.
        """
        try:
            try:
                value, entries = await _run_body(session, body, may_go_on=False)
            except _GoesOnError:
                await session.run(_UNDO_BODY)
                value, entries = await _run_body(session, body, answer=_answer_in_savepoint, may_go_on=True)
        except LostConnectionError:
            raise
        except BaseException as error:  # it is its caller's, whatever it is; the writer lives on
            if _is_being_cancelled():
                raise
            return Outcome(error=error), []
        return Outcome(value=value), entries

    async def _was_kept(self, lost: _LostCommitError) -> bool:
        """Ask the seal, once the transaction has ended one way or the other: its lock says when."""
        if self._seal is None or lost.number is None:
            raise StorageError(f"the answer to a commit was lost, and the write may have been kept: {lost}")
        seal, number = self._seal, lost.number
        while True:
            try:
                session = await self._connected()
                await session.run(_BEGIN)

                async def ask(reader: Reader) -> bool:
                    return await seal.has_number(reader, number)

                kept, _ = await _run_body(session, ask, may_go_on=True)
                await session.run("ROLLBACK")
            except LostConnectionError:
                self._note_loss()
            except LockTimeoutError:  # it still waits for a standby
                await self._roll_back()
            except StorageError as error:
                await self._roll_back()
                raise StorageError(
                    f"the answer to a commit was lost, and the write may have been kept: {error}"
                ) from error
            else:
                if not kept:
                    self._seal.withdraw(number)
                return kept
            if not self._patience.lasts():
                raise StorageError(f"the answer to a commit was lost, and the write may have been kept: {lost}")

    def _withdraw(self, number: int | None, entries: Sequence[Entry]) -> None:
        if self._seal is not None and number is not None and entries:
            self._seal.withdraw(number)


def _is_being_cancelled() -> bool:
    """Whether it is this task that shall end, and not a body that raised as if it were."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


# --- the readers --------------------------------------------------------------------------------------------------


class _Readers:
    """Sessions that read, made when they are needed and kept for the next one."""

    def __init__(self, make: Callable[[], Awaitable[Session]], *, size: int, wait: float, patience: float) -> None:
        self._make = make
        self._size = size
        self._wait = wait
        self._patience = _Patience(patience)
        self._slots = asyncio.Semaphore(size)
        self._idle: deque[Session] = deque()
        self._made: set[Session] = set()  # those of today: what was made before `renew` is not taken back
        self._closed = False

    async def fetch(self, sql: str, args: Sequence[Value]) -> list[Row]:
        """All rows of a statement, run again on a new session when the connection is lost."""
        require_statement(sql)
        if self._closed:
            raise StorageError("the database is closed")
        await self._take_slot()
        try:
            try:
                return await self._fetch(sql, args)
            except LostConnectionError:
                self._patience.note_loss()
                self.renew()
            try:
                return await self._fetch(sql, args)
            except LostConnectionError as error:
                self.renew()
                raise StorageError(f"the database does not hold its connections: {error}") from None
        finally:
            self._slots.release()

    def renew(self) -> None:
        """Have no session that is older than this moment, but those in use."""
        for session in self._idle:
            session.drop()
        self._idle.clear()
        self._made.clear()

    async def close(self) -> None:
        """Let what is under way end within the time a read may wait; after that it is told that the connection is lost."""
        self._closed = True
        sessions = set(self._made)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                for _ in range(self._size):
                    await self._slots.acquire()
        for session in sessions - set(self._idle):
            session.drop()
        for session in self._idle:
            await session.close()
        self._idle.clear()

    async def _take_slot(self) -> None:
        try:
            async with asyncio.timeout(self._wait):
                await self._slots.acquire()
        except TimeoutError:
            raise Busy(f"{self._size} reads hold the database for {self._wait:g} seconds already") from None
        if self._closed:
            self._slots.release()
            raise StorageError("the database is closed")

    async def _fetch(self, sql: str, args: Sequence[Value]) -> list[Row]:
        session = self._idle.pop() if self._idle else await self._patience.connect(self._make)
        self._made.add(session)
        try:
            rows = await session.fetch(sql, args)
        except LostConnectionError:
            self._forget(session)
            raise
        except StorageError:
            self._give_back(session)
            raise
        except BaseException:  # cancelled; the server ends the statement when it finds us gone
            self._forget(session)
            raise
        self._patience.note_success()
        self._give_back(session)
        return rows

    def _give_back(self, session: Session) -> None:
        if session in self._made and not session.is_lost and not self._closed:
            self._idle.append(session)
        else:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._made.discard(session)
        session.drop()


# --- the database -------------------------------------------------------------------------------------------------


class PostgresDatabase:
    """A `Database` that several processes on several hosts share. Made by `open`."""

    def __init__(
        self, queue: GroupCommit, writer: _Writer, readers: _Readers, scanners: _Readers, *, url: str, limits: Limits
    ) -> None:
        self._url = url
        self._limits = limits
        self._queue = queue
        self._writer = writer
        self._readers = readers
        self._scanners = scanners
        self._close_lock = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        seal: Seal | None = None,
        observer: CommitObserver | None = None,
        steps: Sequence[Step] | None = None,
        limits: Limits | None = None,
        queue_limit: int = _QUEUE_LIMIT,
    ) -> Self:
        """Connect, and bring the schema up to date. `url` is what `PostgresUrl.parse` reads.

        `steps` are the program's own unless given; `queue_limit` is how many writes may wait. Raises `StorageError`, without
        the password.
        """
        limits = limits or Limits()
        try:
            parsed = PostgresUrl.parse(url)
        except ValueError as error:
            raise StorageError(f"[storage] url: {error}") from None
        unique: dict[str, tuple[str, ...]] = {}
        pools: list[_Readers] = []

        async def make_writer() -> Session:
            session = await connect(parsed, limits, unique=unique, is_writer=True, statement=limits.statement)
            try:
                unique.update(await _unique_indexes(session))
            except BaseException:
                session.drop()
                raise
            for pool in pools:
                pool.renew()
            return session

        def make_reader(statement: float) -> Callable[[], Awaitable[Session]]:
            async def make() -> Session:
                return await connect(parsed, limits, unique=unique, is_writer=False, statement=statement)

            return make

        async def make_first() -> Session:
            session = await make_writer()
            try:
                await _require_usable(session)
                await migrate(session, read_steps("postgresql") if steps is None else steps)
                unique.update(await _unique_indexes(session))
            except BaseException:
                session.drop()
                raise
            return session

        session = await _Patience(limits.patience).connect(make_first)
        writer = _Writer(session, reconnect=make_writer, limits=limits, seal=seal)
        pools += [
            _Readers(make_reader(seconds), size=size, wait=limits.answer, patience=limits.patience)
            for seconds, size in ((limits.statement, _READERS), (limits.scan, _SCANS))
        ]
        queue = GroupCommit(
            writer.commit,
            queue_limit=queue_limit,
            batch_limit=_BATCH_LIMIT,
            name="acmeca-postgresql-writer",
            observer=observer,
            stuck=limits.patience + limits.answer,  # a failover is waited for, with all that has come meanwhile
        )
        return cls(queue, writer, *pools, url=url, limits=limits)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        rows = await self._readers.fetch(sql, args)
        return rows[0] if rows else None

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        return await self._readers.fetch(sql, args)

    @property
    def waiting_writes(self) -> int:
        return self._queue.waiting

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        return cast("T", await self._queue.write(body))

    async def scan(self, sql: str, *args: Value) -> list[Row]:
        return await self._scanners.fetch(sql, args)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        if self._closed:
            raise StorageError("the database is closed")
        async with read_whole(self._url, limits=self._limits) as reader:
            yield reader

    async def close(self) -> None:
        async with self._close_lock:
            if self._closed:
                return
            self._closed = True
            await self._queue.close()
            await asyncio.gather(self._readers.close(), self._scanners.close(), self._writer.close())


async def _require_usable(session: Session) -> None:
    """Raises `StorageError` for a server that does not keep what it acknowledges, or not the text that it is given."""
    (row,) = await session.fetch(
        "SELECT current_setting('fsync') AS fsync, current_setting('server_encoding') AS encoding,"
        " current_schema() IS NOT NULL AS has_schema",
        (),
    )
    if row["fsync"] != "on":
        raise StorageError(
            "the database server runs with fsync = off and would lose certificates with the power: set it on"
        )
    if row["encoding"] != "UTF8":
        raise StorageError(f"the database's encoding is {row['encoding']}: make it with ENCODING 'UTF8'")
    if not row["has_schema"]:
        raise StorageError("the database has no schema that acmeca's user may use: see its search_path")


async def _unique_indexes(session: Session) -> dict[str, tuple[str, ...]]:
    """Which columns the unique indexes have, as SQLite names them: `table.column`."""
    rows = await session.fetch(
        "SELECT c.relname::text AS name, t.relname || '.' || a.attname AS column_name"
        " FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid"
        " CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)"
        " JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.attnum"
        " JOIN pg_namespace n ON n.oid = t.relnamespace"
        " WHERE i.indisunique AND n.nspname = current_schema() ORDER BY c.relname, k.position",
        (),
    )
    columns: dict[str, tuple[str, ...]] = {}
    for row in rows:
        columns[row["name"]] = (*columns.get(row["name"], ()), row["column_name"])
    return columns
