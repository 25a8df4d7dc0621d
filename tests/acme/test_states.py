"""acmeca.acme.states: the diagrams of RFC 8555 §7.1.6, arrow by arrow, and that nothing else moves."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import pytest

from acmeca.acme.states import (
    ACCOUNT_MOVES,
    AUTHORIZATION_MOVES,
    CHALLENGE_MOVES,
    ORDER_MOVES,
    AccountStatus,
    AuthorizationStatus,
    ChallengeStatus,
    IllegalMoveError,
    OrderStatus,
    require_move,
)

# The arrows, written down a second time and from the diagrams, not from the tables.
LEGAL: Final[Mapping[type[StrEnum], frozenset[tuple[str, str]]]] = {
    ChallengeStatus: frozenset({("pending", "processing"), ("processing", "valid"), ("processing", "invalid")}),
    AuthorizationStatus: frozenset(
        {
            ("pending", "valid"),  # Challenge valid
            ("pending", "invalid"),  # Challenge failure or Error
            ("pending", "expired"),  # Time after "expires"
            ("pending", "deactivated"),  # §7.5.2: a client may relinquish one that it never used
            ("valid", "revoked"),  # Server revoke
            ("valid", "deactivated"),  # Client deactivate
            ("valid", "expired"),  # Time after "expires"
        }
    ),
    OrderStatus: frozenset(
        {
            ("pending", "ready"),  # All authz "valid"
            ("ready", "processing"),  # Receive finalize request
            ("processing", "valid"),  # Certificate issued
            ("pending", "invalid"),  # Error or Authorization failure
            ("ready", "invalid"),
            ("processing", "invalid"),
        }
    ),
    AccountStatus: frozenset({("valid", "deactivated"), ("valid", "revoked")}),
}
TABLES: Final[Mapping[type[StrEnum], Mapping[StrEnum, frozenset[StrEnum]]]] = {
    ChallengeStatus: CHALLENGE_MOVES,  # type: ignore[dict-item]  # a mapping's key type is invariant
    AuthorizationStatus: AUTHORIZATION_MOVES,  # type: ignore[dict-item]  # as above
    OrderStatus: ORDER_MOVES,  # type: ignore[dict-item]  # as above
    AccountStatus: ACCOUNT_MOVES,  # type: ignore[dict-item]  # as above
}
EVERY_MOVE: Final = [(kind, old, new) for kind in LEGAL for old in kind for new in kind]


@pytest.mark.parametrize(("kind", "old", "new"), EVERY_MOVE, ids=lambda part: str(getattr(part, "__name__", part)))
def test_every_pair_of_states(kind: type[StrEnum], old: StrEnum, new: StrEnum) -> None:
    """Rule 1: every status change stands in a table. A state does not move to itself either."""
    if (old.value, new.value) in LEGAL[kind]:
        require_move(TABLES[kind], old, new)
    else:
        with pytest.raises(IllegalMoveError, match=f"{kind.__name__}: no move from {old.value} to {new.value}"):
            require_move(TABLES[kind], old, new)


@pytest.mark.parametrize("kind", LEGAL)
def test_every_state_has_a_row(kind: type[StrEnum]) -> None:
    assert set(TABLES[kind]) == set(kind)


@pytest.mark.parametrize(
    ("kind", "final"),
    [
        (ChallengeStatus, {"valid", "invalid"}),
        (AuthorizationStatus, {"invalid", "deactivated", "expired", "revoked"}),
        (OrderStatus, {"valid", "invalid"}),
        (AccountStatus, {"deactivated", "revoked"}),
    ],
)
def test_final_states_are_final(kind: type[StrEnum], final: set[str]) -> None:
    """§7.3.6: "ACME does not provide a way to reactivate a deactivated account", and so for all the others."""
    assert {state.value for state, moves in TABLES[kind].items() if not moves} == final


@pytest.mark.parametrize("kind", LEGAL)
def test_every_state_but_the_first_can_be_reached(kind: type[StrEnum]) -> None:
    first = next(iter(kind))
    reached = set().union(*TABLES[kind].values())
    assert reached == set(kind) - {first}


@pytest.mark.parametrize("table", TABLES.values(), ids=[kind.__name__ for kind in TABLES])
def test_no_table_can_be_changed(table: Mapping[StrEnum, frozenset[StrEnum]]) -> None:
    with pytest.raises(TypeError):
        table[next(iter(table))] = frozenset()  # type: ignore[index]  # what a read-only mapping has to refuse
