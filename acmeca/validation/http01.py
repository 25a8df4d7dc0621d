"""http-01: fetch what a host says about a token (RFC 8555 §8.3, RFC 8738 §4). Observe, judge nothing.

Rule 1: every request goes through `dialler.py`: a redirect starts again there, with a name resolved anew and every address
checked.
Rule 2: nothing that a peer does raises: every outcome is an `Http01Observation`. What passes is said in `dialler.py`.
Rule 3: every socket is closed when `observe` returns, however it returns.
Rule 4: bounded in everything: the times and addresses of `dialler.py`, ten redirects, the bytes of `exchange.py`.
Rule 5: no proxy of the environment, no cookie, no kept connection, no cache.
"""

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from functools import partial
from typing import Final

from acmeca.acme.http01 import Hop, Http01Observation
from acmeca.acme.identifiers import Identifier
from acmeca.acme.observations import FailureKind, ObservedFailure
from acmeca.validation.dialler import Call, Dialler, unverified_tls
from acmeca.validation.exchange import Exchange, Response
from acmeca.validation.targets import DEFAULT_PORTS, RedirectError, Target, build_target, parse_redirect
from acmeca.validation.turns import Patience

MAX_REDIRECTS: Final = 10
REDIRECTS: Final = frozenset({301, 302, 307, 308})


class Http01Validator:
    """Makes http-01 observations. One value serves the whole process; `observe` may run many times at once.

    `http_port` is where the first request goes: "This request MUST be sent to TCP port 80" (§8.3), another value is for
    tests and for networks that have agreed on one. Redirects may go to 80, 443 and both configured ports; a URL without
    a port means its scheme's own.
    """

    def __init__(self, dialler: Dialler, *, user_agent: str, http_port: int = 80, https_port: int = 443) -> None:
        self._dialler = dialler
        self._user_agent = user_agent
        self._http_port = http_port
        self._ports = frozenset({*DEFAULT_PORTS.values(), http_port, https_port})
        self._tls = unverified_tls()

    async def observe(self, identifier: Identifier, token: str) -> Http01Observation:
        """Ask `identifier` (a name or an address, never a wildcard) for the key authorization of `token`.

        Raises ValueError for a wildcard or a token that is none, both mistakes of the caller. Raises OSError when this
        machine has no socket or memory left or cannot read its own files, and `Busy` when the connections to an address
        did not become fewer in time: nothing was learnt then, try again.
        """
        walk = [_Visit.of(build_target(identifier, token, port=self._http_port))]
        outcome = await self._dialler.within_limits(lambda patience: self._walk(walk, patience))
        visit = walk[-1]
        hops = tuple(each.to_hop() for each in walk)
        if isinstance(outcome, ObservedFailure):
            return Http01Observation(identifier, hops, body=visit.body, failure=outcome)
        return Http01Observation(identifier, hops, body=outcome.body, body_complete=outcome.complete)

    async def _walk(self, walk: list["_Visit"], patience: Patience) -> Response | ObservedFailure:
        """Ask the first target, then those that redirects lead to. `walk` grows by a visit per request."""
        while True:
            visit = walk[-1]
            outcome = await self._dialler.connect(visit.call, patience, partial(self._speak, visit))
            if isinstance(outcome, ObservedFailure) or outcome.status not in REDIRECTS:
                return outcome
            # "The server SHOULD follow redirects when dereferencing the URL" (§8.3)
            if len(walk) > MAX_REDIRECTS:
                return ObservedFailure(FailureKind.REDIRECT, f"more than {MAX_REDIRECTS} redirects")
            if len(outcome.locations) != 1:
                return ObservedFailure(
                    FailureKind.REDIRECT, f"a redirect with {len(outcome.locations)} Location headers instead of one"
                )
            try:
                target = parse_redirect(outcome.locations[0], base=visit.target, ports=self._ports)
            except RedirectError as error:
                return ObservedFailure(FailureKind.REDIRECT, f"a redirect is not followed: {error}", error.location)
            walk.append(_Visit.of(target))

    async def _speak(self, visit: "_Visit", connection: socket.socket) -> Response | ObservedFailure:
        """Send the request and read the answer; the connection is closed at the end."""
        target = visit.target
        try:
            wire = await self._open(target, connection)
        except OSError as error:  # ssl.SSLError, a reset, or a handshake that took too long
            return ObservedFailure(FailureKind.TLS, f"the TLS handshake failed: {self._dialler.describe(error)}")
        exchange = visit.exchange = Exchange(
            authority=target.authority, path=target.path, user_agent=self._user_agent, skip_body=REDIRECTS
        )
        try:
            await wire.send(exchange.request)
            outcome: Response | ObservedFailure | None = None
            while outcome is None:
                outcome = exchange.receive(await wire.receive(exchange.wanted))
        except OSError as error:
            return ObservedFailure(FailureKind.CLOSED, f"the connection broke: {self._dialler.describe(error)}")
        else:
            return outcome
        finally:
            await wire.close()

    async def _open(self, target: Target, connection: socket.socket) -> "_PlainWire | _TlsWire":
        """What to speak over, by TLS for https. Closes the connection when that fails."""
        if target.scheme == "http":
            return _PlainWire(connection)
        try:
            # The name goes out as SNI (RFC 6066 §3; an address is left out), but nothing is verified.
            reader, writer = await asyncio.open_connection(
                sock=connection,
                ssl=self._tls,
                server_hostname=target.host.value,
                ssl_handshake_timeout=self._dialler.limits.connect,
            )
        except BaseException:
            connection.close()
            raise
        return _TlsWire(reader, writer)


@dataclass(slots=True)
class _Visit:
    """A request under way: what a `Hop` will tell of it, also when time runs out in its middle."""

    target: Target
    call: Call
    exchange: Exchange | None = None

    @classmethod
    def of(cls, target: Target) -> "_Visit":
        return cls(target, Call(target.host, target.port))

    @property
    def body(self) -> bytes:
        return b"" if self.exchange is None else self.exchange.body

    def to_hop(self) -> Hop:
        status = None if self.exchange is None else self.exchange.status
        return Hop(
            self.target.url,
            self.target.origin,
            self.target.host,
            tuple(self.call.refused),
            tuple(self.call.attempts),
            status,
        )


class _PlainWire:
    """A connection as it is: streams and a transport over it would add 40 µs or more to a validation."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._connection, data)

    async def receive(self, most: int) -> bytes:
        """The next bytes; none at the end."""
        return await self._loop.sock_recv(self._connection, most)

    async def close(self) -> None:
        self._connection.close()


class _TlsWire:
    """A connection that speaks TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self, most: int) -> bytes:
        """The next bytes; none at the end."""
        return await self._reader.read(most)

    async def close(self) -> None:
        """Close at once: no TLS farewell to wait for, nothing unsent to flush. Returns when the socket is closed."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):  # how a connection ended that nobody needs any more
            await self._writer.wait_closed()
