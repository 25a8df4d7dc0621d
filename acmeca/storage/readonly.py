"""A look at a database without a trace: for checks, beside a running server or instead of it.

Rule 1: nothing is written: not a row, not the schema, not the log. A write is refused.
Rule 2: while the database has a log (`-wal`), somebody has it open or was killed; then it is read as SQLite reads beside a
writer. That may renew the log's index (`-shm`), which holds nothing of its own. Without a log nobody has it open, and it is read
as a file that does not change (`immutable=1`): SQLite would otherwise make a log only to look.
Rule 3: calls block. There is no server behind them whose event loop would have to turn.
"""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from acmeca.storage.database import Reader, Row, Transaction, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.schema import Standing
from acmeca.storage.statements import parse_statement

T = TypeVar("T")

_BUSY_TIMEOUT: Final = 2.0  # seconds; a reader waits only while a log is recovered


class ReadOnlyDatabase:
    """A `Database` that only reads. Made by `open_read_only`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        rows = self._run(sql, args)
        return rows[0] if rows else None

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        return self._run(sql, args)

    async def scan(self, sql: str, *args: Value) -> list[Row]:
        return self._run(sql, args)

    @property
    def waiting_writes(self) -> int:
        return 0

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Reader]:
        try:
            self._connection.execute("BEGIN")
            yield self
        except sqlite3.Error as error:
            raise _storage_error(error) from error
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:  # noqa: ARG002  (the interface has it)
        raise StorageError("the database was opened for reading only")

    async def close(self) -> None:
        self._connection.close()

    def schema_version(self) -> int:
        """The last schema step that the database has taken; 0 for one that is not acmeca's."""
        return cast("int", self._pragma("user_version")[0][0])

    async def standing(self) -> Standing:
        """Which steps of the schema it has taken, and who may work with it."""
        version = self.schema_version()
        if not self._run("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'", ()):
            return Standing(version, version)
        return Standing(version, cast("int", self._run("SELECT minimum FROM schema_version", ())[0]["minimum"]))

    def pages(self) -> tuple[int, int, int]:
        """The bytes of a page, how many pages there are, and how many of them are free."""
        size, count, free = (self._pragma(name)[0][0] for name in ("page_size", "page_count", "freelist_count"))
        return size, count, free

    def faults(self, limit: int = 10) -> list[str]:
        """What SQLite finds wrong with the file's structure, at most `limit` lines: pages, rows and types, no indexes."""
        return [text for (text,) in self._pragma(f"quick_check({limit:d})") if text != "ok"]

    def _run(self, sql: str, args: tuple[Value, ...]) -> list[Any]:
        try:
            return self._connection.execute(parse_statement(sql), args).fetchall()
        except sqlite3.Error as error:
            raise _storage_error(error) from error

    def _pragma(self, pragma: str) -> list[Any]:
        try:
            return self._connection.execute(f"PRAGMA {pragma}").fetchall()  # no value but our own goes in
        except sqlite3.Error as error:
            raise _storage_error(error) from error


@contextmanager
def open_read_only(path: Path) -> Iterator[ReadOnlyDatabase]:
    """The database at `path`, which has to exist. Raises `StorageError` for one that cannot be read.

    Where a server starts in the middle of a look at a database without a log, what is read may be a mixture: see
    `has_log` afterwards, and look again.
    """
    unchanging = "" if has_log(path) else "&immutable=1"
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro{unchanging}", uri=True, timeout=_BUSY_TIMEOUT, isolation_level=None
        )
    except sqlite3.Error as error:
        raise _storage_error(error) from error
    connection.row_factory = sqlite3.Row
    try:
        yield ReadOnlyDatabase(connection)
    finally:
        connection.close()


def has_log(path: Path) -> bool:
    """Whether a process has the database open for writing, or ended without closing it."""
    return path.with_name(path.name + "-wal").exists()


def _storage_error(error: sqlite3.Error) -> StorageError:
    return StorageError(f"the database cannot be read: {error}")
