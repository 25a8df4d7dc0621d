"""Sessions that read from PostgreSQL, and how long a database that is out of reach is waited for.

Rule 1: a read is run again on a new session when its connection is lost, once, and within the patience.
Rule 2: after a failover no session from before is used: what was the primary may still answer.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from acmeca.errors import Busy
from acmeca.storage.database import Row, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.postgres_session import (
    LostConnectionError,
    Session,
    UnreachableError,
    require_statement,
)

_FIRST_DELAY: Final = 0.05  # seconds between two attempts to connect, doubled each time
_LONGEST_DELAY: Final = 1.0


class Patience:
    """How long a database may be out of reach: from the moment it was lost until something was done again."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lost_at: float | None = None

    def note_loss(self) -> None:
        if self._lost_at is None:
            self._lost_at = asyncio.get_running_loop().time()

    def note_success(self) -> None:
        self._lost_at = None

    def lasts(self, delay: float = 0.0) -> bool:
        """Whether it will not have ended in `delay` seconds. It is no shorter for one that finds the database lost already."""
        self.note_loss()
        now = asyncio.get_running_loop().time()
        return self._lost_at is not None and now + delay < self._lost_at + self._seconds

    async def connect(self, make: Callable[[], Awaitable[Session]]) -> Session:
        """Try to connect at least once, and again while the patience lasts. Raises `StorageError`."""
        delay = _FIRST_DELAY
        while True:
            try:
                return await make()
            except (UnreachableError, LostConnectionError) as error:
                pause = delay * random.uniform(0.5, 1.5)  # noqa: S311  (so that many servers do not come at once)
                if not self.lasts(pause):
                    raise StorageError(f"the database cannot be reached: {error}") from None
            await asyncio.sleep(pause)
            delay = min(2 * delay, _LONGEST_DELAY)


class Readers:
    """Sessions that read, made when they are needed and kept for the next one."""

    def __init__(self, make: Callable[[], Awaitable[Session]], *, size: int, wait: float, patience: float) -> None:
        self._make = make
        self._size = size
        self._wait = wait
        self._patience = Patience(patience)
        self._slots = asyncio.Semaphore(size)
        self._idle: deque[Session] = deque()
        self._made: set[Session] = set()  # those of today: what was made before `renew` is not taken back
        self._closed = False

    async def fetch(self, sql: str, args: Sequence[Value]) -> list[Row]:
        """All rows of a statement, run again on a new session when the connection is lost."""
        require_statement(sql)
        if self._closed:
            raise StorageError("the database is closed")
        await self._take_slot()
        try:
            try:
                return await self._fetch(sql, args)
            except LostConnectionError:
                self._patience.note_loss()
                self.renew()
            try:
                return await self._fetch(sql, args)
            except LostConnectionError as error:
                self.renew()
                raise StorageError(f"the database does not hold its connections: {error}") from None
        finally:
            self._slots.release()

    def renew(self) -> None:
        """Have no session that is older than this moment, but those in use."""
        for session in self._idle:
            session.drop()
        self._idle.clear()
        self._made.clear()

    async def close(self) -> None:
        """Let what is under way end within the time a read may wait; after that it is told that the connection is lost."""
        self._closed = True
        sessions = set(self._made)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait):
                for _ in range(self._size):
                    await self._slots.acquire()
        for session in sessions - set(self._idle):
            session.drop()
        for session in self._idle:
            await session.close()
        self._idle.clear()

    async def _take_slot(self) -> None:
        try:
            async with asyncio.timeout(self._wait):
                await self._slots.acquire()
        except TimeoutError:
            raise Busy(f"{self._size} reads hold the database for {self._wait:g} seconds already") from None
        if self._closed:
            self._slots.release()
            raise StorageError("the database is closed")

    async def _fetch(self, sql: str, args: Sequence[Value]) -> list[Row]:
        session = self._idle.pop() if self._idle else await self._patience.connect(self._make)
        self._made.add(session)
        try:
            rows = await session.fetch(sql, args)
        except LostConnectionError:
            self._forget(session)
            raise
        except StorageError:
            self._give_back(session)
            raise
        except BaseException:  # cancelled; the server ends the statement when it finds us gone
            self._forget(session)
            raise
        self._patience.note_success()
        self._give_back(session)
        return rows

    def _give_back(self, session: Session) -> None:
        if session in self._made and not session.is_lost and not self._closed:
            self._idle.append(session)
        else:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        self._made.discard(session)
        session.drop()
