"""One connection: framing that cannot be trusted, input that nobody asked for, peers that do not read."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import pytest
from aiohttp import web

from acmeca.web import connection
from acmeca.web.connection import Patience
from acmeca.web.listener import Listener
from tests.support.server import RunningCa, reserved_port, running_ca, until

BIG: Final = 16 * 1024 * 1024  # more than the kernel keeps for a peer that does not read


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@contextlib.asynccontextmanager
async def listening(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    *,
    patience: Patience | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[Listener, int]]:
    """A listener and its port, with one handler for every path and method."""
    app = web.Application()
    app.router.add_route("*", "/", handler)
    with reserved_port() as port:
        served = Listener(app, host="127.0.0.1", port=port, tls=tls, patience=patience or Patience())
        await served.start()
        try:
            yield served, port
        finally:
            await served.stop()


async def exchange(port: int, *pieces: bytes) -> bytes:
    """All that is answered, until the listener closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        async with asyncio.timeout(15):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def statuses(answer: bytes) -> list[int]:
    """The status of each response in it."""
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)]


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=b"[" + await request.read() + b"]")


async def big(_: web.Request) -> web.Response:
    return web.Response(body=bytes(BIG))


def deaf_client(port: int) -> socket.socket:
    """A connection whose kernel keeps little and that reads nothing by itself."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    return client


class TestFraming:
    CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"
    NEXT = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

    @pytest.mark.parametrize("coding", ["chunked", "Chunked", " chunked "])
    async def test_chunked(self, coding: str) -> None:
        async with listening(echo) as (_, port):
            head = f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding:{coding}\r\n\r\n".encode()
            answer = await exchange(port, head + self.CHUNKS)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"[abc]")

    @pytest.mark.parametrize(
        "fields",
        [
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity, chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked;x=y\r\n",
            "Transfer-Encoding: gzip\r\n",
            "transfer-encoding: \tdeflate ,chunked\r\n",
        ],
    )
    async def test_codings_that_are_not_undone(self, fields: str) -> None:
        """RFC 9112 §6.1: "A server that receives a request message with a transfer coding it does not understand SHOULD respond
        with 501 (Not Implemented)"; the parser's own 400 says the same. What follows on the connection is not believed.
        """
        async with listening(echo) as (_, port):
            head = f"POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode()
            answer = await exchange(port, head + self.CHUNKS + self.NEXT)
            assert statuses(answer) in ([501], [400])
            assert b"\r\nServer: acmeca\r\n" in answer
            assert b"gzip" not in answer

    async def test_the_status_of_an_unknown_coding(self) -> None:
        async with listening(echo) as (_, port):
            head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
            assert (await exchange(port, head + self.CHUNKS)).startswith(b"HTTP/1.1 501 ")

    async def test_chunks_in_http_1_0(self) -> None:
        """RFC 9112 §6.1: "A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header field MUST
        treat the message as if the framing is faulty … and close the connection after processing the message."
        """
        async with listening(echo) as (_, port):
            head = b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
            answer = await exchange(port, head + self.CHUNKS + self.NEXT)
            assert statuses(answer) == [400]

    async def test_100_continue(self) -> None:
        """RFC 9110 §10.1.1: the client waits for 100 before it sends its body."""
        async with listening(echo) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"ok")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            assert await reader.readuntil(b"[ok]")
            writer.close()

    @pytest.mark.parametrize("fields", ["Expect: <b>me</b>", "Expect: 100-continue\r\nExpect: <b>me</b>"])
    async def test_another_expectation(self, fields: str) -> None:
        """RFC 9110 §10.1.1: it "MAY respond with a 417"; never with the client's own words."""
        async with listening(echo) as (_, port):
            answer = await exchange(port, f"GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n".encode() + self.NEXT)
            assert statuses(answer) == [417]
            assert b"<b>" not in answer

    @pytest.mark.parametrize(("field", "status"), [("Expect: <b>", 417), ("Transfer-Encoding: gzip, chunked", 501)])
    async def test_each_listener_in_its_own_form(self, ca: RunningCa, field: str, status: int) -> None:
        """RFC 8555 §6.7: errors of the ACME server are problem documents; those of the status listener are plain text."""
        request = f"POST /acme/new-order HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode()
        if "chunked" in field:
            request += b"0\r\n\r\n"
        acme, plain = await ca.raw(request), await ca.raw(request, status=True)
        for answer in (acme, plain):
            assert statuses(answer) == [status]
            assert b"<b>" not in answer
        assert b"\r\nContent-Type: application/problem+json\r\n" in acme
        assert b'"type":"urn:ietf:params:acme:error:malformed"' in acme
        assert b"\r\nContent-Type: text/plain" in plain


class TestAhead:
    FIELD = b"A: " + b"x" * 8_000 + b"\r\n"

    @pytest.mark.parametrize("end", ["", "\r\n"])
    async def test_an_endless_header(self, end: str) -> None:
        """A header is limited as a whole, not only its fields one by one."""
        async with listening(echo) as (served, port):
            sent = b"GET / HTTP/1.1\r\nHost: x\r\n" + self.FIELD * 20 + end.encode()
            assert await exchange(port, sent) == b""
            await until(lambda: not served._connections, what="the end of the connection")

    async def test_a_long_header_in_one_piece(self) -> None:
        """The same header, if the kernel hands it over whole."""
        async with listening(echo) as (served, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            (connected,) = await until(lambda: served._connections, what="the connection")
            await until(lambda: connected._waiter, what="the wait for a request")
            connected.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n" + self.FIELD * 9 + b"\r\n")
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()

    @pytest.mark.parametrize(("fields", "status"), [(62, 200), (65, 400)])
    async def test_many_fields(self, fields: int, status: int) -> None:
        async with listening(echo) as (_, port):
            sent = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + b"A: b\r\n" * fields + b"\r\n"
            assert statuses(await exchange(port, sent)) == [status]

    async def test_headers_in_pieces(self) -> None:
        """What is counted of one request is not held against the next."""
        async with listening(echo) as (served, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            (connected,) = await until(lambda: served._connections, what="the connection")
            for number in range(8):
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + self.FIELD)
                await until(lambda n=number: connected._handled == n and connected._ahead > 0, what="the first piece")
                assert connected._ahead < 9_000
                writer.write(b"\r\n")
                assert statuses(await reader.readuntil(b"[]")) == [200]
            writer.close()

    async def test_the_largest_request(self) -> None:
        """RULES §1: a body may have 64 KiB; a header beside it a few. The first on its connection and later ones."""
        async with listening(echo) as (_, port):
            body = b"b" * 65_536
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(4):
                writer.write(
                    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n" + self.FIELD * 4 + b"\r\n" + body
                )
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                await reader.readuntil(b"[")
                assert await reader.readexactly(65_537) == body + b"]"
            writer.close()

    async def test_a_body_that_is_too_large(self) -> None:
        """RULES §1: 413, however much of it comes with its header; to close instead would leave the client without a reason."""

        async def read(request: web.Request) -> web.Response:
            await request.read()
            raise AssertionError

        app = web.Application(client_max_size=65_536)
        app.router.add_post("/", read)
        with reserved_port() as port:
            served = Listener(app, host="127.0.0.1", port=port)
            await served.start()
            request = (
                b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 900000\r\n\r\n" + b"b" * 900_000
            )
            assert statuses(await exchange(port, request)) == [413]
            await served.stop()

    async def test_requests_behind_one_that_takes_long(self) -> None:
        """They are queued by number; their size is ours to limit."""
        gate = asyncio.Event()

        async def wait(_: web.Request) -> web.Response:
            await gate.wait()
            return web.Response()

        async with listening(wait, patience=Patience(stopping=0.05)) as (served, port):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                (connected,) = await until(lambda: served._connections, what="the connection")
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: connected._current_request, what="the first request")
                for _ in range(9):  # whole requests, each in one piece
                    connected.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n" + self.FIELD + b"\r\n")
                async with asyncio.timeout(10):
                    assert await reader.read() == b""
                writer.close()
            finally:
                gate.set()

    async def test_many_small_requests(self) -> None:
        """What was handled does not count any more: a connection may carry any number of requests."""
        async with listening(echo) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(10):
                writer.write((b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 4_000 + b"\r\n\r\n") * 10)
                for _ in range(10):
                    assert statuses(await reader.readuntil(b"[]")) == [200]
            writer.close()


class TestReading:
    @pytest.mark.parametrize("tls", [True, False])
    async def test_a_peer_that_does_not_read(self, ca: RunningCa, *, tls: bool) -> None:
        """Rule 2: not by not reading. The response waits for its reader for a while, then the connection ends."""
        patience = Patience(reading=0.1, idle=0.1, closing=0.1)
        async with listening(big, patience=patience, tls=ca.opened.tls if tls else None) as (served, port):
            with deaf_client(port) as client:
                asking = asyncio.get_running_loop().run_in_executor(None, _ask, client, tls)
                peer = await asking
                await until(lambda: served._connections, what="the connection")
                await until(lambda: not served._connections, what="the end of the connection")
                peer.close()

    async def test_a_peer_that_reads_slowly(self) -> None:
        """A long CRL over a thin line takes its time."""
        async with listening(big, patience=Patience(reading=0.4)) as (_, port):
            with deaf_client(port) as client:
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                started, received = loop.time(), 0
                while got := await loop.sock_recv(client, 65_536):
                    received += len(got)
                    if loop.time() - started < 1.0:
                        await asyncio.sleep(0.005)
                assert received > BIG
                assert loop.time() - started > 0.8  # twice what a peer without progress has

    async def test_a_connection_that_is_not_let_end(self) -> None:
        """Rule 2: not by not letting it end. Little is left, so that nobody waits for the reader but the transport."""

        async def almost(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            transport = request.transport
            assert transport is not None
            while not transport.get_write_buffer_size():
                await response.write(bytes(16_384))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            return response

        async with listening(almost, patience=Patience(closing=0.1)) as (served, port):
            with deaf_client(port) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                await until(lambda: served._connections, what="the connection")
                await until(lambda: not served._connections, what="the end of the connection")

    async def test_a_stop_does_not_wait_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A peer that does not read has no say in how long a stop takes."""
        monkeypatch.setattr(connection, "_MOMENT", 0.05)
        patience = Patience(stopping=60, cancelling=30)
        async with listening(big, patience=patience) as (served, port):
            with deaf_client(port) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: any(c.is_stalled for c in served._connections), what="the stall")
                async with asyncio.timeout(10):
                    await served.stop()
                await until(lambda: not served._connections, what="the end of the connection")


def _ask(client: socket.socket, tls: bool) -> socket.socket:  # noqa: FBT001
    """Sends a request and reads nothing of the answer; returns the socket to keep."""
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        client = context.wrap_socket(client)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    return client
