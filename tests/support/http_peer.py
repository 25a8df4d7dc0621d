"""A web server on loopback that sends what a test tells it, good or bad.

Rule 1: it counts: every request and every connection is kept, so that a test can say what was not asked.
Rule 2: it cleans up: when the `async with` ends, its listener, connections and tasks are gone.
"""

import asyncio
import contextlib
import datetime as dt
import errno
import gc
import socket
import ssl
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PREFIX = "/.well-known/acme-challenge/"


@dataclass(frozen=True)
class Request:
    """A request as it arrived: `head` is everything up to the empty line."""

    head: bytes

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode("ascii")

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode("ascii")

    def header(self, name: str) -> str | None:
        """The value of a header, or None; two of the same name are a mistake of the client."""
        values = [
            value.strip().decode("latin-1")
            for line in self.head.split(b"\r\n")[1:]
            for key, _, value in [line.partition(b":")]
            if key.lower() == name.lower().encode()
        ]
        assert len(values) <= 1, values
        return values[0] if values else None


@dataclass
class Connection:
    """One connection of the peer, for scripts that send piece by piece."""

    request: Request
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_closed(self) -> None:
        """Wait until the client has gone away."""
        with contextlib.suppress(OSError):
            while await self.reader.read(1024):
                pass

    def reset(self) -> None:
        """End the connection by RST."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]
Answer = bytes | Script


@dataclass
class HttpPeer:
    """The running server. `answers` are given in turn, the last one again and again."""

    answers: Sequence[Answer]
    host: str
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    def url(self, path: str = "/", *, scheme: str = "http", host: str | None = None) -> str:
        host = host or (f"[{self.host}]" if ":" in self.host else self.host)
        return f"{scheme}://{host}:{self.port}{path}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Called by asyncio as soon as a connection stands, so that `_close` knows of every one."""
        self.connections += 1
        task = asyncio.create_task(self._answer(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
            request = Request(head)
            self.requests.append(request)
            answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(Connection(request, reader, writer))
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone: that is its right
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.transport.abort()

    async def _close(self) -> None:
        await asyncio.sleep(0)  # a task that never ran could not close its connection when cancelled
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn


@contextlib.asynccontextmanager
async def http_peer(
    *answers: Answer, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HttpPeer]:
    """Run a peer that gives `answers` in turn. `port` 0 takes a free one."""
    peer = HttpPeer(answers, host)
    server = await asyncio.start_server(peer._accept, host, port, ssl=tls)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        await peer._close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def twin_peers(ipv6: Sequence[Answer], ipv4: Sequence[Answer]) -> AsyncIterator[tuple[HttpPeer, HttpPeer]]:
    """Two peers, on ::1 and on 127.0.0.1, at the same port."""
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            six = await stack.enter_async_context(http_peer(*ipv6, host="::1"))
            try:
                four = await stack.enter_async_context(http_peer(*ipv4, host="127.0.0.1", port=six.port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            yield six, four
            return
        raise AssertionError("no port was free on both loopback addresses")


def ok(body: bytes, *, headers: Sequence[tuple[str, str]] = (), status: str = "200 OK") -> bytes:
    """A whole answer with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def redirect(location: str, *, status: int = 302) -> bytes:
    """A redirect with an empty body."""
    return ok(b"", headers=(("Location", location),), status=f"{status} Elsewhere")


def tokens(provisioned: Mapping[str, str]) -> Script:
    """A script that answers challenges as an ACME client's own server does: token to key authorization, 404 otherwise."""

    async def answer(connection: Connection) -> None:
        path = connection.request.path
        text = provisioned.get(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
        if text is None:
            await connection.send(ok(b"not here", status="404 Not Found"))
        else:
            await connection.send(ok(text.encode("ascii"), headers=(("Content-Type", "application/octet-stream"),)))

    return answer


def self_signed_tls(name: str = "localhost") -> ssl.SSLContext:
    """A server's TLS with a new self-signed certificate that nobody trusts and that ran out yesterday."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=2))
        .not_valid_after(now - dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "pair.pem")
        path.touch(mode=0o600)
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(path)
    return context


def open_sockets() -> int:
    """How many sockets this process holds, without those that only wait for the collector."""
    gc.collect()
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += str(entry.readlink()).startswith("socket:")
    return count


def has_ipv6_loopback() -> bool:
    """Does this machine have ::1? Some containers do not."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def refusing_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that refuses connections for as long as the block runs: bound, so that nobody gets it, but not listening."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.bind((host, 0))
        yield int(holder.getsockname()[1])


@contextlib.contextmanager
def hanging_port(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port where a connection is neither made nor refused, as behind a firewall that drops: its queue is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(3):  # Linux queues one connection more than it is told to
            filler = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
