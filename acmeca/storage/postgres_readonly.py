"""A look at a PostgreSQL database without a trace: for checks and statistics, beside running servers.

Rule 1: nothing is written, and the schema stays what it is: one snapshot is read (`postgres_whole.py`), and a write is refused.
Rule 2: the server measures by itself. Rows are what its statistics say: about right, and at once.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from acmeca.storage.database import Reader, Row, Transaction, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.postgres_whole import WholeReader, read_whole
from acmeca.storage.schema import Standing
from acmeca.storage.sizes import FileSizes, TableSize

T = TypeVar("T")


class ReadOnlyPostgres:
    """A `Database` that only reads, all from one moment. Made by `open_read_only_postgres`."""

    def __init__(self, whole: WholeReader) -> None:
        self._whole = whole

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        return await self._whole.fetch_one(sql, *args)

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        return await self._whole.fetch_all(sql, *args)

    async def scan(self, sql: str, *args: Value) -> list[Row]:
        return await self._whole.fetch_all(sql, *args)

    @property
    def waiting_writes(self) -> int:
        return 0

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        yield self._whole

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:  # noqa: ARG002  (the interface has it)
        raise StorageError("the database was opened for reading only")

    async def close(self) -> None:
        """Nothing to do: whoever opened it closes it."""

    def schema_version(self) -> int:
        """The last schema step that the database has taken; 0 for one that is empty."""
        return self._whole.version

    async def standing(self) -> Standing:
        """Which steps of the schema it has taken, and who may work with it."""
        if self._whole.version == 0:
            return Standing(0, 0)
        row = await self.fetch_one("SELECT version, minimum FROM schema_version")
        return Standing(0, 0) if row is None else Standing(int(row["version"]), int(row["minimum"]))

    # --- Sizes ------------------------------------------------------------------------------------------------------

    async def files(self) -> FileSizes:
        row = await self.fetch_one("SELECT pg_database_size(current_database()) AS size")
        return FileSizes(database=0 if row is None else int(row["size"]), free=0, log=0)

    async def tables(self) -> list[TableSize]:
        rows = await self.fetch_all(
            "SELECT c.relname AS name, pg_total_relation_size(c.oid) AS size, GREATEST(s.n_live_tup, 0) AS live"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid"
            " WHERE n.nspname = current_schema() AND c.relkind = 'r' ORDER BY 2 DESC"
        )
        return [TableSize(str(row["name"]), int(row["live"] or 0), int(row["size"]), is_estimate=True) for row in rows]


@asynccontextmanager
async def open_read_only_postgres(url: str) -> AsyncIterator[ReadOnlyPostgres]:
    """The database at a `[storage] url`. Raises `StorageError` for one that cannot be reached or read."""
    async with read_whole(url) as whole:
        yield ReadOnlyPostgres(whole)
