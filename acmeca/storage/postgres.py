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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Self, TypeVar, cast

from acmeca.errors import Busy
from acmeca.storage.database import Entry, Reader, Row, Seal, Transaction, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.group_commit import Body, GroupCommit, Outcome
from acmeca.storage.observation import CommitObserver
from acmeca.storage.postgres_bodies import GoesOnError, answer_in_savepoint, run_body
from acmeca.storage.postgres_readers import Patience, Readers
from acmeca.storage.postgres_schema import WRITERS_LOCK, migrate
from acmeca.storage.postgres_session import (
    Limits,
    LockTimeoutError,
    LostConnectionError,
    Session,
    UncertainError,
    connect,
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
_LONG_SILENCE: Final = 0.5  # seconds

_BEGIN: Final = (
    f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock({WRITERS_LOCK}); SAVEPOINT body"
)
_NEXT_BODY: Final = "RELEASE SAVEPOINT body; SAVEPOINT body"
_UNDO_BODY: Final = "ROLLBACK TO SAVEPOINT body"  # the savepoint stays, for the next body


# --- the writer ---------------------------------------------------------------------------------------------------


class _LostCommitError(Exception):
    """The answer to a COMMIT was lost. `number` is what the seal gave it; None without a seal."""

    def __init__(self, outcomes: list[Outcome], number: int | None, reason: str) -> None:
        super().__init__(reason)
        self.outcomes = outcomes
        self.number = number


class _Writer:
    """The session that writes, and the way back to one."""

    def __init__(
        self, session: Session, *, reconnect: Callable[[], Awaitable[Session]], limits: Limits, seal: Seal | None
    ) -> None:
        self._session = session
        self._reconnect = reconnect
        self._limits = limits
        self._seal = seal
        self._patience = Patience(limits.patience)

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
        number = None if self._seal is None else (await run_body(session, self._seal.number, may_go_on=True))[0]
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
                value, entries = await run_body(session, body, may_go_on=False)
            except GoesOnError:
                await session.run(_UNDO_BODY)
                value, entries = await run_body(session, body, answer=answer_in_savepoint, may_go_on=True)
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

                kept, _ = await run_body(session, ask, may_go_on=True)
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


# --- the database -------------------------------------------------------------------------------------------------


class PostgresDatabase:
    """A `Database` that several processes on several hosts share. Made by `open`."""

    def __init__(
        self, queue: GroupCommit, writer: _Writer, readers: Readers, scanners: Readers, *, url: str, limits: Limits
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
        pools: list[Readers] = []

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

        session = await Patience(limits.patience).connect(make_first)
        writer = _Writer(session, reconnect=make_writer, limits=limits, seal=seal)
        pools += [
            Readers(make_reader(seconds), size=size, wait=limits.answer, patience=limits.patience)
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
