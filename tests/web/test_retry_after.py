"""`Retry-After` wherever a client waits: whole seconds, and few; nowhere else (RFC 8555 §6.6, §7.4, §7.5.1, §8.2)."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient, Answer
from tests.support.server import RunningCa, held_answers, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca(duties=False) as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


def wait(answer: Answer) -> int | None:
    """Seconds, as every client reads them: digits and nothing else."""
    values = answer.headers.getall("Retry-After", [])
    assert len(values) <= 1
    assert all(value.isascii() and value.isdecimal() and 1 <= int(value) <= 60 for value in values)
    return int(values[0]) if values else None


async def test_an_order_on_its_way(ca: RunningCa, client: AcmeClient) -> None:
    """§7.4: "Send a POST-as-GET request after the time given in the Retry-After header field of the response, if any."."""
    answer = (await client.order_answer("a.localhost")).ok(201)
    assert wait(answer) is None  # it is the client's turn
    assert wait(await client.post(answer.location)) == 1
    await client.authorize_one(answer.json["authorizations"][0])
    assert wait(await client.post(answer.location)) is None
    order = await client.order(answer.location)
    ca.site.issuer_key.broken = RuntimeError("the token is away")
    processing = (await client.finalize(order)).ok()
    assert (processing.json["status"], wait(processing)) == ("processing", 1)
    assert wait(await client.post(order.url)) == 1
    again = (await client.finalize(order)).refused("orderNotReady", 403)
    assert wait(again) == 1
    ca.site.issuer_key.broken = None
    await ca.services.issuance.finish_unfinished()
    assert wait(await client.post(order.url)) is None
    assert wait((await client.finalize(order)).refused("orderNotReady", 403)) is None


async def test_an_authorization_and_its_challenge(ca: RunningCa, client: AcmeClient) -> None:
    """§7.5.1: "MAY include a Retry-After header field to suggest a polling interval to the client"."""
    order = await client.new_order("b.localhost")
    challenge = await client.challenge(order.authorizations[0])
    client.provision(challenge)
    with held_answers(ca):
        answers = [await client.respond(challenge), await client.post(challenge["url"])]
        answers.append(await client.post(order.authorizations[0]))
        assert [wait(answer) for answer in answers] == [1, 1, 1]
    await client.final(order.authorizations[0])
    assert wait(await client.post(order.authorizations[0])) is None


async def test_an_issuer_that_cannot_sign(ca: RunningCa, client: AcmeClient) -> None:
    order = await client.ready_order("c.localhost")
    ca.clock.advance(days=-3650)
    try:
        assert wait((await client.finalize(order)).refused("serverInternal", 503)) == 30
    finally:
        ca.clock.advance(days=3650)
    assert (await client.order(order.url)).status == "ready"
