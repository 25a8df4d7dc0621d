"""Host names to addresses, for validations (RFC 1034, RFC 6761).

Rule 1: `localhost` and what is below it is loopback without asking anyone (RFC 6761 §6.3), whatever the resolver.
Rule 2: then the configured entries, then this machine's table of names where its resolvers are asked, then the DNS.
Rule 3: a lookup that fails says whether the name does not exist, has no address, or could not be looked up.
Rule 4: IPv6 addresses come first.
"""

import asyncio
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, Protocol

from acmeca.quoting import escape
from acmeca.validation.dns_client import Answer, DnsClient, RecordType, ResolutionError, ResolutionFailure
from acmeca.validation.networks import IPAddress
from acmeca.validation.servers import find_zone, read_if_there

HOSTS_FILE: Final = Path("/etc/hosts")
MAX_ADDRESSES: Final = 32

_LOOPBACK: Final[tuple[IPAddress, ...]] = (IPv6Address("::1"), IPv4Address("127.0.0.1"))


class Resolver(Protocol):
    """Looks names up. Safe to call concurrently; every call asks anew."""

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        """The addresses of a lower-case A-label name, IPv6 first; at least one, each once. Raises ResolutionError."""
        ...


class DnsResolver:
    """The A and AAAA records of a name. Both are asked for side by side, and what one of them finds is enough."""

    def __init__(self, client: DnsClient) -> None:
        self._client = client

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        # Exceptions are collected so that both questions are at their end, and their sockets closed, when one raises.
        results = await asyncio.gather(
            self._client.lookup(name, RecordType.AAAA), self._client.lookup(name, RecordType.A), return_exceptions=True
        )
        found: list[IPAddress] = []
        failures: list[ResolutionError] = []
        for result in results:
            if isinstance(result, Answer):
                found.extend(ip_address(record.to_text()) for record in result.records)
                if not result.exists:
                    failures.append(_no_such_name(name, result))
            elif isinstance(result, ResolutionError):
                failures.append(result)
            else:
                raise result
        if found:
            return _in_order(found)
        if failures:
            # What may pass says more than what is final: with AAAA answered and A timed out, nobody knows.
            raise min(failures, key=lambda failure: _SEVERITY.index(failure.reason))
        raise ResolutionError(ResolutionFailure.NO_ADDRESS, f"{name} has neither an A nor an AAAA record")


class LoopbackNames:
    """RFC 6761 §6.3: "Name resolution APIs and libraries SHOULD recognize localhost names as special and SHOULD always
    return the IP loopback address for address queries". Every other name goes to the resolver behind it.
    """

    def __init__(self, behind: Resolver) -> None:
        self._behind = behind

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        return _LOOPBACK if is_loopback_name(name) else await self._behind.addresses(name)


class StaticHosts:
    """The configured addresses of single names; every other name, those below them too, goes to the resolver behind it."""

    def __init__(self, hosts: Mapping[str, tuple[IPAddress, ...]], behind: Resolver) -> None:
        self._hosts = {name: _in_order(addresses) for name, addresses in hosts.items()}
        self._behind = behind

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        return self._hosts.get(name) or await self._behind.addresses(name)


class HostsFile:
    """The machine's own table of names, `/etc/hosts`, before another resolver, as `hosts: files dns` has it.

    Only its administrator writes it, and it is read at each lookup. A file that is not there has no names; one that cannot
    be read is our own trouble: OSError passes. Names in a zone of `zones` are not looked for in it: the zone has servers
    of its own.
    """

    def __init__(self, path: Path, behind: Resolver, *, zones: Container[str] = ()) -> None:
        self._path = path
        self._behind = behind
        self._zones = zones

    async def addresses(self, name: str) -> tuple[IPAddress, ...]:
        found = _in_order(self._listed(name)) if find_zone(name, self._zones) is None else ()
        return found or await self._behind.addresses(name)

    def _listed(self, name: str) -> Iterator[IPAddress]:
        for line in read_if_there(self._path).splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if name in (each.lower() for each in names) and "%" not in address:  # a scope means something here only
                with suppress(ValueError):  # no address: resolvers pass the line over as well
                    yield ip_address(address)


def build_resolver(
    client: DnsClient,
    *,
    hosts: Mapping[str, tuple[IPAddress, ...]],
    zones: Container[str],
    hosts_file: Path | None,
) -> Resolver:
    """The resolver that a configuration asks for (Rule 2). `hosts_file` is this machine's where its resolvers are asked."""
    resolver: Resolver = DnsResolver(client)
    if hosts_file is not None:
        resolver = HostsFile(hosts_file, resolver, zones=zones)
    if hosts:
        resolver = StaticHosts(hosts, resolver)
    return LoopbackNames(resolver)


def is_loopback_name(name: str) -> bool:
    """Is this one of RFC 6761's localhost names?"""
    return name == "localhost" or name.endswith(".localhost")


_SEVERITY: Final = (
    ResolutionFailure.TIMEOUT,
    ResolutionFailure.SERVER_FAILURE,
    ResolutionFailure.NO_SUCH_NAME,
    ResolutionFailure.NO_ADDRESS,
)


def _no_such_name(name: str, answer: Answer) -> ResolutionError:
    missing = answer.aliases[-1] if answer.aliases else name  # a server chose it, by an alias
    return ResolutionError(
        ResolutionFailure.NO_SUCH_NAME, f"{answer.server} says that {escape(missing.encode('ascii'))} does not exist"
    )


def _in_order(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """IPv6 first, otherwise in the order found, each once, at most 32."""
    return tuple(sorted(dict.fromkeys(addresses), key=lambda address: -address.version))[:MAX_ADDRESSES]
