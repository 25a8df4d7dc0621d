"""Rate limits: who is refused what, until when, and what is never limited (RFC 8555 §6.6, the rules of service/limits.py)."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from acmeca.acme.jwk import parse_jwk
from acmeca.acme.objects import ChallengeType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.policy.limits import Limit
from acmeca.service import limits
from tests.support.acme_client import AcmeClient, Answer, renewal_identifier
from tests.support.jose import new_key
from tests.support.server import GatedValidation, RunningCa, ca_site, http01, running_ca, until

FEW = {
    "new_accounts_per_address": "3/1h",
    "new_orders_per_account": "10/1h",
    "failed_validations_per_account_and_name": "3/1h",
}


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca(limits=FEW) as ca:
        yield ca


def wait_of(answer: Answer) -> int:
    """Retry-After, which has to be whole seconds (CLIENTS 3)."""
    text = answer.headers["Retry-After"]
    assert text.isdigit()
    return int(text)


async def failed(client: AcmeClient, name: str, times: int = 1) -> None:
    """Orders for this name whose challenge is answered by nobody."""
    for _ in range(times):
        order = await client.new_order(name)
        (await client.respond(await client.challenge(order.authorizations[0]))).ok()
        assert (await client.final(order.authorizations[0]))["status"] == "invalid"


class TestOrders:
    async def test_fifty_at_once(self, ca: RunningCa) -> None:
        """Exactly ten of fifty; the others are told when the next one may come, and nothing is left of theirs."""
        client, other = await ca.client(), await ca.client()
        answers = await asyncio.gather(*(client.order_answer(f"{number}.localhost") for number in range(50)))
        refused = [answer for answer in answers if answer.status != 201]
        assert len(refused) == 40
        for answer in refused:
            answer.refused("rateLimited", 429)
            assert 3600 < wait_of(answer) <= 3660
            assert "this account may make 10 orders in 1 hour; the next one at 20" in answer.detail
        assert await ca.scalar("SELECT COUNT(*) AS n FROM orders") == 10
        assert await ca.scalar("SELECT COUNT(*) AS n FROM authorizations") == 10
        (await other.order_answer("other.localhost")).ok(201)

    async def test_it_is_as_long_as_it_says(self, ca: RunningCa) -> None:
        client = await ca.client()
        for number in range(10):
            await client.new_order(f"{number}.localhost")
        answer = (await client.order_answer("a.localhost")).refused("rateLimited", 429)
        ca.clock.advance(seconds=wait_of(answer) - 1)
        again = (await client.order_answer("a.localhost")).refused("rateLimited", 429)
        assert wait_of(again) == 1
        ca.clock.advance(seconds=1)
        await client.new_order("a.localhost")

    async def test_refused_orders_count(self, ca: RunningCa) -> None:
        """Each is a record in the audit: a client that asks on and on must not fill it."""
        client = await ca.client()
        answers = [await client.order_answer("evil.example") for _ in range(12)]
        assert [answer.problem for answer in answers] == ["rejectedIdentifier"] * 10 + ["rateLimited"] * 2
        assert len(await ca.events("order.refused")) == 10
        (await client.order_answer("a.localhost")).refused("rateLimited", 429)

    async def test_once_in_the_audit(self, ca: RunningCa) -> None:
        """Rule 3 of service/limits.py."""
        client = await ca.client()
        for number in range(10):
            await client.new_order(f"{number}.localhost")
        for _ in range(5):
            (await client.order_answer("a.localhost")).refused("rateLimited", 429)
        (event,) = [json.loads(text) for text in await ca.events("limit.reached")]
        account_id = client.account_url.rpartition("/")[2]
        assert event["actor"] == f"account:{account_id}"
        assert event["limit"] == event["subject"] == f"new_orders_per_account:{account_id}"
        assert datetime.fromisoformat(event["free_at"]) > ca.clock()
        ca.clock.advance(hours=2)
        for number in range(11):
            await client.order_answer(f"{number}.localhost")
        assert len(await ca.events("limit.reached")) == 2

    async def test_what_is_remembered_is_bounded(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "_TOLD", 2)
        told = ca.services.orders._limits._told
        for _ in range(3):
            client = await ca.client()
            for number in range(11):
                await client.order_answer(f"{number}.localhost")
        assert len(await ca.events("limit.reached")) == 3
        assert len(told) == 2

    async def test_it_is_counted(self, ca: RunningCa) -> None:
        client = await ca.client()
        for number in range(12):
            await client.order_answer(f"{number}.localhost")
        async with ca.session().get(f"{ca.admin_url}/metrics") as answer:
            text = await answer.text()
        assert 'acmeca_rate_limited_total{limit="new_orders_per_account"} 2.0' in text
        assert 'acmeca_rate_limited_total{limit="new_accounts_per_address"} 0.0' in text


async def test_nothing_else_is_limited(ca: RunningCa) -> None:
    """Rule 1 of service/limits.py: an account that may order no more reads, revokes, gives up, and finishes what it began."""
    client = await ca.client()
    issued, ready = await client.issue("a.localhost"), await client.ready_order("b.localhost")
    pending = await client.new_order("c.localhost")
    for number in range(10):
        await client.order_answer(f"{number}.localhost")
    (await client.order_answer("d.localhost")).refused("rateLimited", 429)
    (await client.finalize(ready)).ok()
    await client.authorize_one(pending.authorizations[0])
    (await client.finalize(pending)).ok()
    (await client.post(issued.order.url)).ok()
    (await client.post(client.account_url)).ok()
    (await client.post(client.account_url, {"contact": ["mailto:a@example.org"]})).ok()
    (await client.register()).ok(200)
    (await client.revoke(issued.der)).ok()
    for _ in range(3):
        (await client.revoke(issued.der)).refused("alreadyRevoked", 400)
    (await client.deactivate_account()).ok()


async def test_a_restart_forgets_nothing() -> None:
    """Issue: "surviving a restart"; and what the configuration says next is what counts."""
    async with ca_site(limits=FEW) as site:
        await site.init()
        async with site.running() as ca:
            client = await ca.client()
            for number in range(10):
                await client.new_order(f"{number}.localhost")
        async with site.running() as ca:
            again = await ca.client(client.key)
            (await again.order_answer("a.localhost")).refused("rateLimited", 429)
        site.reconfigure(limits={"new_orders_per_account": "11/1h"})
        async with site.running() as ca:
            again = await ca.client(client.key)
            (await again.order_answer("a.localhost")).ok(201)
            (await again.order_answer("a.localhost")).refused("rateLimited", 429)
        site.reconfigure(limits={"new_orders_per_account": "off"})
        async with site.running() as ca:
            (await (await ca.client(client.key)).order_answer("a.localhost")).ok(201)


class TestAccounts:
    async def new(self, ca: RunningCa, address: str | None) -> ProblemType | bool:
        """A new key's account from this address: whether it is new, or what is told instead."""
        key = parse_jwk(new_key().jwk)
        try:
            registration = await ca.services.accounts.new_account(key, b"{}", address=address)
        except Problem as problem:
            return problem.type
        return registration.is_new

    async def test_of_one_address(self, ca: RunningCa) -> None:
        outcomes = await asyncio.gather(*(self.new(ca, "10.0.0.1") for _ in range(50)))
        assert sorted(map(str, outcomes)) == ["True"] * 3 + ["rateLimited"] * 47
        assert await self.new(ca, "10.0.0.2") is True
        assert await ca.scalar("SELECT COUNT(*) AS n FROM accounts") == 4
        ca.clock.advance(hours=1, minutes=1)
        assert await self.new(ca, "10.0.0.1") is True

    async def test_of_one_ipv6_host(self, ca: RunningCa) -> None:
        for number in range(3):
            assert await self.new(ca, f"2001:db8::{number}") is True
        assert await self.new(ca, "2001:db8::ffff") is ProblemType.RATE_LIMITED
        assert await self.new(ca, "2001:db8:0:1::") is True

    async def test_a_proxy_on_this_machine_is_nobody(self, ca: RunningCa) -> None:
        """Clients of these tests come from 127.0.0.1, as those of a proxy on this machine would."""
        for _ in range(5):
            await ca.client()

    async def test_the_address_is_the_connections(self, ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not what a header says: anybody can write one."""
        seen: list[str | None] = []
        monkeypatch.setattr(ca.services.accounts._limits, "of_new_account", lambda address: seen.append(address) or ())
        client = await ca.client(register=False)
        url = client.directory["newAccount"]
        headers = {"X-Forwarded-For": "10.9.9.9", "Forwarded": "for=10.9.9.9", "X-Real-IP": "10.9.9.9"}
        (await client.send(url, await client.sign(url, {}, kid=None), headers=headers)).ok(201)
        assert seen == ["127.0.0.1"]

    async def test_a_known_key_uses_nothing(self, ca: RunningCa) -> None:
        """CLIENTS 15: some clients ask for their account on each run."""
        key = parse_jwk(new_key().jwk)
        for number in range(10):
            registration = await ca.services.accounts.new_account(key, b"{}", address="10.0.0.1")
            assert registration.is_new == (number == 0)

    async def test_refused_keys_count(self, ca: RunningCa) -> None:
        """Each is a record in the audit."""
        key = new_key()
        await ca.execute(
            "INSERT INTO blocked_keys (spki_sha256, thumbprint, blocked_at) VALUES ($1, $2, 0)",
            bytes(32),
            key.thumbprint,
        )
        told = []
        for _ in range(5):
            with pytest.raises(Problem) as caught:
                await ca.services.accounts.new_account(parse_jwk(key.jwk), b"{}", address="10.0.0.1")
            told.append(caught.value.type.value)
        assert told == ["badPublicKey"] * 3 + ["rateLimited"] * 2
        assert len(await ca.events("account.refused")) == 3


class TestFailedValidations:
    async def test_neither_ordered_nor_validated_again(self, ca: RunningCa) -> None:
        client, other = await ca.client(), await ca.client()
        waiting = await client.new_order("a.localhost", "b.localhost")
        await failed(client, "a.localhost", times=3)
        # An order for the name is refused, and the problem says which name it is (§6.7.1)
        answer = (await client.order_answer("b.localhost", "a.localhost")).refused("rateLimited", 429)
        (subproblem,) = answer.json["subproblems"]
        assert subproblem["identifier"] == {"type": "dns", "value": "a.localhost"}
        assert "a.localhost: 3 validations of it may fail for this account in 1 hour" in answer.detail
        assert "identifier" not in answer.json
        assert 3600 < wait_of(answer) <= 3660
        # and so is a challenge of an order that was there before, which stays as it is
        challenge = await client.challenge(waiting.authorizations[0])
        (await client.respond(challenge)).refused("rateLimited", 429)
        assert (await client.challenge(waiting.authorizations[0]))["status"] == "pending"
        # Other names, and other accounts, are as they were
        await client.authorize_one(waiting.authorizations[1])
        await other.ready_order("a.localhost")
        ca.clock.advance(seconds=wait_of(answer))
        await client.authorize_one(waiting.authorizations[0])

    async def test_parallel_ones_cannot_fail_more_often(self) -> None:
        """Exact: those under way may fail as well, so that they count while they are."""
        async with running_ca(limits=FEW, validations=http01(GatedValidation)) as ca:
            gated = ca.services.challenges._validations[ChallengeType.HTTP_01]
            assert isinstance(gated, GatedValidation)
            client = await ca.client()
            orders = [await client.new_order("a.localhost") for _ in range(10)]
            challenges = [await client.challenge(order.authorizations[0]) for order in orders]
            answers = await asyncio.gather(*(client.respond(challenge) for challenge in challenges))
            begun = [answer for answer in answers if answer.status == 200]
            assert len(begun) == 3
            for answer in answers:
                if answer.status != 200:
                    answer.refused("rateLimited", 429)
                    assert wait_of(answer) <= 10
            gated.gate.set()
            await until(lambda: _none_under_way(ca))
            assert len(await ca.events("authorization.failed")) == 3
            answers = await asyncio.gather(*(client.respond(challenge) for challenge in challenges))
            assert sum(answer.status == 429 for answer in answers) == 7
            assert len(await ca.events("authorization.failed")) == 3

    async def test_success_uses_nothing(self, ca: RunningCa) -> None:
        client = await ca.client()
        for _ in range(5):
            await client.ready_order("a.localhost")
        assert await ca.rows("SELECT name FROM limits WHERE name LIKE 'failed%'") == []


async def _none_under_way(ca: RunningCa) -> bool:
    return await ca.scalar("SELECT COUNT(*) AS n FROM validation_jobs") == 0


class TestCertificatesPerName:
    """A name's certificates, whatever account they are for; renewals do not count."""

    @pytest.fixture
    async def ca(self) -> AsyncIterator[RunningCa]:
        async with running_ca(limits={"certificates_per_name": "3/1d"}) as ca:
            yield ca

    async def test_of_many_accounts_at_once(self, ca: RunningCa) -> None:
        """A container that makes an account at each start: exactly three certificates, and orders stay ready."""
        clients = [await ca.client() for _ in range(8)]
        orders = [await client.ready_order("a.localhost") for client in clients]
        answers = await asyncio.gather(*(client.finalize(order) for client, order in zip(clients, orders, strict=True)))
        refused = [number for number, answer in enumerate(answers) if answer.status != 200]
        assert len(refused) == 5
        for number in refused:
            answers[number].refused("rateLimited", 429)
            (subproblem,) = answers[number].json["subproblems"]
            assert subproblem["identifier"] == {"type": "dns", "value": "a.localhost"}
            assert (await clients[number].order(orders[number].url)).status == "ready"
        assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE order_id IS NOT NULL") == 3
        # nobody sets out in vain
        answer = (await clients[refused[0]].order_answer("b.localhost", "a.localhost")).refused("rateLimited", 429)
        assert "renewals aside" in answer.detail
        assert 86_400 < wait_of(answer) <= 86_400 + 1440
        (await clients[refused[0]].order_answer("b.localhost")).ok(201)
        assert await ca.events("issuance.refused") == []
        assert len(await ca.events("limit.reached")) == 1

    async def test_a_renewal_is_free(self, ca: RunningCa) -> None:
        """The same account for exactly the same names, in any order; not for some of them, and not another account."""
        client, other = await ca.client(), await ca.client()
        await client.issue("a.localhost", "b.localhost")
        for _ in range(4):
            await client.issue("b.localhost", "a.localhost")
        used = {
            row["name"]: row["uses"] for row in await ca.rows("SELECT name, uses FROM limits WHERE name LIKE 'cert%'")
        }
        assert {name: sum(count for _, count in json.loads(uses)) for name, uses in used.items()} == {
            "certificates_per_name:a.localhost": 1,
            "certificates_per_name:b.localhost": 1,
        }
        await client.issue("a.localhost")
        await other.issue("a.localhost", "b.localhost")
        (await other.order_answer("a.localhost")).refused("rateLimited", 429)
        await other.issue("a.localhost", "b.localhost")

    async def test_an_order_that_replaces_is_free_for_what_it_replaces(self, ca: RunningCa) -> None:
        """RFC 9773 §5, by the order's row: the certificate has to be the account's own."""
        client, other = await ca.client(), await ca.client()
        old = await client.issue("a.localhost", "b.localhost")
        for number in range(2):
            await other.issue("a.localhost", f"{number}.localhost")
        (await client.order_answer("a.localhost", "c.localhost")).refused("rateLimited", 429)
        replacing = {"replaces": renewal_identifier(old.leaf)}
        (await client.order_answer("a.localhost", "c.localhost", **replacing)).ok(201)
        for account, expected in ((other, 429), (client, 200)):
            ca.clock.advance(days=2)
            order = await account.ready_order("a.localhost", "c.localhost")
            order_id = order.url.rpartition("/")[2]
            await ca.execute("UPDATE orders SET replaces = $1 WHERE id = $2", renewal_identifier(old.leaf), order_id)
            for number in range(3):
                await (await ca.client()).issue("a.localhost", f"x{number}.localhost")
            assert (await account.finalize(order)).status == expected

    async def test_the_servers_own_do_not_count(self, ca: RunningCa) -> None:
        await ca.opened.jobs._own_certificates.refresh()
        assert await ca.rows("SELECT name FROM limits WHERE name LIKE 'cert%'") == []


async def test_off_writes_nothing() -> None:
    async with running_ca(limits=dict.fromkeys(FEW, "off")) as ca:
        client = await ca.client()
        await failed(client, "a.localhost", times=5)
        await client.issue("b.localhost")
        assert await ca.rows("SELECT * FROM limits") == []


async def test_several_limits_at_once(ca: RunningCa) -> None:
    """§6.6: "If multiple rate limits are in place, that is the time where all rate limits allow access again"."""
    client = await ca.client()
    await failed(client, "a.localhost", times=3)
    ca.clock.advance(minutes=30)
    for number in range(7):
        await client.new_order(f"{number}.localhost")
    answer = (await client.order_answer("a.localhost", "b.localhost")).refused("rateLimited", 429)
    texts = [item["detail"] for item in answer.json["subproblems"]]
    assert len(texts) == 2
    waits = [datetime.fromisoformat(text.rpartition(" ")[2]) - ca.clock() for text in texts]
    assert timedelta(seconds=wait_of(answer)) == max(waits)
    assert len({item["type"] for item in answer.json["subproblems"]}) == 1
    assert {limit for limit in Limit if any(limit.value in event for event in await ca.events("limit.reached"))} == {
        Limit.NEW_ORDERS_PER_ACCOUNT,
        Limit.FAILED_VALIDATIONS,
    }
