"""Retention: what has ended is kept for a while and then deleted, little by little, while requests go on.

Rule 1: the writer is retention's for a tenth of the time at the most: after each step it pauses for nine times as long as that
took. A backlog (retention switched on after years, a standstill) takes longer, and nobody waits for it.
Rule 2: the clock may leap ahead (a machine that starts in 2099). What is forgotten by mistake cannot be remembered, so certificates
are forgotten no faster than a day's worth of expiries a call, whatever the clock says, and `jobs.py` calls once an hour: between a
clock that leapt and a certificate that lives lie as many hours as days are kept.
Rule 3: another process may take the duty over at any step; then this one stops in its place.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, TypeVar

from acmeca.service.ambient import Ambient
from acmeca.storage.errors import StaleError
from acmeca.storage.leases import Lease
from acmeca.storage.retention import Position
from acmeca.storage.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

_SHARE: Final = 9.0  # times as long as a step took is paused after it
_PAUSE: Final = 0.02  # seconds at the least
_AT_ONCE: Final = timedelta(days=1)


class Retention:
    """Deletes what was kept long enough: orders for `orders` after their end, certificates for `certificates` after theirs.

    `certificates` is None where they are kept for ever. `pause` waits for some seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        orders: timedelta,
        certificates: timedelta | None,
        ambient: Ambient,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store = store.retention
        self._orders = orders
        self._certificates = certificates
        self._ambient = ambient
        self._pause = pause

    async def drop_orders(self, *, lease: Lease | None) -> int:
        """Delete the orders that ended long ago, and the authorizations that nothing needs any more; returns how many orders."""
        before = self._ambient.now() - self._orders
        orders = authorizations = 0
        try:
            while deleted := await self._step(self._store.drop_orders(ended_before=before, lease=lease)):
                orders += deleted
            position: Position | None = Position()
            while position is not None:
                step = await self._step(
                    self._store.drop_authorizations(ended_before=before, after=position, lease=lease)
                )
                position, authorizations = step.position, authorizations + step.deleted
        except StaleError as error:
            log.info("retention stops: %s", error)
        if orders or authorizations:
            log.info("deleted %d orders and %d authorizations that ended before %s", orders, authorizations, before)
        return orders

    async def drop_limits(self, *, lease: Lease | None) -> None:
        """Delete the rate limits that are whole again."""
        try:
            while await self._step(self._store.drop_limits(at=self._ambient.now(), lease=lease)):
                pass
        except StaleError as error:
            log.info("retention stops: %s", error)

    async def forget_certificates(self, *, lease: Lease | None) -> int:
        """Delete the certificates that expired long ago, at most a day's worth of expiries (rule 2); returns how many."""
        if self._certificates is None:
            return 0
        now, keep = self._ambient.now(), self._certificates
        forgotten = 0
        try:
            before = await self._store.advance(to=now - keep, at_most=_AT_ONCE, keep=keep, lease=lease)
            if before is None:
                return 0
            position: Position | None = Position()
            while position is not None:
                step = await self._step(
                    self._store.forget_certificates(expired_before=before, after=position, at=now, lease=lease)
                )
                position, forgotten = step.position, forgotten + step.deleted
        except StaleError as error:
            log.info("retention stops: %s", error)
        if forgotten:
            log.info("deleted %d certificates that expired more than %s ago", forgotten, keep)
        return forgotten

    async def _step(self, step: Awaitable[T]) -> T:
        """Rule 1."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        result = await step
        await self._pause(max(_PAUSE, _SHARE * (loop.time() - begun)))
        return result
