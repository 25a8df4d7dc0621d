"""`pki/validity.py`: what was asked for to the second, or an error that names the bound (RFC 8555 §7.4)."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acmeca.pki.errors import IssuerNotValidError, ValidityError
from acmeca.pki.template import MAX_BACKDATE
from acmeca.pki.validity import MAX_POSTDATE, Validity, choose_validity
from tests.support.authorities import NOW, SERVER, intermediate

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
TEMPLATE = replace(SERVER, maximum_lifetime=180 * DAY)
ISSUER = intermediate().issuer
LATE = ISSUER.not_after - DAY  # a day before the issuer's end


def chosen(
    not_before: datetime | None = None, not_after: datetime | None = None, *, now: datetime = NOW
) -> tuple[datetime, datetime]:
    validity = choose_validity(TEMPLATE, ISSUER, now=now, not_before=not_before, not_after=not_after)
    return validity.not_before, validity.not_after


def refusal(not_before: datetime | None = None, not_after: datetime | None = None, *, now: datetime = NOW) -> str:
    with pytest.raises(ValidityError) as caught:
        chosen(not_before, not_after, now=now)
    return str(caught.value)


def shown(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def test_nothing_asked_for() -> None:
    first = NOW - TEMPLATE.backdate
    assert chosen() == (first, first + 90 * DAY - SECOND)


def test_not_after() -> None:
    """With a requested notAfter it is exactly that second."""
    for not_after in (NOW + SECOND, NOW + DAY, NOW + 90 * DAY, NOW + 179 * DAY):
        assert chosen(not_after=not_after) == (NOW - TEMPLATE.backdate, not_after)


def test_not_before() -> None:
    for not_before in (NOW - MAX_BACKDATE, NOW, NOW + MAX_POSTDATE):
        assert chosen(not_before) == (not_before, not_before + 90 * DAY - SECOND)


def test_both() -> None:
    assert chosen(NOW + DAY, NOW + 3 * DAY) == (NOW + DAY, NOW + 3 * DAY)
    assert chosen(NOW + DAY, NOW + DAY) == (NOW + DAY, NOW + DAY)


def test_the_longest_lifetime_from_now() -> None:
    """A client that asks for the longest lifetime counts it from now: notBefore gives way, and no second is too many."""
    not_after = NOW + 180 * DAY
    first, last = chosen(not_after=not_after)
    assert (first, last) == (NOW + SECOND, not_after)
    assert chosen(not_after=not_after - SECOND) == (NOW, not_after - SECOND)
    bound = shown(not_after)
    assert f"notAfter: {shown(not_after + SECOND)} is after {bound}, the end of the longest lifetime" in refusal(
        not_after=not_after + SECOND
    )


def test_the_longest_lifetime_between_both() -> None:
    """RULES §4: validity is inclusive, so that 180 days end a second before."""
    assert chosen(NOW, NOW + 180 * DAY - SECOND) == (NOW, NOW + 180 * DAY - SECOND)
    told = refusal(NOW, NOW + 180 * DAY)
    assert (
        f"is after {shown(NOW + 180 * DAY - SECOND)}, the end of the longest lifetime that the profile server" in told
    )


@pytest.mark.parametrize(
    ("not_before", "not_after", "now", "told"),
    [
        (
            NOW - MAX_BACKDATE - SECOND,
            None,
            NOW,
            "notBefore: 2026-11-01T10:59:59Z is before 2026-11-01T11:00:00Z, an hour",
        ),
        (
            NOW + MAX_POSTDATE + SECOND,
            None,
            NOW,
            "notBefore: 2026-11-03T12:00:01Z is after 2026-11-03T12:00:00Z, 48 hours",
        ),
        (None, NOW, NOW, "notAfter: 2026-11-01T12:00:00Z is before 2026-11-01T12:00:01Z"),
        (None, NOW - DAY, NOW, "notAfter: 2026-10-31T12:00:00Z is before 2026-11-01T12:00:01Z"),
        (NOW + DAY, NOW + DAY - SECOND, NOW, "notAfter: 2026-11-02T11:59:59Z is before 2026-11-02T12:00:00Z"),
        (NOW - timedelta(minutes=30), NOW, NOW, "notAfter: 2026-11-01T12:00:00Z is before 2026-11-01T12:00:01Z"),
        (datetime.min.replace(tzinfo=NOW.tzinfo), None, NOW, "notBefore: 0001-01-01T00:00:00Z is before"),
        (None, datetime.max.replace(microsecond=0, tzinfo=NOW.tzinfo), NOW, "notAfter: 9999-12-31T23:59:59Z is after"),
        (None, ISSUER.not_after + SECOND, LATE, f"is after {shown(ISSUER.not_after)}, the end of its issuer's life"),
        (ISSUER.not_after + SECOND, None, LATE, f"is after {shown(ISSUER.not_after)}, the end of its issuer's life"),
        (
            ISSUER.not_before - SECOND,
            None,
            ISSUER.not_before,
            f"is before {shown(ISSUER.not_before)}, the beginning of its issuer's life",
        ),
    ],
)
def test_what_cannot_be_given(
    not_before: datetime | None, not_after: datetime | None, now: datetime, told: str
) -> None:
    """§7.4: "The server MUST return an error if it cannot fulfill the request as specified"; it names the bound."""
    assert told in refusal(not_before, not_after, now=now)


def test_up_to_the_end_of_the_issuer() -> None:
    assert chosen(not_after=ISSUER.not_after, now=LATE)[1] == ISSUER.not_after
    assert chosen(LATE + timedelta(hours=1), now=LATE)[1] == ISSUER.not_after  # not asked for, so it is cut


def test_an_issuer_out_of_its_time() -> None:
    for now in (ISSUER.not_before - SECOND, ISSUER.not_after + SECOND):
        with pytest.raises(IssuerNotValidError):
            chosen(NOW, NOW + DAY, now=now)


_SECONDS = st.integers(-200 * 86400, 400 * 86400)


@given(
    before=st.none() | st.integers(-4000, 200_000),
    after=st.none() | _SECONDS,
    at=st.integers(0, int((ISSUER.not_after - ISSUER.not_before).total_seconds())),
)
def test_any_request(before: int | None, after: int | None, at: int) -> None:
    """Whatever is asked for at whatever time: it is given exactly, within every bound, or refused with a bound."""
    now = ISSUER.not_before + at * SECOND
    not_before = None if before is None else now + before * SECOND
    not_after = None if after is None else now + after * SECOND
    try:
        validity = choose_validity(TEMPLATE, ISSUER, now=now, not_before=not_before, not_after=not_after)
    except ValidityError:
        assert refusal(not_before, not_after, now=now).startswith(("notBefore: ", "notAfter: "))
        return
    assert validity.not_before == (not_before or validity.not_before)
    assert validity.not_after == (not_after or validity.not_after)
    assert ISSUER.not_before <= validity.not_before <= validity.not_after <= ISSUER.not_after
    assert now - MAX_BACKDATE <= validity.not_before <= now + MAX_POSTDATE
    assert validity.not_after - validity.not_before + SECOND <= TEMPLATE.longest
    if not_after is None:
        assert validity.not_after - validity.not_before < TEMPLATE.lifetime
    if not_after is not None:
        assert validity.not_after > now
    if not_before is None:
        assert validity.not_before <= now + SECOND


@given(after=_SECONDS, waited=st.integers(0, 86400))
def test_what_was_promised_at_the_order_can_be_given_later(after: int, waited: int) -> None:
    """A notAfter that was taken when the order was made is not too late when it is finalized."""
    not_after = NOW + after * SECOND
    try:
        chosen(not_after=not_after)
    except ValidityError:
        return
    later = NOW + waited * SECOND
    if not_after > later:
        assert chosen(not_after=not_after, now=later)[1] == not_after


def test_a_validity_is_a_value() -> None:
    assert choose_validity(TEMPLATE, ISSUER, now=NOW) == Validity(*chosen())
