"""Orders: finalize once whatever races, policy asked again, expiry."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from acmeca.storage.errors import StorageError
from tests.support.server import CountingKey, RunningCa, ca_site, running_ca


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


def leaf_signatures(key: CountingKey) -> int:
    return len(key.signed)


async def test_fifty_finalizes_of_one_order(ca: RunningCa) -> None:
    """RULES §3: "two parallel finalizes of one order issue exactly one certificate": fifty do too, with one signature."""
    client = await ca.client()
    order = await client.ready_order("a.localhost")
    before = leaf_signatures(ca.site.issuer_key)
    answers = await asyncio.gather(*(client.finalize(order) for _ in range(50)))
    won = [answer for answer in answers if answer.status == 200]
    assert len(won) == 1
    for answer in answers:
        if answer.status != 200:
            answer.refused("orderNotReady", 403)
    assert leaf_signatures(ca.site.issuer_key) == before + 1
    assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE order_id IS NOT NULL") == 1
    assert len(await ca.events("certificate.issued")) == 1 + 2  # with the listener's and the responder's
    assert (await client.order(order.url)).status == "valid"


async def test_finalize_races_with_giving_an_authorization_up(ca: RunningCa) -> None:
    """Rule 1 of storage/orders.py: whichever comes first, a certificate and a given-up authorization tell one story."""
    client = await ca.client()
    for number in range(8):
        order = await client.ready_order(f"r{number}.localhost")
        finalized, given_up = await asyncio.gather(
            client.finalize(order), client.post(order.authorizations[0], {"status": "deactivated"})
        )
        given_up.ok()
        status = (await client.order(order.url)).status
        assert (finalized.status, status) in {(200, "valid"), (403, "invalid")}


async def test_an_order_that_expired(ca: RunningCa) -> None:
    """§7.4: an order is good until "expires"; then it is closed."""
    client = await ca.client()
    ready, pending = await client.ready_order("a.localhost"), await client.new_order("b.localhost")
    issued = await client.issue("c.localhost")
    ca.clock.advance(days=1)
    (await client.finalize(ready)).refused("orderNotReady", 403)
    assert await ca.services.orders.expire() == 2
    for order in (ready, pending):
        assert (await client.order(order.url)).status == "invalid"
        assert (await client.authorization(order.authorizations[0]))["status"] == "expired"
        (await client.finalize(order)).refused("orderNotReady", 403)
    assert (await client.order(issued.order.url)).status == "valid"
    assert await ca.services.orders.expire() == 0


async def test_an_authorization_that_expired_before_its_order(ca: RunningCa) -> None:
    """RULES §3: an authorization counts while it is unexpired, whatever the order says."""
    client = await ca.client()
    order = await client.ready_order("a.localhost", "b.localhost")
    authorization_id = order.authorizations[1].rpartition("/")[2]
    await ca.execute("UPDATE authorizations SET expires_at = $1 WHERE id = $2", 1, authorization_id)
    assert (await client.authorization(order.authorizations[1]))["status"] == "expired"
    (await client.finalize(order)).refused("orderNotReady", 403)
    assert leaf_signatures(ca.site.issuer_key) == await ca.scalar(
        "SELECT COUNT(*) AS n FROM certificates WHERE signature IS NOT NULL"
    ) + await ca.scalar("SELECT COUNT(*) AS n FROM crls WHERE issuer_id = $1", ca.issuer.id)


async def test_policy_is_asked_again_at_finalize() -> None:
    """RULES §3: "Policy runs on every name of the order, and again on the final names right before signing"."""
    async with ca_site() as site:
        await site.init()
        async with site.running() as ca:
            client = await ca.client()
            order = await client.ready_order("a.localhost", "b.localhost", "c.localhost")
        for allowed, refused in (
            (["a.localhost", "c.localhost"], ["b.localhost"]),
            (["*.example"], ["a.localhost", "b.localhost", "c.localhost"]),
            (["b.localhost", "c.localhost"], ["a.localhost"]),
        ):
            site.reconfigure(policy={"allowed_names": allowed})
            async with site.running() as ca:
                again = await ca.client(client.key)
                signed = leaf_signatures(site.issuer_key)
                answer = (await again.finalize(order)).refused("rejectedIdentifier", 403)
                assert [item["identifier"]["value"] for item in answer.json["subproblems"]] == refused
                assert leaf_signatures(site.issuer_key) == signed
                assert (await again.order(order.url)).status == "ready"
        site.reconfigure(policy={"allowed_names": ["*.localhost"]})
        async with site.running() as ca:
            (await (await ca.client(client.key)).finalize(order)).ok()


async def test_refusals_are_written_down(ca: RunningCa) -> None:
    """RULES §6: "every … refusal" is in the audit."""
    client = await ca.client()
    (await client.order_answer("evil.example")).refused("rejectedIdentifier", 403)
    order = await client.ready_order("a.localhost")
    (await client.finalize(order, order.csr(dns_names=["b.localhost"]))).refused("badCSR", 400)
    (refused,) = await ca.events("order.refused")
    assert "evil.example" in refused
    (not_issued,) = await ca.events("issuance.refused")
    assert "b.localhost" in not_issued


async def test_no_audit_no_order(ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
    """RULES §6: "If the audit record cannot be written, nothing is issued"."""
    client = await ca.client()
    order = await client.ready_order("a.localhost")
    signed = leaf_signatures(ca.site.issuer_key)

    async def fail(*_: object, **__: object) -> None:
        raise StorageError("the audit cannot be written")

    monkeypatch.setattr("acmeca.storage.issuance.append", fail)
    (await client.finalize(order)).refused("serverInternal", 503)
    assert leaf_signatures(ca.site.issuer_key) == signed
    assert (await client.order(order.url)).status == "ready"
    monkeypatch.undo()
    (await client.finalize(order)).ok()


async def test_expiry_is_in_the_order(ca: RunningCa) -> None:
    client = await ca.client()
    answer = (await client.order_answer("a.localhost")).ok(201)
    assert answer.json["expires"] == (ca.clock() + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
