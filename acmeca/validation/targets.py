"""The URLs that an http-01 validation asks: the first one, and those that redirects lead to (RFC 8555 §8.3, §10.2).

Rule 1: a `Target` comes from `build_target` or `parse_redirect` only, so its host is a canonical name or address.
Rule 2: a redirect goes to http or https, to a port of the given set, without user information. What is not plainly a
URL (other bytes than visible ASCII, a backslash, an address in an odd spelling) is refused, not repaired.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final
from urllib.parse import urljoin, urlsplit

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.quoting import escape

MAX_URL: Final = 2048
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_VISIBLE: Final = re.compile(rb"[!-\[\]-~]+\Z")  # RFC 3986 §2 has no other characters; the backslash is none of them
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"
)


class RedirectError(Exception):
    """A `Location` that we do not follow; the text says why, with the peer's bytes escaped."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of whom: `path` holds the query too and begins with a slash."""

    scheme: str
    host: Identifier
    port: int
    path: str

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The address when the host is one, None when it is a name."""
        return ip_address(self.host.value) if self.host.type is IdentifierType.IP else None

    @property
    def authority(self) -> str:
        """The `Host` header (RFC 9110 §7.2): no port where it is the scheme's own, brackets around IPv6 (RFC 8738 §4)."""
        host = f"[{self.host.value}]" if ":" in self.host.value else self.host.value
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def build_target(identifier: Identifier, token: str, *, port: int) -> Target:
    """The URL of the challenge (§8.3, step 1; RFC 8738 §4 for addresses).

    Raises ValueError for a wildcard, which http-01 never satisfies (§8.3 proves one host), and for what is no token:
    both are mistakes of the caller.
    """
    if identifier.is_wildcard:
        raise ValueError(f"http-01 cannot validate the wildcard {identifier}")
    if not _TOKEN.match(token):
        raise ValueError("a token is base64url without padding")
    return Target("http", identifier, port, f"/.well-known/acme-challenge/{token}")


def parse_redirect(location: bytes, *, base: Target, ports: frozenset[int]) -> Target:
    """The target of a `Location` header's value, relative to the URL that was asked (RFC 9110 §10.2.2).

    1. Visible ASCII without a backslash, at most 2048 bytes; `urllib` would silently drop some of what is refused here.
    2. Resolved against `base`: http or https, no user information.
    3. A port of `ports`; the scheme's own where none is written.
    4. A host name of letters, digits and hyphens, or an address in strict spelling.

    Raises RedirectError. The fragment is dropped: it is never sent.
    """
    # Step 1
    if len(location) > MAX_URL:
        raise RedirectError(f"its Location has {len(location)} bytes, at most {MAX_URL} are followed")
    if not _VISIBLE.match(location):
        raise RedirectError(f'its Location is not a URL: "{escape(location)}"')
    shown = f'"{escape(location)}"'
    # Step 2
    try:
        text = location.decode("ascii")
        given = urlsplit(text)
        parts = urlsplit(urljoin(base.url, text))
        host = parts.hostname
        port = parts.port
    except ValueError:  # unbalanced brackets, a port that is no number
        raise RedirectError(f"its Location is not a URL: {shown}") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise RedirectError(f"it redirects to {shown}; only http and https are followed")
    if given.scheme and not given.netloc:  # `http:/x` and `http:///x`, which `urljoin` takes for relative
        raise RedirectError(f"it redirects to {shown}; its host is missing")
    if "@" in parts.netloc:
        raise RedirectError(f"it redirects to {shown}; user information in a URL is not followed")
    # Step 3
    port = DEFAULT_PORTS[parts.scheme] if port is None else port
    if port not in ports:
        raise RedirectError(f"it redirects to {shown}; only ports {', '.join(map(str, sorted(ports)))} are followed")
    # Step 4
    identifier = _parse_host(host or "", bracketed="[" in parts.netloc)
    if identifier is None:
        raise RedirectError(f"it redirects to {shown}; its host is neither a host name nor an address")
    path = parts.path or "/"
    return Target(parts.scheme, identifier, port, f"{path}?{parts.query}" if parts.query else path)


def _parse_host(host: str, *, bracketed: bool) -> Identifier | None:
    """A lower-case host of a URL as an identifier, or None.

    A name's last label begins with a letter, so that no spelling of an address (`127.1`, `0x7f.1`, `2130706433`) is
    taken for a name.
    """
    if bracketed or not _HOST_NAME.match(host):
        try:
            address = ip_address(host)
        except ValueError:
            return None
        scoped = isinstance(address, IPv6Address) and address.scope_id is not None
        if scoped or bracketed is not isinstance(address, IPv6Address):  # RFC 3986 §3.2.2: IPv6, and only that
            return None
        return Identifier(IdentifierType.IP, str(address))
    return Identifier(IdentifierType.DNS, host)
