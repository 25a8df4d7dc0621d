"""One connection to PostgreSQL: how it is made, how long it may take to answer, and what its failures mean.

Rule 1: every wait has an end. The server ends a statement by itself; should it not even do that, the connection is dropped,
and without a word: asyncpg's own timeouts ask the server to cancel, and a COMMIT that is cancelled while it waits for a standby
is answered as if it had been done.
Rule 2: an exception of asyncpg ends here. `LostConnectionError` says that the connection is gone and nothing else; what was
under way may have been done.
Rule 3: what a server says of a row (a DETAIL, the text of a wrong value) is not passed on, and neither is the password.
Rule 4: every session is alike whatever the server's configuration says: UTC, READ COMMITTED, COMMIT waits for the disk, and a
transaction that is left idle is thrown out, so that a stopped process does not hold up the others.
"""

import asyncio
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, cast

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from acmeca.storage.database import Row, Value
from acmeca.storage.errors import NotUniqueError, StorageError
from acmeca.storage.postgres_url import PostgresUrl, print_host
from acmeca.storage.statements import parse_statement


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take, in seconds. The order matters: each is noticed by the server before we give up on it."""

    connect: float = 3.0  # one host; a dead one must not use up the patience for the others
    idle: float = 5.0  # a transaction between two statements: then its process hangs
    lock: float = 8.0  # for the writers' lock, longer than `idle`
    statement: float = 10.0
    answer: float = 12.0  # a statement that the server did not end; a COMMIT, which has no other limit
    scan: float = 600.0
    patience: float = 15.0  # for a database that cannot be reached: a failover takes that long


class LostConnectionError(StorageError):
    """The connection ended, or did not answer. It never leaves the driver as what it is."""


class UnreachableError(StorageError):
    """No host takes writes at the moment."""


class LockTimeoutError(StorageError):
    """Somebody held a lock for too long."""


# --- what the library says ----------------------------------------------------------------------------------------

_LOST_STATES: Final = frozenset(
    {
        "25006",  # read-only: what was the primary is a standby now
        "25P03", "57P01", "57P02", "57P03", "57P05",  # thrown out, shut down, starting up
    }
)  # fmt: skip
_LIBRARY_ERRORS: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    ValueError,
)
_CONSTRAINTS: Final[Mapping[str, str]] = MappingProxyType(
    {"23502": "NOT NULL", "23503": "FOREIGN KEY", "23514": "CHECK"}
)
_ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "28": "see the user and the password in [storage] url or PGPASSFILE, and the server's pg_hba.conf",
        "3D": "make it: CREATE DATABASE … OWNER …",
        "42501": "make acmeca's user the owner of the database: ALTER DATABASE … OWNER TO …",
        "53100": "make room on the database server's disk",
        "53300": "raise max_connections on the database server",
        "53": "the database server lacks memory or disk",
        "57014": "it took too long",
        "58": "look at the database server's disk and log",
        "XX": "look at the database server's log; restore a backup where it is damaged",
    }
)


def _is_lost(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        fatal = (error.severity_en or error.severity or "ERROR") != "ERROR"
        # A step of the schema, taken by another process, has made a prepared statement useless: a new session has none.
        stale = isinstance(error, asyncpg.InvalidCachedStatementError)
        return fatal or stale or state.startswith("08") or state in _LOST_STATES
    return isinstance(error, OSError | asyncpg.InternalClientError)


def _advice(state: str) -> str:
    return next((_ADVICE[key] for key in (state, state[:2]) if key in _ADVICE), "")


def _storage_error(error: Exception, unique: Mapping[str, tuple[str, ...]]) -> StorageError:
    """An answer of the server, or a refusal of asyncpg to send something, as one of ours."""
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):  # too many values or too few
        return StorageError(f"the statement was not sent: {error}")
    if not isinstance(error, asyncpg.PostgresError):  # its text may hold the value
        return StorageError("a value cannot be kept: an integer beyond 64 bits, text that is not Unicode, another type")
    return _refused(error, unique)


def _refused(error: asyncpg.PostgresError, unique: Mapping[str, tuple[str, ...]]) -> StorageError:
    state = error.sqlstate or ""
    message = str(error.message or type(error).__name__)
    if state == "23505":
        return NotUniqueError(unique.get(error.constraint_name or "", (str(error.constraint_name),)))
    if state == "55P03":
        return LockTimeoutError(f"the database refused: {message}")
    if state.startswith("22"):  # the message may hold the value
        return StorageError(f"a value cannot be kept: text with a NUL, a number out of range (SQLSTATE {state})")
    if state in _CONSTRAINTS:
        broken = error.constraint_name or f"{error.table_name}.{error.column_name}"
        return StorageError(f"the database refused: {_CONSTRAINTS[state]} constraint failed: {broken}")
    advice = _advice(state)
    return StorageError(f"the database refused: {message} (SQLSTATE {state}{'; ' if advice else ''}{advice})")


# --- statements ---------------------------------------------------------------------------------------------------

_VERB: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*([A-Za-z]+)", re.DOTALL)


@lru_cache(maxsize=4096)
def require_statement(sql: str, *, is_change: bool = False) -> None:
    """Raises ValueError for what SQLite would not read either, and `StorageError` for a change that is none."""
    parse_statement(sql)
    verb = _VERB.match(sql)
    if is_change and (verb is None or verb[1].upper() not in {"INSERT", "UPDATE", "DELETE"}):
        raise StorageError(f"execute is for INSERT, UPDATE and DELETE, not for {sql!r}")


# --- the session --------------------------------------------------------------------------------------------------


class Session:
    """A connection, one statement at a time. `unique` says which columns a unique index has, by its name."""

    def __init__(
        self, connection: "asyncpg.Connection[Any]", *, answer: float, unique: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._connection = connection
        self._answer = answer
        self._unique = unique
        self._gave_up = False
        self._heard_at = asyncio.get_running_loop().time()
        self._warnings: list[str] = []
        connection.add_log_listener(self._note_message)

    @property
    def is_lost(self) -> bool:
        return self._connection.is_closed()

    @property
    def is_in_transaction(self) -> bool:
        return self._connection.is_in_transaction()

    @property
    def silence(self) -> float:
        """How many seconds ago the server last answered."""
        return asyncio.get_running_loop().time() - self._heard_at

    async def run(self, script: str, *, answer: float | None = None) -> str:
        """Statements of the driver's own, without values, in one round trip; returns what the last one says it did."""
        with self._bounded(answer):
            return await self._connection.execute(script)

    async def fetch(self, sql: str, args: Sequence[Value]) -> list[Row]:
        with self._bounded(None):
            return cast("list[Row]", await self._connection.fetch(sql, *args))

    async def execute(self, sql: str, args: Sequence[Value]) -> int:
        with self._bounded(None):
            said = await (self._connection.execute(sql, *args) if args else self._execute_prepared(sql))
        return int(said.rpartition(" ")[2])

    async def load(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]], *, answer: float) -> None:
        """Add many rows by COPY, within `answer` seconds."""
        with self._bounded(answer):
            await self._connection.copy_records_to_table(table, records=rows, columns=list(columns))

    async def commit(self) -> None:
        """COMMIT. Any `StorageError` but `UncertainError` and `LostConnectionError` means that it surely was not kept."""
        self._warnings.clear()
        said = await self.run("COMMIT")
        if said != "COMMIT":  # a transaction that had failed is rolled back by it, and that is no error to the server
            raise StorageError("the database rolled a commit back")
        if self._warnings:
            raise UncertainError(
                "a commit was kept, but a standby did not confirm it before the wait was cancelled:"
                f" it is lost should the standby take over ({self._warnings[0]})"
            )

    def drop(self) -> None:
        """Let go of the connection at once."""
        self._connection.terminate()

    async def close(self, timeout: float = 2.0) -> None:  # noqa: ASYNC109  (asyncpg aborts the connection by itself)
        """Take leave of the server."""
        with suppress(*_LIBRARY_ERRORS):
            await self._connection.close(timeout=timeout)

    async def _execute_prepared(self, sql: str) -> str:
        """Without values asyncpg would send the text as a script, which is parsed and planned each time."""
        statement = await self._connection.prepare(sql)
        await statement.fetch()
        return str(statement.get_statusmsg())

    @contextmanager
    def _bounded(self, answer: float | None) -> Iterator[None]:
        """Drop the connection when there is no answer in time, and translate what comes out."""
        seconds = self._answer if answer is None else answer
        loop = asyncio.get_running_loop()
        timer = loop.call_later(seconds, self._give_up)
        try:
            yield
            self._heard_at = loop.time()
        except _LIBRARY_ERRORS as error:
            if self._gave_up:
                raise LostConnectionError(f"the database did not answer within {seconds:g} seconds") from None
            if self.is_lost or _is_lost(error):
                raise LostConnectionError(f"the connection was lost ({_describe(error)})") from None
            raise _storage_error(error, self._unique) from None
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._gave_up = True
        self.drop()

    def _note_message(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        fields = message.as_dict()
        if (fields.get("severity_en") or fields.get("severity")) == "WARNING":
            self._warnings.append(str(fields.get("message")))


class UncertainError(StorageError):
    """A commit that was kept and may get lost all the same."""


def _describe(error: Exception) -> str:
    """A failure of the connection in a few words: such an error knows no rows."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.message or type(error).__name__)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


# --- how it is made -----------------------------------------------------------------------------------------------

_CACHED_STATEMENTS: Final = 512
_APPLICATION: Final = "acmeca"

# A server that has none of these (an older one, another platform) does without: they only find dead peers sooner.
_NICETIES: Final = (
    "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3",
    "SET tcp_user_timeout = '15s'",
    "SET client_connection_check_interval = '2s'",  # a query whose client is gone ends, and with it its locks
)


async def connect(
    url: PostgresUrl, limits: Limits, *, unique: Mapping[str, tuple[str, ...]], is_writer: bool, statement: float
) -> Session:
    """A session on the host that takes writes. `statement` is the server's limit for one statement, in seconds.

    Raises `UnreachableError` when there is none now, and a plain `StorageError` for what waiting does not mend.
    """
    reasons: list[str] = []
    refusals: list[StorageError] = []
    for host, port in url.hosts or ((None, None),):
        place: dict[str, Any] = {} if host is None else {"host": host, "port": port}
        try:
            connection = await asyncpg.connect(
                url.dsn,
                **place,
                timeout=limits.connect,
                statement_cache_size=_CACHED_STATEMENTS,
                max_cached_statement_lifetime=0,
                server_settings={"application_name": _APPLICATION},
                target_session_attrs=SessionAttribute.read_write,
            )
        except (*_LIBRARY_ERRORS, TimeoutError) as error:
            where = "" if host is None or port is None else f"{print_host(host, port)}: "
            if _is_final(error):
                refusals.append(_refusal(error))
            reasons.append(where + _connect_reason(error))
            continue
        session = Session(connection, answer=max(limits.answer, statement + 2), unique=unique)
        try:
            await _prepare(session, connection, limits, is_writer=is_writer, statement=statement)
        except LostConnectionError as error:
            session.drop()
            reasons.append(str(error))
        except BaseException:
            session.drop()
            raise
        else:
            return session
    if refusals:
        raise refusals[0]
    raise UnreachableError(f"{url.redacted} ({'; '.join(reasons)})")


async def _prepare(
    session: Session, connection: "asyncpg.Connection[Any]", limits: Limits, *, is_writer: bool, statement: float
) -> None:
    """Rule 4."""
    _keep_alive(connection)
    settings = {
        "TimeZone": "UTC",
        "client_min_messages": "warning",  # that a standby did not confirm a commit is said in a warning only
        "default_transaction_isolation": "read committed",
        "default_transaction_read_only": "off" if is_writer else "on",
        "idle_in_transaction_session_timeout": _milliseconds(limits.idle),
        "lock_timeout": _milliseconds(limits.lock),
        "statement_timeout": _milliseconds(statement),
    }
    await session.run(
        "".join(f"SET {name} = '{value}'; " for name, value in settings.items())
        + "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
    )
    for nicety in _NICETIES if is_writer else ():
        try:
            await session.run(nicety)
        except LostConnectionError:
            raise
        except StorageError:
            continue


def _keep_alive(connection: "asyncpg.Connection[Any]") -> None:
    """Notice a server that is gone while we wait for it, without a packet of ours that it could leave unanswered."""
    transport = getattr(connection, "_transport", None)
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"


def _is_final(error: Exception) -> bool:
    """Whether trying again is of no use: a wrong password, no such database, a wrong file for TLS."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(("28", "3D", "42"))
    return isinstance(error, asyncpg.InterfaceError | ValueError)


def _refusal(error: Exception) -> StorageError:
    if isinstance(error, asyncpg.PostgresError):
        return StorageError(f"the database server refused: {error.message} ({_advice(error.sqlstate or '')})")
    return StorageError(f"the database cannot be connected to ({type(error).__name__}): see [storage] url")


def _connect_reason(error: Exception) -> str:
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "is a standby, and takes no writes"
    return _describe(error)
