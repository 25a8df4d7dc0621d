"""Databases for tests: real SQLite files, a look at their commits, a store that fails on demand, processes to kill."""

import asyncio
import contextlib
import itertools
import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from acmeca.audit import SYSTEM, ServerStarted
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Row, Transaction, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.schema import Step
from acmeca.storage.sqlite import SqliteDatabase, _run_in_thread

T = TypeVar("T")

REPOSITORY: Final = Path(__file__).parents[2]

NOTES: Final = (
    Step(
        1,
        "notes",
        """
        CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT NOT NULL, number BIGINT UNIQUE CHECK (number <> 13));
        CREATE TABLE pages (note_id TEXT NOT NULL REFERENCES notes (id), page BIGINT NOT NULL, PRIMARY KEY (note_id, page));
        CREATE TABLE blobs (id TEXT PRIMARY KEY, body BLOB NOT NULL);
        """,
    ),
)
"""A schema for tests of the driver itself."""


@contextlib.asynccontextmanager
async def open_database(
    path: Path, *, steps: Sequence[Step] | None = None, **options: Any
) -> AsyncIterator[SqliteDatabase]:
    """A database that is closed at the end; the program's own schema unless `steps` are given."""
    database = await SqliteDatabase.open(path, steps=steps, **options)
    try:
        yield database
    finally:
        await database.close()


@contextlib.contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else, in autocommit mode."""
    with contextlib.closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
        yield connection


async def in_writer(database: SqliteDatabase, work: Callable[[sqlite3.Connection], T]) -> T:
    """Run `work` on the writer's own connection, in its thread."""
    writer = database._writer
    return await _run_in_thread(writer._connection, partial(work, writer._committer.connection))


@contextlib.asynccontextmanager
async def traced(database: SqliteDatabase) -> AsyncIterator[list[str]]:
    """The statements that the writer runs, as they run."""
    statements: list[str] = []
    await in_writer(database, lambda connection: connection.set_trace_callback(statements.append))
    try:
        yield statements
    finally:
        await in_writer(database, lambda connection: connection.set_trace_callback(None))


class UnreliableDatabase:
    """A database whose next write fails on demand, before or after it was kept: a caller must live with either."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._failures: list[bool] = []

    def fail_next(self, *, kept: bool) -> None:
        """Let one more write raise `StorageError`; `kept` says whether it is committed all the same."""
        self._failures.append(kept)

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        return await self._database.fetch_one(sql, *args)

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        return await self._database.fetch_all(sql, *args)

    async def scan(self, sql: str, *args: Value) -> list[Row]:
        return await self._database.scan(sql, *args)

    @property
    def waiting_writes(self) -> int:
        return self._database.waiting_writes

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        if not self._failures:
            return await self._database.write(body)
        if self._failures.pop(0):
            await self._database.write(body)
            raise StorageError("failed on demand, after the commit")
        raise StorageError("failed on demand, before the commit")

    async def close(self) -> None:
        await self._database.close()


# --- processes of their own ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def start_python(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that can import `tests` and `acmeca`; it is killed, by its PID, when it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        process.wait(timeout=10)


async def write_forever(path: Path, prefix: str) -> None:
    """Write accounts with audit records from eight tasks until killed; print each id once its write was answered."""
    database = await SqliteDatabase.open(path)
    numbers = itertools.count()

    async def work(task: int) -> None:
        while True:
            name = f"{prefix}-{task}-{next(numbers)}"

            async def body(tx: Transaction, name: str = name) -> None:
                await tx.execute(
                    "INSERT INTO accounts (id, thumbprint, jwk, status, contact, created_at)"
                    " VALUES ($1, $1, '{}', 'valid', '[]', 0)",
                    name,
                )
                event = ServerStarted(actor=SYSTEM, version=name, config_sha256="")
                await append(tx, writer="child", at=datetime.now(UTC), event=event)

            await database.write(body)
            os.write(1, f"{name}\n".encode())

    await asyncio.gather(*(work(task) for task in range(8)))


async def fill_the_disk(path: Path, limit: int) -> None:
    """Write until no file may grow beyond `limit` bytes, lift the limit, write again; print what became of it as JSON."""
    database = await SqliteDatabase.open(path, steps=NOTES)

    async def insert(name: str) -> str:
        async def body(tx: Transaction) -> str:
            await tx.execute("INSERT INTO blobs (id, body) VALUES ($1, $2)", name, bytes(20_000))
            return name

        try:
            return await database.write(body)
        except StorageError as error:
            return f"failed: {error}"

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    full = [await asyncio.gather(*(insert(f"{batch}-{number}") for number in range(10))) for batch in range(10)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    after = await asyncio.gather(*(insert(f"after-{number}") for number in range(10)))
    await database.close()
    print(json.dumps({"full": full, "after": after}))  # noqa: T201
