"""Which addresses a validation may connect to (RFC 8555 §10.4, server-side request forgery).

Rule 1: only addresses of the configured networks; there is no default here, the configuration brings it.
Rule 2: a special range (loopback, link-local, cloud metadata, …) needs a configured network that lies inside that range.
`0.0.0.0/0` allows every ordinary address and opens no special range.
Rule 3: an IPv6 address that carries an IPv4 address is as good as that: both have to be allowed.
Rule 4: never one of our own listeners. A listener bound to the wildcard stands at every address of this machine.
"""

import errno
import socket
from collections.abc import Callable, Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network
Endpoint: TypeAlias = tuple[IPAddress | None, int]
"""A listener of ours: its address (None for the wildcard) and its TCP port."""

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the system says when this machine has no socket or memory left: our trouble, never a peer's."""

CONFIG_KEY: Final = "validation.allowed_networks"

# RFC 6890 and the IANA special-purpose registries, as far as they matter to a dialler. The first that fits is named.
_SPECIAL_RANGES: Final[tuple[tuple[IPNetwork, str], ...]] = tuple(
    (ip_network(network), name)
    for network, name in (
        ("0.0.0.0/32", "unspecified"),
        ("0.0.0.0/8", "this network (RFC 1122)"),
        ("127.0.0.0/8", "loopback"),
        # The single addresses are metadata and host services of clouds, out of link-local and inside many an allow-list.
        ("100.100.100.200/32", "cloud metadata (Alibaba)"),
        ("168.63.129.16/32", "cloud metadata (Azure)"),
        ("169.254.0.0/16", "link-local, where clouds serve metadata"),
        ("192.0.0.192/32", "cloud metadata (Oracle)"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("240.0.0.0/4", "reserved (RFC 1112)"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4-compatible (RFC 4291)"),
        ("::ffff:0:0/96", "IPv4-mapped (RFC 4291)"),
        ("::ffff:0:0:0/96", "IPv4-translated (RFC 2765)"),
        ("64:ff9b::/96", "NAT64 (RFC 6052)"),
        ("64:ff9b:1::/48", "NAT64 (RFC 8215)"),
        ("2001::/32", "Teredo (RFC 4380)"),
        ("2002::/16", "6to4 (RFC 3056)"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local (RFC 3879)"),
        ("ff00::/8", "multicast"),
        # The same inside fc00::/7.
        ("fd00:42::42/128", "cloud metadata (Scaleway)"),
        ("fd00:ec2::/32", "cloud metadata (AWS)"),
        ("fd20:ce::254/128", "cloud metadata (Google)"),
        ("fd00:c1::a9fe:a9fe/128", "cloud metadata (Oracle)"),
    )
)
_NAT64: Final = IPv6Network("64:ff9b::/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
_NOT_LOCAL: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL})


class AddressPolicy:
    """May we open a TCP connection to this address and port?

    `allowed` are the configured networks. `own_endpoints` is asked at every decision, since listeners open after this
    value is made.
    """

    def __init__(self, allowed: tuple[IPNetwork, ...], own_endpoints: Callable[[], Collection[Endpoint]]) -> None:
        self._allowed = allowed
        self._own_endpoints = own_endpoints
        # Rule 2: the keys of each special range are the configured networks that lie inside it.
        self._special = tuple(
            (special, name, tuple(network for network in allowed if _is_inside(network, special)))
            for special, name in _SPECIAL_RANGES
        )
        # Neither changes while this value lives, and one answer takes 26 comparisons of ranges: 16 µs.
        self._refusal_of_range = lru_cache(maxsize=1024)(self._compare_with_ranges)

    def refusal(self, address: IPAddress, port: int) -> str | None:
        """Why we do not connect there, as a phrase for a person, or None when we do.

        1. The address, and each IPv4 address that it carries, is in no special range that is not configured.
        2. Each of them is in a configured network.
        3. None of them is, with this port, a listener of ours.

        Raises OSError when this machine has no socket left to find out whether an address is its own.
        """
        # Steps 1 and 2
        reason = self._refusal_of_range(address)
        # Step 3
        if reason is None and any(self._is_own(each, port) for each in _meant(address)):
            return "a listener of this CA"
        return reason

    def _compare_with_ranges(self, address: IPAddress) -> str | None:
        for each in _meant(address):
            carried = "" if each == address else f" (it carries {each})"
            # Step 1
            for special, name, keys in self._special:
                if each in special and not any(each in key for key in keys):
                    return f"{name}{carried}, and {CONFIG_KEY} does not name it"
            # Step 2
            if not any(each in network for network in self._allowed):
                return f"not in {CONFIG_KEY}{carried}"
        return None

    def _is_own(self, address: IPAddress, port: int) -> bool:
        for own_address, own_port in self._own_endpoints():
            if own_port != port:
                continue
            if own_address is None or own_address.is_unspecified:
                if _is_local(address):
                    return True
            elif address == own_address or address in embedded_addresses(own_address):
                return True
        return False


def _meant(address: IPAddress) -> tuple[IPAddress, ...]:
    """Rule 3: every address that a connection to this one may end at."""
    return (address, *embedded_addresses(address))


def embedded_addresses(address: IPAddress) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that an IPv6 address carries in one of the known forms; none for any other address."""
    if isinstance(address, IPv4Address):
        return ()
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:  # the server's and the client's
        return address.teredo
    if address in _NAT64 or address in _TRANSLATED:
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    return ()


def _is_inside(network: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(outer, IPv4Network) and network.subnet_of(outer)
    return isinstance(outer, IPv6Network) and network.subnet_of(outer)


def _is_local(address: IPAddress) -> bool:
    """Is this an address of this machine? The kernel knows: it lets us bind to those only.

    Where `ip_nonlocal_bind` is set, every address counts as local, so that we refuse rather than ask ourselves.
    """
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        if error.errno in _NOT_LOCAL:
            return False
        raise
    return True
