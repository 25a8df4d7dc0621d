"""Is what we tell relying parties fresh? (RULES §5: what is stale makes readiness fail well before nextUpdate.)

Rule 1: a fault is one line that says what is wrong, since when, and what to do.
Rule 2: nothing is changed and nothing is signed here.
"""

from datetime import datetime, timedelta
from typing import Final

from acmeca.errors import NotFound
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import Issuers
from acmeca.service.status import Status
from acmeca.storage.crls import Crl
from acmeca.storage.issuers import StoredIssuer
from acmeca.storage.store import Store

_SPENT: Final = 0.75  # of a CRL's life: half is the latest that its interval allows
_ROOT_CRL_LEFT: Final = timedelta(days=7)  # it is made by hand: `doctor` warns 90 days ahead, this is the last call
_RESPONDER_LEFT: Final = timedelta(days=2)  # of fourteen; a new one is made when five are left
_LATE: Final = timedelta(minutes=1)  # for a revocation to be in the CRL


class Readiness:
    """Looks at the CRLs and responders of every issuer."""

    def __init__(self, store: Store, *, issuers: Issuers, status: Status, ambient: Ambient) -> None:
        self._store = store
        self._issuers = issuers
        self._status = status
        self._ambient = ambient

    async def faults(self) -> list[str]:
        """What is stale or about to be; empty when all is well."""
        now = self._ambient.now()
        faults = []
        for stored in self._issuers.all:
            crl_fault = await self._crl_fault(stored, now)
            if crl_fault is not None:
                faults.append(f"crl of {stored.issuer.id}: {crl_fault}")
        for signer in self._issuers.signing:
            not_after = self._status.responder_not_after(signer.id)
            if not_after is None or not_after - now < _RESPONDER_LEFT:
                until = "none" if not_after is None else f"{not_after:%Y-%m-%d %H:%M} UTC"
                faults.append(f"ocsp responder of {signer.id}: its certificate ends at {until}; the log says why")
        return faults

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
