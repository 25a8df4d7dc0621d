"""Rate limits as values: how they are written, and that "N/period" is what it says (the rules of policy/limits.py)."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.policy import limits
from acmeca.policy.limits import Limit, Rate, Taking, Uses, address_subject, parse_rate

NOW = 1_793_534_400
HOUR = Rate(10, 3600)


class TestRate:
    @pytest.mark.parametrize(
        ("text", "rate", "shown", "period"),
        [
            ("500/week", Rate(500, 604_800), "500/7d", "7 days"),
            ("300/3h", Rate(300, 10_800), "300/3h", "3 hours"),
            ("10/day", Rate(10, 86_400), "10/1d", "1 day"),
            ("1/hour", Rate(1, 3_600), "1/1h", "1 hour"),
            ("60/minute", Rate(60, 60), "60/1m", "1 minute"),
            ("5/second", Rate(5, 1), "5/1s", "1 second"),
            ("7/90s", Rate(7, 90), "7/90s", "90 seconds"),
            ("999999999/366d", Rate(999_999_999, 366 * 86_400), "999999999/366d", "366 days"),
        ],
    )
    def test_as_it_is_written(self, text: str, rate: Rate, shown: str, period: str) -> None:
        assert parse_rate(text) == rate
        assert str(rate) == shown
        assert parse_rate(shown) == rate
        assert rate.period == period

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "500",
            "500/",
            "/week",
            "0/week",
            "05/week",
            "-1/week",
            "1.5/week",
            "1e3/week",
            "500/weeks",
            "500/0d",
            "500/367d",
            "500/2w",
            "500 / week",
            "500/week ",
            "500/week\n",
            "1000000000/week",
            "٣/week",
            "off",
            "500/99999999d",
        ],
    )
    def test_anything_else_is_refused_with_what_is_allowed(self, text: str) -> None:
        with pytest.raises(ValueError, match=r'like "500/week"|at most 366d'):
            parse_rate(text)

    @given(st.text(max_size=20))
    def test_no_text_does_anything_else(self, text: str) -> None:
        try:
            rate = parse_rate(text)
        except ValueError:
            return
        assert parse_rate(str(rate)) == rate


class TestAddress:
    @pytest.mark.parametrize(
        ("address", "subject"),
        [
            ("10.1.2.3", "10.1.2.3"),
            ("::ffff:10.1.2.3", "10.1.2.3"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            ("127.0.0.1", None),
            ("127.9.9.9", None),
            ("::1", None),
            ("::ffff:127.0.0.1", None),
            ("", None),
            (None, None),
            ("not an address", None),
        ],
    )
    def test_whose_limit(self, address: str | None, subject: str | None) -> None:
        """One IPv6 host has 2^64 addresses to choose from; a proxy on this machine is all its clients."""
        assert address_subject(address) == subject


class TestTaking:
    def test_its_name(self) -> None:
        name = Identifier(IdentifierType.DNS, "db.corp.internal")
        assert Taking(Limit.NEW_ORDERS_PER_ACCOUNT, "id", HOUR).key == "new_orders_per_account:id"
        assert Taking(Limit.CERTIFICATES_PER_NAME, "", HOUR, identifier=name).key == (
            "certificates_per_name:db.corp.internal"
        )
        assert Taking(Limit.FAILED_VALIDATIONS, "id", HOUR, identifier=name).key == (
            "failed_validations_per_account_and_name:id:db.corp.internal"
        )

    @pytest.mark.parametrize("limit", list(Limit))
    def test_what_is_said_of_it(self, limit: Limit) -> None:
        """§6.6: it says what was too much and when the same request can succeed."""
        name = Identifier(IdentifierType.DNS, "db.corp.internal")
        said = limits.detail(Taking(limit, "id", HOUR, identifier=name), datetime(2026, 11, 2, 3, 4, 5, tzinfo=UTC))
        assert "10 " in said
        assert said.endswith("1 hour; the next one at 2026-11-02T03:04:05Z") or "2026-11-02T03:04:05Z" in said
        assert ("db.corp.internal" in said) == (limit in {Limit.CERTIFICATES_PER_NAME, Limit.FAILED_VALIDATIONS})


def try_use(uses: Uses, rate: Rate, now: int, count: int = 1) -> tuple[Uses, int | None]:
    """What `storage/limits.py` does: use it, or say when it can be used."""
    current = limits.counted(uses, rate, now)
    free = limits.free_at(current, rate, count, now)
    return (limits.used(current, rate, count, now), None) if free is None else (uses, free)


class TestUse:
    def test_so_many_at_once(self) -> None:
        uses: Uses = ()
        for _ in range(10):
            uses, free = try_use(uses, HOUR, NOW)
            assert free is None
        uses, free = try_use(uses, HOUR, NOW)
        assert free is not None
        assert NOW + 3600 < free <= NOW + 3660
        assert try_use(uses, HOUR, free - 1)[1] == free
        assert try_use(uses, HOUR, free)[1] is None

    def test_an_unused_one_is_whole(self) -> None:
        assert limits.whole_at((), HOUR) == 0
        assert limits.counted((), HOUR, NOW) == ()

    def test_more_than_it_ever_has(self) -> None:
        assert limits.free_at((), HOUR, 11, NOW) == NOW + 3600

    @settings(deadline=None)
    @given(
        st.integers(1, 8),
        st.sampled_from([1, 2, 59, 60, 61, 100, 3600, 604_800]),
        st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 3)), max_size=60),
    )
    def test_never_more_than_so_many_in_any_period(
        self, count: int, seconds: int, steps: list[tuple[float, int]]
    ) -> None:
        """Rule 1 and rule 2, against a log of every use: none too many, and none refused a grain after it had to be."""
        rate, uses, log, now = Rate(count, seconds), (), [], NOW
        for step, wanted in steps:
            now += round(step * seconds)
            taken = [at for at in log if at > now - seconds]
            uses, free = try_use(uses, rate, now, wanted)
            if free is None:
                log += [now] * wanted
                assert len(taken) + wanted <= count
            elif wanted <= count:
                assert free > now
                recent = [at for at in log if at > now - seconds - rate.grain - 1]
                assert len(recent) + wanted > count
                assert try_use(uses, rate, free, wanted)[1] is None
                assert try_use(uses, rate, free - 1, wanted)[1] is not None
        for at in log:
            assert sum(at - seconds < other <= at for other in log) <= count

    @given(st.integers(1, 366 * 86_400), st.lists(st.integers(0, 10_000_000), max_size=300))
    def test_a_limit_takes_a_bounded_room(self, seconds: int, moments: list[int]) -> None:
        rate, uses = Rate(999_999_999, seconds), ()
        for moment in sorted(moments):
            uses, free = try_use(uses, rate, NOW + moment)
            assert free is None
            assert len(uses) <= 61
            assert uses == tuple(sorted(uses))

    def test_a_clock_that_was_set_back(self) -> None:
        """Rule 3: what was used by a clock of 2099 counts from now on, for one period."""
        uses: Uses = ()
        for _ in range(10):
            uses, _ = try_use(uses, HOUR, NOW + 73 * 365 * 86_400)
        uses, free = try_use(uses, HOUR, NOW)
        assert free is not None
        assert NOW + 3600 <= free <= NOW + 3660
        assert try_use(limits.counted(uses, HOUR, NOW), HOUR, NOW + 3660)[1] is None

    def test_a_clock_that_leapt_ahead_frees_a_limit_once(self) -> None:
        uses: Uses = ()
        for now in (NOW, NOW + 73 * 365 * 86_400):
            for number in range(11):
                uses, free = try_use(uses, HOUR, now)
                assert (free is None) == (number < 10)

    def test_a_rate_that_was_changed(self) -> None:
        """The configuration may change between two uses: what was used counts by the new rate, while it is kept."""
        uses: Uses = ()
        for _ in range(10):
            uses, _ = try_use(uses, HOUR, NOW)
        assert try_use(uses, Rate(10, 60), NOW + 120)[1] is None
        assert try_use(uses, Rate(10, 86_400), NOW + 7200)[1] is not None
        assert try_use(uses, Rate(5, 3600), NOW + 60)[1] is not None
        assert try_use(uses, Rate(11, 3600), NOW + 60)[1] is None
