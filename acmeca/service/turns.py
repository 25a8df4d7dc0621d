"""Taking turns: a bounded amount of work at once, shared fairly between those who ask for it.

Rule 1: whoever has waited longest without a turn is served next, owner by owner: ten thousand waiting pieces of one owner delay
another owner's first piece by one turn.
Rule 2: a freed place wakes one waiter, not all of them.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """At most `at_once` turns in all and `per_owner` of one owner. For one event loop."""

    def __init__(self, *, at_once: int, per_owner: int) -> None:
        self._at_once = at_once
        self._per_owner = per_owner
        self._taken: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(place)
        self._admit()
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it was given to us just before
                self._release(owner)
            raise
        try:
            yield
        finally:
            self._release(owner)

    def _admit(self) -> None:
        """Give free places to the owners in turn."""
        while self._taken.total() < self._at_once:
            owner = next((owner for owner in self._waiting if self._taken[owner] < self._per_owner), None)
            if owner is None:
                return
            places = self._waiting.pop(owner)
            place = places.popleft()
            if places:
                self._waiting[owner] = places  # behind the others
            if not place.done():  # it was cancelled while it waited
                self._taken[owner] += 1
                place.set_result(None)

    def _release(self, owner: str) -> None:
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        self._admit()
