"""CAA: asked about when a validation succeeded, and again for every name right before a certificate is made (RFC 8659 §3).

Rule 1: "Issuers MUST verify authorization for all the FQDNs and Wildcard Domain Names specified in the request": a problem for
each identifier that is refused, every one of them asked about.
Rule 2: records are observed by `validation/caa.py`, judged by `policy/caa.py`, and asked for anew each time.
Rule 3: accounts take turns, so that the slow name servers of one delay no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from acmeca.acme.identifiers import Identifier
from acmeca.acme.problem import Problem
from acmeca.policy.caa import CaaObservation, CaaPolicy
from acmeca.service.turns import Turns
from acmeca.service.validations import Target
from acmeca.urls import Urls

_AT_ONCE: Final = 64
_PER_ACCOUNT: Final = 16


@dataclass(frozen=True, slots=True)
class Shown:
    """An identifier of an order, with its `*.`, and the label of the method that showed control of it, None where none did."""

    identifier: Identifier
    method: str | None


class Observer(Protocol):
    """Searches for CAA records; any number of observations at once; never raises for the peer's doing."""

    async def observe(self, searches: Sequence[tuple[str, ...]]) -> tuple[CaaObservation, ...]: ...


class Caa:
    """What CAA has against certificates."""

    def __init__(self, policy: CaaPolicy, *, observer: Observer, urls: Urls) -> None:
        self._policy = policy
        self._observer = observer
        self._urls = urls
        self._turns = Turns(at_once=_AT_ONCE, per_owner=_PER_ACCOUNT)

    def counts_for(self, identifier: Identifier) -> bool:
        """Whether CAA is looked at for this identifier; nothing is asked."""
        return bool(self._policy.search(identifier))

    async def refusal(self, target: Target) -> Problem | None:
        """What CAA has against a certificate for which control was just shown: a `FurtherCheck`."""
        ordered = (
            Identifier(target.identifier.type, f"*.{target.identifier.value}") if target.wildcard else target.identifier
        )
        problems = await self._judged(target.account_url, [Shown(ordered, target.type)])
        return problems[0][1] if problems else None

    async def problems(self, account_id: str, shown: Sequence[Shown]) -> tuple[Problem, ...]:
        """A problem, with its identifier, for each that the account may not have a certificate for.

        Raises OSError when this machine is in trouble: nothing was learnt then.
        """
        return tuple(
            Problem(problem.type, problem.detail, identifier=identifier)
            for identifier, problem in await self._judged(self._urls.account(account_id), shown)
        )

    async def _judged(self, account_url: str, shown: Sequence[Shown]) -> list[tuple[Identifier, Problem]]:
        searches = [(each, search) for each in shown if (search := self._policy.search(each.identifier))]
        if not searches:
            return []
        async with self._turns.turn(account_url):
            observations = await self._observer.observe([search for _, search in searches])
        return [
            (each.identifier, problem)
            for (each, _), observation in zip(searches, observations, strict=True)
            if (
                problem := self._policy.refusal(
                    observation, each.identifier, account_url=account_url, method=each.method
                )
            )
            is not None
        ]
