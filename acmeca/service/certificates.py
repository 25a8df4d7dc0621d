"""Certificates: found by those who may see them, revoked on the three lawful paths of RFC 8555 §7.6.

How they come here is `issuance.py`.

Rule 1: what is revoked is compared as a whole, octet by octet, with what was issued.
Rule 2: who asks for a revocation and is refused stands in the audit (RULES §6).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from acmeca import audit
from acmeca.acme.identifiers import Identifier
from acmeca.acme.jwk import thumbprint
from acmeca.acme.objects import Account
from acmeca.acme.payloads import Revocation
from acmeca.acme.problem import Problem, ProblemType
from acmeca.errors import Conflict, NotFound
from acmeca.pki.errors import PkiError
from acmeca.pki.signing import split_signed
from acmeca.pki.tbs import read_serial
from acmeca.policy.challenges import ChallengePolicy
from acmeca.service.ambient import Ambient
from acmeca.service.issuers import Issuers, to_pem
from acmeca.service.observation import Observer
from acmeca.service.requests import AccountRequest, KeyRequest
from acmeca.service.status import Status, format_serial
from acmeca.storage.certificates import KEY_COMPROMISE, Certificate, Search
from acmeca.storage.errors import StaleError
from acmeca.storage.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Download:
    """A certificate with its chain as PEM, leaf first. `alternates` are the ids of the other chains, None for the one by default."""

    pem: bytes
    alternates: tuple[str | None, ...]


class Certificates:
    """The certificates of every issuer of this server."""

    def __init__(
        self,
        store: Store,
        *,
        issuers: Issuers,
        challenges: ChallengePolicy,
        status: Status,
        ambient: Ambient,
        observer: Observer,
    ) -> None:
        self._store = store
        self._issuers = issuers
        self._challenges = challenges
        self._status = status
        self._ambient = ambient
        self._observer = observer

    # --- finding ------------------------------------------------------------------------------------------------

    async def download(self, account: Account, certificate_id: str, chain_id: str | None = None) -> Download:
        """The certificate and the issuers above it (§7.4.2), for the account that it was issued to.

        Without a `chain_id` the root is left out: "a certificate that represents a trust anchor MAY be omitted" (§9.1).
        """
        certificate = await self._store.certificates.by_id(account.id, certificate_id)
        chains = () if certificate is None else self._issuers.chains(certificate.issuer_id)
        chosen = next((chain for chain in chains if chain.id == chain_id), None)
        if certificate is None or chosen is None:
            raise Problem(ProblemType.MALFORMED, "there is no such certificate", status=404)
        return Download(
            pem=to_pem(certificate.der) + chosen.pem,
            alternates=tuple(chain.id for chain in chains if chain is not chosen),
        )

    async def by_serial(self, serial: str) -> Certificate:
        """The certificate with this serial (lower-case hex). Raises `NotFound` for one that we never recorded."""
        certificate = await self._store.certificates.by_serial(serial)
        if certificate is None:
            raise NotFound(f"no certificate with serial {serial} was ever issued here; find it with: acmeca list")
        return certificate

    async def search(self, search: Search) -> list[Certificate]:
        """What fits, the newest first."""
        return await self._store.certificates.search(search, now=self._ambient.now())

    # --- revocation ---------------------------------------------------------------------------------------------

    async def revoke_for_client(self, request: AccountRequest | KeyRequest, revocation: Revocation) -> None:
        """§7.6: revoke what a client asks for. A refusal is in the audit.

        Step 1: the certificate is one that we issued, compared as a whole. Step 2: who asks is its account, an account
        that holds valid authorizations for all its names, or its own key. Step 3: it is not revoked, or its own key raises
        the reason to keyCompromise.
        """
        if isinstance(request, KeyRequest):
            actor = audit.key_actor(request.key.thumbprint)
        else:
            actor = audit.account_actor(request.account.id)
        serial = "unknown"
        try:
            # Step 1
            certificate = await self._issued(revocation.certificate_der)
            serial = certificate.serial
            # Step 2
            how = await self._right_of(request, certificate)
            # Step 3
            may_raise = isinstance(request, KeyRequest)
            if certificate.revoked_at is not None and not (may_raise and _raises(certificate, revocation.reason)):
                raise _already_revoked()
            try:
                await self._revoke(certificate, reason=revocation.reason, may_raise=may_raise, actor=actor, how=how)
            except StaleError:
                raise _already_revoked() from None
        except Problem as problem:
            await self.note_refusal(actor, serial, problem.detail)
            raise

    async def revoke_for_admin(self, serial: str, *, reason: int | None, user: str) -> Certificate:
        """Revoke by an administrator's word. Raises `NotFound` or `Conflict`; a refusal is in the audit."""
        actor = audit.admin_actor(user)
        try:
            certificate = await self.by_serial(serial)
            if certificate.revoked_at is not None and not _raises(certificate, reason):
                raise Conflict(
                    f"{serial} was revoked at {certificate.revoked_at:%Y-%m-%d %H:%M:%S} UTC; revoked stays revoked"
                )
            try:
                return await self._revoke(certificate, reason=reason, may_raise=True, actor=actor, how="administrator")
            except StaleError:
                raise Conflict(f"{serial} was revoked meanwhile") from None
        except (NotFound, Conflict) as refusal:
            await self.note_refusal(actor, serial, str(refusal))
            raise

    async def _revoke(
        self, certificate: Certificate, *, reason: int | None, may_raise: bool, actor: str, how: str
    ) -> Certificate:
        revoked = await self._store.certificates.revoke(
            certificate,
            reason=reason,
            may_raise=may_raise,
            thumbprint=thumbprint(certificate.public_key),
            actor=actor,
            how=how,
            at=self._ambient.now(),
        )
        self._status.forget(certificate.issuer_id, int(certificate.serial, 16))
        self._observer.revoked(reason)
        log.info("revoked certificate %s, reason %s, by %s (%s)", certificate.serial, reason, actor, how)
        return revoked

    async def note_refusal(self, actor: str, serial: str, reason: str) -> None:
        """Write down that somebody asked for a revocation and was refused (RULES §6)."""
        event = audit.RevocationRefused(actor=actor, serial_hex=serial, reason=reason)
        await self._store.note(event, at=self._ambient.now())

    async def _issued(self, certificate_der: bytes) -> Certificate:
        try:
            serial = read_serial(split_signed(certificate_der)[0])
        except PkiError:
            raise Problem(
                ProblemType.MALFORMED, '"certificate" is not base64url of a certificate in DER form'
            ) from None
        certificate = await self._store.certificates.by_serial(format_serial(serial)) if serial > 0 else None
        if certificate is None or certificate.signature is None or certificate.der != certificate_der:
            raise Problem(ProblemType.MALFORMED, "the certificate was not issued by this CA", status=404)
        return certificate

    async def _right_of(self, request: AccountRequest | KeyRequest, certificate: Certificate) -> str:
        """By which path of §7.6 the sender may revoke it, for the audit; a Problem when by none."""
        if isinstance(request, KeyRequest):
            if thumbprint(certificate.public_key) == request.key.thumbprint:
                return "certificate key"
            raise Problem(ProblemType.UNAUTHORIZED, "the key that signed the request is not the certificate's key")
        if certificate.account_id == request.account.id:
            return "account"
        names = certificate.identifiers
        if names and await self._holds_all(request.account.id, names):
            return "authorizations"
        raise Problem(
            ProblemType.UNAUTHORIZED,
            "the account neither was issued this certificate nor holds valid authorizations for all its names",
        )

    async def _holds_all(self, account_id: str, names: Sequence[Identifier]) -> bool:
        """Whether the account holds valid, unexpired authorizations for all of them, by what is allowed still; a wildcard needs its own."""
        found = await self._store.authorizations.valid(account_id, names, at=self._ambient.now())
        return {item.ordered for item in found if self._challenges.counts(item)}.issuperset(names)


def _already_revoked() -> Problem:
    return Problem(ProblemType.ALREADY_REVOKED, "the certificate is revoked already")


def _raises(certificate: Certificate, reason: int | None) -> bool:
    """RULES §5: "only an upgrade to keyCompromise … changes a reason"."""
    return reason == KEY_COMPROMISE and certificate.revocation_reason != KEY_COMPROMISE
