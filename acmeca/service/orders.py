"""Orders: newOrder, pre-authorization and finalize (RFC 8555 §7.4)."""

from collections.abc import Sequence
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
from acmeca.policy.terms import TermsOfService
from acmeca.service.ambient import Ambient
from acmeca.service.authorizations import Authorizations, Basis
from acmeca.service.issuance import Issuance
from acmeca.service.limits import Limits
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
        """§7.4: an order with an authorization for each identifier, or a refusal that names every identifier at fault."""
        now = self._ambient.now()
        if request.not_before is not None or request.not_after is not None:
            # §7.4: the server "MUST NOT issue a certificate with contents other than those requested": say so now.
            raise Problem(
                ProblemType.MALFORMED,
                "notBefore and notAfter are not supported: leave them out, this server sets the validity itself",
            )
        grant = await self._require_issuable(account, request.identifiers, now)
        predecessor = await self._renewals.predecessor(account, request)
        replaces = None if predecessor is None else str(predecessor)
        basis = await self._authorizations.for_order(account.id, request.identifiers, grant=grant, now=now)
        takings = () if grant is None else grant.takings
        try:
            return await self._create(account, request, basis, takings=takings, replaces=replaces, now=now)
        except StaleError:  # what the account held was given up meanwhile, or the account was
            basis = self._authorizations.anew(account.id, request.identifiers, grant=grant, now=now)
        try:
            return await self._create(account, request, basis, takings=takings, replaces=replaces, now=now)
        except StaleError:
            raise _deactivated() from None

    async def _create(
        self,
        account: Account,
        request: NewOrder,
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
        grant = await self._require_issuable(account, (identifier,), now)
        authorization = self._authorizations.new(account.id, identifier, grant=grant, now=now)
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

    async def _require_issuable(
        self, account: Account, identifiers: Sequence[Identifier], now: datetime
    ) -> Grant | None:
        """§7.4: a refusal names every identifier at fault, and stands in the audit. Returns the grant that the account is bound to.

        That the grant has not ended was asked with the account, and is again in the transaction that writes.
        """
        agreement = self._terms.refusal(account)
        if agreement is not None:
            raise agreement
        grant = None if account.grant_id is None else await self._store.grants.of_account(account.id)
        refusals = self._refusals(identifiers, grant)
        if refusals:
            await self._record_refusal(account, refusals, now)
            raise join_problems(refusals, detail=f"{len(refusals)} of the names are not issued for; see subproblems")
        return grant

    async def _record_refusal(self, account: Account, refusals: Sequence[Problem], now: datetime) -> None:
        """What was refused counts as an order: each stands in the audit."""
        try:
            await self._store.orders.record_refusal(
                account.id,
                {str(problem.identifier): problem.detail for problem in refusals},
                at=now,
                takings=self._limits.of_new_order(account.id),
            )
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=audit.account_actor(account.id)) from None

    def _refusals(self, identifiers: Sequence[Identifier], grant: Grant | None) -> tuple[Problem, ...]:
        """A problem for each identifier at fault: it is not issued for, or not to this account, or no challenge is offered for it."""
        asked = [self._names.refusals, *([] if grant is None else [grant.refusals]), self._challenges.refusals]
        return first_refusals(asked, identifiers)


def _deactivated() -> Problem:
    detail = "the account was deactivated, or its grant ended, meanwhile"
    return Problem(ProblemType.UNAUTHORIZED, detail, status=401)


def _not_ready(order: Order) -> Problem:
    hint = {
        OrderStatus.PENDING: "complete its authorizations first",
        OrderStatus.READY: "an authorization of it was given up or has expired; make a new order",
        OrderStatus.PROCESSING: "its certificate is being made; poll the order",
        OrderStatus.VALID: "its certificate was issued; download it",
        OrderStatus.INVALID: "it has failed or expired; make a new order",
    }[order.status]
    return Problem(ProblemType.ORDER_NOT_READY, f"the order is {order.status.value}: {hint}")
