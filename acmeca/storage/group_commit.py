"""The queue in front of a writer: whatever waits is committed together, and each caller is answered after the COMMIT.

Rule 1: what is begun in one order is run in that order; a write whose caller was cancelled before it began is not begun.
Rule 2: a caller is answered exactly once, whatever becomes of the commit, with an exception that is its own.
Rule 3: the queue is bounded. What does not fit is refused at once, and nobody waits to hear so.
Rule 4: nobody waits without end behind a commit that is stuck: what has not begun is refused, and what comes meanwhile.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from acmeca.errors import AcmecaError, Busy
from acmeca.storage.database import Transaction
from acmeca.storage.errors import FencedError, StorageError
from acmeca.storage.observation import CommitObserver

log = logging.getLogger(__name__)

_STUCK: Final = 10.0  # seconds after which a commit counts as stuck
_GIVEN_UP: Final = 60.0  # seconds more, after which its own callers are answered all the same

Body: TypeAlias = Callable[[Transaction], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one body: its result, or what it raised."""

    value: object = None
    error: BaseException | None = None


# Runs bodies in one transaction and commits them: an outcome for each. When it raises, none of them is kept, or its text says
# that they may have been.
Commit: TypeAlias = Callable[[Sequence[Body]], Awaitable[list[Outcome]]]


@dataclass(frozen=True, slots=True)
class _Write:
    body: Body
    outcome: asyncio.Future[Outcome]


class GroupCommit:
    """The queue and the task that empties it by `commit`, at most `batch_limit` writes at a time.

    `stuck` is after how many seconds a commit counts as stuck.
    """

    def __init__(
        self,
        commit: Commit,
        *,
        queue_limit: int,
        batch_limit: int,
        name: str,
        observer: CommitObserver | None = None,
        stuck: float = _STUCK,
    ) -> None:
        self._commit = commit
        self._observer = observer
        self._queue_limit = queue_limit
        self._batch_limit = batch_limit
        self._stuck_after = stuck
        self._is_stuck = False
        self._waiting: deque[_Write] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name=name)

    async def write(self, body: Body) -> object:
        """Have `body` committed and return its result, or raise what it raised; `Busy` or `StorageError` when it cannot be."""
        if self._closing:
            raise StorageError("the database is closed")
        if self._is_stuck:
            raise Busy(
                f"the database has not taken a commit for {self._stuck_after:g} s; nothing was changed, try again later"
            )
        if len(self._waiting) >= self._queue_limit:
            raise Busy(f"{len(self._waiting)} writes wait for the database already; try again in a moment")
        write = _Write(body, asyncio.get_running_loop().create_future())
        self._waiting.append(write)
        self._wake.set()
        try:
            outcome = await write.outcome
        finally:
            write.outcome.cancel()  # of an answered one this is nothing; one that nobody waits for is not begun
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    @property
    def waiting(self) -> int:
        """How many writes wait for the commit after this one."""
        return len(self._waiting)

    async def close(self) -> None:
        """Commit what waits and end the task."""
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while not (self._closing and not self._waiting):
                await self._wake.wait()
                writes = self._take()
                if writes:
                    await self._commit_and_answer(writes)
        finally:
            self._closing = True
            _answer_all(self._waiting, StorageError("the database is closed"))

    def _take(self) -> list[_Write]:
        """The next batch, without what was cancelled meanwhile."""
        writes: list[_Write] = []
        while self._waiting and len(writes) < self._batch_limit:
            write = self._waiting.popleft()
            if not write.outcome.done():
                writes.append(write)
        if not self._waiting:
            self._wake.clear()
        return writes

    async def _commit_and_answer(self, writes: Sequence[_Write]) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._stuck_after, self._note_stuck, writes)
        started = loop.time()
        try:
            outcomes = await self._commit([write.body for write in writes])
        except asyncio.CancelledError:  # the event loop ends without `close`
            _answer_all(writes, StorageError("the server stopped during this write; it may have been kept"))
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, every caller has to be told)
            _answer_all(writes, error)
            if self._observer is not None:
                told = error if isinstance(error, StorageError) else StorageError(str(error))
                self._observer.failed(told, writes=len(writes))
        else:
            if self._observer is not None:
                self._observer.committed(writes=len(writes), seconds=loop.time() - started)
            for write, outcome in zip(writes, outcomes, strict=True):
                _answer(write, outcome)
        finally:
            timer.cancel()
            if self._is_stuck:
                self._is_stuck = False
                log.warning("the database takes commits again")

    def _note_stuck(self, writes: Sequence[_Write]) -> None:
        """Rule 4."""
        self._is_stuck = True
        log.error("a commit is not done after %g s: is the disk well? Writes are refused meanwhile", self._stuck_after)
        refusal = Busy("the database does not take what is written; nothing was changed, try again later")
        _answer_all(self._waiting, refusal)
        self._waiting.clear()
        asyncio.get_running_loop().call_later(_GIVEN_UP, _give_up, writes)


def _give_up(writes: Sequence[_Write]) -> None:
    """Answer those whose commit is still stuck; of all others this is nothing."""
    _answer_all(writes, StorageError("the database does not answer; the write may be kept, or not"))


_SHARED: Final = (Busy, FencedError, StorageError)  # what callers tell apart, the narrower before the wider


def _answer_all(writes: Iterable[_Write], error: Exception) -> None:
    """Give every caller an exception of its own: one shared by many tasks would gather all their tracebacks."""
    kind: type[AcmecaError] = next((kind for kind in _SHARED if isinstance(error, kind)), StorageError)
    text = str(error) if isinstance(error, AcmecaError) else f"the commit failed: {type(error).__name__}"
    for write in writes:
        own = kind(text)
        own.__cause__ = error
        _answer(write, Outcome(error=own))


def _answer(write: _Write, outcome: Outcome) -> None:
    if not write.outcome.done():  # its caller was cancelled meanwhile
        write.outcome.set_result(outcome)
