"""The tables of a database as rows, alike on both engines: for a backup, a copy, and the proof that one is whole.

Rule 1: which tables there are is read from the schema's own steps, so that a new one cannot be forgotten here.
Rule 2: tables come in the order of their foreign keys, parents first; a table that refers to itself has its parents first too.
Rule 3: a table's digest is SHA-256 over its rows in the order of their keys. A row is a JSON array of its columns, those in the
order of their names, ASCII only and without white space, octets as {"b64": "…"}, with a line feed behind it.
"""

import base64
import hashlib
import json
import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias, cast

from acmeca.storage.database import Reader, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.schema import migrate, read_steps

_PAGE: Final = 2000  # rows read at a time
_NOT_COPIED: Final = frozenset({"schema_version"})  # it belongs to the engine: its own steps write it

Values: TypeAlias = tuple[Value, ...]
"""A row: its values in the order of `Table.columns`."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its columns by name, its primary key, the tables it refers to, and its columns that refer to itself."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    parents: frozenset[str] = frozenset()
    own_parents: tuple[tuple[str, str], ...] = ()  # (column, column of the parent's row)

    @property
    def select(self) -> str:
        return f"SELECT {', '.join(self.columns)} FROM {self.name}"

    @property
    def order(self) -> str:
        return f"ORDER BY {', '.join(self.key)}"

    @property
    def insert(self) -> str:
        """For `sqlite3`."""
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({', '.join('?' * len(self.columns))})"

    def value(self, row: Values, column: str) -> Value:
        return row[self.columns.index(column)]


@dataclass(frozen=True, slots=True)
class Sum:
    """What a table comes to: how many rows, and their digest in hex (rule 3)."""

    rows: int
    sha256: str


class Digest:
    """The digest of one table, taken as its rows go by."""

    def __init__(self) -> None:
        self._rows = 0
        self._digest = hashlib.sha256()

    def add(self, rows: Iterable[Sequence[Value]]) -> None:
        lines = [_ENCODE(row) for row in rows]
        self._rows += len(lines)
        if lines:
            self._digest.update(("\n".join(lines) + "\n").encode("ascii"))

    @property
    def sum(self) -> Sum:
        return Sum(self._rows, self._digest.hexdigest())


def _octets(value: Any) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode("ascii")}
    raise StorageError(f"a {type(value).__name__} is no value of a column")


_ENCODE: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_octets).encode


# --- which there are ----------------------------------------------------------------------------------------------


@cache
def tables_of_version(version: int) -> tuple[Table, ...]:
    """The tables of a database that has taken the first `version` steps. Raises `StorageError` for more than there are."""
    steps = read_steps()
    if version > len(steps):
        raise StorageError(
            f"the database was made by a newer acmeca (its schema is {version}, this program knows {len(steps)}): run that version"
        )
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, steps[:version])
        return read_tables(connection)


def read_tables(connection: sqlite3.Connection) -> tuple[Table, ...]:
    """The tables of an SQLite database, without those of a backup."""
    names = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        if not name.startswith(("sqlite_", "backup_")) and name not in _NOT_COPIED
    ]
    return _parents_first([_read_table(connection, name) for name in names])


def _read_table(connection: sqlite3.Connection, name: str) -> Table:
    info = connection.execute("SELECT name, pk FROM pragma_table_info(?)", (name,)).fetchall()
    keys = connection.execute('SELECT "table", "from", "to" FROM pragma_foreign_key_list(?)', (name,)).fetchall()
    key = tuple(column for column, position in sorted(info, key=lambda item: item[1]) if position)
    if not key:
        raise StorageError(f"the table {name} has no primary key, so its rows have no order")
    return Table(
        name=name,
        columns=tuple(sorted(column for column, _ in info)),
        key=key,
        parents=frozenset(parent for parent, _, _ in keys if parent != name),
        own_parents=tuple((column, to) for parent, column, to in keys if parent == name),
    )


def _parents_first(tables: Sequence[Table]) -> tuple[Table, ...]:
    ordered: list[Table] = []
    left = list(tables)
    while left:
        done = {table.name for table in ordered}
        ready = [table for table in left if table.parents <= done]
        if not ready:
            raise StorageError(f"the tables {', '.join(table.name for table in left)} refer to each other in a circle")
        ordered += ready
        left = [table for table in left if table not in ready]
    return tuple(ordered)


# --- their rows ---------------------------------------------------------------------------------------------------


def read_rows(connection: sqlite3.Connection, table: Table, *, page: int = _PAGE) -> Iterator[list[Values]]:
    """All rows of a table in the order of their keys, straight from an SQLite file."""
    cursor = connection.execute(f"{table.select} {table.order}")
    while rows := cursor.fetchmany(page):
        yield rows


async def read_pages(reader: Reader, table: Table, *, page: int = _PAGE) -> AsyncIterator[list[Values]]:
    """The same through a `Reader`, which should see one moment: a page at a time, each behind the last key of the one before."""
    count = len(table.key)
    after = ""
    last: tuple[Value, ...] = ()
    while True:
        limit = f"LIMIT ${len(last) + 1}"
        found = await reader.fetch_all(f"{table.select}{after} {table.order} {limit}", *last, page)
        rows = [tuple(cast("Any", row)) for row in found]  # in the statement's order, on both engines
        if rows:
            yield rows
        if len(rows) < page:
            return
        last = tuple(table.value(rows[-1], column) for column in table.key)
        marks = ", ".join(f"${number}" for number in range(1, count + 1))
        after = f" WHERE ({', '.join(table.key)}) > ({marks})"


def own_parents_first(table: Table, rows: Sequence[Values]) -> list[Values]:
    """All rows of a table that refers to itself, a parent before its children. Raises `StorageError` for a circle."""
    ordered: list[Values] = []
    left = list(rows)
    while left:
        known = {(to, table.value(row, to)) for _, to in table.own_parents for row in ordered}
        ready = [
            row
            for row in left
            if all(
                table.value(row, column) is None or (to, table.value(row, column)) in known
                for column, to in table.own_parents
            )
        ]
        if not ready:
            raise StorageError(f"rows of {table.name} refer to what is not there")
        ordered += ready
        left = [row for row in left if row not in ready]
    return ordered
