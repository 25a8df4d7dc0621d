"""The ACME listener under attack and under races: bodies of every framing, two thousand malformed envelopes, replayed nonces."""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from acmeca.storage.nonce_file import FileNonces
from acmeca.web import acme
from tests.support.acme_client import JOSE_JSON, AcmeClient
from tests.support.jose import encode
from tests.support.malformed import malformed_requests
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


class TestBodies:
    async def test_chunked(self, client: AcmeClient) -> None:
        """CLIENTS 21: HAProxy's client sends no Content-Length."""
        body = await client.sign(client.account_url)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 50):
                yield body[start : start + 50]

        (await client.send(client.account_url, pieces())).ok()

    @pytest.mark.parametrize("chunked", [True, False])
    async def test_64_kibibytes_and_one(self, client: AcmeClient, *, chunked: bool) -> None:
        """RULES §1, step 1: "Body: at most 64 KiB": one octet more is refused, in whatever framing."""
        url = client.directory["newOrder"]
        for length, status in ((64 * 1024, 400), (64 * 1024 + 1, 413), (900_000, 413)):
            body = await client.sign(url, {"identifiers": []}, members={"extra": ""})
            body = body[:-2] + b"x" * (length - len(body)) + b'"}'
            assert len(body) == length

            async def whole(body: bytes = body) -> AsyncIterator[bytes]:
                yield body

            answer = await client.send(url, whole() if chunked else body)
            answer.refused("malformed", status)
            assert answer.nonce is not None

    async def test_what_is_too_large_is_not_waited_for(self, ca: RunningCa) -> None:
        """A client that announces a gigabyte is answered after 64 KiB."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", ca.acme_port, ssl=ca.tls(check_time=False), server_hostname=ca.hostname
        )
        try:
            writer.write(
                f"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Type: {JOSE_JSON}\r\n"
                "Content-Length: 1000000000\r\n\r\n".encode()
                + b"x" * 70_000
            )
            async with asyncio.timeout(10):
                assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        finally:
            writer.transport.abort()

    async def test_no_body(self, ca: RunningCa, client: AcmeClient) -> None:
        (await client.send(client.account_url, b"")).refused("malformed", 400)
        raw = await ca.raw(
            f"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Type: {JOSE_JSON}\r\nConnection: close\r\n\r\n".encode()
        )
        assert raw.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in raw

    async def test_a_body_that_does_not_come(
        self, ca: RunningCa, client: AcmeClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A client that sends its body drop by drop is answered 408, and its connection is free again."""
        monkeypatch.setattr(acme, "_BODY_SECONDS", 0.05)
        held = asyncio.Event()

        async def drops() -> AsyncIterator[bytes]:
            yield b"{"
            await held.wait()

        sending = asyncio.create_task(client.send(client.account_url, drops()))
        done, _ = await asyncio.wait([sending], timeout=10)
        assert done
        (await sending).refused("malformed", 408)
        held.set()

    async def test_expect_continue(self, ca: RunningCa, client: AcmeClient) -> None:
        """RFC 9110 §10.1.1: curl asks before it sends more than a kilobyte."""
        body = await client.sign(client.account_url)
        path = client.account_url.removeprefix(ca.urls.base)
        raw = await ca.raw(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {JOSE_JSON}\r\nContent-Length: {len(body)}\r\n"
            "Expect: 100-continue\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in raw

    async def test_two_content_types(self, ca: RunningCa, client: AcmeClient) -> None:
        """A second Content-Type does not hide the first."""
        body = await client.sign(client.account_url)
        path = client.account_url.removeprefix(ca.urls.base)
        for types in (["text/plain", JOSE_JSON], [f"{JOSE_JSON}, text/plain"]):
            lines = "".join(f"Content-Type: {type_}\r\n" for type_ in types)
            raw = await ca.raw(
                f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            assert raw.split(b" ")[1] in {b"400", b"415"}

    async def test_smuggling(self, ca: RunningCa, client: AcmeClient) -> None:
        """RFC 9112 §6.3: Content-Length with Transfer-Encoding, or two of either, is refused and the connection closed."""
        for framing in (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 0x5\r\n",
            "Transfer-Encoding : chunked\r\n",
        ):
            head = f"POST /acme/new-order HTTP/1.1\r\nHost: x\r\nContent-Type: {JOSE_JSON}\r\n{framing}\r\n"
            raw = await ca.raw(head.encode() + b"0\r\n\r\nGET /acme/directory HTTP/1.1\r\nHost: x\r\n\r\n", eof=True)
            assert raw.split(b" ")[1] == b"400", framing
            assert raw.count(b"HTTP/1.") == 1, framing


class TestRaces:
    async def test_one_nonce_fifty_times(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §1, step 7: a nonce is redeemed once "under 50 parallel replays"."""
        for _ in range(3):
            nonce = await client.new_nonce()
            before = await ca.scalar("SELECT COUNT(*) AS n FROM orders")
            url = client.directory["newOrder"]
            payload = {"identifiers": [{"type": "dns", "value": "nonce.localhost"}]}
            answers = await asyncio.gather(*(client.post(url, payload, nonce=nonce) for _ in range(50)))
            assert Counter(answer.status for answer in answers) == {201: 1, 400: 49}
            assert Counter(answer.problem for answer in answers if answer.status == 400) == {"badNonce": 49}
            assert len({answer.nonce for answer in answers}) == 50
            assert await ca.scalar("SELECT COUNT(*) AS n FROM orders") == before + 1

    async def test_one_body_fifty_times(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.5: "the … nonce … protects from replay": the very same bytes work once."""
        body = await client.sign(
            client.directory["newOrder"], {"identifiers": [{"type": "dns", "value": "b.localhost"}]}
        )
        answers = await asyncio.gather(*(client.send(client.directory["newOrder"], body) for _ in range(50)))
        assert Counter(answer.status for answer in answers) == {201: 1, 400: 49}

    async def test_nonces_of_many_clients(self, ca: RunningCa) -> None:
        """A good nonce is never refused (CLIENTS 10), whoever got it and in whatever order they come."""
        clients = [await ca.client() for _ in range(8)]
        nonces = [await clients[0].new_nonce() for _ in range(80)]
        nonces.reverse()
        answers = await asyncio.gather(
            *(clients[i % 8].post(clients[i % 8].account_url, nonce=nonce) for i, nonce in enumerate(nonces))
        )
        assert {answer.status for answer in answers} == {200}

    async def test_a_nonce_of_another_server(self, client: AcmeClient, tmp_path: Path) -> None:
        """The key of the nonces is the server's own: what another one minted is nobody's here, and not a failure."""
        stranger = FileNonces.open(tmp_path / "nonces", entropy=os.urandom)
        for _ in range(3):
            (await client.post(client.account_url, nonce=await stranger.mint())).refused("badNonce", 400)
        stranger.close()


class TestMalformed:
    async def test_two_thousand_envelopes(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §1, step 8: "No input of any shape gives a 500, takes over 50 ms, or changes state before the signature is
        verified." Each is answered with a problem and a fresh nonce.
        """
        url = client.directory["newOrder"]
        before = await ca.counts()
        nonces = iter([await ca.services.nonces.mint() for _ in range(2000)])
        bodies = list(
            malformed_requests(
                8555,
                2000,
                url=url,
                nonce_source=nonces.__next__,
                key=client.key,
                kid=client.account_url,
            )
        )
        slowest = 0.0
        for what, body in bodies:
            started = time.process_time()
            answer = await client.send(url, body)
            slowest = max(slowest, time.process_time() - started)
            assert 400 <= answer.status < 500, (what, body, answer)
            assert answer.problem is not None, (what, answer)
            assert answer.nonce is not None, (what, answer)
            assert answer.links("index") == [ca.directory_url]
        client._nonces.clear()
        assert await ca.counts() == before
        assert slowest < 0.5, "with the client's own share, and on a busy machine"
        (await client.post(client.account_url)).ok()

    async def test_payloads_that_are_not_what_they_should_be(self, ca: RunningCa, client: AcmeClient) -> None:
        """Well signed and senseless: nothing a valid account sends makes a 5xx."""
        order = await client.ready_order("p.localhost")
        urls = [
            client.directory["newOrder"],
            client.directory["revokeCert"],
            client.account_url,
            order.finalize,
            order.authorizations[0],
            order.url,
        ]
        junk: list[object] = [
            None, True, 0, -1, 1.5, 1e300, "", "x", "\u0000", "\U0001f600", [], [[]], {}, {"a": {}}, "A" * 40_000,
            [{}] * 100, {"type": "dns", "value": {}}, 10**400,
        ]  # fmt: skip
        names = ["identifiers", "csr", "certificate", "reason", "contact", "status", "notBefore", "orders"]
        before = await ca.scalar("SELECT COUNT(*) AS n FROM orders")
        for url in urls:
            for name in names:
                for value in junk:
                    answer = await client.post(url, json.dumps({name: value}).encode())
                    assert answer.status < 500, (url, name, value, answer)
        assert await ca.scalar("SELECT COUNT(*) AS n FROM orders") == before
        assert (await client.order(order.url)).status == "ready"

    @pytest.mark.parametrize("count", [1, 100])
    async def test_csrs_that_are_junk(self, client: AcmeClient, count: int) -> None:
        order = await client.ready_order("j.localhost")
        good = order.csr()
        source = random.Random(count)
        for _ in range(count):
            body = bytearray(good)
            for _ in range(source.randrange(1, 4)):
                body[source.randrange(len(body))] = source.randrange(256)
            if bytes(body) == good:
                continue
            answer = await client.post(order.finalize, {"csr": encode(bytes(body[: source.randrange(len(body))]))})
            assert answer.status == 400, answer

    async def test_paths(self, ca: RunningCa, client: AcmeClient) -> None:
        """Ids of every shape: what is not there is 404, whatever characters it has."""
        for text in (
            "%00",
            "%0a",
            "%2e%2e",
            "..%2f",
            "a%20b",
            "%ff",
            "'",
            '"',
            "%27;--",
            "~",
            "-" * 300,
            "%F0%9F%98%80",
        ):
            for path in ("order/{}", "order/{}/finalize", "authorization/{}", "certificate/{}", "account/{}/orders"):
                raw = await ca.raw(
                    f"POST /acme/{path.format(text)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                    f"Content-Type: {JOSE_JSON}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
                )
                assert raw.split(b" ")[1] in {b"400", b"404"}, (path, text, raw)
                assert b"application/problem+json" in raw
