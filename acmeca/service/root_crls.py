"""A root's CRL: drawn up here, signed where the root's key is, taken back only as it was drawn up.

Rule 1: the root's key is never here. What comes in is a draft's number and a signed CRL, and both are somebody's word.
Rule 2: what is published is, byte for byte, the draft with a signature that the root's certificate verifies.
Rule 3: a root's CRL lasts a year, and so does a mistake in it: where the clock may be wrong, nothing is begun.
"""

import logging
from datetime import datetime, timedelta
from typing import Final

from acmeca.errors import AcmecaError, Conflict, NotFound
from acmeca.pki import signing
from acmeca.pki.crl_lint import lint_crl, parse_crl
from acmeca.pki.issuer import Issuer
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import ROOT_CRL_LIFETIME, Issuers
from acmeca.service.status import Status, build_drafted_tbs
from acmeca.storage.crls import Crl, CrlDraft
from acmeca.storage.errors import StaleError
from acmeca.storage.store import Store

log = logging.getLogger(__name__)

SHORTEST: Final = timedelta(days=1)
LONGEST: Final = ROOT_CRL_LIFETIME  # for so long may a client go on with a CRL that does not tell of a revocation


class RootCrls:
    """Draws up the roots' CRLs and publishes them. Two administrators may do so at once: the higher number stays."""

    def __init__(self, store: Store, *, issuers: Issuers, status: Status, ambient: Ambient) -> None:
        self._store = store
        self._issuers = issuers
        self._status = status
        self._ambient = ambient

    async def begin(self, issuer_id: str, *, lifetime: timedelta, clock_is_right: bool, actor: str) -> CrlDraft:
        """A draft of a root's next CRL: number, times and entries, for `actor` to have signed.

        1. the issuer is a root of ours, 2. the lifetime is one that a root's CRL may have, 3. the clock can be believed,
        4. the store takes the number and fixes the content.

        nextUpdate is `lifetime` after now, and never beyond the root's end. `clock_is_right` is an administrator's word
        that a published CRL from the future is the one with the wrong time. Raises `NotFound`, `AcmecaError` at 2,
        `Conflict` at 3.
        """
        # Step 1
        root = self._root(issuer_id)
        # Step 2
        if not SHORTEST <= lifetime <= LONGEST:
            raise AcmecaError(f"a root's CRL lasts at least {SHORTEST.days} day and at most {LONGEST.days} days")
        # Step 3
        now = self._ambient.now()
        await self._require_sane_clock(root, now, clock_is_right=clock_is_right)
        # Step 4
        next_update = min(now + lifetime, root.not_after)
        return await self._store.crls.begin(root.id, this_update=now, next_update=next_update, actor=actor)

    async def publish(self, issuer_id: str, number: int, crl_der: bytes, *, actor: str) -> Crl:
        """Publish what was signed elsewhere.

        1. the issuer is a root of ours, with a draft of this number that nothing has overtaken, 2. its CRL is not over
        already, 3. what came is a flawless CRL of this root and number, its signature verified with the root's certificate,
        4. it is the draft's own TBSCertList (number, times, entries) in the one encoding that we make, 5. published by
        compare-and-swap.

        Raises `NotFound`, `Conflict` for a draft that is of no use any more, `AcmecaError` for a CRL that is not the draft's.
        """
        # Step 1
        root = self._root(issuer_id)
        try:
            draft = await self._store.crls.begun(root.id, number)
            # Step 2
            now = self._ambient.now()
            if draft.next_update <= now:
                raise Conflict(f"CRL {number} was to be good until {draft.next_update}, which is over; begin again")
            # Step 3
            findings = lint_crl(crl_der, root, number=number)
            if findings:
                raise self._refused(root, number, "; ".join(str(finding) for finding in findings))
            # Step 4: RFC 5280 §5.1.1.3: the signature is over the DER of tbsCertList; nothing else may surround it.
            signature = parse_crl(crl_der).signature
            tbs = build_drafted_tbs(draft, root)
            if crl_der != signing.assemble_signed(tbs, root.signature_algorithm_der, signature):
                raise self._refused(root, number, "its content is another than that of the draft")
            # Step 5
            crl = await self._store.crls.publish(draft, crl_der, at=now, actor=actor, is_root=True)
        except StaleError as error:
            raise Conflict(f"nothing was published: {error}; the newest one stays, see: acmeca crl") from None
        self._status.use_crl(crl)
        log.info("published CRL %d of root %s with %d entries, for %s", crl.number, root.id, crl.entries, actor)
        return crl

    def _root(self, issuer_id: str) -> Issuer:
        stored = self._issuers.stored(issuer_id)
        if stored is None:
            raise NotFound(f"there is no issuer {issuer_id}; acmeca crl lists them")
        if not stored.is_root:
            raise NotFound(f"issuer {issuer_id} is no root: the server signs its CRLs, see: acmeca crl --publish")
        return stored.issuer

    async def _require_sane_clock(self, root: Issuer, now: datetime, *, clock_is_right: bool) -> None:
        if not root.not_before <= now < root.not_after:
            raise Conflict(
                f"by this machine's clock it is {now}, and the root is valid from {root.not_before} to {root.not_after}: "
                "look at the clock; nothing was begun"
            )
        latest = await self._store.crls.latest(root.id)
        if latest is not None and latest.this_update > now and not clock_is_right:
            raise Conflict(
                f"by this machine's clock it is {now}, and the newest CRL says that it was made later, at "
                f"{latest.this_update}: look at the clock. If it is right now, and was wrong then, add: --clock-is-right"
            )

    def _refused(self, root: Issuer, number: int, why: str) -> AcmecaError:
        log.warning("what was handed in as CRL %d of root %s was refused: %s", number, root.id, why)
        return AcmecaError(f"this is not CRL {number} as it was begun: {why}; nothing was published")
