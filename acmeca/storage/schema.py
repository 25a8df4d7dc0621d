"""The schema's numbered steps, and the one way forward through them.

Rule 1: steps are `migrations/NNNN_name.sql`, numbered from 1 without a gap. A step that was released is never changed; a
change is the next step. There is no way back but a backup.
Rule 2: a step and the number it leads to are committed together, so a process killed in the middle leaves the step before.
Rule 3: a database that knows more steps than the program is not touched.
Rule 4: steps have no deferred constraints (`database.py`, rule 3) and no transactions or pragmas of their own.
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Final

from acmeca.storage.errors import StorageError

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `number` is the schema's version after it, `script` its SQL, each statement ended by a semicolon."""

    number: int
    name: str
    script: str


def read_steps() -> tuple[Step, ...]:
    """The steps this program brings along, in order."""
    steps = [
        Step(int(match[1]), match[2], file.read_text(encoding="utf-8"))
        for file in resources.files("acmeca.storage").joinpath("migrations").iterdir()
        if (match := _FILE_NAME.fullmatch(file.name))
    ]
    return order_steps(steps)


def order_steps(steps: Iterable[Step]) -> tuple[Step, ...]:
    """The steps by number; raises ValueError unless there are some, from 1 without a gap or a double."""
    ordered = tuple(sorted(steps, key=lambda step: step.number))
    numbers = [step.number for step in ordered]
    if not numbers or numbers != list(range(1, len(ordered) + 1)):
        raise ValueError(f"schema steps must be numbered 1, 2, 3, … but are {numbers}")
    return ordered


def split_statements(script: str) -> tuple[str, ...]:
    """The statements of a script, each with its semicolon.

    SQLite itself says where a statement ends (semicolons stand in literals, comments and trigger bodies too). What
    follows the last semicolon may only be a comment: anything else is a ValueError, for it would never be run.
    """
    ends = [0]
    for position, character in enumerate(script):
        if character == ";" and sqlite3.complete_statement(script[ends[-1] : position + 1]):
            ends.append(position + 1)
    rest = _COMMENT.sub("", script[ends[-1] :]).strip()
    if rest:
        raise ValueError(f"the last statement is not ended by a semicolon: {rest[:40]!r}")
    return tuple(script[start:end].strip() for start, end in pairwise(ends))


def migrate(connection: sqlite3.Connection, steps: Sequence[Step]) -> int:
    """Bring a database to the last of `steps` and return its version. The connection is in autocommit mode.

    Raises `StorageError` when the database is newer than the program, is not acmeca's, or a step fails.
    """
    # Foreign keys rest meanwhile, so that a step may rebuild a table; each step ends with a check of all of them.
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        for step in steps:
            _take_step(connection, step, newest=len(steps))
        return _read_number(connection, "PRAGMA user_version")
    except sqlite3.Error as error:
        raise StorageError(f"the schema cannot be brought up to date: {error}") from error
    finally:
        connection.execute("PRAGMA foreign_keys = ON")


def _take_step(connection: sqlite3.Connection, step: Step, *, newest: int) -> None:
    """Take one step, unless it was taken before."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Step 1: where the database stands, read under the write lock, so that no other process moves it meanwhile.
        version = _read_number(connection, "PRAGMA user_version")
        if version > newest:
            raise StorageError(
                f"the database was made by a newer acmeca (its schema is {version}, this program knows {newest}):"
                " run that version, or restore a backup made by this one"
            )
        if version == 0 and _read_number(connection, "SELECT COUNT(*) FROM sqlite_schema"):
            raise StorageError("the database is not acmeca's: it has tables, but no schema version")
        if step.number <= version:
            return
        # Step 2: the statements.
        for statement in split_statements(step.script):
            connection.execute(statement)
            if not connection.in_transaction:
                raise StorageError(f"schema step {step.number} ({step.name}) ends its transaction by itself")
        # Step 3: nothing points into the void.
        broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            raise StorageError(
                f"schema step {step.number} ({step.name}) leaves {len(broken)} rows without their parent"
            )
        # Step 4: the number, with the statements or not at all. A pragma takes no parameter; the number is our own.
        connection.execute(f"PRAGMA user_version = {step.number:d}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _read_number(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])
