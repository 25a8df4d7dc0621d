"""What the server does by itself, at its own times.

Rule 1: each duty is safe to run at any time and does nothing when nothing is due, so a restart needs no memory.
Rule 2: a duty that fails is logged and tried again; it never takes another one down.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from acmeca.service.certificates import Certificates
from acmeca.service.challenges import Challenges
from acmeca.service.orders import Orders
from acmeca.service.own_certificates import OwnCertificates
from acmeca.service.status import Status

log = logging.getLogger(__name__)

_SWEEP_SECONDS: Final = 10.0
_EXPIRY_SECONDS: Final = 60.0
_RENEWAL_SECONDS: Final = 60.0
_CRL_SECONDS: Final = 30.0  # the clock may jump, so the schedule is looked at more often than it needs
_CRL_PAUSE_SECONDS: Final = 0.5  # revocations in quick succession share a CRL
_CRL_RETRY_SECONDS: Final = 5.0  # RULES §5: a revocation shows in the CRL within a minute


class Jobs:
    """The duties of one server: unfinished work, expiry, own certificates, CRLs."""

    def __init__(
        self,
        *,
        orders: Orders,
        challenges: Challenges,
        certificates: Certificates,
        own_certificates: OwnCertificates,
        status: Status,
    ) -> None:
        self._orders = orders
        self._challenges = challenges
        self._certificates = certificates
        self._own_certificates = own_certificates
        self._status = status

    async def prepare(self) -> None:
        """What has to be done before the first request: finish what a stopped process left, have fresh keys and CRLs.

        Only without a certificate for the listener and the responders there is nothing to start for.
        """
        await _once("unfinished work", self._certificates.finish_unfinished)
        await self._own_certificates.refresh()
        await _once("CRLs", self._status.publish_due_crls)

    async def run(self) -> None:
        """Do all duties until cancelled. Validations are taken up here: by now the validator knows our own listeners."""
        await _once("unfinished work", self._sweep)
        async with asyncio.TaskGroup() as group:
            group.create_task(_repeat("unfinished work", self._sweep, _SWEEP_SECONDS))
            group.create_task(_repeat("expiry", self._orders.expire, _EXPIRY_SECONDS))
            group.create_task(_repeat("own certificates", self._own_certificates.refresh, _RENEWAL_SECONDS))
            group.create_task(self._publish_crls())

    async def _sweep(self) -> None:
        await self._certificates.finish_unfinished()
        await self._challenges.resume()

    async def _publish_crls(self) -> None:
        while True:
            is_done = await _once("CRLs", self._publish_next_crls)
            await asyncio.sleep(_CRL_PAUSE_SECONDS if is_done else _CRL_RETRY_SECONDS)

    async def _publish_next_crls(self) -> None:
        """Wait until something is due, then publish it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_CRL_SECONDS, await self._status.seconds_to_next_crl())):
                await self._status.crl_due.wait()
        await self._status.publish_due_crls()


async def _repeat(name: str, duty: Callable[[], Awaitable[object]], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        await _once(name, duty)


async def _once(name: str, duty: Callable[[], Awaitable[object]]) -> bool:
    """Rule 2. Returns whether the duty was done."""
    try:
        await duty()
    except Exception:
        log.exception("%s: failed, tried again later", name)
        return False
    return True
