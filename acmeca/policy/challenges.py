"""Which challenge types this CA offers, and still takes.

Rule 1: a type is offered when the configuration names it and it suits the identifier (`acme/challenges.py`).
Rule 2: an identifier for which no type is left is refused before anything is made for it; the refusal says what to configure.
Rule 3: a type that is offered no longer shows nothing any more: neither in a challenge that was offered before, nor by an
authorization that became valid by it (RULES §3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from acmeca.acme.challenges import suitable_types
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Authorization, ChallengeType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus


@dataclass(frozen=True, slots=True)
class ChallengePolicy:
    """The types of the configuration, in its order, which is the order that clients see; `key` is where they stand there."""

    types: tuple[ChallengeType, ...]
    key: str = "validation.challenges"

    def offered(self, identifier: Identifier) -> tuple[ChallengeType, ...]:
        """The types to offer for an identifier of an order; none when it has to be refused."""
        suitable = suitable_types(identifier)
        return tuple(type_ for type_ in self.types if type_ in suitable)

    def refusal(self, identifier: Identifier) -> str | None:
        """Why control of this identifier cannot be shown here, or None when it can."""
        if self.offered(identifier):
            return None
        if identifier.is_wildcard:
            kind = "wildcard names"
        else:
            kind = "IP addresses" if identifier.type is IdentifierType.IP else "names"
        suitable = suitable_types(identifier)
        wanted = " or ".join(type_ for type_ in ChallengeType if type_ in suitable)
        return f"{self.key} has no type that suits {kind}: the operator may add {wanted}"

    def refusals(self, identifiers: Sequence[Identifier]) -> tuple[Problem, ...]:
        """A problem for each identifier that is refused."""
        return tuple(
            Problem(ProblemType.REJECTED_IDENTIFIER, f"{identifier}: {reason}", identifier=identifier)
            for identifier in identifiers
            if (reason := self.refusal(identifier)) is not None
        )

    def allows(self, authorization: Authorization, type_: ChallengeType) -> bool:
        """Whether a challenge of this type may be begun, or finished, for the authorization."""
        return type_ in self.types and type_ in suitable_types(authorization.ordered)

    def counts(self, authorization: Authorization) -> bool:
        """Whether a valid authorization still says that the account controls the name: a grant gave it, or its type is allowed."""
        return authorization.grant_id is not None or self.accepts(authorization)

    def accepts(self, authorization: Authorization) -> bool:
        """Whether a valid authorization may be used for another order: only "if its challenge type is still allowed"
        (RULES §3). Its account, identifier and expiry are for the caller to compare.
        """
        return authorization.status is AuthorizationStatus.VALID and any(
            challenge.status is ChallengeStatus.VALID and self.allows(authorization, challenge.type)
            for challenge in authorization.challenges
        )
