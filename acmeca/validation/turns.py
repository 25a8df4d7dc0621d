"""How many connections stand to one address at once (RULES §3: "per-target limits").

The service bounds validations per account; many names of many accounts may stand at one address, so that connections to it
are bounded here.

Rule 1: a turn is given back however its block ends, and nothing is kept of an address that nobody has or awaits a turn at.
Rule 2: turns are given in the order of asking.
Rule 3: waiting for a turn is our own doing. A peer's time stands still meanwhile, and who has waited too long is told
`Busy`, never a failure of the peer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from acmeca.errors import Busy
from acmeca.validation.networks import IPAddress

CONNECTIONS_PER_ADDRESS: Final = 16


class Patience:
    """How long one observation may wait for its turns: `seconds` in all, while the clock of `peer_time` stands still."""

    def __init__(self, peer_time: asyncio.Timeout, seconds: float) -> None:
        self._peer_time = peer_time
        self._left = seconds

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Stop the peer's clock for the block. Raises TimeoutError when the block takes longer than what is left."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        peer_end = self._peer_time.when()
        self._peer_time.reschedule(None)
        try:
            async with asyncio.timeout(self._left):
                yield
        finally:
            waited = loop.time() - began
            self._left -= waited
            self._peer_time.reschedule(None if peer_end is None else peer_end + waited)


@dataclass(slots=True)
class _Address:
    """The turns of one address, and how many have one or wait for one."""

    turns: asyncio.Semaphore
    users: int = 0


class Turns:
    """The turns of every address: `at_once` of each may be had at a time."""

    def __init__(self, at_once: int = CONNECTIONS_PER_ADDRESS) -> None:
        self._at_once = at_once
        self._addresses: dict[IPAddress, _Address] = {}

    @asynccontextmanager
    async def turn(self, address: IPAddress, patience: Patience) -> AsyncIterator[None]:
        """Have a turn at `address` for the block, when there is one. Raises `Busy` when `patience` ends before."""
        entry = self._addresses.get(address)
        if entry is None:
            entry = self._addresses[address] = _Address(asyncio.Semaphore(self._at_once))
        entry.users += 1
        try:
            if entry.turns.locked():
                await self._await_turn(entry, address, patience)
            else:
                await entry.turns.acquire()  # at once
            try:
                yield
            finally:
                entry.turns.release()
        finally:
            entry.users -= 1
            if not entry.users:
                del self._addresses[address]

    async def _await_turn(self, entry: _Address, address: IPAddress, patience: Patience) -> None:
        try:
            async with patience.waiting():
                await entry.turns.acquire()
        except TimeoutError:
            raise Busy(
                f"{self._at_once} connections to {address} are open already, and none of them ended in time; try again"
            ) from None
