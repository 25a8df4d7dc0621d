"""The body of a write on PostgreSQL, run step by step: it asks, and whoever holds the session answers.

Rule 1: a body awaits its transaction and nothing else, as on SQLite (`database.py`).
Rule 2: a statement that fails spoils the transaction. A body that goes on after one is told so (`GoesOnError`), and is run again with
a savepoint around each statement; hardly any does, and the others pay nothing for it.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, TypeAlias, TypeVar, cast

from acmeca.storage.database import Entry, Row, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.postgres_session import (
    LostConnectionError,
    Session,
    require_statement,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Request:
    """A statement that a body asks for."""

    sql: str
    args: tuple[Value, ...]
    is_change: bool


@coroutine
def _ask(request: _Request) -> Generator[_Request, Any, Any]:
    return (yield request)


@dataclass(slots=True)
class _PostgresTransaction:
    """The `Transaction` one body is given. Its methods hand a request to whoever runs the body (`run_body`)."""

    entries: list[Entry] = field(default_factory=list)
    is_finished: bool = False

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        rows = await self.fetch_all(sql, *args)
        return rows[0] if rows else None

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        self._require_open()
        require_statement(sql)
        return cast("list[Row]", await _ask(_Request(sql, args, is_change=False)))

    async def execute(self, sql: str, *args: Value) -> int:
        self._require_open()
        require_statement(sql, is_change=True)
        return cast("int", await _ask(_Request(sql, args, is_change=True)))

    def journal(self, entry: Entry) -> None:
        self._require_open()
        self.entries.append(entry)

    def _require_open(self) -> None:
        if self.is_finished:
            raise StorageError("a transaction was used after its write had ended")


class GoesOnError(Exception):
    """A body went on after a statement of it had failed, which has spoilt the transaction."""


_Answer: TypeAlias = Callable[[Session, _Request], Awaitable[object]]


async def _answer(session: Session, request: _Request) -> object:
    run = session.execute if request.is_change else session.fetch
    return await run(request.sql, request.args)


async def answer_in_savepoint(session: Session, request: _Request) -> object:
    """The same, but a statement that fails is undone alone."""
    await session.run("SAVEPOINT statement")
    try:
        answer = await _answer(session, request)
    except LostConnectionError:
        raise
    except StorageError:
        await session.run("ROLLBACK TO SAVEPOINT statement")
        raise
    await session.run("RELEASE SAVEPOINT statement")
    return answer


async def run_body(
    session: Session,
    body: Callable[[_PostgresTransaction], Awaitable[T]],
    *,
    answer: _Answer = _answer,
    may_go_on: bool,
) -> tuple[T, list[Entry]]:
    """Run a body step by step: it asks, `answer` answers. What it raises comes out; it may await its transaction only.

    Raises `GoesOnError` when the body goes on after a failed statement and may not, and `LostConnectionError` past the body.
    """
    tx = _PostgresTransaction()
    steps = body(tx).__await__()
    answered: object = None
    failure: StorageError | None = None
    try:
        while True:
            try:
                request = steps.send(answered) if failure is None else steps.throw(failure)
            except StopIteration as end:
                if failure is not None and not may_go_on:
                    raise GoesOnError from None
                return cast("T", end.value), tx.entries
            except BaseException as error:
                if failure is not None and error is not failure and not may_go_on:
                    raise GoesOnError from None
                raise
            if not isinstance(request, _Request):
                raise RuntimeError(  # noqa: TRY004  (it is not the type of a value that is wrong)
                    "the body of a write awaited something other than its transaction"
                )
            if failure is not None and not may_go_on:
                raise GoesOnError
            answered, failure = None, None
            try:
                answered = await answer(session, request)
            except LostConnectionError:
                raise
            except StorageError as error:
                failure = error
    finally:
        tx.is_finished = True
        with suppress(Exception):  # what a body does in a `finally` once it was left is of no account any more
            steps.close()
