"""RFC 8555 §7.4, notBefore and notAfter: given as they were asked for, or an error."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient
from tests.support.server import RunningCa, Site, ca_site, running_ca

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


# What a refused order must not leave behind.
MADE: Final = ("orders", "authorizations", "order_authorizations", "profiles", "certificates")

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The profile `server` lives for 90 days, and for 180 at the most.
PROFILES = {"server": {"maximum_lifetime": "180d"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca(profiles=PROFILES, duties=False) as ca:
        ca.clock.advance(hours=2)  # so that its issuer is older than any notBefore may be
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def moved() -> AsyncIterator[RunningCa]:
    """One of its own, for a test that moves the clock."""
    async with running_ca(profiles=PROFILES, duties=False) as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    async with ca_site() as site:
        await site.init()
        yield site


def rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def asked(not_before: datetime | None = None, not_after: datetime | None = None) -> dict[str, str]:
    members = {"notBefore": not_before, "notAfter": not_after}
    return {name: rfc3339(moment) for name, moment in members.items() if moment is not None}


class TestGiven:
    @pytest.mark.parametrize(
        ("begin", "end"),
        [
            (None, 7 * DAY),
            (None, 180 * DAY),
            (None, timedelta(minutes=1)),
            (timedelta(hours=-1), None),
            (timedelta(hours=48), None),
            (timedelta(0), 7 * DAY),
            (DAY, 180 * DAY),
        ],
    )
    async def test_to_the_second(self, ca: RunningCa, begin: timedelta | None, end: timedelta | None) -> None:
        """§7.4: "The server MUST return an error if it cannot fulfill the request as specified, and it MUST NOT issue a certificate
        with contents other than those requested."
        """
        client = await ca.client()
        now = ca.clock()
        not_before = None if begin is None else now + begin
        not_after = None if end is None else now + end
        members = asked(not_before, not_after)
        issued = await client.issue("a.localhost", members=members)
        assert {name: issued.order.document[name] for name in members} == members
        if not_before is not None:
            assert issued.leaf.not_valid_before_utc == not_before
        if not_after is not None:
            assert issued.leaf.not_valid_after_utc == not_after
        else:
            lived = issued.leaf.not_valid_after_utc - issued.leaf.not_valid_before_utc
            assert lived == 90 * DAY - SECOND

    async def test_the_order_shows_them(self, ca: RunningCa) -> None:
        """§7.1.3: "notBefore (optional, string): The requested value of the notBefore field in the certificate, in the date format
        defined in [RFC3339]."; the same of notAfter.
        """
        client = await ca.client()
        members = asked(ca.clock(), ca.clock() + DAY)
        order = await client.new_order("a.localhost", **members)
        assert {name: order.document[name] for name in members} == members
        assert (await client.order(order.url)).document == order.document
        plain = await client.new_order("a.localhost")
        assert not {"notBefore", "notAfter"} & set(plain.document)

    async def test_in_whatever_zone(self, ca: RunningCa) -> None:
        """§7.4's own example has an offset, and RFC 3339 fractions of a second; a certificate knows neither."""
        client = await ca.client()
        until = ca.clock() + DAY
        text = (until + timedelta(hours=4)).strftime("%Y-%m-%dT%H:%M:%S.75+04:00")
        issued = await client.issue("a.localhost", members={"notAfter": text})
        assert issued.leaf.not_valid_after_utc == until
        assert issued.order.document["notAfter"] == rfc3339(until)

    async def test_by_another_profile(self, ca: RunningCa) -> None:
        """The bound is the profile's: what `server` gives is too long for `short`."""
        client = await ca.client()
        members = {"profile": "short", **asked(None, ca.clock() + 2 * DAY)}
        assert (
            "profile short has"
            in (await client.order_answer("a.localhost", **members)).refused("malformed", 400).detail
        )
        members |= asked(None, ca.clock() + timedelta(hours=3))
        issued = await client.issue("a.localhost", members=members)
        assert issued.leaf.not_valid_after_utc == ca.clock() + timedelta(hours=3)


class TestRefused:
    @pytest.mark.parametrize(
        ("begin", "end", "told"),
        [
            (timedelta(hours=-1, seconds=-1), None, "an hour before now"),
            (timedelta(hours=48, seconds=1), None, "48 hours from now"),
            (None, timedelta(0), "a certificate ends after now"),
            (None, -DAY, "a certificate ends after now"),
            (DAY, DAY - SECOND, "after its notBefore"),
            (None, 180 * DAY + SECOND, "the longest lifetime that the profile server has"),
            (timedelta(0), 180 * DAY, "the longest lifetime that the profile server has"),
        ],
    )
    async def test_with_the_bound(
        self, ca: RunningCa, begin: timedelta | None, end: timedelta | None, told: str
    ) -> None:
        """§7.4: "The server MUST return an error if it cannot fulfill the request as specified"; nothing is made, and the audit has it."""
        client = await ca.client()
        before = await ca.counts()
        now = ca.clock()
        members = asked(None if begin is None else now + begin, None if end is None else now + end)
        answer = (await client.order_answer("a.localhost", **members)).refused("malformed", 400)
        assert told in answer.detail
        assert answer.detail.partition(":")[0] in members
        after = await ca.counts()
        assert after["audit"] == before["audit"] + 1
        assert [after[table] for table in MADE] == [before[table] for table in MADE]
        assert told in (await ca.events("order.refused"))[-1]

    async def test_beyond_the_issuers_end(self, moved: RunningCa) -> None:
        """RULES §4: "never beyond the issuer's notAfter": asked for, it is an error; not asked for, the certificate ends there."""
        client = await moved.client()
        end = moved.issuer.not_after
        moved.clock.moment = end - 10 * DAY
        answer = (await client.order_answer("a.localhost", **asked(None, end + SECOND))).refused("malformed", 400)
        assert f"is after {rfc3339(end)}, the end of its issuer's life" in answer.detail
        for members in (asked(None, end), asked(moved.clock(), None), {}):
            assert (await client.issue("a.localhost", members=members)).leaf.not_valid_after_utc == end

    async def test_before_the_issuers_beginning(self, moved: RunningCa) -> None:
        client = await moved.client()
        begin = moved.issuer.not_before
        moved.clock.moment = begin + timedelta(minutes=10)
        members = asked(begin - SECOND)
        answer = (await client.order_answer("a.localhost", **members)).refused("malformed", 400)
        assert f"is before {rfc3339(begin)}, the beginning of its issuer's life" in answer.detail
        assert (await client.issue("a.localhost", members=asked(begin))).leaf.not_valid_before_utc == begin

    async def test_with_an_issuer_that_is_over(self, moved: RunningCa) -> None:
        client = await moved.client()
        members = asked(None, moved.issuer.not_after + DAY)
        moved.clock.moment = moved.issuer.not_after + SECOND
        (await client.order_answer("a.localhost", **members)).refused("serverInternal", 503)


class TestFinalize:
    """What could be given when the order was made may be impossible when it is finalized."""

    async def test_a_notafter_that_is_over_by_then(self, moved: RunningCa) -> None:
        client = await moved.client()
        order = await client.ready_order("a.localhost", **asked(None, moved.clock() + timedelta(hours=2)))
        moved.clock.advance(hours=2)
        answer = (await client.finalize(order)).refused("malformed", 400)
        assert answer.detail.startswith("notAfter: ")
        assert (await client.order(order.url)).status == "ready"
        assert await moved.scalar("SELECT COUNT(*) AS n FROM certificates WHERE order_id IS NOT NULL") == 0

    async def test_a_notbefore_that_is_too_old_by_then(self, moved: RunningCa) -> None:
        """RULES §4: "notBefore backdated at most an hour", whenever it was asked for."""
        client = await moved.client()
        order = await client.ready_order("a.localhost", **asked(moved.clock()))
        moved.clock.advance(hours=1)
        issued = (await client.finalize(order)).ok()
        assert issued.json["status"] == "valid"
        order = await client.ready_order("b.localhost", **asked(moved.clock()))
        moved.clock.advance(hours=1, seconds=1)
        answer = (await client.finalize(order)).refused("malformed", 400)
        assert "an hour before now" in answer.detail

    async def test_the_longest_one_still_fits_a_day_later(self, moved: RunningCa) -> None:
        client = await moved.client()
        until = moved.clock() + 180 * DAY
        order = await client.ready_order("a.localhost", **asked(None, until))
        moved.clock.advance(hours=23)
        (await client.finalize(order)).ok()
        leaf, *_ = await client.download(await client.order(order.url))
        assert leaf.not_valid_after_utc == until

    async def test_fifty_at_once(self, ca: RunningCa) -> None:
        """Of fifty parallel finalizes of one such order one issues, exactly what was asked for."""
        client = await ca.client()
        until = ca.clock() + 3 * DAY
        order = await client.ready_order("a.localhost", **asked(ca.clock(), until))
        answers = await asyncio.gather(*(client.finalize(order) for _ in range(50)))
        assert sorted(answer.status for answer in answers) == [200] + [403] * 49
        order_id = order.url.rpartition("/")[2]
        (row,) = await ca.rows("SELECT not_before, not_after FROM certificates WHERE order_id = $1", order_id)
        assert (row["not_before"], row["not_after"]) == (int(ca.clock().timestamp()), int(until.timestamp()))

    async def test_after_a_crash(self, site: Site) -> None:
        """Recorded, and signed after a restart: for the times that were asked for."""
        async with site.running() as ca:
            client = await ca.client()
            begin, until = ca.clock() + timedelta(hours=1), ca.clock() + 3 * DAY
            order = await client.ready_order("a.localhost", **asked(begin, until))
            site.issuer_key.broken = RuntimeError("the token is away")
            assert (await client.finalize(order)).ok().json["status"] == "processing"
            site.issuer_key.broken = None
        async with site.running() as ca:
            again: AcmeClient = await ca.client(client.key)
            leaf, *_ = await again.download(await again.order(order.url))
            assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (begin, until)
