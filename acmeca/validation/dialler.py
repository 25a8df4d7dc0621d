"""Connections to peers: the only way by which a validation reaches a host (RFC 8555 §10.4, RULES §3).

Rule 1: a name is resolved once per call, every address is checked, and the connection goes to an address that was checked,
never to the name.
Rule 2: nothing that a peer does raises: what became of a call is a value. Only cancellation passes, and what is not the
peer's fault and must not become its problem: the OSError of a machine that has run out of sockets or memory or cannot read
its own files, and `Busy` where we have too many connections open to an address.
Rule 3: bounded: ten seconds for all that a peer does, two for a connection, four addresses a call, and sixteen connections
to one address at once, whatever is spoken there. Waiting for one of these is bounded apart; the peer's time stands still
meanwhile.
Rule 4: TLS proves nothing here, since no certificate is verified, and must not cost us more than it costs the peer: a peer
that may choose the group can have us compute for a sixth of a second in one of 8192 bits.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Final, TypeVar

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.observations import Attempt, FailureKind, ObservedFailure, RefusedAddress
from acmeca.quoting import escape
from acmeca.validation.dns_client import ResolutionError
from acmeca.validation.networks import EXHAUSTED, AddressPolicy, Endpoint, IPAddress, IPNetwork
from acmeca.validation.resolver import Resolver
from acmeca.validation.targets import parse_origin
from acmeca.validation.turns import Patience, Turns

SHOWN_ADDRESSES: Final = 8
ADDRESSES_PER_FAMILY: Final = 2

# What Python chooses for a client, without finite-field Diffie-Hellman, whose parameters a server makes up (RFC 5246 §7.4.3).
_CIPHERS: Final = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
# RFC 8446 §9.1: "A TLS-compliant application … MUST support key exchange with secp256r1". Python takes one group or OpenSSL's
# own list, with those of RFC 7919 up to 8192 bits in it.
_GROUP: Final = "prime256v1"

_TOLD: Final = re.compile(r"\[SSL\] ([a-z0-9 ]+) \(")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds: `total` for all that a peer does in one validation, `connect` for a connection to one address and for
    a TLS handshake, `wait` for waiting until there are fewer connections to an address.
    """

    total: float = 10.0
    connect: float = 2.0  # leaves time for the other addresses, and for one SYN sent again
    wait: float = 15.0  # with the peer's ten within the 30 that RULES §3 gives the whole


@dataclass(slots=True)
class Call:
    """A connection wanted, and what was seen on the way to it, also when time runs out in its middle."""

    host: Identifier
    port: int
    refused: list[RefusedAddress] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def address(self) -> IPAddress | None:
        """The address when the host is one, None when it is a name."""
        return ip_address(self.host.value) if self.host.type is IdentifierType.IP else None


class Dialler:
    """Makes connections. One value serves the whole process, so that its turns count what all validations have open.

    `allowed_networks` and `own_endpoints` are those of `AddressPolicy`; `own_urls` are the URLs that others reach this CA by,
    which may lead to our listeners by way of another machine: what has the host and the port of one of them is not called,
    nor an address that stands in one.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        allowed_networks: tuple[IPNetwork, ...],
        own_endpoints: Callable[[], Collection[Endpoint]],
        own_urls: tuple[str, ...],
        limits: Limits | None = None,
    ) -> None:
        self._resolver = resolver
        self._own_origins = frozenset(map(parse_origin, own_urls))
        own_addresses = frozenset(
            (ip_address(host.value), port) for host, port in self._own_origins if host.type is IdentifierType.IP
        )
        self._policy = AddressPolicy(allowed_networks, lambda: (*own_endpoints(), *own_addresses))
        self._turns = Turns()
        self.limits = limits or Limits()

    async def within_limits(self, work: Callable[[Patience], Awaitable[T]]) -> T | ObservedFailure:
        """Do all that a validation does with its peers, or say that they took too long."""
        try:
            async with asyncio.timeout(self.limits.total) as peer_time:
                return await work(Patience(peer_time, self.limits.wait))
        except TimeoutError:
            return ObservedFailure(FailureKind.TIMEOUT, f"no complete answer within {self.limits.total:g} s")

    async def connect(
        self, call: Call, patience: Patience, speak: Callable[[socket.socket], Awaitable[T]]
    ) -> T | ObservedFailure:
        """Let `speak` have a connection, which it closes, or say why there is none.

        1. Not to ourselves. 2. Resolve. 3. Check every address. 4. Connect to one that passed, and speak.
        """
        host = escape(call.host.value.encode("ascii"))  # the host of a redirect is a peer's choice
        # Step 1
        if (call.host, call.port) in self._own_origins:
            return ObservedFailure(FailureKind.NOT_ALLOWED, f"{host} port {call.port} is a listener of this CA")
        # Step 2: an `ip` identifier is its own address (RFC 8738 §4)
        address = call.address
        if address is not None:
            addresses: tuple[IPAddress, ...] = (address,)
        else:
            try:
                addresses = await self._resolver.addresses(call.host.value)
            except ResolutionError as error:
                return ObservedFailure(FailureKind.RESOLUTION, f"{host} cannot be looked up: {error}")
        # Step 3
        allowed = self._allowed(call, addresses)
        if not allowed:
            named = [f"{refused.address} is {refused.reason}" for refused in call.refused]
            more = [f"and {len(named) - SHOWN_ADDRESSES} more"] if len(named) > SHOWN_ADDRESSES else []
            return ObservedFailure(
                FailureKind.NOT_ALLOWED,
                f"no address of {host} is allowed: {'; '.join(named[:SHOWN_ADDRESSES] + more)}",
            )
        # Step 4
        for each in allowed:
            async with self._turns.turn(each, patience):
                connection = await self._connect(call, each)
                if connection is not None:
                    return await speak(connection)
        tried = "; ".join(f"{attempt.endpoint} {attempt.failure}" for attempt in call.attempts)
        return ObservedFailure(FailureKind.CONNECT, f"no connection: {tried}")

    def describe(self, error: OSError) -> str:
        """An error of the operating system or of TLS as a phrase; its text holds nothing from a peer.

        Raises the error again when it is this machine's own trouble (Rule 2).
        """
        if error.errno in EXHAUSTED:
            raise error
        if isinstance(error, ssl.SSLError):
            told = _TOLD.match(str(error.strerror))  # Python has no name for the newest alerts; OpenSSL has a phrase
            return (error.reason or (told[1] if told else "failed")).replace("_", " ").lower()
        if error.errno:
            return os.strerror(error.errno).lower()
        if isinstance(error, TimeoutError | ConnectionAbortedError):  # asyncio's own, for a connection or a handshake
            return f"gave no answer within {self.limits.connect:g} s"
        return "connection reset by peer"  # asyncio's own ConnectionResetError carries no number

    def _allowed(self, call: Call, addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        """The addresses to try, in order: IPv6 first, two of each family. Those that are not allowed are noted."""
        allowed: list[IPAddress] = []
        for address in addresses:
            reason = self._policy.refusal(address, call.port)
            if reason is None:
                allowed.append(address)
            else:
                call.refused.append(RefusedAddress(str(address), reason))
        ipv6 = [address for address in allowed if isinstance(address, IPv6Address)]
        ipv4 = [address for address in allowed if not isinstance(address, IPv6Address)]
        return (*ipv6[:ADDRESSES_PER_FAMILY], *ipv4[:ADDRESSES_PER_FAMILY])

    async def _connect(self, call: Call, address: IPAddress) -> socket.socket | None:
        """A connection that stands, or None. Only a failure to connect leads to the next address."""
        endpoint = f"[{address}]:{call.port}" if isinstance(address, IPv6Address) else f"{address}:{call.port}"
        try:
            connection = await self._dial(address, call.port)
        except OSError as error:  # a TimeoutError among them
            call.attempts.append(Attempt(endpoint, self.describe(error)))
            return None
        call.attempts.append(Attempt(endpoint, None))
        return connection

    async def _dial(self, address: IPAddress, port: int) -> socket.socket:
        connection = socket.socket(
            socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET, socket.SOCK_STREAM
        )
        try:
            connection.setblocking(False)
            async with asyncio.timeout(self.limits.connect):
                await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        except BaseException:
            connection.close()
            raise
        return connection


def unverified_tls() -> ssl.SSLContext:
    """TLS 1.2 or later, without a look at whom the certificate names or who signed it (Rule 4)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(_CIPHERS)
    context.set_ecdh_curve(_GROUP)
    return context
