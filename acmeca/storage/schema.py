"""The schema's numbered steps, what may be done with a database that has taken some of them, and SQLite's way through them.

Rule 1: steps are `migrations/NNNN_name.sql`, numbered from 1 without a gap. A step that was released is never changed; a
change is the next step. There is no way back but a backup. Where one text cannot serve both engines, `NNNN_name.sqlite.sql`
or `NNNN_name.postgresql.sql` takes the place of the common file.
Rule 2: a step and the number it leads to are committed together, so a process killed in the middle leaves the step before.
Rule 3: a step is additive: a program that does not know it goes on, on this database (a new table, a new column that may be
left out). One that is not says so in its first line, `-- incompatible`, and older programs do not touch the database any more.
Rule 4: steps have no deferred constraints (`database.py`, rule 3) and no transactions or pragmas of their own.
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Final, Literal, TypeAlias

from acmeca.storage.errors import StorageError

Engine: TypeAlias = Literal["sqlite", "postgresql"]

_FILE_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)(?:\.(sqlite|postgresql))?\.sql")
_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_INCOMPATIBLE: Final = "-- incompatible"


# --- the steps ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `number` is the schema's version after it, `script` its SQL, each statement ended by a semicolon.

    `is_additive` says whether a program that does not know the step may run on a database that has taken it.
    """

    number: int
    name: str
    script: str
    is_additive: bool = True


def read_steps(engine: Engine = "sqlite") -> tuple[Step, ...]:
    """The steps this program brings along for an engine, in order."""
    files = resources.files("acmeca.storage").joinpath("migrations").iterdir()
    return order_steps(choose_steps({file.name: file.read_text(encoding="utf-8") for file in files}, engine))


def choose_steps(files: dict[str, str], engine: Engine) -> list[Step]:
    """The steps among files (name → text): an engine's own file before the common one of the same number and name."""
    chosen: dict[str, Step] = {}
    for file_name in sorted(files, key=len):  # `0002_x.sql` before `0002_x.postgresql.sql`, which takes its place
        match = _FILE_NAME.fullmatch(file_name)
        if match and match[3] in {None, engine}:
            script = files[file_name]
            is_additive = script.partition("\n")[0].strip() != _INCOMPATIBLE
            chosen[f"{match[1]}_{match[2]}"] = Step(int(match[1]), match[2], script, is_additive=is_additive)
    return list(chosen.values())


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


# --- where a database stands --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """The last step a database has taken, and the oldest program that may work with it, by the last step that one knows.

    Both are 0 for a database that is still empty.
    """

    version: int
    minimum: int

    def after(self, step: Step) -> "Standing":
        """Where it stands once it has taken `step`. Nothing older than the first step ever works."""
        bars = not step.is_additive or step.number == 1
        return Standing(step.number, step.number if bars else self.minimum)


def missing_steps(standing: Standing, steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps a program that brings `steps` has to take before it works with a database: none when that is ahead of it.

    Raises `StorageError` when the database has taken a step that this program cannot live with.
    """
    newest = len(steps)
    if standing.minimum > newest:
        raise StorageError(
            f"the database was made by a newer acmeca (its schema is {standing.version}, this program knows {newest}):"
            f" run a version that knows {standing.minimum}, or restore a backup made by this one"
        )
    return tuple(steps[standing.version :])


# --- SQLite -------------------------------------------------------------------------------------------------------

# `PRAGMA user_version` is the version; the table has it once more, for whoever reads both engines, and the minimum.
STANDING_TABLE: Final = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL, minimum BIGINT NOT NULL)"


def migrate(connection: sqlite3.Connection, steps: Sequence[Step]) -> int:
    """Take the steps that an SQLite database lacks and return its version. The connection is in autocommit mode.

    Raises `StorageError` when the database is newer than the program can bear, is not acmeca's, or a step fails.
    """
    # Foreign keys rest meanwhile, so that a step may rebuild a table; each step ends with a check of all of them.
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        while _take_next_step(connection, steps):
            pass
        return _read_number(connection, "PRAGMA user_version")
    except sqlite3.Error as error:
        raise StorageError(f"the schema cannot be brought up to date: {error}") from error
    finally:
        connection.execute("PRAGMA foreign_keys = ON")


def _take_next_step(connection: sqlite3.Connection, steps: Sequence[Step]) -> bool:
    """Take the first step that the database lacks; False when it lacks none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Step 1: where the database stands, read under the write lock, so that no other process moves it meanwhile.
        standing = _read_standing(connection)
        missing = missing_steps(standing, steps)
        if not missing:
            return False
        step = missing[0]
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
        # Step 4: the new standing, with the statements or not at all.
        _write_standing(connection, standing.after(step))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return True


def _read_standing(connection: sqlite3.Connection) -> Standing:
    version = _read_number(connection, "PRAGMA user_version")
    if version == 0 and _read_number(connection, "SELECT COUNT(*) FROM sqlite_schema"):
        raise StorageError("the database is not acmeca's: it has tables, but no schema version")
    if not _read_number(connection, "SELECT COUNT(*) FROM sqlite_schema WHERE name = 'schema_version'"):
        return Standing(version, version)  # from before there was a minimum: nobody promised anything to older programs
    return Standing(version, _read_number(connection, "SELECT minimum FROM schema_version"))


def _write_standing(connection: sqlite3.Connection, standing: Standing) -> None:
    connection.execute(STANDING_TABLE)
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?, ?)", (standing.version, standing.minimum))
    connection.execute(f"PRAGMA user_version = {standing.version:d}")  # a pragma takes no parameter


def _read_number(connection: sqlite3.Connection, sql: str) -> int:
    return int(connection.execute(sql).fetchone()[0])
