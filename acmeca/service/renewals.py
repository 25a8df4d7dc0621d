"""Renewals (RFC 9773): when a certificate should be renewed, and which certificate an order is to replace.

Rule 1: an identifier names issuer and serial, and both have to be right: what another issuer signed under the same serial is not ours
to speak of.
Rule 2: renewalInfo is asked for by everybody, without a signature, again and again: one read by an index, and nothing is told that does
not follow from the certificate itself, its revocation, and what an operator wants told.
Rule 3: a certificate of another account is no other answer than none (RULES §2).
Rule 4: what operators set is kept in memory for a second. Whatever process it was set at, all tell it then.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from acmeca.acme.objects import Account
from acmeca.acme.payloads import NewOrder
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.renewal import CertificateId, RenewalInfo, suggest_window, wait_before_next
from acmeca.policy.renewals import Override
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import Issuers
from acmeca.storage.renewals import StoredRenewable
from acmeca.storage.replacements import is_replaced
from acmeca.storage.store import Store

_FRESH: Final = 1.0  # seconds
_NOT_KEPT: Final = {"Cache-Control": "no-store"}  # by a cache that would go on to say so (RFC 9110 §15.1)

# acme.sh and cert-manager order again without `replaces` when they read "ARI" or "'replaces'" in a refusal.
_REPLACES: Final = "ARI 'replaces'"


class Renewals:
    """Answers for the certificates of every issuer. `longest_wait` is how long a client may go without asking again."""

    def __init__(self, store: Store, *, issuers: Issuers, longest_wait: timedelta, ambient: Ambient) -> None:
        self._store = store
        self._longest_wait = longest_wait
        self._ambient = ambient
        self._issuer_ids: dict[bytes, frozenset[str]] = {}
        for item in issuers.all:
            known = self._issuer_ids.get(item.issuer.key_identifier, frozenset())
            self._issuer_ids[item.issuer.key_identifier] = known | {item.issuer.id}
        self._in_force: Sequence[Override] = ()
        self._read_at: float | None = None

    async def renewal_info(self, text: str) -> RenewalInfo:
        """§4.2, for a certificate's identifier. Raises Problem: 400 for what is no identifier, 404 for none of ours."""
        try:
            identifier = CertificateId.parse(text)
        except ValueError as error:
            raise Problem(ProblemType.MALFORMED, f"the certificate's identifier: {error}", headers=_NOT_KEPT) from None
        certificate = await self._certificate(identifier)
        if certificate is None:
            raise Problem(ProblemType.MALFORMED, "there is no such certificate", status=404, headers=_NOT_KEPT)
        return await self.info_of(certificate)

    async def info_of(self, certificate: StoredRenewable) -> RenewalInfo:
        """What is told of a certificate."""
        override = await self.override_for(certificate)
        asked = None if override is None else override.window
        return RenewalInfo(
            window=suggest_window(certificate.life, asked=asked),
            retry_after=wait_before_next(certificate.life, longest=self._longest_wait, asked=asked),
            explanation_url=None if override is None else override.explanation_url,
        )

    async def override_for(self, certificate: StoredRenewable) -> Override | None:
        """The newest window in force that an operator set for this certificate, or None when it has its own."""
        now = self._ambient.now()
        names: tuple[str, ...] | None = None
        for override in await self._overrides():
            if not override.fits(certificate.facts, now=now):
                continue
            if override.selection.name is not None:
                if names is None:
                    names = await self._store.renewals.names(certificate.id)
                if not override.selection.fits_names(names):
                    continue
            return override
        return None

    async def predecessor(self, account: Account, request: NewOrder) -> CertificateId | None:
        """§5: the certificate that a newOrder is to replace, checked; None when it does not say. Raises Problem.

        "Servers SHOULD check that the identified certificate and the newOrder request correspond to the same ACME account, that they
        share at least one identifier, and that the identified certificate has not already been marked as replaced by a
        different order that is not "invalid"."

        1. an identifier, 2. of a certificate of this account, 3. that has one of the order's names, 4. that nobody replaces. The last is
        asked again when the order is stored (`Orders.create`), where it is exact.
        """
        if request.replaces is None:
            return None
        # Step 1
        try:
            identifier = CertificateId.parse(request.replaces)
        except ValueError as error:
            raise Problem(ProblemType.MALFORMED, f"{_REPLACES} is no identifier of a certificate: {error}") from None
        # Step 2
        certificate = await self._certificate(identifier)
        if certificate is None or certificate.facts.account_id != account.id:
            raise Problem(
                ProblemType.MALFORMED,
                f"{_REPLACES}: this account has no certificate with that identifier here; order without it",
            )
        # Step 3
        names = await self._store.renewals.names(certificate.id)
        if {item.value for item in request.identifiers}.isdisjoint(names):
            raise Problem(
                ProblemType.MALFORMED, f"{_REPLACES}: that certificate has none of the names ordered; order without it"
            )
        # Step 4
        if await is_replaced(self._store.database, identifier, at=self._ambient.now()):
            raise already_replaced()
        return identifier

    def forget(self) -> None:
        """Look afresh at what operators have set: one of them just did."""
        self._read_at = None

    async def _certificate(self, identifier: CertificateId) -> StoredRenewable | None:
        """Rule 1."""
        issuer_ids = self._issuer_ids.get(identifier.key_identifier)
        if issuer_ids is None:
            return None
        certificate = await self._store.renewals.by_serial(identifier.serial_hex)
        return None if certificate is None or certificate.facts.issuer_id not in issuer_ids else certificate

    async def _overrides(self) -> Sequence[Override]:
        """Rule 4."""
        moment = self._ambient.uptime()
        if self._read_at is None or moment - self._read_at >= _FRESH:
            self._in_force = await self._store.renewals.in_force()
            self._read_at = moment
        return self._in_force


def already_replaced() -> Problem:
    """§5: "it MUST return an HTTP 409 (Conflict) with a problem document of type "alreadyReplaced""."""
    return Problem(
        ProblemType.ALREADY_REPLACED,
        f"{_REPLACES}: another order replaces that certificate, or has replaced it; order without it",
    )
