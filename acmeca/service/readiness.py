"""Can this CA do its work, and is what we tell relying parties fresh? (RULES §5: what is stale makes readiness fail well before
nextUpdate.)

Rule 1: a fault is one line that says what is wrong, since when, and what to do.
Rule 2: nothing is changed here, and nothing is signed but the text of a probe (`probes.py`).
Rule 3: the answer waits for a moment at most. What blocks is looked at by probes, and what they saw last is told.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from acmeca.errors import NotFound
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import Issuers
from acmeca.service.probes import (
    ClockWatch,
    Disks,
    Fault,
    FaultKind,
    Probe,
    Seen,
    WriteWatch,
    judge_record_time,
    probe_disks,
    probe_keys,
    probe_writes,
)
from acmeca.service.status import Status
from acmeca.storage.crls import Crl
from acmeca.storage.issuers import StoredIssuer
from acmeca.storage.store import Store

_SPENT: Final = 0.75  # of a CRL's life: half is the latest that its interval allows
_ROOT_CRL_LEFT: Final = timedelta(days=7)  # it is made by hand: `doctor` warns 90 days ahead, this is the last call
_RESPONDER_LEFT: Final = timedelta(days=2)  # of fourteen; a new one is made when five are left
_LATE: Final = timedelta(minutes=1)  # for a revocation to be in the CRL
_UNHEARD: Final = timedelta(seconds=5)  # for the revocations of other processes to be heard of
_MOMENT: Final = 0.03  # seconds that an answer waits for its probes; a healthy one takes a millisecond or two


class Readiness:
    """Looks at the CRLs and responders of every issuer, and at what the server stands on.

    `writes` is what the database's driver tells of its commits, `disks` are the file systems that have to have room.
    """

    def __init__(
        self,
        store: Store,
        *,
        issuers: Issuers,
        status: Status,
        writes: WriteWatch,
        disks: Disks,
        ambient: Ambient,
        moment: float = _MOMENT,
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._status = status
        self._ambient = ambient
        self.moment = moment
        self._watches = (ClockWatch(ambient), writes)
        self._stored_faults: Sequence[Fault] = ()
        self._probes = (
            Probe(
                FaultKind.DATABASE,
                self._look_at_store,
                ambient=ambient,
                every=0,
                patience=2,
                stuck=Seen("database", "a read has not ended", "look at the database and its disk"),
            ),
            probe_writes(store.database, ambient=ambient),
            probe_keys(issuers.signing, ambient=ambient),
            probe_disks(disks, ambient=ambient),
        )

    async def faults(self) -> list[str]:
        """What is wrong or about to be, a line each; empty when all is well."""
        return [fault.text for fault in await self.found()]

    async def found(self) -> list[Fault]:
        """The same, with what each is about."""
        under_way = [task for probe in self._probes if (task := probe.begin()) is not None]
        if under_way:
            await asyncio.wait(under_way, timeout=self.moment)
        return [
            *self._stored_faults,
            *self._responder_faults(),
            *self._following_faults(),
            *(fault for watch in self._watches if (fault := watch.fault()) is not None),
            *(fault for probe in self._probes for fault in probe.faults()),
        ]

    async def stop(self) -> None:
        """Let go of what is under way."""
        for probe in self._probes:
            await probe.stop()

    async def _look_at_store(self) -> Sequence[Seen]:
        """What can be told from the database. Each of these says itself since when it is so."""
        now = self._ambient.now()
        faults = []
        for stored in self._issuers.all:
            crl_fault = await self._crl_fault(stored, now)
            if crl_fault is not None:
                faults.append(Fault(FaultKind.CRL, f"crl of {stored.issuer.id}: {crl_fault}"))
        record_fault = judge_record_time(await self._store.newest_record(), now)
        self._stored_faults = faults if record_fault is None else [*faults, record_fault]
        return ()

    def _responder_faults(self) -> list[Fault]:
        now = self._ambient.now()
        faults = []
        for signer in self._issuers.signing:
            not_after = self._status.responder_not_after(signer.id)
            if not_after is None or not_after - now < _RESPONDER_LEFT:
                until = "none" if not_after is None else f"{not_after:%Y-%m-%d %H:%M} UTC"
                text = f"ocsp responder of {signer.id}: its certificate ends at {until}; the log says why"
                faults.append(Fault(FaultKind.RESPONDER, text))
        return faults

    def _following_faults(self) -> list[Fault]:
        """RULES §5: "A revocation shows in OCSP within a second on every worker and replica"; this one does not hear of any."""
        since = self._status.not_followed_since
        if since is None or self._ambient.now() - since < _UNHEARD:
            return []
        text = f"database: it has not told of revocations since {since:%Y-%m-%d %H:%M} UTC; OCSP may say good of what others revoked"
        return [Fault(FaultKind.DATABASE, text)]

    async def _crl_fault(self, stored: StoredIssuer, now: datetime) -> str | None:
        try:
            crl = await self._status.crl(stored.issuer.id)
        except NotFound:
            return "there is none"
        if crl.this_update > now:
            return f"its thisUpdate {crl.this_update:%Y-%m-%d %H:%M} UTC lies ahead; is the clock right?"
        return self._root_fault(crl, now) if stored.is_root else await self._age_fault(crl, now)

    @staticmethod
    def _root_fault(crl: Crl, now: datetime) -> str | None:
        if crl.next_update - now >= _ROOT_CRL_LEFT:
            return None
        return f"it ends at {crl.next_update:%Y-%m-%d %H:%M} UTC; sign a new one with: acmeca crl --root-key FILE"

    async def _age_fault(self, crl: Crl, now: datetime) -> str | None:
        if now - crl.this_update > (crl.next_update - crl.this_update) * _SPENT:
            return f"it was made at {crl.this_update:%Y-%m-%d %H:%M} UTC and none since; the log says why"
        waiting = await self._store.crls.oldest_pending_revocation(crl.issuer_id)
        if waiting is not None and now - waiting > _LATE:
            return f"a revocation of {waiting:%Y-%m-%d %H:%M} UTC is not in it yet; the log says why"
        return None
