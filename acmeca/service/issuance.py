"""Issuance in the one order that RULES §4 allows: ask, prepare, lint, record, sign.

Rule 1: nothing is signed that was not prepared, linted and durably recorded; this module is the one place that redeems a
prepared certificate.
Rule 2: what was recorded and not signed, because a process died or a key failed, is finished or its order is failed by
`finish_unfinished`; the to-be-signed bytes are never made a second time. What an instance recorded is its own to sign as long
as it lives.
Rule 3: names are asked about at the order and again here, right before signing, every one of them; so are their CAA records.
Rule 4: a certificate is made by the profile that its order was made with, as far as today's profile of that name allows it.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from acmeca import audit
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.jwk import thumbprint
from acmeca.acme.objects import Account, Order
from acmeca.acme.problem import Problem, ProblemType, join_problems
from acmeca.acme.states import ChallengeStatus, OrderStatus
from acmeca.pki.errors import IssuanceError, IssuerNotValidError, LintError, ValidityError
from acmeca.pki.issuance import Prepared, prepare, random_serial, restore, sign
from acmeca.pki.signing import PublicKey, split_signed
from acmeca.pki.template import Template
from acmeca.pki.validity import choose_validity
from acmeca.policy.csr import accept_csr
from acmeca.policy.grants import Grant
from acmeca.policy.keys import KeyType, key_type
from acmeca.policy.limits import Taking
from acmeca.policy.names import NamePolicy, first_refusals
from acmeca.policy.profiles import Profile
from acmeca.service.ambient import Ambient
from acmeca.service.caa import Caa, Shown
from acmeca.service.issuers import Issuers, SigningIssuer
from acmeca.service.limits import Limits
from acmeca.service.observation import Observer
from acmeca.service.profiles import Profiles
from acmeca.service.status import format_serial
from acmeca.storage.certificates import Certificate
from acmeca.storage.errors import KeyRefusedError, StaleError
from acmeca.storage.issuance import Unfinished
from acmeca.storage.limits import LimitReachedError
from acmeca.storage.store import Store
from acmeca.storage.writers import Others

log = logging.getLogger(__name__)

_SERIAL_BYTES: Final = 16
_TIME_TO_FINISH: Final = timedelta(hours=1)  # how long a record waits for its signature before its order is failed


@dataclass(frozen=True, slots=True)
class _Subject:
    """For whom and for what a certificate is made; an account, an order and its profile, or none for the server's own."""

    names: tuple[Identifier, ...]
    public_key: PublicKey
    account_id: str | None = None
    order_id: str | None = None
    profile_id: str | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None


class Issuance:
    """What makes certificates: those of orders, and the server's own."""

    def __init__(
        self,
        store: Store,
        *,
        others: Others,
        issuers: Issuers,
        names: NamePolicy,
        caa: Caa,
        limits: Limits,
        profiles: Profiles,
        ambient: Ambient,
        observer: Observer,
        weak_keys: frozenset[bytes] = frozenset(),
    ) -> None:
        self._store = store
        self._others = others
        self._weak_keys = weak_keys
        self._issuers = issuers
        self._names = names
        self._caa = caa
        self._limits = limits
        self._profiles = profiles
        self._ambient = ambient
        self._observer = observer
        self._signing: set[str] = set()

    def require_validity(self, profile: Profile, *, not_before: datetime | None, not_after: datetime | None) -> None:
        """Raise Problem `malformed` for times that no certificate of this profile could have now (§7.4); it names the bound."""
        if not_before is None and not_after is None:
            return
        issuer = self._issuers.active.issuer
        now = self._ambient.now()
        try:
            choose_validity(profile.template, issuer, now=now, not_before=not_before, not_after=not_after)
        except IssuanceError as error:
            raise _problem(error) from None

    async def issue_for_order(self, account: Account, order: Order, csr_der: bytes) -> Certificate | None:
        """Steps 2 to 5 of finalize (DESIGN §3). Raises a Problem, or `StaleError` when the order is ready no longer.

        Step 2: the CSR is acceptable and asks for exactly the names of the order, or `badCSR` and the order stays ready;
        policy, today's profile of the order's, and CAA records are asked once more. Step 3: the certificate is prepared and
        linted. Step 4: it is recorded, and the order
        claimed, in one durable transaction. Step 5: it is signed and the order made valid with it. When step 5 fails, the
        result is None; the order stays `processing` and `finish_unfinished` takes it up.
        """
        started = self._ambient.uptime()
        try:
            signer, prepared, certificate = await self._claim(account, order, csr_der)
        except Problem as problem:
            if problem.type is ProblemType.RATE_LIMITED:  # `limits` has written it down, once
                raise
            event = audit.IssuanceRefused(
                actor=audit.account_actor(account.id), subject_id=order.id, reason=problem.detail
            )
            await self._store.note(event, at=self._ambient.now())
            raise
        # Step 5
        try:
            signed = await self._complete(signer, prepared, certificate)
        except Exception:  # whatever a token or a disk raises: the record stands, and the order is finished later
            log.exception("order %s: recorded as %s and not signed yet", order.id, certificate.serial)
            return None
        else:
            self._observer.finalized(self._ambient.uptime() - started)
            return signed
        finally:
            self._signing.discard(certificate.id)

    async def _claim(
        self, account: Account, order: Order, csr_der: bytes
    ) -> tuple[SigningIssuer, Prepared, Certificate]:
        """Steps 2 to 4: what is about to be signed, recorded."""
        # Step 2
        request = accept_csr(csr_der, order.identifiers, weak_keys=self._weak_keys)
        if any(request.spki_der == stored.issuer.spki_der for stored in self._issuers.all):
            raise Problem(ProblemType.BAD_CSR, "the key in the CSR is an issuer's; make a new key for the certificate")
        grant = None if account.grant_id is None else await self._store.grants.of_account(account.id)
        profile = await self._profiles.as_ordered(order.profile, order.profile_id)
        await self._require_allowed(
            profile, grant, order.id, order.identifiers, request.public_key, is_as_ordered=order.profile_id is not None
        )
        refusals = await self._caa.problems(account.id, await self._shown(order))
        if refusals:
            raise join_problems(
                refusals, detail=f"CAA records of {len(refusals)} names are against it; see subproblems"
            )
        # Steps 3 and 4
        subject = _Subject(
            order.identifiers,
            request.public_key,
            account_id=account.id,
            order_id=order.id,
            profile_id=order.profile_id,
            not_before=order.not_before,
            not_after=order.not_after,
        )
        signer = self._issuers.active
        try:
            prepared = self._prepare(signer, profile.template, subject)
        except LintError:
            log.exception("order %s: what was about to be signed has findings", order.id)
            raise Problem(
                ProblemType.SERVER_INTERNAL, "the certificate was not made: it failed our own checks"
            ) from None
        except IssuanceError as error:
            is_ours = isinstance(error, IssuerNotValidError)
            log.log(logging.ERROR if is_ours else logging.INFO, "order %s: %s", order.id, error)
            raise _problem(error) from None
        certificate = self._certificate(signer, profile.template, subject, prepared)
        self._signing.add(certificate.id)  # before the record can be seen: `finish_unfinished` leaves it to us
        try:
            await self._record(
                certificate,
                subject.public_key,
                actor=audit.account_actor(account.id),
                takings=self._limits.of_certificate(order.identifiers),
            )
        except BaseException:
            self._signing.discard(certificate.id)
            raise
        return signer, prepared, certificate

    async def _shown(self, order: Order) -> list[Shown]:
        """How control was shown of each identifier that CAA counts for; a grant that vouches for a name is no method."""
        counting = [identifier for identifier in order.identifiers if self._caa.counts_for(identifier)]
        if not counting:
            return []
        methods: dict[Identifier, str] = {}
        for authorization in await self._store.authorizations.of_order(order.id):
            if authorization.grant_id is None:
                methods.update(
                    (authorization.ordered, challenge.type)
                    for challenge in authorization.challenges
                    if challenge.status is ChallengeStatus.VALID
                )
        return [Shown(identifier, methods.get(identifier)) for identifier in counting]

    async def issue_own(
        self, template: Template, names: tuple[Identifier, ...], public_key: PublicKey, *, signer: SigningIssuer
    ) -> Certificate:
        """A certificate for the server itself: its listener, its OCSP responders. Recorded like every other."""
        subject = _Subject(names, public_key)
        try:
            prepared = self._prepare(signer, template, subject)
        except (IssuanceError, LintError) as error:
            event = audit.IssuanceRefused(actor=audit.SYSTEM, subject_id=template.name, reason=str(error))
            await self._store.note(event, at=self._ambient.now())
            raise
        certificate = self._certificate(signer, template, subject, prepared)
        await self._record(certificate, public_key)
        return await self._complete(signer, prepared, certificate)

    async def finish_unfinished(self, *, adopt: bool = True) -> int:
        """Sign what was recorded and never signed, or fail its order; returns how many orders moved.

        Without `adopt` only what this instance recorded itself, and not what others left that are gone.
        """
        moved = 0
        unfinished = await self._store.issuance.unfinished()
        living = await self._others.living() if unfinished else frozenset()
        for each in unfinished:
            certificate = each.certificate
            is_own = certificate.recorded_by == self._store.writer.instance
            if certificate.id in self._signing or not (is_own or (adopt and certificate.recorded_by not in living)):
                continue
            try:
                await self._finish(each)
                moved += 1
            except StaleError:
                continue  # somebody else was faster
            except Exception:  # whatever a token or a disk raises: the others are finished all the same
                log.exception("certificate %s cannot be finished now; it is tried again", certificate.serial)
        return moved

    async def _finish(self, unfinished: Unfinished) -> None:
        certificate = unfinished.certificate
        signer = self._issuers.signer(certificate.issuer_id)
        try:
            profile = await self._profiles.as_ordered(certificate.profile, certificate.profile_id)
            await self._require_finishable(certificate, profile)
        except Problem as problem:
            await self._abandon(certificate, problem)
            return
        if signer is None:
            gone = Problem(ProblemType.SERVER_INTERNAL, "the issuer that was to sign is gone; order again")
            await self._abandon(certificate, gone)
            return
        try:
            prepared = _restore(signer, profile.template, unfinished)
        except (LintError, IssuanceError) as error:
            log.warning("certificate %s is not finished: %s", certificate.serial, error)
            differs = Problem(
                ProblemType.SERVER_INTERNAL,
                "what was recorded is not what was ordered, or the issuer changed; order again",
            )
            await self._abandon(certificate, differs)
            return
        await self._complete(signer, prepared, certificate)
        log.info("finished certificate %s, which a stopped process had left", certificate.serial)

    async def _abandon(self, certificate: Certificate, problem: Problem) -> None:
        await self._store.issuance.abandon(certificate, problem, at=self._ambient.now())
        self._observer.orders_closed(OrderStatus.INVALID)

    async def _require_finishable(self, certificate: Certificate, profile: Profile) -> None:
        """Raise the Problem of whatever changed between the record and now that forbids the signature."""
        if self._ambient.now() - certificate.recorded_at > _TIME_TO_FINISH:
            raise Problem(ProblemType.SERVER_INTERNAL, "the server stopped while it made the certificate; order again")
        if self._ambient.now() >= certificate.not_after:  # a short time was asked for (§7.4)
            raise Problem(
                ProblemType.SERVER_INTERNAL, "the certificate's time was over before it was made; order again"
            )
        obstacle = await self._store.issuance.obstacle(
            certificate, thumbprint=thumbprint(certificate.public_key), at=self._ambient.now()
        )
        if obstacle is not None:
            raise Problem(ProblemType.UNAUTHORIZED, obstacle)
        if certificate.account_id is not None and certificate.order_id is not None:
            grant = await self._store.grants.of_account(certificate.account_id)
            await self._require_allowed(
                profile,
                grant,
                certificate.order_id,
                certificate.identifiers,
                certificate.public_key,
                is_as_ordered=certificate.profile_id is not None,
            )

    async def _require_allowed(
        self,
        profile: Profile,
        grant: Grant | None,
        order_id: str,
        identifiers: Sequence[Identifier],
        public_key: PublicKey,
        *,
        is_as_ordered: bool,
    ) -> None:
        """Raise a Problem for what is not allowed today, though it may have been when the order was made.

        `is_as_ordered` says that `profile` is the order's; an order from before profiles were kept has today's.

        1. The profile is still offered, or `invalidProfile`. 2. Then and now it takes such keys, or `badCSR`. 3. Policy, the account's
        grant and the profile allow every name. 4. Control of every name was shown in a way that the profile still takes, or the
        grant vouches for it.
        """
        # Step 1
        today = self._profiles.offer.current(profile.name)
        # Step 2
        kind, kinds = key_type(public_key), profile.key_types & today.key_types
        if kind not in kinds:
            taken = ", ".join(type_ for type_ in KeyType if type_ in kinds) or "no keys any more"
            raise Problem(
                ProblemType.BAD_CSR, f"the key in the CSR is {kind}, and the profile {profile.name} takes {taken}"
            )
        # Step 3
        granted = [] if grant is None else [grant.refusals]
        refusals = first_refusals([self._names.refusals, *granted, today.refusals], identifiers)
        if refusals:
            raise join_problems(refusals, detail="policy changed since the order was made; see subproblems")
        # Step 4: only where the profile has lost a type, or what it took is not known, are the authorizations read
        if not is_as_ordered or not {*profile.challenges} <= {*today.challenges}:
            authorizations = await self._store.authorizations.of_order(order_id)
            problems = tuple(
                Problem(
                    ProblemType.UNAUTHORIZED,
                    f"{authorization.ordered}: control was shown in a way that the profile {profile.name} does not take any more;"
                    " make a new order",
                    identifier=authorization.ordered,
                )
                for authorization in authorizations
                if not today.challenge_policy.counts(authorization)
            )
            if problems:
                raise join_problems(problems, detail=f"the profile {profile.name} changed; see subproblems")

    def _prepare(self, signer: SigningIssuer, template: Template, subject: _Subject) -> Prepared:
        dns_names, ip_addresses = _by_type(subject.names)
        return prepare(
            issuer=signer.issuer,
            template=template,
            dns_names=dns_names,
            ip_addresses=ip_addresses,
            public_key=subject.public_key,
            serial=random_serial(self._ambient.entropy(_SERIAL_BYTES)),
            now=self._ambient.now(),
            not_before=subject.not_before,
            not_after=subject.not_after,
        )

    def _certificate(
        self, signer: SigningIssuer, template: Template, subject: _Subject, prepared: Prepared
    ) -> Certificate:
        return Certificate(
            id=self._ambient.new_id(),
            serial=format_serial(prepared.serial),
            issuer_id=signer.id,
            account_id=subject.account_id,
            order_id=subject.order_id,
            profile=template.name,
            profile_id=subject.profile_id,
            names=tuple(sorted(name.value for name in subject.names)),
            spki_sha256=hashlib.sha256(prepared.spki_der).digest(),
            not_before=prepared.not_before,
            not_after=prepared.not_after,
            tbs=prepared.tbs,
            recorded_at=self._ambient.now(),
        )

    async def _record(
        self,
        certificate: Certificate,
        public_key: PublicKey,
        *,
        actor: str = audit.SYSTEM,
        takings: Sequence[Taking] = (),
    ) -> None:
        try:
            await self._store.issuance.record(
                certificate,
                thumbprint=thumbprint(public_key),
                at=certificate.recorded_at,
                takings=takings,
            )
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=actor) from None
        except KeyRefusedError as error:
            # RFC 8555 §11.1: a CA "SHOULD … reject" a CSR whose key is an account's
            raise Problem(ProblemType.BAD_CSR, str(error)) from None

    async def _complete(self, signer: SigningIssuer, prepared: Prepared, certificate: Certificate) -> Certificate:
        tbs, signature = split_signed(sign(prepared, signer.key))
        if tbs != certificate.tbs:
            raise IssuanceError(f"what was signed is not what was recorded as {certificate.serial}")
        now = self._ambient.now()
        signed = replace(certificate, signature=signature, issued_at=now)
        await self._store.issuance.complete(
            certificate, signature, sha256=hashlib.sha256(signed.der).hexdigest(), at=now
        )
        self._observer.issued(certificate.profile)
        if certificate.order_id is not None:
            self._observer.orders_closed(OrderStatus.VALID)
        return signed


def _restore(signer: SigningIssuer, template: Template, unfinished: Unfinished) -> Prepared:
    certificate = unfinished.certificate
    dns_names, ip_addresses = _by_type(unfinished.identifiers)
    prepared = restore(
        issuer=signer.issuer,
        template=template,
        tbs=certificate.tbs,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
        spki_sha256=certificate.spki_sha256,
        not_before=certificate.not_before,
        not_after=unfinished.not_after,
    )
    if format_serial(prepared.serial) != certificate.serial:
        raise IssuanceError(f"the record of {certificate.serial} holds the serial {prepared.serial:x}")
    return prepared


def _problem(error: IssuanceError) -> Problem:
    """What an issuer's refusal is to the client."""
    match error:
        case ValidityError():
            return Problem(ProblemType.MALFORMED, str(error))
        case IssuerNotValidError():
            return Problem(
                ProblemType.SERVER_INTERNAL,
                "the issuer cannot sign now: it has expired, or the clock is wrong",
                status=503,
                headers={"Retry-After": "30"},
            )
        case _:
            return Problem(ProblemType.REJECTED_IDENTIFIER, f"the issuer cannot certify this: {error}")


def _by_type(identifiers: Sequence[Identifier]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The host names and the addresses among identifiers."""
    return (
        tuple(item.value for item in identifiers if item.type is IdentifierType.DNS),
        tuple(item.value for item in identifiers if item.type is IdentifierType.IP),
    )
