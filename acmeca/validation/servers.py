"""Which recursive resolvers are asked about a name: those of its zone, those configured, or this machine's.

Rule 1: the longest zone that a name lies in decides; a zone holds its own name and everything below it, label by label.
Rule 2: nothing is kept: this machine's `resolv.conf` is read at each choice.
"""

import re
from collections.abc import Container, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

from acmeca.validation.networks import IPAddress

Server: TypeAlias = tuple[IPAddress, int]
"""A recursive resolver: its address and its port, UDP and TCP."""

RESOLV_CONF: Final = Path("/etc/resolv.conf")
MAX_NAMESERVERS: Final = 3  # as the C library has it
DEFAULT_DNS_PORT: Final = 53

_THIS_MACHINE: Final[Mapping[int, IPAddress]] = MappingProxyType({6: IPv6Address("::1"), 4: IPv4Address("127.0.0.1")})
_NAMESERVER: Final = re.compile(r"nameserver[ \t]+([0-9A-Fa-f:.]+)(?:[ \t;#]|\Z)")


class Servers(Protocol):
    """Chooses the servers for a name. Called for each lookup, and again for each alias that leads on."""

    def for_name(self, name: str) -> tuple[Server, ...]:
        """The servers to ask about a lower-case name without the root's dot, in their order; at least one."""
        ...


class FixedServers:
    """The same servers for every name."""

    def __init__(self, servers: tuple[Server, ...]) -> None:
        if not servers:
            raise ValueError("there has to be a server to ask")
        self._servers = servers

    def for_name(self, name: str) -> tuple[Server, ...]:  # noqa: ARG002  (for every name)
        return self._servers


class ResolvConf:
    """The servers that this machine asks, by its `/etc/resolv.conf`.

    Of the file only the `nameserver` lines count: names are absolute, so that neither `search` nor `ndots` matters, and the
    times are ours. A file that is not there means the server of this machine, 127.0.0.1, as it does to the C library; one
    that cannot be read is our own trouble: OSError passes. What else the C library may ask (LDAP, mDNS and other modules
    of `nsswitch.conf`) is not asked. `port` is for tests.
    """

    def __init__(self, path: Path = RESOLV_CONF, *, port: int = DEFAULT_DNS_PORT) -> None:
        self._path = path
        self._port = port

    def for_name(self, name: str) -> tuple[Server, ...]:  # noqa: ARG002  (for every name)
        return tuple((address, self._port) for address in parse_nameservers(read_if_there(self._path)))


class ZoneServers:
    """Servers per zone, and other servers for names in none of them. Zones are canonical names."""

    def __init__(self, zones: Mapping[str, tuple[Server, ...]], otherwise: Servers) -> None:
        self._zones = {zone: FixedServers(servers) for zone, servers in zones.items()}
        self._otherwise = otherwise

    def for_name(self, name: str) -> tuple[Server, ...]:
        zone = find_zone(name, self._zones)
        return (self._otherwise if zone is None else self._zones[zone]).for_name(name)


def build_servers(resolvers: tuple[Server, ...], zones: Mapping[str, tuple[Server, ...]]) -> Servers:
    """What a configuration asks for: zones with their own servers; beside them the given ones, or with none this machine's."""
    others: Servers = FixedServers(resolvers) if resolvers else ResolvConf()
    return ZoneServers(zones, others) if zones else others


def find_zone(name: str, zones: Container[str]) -> str | None:
    """The longest of `zones` that holds `name`, or None (Rule 1)."""
    while name not in zones:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name


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


def show_server(server: Server) -> str:
    """`10.0.0.53:53`, or `[fd00::53]:53`."""
    address, port = server
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"


def read_if_there(path: Path) -> str:
    """A small file of this machine, or nothing when there is none. Raises OSError for one that cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""
