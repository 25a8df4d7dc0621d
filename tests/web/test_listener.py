"""Sockets: garbage on them, silence on them, addresses that cannot be had, and an orderly end."""

import asyncio
import random
import resource
import socket
import ssl
import stat
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from acmeca import app
from acmeca.web import listener
from acmeca.web.connection import Patience
from acmeca.web.control import SOCKET_NAME
from acmeca.web.listener import Listener, ListenerError, bind_address
from tests.support.http_peer import has_ipv6_loopback
from tests.support.server import RunningCa, reserved_port, running_ca, temporary_directory, until


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello\n")


def hello_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    return app


async def closes(reader: asyncio.StreamReader) -> bool:
    """Whether the peer closes without a word."""
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def is_answered(reader: asyncio.StreamReader) -> bool:
    try:
        return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


async def said(port: int, data: bytes, *, eof: bool = False) -> bytes:
    """What is answered to plain bytes until the listener closes, or at once when `eof` ends our half."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        if eof:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await (reader.readline() if eof else reader.read())
    except OSError:  # it was closed before we were done
        return b""
    finally:
        writer.close()


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class TestGarbage:
    @pytest.mark.parametrize("status", [True, False])
    async def test_bytes_of_every_kind(self, ca: RunningCa, *, status: bool) -> None:
        """RULES §6: "parser errors leak no version": a bare 400 or nothing, the connection closed, and the server lives."""
        source = random.Random(9112)
        request = b"GET /acme/directory HTTP/1.1\r\nHost: x\r\n\r\n"
        pieces = [
            b"\0" * 100,
            b"\r\n" * 10 + b"\xff",
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 20_000 + b"\r\n\r\n",
            b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000 + b"\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
            *(source.randbytes(source.randrange(1, 400)) + b"\r\n\r\n" for _ in range(30)),
        ]
        for _ in range(30):
            broken = bytearray(request)
            broken[source.randrange(len(request) - 4)] = source.randrange(256)
            pieces.append(bytes(broken))
        last = b"\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"  # should the piece be readable
        for piece in pieces:
            answer = await ca.raw(piece + last, status=status)
            assert answer == b"" or answer.startswith(b"HTTP/"), piece
            head = answer.partition(b"\r\n\r\n")[0].lower()
            assert b"aiohttp" not in head
            assert b"python" not in head
            if answer:
                assert answer.split(b" ")[1] in {b"200", b"400", b"404", b"405", b"204"}, (piece, answer)
        await (await ca.client()).issue("a.localhost")

    async def test_an_unreadable_request_is_not_repeated(self, ca: RunningCa) -> None:
        """What the parser says of a request quotes it; the peer does not get to see that."""
        answer = await ca.raw(b"GET / HTTP/1.1\r\nbad<script>: \x01\r\n\r\n", status=True)
        assert answer.split(b" ")[1] == b"400"
        assert b"script" not in answer
        assert b"Server: acmeca\r\n" in answer

    async def test_plain_http_on_the_tls_port(self, ca: RunningCa) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", ca.acme_port)
        writer.write(b"GET /acme/directory HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            async with asyncio.timeout(10):
                assert b"HTTP/1.1 200" not in await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
    async def test_old_tls(self, ca: RunningCa, version: ssl.TLSVersion) -> None:
        """RULES §6 and BCP 195 (RFC 9325 §3.1.1): TLS 1.2 or later."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of these versions, which is why they are asked for
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", ca.acme_port, ssl=context)

    async def test_many_requests_on_a_connection(self, ca: RunningCa) -> None:
        """Pipelined requests are answered in turn."""
        request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await ca.raw(request * 20 + last, status=True)
        assert answer.count(b"HTTP/1.1 200 OK") == 21


class TestSilence:
    async def test_a_silent_connection_is_closed(self) -> None:
        """RULES §5: "Silent connections do not use up a worker"."""
        with reserved_port() as port:
            served = Listener(hello_app(), host="127.0.0.1", port=port, patience=Patience(first_request=0.05))
            await served.start()
            try:
                for sent in (b"", b"GET / HT"):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(sent)
                    async with asyncio.timeout(10):
                        assert await reader.read() == b""
                    writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                writer.close()
            finally:
                await served.stop()

    async def test_a_silent_handshake_is_closed(self, ca: RunningCa) -> None:
        with reserved_port() as port:
            patience = Patience(first_request=0.05)
            served = Listener(hello_app(), host="127.0.0.1", port=port, tls=ca.opened.tls, patience=patience)
            await served.start()
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                async with asyncio.timeout(10):
                    assert await reader.read() == b""
                writer.close()
            finally:
                await served.stop()

    async def test_silent_connections_hold_up_nobody(self, ca: RunningCa) -> None:
        """A hundred peers that say nothing, and everybody else is served."""
        silent = [await asyncio.open_connection("127.0.0.1", ca.status_port) for _ in range(100)]
        try:
            assert (await ca.relying_party().fetch(ca.issuer.crl_url)).status == 200
        finally:
            for _, writer in silent:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for _, writer in silent))


class TestConnections:
    """Rule 1: a listener takes a number of connections and turns the others away at once, before any handshake."""

    REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    @pytest.mark.parametrize("tls", [True, False])
    async def test_one_too_many(self, ca: RunningCa, *, tls: bool) -> None:
        with reserved_port() as port:
            served = Listener(
                hello_app(), host="127.0.0.1", port=port, tls=ca.opened.tls if tls else None, max_connections=3
            )
            await served.start()
            context = ca.tls(check_time=False) if tls else None

            async def is_served() -> bool:
                try:
                    _, writer = await asyncio.open_connection(
                        "127.0.0.1", port, ssl=context, server_hostname="localhost" if tls else None
                    )
                except OSError:  # turned away during our handshake
                    return False
                peers.append(writer)
                writer.write(self.REQUEST)
                return await is_answered(_)

            peers: list[asyncio.StreamWriter] = []
            try:
                assert [await is_served() for _ in range(5)] == [True, True, True, False, False]
                peers.pop(0).close()
                await until(is_served, what="a place")
            finally:
                for writer in peers:
                    writer.close()
                await served.stop()

    async def test_handshakes_are_counted(self, ca: RunningCa) -> None:
        """A peer that never speaks takes a place, for as long as the handshake may take; one that fails gives it back."""
        with reserved_port() as port:
            served = Listener(
                hello_app(),
                host="127.0.0.1",
                port=port,
                tls=ca.opened.tls,
                max_connections=2,
                patience=Patience(first_request=0.3),
            )
            await served.start()
            try:
                silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
                await until(lambda: len(served._connections) == 2, what="the silent connections")
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                async with asyncio.timeout(10):
                    assert await closes(reader)
                assert len(served._connections) == 2
                await until(lambda: not served._connections, what="the end of the silent connections")
                for _, other in (*silent, (reader, writer)):
                    other.close()
                for _ in range(5):
                    assert b"HTTP" not in await said(port, b"GET / HTTP/1.1\r\n\r\n")  # no TLS
                await until(lambda: not served._connections, what="the end of the failed handshakes")
            finally:
                await served.stop()

    @pytest.mark.parametrize("tls", [True, False])
    async def test_no_descriptor_is_lost(self, ca: RunningCa, *, tls: bool) -> None:
        with reserved_port() as port:
            served = Listener(
                hello_app(), host="127.0.0.1", port=port, tls=ca.opened.tls if tls else None, max_connections=2
            )
            await served.start()
            before = descriptors()
            for _ in range(3):
                await asyncio.gather(*(said(port, self.REQUEST + b"\r\n", eof=True) for _ in range(6)))
            await until(lambda: not served._connections and descriptors() <= before, what="the descriptors")
            await served.stop()

    async def test_what_is_logged(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        """At once that it happens; then once a minute, or at the end, how often it did."""
        with reserved_port() as port:
            served = Listener(hello_app(), host="127.0.0.1", port=port, max_connections=0)

            def lines() -> list[str]:
                return [record.message for record in caplog.records if record.name == listener.__name__]

            text = f"a connection to 127.0.0.1:{port} was turned away: 0 are open, the most it takes"
            await served.start()
            await said(port, self.REQUEST)
            assert lines() == [f"{text} (1 times)"]
            for _ in range(4):
                await said(port, self.REQUEST)
            assert len(lines()) == 1
            served._turned_away._report()  # the minute is over
            assert lines()[1:] == [f"{text} (4 times)"]
            served._turned_away._report()
            assert len(lines()) == 2
            for _ in range(3):
                await said(port, self.REQUEST)
            await served.stop()
            assert lines()[2:] == [f"{text} (1 times)", f"{text} (2 times)"]

    @pytest.mark.parametrize("tls", [True, False])
    async def test_no_descriptors_for_a_while(self, ca: RunningCa, *, tls: bool) -> None:
        """Who comes then is served when there are some again, or may come again."""
        context = ca.tls(check_time=False) if tls else None
        loop = asyncio.get_running_loop()
        with reserved_port() as port, socket.socket() as client:
            client.setblocking(False)
            served = Listener(hello_app(), host="127.0.0.1", port=port, tls=ca.opened.tls if tls else None)
            await served.start()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
                await loop.sock_connect(client, ("127.0.0.1", port))
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not served._connections
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context, server_hostname="localhost" if tls else None
                )
                writer.write(self.REQUEST)
                async with asyncio.timeout(10):
                    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                writer.close()
                await until(lambda: len(served._connections) == 1, what="the connection that waited")
            finally:
                await served.stop()

    async def test_one_listener_leaves_the_others_theirs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever is opened on the ACME listener, OCSP and the command line have their share."""
        monkeypatch.setattr(app.listeners, "raise_descriptor_limit", lambda: 160)
        async with running_ca() as ca:
            opened = [await asyncio.open_connection("127.0.0.1", ca.acme_port) for _ in range(60)]
            turned_away = 0
            async with asyncio.timeout(10):
                for reader, _ in opened[32:]:
                    turned_away += await closes(reader)
            assert turned_away == 28
            assert (await ca.relying_party().fetch(ca.issuer.crl_url)).status == 200
            _, writer = await asyncio.open_unix_connection(ca.data_dir / SOCKET_NAME)
            writer.close()
            with pytest.raises(OSError):
                await ca.served_certificate()
            for _, writer in opened:
                writer.close()

            async def is_served_again() -> bool:
                try:
                    return bool(await ca.served_certificate())
                except OSError:
                    return False

            await until(is_served_again, what="a place")


class TestAddresses:
    async def test_in_use(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            served = Listener(hello_app(), host="127.0.0.1", port=port)
            with pytest.raises(ListenerError, match=f"127.0.0.1:{port} cannot be bound"):
                await served.start()
            await served.stop()

    async def test_not_ours(self) -> None:
        for host in ("192.0.2.1", "no-such-host.invalid"):
            served = Listener(hello_app(), host=host, port=1)
            with pytest.raises(ListenerError):
                await served.start()
            await served.stop()

    @pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no ::1")
    async def test_localhost_has_two_addresses(self) -> None:
        with reserved_port() as port:
            served = Listener(hello_app(), host="localhost", port=port)
            await served.start()
            try:
                endpoints = set(served.endpoints)
                assert ("127.0.0.1", port) in endpoints
                for address, _ in endpoints:
                    _, writer = await asyncio.open_connection(address, port)
                    writer.close()
            finally:
                await served.stop()
            assert list(served.endpoints) == []

    async def test_a_unix_socket(self) -> None:
        """RULES §6: the admin socket is for its owner: mode 0600 "from its first moment on"."""
        with temporary_directory() as directory:
            path = directory / "admin.sock"
            path.write_text("left over")
            served = Listener(hello_app(), host="", port=0)
            await served.start_on_socket(path)
            try:
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert list(served.endpoints) == []
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
                writer.close()
                await writer.wait_closed()
            finally:
                await served.stop()

    async def test_a_unix_socket_that_cannot_be(self) -> None:
        served = Listener(hello_app(), host="", port=0)
        with pytest.raises(ListenerError, match="cannot be made"):
            await served.start_on_socket(Path("/nowhere/at/all.sock"))
        await served.stop()


class TestStop:
    async def test_idle_connections_are_closed(self) -> None:
        with reserved_port() as port:
            served = Listener(hello_app(), host="127.0.0.1", port=port)
            await served.start()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"hello\n")
            async with asyncio.timeout(5):
                await served.stop()
            assert await reader.read() == b""
            writer.close()

    async def test_a_request_that_never_ends_is_cancelled(self) -> None:
        """A stop is bounded: systemd waits ninety seconds, people less."""
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def forever(_: web.Request) -> web.Response:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

        app = web.Application()
        app.router.add_get("/", forever)
        with reserved_port() as port:
            patience = Patience(stopping=0.05, cancelling=0.05)
            served = Listener(app, host="127.0.0.1", port=port, patience=patience)
            await served.start()
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await begun.wait()
            async with asyncio.timeout(5):
                await served.stop()
            await until(cancelled.is_set, what="the cancellation")
            writer.close()


class TestShares:
    """Sockets for several processes on one address."""

    @pytest.fixture
    def port(self) -> Iterator[int]:
        with reserved_port() as port:
            yield port

    def test_connections_are_spread(self, port: int) -> None:
        shares = bind_address("127.0.0.1", port, shares=3)
        try:
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(90)]
            for (sock,) in shares:
                accepted = 0
                while True:
                    try:
                        connection, _ = sock.accept()
                    except BlockingIOError:
                        break
                    connection.close()
                    accepted += 1
                assert accepted > 9  # a fair coin gives 30; fewer than ten is a matter of a million years
            for client in clients:
                client.close()
        finally:
            for (sock,) in shares:
                sock.close()

    def test_nobody_shares_by_accident(self, port: int) -> None:
        """Neither a single process nor one with shares gets in where the other one listens."""
        for first, second in ((2, 1), (2, 2), (1, 2)):
            shares = bind_address("127.0.0.1", port, shares=first)
            try:
                with pytest.raises(ListenerError, match="cannot be bound: Address already in use"):
                    bind_address("127.0.0.1", port, shares=second)
            finally:
                for (sock,) in shares:
                    sock.close()
