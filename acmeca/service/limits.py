"""Rate limits (RFC 8555 §6.6): which ones a request uses, and what a client is told when one has no room.

Rule 1: limits are for what makes something: accounts, orders, validations. Nothing is limited that reads or revokes.
Rule 2: a limit is taken where what it limits is written (`storage/limits.py`); what is already there (an account that is found by
its key) uses none.
Rule 3: that a limit was reached is in the audit once for as long as it has no room, and for an hour at least: a client that asks
on and on must not fill it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from acmeca import audit
from acmeca.acme.identifiers import Identifier
from acmeca.acme.objects import format_time
from acmeca.acme.problem import Problem, ProblemType
from acmeca.policy.limits import Limit, Rate, Taking, address_subject, detail
from acmeca.service.ambient import Ambient
from acmeca.service.observation import Observer
from acmeca.storage.limits import LimitReachedError
from acmeca.storage.store import Store

_TOLD_FOR: Final = timedelta(hours=1)
_TOLD: Final = 10_000  # limits that this process remembers to have told of


class Limits:
    """The limits that are configured. `rates` lacks those that are off."""

    def __init__(self, store: Store, *, rates: Mapping[Limit, Rate], ambient: Ambient, observer: Observer) -> None:
        self._store = store
        self._rates = rates
        self._ambient = ambient
        self._observer = observer
        self._told: OrderedDict[str, datetime] = OrderedDict()

    def of_new_account(self, address: str | None) -> tuple[Taking, ...]:
        """What newAccount uses, also when the key is refused: that is written down, and costs as much."""
        rate, subject = self._rates.get(Limit.NEW_ACCOUNTS_PER_ADDRESS), address_subject(address)
        if rate is None or subject is None:
            return ()
        return (Taking(Limit.NEW_ACCOUNTS_PER_ADDRESS, subject, rate),)

    def of_new_order(
        self, account_id: str, *, identifiers: Iterable[Identifier] = (), unproven: Iterable[Identifier] = ()
    ) -> tuple[Taking, ...]:
        """What newOrder uses, also when it is refused.

        And what has to have room, so that nobody sets out in vain: for each of its `identifiers` a certificate, and for those that
        are `unproven` a validation that fails.
        """
        rate = self._rates.get(Limit.NEW_ORDERS_PER_ACCOUNT)
        own = [] if rate is None else [Taking(Limit.NEW_ORDERS_PER_ACCOUNT, account_id, rate)]
        asked = [self.of_failure(account_id, identifier) for identifier in unproven]
        asked += self.of_certificate(identifiers)
        return (*own, *(replace(taking, count=0) for taking in asked if taking is not None))

    def of_certificate(self, identifiers: Iterable[Identifier]) -> tuple[Taking, ...]:
        """What a certificate for these identifiers uses, unless it is a renewal."""
        rate = self._rates.get(Limit.CERTIFICATES_PER_NAME)
        if rate is None:
            return ()
        return tuple(Taking(Limit.CERTIFICATES_PER_NAME, "", rate, identifier=identifier) for identifier in identifiers)

    def of_failure(self, account_id: str, identifier: Identifier) -> Taking | None:
        """What a failed validation uses; None where that is not limited."""
        rate = self._rates.get(Limit.FAILED_VALIDATIONS)
        return None if rate is None else Taking(Limit.FAILED_VALIDATIONS, account_id, rate, identifier=identifier.base)

    async def refusal(self, error: LimitReachedError, *, actor: str) -> Problem:
        """What to tell the client, and a note in the audit (rule 3).

        §6.6: the server "SHOULD send a Retry-After header field indicating when the current request may succeed again. If
        multiple rate limits are in place, that is the time where all rate limits allow access again for the current request".
        """
        now = self._ambient.now()
        for item in error.reached:
            self._observer.limited(item.taking.limit.value)
            if self._told.get(item.taking.key, now) <= now:
                self._remember(item.taking.key, max(item.free_at, now + _TOLD_FOR))
                event = audit.LimitReached(actor=actor, limit=item.taking.key, free_at=format_time(item.free_at))
                await self._store.note(event, at=now)
        wait = max(item.free_at for item in error.reached) - now
        headers = {"Retry-After": str(max(1, int(wait.total_seconds())))}
        problems = tuple(
            Problem(ProblemType.RATE_LIMITED, detail(item.taking, item.free_at), identifier=item.taking.identifier)
            for item in error.reached
        )
        first, *others = problems
        if not others and first.identifier is None:
            return Problem(ProblemType.RATE_LIMITED, first.detail, headers=headers)
        text = f"{len(problems)} limits are reached; see subproblems" if others else first.detail
        return Problem(ProblemType.RATE_LIMITED, text, subproblems=problems, headers=headers)

    def _remember(self, key: str, until: datetime) -> None:
        self._told[key] = until
        self._told.move_to_end(key)
        if len(self._told) > _TOLD:
            self._told.popitem(last=False)
