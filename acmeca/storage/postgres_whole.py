"""A PostgreSQL database as a whole: read from one snapshot, or filled by one transaction.

Rule 1: a snapshot is a REPEATABLE READ transaction that only reads: it sees one moment, holds no writer up, and may last.
Rule 2: an empty database is filled in one transaction, under the lock that every writer takes: it is whole or still empty. What
was put in is read back before the commit.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from acmeca.storage.database import Reader, Row, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.postgres_schema import WRITERS_LOCK, read_standing
from acmeca.storage.postgres_session import (
    Limits,
    LostConnectionError,
    Session,
    UnreachableError,
    connect,
    require_statement,
)
from acmeca.storage.postgres_url import PostgresUrl
from acmeca.storage.tables import Table, Values

_STATEMENT: Final = 3600.0  # seconds for a page of rows, or for a COPY of some
_LONG: Final = f"SET LOCAL statement_timeout = '{_STATEMENT:g}s'; SET LOCAL idle_in_transaction_session_timeout = '1h'"
_BEGIN_SNAPSHOT: Final = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_LONG}"
_BEGIN_LOADING: Final = f"BEGIN; {_LONG}; SELECT pg_advisory_xact_lock({WRITERS_LOCK})"


@dataclass(frozen=True, slots=True)
class WholeReader:
    """A `Reader` of one transaction; `version` is the schema's."""

    session: Session
    version: int

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        rows = await self.fetch_all(sql, *args)
        return rows[0] if rows else None

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        require_statement(sql)
        return await self.session.fetch(sql, args)


@dataclass(frozen=True, slots=True)
class Loader(WholeReader):
    """The same, for a transaction that fills the database."""

    async def load(self, table: Table, rows: Sequence[Values]) -> None:
        """Add rows; their parents are there already. Raises `StorageError`."""
        await self.session.load(table.name, table.columns, rows, answer=_STATEMENT)


@asynccontextmanager
async def read_whole(url: str, *, limits: Limits | None = None) -> AsyncIterator[WholeReader]:
    """One moment of a database (rule 1). Raises `StorageError`."""
    session = await _connect(url, limits, is_writer=False)
    try:
        with _told():
            await session.run(_BEGIN_SNAPSHOT)
            standing = await read_standing(session)
            yield WholeReader(session, standing.version)
    finally:
        await _end(session)


@asynccontextmanager
async def load_whole(url: str, tables: Sequence[Table], *, limits: Limits | None = None) -> AsyncIterator[Loader]:
    """Fill a database, whose schema is there and whose tables are empty (rule 2). Committed at the end of the block.

    Raises `StorageError`, also when a table holds something.
    """
    session = await _connect(url, limits, is_writer=True)
    try:
        with _told():
            await session.run(_BEGIN_LOADING)
            loader = Loader(session, (await read_standing(session)).version)
            await require_empty(loader, tables)
            yield loader
            await session.commit()
            with suppress(StorageError):  # the planner does without for a while
                await session.run("ANALYZE", answer=_STATEMENT)
    finally:
        await _end(session)


async def require_empty(reader: Reader, tables: Sequence[Table]) -> None:
    """Raise `StorageError` when one of the tables holds something."""
    for table in tables:
        if await reader.fetch_one(f"SELECT 1 FROM {table.name} LIMIT 1") is not None:
            raise StorageError(
                f"the database is not empty (its table {table.name} holds rows): use an empty one, like one just made by "
                "CREATE DATABASE"
            )


async def _connect(url: str, limits: Limits | None, *, is_writer: bool) -> Session:
    try:
        parsed = PostgresUrl.parse(url)
    except ValueError as error:
        raise StorageError(str(error)) from None
    unique: Mapping[str, tuple[str, ...]] = {}
    with _told():
        return await connect(parsed, limits or Limits(), unique=unique, is_writer=is_writer, statement=_STATEMENT)


@contextmanager
def _told() -> Iterator[None]:
    """What the driver keeps to itself is told as what it means here."""
    try:
        yield
    except UnreachableError as error:
        raise StorageError(f"the database cannot be reached: {error}") from None
    except LostConnectionError as error:
        raise StorageError(f"the connection to the database was lost: {error}") from None


async def _end(session: Session) -> None:
    """Have no transaction and no session."""
    if not session.is_lost and session.is_in_transaction:
        with suppress(StorageError):
            await session.run("ROLLBACK")
    if session.is_lost:
        session.drop()
    else:
        await session.close()
