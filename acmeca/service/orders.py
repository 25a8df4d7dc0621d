"""Orders: newOrder and finalize (RFC 8555 §7.4)."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from acmeca import audit
from acmeca.acme.challenges import new_token
from acmeca.acme.identifiers import Identifier
from acmeca.acme.objects import Account, Authorization, Challenge, Order
from acmeca.acme.payloads import NewOrder
from acmeca.acme.problem import Problem, ProblemType, join_problems
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus, OrderStatus
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.names import NamePolicy
from acmeca.service.ambient import Ambient
from acmeca.service.issuance import Issuance
from acmeca.service.limits import Limits
from acmeca.service.renewals import Renewals, already_replaced
from acmeca.storage.errors import AlreadyReplacedError, StaleError
from acmeca.storage.limits import LimitReachedError
from acmeca.storage.orders import OrderPage
from acmeca.storage.store import Store

# How long a client has from newOrder to finalize, and how long a shown control counts.
_LIFETIME: Final = timedelta(days=1)
_PAGE: Final = 100
_TOKEN_BYTES: Final = 32


class Orders:
    """The orders of this server."""

    def __init__(
        self,
        store: Store,
        *,
        issuance: Issuance,
        renewals: Renewals,
        names: NamePolicy,
        challenges: ChallengePolicy,
        limits: Limits,
        ambient: Ambient,
    ) -> None:
        self._store = store
        self._issuance = issuance
        self._renewals = renewals
        self._names = names
        self._challenges = challenges
        self._limits = limits
        self._ambient = ambient

    async def new_order(self, account: Account, request: NewOrder) -> Order:
        """§7.4: an order with an authorization for each identifier, or a refusal that names every identifier at fault."""
        now = self._ambient.now()
        if request.not_before is not None or request.not_after is not None:
            # §7.4: the server "MUST NOT issue a certificate with contents other than those requested": say so now.
            raise Problem(
                ProblemType.MALFORMED,
                "notBefore and notAfter are not supported: leave them out, this server sets the validity itself",
            )
        refusals = self._refusals(request.identifiers)
        if refusals:
            await self._record_refusal(account, refusals, now)
            raise join_problems(refusals, detail=f"{len(refusals)} of the names are not issued for; see subproblems")
        predecessor = await self._renewals.predecessor(account, request)
        authorizations = [self._new_authorization(account, identifier, now) for identifier in request.identifiers]
        order = Order(
            id=self._ambient.new_id(),
            account_id=account.id,
            status=OrderStatus.PENDING,
            identifiers=request.identifiers,
            authorization_ids=tuple(authorization.id for authorization in authorizations),
            created_at=now,
            expires_at=now + _LIFETIME,
            replaces=None if predecessor is None else predecessor.identifier,
        )
        unproven = (item.identifier for item in authorizations if item.status is AuthorizationStatus.PENDING)
        try:
            await self._store.orders.create(
                order,
                authorizations,
                takings=self._limits.of_new_order(account.id, identifiers=request.identifiers, unproven=unproven),
            )
        except StaleError:
            raise Problem(ProblemType.UNAUTHORIZED, "the account was deactivated meanwhile", status=401) from None
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=audit.account_actor(account.id)) from None
        except AlreadyReplacedError:
            raise already_replaced() from None
        return order

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

    def _new_authorization(self, account: Account, identifier: Identifier, now: datetime) -> Authorization:
        return Authorization(
            id=self._ambient.new_id(),
            account_id=account.id,
            identifier=identifier.base,
            wildcard=identifier.is_wildcard,
            status=AuthorizationStatus.PENDING,
            expires_at=now + _LIFETIME,
            challenges=tuple(
                Challenge(
                    type=type_, token=new_token(self._ambient.entropy(_TOKEN_BYTES)), status=ChallengeStatus.PENDING
                )
                for type_ in self._challenges.offered(identifier)
            ),
        )

    async def _record_refusal(self, account: Account, refusals: Sequence[Problem], now: datetime) -> None:
        """A refused order counts as one: each stands in the audit."""
        try:
            await self._store.orders.record_refusal(
                account.id,
                {str(problem.identifier): problem.detail for problem in refusals},
                at=now,
                takings=self._limits.of_new_order(account.id),
            )
        except LimitReachedError as error:
            raise await self._limits.refusal(error, actor=audit.account_actor(account.id)) from None

    def _refusals(self, identifiers: Sequence[Identifier]) -> tuple[Problem, ...]:
        """A problem for each identifier at fault: it is not issued for, or no challenge is offered for it."""
        not_issued_for = self._names.refusals(identifiers)
        told = {problem.identifier for problem in not_issued_for}
        left = [identifier for identifier in identifiers if identifier not in told]
        return not_issued_for + self._challenges.refusals(left)


def _not_ready(order: Order) -> Problem:
    hint = {
        OrderStatus.PENDING: "complete its authorizations first",
        OrderStatus.READY: "an authorization of it was given up or has expired; make a new order",
        OrderStatus.PROCESSING: "its certificate is being made; poll the order",
        OrderStatus.VALID: "its certificate was issued; download it",
        OrderStatus.INVALID: "it has failed or expired; make a new order",
    }[order.status]
    return Problem(ProblemType.ORDER_NOT_READY, f"the order is {order.status.value}: {hint}")
