"""RFC 8555 §7.1.3: authorizations that "the client completed … as part of a previous order", and RULES §3 about them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient
from tests.support.jose import new_key
from tests.support.server import RunningCa, ca_site, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


def moment(document: Mapping[str, object]) -> datetime:
    return datetime.fromisoformat(str(document["expires"]))


class TestReused:
    async def test_ready_at_once(self, client: AcmeClient) -> None:
        """§7.1.6: "Once all of the authorizations listed in the order object are in the "valid" state, the order transitions to the
        "ready" state": from its beginning, when they all were valid before.
        """
        first = await client.ready_order("a.localhost", "b.localhost")
        answer = (await client.order_answer("b.localhost", "a.localhost")).ok(201)
        assert answer.json["status"] == "ready"
        assert answer.json["authorizations"] == first.authorizations[::-1]
        assert (await client.order(answer.location)).document == answer.json
        (await client.finalize(await client.order(answer.location))).ok()
        (await client.finalize(first)).ok()

    async def test_listed_in_each_order(self, client: AcmeClient) -> None:
        """§7.1.3: "if a CA allows multiple orders to be fulfilled based on a single authorization transaction, then it SHOULD reflect
        that authorization in all of the orders."
        """
        orders = [await client.ready_order("l.localhost") for _ in range(3)]
        assert len({order.authorizations[0] for order in orders}) == 1

    async def test_some_of_them(self, client: AcmeClient) -> None:
        """What was not shown is asked for: in the order's own, new authorization. §7.1.3: "The "authorizations" array of the
        order SHOULD reflect all authorizations that the CA takes into account in deciding to issue, even if some authorizations
        were fulfilled in earlier orders or in pre-authorization transactions."
        """
        first = await client.ready_order("c.localhost")
        second = await client.new_order("d.localhost", "c.localhost")
        assert second.status == "pending"
        assert second.authorizations[1] == first.authorizations[0]
        assert (await client.authorization(second.authorizations[0]))["status"] == "pending"
        await client.authorize_one(second.authorizations[0])
        (await client.finalize(await client.order(second.url))).ok()

    async def test_after_a_change_of_the_key(self, client: AcmeClient) -> None:
        """§7.3.5: "changing the account key for an account SHOULD NOT have any other impact on the account."."""
        await client.ready_order("k.localhost")
        (await client.change_key(new_key())).ok()
        assert (await client.new_order("k.localhost")).status == "ready"

    async def test_a_hundred_names(self, client: AcmeClient) -> None:
        """Each name has its own authorization, in the order's order (RULES §3: "Prove that all N were checked")."""
        names = [f"n{number}.localhost" for number in range(100)]
        shown = await client.ready_order(*names[::3])
        order = await client.new_order(*names)
        known = dict(zip(shown.names, shown.authorizations, strict=True))
        for name, url in zip(order.names, order.authorizations, strict=True):
            assert (url == known[name]) if name in known else (url not in known.values())
        assert order.status == "pending"


class TestNotReused:
    async def test_another_account(self, ca: RunningCa, client: AcmeClient) -> None:
        """§10.2: "Once authorized, an account key's authorizations cannot be improperly used by another account"."""
        first = await client.ready_order("own.localhost")
        order = await (await ca.client()).new_order("own.localhost")
        assert order.status == "pending"
        assert order.authorizations != first.authorizations

    async def test_another_name(self, client: AcmeClient) -> None:
        """Control of a name says nothing of those above and below it, nor of an address with its text."""
        await client.ready_order("x.localhost", ips=("127.0.0.1",))
        for name in ("w.x.localhost", "xx.localhost"):
            assert (await client.new_order(name)).status == "pending"
        assert (await client.new_order(ips=("127.0.0.2",))).status == "pending"

    async def test_pending(self, client: AcmeClient) -> None:
        """A pending one is its order's alone: who fails or gives up the one must not end the other."""
        one, other = await client.new_order("p.localhost"), await client.new_order("p.localhost")
        assert set(one.authorizations).isdisjoint(other.authorizations)
        (await client.post(one.authorizations[0], {"status": "deactivated"})).ok()
        assert (await client.order(other.url)).status == "pending"

    @pytest.mark.parametrize("end", ["deactivated", "invalid"])
    async def test_ended(self, client: AcmeClient, end: str) -> None:
        """RULES §3: "not deactivated". §7.5.2: "The server MUST NOT treat deactivated authorization objects as sufficient for
        issuing certificates."
        """
        order = await client.new_order("e.localhost")
        if end == "deactivated":
            await client.authorize_one(order.authorizations[0])
            (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
        else:
            (await client.respond(await client.challenge(order.authorizations[0]))).ok()
            await client.final(order.authorizations[0])
        again = await client.new_order("e.localhost")
        assert again.status == "pending"
        assert again.authorizations != order.authorizations

    async def test_of_several_one_that_is_valid(self, client: AcmeClient) -> None:
        """Giving one up leaves the others (§7.5.2: "deactivate each authorization associated with it")."""
        orders = [await client.new_order("s.localhost") for _ in range(2)]
        for order in orders:
            await client.authorize_one(order.authorizations[0])
        (await client.post(orders[0].authorizations[0], {"status": "deactivated"})).ok()
        assert (await client.new_order("s.localhost")).authorizations == orders[1].authorizations


class TestGivenUp:
    async def test_all_its_open_orders(self, client: AcmeClient) -> None:
        """§7.1.6: "The order also moves to the "invalid" state if … one of its authorizations enters a final state other than
        "valid"": each order that rests on it and is not finished.
        """
        first = await client.ready_order("g.localhost")
        (await client.finalize(first)).ok()
        second, third = await client.new_order("g.localhost"), await client.new_order("g.localhost", "h.localhost")
        (await client.post(first.authorizations[0], {"status": "deactivated"})).ok()
        statuses = [(await client.order(order.url)).status for order in (first, second, third)]
        assert statuses == ["valid", "invalid", "invalid"]
        (await client.finalize(second)).refused("orderNotReady", 403)

    async def test_while_orders_are_made_and_finalized(self, ca: RunningCa, client: AcmeClient) -> None:
        """Whichever comes first: no certificate rests on what was given up before, no order on what is not valid."""
        for number in range(4):
            name = f"race{number}.localhost"
            first = await client.ready_order(name)
            ready = [await client.new_order(name) for _ in range(3)]
            answers = await asyncio.gather(
                *(client.finalize(order) for order in ready),
                client.post(first.authorizations[0], {"status": "deactivated"}),
                *(client.order_answer(name) for _ in range(8)),
            )
            for order, answer in zip(ready, answers[:3], strict=True):
                status = (await client.order(order.url)).status
                assert (answer.status, status) in {(200, "valid"), (403, "invalid")}
            answers[3].ok()
            for answer in answers[4:]:
                order = await client.order(answer.ok(201).location)
                is_old = order.authorizations == first.authorizations
                assert order.status == ("invalid" if is_old else "pending")
        rows = await ca.rows(
            "SELECT o.status FROM orders o JOIN order_authorizations oa ON oa.order_id = o.id"
            " JOIN authorizations a ON a.id = oa.authorization_id WHERE a.status = 'deactivated'"
        )
        assert {row["status"] for row in rows} <= {"valid", "invalid"}


class TestTime:
    @pytest.fixture
    async def ca(self) -> AsyncIterator[RunningCa]:
        """One whose clock is the test's."""
        async with running_ca(duties=False, policy={"authorization_lifetime": "10d"}) as ca:
            yield ca

    @pytest.fixture
    async def client(self, ca: RunningCa) -> AcmeClient:
        return await ca.client()

    @pytest.mark.asyncio(loop_scope="function")
    async def test_from_when_control_was_shown(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.5.1: "If the final state is "valid", then the server MUST include an "expires" field. When finalizing an
        authorization, the server … may modify the "expires" field."
        """
        order = await client.new_order("t.localhost")
        assert moment(await client.authorization(order.authorizations[0])) == moment(order.document)
        ca.clock.advance(hours=5)
        shown = await client.authorize_one(order.authorizations[0])
        assert abs(moment(shown) - (ca.clock() + timedelta(days=10))) < timedelta(seconds=2)

    @pytest.mark.asyncio(loop_scope="function")
    async def test_no_order_outlives_what_it_rests_on(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.4: the order "represents a promise that if the client fulfills the server's requirements before the "expires" time, then
        the server will be willing to finalize the order": at the last second, too.
        """
        first = await client.ready_order("u.localhost")
        end = moment(await client.authorization(first.authorizations[0]))
        for before in (
            timedelta(days=5),
            timedelta(days=1, seconds=1),
            timedelta(hours=12),
            timedelta(hours=1, seconds=1),
        ):
            ca.clock.advance(seconds=(end - before - ca.clock()).total_seconds())
            order = await client.new_order("u.localhost")
            assert (order.status, order.authorizations) == ("ready", first.authorizations)
            assert moment(order.document) <= end
            assert moment(order.document) >= ca.clock() + min(before, timedelta(days=1)) - timedelta(seconds=2)
        ca.clock.advance(seconds=(end - ca.clock()).total_seconds() - 2)
        (await client.finalize(order)).ok()

    @pytest.mark.asyncio(loop_scope="function")
    async def test_too_little_is_left(self, ca: RunningCa, client: AcmeClient) -> None:
        """An order has an hour at least: what ends before is not taken."""
        first = await client.ready_order("v.localhost")
        end = moment(await client.authorization(first.authorizations[0]))
        ca.clock.advance(seconds=(end - ca.clock()).total_seconds() - 3590)
        order = await client.new_order("v.localhost")
        assert order.status == "pending"
        assert moment(order.document) > end

    @pytest.mark.asyncio(loop_scope="function")
    async def test_expired(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §3: "unexpired", whether that was written down yet or not."""
        first = await client.ready_order("w.localhost")
        ca.clock.advance(days=11)
        for _ in range(2):
            assert (await client.new_order("w.localhost")).authorizations != first.authorizations
            await ca.services.orders.expire()
        assert (await client.authorization(first.authorizations[0]))["status"] == "expired"


class TestConfiguration:
    @pytest.mark.asyncio(loop_scope="function")
    async def test_what_is_allowed_now(self) -> None:
        """RULES §3: "only if its challenge type is still allowed"; and as long as control counts by the configuration of now."""
        async with ca_site(policy={"authorization_lifetime": "30d"}) as site:
            await site.init()
            key = new_key()
            async with site.running(duties=False) as ca:
                shown = await (await ca.client(key)).ready_order("a.localhost")
            site.clock.advance(hours=5)
            for section, changes, is_taken in (
                ("validation", {"challenges": ["dns-01"]}, False),
                ("validation", {"challenges": ["dns-01", "http-01"]}, True),
                ("policy", {"authorization_lifetime": "0s"}, False),
                ("policy", {"authorization_lifetime": "4h"}, False),
                ("policy", {"authorization_lifetime": "7h"}, True),
            ):
                site.reconfigure(**{section: changes})
                async with site.running(duties=False) as ca:
                    order = await (await ca.client(key)).new_order("a.localhost")
                    assert (order.authorizations == shown.authorizations) == is_taken, changes
                    assert order.status == ("ready" if is_taken else "pending")

    @pytest.mark.asyncio(loop_scope="function")
    async def test_a_type_that_was_taken_out_gives_no_certificate(self) -> None:
        """RULES §3: "only if its challenge type is still allowed": also for an order that was ready before, and to revoke (§7.6)."""
        async with ca_site(policy={"authorization_lifetime": "30d"}) as site:
            await site.init()
            keys = new_key(), new_key()
            async with site.running(duties=False) as ca:
                clients = [await ca.client(key) for key in keys]
                first = await clients[0].ready_order("a.localhost")
                again = await clients[0].new_order("a.localhost")
                assert again.status == "ready"
                await clients[1].ready_order("b.localhost")
                issued = await clients[0].issue("b.localhost")
            site.reconfigure(validation={"challenges": ["dns-01"]})
            async with site.running(duties=False) as ca:
                clients = [await ca.client(key) for key in keys]
                for order in (first, again):
                    (await clients[0].finalize(order)).refused("unauthorized", 403)
                    assert (await clients[0].order(order.url)).status == "ready"
                (await clients[1].revoke(issued.der)).refused("unauthorized", 403)
            site.reconfigure(validation={"challenges": ["dns-01", "http-01"]})
            async with site.running(duties=False) as ca:
                clients = [await ca.client(key) for key in keys]
                for order in (first, again):
                    (await clients[0].finalize(order)).ok()
                (await clients[1].revoke(issued.der)).ok()

    @pytest.mark.asyncio(loop_scope="function")
    async def test_each_order_anew(self) -> None:
        """`authorization_lifetime = "0s"`: what was shown for one order counts for that one."""
        async with running_ca(duties=False, policy={"authorization_lifetime": "0s"}) as ca:
            client = await ca.client()
            first = await client.ready_order("a.localhost")
            second = await client.new_order("a.localhost")
            assert second.status == "pending"
            (await client.finalize(first)).ok()
