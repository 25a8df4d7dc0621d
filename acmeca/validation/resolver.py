"""Host names to addresses, for validations (RFC 1034, RFC 1035, RFC 6761).

Rule 1: every lookup asks anew. There is no cache of ours, and a name is absolute: no search list is ever tried, since a
wildcard record in a search domain would answer for every name that does not exist.
Rule 2: `localhost` and what is below it is loopback without asking anyone (RFC 6761 §6.3), whatever the resolver.
Rule 3: a lookup that fails says whether the name does not exist, has no address, or could not be looked up.
Rule 4: IPv6 addresses come first.
Rule 5: nothing waits for a thread. A server that is silent costs a socket and a timer, so that slow names delay no others.
"""

import asyncio
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import dns.asyncquery
import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from acmeca.errors import AcmecaError
from acmeca.quoting import escape
from acmeca.validation.networks import EXHAUSTED, IPAddress

Server: TypeAlias = tuple[IPAddress, int]
"""A recursive resolver: its address and its port, UDP and TCP."""

HOSTS_FILE: Final = Path("/etc/hosts")
RESOLV_CONF: Final = Path("/etc/resolv.conf")
MAX_NAMESERVERS: Final = 3  # as the C library has it
DEFAULT_DNS_PORT: Final = 53
LOOKUP_SECONDS: Final = 5.0
ATTEMPT_SECONDS: Final = 1.5
ROUNDS: Final = 3
PAUSE_SECONDS: Final = 0.1
MAX_ALIASES: Final = 8  # CNAMEs asked for one by one, each answer's own chain aside (dnspython bounds that at 16)
MAX_ADDRESSES: Final = 32

_THIS_MACHINE: Final[Mapping[int, IPAddress]] = MappingProxyType({6: IPv6Address("::1"), 4: IPv4Address("127.0.0.1")})
_LOOPBACK: Final[tuple[IPAddress, ...]] = tuple(_THIS_MACHINE.values())
_NAMESERVER: Final = re.compile(r"nameserver[ \t]+([0-9A-Fa-f:.]+)(?:[ \t;#]|\Z)")


class ResolutionFailure(StrEnum):
    """Why a name gave no address."""

    NO_SUCH_NAME = "noSuchName"  # NXDOMAIN
    NO_ADDRESS = "noAddress"  # the name exists, without A and AAAA
    SERVER_FAILURE = "serverFailure"  # SERVFAIL, REFUSED, nonsense, an endless chain of aliases
    TIMEOUT = "timeout"


class ResolutionError(AcmecaError):
    """A name gave no address. The text is one phrase in printable ASCII that says who was asked, where we know it."""

    def __init__(self, reason: ResolutionFailure, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Resolver(Protocol):
    """Looks names up. Safe to call concurrently; every call asks anew."""

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        """The addresses of a lower-case A-label name, IPv6 first; at least one, each once. Raises ResolutionError."""
        ...


class DnsResolver:
    """Asks the given recursive resolvers, in their order, over UDP and over TCP where an answer is cut.

    AAAA and A are asked side by side, and what one of them finds is enough. A server that fails or stays silent for
    `attempt_timeout` seconds is passed over; when all have been, they are asked again, in three rounds at most and
    `timeout` seconds in all. NXDOMAIN and an answer without addresses are final.
    """

    def __init__(
        self,
        servers: tuple[Server, ...],
        *,
        timeout: float = LOOKUP_SECONDS,
        attempt_timeout: float = ATTEMPT_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        if not servers:
            raise ValueError("a DnsResolver needs a server to ask")
        self._servers = servers
        self._timeout = timeout
        self._attempt_timeout = attempt_timeout
        self._pause = pause

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        absolute = dns.name.from_text(name, dns.name.root)
        # Exceptions are collected so that both questions are at their end, and their sockets closed, when one raises.
        results = await asyncio.gather(
            self._lookup(absolute, dns.rdatatype.AAAA), self._lookup(absolute, dns.rdatatype.A), return_exceptions=True
        )
        found: list[IPAddress] = []
        failures: list[ResolutionError] = []
        for result in results:
            if isinstance(result, ResolutionError):
                failures.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                found.extend(result)
        if found:
            return _in_order(found)
        if failures:
            # What may pass says more than what is final: with AAAA answered and A timed out, nobody knows.
            raise min(failures, key=lambda failure: _SEVERITY.index(failure.reason))
        raise ResolutionError(ResolutionFailure.NO_ADDRESS, f"{name} has neither an A nor an AAAA record")

    async def _lookup(self, name: dns.name.Name, type_: dns.rdatatype.RdataType) -> tuple[IPAddress, ...]:
        """The addresses of one type, following aliases; empty when the name has none. Raises ResolutionError."""
        failures: list[ResolutionError] = []
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(MAX_ALIASES):
                    answer = await self._ask(name, type_, failures)
                    if answer.alias is None:
                        return answer.addresses
                    name = answer.alias
        except TimeoutError:
            if failures:
                raise failures[-1] from None
            raise ResolutionError(
                ResolutionFailure.TIMEOUT, f"{self._who()} gave no answer within {self._timeout:g} s"
            ) from None
        raise ResolutionError(ResolutionFailure.SERVER_FAILURE, f"more than {MAX_ALIASES} aliases (CNAME) in a row")

    async def _ask(
        self, name: dns.name.Name, type_: dns.rdatatype.RdataType, failures: list[ResolutionError]
    ) -> "_Answer":
        """One question to the servers in turn, until one of them answers it; `failures` takes what went wrong."""
        for round_ in range(ROUNDS):
            if round_ > 0:
                await asyncio.sleep(self._pause * 2**round_)
            for server in self._servers:
                try:
                    return await self._ask_server(server, name, type_)
                except ResolutionError as error:
                    if error.reason is ResolutionFailure.NO_SUCH_NAME:
                        raise
                    failures.append(error)
        raise failures[-1]

    async def _ask_server(self, server: Server, name: dns.name.Name, type_: dns.rdatatype.RdataType) -> "_Answer":
        where, port = server
        # The id is what an off-path attacker has to guess, beside the port that the kernel chooses (RFC 5452 §4.3, §4.5).
        query = dns.message.make_query(name, type_, id=_RANDOM.randrange(0x1_0000))
        try:
            response, _ = await dns.asyncquery.udp_with_fallback(
                query,
                str(where),
                timeout=self._attempt_timeout,
                port=port,
                ignore_unexpected=True,  # RFC 5452 §9.1: what does not come from the server asked is no answer
                ignore_errors=True,  # nor is what does not match the question
            )
            return _read_answer(response, name, _show(server))
        except (dns.exception.DNSException, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
            raise _server_failure(error, _show(server), self._attempt_timeout) from None

    def _who(self) -> str:
        return " and ".join(_show(server) for server in self._servers)


class ResolvConf:
    """The servers that this machine asks, by its `/etc/resolv.conf`, read at each lookup; they are asked as `DnsResolver` does.

    Of the file only the `nameserver` lines count: names are absolute, so that neither `search` nor `ndots` matters, and the
    times are ours. A file that is not there means the server of this machine, 127.0.0.1, as it does to the C library; one
    that cannot be read is our own trouble: OSError passes. What else the C library may ask (LDAP, mDNS and other modules
    of `nsswitch.conf`) is not asked. `port` is for tests.
    """

    def __init__(self, path: Path, *, timeout: float = LOOKUP_SECONDS, port: int = DEFAULT_DNS_PORT) -> None:
        self._path = path
        self._timeout = timeout
        self._port = port

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        servers = tuple((address, self._port) for address in parse_nameservers(_read_if_there(self._path)))
        return await DnsResolver(servers, timeout=self._timeout).addresses(name)


class LoopbackNames:
    """RFC 6761 §6.3: "Name resolution APIs and libraries SHOULD recognize localhost names as special and SHOULD always
    return the IP loopback address for address queries". Every other name goes to the resolver behind it.
    """

    def __init__(self, behind: Resolver) -> None:
        self._behind = behind

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        if name == "localhost" or name.endswith(".localhost"):
            return _LOOPBACK
        return await self._behind.addresses(name)


class HostsFile:
    """The machine's own table of names, `/etc/hosts`, before another resolver, as `hosts: files dns` has it.

    Only its administrator writes it, and it is read at each lookup. A file that is not there has no names; one that cannot
    be read is our own trouble: OSError passes.
    """

    def __init__(self, path: Path, behind: Resolver) -> None:
        self._path = path
        self._behind = behind

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        found = _in_order(self._listed(name))
        return found or await self._behind.addresses(name)

    def _listed(self, name: str) -> Iterator[IPAddress]:
        for line in _read_if_there(self._path).splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if name in (each.lower() for each in names) and "%" not in address:  # a scope means something here only
                with suppress(ValueError):  # no address: resolvers pass the line over as well
                    yield ip_address(address)


def build_resolver(servers: tuple[Server, ...], *, timeout: float = LOOKUP_SECONDS) -> Resolver:
    """The resolver that a configuration asks for: the given servers, or with none this machine's hosts file and servers.

    Rule 2 holds for both.
    """
    if servers:
        return LoopbackNames(DnsResolver(servers, timeout=timeout))
    return LoopbackNames(HostsFile(HOSTS_FILE, ResolvConf(RESOLV_CONF, timeout=timeout)))


def parse_nameservers(text: str) -> tuple[IPAddress, ...]:
    """The servers of a `resolv.conf`: at most three, and 127.0.0.1 when it names none.

    The keyword stands at the beginning of its line, as the C library wants it. What is no address is passed over, and so is
    an address with a scope: it means something to one interface only. The unspecified address is this machine.
    """
    found: list[IPAddress] = []
    for line in text.splitlines():
        match = _NAMESERVER.match(line)
        if match is not None:
            with suppress(ValueError):
                address = ip_address(match[1])
                found.append(_THIS_MACHINE[address.version] if address.is_unspecified else address)
    return tuple(found[:MAX_NAMESERVERS]) or (_THIS_MACHINE[4],)


def parse_server(text: str) -> Server:
    """An item of `validation.resolvers`: `10.0.0.53`, `10.0.0.53:5353`, `fd00::53`, `[fd00::53]`, `[fd00::53]:5353`.

    Raises ValueError that says what is allowed. Names are not: whom would we ask for them?
    """
    problem = ValueError(
        f"{text!r} is no resolver; allowed are an IP address or address:port with IPv6 in brackets, "
        "for instance 10.0.0.53, 10.0.0.53:5353, [fd00::53]:5353"
    )
    host, port = text, str(DEFAULT_DNS_PORT)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise problem
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 0xFFFF):
        raise problem
    try:
        address = ip_address(host)
    except ValueError:
        raise problem from None
    return address, int(port)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server said: addresses, or the alias to ask for instead."""

    addresses: tuple[IPAddress, ...]
    alias: dns.name.Name | None = None


_RANDOM: Final = random.SystemRandom()
_SEVERITY: Final = (
    ResolutionFailure.TIMEOUT,
    ResolutionFailure.SERVER_FAILURE,
    ResolutionFailure.NO_SUCH_NAME,
    ResolutionFailure.NO_ADDRESS,
)


def _read_answer(response: dns.message.Message, name: dns.name.Name, shown: str) -> "_Answer":
    """Read an answer: its own chain of aliases is followed, and one that leads out of it is handed back.

    Raises ResolutionError when the server says no, and DNSException when it speaks nonsense.
    """
    code = response.rcode()
    if code == dns.rcode.NXDOMAIN:
        # A server may have chosen the name, by an alias.
        asked = escape(name.to_text(omit_final_dot=True).encode("ascii"))
        raise ResolutionError(ResolutionFailure.NO_SUCH_NAME, f"{shown} says that {asked} does not exist")
    if code != dns.rcode.NOERROR:
        raise ResolutionError(ResolutionFailure.SERVER_FAILURE, f"{shown} answered with {dns.rcode.to_text(code)}")
    assert isinstance(response, dns.message.QueryMessage)  # noqa: S101  (dnspython has compared the opcodes)
    chain = response.resolve_chaining()
    if chain.answer is not None:
        return _Answer(tuple(ip_address(record.to_text()) for record in chain.answer))
    return _Answer((), chain.canonical_name if chain.canonical_name != name else None)


def _server_failure(error: Exception, shown: str, seconds: float) -> ResolutionError:
    if isinstance(error, dns.exception.Timeout):
        return ResolutionError(ResolutionFailure.TIMEOUT, f"{shown} gave no answer within {seconds:g} s")
    if isinstance(error, OSError):
        return ResolutionError(ResolutionFailure.SERVER_FAILURE, f"{shown} cannot be reached: {error.strerror}")
    return ResolutionError(ResolutionFailure.SERVER_FAILURE, f"{shown} answered with nonsense ({type(error).__name__})")


def _read_if_there(path: Path) -> str:
    """A small file of this machine, or nothing when there is none. Raises OSError for one that cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _in_order(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """IPv6 first, otherwise in the order found, each once, at most 32."""
    return tuple(sorted(dict.fromkeys(addresses), key=lambda address: -address.version))[:MAX_ADDRESSES]


def _show(server: Server) -> str:
    address, port = server
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"
