"""Whole databases, whatever engine they are on: read at one moment, and written somewhere else, whole or not at all.

Rule 1: the source is read from one snapshot and never written to, not even to bring its schema up to date.
Rule 2: the target is new or empty. An SQLite file is written as `NAME.part` and gets its name at the end; a PostgreSQL database
is filled by one transaction.
Rule 3: a copy is proven: what the target holds is read back, and each table's rows and digest are those of the source
(`tables.py`, rule 3).
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from acmeca.errors import Conflict
from acmeca.storage.backup import (
    BackupError,
    Fill,
    OnProgress,
    copy_pages,
    part_file,
    require_sound,
    sync_directory,
    writing_failed,
)
from acmeca.storage.database import Reader
from acmeca.storage.errors import StorageError
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.postgres_url import PostgresUrl
from acmeca.storage.postgres_whole import load_whole, read_whole, require_empty
from acmeca.storage.schema import migrate, read_steps
from acmeca.storage.sqlite import read_snapshot
from acmeca.storage.tables import (
    Digest,
    Sum,
    Table,
    Values,
    own_parents_first,
    read_pages,
    read_rows,
    tables_of_version,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a database is: a file, or a PostgreSQL server. `shown` is its address without a password."""

    path: Path | None
    url: str = field(repr=False)
    shown: str

    @classmethod
    def parse(cls, url: str, *, base: Path) -> "Place":
        """Of a `[storage] url`; a relative file is meant from `base`. Raises ValueError."""
        if url.startswith("sqlite:///"):
            path = base / url.removeprefix("sqlite:///")
            return cls(path, url, f"sqlite:///{path}")
        return cls(None, url, PostgresUrl.parse(url).redacted)


class Whole(Reader, Protocol):
    """A database at one moment."""

    @property
    def version(self) -> int:
        """The last step of the schema that it has taken."""


@asynccontextmanager
async def read_place(place: Place) -> AsyncIterator[Whole]:
    """One moment of the database at a place. Raises `StorageError`."""
    if place.path is not None:
        async with read_snapshot(place.path) as reader:
            yield reader
    else:
        async with read_whole(place.url) as whole:
            yield whole


def fill_from(place: Place) -> Fill:
    """Fills an SQLite database with what is at a place: page by page from a file, row by row from a server."""
    if place.path is not None:
        return copy_pages(place.path)

    def fill(connection: sqlite3.Connection, on_progress: OnProgress) -> None:
        async def work() -> None:
            async with read_place(place) as source:
                await _fill_file(connection, source, on_progress)

        asyncio.run(work())

    return fill


async def copy_whole(source: Place, target: Place, *, on_progress: OnProgress) -> Mapping[str, Sum]:
    """Copy one database into another; returns what each table came to. Raises `Conflict`, `StorageError`."""
    async with read_place(source) as reader:
        newest = len(read_steps())
        if reader.version != newest:
            raise StorageError(
                f"the schema of {source.shown} is {reader.version}, this program's is {newest}: start this version's server on it "
                "once, or copy it with the version that it belongs to"
            )
        if target.path is not None:
            return await _copy_to_file(reader, target.path, on_progress)
        return await copy_to_server(reader, target, on_progress=on_progress)


async def require_empty_server(target: Place) -> None:
    """Raise `StorageError` when a PostgreSQL database holds something already, or cannot be reached."""
    async with read_whole(target.url) as reader:
        await require_empty(reader, tables_of_version(min(reader.version, len(read_steps()))) if reader.version else ())


async def copy_to_server(source: Whole, target: Place, *, on_progress: OnProgress) -> Mapping[str, Sum]:
    """Fill an empty PostgreSQL database; its schema is made where it is not there yet."""
    database = await PostgresDatabase.open(
        target.url
    )  # which makes the schema, and looks whether the server can be used
    await database.close()
    tables = tables_of_version(source.version)
    async with load_whole(target.url, tables) as loader:
        if loader.version != source.version:
            raise StorageError(f"the schema of {target.shown} is {loader.version}, the source's is {source.version}")
        sums = {}
        for number, table in enumerate(tables):
            on_progress(f"copying {table.name}", number, len(tables))
            digest = Digest()
            async for rows in _pages(source, table, digest):
                await loader.load(table, rows)
            sums[table.name] = digest.sum
        for number, table in enumerate(tables):
            on_progress(f"comparing {table.name}", number, len(tables))
            digest = Digest()
            async for rows in read_pages(loader, table):
                digest.add(rows)
            _require_equal(table, sums[table.name], digest.sum)
    return sums


async def _copy_to_file(source: Whole, path: Path, on_progress: OnProgress) -> Mapping[str, Sum]:
    _require_new(path)
    part = path.with_name(path.name + ".part")
    with part_file(part) as file:
        try:
            with closing(sqlite3.connect(part, isolation_level=None)) as connection:
                sums = await _fill_file(connection, source, on_progress)
                on_progress("comparing", 0, 0)
                require_sound(connection, "the copy")
                for table in tables_of_version(source.version):
                    digest = Digest()
                    for rows in read_rows(connection, table):
                        digest.add(rows)
                    _require_equal(table, sums[table.name], digest.sum)
            os.fsync(file.fileno())
            _require_new(path)
            part.rename(path)
        except sqlite3.Error as error:
            raise writing_failed(path, error) from error
    sync_directory(path.parent)
    return sums


async def _fill_file(connection: sqlite3.Connection, source: Whole, on_progress: OnProgress) -> dict[str, Sum]:
    """Make tables of the source's version in an empty SQLite database, and fill them."""
    tables = tables_of_version(source.version)
    connection.execute("PRAGMA synchronous = OFF")  # it is synced as a whole, or thrown away
    migrate(connection, read_steps("sqlite")[: source.version])
    connection.execute("PRAGMA foreign_keys = OFF")  # all of them are checked at the end
    connection.execute("BEGIN")
    sums = {}
    for number, table in enumerate(tables):
        on_progress(f"copying {table.name}", number, len(tables))
        digest = Digest()
        async for rows in _pages(source, table, digest):
            connection.executemany(table.insert, rows)
        sums[table.name] = digest.sum
    connection.execute("COMMIT")
    return sums


async def _pages(source: Reader, table: Table, digest: Digest) -> AsyncIterator[list[Values]]:
    """A table's rows in an order in which they can be put in, with their digest taken in the order of their keys."""
    kept: list[Values] = []
    async for rows in read_pages(source, table):
        digest.add(rows)
        if table.own_parents:
            kept += rows
        else:
            yield rows
    if kept:
        yield own_parents_first(table, kept)


def _require_new(path: Path) -> None:
    if path.exists():
        raise Conflict(f"{path} exists; a copy is made into a new file")


def _require_equal(table: Table, expected: Sum, found: Sum) -> None:
    if expected != found:
        raise BackupError(
            f"the copy of {table.name} is not what was read ({found.rows} rows instead of {expected.rows}, or others); nothing was "
            "kept of it"
        )
