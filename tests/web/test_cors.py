"""Clients in web pages of other origins: RFC 8555 §6.1 and the Fetch standard, header by header. A real browser asks in tests/interop."""

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from acmeca.urls import Paths
from tests.support.acme_client import AcmeClient, Answer
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORIGIN = {"Origin": "https://app.example"}
ASKING = ORIGIN | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


def cors_of(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.lower().startswith("access-control-")}


READABLE = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Link, Location, Replay-Nonce, Retry-After",
}


async def preflight(client: AcmeClient, url: str, headers: Mapping[str, str] = ASKING) -> Answer:
    return await client.get(url, method="OPTIONS", headers=headers)


async def test_every_answer(ca: RunningCa, client: AcmeClient) -> None:
    """§6.1: servers "SHOULD set the Access-Control-Allow-Origin header field to the value "*"": whoever asks, whatever the answer."""
    order = await client.order_answer("a.localhost")
    answers = [
        await client.get(ca.directory_url, headers=ORIGIN),
        await client.get(ca.directory_url),
        await client.get(client.directory["newNonce"], method="HEAD", headers=ORIGIN),
        await client.get(client.directory["newNonce"]),
        await client.new_account(),
        await client.post(client.account_url),
        order,
        await client.post(order.json["authorizations"][0]),
        await client.order_answer("evil.example"),
        await client.post(client.account_url, nonce="AAAA"),
        await client.send(client.account_url, b"junk"),
        await client.send(client.account_url, b"{}", content_type="text/plain"),
        await client.get(client.account_url),
        await client.get(ca.urls.base + "/acme/nowhere"),
    ]
    assert {answer.status for answer in answers} == {200, 201, 204, 400, 403, 404, 405, 415}
    for answer in answers:
        assert cors_of(answer) == READABLE, answer


async def test_what_a_page_reads(client: AcmeClient) -> None:
    """What ACME says in header fields is readable: without "Expose-Headers" a page sees no nonce and no account URL."""
    order = (await client.order_answer("b.localhost")).ok(201)
    authorization = await client.post(order.json["authorizations"][0])
    exposed = order.headers["Access-Control-Expose-Headers"].split(", ")
    for answer, names in ((order, {"Location", "Replay-Nonce", "Link"}), (authorization, {"Retry-After"})):
        assert names <= set(answer.headers)
        assert names <= set(exposed)


async def test_preflight(ca: RunningCa, client: AcmeClient) -> None:
    """Fetch: application/jose+json is on no safelist, so a browser asks before each POST."""
    order = await client.new_order("c.localhost")
    for url, methods in (
        (ca.directory_url, "GET, HEAD, POST"),
        (client.directory["newNonce"], "GET, HEAD, POST"),
        (client.directory["newAccount"], "POST"),
        (order.finalize, "POST"),
        (order.authorizations[0], "POST"),
        (ca.urls.certificate("AAAA", "AAAA"), "POST"),
    ):
        answer = (await preflight(client, url)).ok(204)
        assert cors_of(answer) == READABLE | {
            "Access-Control-Allow-Methods": methods,
            "Access-Control-Allow-Headers": "Content-Type",
            "Access-Control-Max-Age": "86400",
        }
        assert answer.body == b""


async def test_a_preflight_costs_nothing(ca: RunningCa, client: AcmeClient) -> None:
    """Rule 2 of web/cors.py: neither a nonce nor a row."""
    before = await ca.counts()
    answer = await preflight(client, client.directory["newOrder"])
    assert answer.nonce is None
    assert await ca.counts() == before


async def test_into_a_private_network(client: AcmeClient) -> None:
    """Rule 3: a page of the public Internet is not let in where the browser asks on its behalf."""
    headers = ASKING | {"Access-Control-Request-Private-Network": "true"}
    answer = await preflight(client, client.directory["newOrder"], headers)
    assert "Access-Control-Allow-Private-Network" not in answer.headers
    assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_no_preflight(ca: RunningCa, client: AcmeClient) -> None:
    """An OPTIONS that is no preflight is a method like any other; nor is anything allowed where nothing is."""
    answer = (await preflight(client, client.account_url, ORIGIN)).refused("malformed", 405)
    assert answer.headers["Allow"] == "POST"
    assert cors_of(answer) == READABLE
    (await preflight(client, ca.urls.base + "/acme/nowhere")).refused("malformed", 404)


async def test_acme_alone(ca: RunningCa, client: AcmeClient) -> None:
    """Neither the pages beside it, nor OCSP and CRLs, nor the admin listener."""
    urls = [
        ca.urls.base + Paths.FRONT_PAGE,
        ca.urls.base + Paths.PROBLEMS,
        ca.issuer.crl_url,
        ca.admin_url + Paths.METRICS,
    ]
    for url in urls:
        for method in ("GET", "OPTIONS"):
            async with ca.session().request(method, url, headers=ASKING) as answer:
                assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
                assert answer.status == (200 if method == "GET" else 405)


@pytest.mark.asyncio(loop_scope="function")
async def test_switched_off() -> None:
    """`server.cors = false`."""
    async with running_ca(server={"cors": False}, duties=False) as ca:
        client = await ca.client()
        for answer in (
            await client.get(ca.directory_url, headers=ORIGIN),
            await client.post(client.account_url),
            (await preflight(client, client.account_url)).refused("malformed", 405),
        ):
            assert cors_of(answer) == {}
