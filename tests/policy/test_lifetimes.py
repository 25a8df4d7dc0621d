"""acmeca.policy.lifetimes: no order outlives what it rests on, however the clock and the configuration move."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Authorization, Challenge, ChallengeType
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus
from acmeca.policy.lifetimes import Lifetimes

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

controls = st.one_of(st.just(timedelta()), st.timedeltas(HOUR, timedelta(days=90)))
moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  (UTC is added)


def authorization(expires_at: datetime, validated_at: datetime | None = None) -> Authorization:
    status = ChallengeStatus.PENDING if validated_at is None else ChallengeStatus.VALID
    return Authorization(
        id="a",
        account_id="owner",
        identifier=Identifier(IdentifierType.DNS, "a.example.org"),
        wildcard=False,
        status=AuthorizationStatus.PENDING if validated_at is None else AuthorizationStatus.VALID,
        expires_at=expires_at,
        challenges=(
            Challenge(ChallengeType.HTTP_01, "token", ChallengeStatus.PENDING),
            Challenge(ChallengeType.DNS_01, "token", status, validated_at=validated_at),
        ),
    )


@pytest.mark.parametrize(
    ("control", "order", "least"),
    [
        (timedelta(), DAY, HOUR),
        (HOUR, HOUR, HOUR / 2),
        (HOUR * 3, HOUR * 3, HOUR),
        (DAY, DAY, HOUR),
        (DAY * 90, DAY, HOUR),
    ],
)
def test_how_long(control: timedelta, order: timedelta, least: timedelta) -> None:
    lifetimes = Lifetimes(control)
    assert (lifetimes.order, lifetimes.least) == (order, least)
    assert lifetimes.is_control_kept == bool(control)


def test_from_the_validation_on() -> None:
    """What counts is when control was shown, not when the order was made."""
    pending = authorization(NOW + DAY)
    assert Lifetimes(DAY * 30).expiry_when_valid(pending, at=NOW + HOUR) == NOW + HOUR + DAY * 30
    assert Lifetimes().expiry_when_valid(pending, at=NOW + HOUR) == NOW + HOUR + DAY
    assert Lifetimes(timedelta()).expiry_when_valid(pending, at=NOW + HOUR) == NOW + DAY


def test_a_shorter_time_takes_effect_at_once() -> None:
    """Rule 2 of lifetimes.py."""
    shown = authorization(NOW + DAY * 30, validated_at=NOW)
    assert Lifetimes(DAY * 30).counts_until(shown) == NOW + DAY * 30
    assert Lifetimes(DAY).counts_until(shown) == NOW + DAY
    assert Lifetimes(timedelta()).counts_until(shown) == NOW
    assert Lifetimes(DAY * 90).counts_until(shown) == NOW + DAY * 30  # and a longer one for what is shown from now on


@given(control=controls, made=moments, took=st.timedeltas(timedelta(0), DAY))
def test_a_new_authorization_outlives_its_order(control: timedelta, made: datetime, took: timedelta) -> None:
    """Rule 1, for what an order makes: from pending to valid."""
    lifetimes = Lifetimes(control)
    order = lifetimes.expiry_of_order([], at=made)
    pending = authorization(made + lifetimes.order)
    assert made < order <= pending.expires_at
    assert order <= lifetimes.expiry_when_valid(pending, at=made + took)


@given(controls, controls, moments, st.timedeltas(timedelta(0), DAY), st.timedeltas(timedelta(0), timedelta(days=91)))
def test_a_reused_authorization_outlives_its_orders(
    before: timedelta, after: timedelta, made: datetime, took: timedelta, later: timedelta
) -> None:
    """Rule 1, for what an order finds, under whatever was configured before and is now; and there is time to finish the order."""
    first, second = Lifetimes(before), Lifetimes(after)
    pending = authorization(made + first.order)
    shown = authorization(first.expiry_when_valid(pending, at=made + took), validated_at=made + took)
    now = made + took + later
    if second.counts_until(shown) < now + second.least:  # it is not taken
        return
    order = second.expiry_of_order([shown], at=now)
    assert now + second.least <= order <= min(shown.expires_at, now + second.order)
