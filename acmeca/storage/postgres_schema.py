"""The schema's steps on PostgreSQL (`schema.py` has the steps, and the decision which of them are to be taken).

Rule 1: a step and the standing it leads to are one transaction, under the lock that every writer takes: of many processes
that start at once each step is taken by one, and no body runs beside it.
Rule 2: the steps' common text is translated word by word, and only its types: `TEXT` compares and sorts byte by byte, as it does
in SQLite (searches below a suffix are ranges of reversed names), `BLOB` is `BYTEA`.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from acmeca.storage.errors import StorageError
from acmeca.storage.postgres_session import LostConnectionError, Session
from acmeca.storage.schema import STANDING_TABLE, Standing, Step, missing_steps, split_statements

WRITERS_LOCK: Final = 0x61636D656361  # "acmeca"; advisory locks are numbers, one space of them in each database

_LONGEST_STEP: Final = 1800.0  # seconds; an index of a large table takes minutes
_BEGIN: Final = (
    f"BEGIN; SET LOCAL statement_timeout = '{_LONGEST_STEP:g}s'; SET LOCAL lock_timeout = '60s';"
    f" SELECT pg_advisory_xact_lock({WRITERS_LOCK})"
)
_WORD: Final = re.compile(
    r"""
      ' [^']* ' | " [^"]* " | -- [^\n]* | / \* .*? \* /     # what stays as it is
    | (?P<cast> \b AS \s+ (?: TEXT | BLOB ) \b )
    | (?P<type> \b (?: TEXT | BLOB ) \b )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def translate(statement: str) -> str:
    """A statement of the steps' common text for PostgreSQL (rule 2)."""

    def replace(match: re.Match[str]) -> str:
        if match["cast"]:
            return re.sub("BLOB", "BYTEA", match[0], flags=re.IGNORECASE)
        if match["type"]:
            return 'TEXT COLLATE "C"' if match["type"].upper() == "TEXT" else "BYTEA"
        return match[0]

    return _WORD.sub(replace, statement)


async def migrate(session: Session, steps: Sequence[Step]) -> int:
    """Take the steps that the database lacks and return its version.

    Raises `StorageError` when the database is newer than the program can bear, is not acmeca's, or a step fails, and
    `LostConnectionError` when it is worth trying again.
    """
    while await _take_next_step(session, steps):
        pass
    return (await read_standing(session)).version


async def _take_next_step(session: Session, steps: Sequence[Step]) -> bool:
    """Take the first step that the database lacks; False when it lacks none."""
    try:
        # Step 1: where the database stands, read under the lock, so that no other process moves it meanwhile.
        await session.run(_BEGIN, answer=_LONGEST_STEP)
        standing = await read_standing(session)
        missing = missing_steps(standing, steps)
        if not missing:
            return False
        step = missing[0]
        # Step 2: the statements.
        for statement in split_statements(step.script):
            await _run_statement(session, step, statement)
        # Step 3: the new standing, with the statements or not at all.
        after = standing.after(step)
        await session.run(STANDING_TABLE)
        await session.run("DELETE FROM schema_version")
        await session.execute("INSERT INTO schema_version VALUES ($1, $2)", (after.version, after.minimum))
        await session.commit()
    finally:
        if not session.is_lost and session.is_in_transaction:
            with suppress(StorageError):
                await session.run("ROLLBACK")
    return True


async def _run_statement(session: Session, step: Step, statement: str) -> None:
    try:
        await session.run(translate(statement), answer=_LONGEST_STEP)
    except LostConnectionError:
        raise
    except StorageError as error:
        raise StorageError(f"schema step {step.number} ({step.name}) failed: {error}") from error
    if not session.is_in_transaction:
        raise StorageError(f"schema step {step.number} ({step.name}) ends its transaction by itself")


async def read_standing(session: Session) -> Standing:
    tables = {
        row["tablename"]
        for row in await session.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()", ())
    }
    if "schema_version" not in tables:
        if tables:
            raise StorageError("the database is not acmeca's: it has tables, but no schema version")
        return Standing(0, 0)
    (row,) = await session.fetch("SELECT version, minimum FROM schema_version", ())
    return Standing(row["version"], row["minimum"])
