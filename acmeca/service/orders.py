"""Orders: newOrder, pre-authorization and finalize (RFC 8555 §7.4)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from acmeca import audit
from acmeca.acme.identifiers import Identifier
from acmeca.acme.objects import Account, Authorization, Order
from acmeca.acme.payloads import NewOrder
from acmeca.acme.problem import Problem, ProblemType, join_problems
from acmeca.acme.states import AuthorizationStatus, OrderStatus
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.grants import Grant
from acmeca.policy.limits import Taking
from acmeca.policy.names import NamePolicy, first_refusals
from acmeca.policy.profiles import Profile
from acmeca.policy.terms import TermsOfService
from acmeca.service.ambient import Ambient
from acmeca.service.authorizations import Authorizations, Basis
from acmeca.service.issuance import Issuance
from acmeca.service.limits import Limits
from acmeca.service.profiles import Profiles
from acmeca.service.renewals import Renewals, already_replaced
from acmeca.storage.errors import AlreadyReplacedError, StaleError
from acmeca.storage.limits import LimitReachedError
from acmeca.storage.orders import OrderPage
from acmeca.storage.store import Store

_PAGE: Final = 100


class Orders:
    """The orders of this server."""

    def __init__(
        self,
        store: Store,
        *,
        issuance: Issuance,
        profiles: Profiles,
        renewals: Renewals,
        authorizations: Authorizations,
        names: NamePolicy,
        challenges: ChallengePolicy,
        terms: TermsOfService,
        limits: Limits,
        ambient: Ambient,
    ) -> None:
        self._store = store
        self._issuance = issuance
        self._profiles = profiles
        self._renewals = renewals
        self._authorizations = authorizations
        self._names = names
        self._challenges = challenges
        self._terms = terms
        self._limits = limits
        self._ambient = ambient

    @property
    def offers_pre_authorization(self) -> bool:
        return self._authorizations.count_beforehand

    async def new_order(self, account: Account, request: NewOrder) -> Order:
        """§7.4: an order with an authorization for each identifier, or a refusal that names every identifier at fault.

        1. The profile is chosen. 2. Every name is issued for, and the profile is for it. 3. A certificate can have the times that are
        asked for. 4. What it replaces, it may replace. 5. What it rests on: authorizations that the account holds, and new ones.
        6. One write. A refusal by steps 1 to 3 counts as an order, and stands in the audit.
        """
        now = self._ambient.now()
        try:
            grant = await self._grant_of(account)
            # Step 1
            profile = self._choose_profile(request, grant)
            # Step 2
            self._require_names(request, profile, grant)
            # Step 3
            self._issuance.require_validity(profile, not_before=request.not_before, not_after=request.not_after)
        except Problem as problem:
            await self._record_refusal(account, problem, now)
            raise
        # Step 4
        predecessor = await self._renewals.predecessor(account, request)
        replaces = None if predecessor is None else str(predecessor)
        # Step 5
        challenges = profile.challenge_policy
        basis = await self._authorizations.for_order(
            account.id, request.identifiers, challenges=challenges, grant=grant, now=now
        )
        # Step 6
        await self._profiles.keep(profile)
        takings = () if grant is None else grant.takings
        try:
            return await self._create(account, request, profile, basis, takings=takings, replaces=replaces, now=now)
        except StaleError:  # what the account held was given up meanwhile, or the account was
            basis = self._authorizations.anew(
                account.id, request.identifiers, challenges=challenges, grant=grant, now=now
            )
        try:
            return await self._create(account, request, profile, basis, takings=takings, replaces=replaces, now=now)
        except StaleError:
            raise _deactivated() from None

    async def _create(
        self,
        account: Account,
        request: NewOrder,
        profile: Profile,
        basis: Basis,
        *,
        takings: Sequence[Taking],
        replaces: str | None,
        now: datetime,
    ) -> Order:
        order = Order(
            id=self._ambient.new_id(),
            account_id=account.id,
            # §7.1.6: an order whose authorizations are all valid is "ready", from its beginning too
            status=OrderStatus.READY if basis.is_complete else OrderStatus.PENDING,
            identifiers=request.identifiers,
            authorization_ids=tuple(authorization.id for authorization in basis.authorizations),
            created_at=now,
            expires_at=basis.expires_at,
            profile=profile.name,
            profile_id=profile.id,
            not_before=request.not_before,
            not_after=request.not_after,
            replaces=replaces,
        )
        unproven = [item.identifier for item in basis.authorizations if item.status is AuthorizationStatus.PENDING]
        limits = self._limits.of_new_order(account.id, identifiers=request.identifiers, unproven=unproven)
        try:
            await self._store.orders.create(order, basis.new, takings=(*takings, *limits))
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=audit.account_actor(account.id)) from None
        except AlreadyReplacedError:
            raise already_replaced() from None
        return order

    async def pre_authorize(self, account: Account, identifier: Identifier) -> Authorization:
        """§7.4.1: an authorization for an identifier without an order; or a refusal."""
        now = self._ambient.now()
        if identifier.is_wildcard:
            raise Problem(
                ProblemType.MALFORMED,
                f"{identifier}: a wildcard cannot be authorized before it is ordered (RFC 8555 §7.4.1); send newOrder for it",
            )
        try:
            grant = await self._grant_of(account)
            refusals = first_refusals(self._asked(grant), (identifier,))
            if refusals:
                raise join_problems(refusals, detail="the name is not issued for; see subproblems")
        except Problem as problem:
            await self._record_refusal(account, problem, now)
            raise
        authorization = self._authorizations.new(
            account.id, identifier, challenges=self._challenges, grant=grant, now=now
        )
        try:
            await self._store.authorizations.create(
                authorization, takings=self._limits.of_new_order(account.id, unproven=(identifier,)), at=now
            )
        except StaleError:
            raise _deactivated() from None
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=audit.account_actor(account.id)) from None
        return authorization

    async def order(self, account: Account, order_id: str) -> Order:
        """One of the account's orders; for anybody else's the answer is the same as for none (RULES §2)."""
        order = await self._store.orders.by_id(account.id, order_id)
        if order is None:
            raise Problem(ProblemType.MALFORMED, "there is no such order", status=404)
        is_open = order.status in {OrderStatus.PENDING, OrderStatus.READY}
        if is_open and order.expires_at <= self._ambient.now():  # `expire` writes it down in a moment
            return replace(order, status=OrderStatus.INVALID)
        return order

    async def page(self, account: Account, cursor: str | None) -> OrderPage:
        """The account's orders (§7.1.2.1), a page at a time."""
        return await self._store.orders.page(account.id, cursor=cursor, limit=_PAGE)

    async def finalize(self, account: Account, order_id: str, csr_der: bytes) -> Order:
        """§7.4: issue what was ordered. Returns the order, `valid` when the certificate is there.

        Step 1: the order is ready, or `orderNotReady`. The further steps are `Issuance.issue_for_order`'s.
        """
        order = await self.order(account, order_id)
        # Step 1: "A request to finalize an order will result in error if the order is not in the "ready" state."
        if order.status is not OrderStatus.READY:
            raise _not_ready(order)
        try:
            certificate = await self._issuance.issue_for_order(account, order, csr_der)
        except StaleError:
            # Another request claimed the order, or it expired, or an authorization was given up. "the server MUST return a
            # 403 (Forbidden) error with a problem document of type "orderNotReady""
            raise _not_ready(await self.order(account, order_id)) from None
        if certificate is None:
            return await self.order(account, order_id)
        return replace(order, status=OrderStatus.VALID, certificate_id=certificate.id)

    async def expire(self) -> int:
        """Close the orders that nobody finished in time; returns how many."""
        return await self._store.orders.expire(at=self._ambient.now())

    async def _grant_of(self, account: Account) -> Grant | None:
        """The grant that the account is bound to. Raises Problem for one that has to agree to something first.

        That the grant has not ended was asked with the account, and is again in the transaction that writes.
        """
        agreement = self._terms.refusal(account)
        if agreement is not None:
            raise agreement
        return None if account.grant_id is None else await self._store.grants.of_account(account.id)

    def _choose_profile(self, request: NewOrder, grant: Grant | None) -> Profile:
        """The profile of an order, as far as the grant lets it live. Raises Problem `invalidProfile`."""
        profile = self._profiles.offer.choose(request.profile, allowed=(grant and grant.profiles) or None)
        return profile if grant is None or grant.lifetime is None else profile.limited_to(grant.lifetime)

    def _require_names(self, request: NewOrder, profile: Profile, grant: Grant | None) -> None:
        """Raise a Problem with a subproblem for each identifier at fault.

        draft-ietf-acme-profiles §4: "a profile which is incompatible with the rest of the contents of the request" is
        `invalidProfile`, where it was asked for and nothing else is at fault.
        """
        asked = self._asked(grant)
        refusals = first_refusals([*asked, profile.refusals], request.identifiers)
        if refusals and request.profile is not None and not first_refusals(asked, request.identifiers):
            detail = f"the profile {profile.name} is not for {len(refusals)} of the names; see subproblems, or ask for another one"
            raise Problem(ProblemType.INVALID_PROFILE, detail, subproblems=refusals)
        if refusals:
            raise join_problems(refusals, detail=f"{len(refusals)} of the names are not issued for; see subproblems")

    async def _record_refusal(self, account: Account, problem: Problem, now: datetime) -> None:
        """What was refused counts as an order: each stands in the audit."""
        try:
            await self._store.orders.record_refusal(
                account.id,
                _reasons(problem),
                at=now,
                takings=self._limits.of_new_order(account.id),
            )
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=audit.account_actor(account.id)) from None

    def _asked(self, grant: Grant | None) -> list[Callable[[Sequence[Identifier]], tuple[Problem, ...]]]:
        """Who has a say in identifiers, besides a profile: not issued for, not to this account, no challenge offered for it."""
        return [self._names.refusals, *([] if grant is None else [grant.refusals]), self._challenges.refusals]


def _reasons(problem: Problem) -> dict[str, str]:
    """What the audit keeps of a refusal: the reason for each identifier, or the one for the whole."""
    if not problem.subproblems:
        return {"order": problem.detail}
    return {str(each.identifier): each.detail for each in problem.subproblems}


def _deactivated() -> Problem:
    detail = "the account was deactivated, its grant ended, or its key was blocked, meanwhile"
    return Problem(ProblemType.UNAUTHORIZED, detail, status=401)


def _not_ready(order: Order) -> Problem:
    hint = {
        OrderStatus.PENDING: "complete its authorizations first",
        OrderStatus.READY: "an authorization of it was given up or has expired; make a new order",
        OrderStatus.PROCESSING: "its certificate is being made; poll the order",
        OrderStatus.VALID: "its certificate was issued; download it",
        OrderStatus.INVALID: "it has failed or expired; make a new order",
    }[order.status]
    headers = {"Retry-After": "1"} if order.status is OrderStatus.PROCESSING else {}  # some poll by finalizing again
    return Problem(ProblemType.ORDER_NOT_READY, f"the order is {order.status.value}: {hint}", headers=headers)
