"""What every answer has in common: problems, nonces, links, and nothing that helps an attacker."""

import json
import logging
from collections.abc import AsyncIterator
from urllib.parse import unquote

import pytest
import pytest_asyncio
from yarl import URL

from acmeca.errors import Busy
from acmeca.service.status import Status
from acmeca.storage.errors import StorageError
from acmeca.storage.orders import Orders
from acmeca.storage.sqlite import SqliteDatabase
from tests.support.acme_client import JOSE_JSON, AcmeClient
from tests.support.postgres import make_database, require_programs, shared_server
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def on_postgres() -> AsyncIterator[AcmeClient]:
    require_programs()
    server = shared_server()
    async with running_ca(storage={"url": server.url(await make_database(server))}) as ca:
        yield await ca.client()


SECRET = "the secret of the store"


@pytest.mark.parametrize("error", [RuntimeError(SECRET), KeyError(SECRET), RecursionError(SECRET)])
async def test_the_unforeseen(
    client: AcmeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Rule 1 of web/middleware.py: "What nobody foresaw becomes `serverInternal` without detail and is logged whole"."""

    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Orders, "create", fail)
    answer = (await client.order_answer("a.localhost")).refused("serverInternal", 500)
    assert SECRET not in str(answer)
    assert SECRET in caplog.text
    assert answer.nonce is not None
    monkeypatch.undo()
    (await client.order_answer("a.localhost")).ok(201)


@pytest.mark.parametrize(
    "url", ["{orders}?cursor=1-%00", "{kid}%00", "{order}%00", "{authz}a%00", "{order}%00/finalize", "{cert}%00"]
)
async def test_a_nul_in_a_path(url: str, on_postgres: AcmeClient) -> None:
    """RULES §1, step 8: "No input of any shape gives a 500": PostgreSQL has no text with a NUL, and fails to look for it."""
    client = on_postgres
    base = client.account_url.partition("/account/")[0]
    places = {"order": f"{base}/order/x", "authz": f"{base}/authorization/x", "cert": f"{base}/certificate/x"}
    target = url.format(kid=client.account_url, orders=f"{client.account_url}/orders", **places)
    payload = {"csr": "AAAA"} if target.endswith("finalize") else b""
    answer = await client.send(URL(target, encoded=True), await client.sign(unquote(target), payload))
    assert answer.status < 500, answer


async def test_a_nul_in_a_kid(on_postgres: AcmeClient) -> None:
    """Whoever has no account must not make the store fail either."""
    for kid in (f"{on_postgres.account_url}\0", f"{on_postgres.account_url.rpartition('/')[0]}/\0"):
        (await on_postgres.post(on_postgres.account_url, kid=kid)).refused("accountDoesNotExist", 400)


async def test_a_store_that_fails(client: AcmeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk passes: 503, and when to come again."""

    async def fail(*_: object, **__: object) -> None:
        raise StorageError(SECRET)

    monkeypatch.setattr(Orders, "create", fail)
    answer = (await client.order_answer("a.localhost")).refused("serverInternal", 503)
    assert SECRET not in str(answer)
    assert int(answer.headers["Retry-After"]) > 0


async def test_busy(client: AcmeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has too much to do says when to come again, in whole seconds (CLIENTS 3)."""

    async def busy(*_: object) -> None:
        raise Busy("2000 writes wait for the disk already; try again in a moment")

    monkeypatch.setattr(SqliteDatabase, "write", busy)
    answer = (await client.order_answer("a.localhost")).refused("serverInternal", 503)
    assert answer.headers["Retry-After"] == "5"
    assert "try again" in answer.detail


async def test_the_status_listener_fails_without_a_word(
    ca: RunningCa, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Status, "crl", fail)
    answer = await ca.relying_party().fetch(ca.issuer.crl_url)
    assert answer.status == 500
    assert SECRET.encode() not in answer.body
    assert SECRET in caplog.text


async def test_no_version(ca: RunningCa, client: AcmeClient) -> None:
    """RULES §6: "parser errors leak no version"; nor does anything else."""
    party = ca.relying_party()
    answers = [
        await client.get(ca.directory_url),
        await client.get(ca.urls.base + "/nowhere"),
        await client.post(client.account_url),
        await client.get(client.account_url),
        await party.fetch(ca.issuer.crl_url),
        await party.fetch(ca.urls.status + "/nowhere"),
        await party.fetch(ca.urls.status + "/health/live"),
        await party.fetch(ca.issuer.crl_url, method="DELETE"),
    ]
    assert {answer.headers["Server"] for answer in answers} == {"acmeca"}
    for answer in answers:
        text = str(dict(answer.headers)).lower()
        assert "aiohttp" not in text
        assert "python" not in text


async def test_the_log_is_one_line_each(ca: RunningCa, client: AcmeClient, caplog: pytest.LogCaptureFixture) -> None:
    """RULES §3: "What a peer sent us … enters a problem or a log only escaped": nobody writes lines into our log."""
    caplog.set_level(logging.DEBUG, logger="acmeca")
    for path in ("/acme/order/x%0AERROR%20forged", "/acme/account/x%0D%0AERROR%20forged/orders"):
        await ca.raw(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {JOSE_JSON}\r\n"
            "Content-Length: 2\r\n\r\n{}".encode()
        )
    await client.order_answer("a.localhost\nERROR forged")
    await client.post(client.account_url, {"contact": ["mailto:a\nERROR forged"]})
    await client.post(client.account_url, header={"url": "x\r\nERROR forged"})
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("acmeca")]
    assert len(messages) >= 5
    assert not [message for message in messages if "\n" in message or "\r" in message]


async def test_links_each_in_a_line(ca: RunningCa, client: AcmeClient) -> None:
    """CLIENTS 8: dehydrated and acme.sh read line by line."""
    order = await client.new_order("a.localhost")
    challenge = await client.challenge(order.authorizations[0])
    body = await client.sign(challenge["url"])
    path = challenge["url"].removeprefix(ca.urls.base)
    raw = await ca.raw(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {JOSE_JSON}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    lines = [line for line in raw.partition(b"\r\n\r\n")[0].split(b"\r\n") if line.startswith(b"Link: ")]
    assert sorted(lines) == sorted(
        [
            f'Link: <{order.authorizations[0]}>;rel="up"'.encode(),
            f'Link: <{ca.directory_url}>;rel="index"'.encode(),
        ]
    )


async def test_no_post_is_cached(client: AcmeClient) -> None:
    """An answer with a nonce in it is for one client and one time."""
    for answer in (await client.post(client.account_url), await client.order_answer("evil.example")):
        assert answer.headers["Cache-Control"] == "no-store"


async def test_json_is_flat(client: AcmeClient) -> None:
    """CLIENTS 22: no `\\/` escapes; and no white space that a grep would trip over."""
    order = await client.new_order("a.localhost")
    for url in (order.url, order.authorizations[0], client.account_url):
        body = (await client.post(url)).body
        assert b"\\/" not in body
        assert b"\n" not in body
        assert json.dumps(json.loads(body), separators=(",", ":")).encode() == body
