"""What the server does by itself, at its own times.

Rule 1: each duty is safe to run at any time and does nothing when nothing is due, so a restart needs no memory.
Rule 2: a duty that fails is logged and tried again; it never takes another one down.
Rule 3: of several processes on one database one has the duties that are enough to be done once (`leadership.py`); each looks
after what it has in hand itself, follows the others' revocations, and gives a sign of life.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from acmeca.service.audit_heads import AuditHeads
from acmeca.service.challenges import Challenges
from acmeca.service.issuance import Issuance
from acmeca.service.leadership import Leadership
from acmeca.service.orders import Orders
from acmeca.service.own_certificates import OwnCertificates
from acmeca.service.profiles import Profiles
from acmeca.service.retention import Retention
from acmeca.service.status import Status
from acmeca.storage.errors import FencedError
from acmeca.storage.store import Store
from acmeca.storage.writers import BEAT

log = logging.getLogger(__name__)

_SWEEP_SECONDS: Final = 10.0
_EXPIRY_SECONDS: Final = 60.0
_HEAD_SECONDS: Final = 60.0  # what is cut off the end of the audit within this time leaves no signed trace
_RENEWAL_SECONDS: Final = 60.0
_CRL_SECONDS: Final = 30.0  # the clock may jump, so the schedule is looked at more often than it needs
_CRL_PAUSE_SECONDS: Final = 0.5  # revocations in quick succession share a CRL
_CRL_RETRY_SECONDS: Final = 5.0  # RULES §5: a revocation shows in the CRL within a minute
_FAILED_SECONDS: Final = 1.0
_RETENTION_SECONDS: Final = 600.0
_FORGETTING_SECONDS: Final = 3600.0  # rule 2 of retention.py rests on it
_FOLLOW_SECONDS: Final = 0.25  # RULES §5: "A revocation shows in OCSP within a second on every worker and replica"


class Jobs:
    """The duties of one server: signs of life, unfinished work, expiry, own certificates, CRLs, retention, the audit's heads.

    `fenced` is set when another process has taken this one's place: it has to end.
    """

    def __init__(
        self,
        store: Store,
        *,
        leadership: Leadership,
        profiles: Profiles,
        orders: Orders,
        challenges: Challenges,
        issuance: Issuance,
        own_certificates: OwnCertificates,
        status: Status,
        retention: Retention,
        audit_heads: AuditHeads,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._profiles = profiles
        self._orders = orders
        self._challenges = challenges
        self._issuance = issuance
        self._own_certificates = own_certificates
        self._status = status
        self._retention = retention
        self._audit_heads = audit_heads
        self.fenced = asyncio.Event()

    async def prepare(self) -> None:
        """What has to be done before the first request: finish what a stopped process left, have fresh keys and CRLs.

        Only without a certificate for the listener and the responders there is nothing to start for.
        """
        await _once("leadership", self._leadership.campaign)
        await _once("profiles", self._profiles.keep_offered)
        await _once("unfinished work", self._finish_unfinished)
        await self._own_certificates.refresh()
        await _once("CRLs", self._publish_due_crls)
        await _once("following", self._status.follow)

    async def run(self) -> None:
        """Do all duties until cancelled. Validations are taken up here: by now the validator knows our own listeners."""
        await _once("unfinished work", self._sweep)
        async with asyncio.TaskGroup() as group:
            group.create_task(_repeat("signs of life", self._beat, BEAT))
            group.create_task(_repeat("following", self._status.follow, _FOLLOW_SECONDS))
            group.create_task(_repeat("unfinished work", self._sweep, _SWEEP_SECONDS))
            group.create_task(_repeat("expiry", self._expire, _EXPIRY_SECONDS))
            group.create_task(_repeat("own certificates", self._own_certificates.refresh, _RENEWAL_SECONDS))
            group.create_task(_repeat("retention of orders", self._drop_orders, _RETENTION_SECONDS))
            group.create_task(_repeat("retention of limits", self._drop_limits, _RETENTION_SECONDS))
            group.create_task(_repeat("retention of certificates", self._forget_certificates, _FORGETTING_SECONDS))
            group.create_task(self._publish_crls())
            group.create_task(_repeat("audit heads", self._audit_heads.sign_with_new_key, _HEAD_SECONDS))

    async def _beat(self) -> None:
        try:
            await self._store.writers.beat()
        except FencedError:
            self.fenced.set()
            raise
        had_duties = self._leadership.lease is not None
        await self._leadership.campaign()
        if self._leadership.lease is not None and not had_duties:
            self._status.crl_due.set()  # the one before us may have left revocations (RULES §5: "within a minute")

    async def _sweep(self) -> None:
        await self._finish_unfinished()
        await self._challenges.resume()

    async def _finish_unfinished(self) -> None:
        await self._issuance.finish_unfinished(adopt=self._leadership.lease is not None)

    async def _expire(self) -> None:
        if self._leadership.lease is not None:
            await self._orders.expire()

    async def _drop_orders(self) -> None:
        if self._leadership.lease is not None:
            await self._retention.drop_orders(lease=self._leadership.lease)

    async def _drop_limits(self) -> None:
        if self._leadership.lease is not None:
            await self._retention.drop_limits(lease=self._leadership.lease)

    async def _forget_certificates(self) -> None:
        if self._leadership.lease is not None:
            await self._retention.forget_certificates(lease=self._leadership.lease)

    async def _publish_crls(self) -> None:
        while True:
            is_done = await _once("CRLs", self._publish_next_crls)
            await asyncio.sleep(_CRL_PAUSE_SECONDS if is_done else _CRL_RETRY_SECONDS)

    async def _publish_next_crls(self) -> None:
        """Wait until something is due, then publish it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(_CRL_SECONDS, await self._status.seconds_to_next_crl())):
                await self._status.crl_due.wait()
        await self._publish_due_crls()

    async def _publish_due_crls(self) -> None:
        lease = self._leadership.lease
        if lease is None:  # the one who leads hears of the revocation by itself
            self._status.crl_due.clear()
        else:
            await self._status.publish_due_crls(lease=lease)


async def _repeat(name: str, duty: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Rule 2. A duty that fails again and again is told of once, and when it succeeds at last."""
    is_failing = False
    while True:
        await asyncio.sleep(max(seconds, _FAILED_SECONDS) if is_failing else seconds)
        try:
            await duty()
        except Exception as error:
            if is_failing:
                log.debug("%s: failed again: %s", name, error)
            else:
                log.exception("%s: failed, tried again until it succeeds", name)
            is_failing = True
        else:
            if is_failing:
                log.warning("%s: done at last", name)
            is_failing = False


async def _once(name: str, duty: Callable[[], Awaitable[object]]) -> bool:
    """Rule 2. Returns whether the duty was done."""
    try:
        await duty()
    except Exception:
        log.exception("%s: failed, tried again later", name)
        return False
    return True
