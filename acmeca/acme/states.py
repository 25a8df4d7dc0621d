"""The state machines of RFC 8555 §7.1.6, as tables with one reader.

Rule 1: every status change of a challenge, an authorization, an order or an account stands in a table of this module.
Rule 2: `require_move` is the only reader. Storage asks it before each compare-and-swap, so an illegal move is a bug that
cannot reach the database.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar


class ChallengeStatus(StrEnum):
    """§7.1.6, first diagram."""

    PENDING = "pending"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


class AuthorizationStatus(StrEnum):
    """§7.1.6, second diagram."""

    PENDING = "pending"
    VALID = "valid"
    INVALID = "invalid"
    DEACTIVATED = "deactivated"
    EXPIRED = "expired"
    REVOKED = "revoked"


class OrderStatus(StrEnum):
    """§7.1.6, third diagram."""

    PENDING = "pending"
    READY = "ready"
    PROCESSING = "processing"
    VALID = "valid"
    INVALID = "invalid"


class AccountStatus(StrEnum):
    """§7.1.6, fourth diagram."""

    VALID = "valid"
    DEACTIVATED = "deactivated"
    REVOKED = "revoked"


S = TypeVar("S", bound=StrEnum)

# "Challenge objects are created in the "pending" state. They transition to the "processing" state when the client
# responds to the challenge … If validation is successful, the challenge moves to the "valid" state; if there is an
# error, the challenge moves to the "invalid" state."
CHALLENGE_MOVES: Final[Mapping[ChallengeStatus, frozenset[ChallengeStatus]]] = MappingProxyType(
    {
        ChallengeStatus.PENDING: frozenset({ChallengeStatus.PROCESSING}),
        ChallengeStatus.PROCESSING: frozenset({ChallengeStatus.VALID, ChallengeStatus.INVALID}),
        ChallengeStatus.VALID: frozenset(),
        ChallengeStatus.INVALID: frozenset(),
    }
)

# The diagram lets a client deactivate a valid authorization; §7.5.2 lets it give up a pending one too: "the client …
# can relinquish its ability to obtain certificates by … a static object with … status".
AUTHORIZATION_MOVES: Final[Mapping[AuthorizationStatus, frozenset[AuthorizationStatus]]] = MappingProxyType(
    {
        AuthorizationStatus.PENDING: frozenset(
            {
                AuthorizationStatus.VALID,
                AuthorizationStatus.INVALID,
                AuthorizationStatus.DEACTIVATED,
                AuthorizationStatus.EXPIRED,
            }
        ),
        AuthorizationStatus.VALID: frozenset(
            {AuthorizationStatus.EXPIRED, AuthorizationStatus.DEACTIVATED, AuthorizationStatus.REVOKED}
        ),
        AuthorizationStatus.INVALID: frozenset(),
        AuthorizationStatus.DEACTIVATED: frozenset(),
        AuthorizationStatus.EXPIRED: frozenset(),
        AuthorizationStatus.REVOKED: frozenset(),
    }
)

ORDER_MOVES: Final[Mapping[OrderStatus, frozenset[OrderStatus]]] = MappingProxyType(
    {
        OrderStatus.PENDING: frozenset({OrderStatus.READY, OrderStatus.INVALID}),
        OrderStatus.READY: frozenset({OrderStatus.PROCESSING, OrderStatus.INVALID}),
        OrderStatus.PROCESSING: frozenset({OrderStatus.VALID, OrderStatus.INVALID}),
        OrderStatus.VALID: frozenset(),
        OrderStatus.INVALID: frozenset(),
    }
)

ACCOUNT_MOVES: Final[Mapping[AccountStatus, frozenset[AccountStatus]]] = MappingProxyType(
    {
        AccountStatus.VALID: frozenset({AccountStatus.DEACTIVATED, AccountStatus.REVOKED}),
        AccountStatus.DEACTIVATED: frozenset(),
        AccountStatus.REVOKED: frozenset(),
    }
)


class IllegalMoveError(Exception):
    """A status change that §7.1.6 does not draw; always a bug of the caller."""


def require_move(moves: Mapping[S, frozenset[S]], old: S, new: S) -> None:
    """Raise `IllegalMoveError` unless the table draws an arrow from `old` to `new`."""
    if new not in moves[old]:
        raise IllegalMoveError(f"{type(old).__name__}: no move from {old.value} to {new.value}")
