"""Host names to addresses, for validations (RFC 1034, RFC 1035, RFC 6761).

Rule 1: every lookup asks anew. There is no cache of ours, and a name is absolute: no search list is ever tried, since a
wildcard record in a search domain would answer for every name that does not exist.
Rule 2: `localhost` and what is below it is loopback without asking anyone (RFC 6761 §6.3), whatever the resolver.
Rule 3: a lookup that fails says whether the name does not exist, has no address, or could not be looked up.
Rule 4: IPv6 addresses come first.
"""

import asyncio
import random
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
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
DEFAULT_DNS_PORT: Final = 53
LOOKUP_SECONDS: Final = 5.0
ATTEMPT_SECONDS: Final = 1.5
ROUNDS: Final = 3
PAUSE_SECONDS: Final = 0.1
MAX_ALIASES: Final = 8  # CNAMEs asked for one by one, each answer's own chain aside (dnspython bounds that at 16)
MAX_ADDRESSES: Final = 32

_LOOPBACK: Final[tuple[IPAddress, ...]] = (IPv6Address("::1"), IPv4Address("127.0.0.1"))


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


class SystemResolver:
    """The operating system's resolver (getaddrinfo) in a thread of the event loop's pool.

    Names are asked with the dot of the root behind them, which keeps the search list away (Rule 1) and, with glibc,
    `/etc/hosts` too; `HostsFile` brings that back. A lookup that takes longer than `timeout` seconds is given up; its thread ends when the system says so.
    """

    def __init__(self, *, timeout: float = LOOKUP_SECONDS) -> None:
        self._timeout = timeout

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        try:
            async with asyncio.timeout(self._timeout):
                found = await asyncio.get_running_loop().getaddrinfo(
                    name.encode("ascii") + b".", None, type=socket.SOCK_STREAM
                )
        except TimeoutError:
            raise ResolutionError(
                ResolutionFailure.TIMEOUT, f"the system's resolver gave no answer within {self._timeout:g} s"
            ) from None
        except socket.gaierror as error:
            raise _system_failure(error) from None
        return _in_order(ip_address(item[4][0]) for item in found)


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

    Only its administrator writes it, and it is read at each lookup. A file that cannot be read has no names.
    """

    def __init__(self, path: Path, behind: Resolver) -> None:
        self._path = path
        self._behind = behind

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        found = _in_order(self._listed(name))
        return found or await self._behind.addresses(name)

    def _listed(self, name: str) -> Iterator[IPAddress]:
        try:
            text = self._path.read_text("utf-8", errors="replace")
        except OSError:
            return
        for line in text.splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if name in (each.lower() for each in names) and "%" not in address:  # a scope means something here only
                with suppress(ValueError):  # no address: resolvers pass the line over as well
                    yield ip_address(address)


def build_resolver(servers: tuple[Server, ...], *, timeout: float = LOOKUP_SECONDS) -> Resolver:
    """The resolver that a configuration asks for: the given servers, or this machine's hosts file and resolver with none.

    Rule 2 holds for both.
    """
    if servers:
        return LoopbackNames(DnsResolver(servers, timeout=timeout))
    return LoopbackNames(HostsFile(HOSTS_FILE, SystemResolver(timeout=timeout)))


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
_SYSTEM_FAILURES: Final = {
    # Not every C library has this one; without it, it is the next.
    getattr(socket, "EAI_NODATA", socket.EAI_NONAME): (
        ResolutionFailure.NO_ADDRESS,
        "the system's resolver knows no address of this name",
    ),
    socket.EAI_NONAME: (ResolutionFailure.NO_SUCH_NAME, "the system's resolver knows no such name"),
    socket.EAI_AGAIN: (ResolutionFailure.SERVER_FAILURE, "the system's resolver has a temporary failure"),
}


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


def _system_failure(error: socket.gaierror) -> ResolutionError:
    reason, detail = _SYSTEM_FAILURES.get(
        error.errno or 0,
        (ResolutionFailure.SERVER_FAILURE, f"the system's resolver failed: {error.strerror}"),
    )
    return ResolutionError(reason, detail)


def _in_order(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """IPv6 first, otherwise in the order found, each once, at most 32."""
    return tuple(sorted(dict.fromkeys(addresses), key=lambda address: -address.version))[:MAX_ADDRESSES]


def _show(server: Server) -> str:
    address, port = server
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"
