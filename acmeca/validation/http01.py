"""http-01: fetch what a host says about a token (RFC 8555 §8.3, RFC 8738 §4). Observe, judge nothing.

Rule 1: our own dialler. A name is resolved once per request, every address is checked, and the connection goes to an
address that was checked, never to the name. Each redirect starts again from there.
Rule 2: nothing that a peer does raises: every outcome is an `Http01Observation`. Only cancellation passes, and what is not
the peer's fault and must not become its problem: the OSError of a machine that has run out of sockets or memory or cannot
read its own files, and `Busy` where we have too many connections open to an address.
Rule 3: every socket is closed when `observe` returns, however it returns.
Rule 4: bounded in everything: ten seconds, ten redirects, four addresses a request, the bytes of `exchange`, and sixteen
connections to one address at once. Waiting for one of these is bounded apart; the peer's ten seconds stand still meanwhile.
Rule 5: no proxy of the environment, no cookie, no kept connection, no cache.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Final

from acmeca.acme.http01 import Hop, Http01Observation
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.observations import Attempt, FailureKind, ObservedFailure, RefusedAddress
from acmeca.quoting import escape
from acmeca.validation.dns_client import ResolutionError
from acmeca.validation.exchange import Exchange, Response
from acmeca.validation.networks import EXHAUSTED, AddressPolicy, Endpoint, IPAddress, IPNetwork
from acmeca.validation.resolver import Resolver
from acmeca.validation.targets import DEFAULT_PORTS, RedirectError, Target, build_target, parse_origin, parse_redirect
from acmeca.validation.turns import Patience, Turns

TOTAL_SECONDS: Final = 10.0
WAIT_SECONDS: Final = 15.0  # with the peer's ten within the 30 that RULES §3 gives the whole
CONNECT_SECONDS: Final = 2.0  # leaves time for the other addresses, and for one SYN sent again
MAX_REDIRECTS: Final = 10
SHOWN_ADDRESSES: Final = 8
ADDRESSES_PER_FAMILY: Final = 2
REDIRECTS: Final = frozenset({301, 302, 307, 308})


class Http01Validator:
    """Makes http-01 observations. One value serves the whole process; `observe` may run many times at once.

    `http_port` is where the first request goes: "This request MUST be sent to TCP port 80" (§8.3), another value is for
    tests and for networks that have agreed on one. Redirects may go to 80, 443 and both configured ports; a URL without
    a port means its scheme's own. `allowed_networks` and `own_endpoints` are those of `AddressPolicy`; `own_urls` are the
    URLs that others reach this CA by, which may lead to our listeners by way of another machine: what has the host and the
    port of one of them is not asked, nor an address that stands in one. Timeouts are in seconds, `connect_timeout` for one
    address and a TLS handshake each, `total_timeout` for everything that a peer does, `wait_timeout` for waiting until there
    are fewer connections to an address.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        allowed_networks: tuple[IPNetwork, ...],
        own_endpoints: Callable[[], Collection[Endpoint]],
        own_urls: tuple[str, ...],
        user_agent: str,
        http_port: int = 80,
        https_port: int = 443,
        total_timeout: float = TOTAL_SECONDS,
        connect_timeout: float = CONNECT_SECONDS,
        wait_timeout: float = WAIT_SECONDS,
    ) -> None:
        self._resolver = resolver
        self._own_origins = frozenset(map(parse_origin, own_urls))
        own_addresses = frozenset(
            (ip_address(host.value), port) for host, port in self._own_origins if host.type is IdentifierType.IP
        )
        self._policy = AddressPolicy(allowed_networks, lambda: (*own_endpoints(), *own_addresses))
        self._turns = Turns()
        self._user_agent = user_agent
        self._http_port = http_port
        self._ports = frozenset({*DEFAULT_PORTS.values(), http_port, https_port})
        self._total_timeout = total_timeout
        self._connect_timeout = connect_timeout
        self._wait_timeout = wait_timeout
        self._tls = _unverified_tls()

    async def observe(self, identifier: Identifier, token: str) -> Http01Observation:
        """Ask `identifier` (a name or an address, never a wildcard) for the key authorization of `token`.

        Raises ValueError for a wildcard or a token that is none, both mistakes of the caller. Raises OSError when this
        machine has no socket or memory left or cannot read its own files, and `Busy` when the connections to an address
        did not become fewer in time: nothing was learnt then, try again.
        """
        visit = _Visit(build_target(identifier, token, port=self._http_port))
        walk = [visit]
        try:
            async with asyncio.timeout(self._total_timeout) as peer_time:
                outcome = await self._walk(walk, Patience(peer_time, self._wait_timeout))
        except TimeoutError:
            outcome = ObservedFailure(FailureKind.TIMEOUT, f"no complete answer within {self._total_timeout:g} s")
        visit = walk[-1]
        hops = tuple(each.to_hop() for each in walk)
        if isinstance(outcome, ObservedFailure):
            return Http01Observation(identifier, hops, body=visit.body, failure=outcome)
        return Http01Observation(identifier, hops, body=outcome.body, body_complete=outcome.complete)

    async def _walk(self, walk: list["_Visit"], patience: Patience) -> Response | ObservedFailure:
        """Ask the first target, then those that redirects lead to. `walk` grows by a visit per request."""
        while True:
            visit = walk[-1]
            outcome = await self._visit(visit, patience)
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
            walk.append(_Visit(target))

    async def _visit(self, visit: "_Visit", patience: Patience) -> Response | ObservedFailure:
        """One request. 1. Not to ourselves. 2. Resolve. 3. Check every address. 4. Connect to one that passed, and speak."""
        host = escape(visit.target.host.value.encode("ascii"))  # the host of a redirect is a peer's choice
        # Step 1
        if (visit.target.host, visit.target.port) in self._own_origins:
            return ObservedFailure(FailureKind.NOT_ALLOWED, f"{host} port {visit.target.port} is a listener of this CA")
        # Step 2: an `ip` identifier is its own address (RFC 8738 §4)
        address = visit.target.address
        if address is not None:
            addresses: tuple[IPAddress, ...] = (address,)
        else:
            try:
                addresses = await self._resolver.addresses(visit.target.host.value)
            except ResolutionError as error:
                return ObservedFailure(FailureKind.RESOLUTION, f"{host} cannot be looked up: {error}")
        # Step 3
        allowed = self._allowed(visit, addresses)
        if not allowed:
            named = [f"{refused.address} is {refused.reason}" for refused in visit.refused]
            more = [f"and {len(named) - SHOWN_ADDRESSES} more"] if len(named) > SHOWN_ADDRESSES else []
            return ObservedFailure(
                FailureKind.NOT_ALLOWED,
                f"no address of {host} is allowed: {'; '.join(named[:SHOWN_ADDRESSES] + more)}",
            )
        # Step 4
        for each in allowed:
            async with self._turns.turn(each, patience):
                connection = await self._connect(visit, each)
                if connection is not None:
                    return await self._speak(visit, connection)
        tried = "; ".join(f"{attempt.endpoint} {attempt.failure}" for attempt in visit.attempts)
        return ObservedFailure(FailureKind.CONNECT, f"no connection: {tried}")

    def _allowed(self, visit: "_Visit", addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        """The addresses to try, in order: IPv6 first, two of each family. Those that are not allowed are noted."""
        allowed: list[IPAddress] = []
        for address in addresses:
            reason = self._policy.refusal(address, visit.target.port)
            if reason is None:
                allowed.append(address)
            else:
                visit.refused.append(RefusedAddress(str(address), reason))
        ipv6 = [address for address in allowed if isinstance(address, IPv6Address)]
        ipv4 = [address for address in allowed if not isinstance(address, IPv6Address)]
        return (*ipv6[:ADDRESSES_PER_FAMILY], *ipv4[:ADDRESSES_PER_FAMILY])

    async def _connect(self, visit: "_Visit", address: IPAddress) -> socket.socket | None:
        """A connection that stands, or None. Only a failure to connect leads to the next address."""
        port = visit.target.port
        endpoint = f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"
        try:
            connection = await self._dial(address, port)
        except OSError as error:  # a TimeoutError among them
            visit.attempts.append(Attempt(endpoint, self._describe(error)))
            return None
        visit.attempts.append(Attempt(endpoint, None))
        return connection

    async def _dial(self, address: IPAddress, port: int) -> socket.socket:
        connection = socket.socket(
            socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET, socket.SOCK_STREAM
        )
        try:
            connection.setblocking(False)
            async with asyncio.timeout(self._connect_timeout):
                await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        except BaseException:
            connection.close()
            raise
        return connection

    async def _speak(self, visit: "_Visit", connection: socket.socket) -> Response | ObservedFailure:
        """Send the request and read the answer; the connection is closed at the end."""
        target = visit.target
        try:
            wire = await self._open(target, connection)
        except OSError as error:  # ssl.SSLError, a reset, or a handshake that took too long
            return ObservedFailure(FailureKind.TLS, f"the TLS handshake failed: {self._describe(error)}")
        exchange = visit.exchange = Exchange(
            authority=target.authority, path=target.path, user_agent=self._user_agent, skip_body=REDIRECTS
        )
        try:
            await wire.send(exchange.request)
            outcome: Response | ObservedFailure | None = None
            while outcome is None:
                outcome = exchange.receive(await wire.receive(exchange.wanted))
        except OSError as error:
            return ObservedFailure(FailureKind.CLOSED, f"the connection broke: {self._describe(error)}")
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
                ssl_handshake_timeout=self._connect_timeout,
            )
        except BaseException:
            connection.close()
            raise
        return _TlsWire(reader, writer)

    def _describe(self, error: OSError) -> str:
        """An error of the operating system or of TLS as a phrase; its text holds nothing from a peer.

        Raises the error again when it is this machine's own trouble (Rule 2).
        """
        if error.errno in EXHAUSTED:
            raise error
        if isinstance(error, ssl.SSLError):
            return (error.reason or "failed").replace("_", " ").lower()
        if error.errno:
            return os.strerror(error.errno).lower()
        if isinstance(error, TimeoutError | ConnectionAbortedError):  # asyncio's own, for a connection or a handshake
            return f"gave no answer within {self._connect_timeout:g} s"
        return "connection reset by peer"  # asyncio's own ConnectionResetError carries no number


@dataclass(slots=True)
class _Visit:
    """A request under way: what a `Hop` will tell of it, also when time runs out in its middle."""

    target: Target
    refused: list[RefusedAddress] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    exchange: Exchange | None = None

    @property
    def body(self) -> bytes:
        return b"" if self.exchange is None else self.exchange.body

    def to_hop(self) -> Hop:
        status = None if self.exchange is None else self.exchange.status
        return Hop(
            self.target.url, self.target.origin, self.target.host, tuple(self.refused), tuple(self.attempts), status
        )


def _unverified_tls() -> ssl.SSLContext:
    """The TLS of redirects to https. The certificate proves nothing here, and is often the one about to be replaced."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


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
