"""The URLs that an http-01 validation asks: the first one, and those that redirects lead to (RFC 8555 §8.3, §10.2).

Rule 1: a `Target` comes from `build_target` or `parse_redirect` only, so its host is a canonical name or address.
Rule 2: a redirect goes to http or https, to a port of the given set, without user information. What is not plainly a
URL (other bytes than visible ASCII, a backslash, an address in an odd spelling) is refused, not repaired.
Rule 3: host and port are taken from the text by our own expressions. `urllib` only joins paths: some of its versions drop
what stands behind the bracket of `[::1]x`.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urljoin

from acmeca.acme.identifiers import Identifier, IdentifierType

MAX_URL: Final = 2048
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\Z")
_VISIBLE: Final = re.compile(rb"[!-\[\]-~]+\Z")  # RFC 3986 §2 has no other characters; the backslash is none of them
# RFC 3986, appendix B. What begins like `1a:` is no scheme, and no relative reference either (§4.2).
_URL: Final = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?(?://(?P<authority>[^/?#]*))?(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?\Z"
)
# RFC 3986 §3.2, without user information: a host, in brackets or without a colon, and a port that may be empty (§3.2.3).
_AUTHORITY: Final = re.compile(r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<plain>[^\[\]:]*))(?::(?P<port>[0-9]{0,5}))?\Z")
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"
)


class RedirectError(Exception):
    """A `Location` that we do not follow. The text says why and quotes nothing of it; `location` is the whole of it."""

    def __init__(self, reason: str, location: bytes) -> None:
        super().__init__(reason)
        self.location = location


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of whom: `path` holds the query too and begins with a slash."""

    scheme: str
    host: Identifier
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The `Host` header (RFC 9110 §7.2): no port where it is the scheme's own, brackets around IPv6 (RFC 8738 §4)."""
        host = f"[{self.host.value}]" if ":" in self.host.value else self.host.value
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def url(self) -> str:
        return self.origin + self.path


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


def parse_origin(url: str) -> tuple[Identifier, int]:
    """Host and port of a URL that the operator wrote: `https://ca.corp.internal`. Raises ValueError for anything else."""
    match = _URL.match(url)
    authority = None if match is None else _AUTHORITY.match(match["authority"] or "")
    scheme = None if match is None else match["scheme"]
    if authority is None or scheme not in DEFAULT_PORTS:
        raise ValueError(f"{url!r} is no URL of http or https")
    identifier = _parse_host(authority)
    if identifier is None:
        raise ValueError(f"{url!r} has no host")
    return identifier, int(authority["port"] or DEFAULT_PORTS[scheme])


def parse_redirect(location: bytes, *, base: Target, ports: frozenset[int]) -> Target:
    """The target of a `Location` header's value, relative to the URL that was asked (RFC 9110 §10.2.2).

    1. Visible ASCII without a backslash, at most 2048 bytes; `urllib` would silently drop some of what is refused here.
    2. http or https, a host wherever a scheme or `//` stands, no user information.
    3. A port of `ports`; the scheme's own where none is written.
    4. A host name of letters, digits and hyphens, or an address in strict spelling.
    5. The path is resolved against that of `base`.

    Raises RedirectError. The fragment is dropped: it is never sent.
    """
    # Step 1
    if len(location) > MAX_URL:
        raise RedirectError(f"its Location has {len(location)} bytes, at most {MAX_URL} are followed", location)
    given = _URL.match(location.decode("ascii")) if _VISIBLE.match(location) else None
    if given is None or (given["scheme"] is None and ":" in given["path"].partition("/")[0]):
        raise RedirectError("its Location is not a URL", location)
    # Step 2
    scheme = base.scheme if given["scheme"] is None else given["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        raise RedirectError("only http and https are followed", location)
    if given["authority"] == "" or (given["scheme"] is not None and given["authority"] is None):
        raise RedirectError("the host of its Location is missing", location)
    if given["authority"] is None:  # a path: whoever was asked is asked again
        identifier, port = base.host, base.port
    else:
        if "@" in given["authority"]:
            raise RedirectError("user information in a URL is not followed", location)
        authority = _AUTHORITY.match(given["authority"])
        if authority is None:
            raise RedirectError("its Location is not a URL", location)
        # Step 3
        port = int(authority["port"] or DEFAULT_PORTS[scheme])
        if port not in ports:
            raise RedirectError(f"only ports {', '.join(map(str, sorted(ports)))} are followed", location)
        # Step 4
        host = _parse_host(authority)
        if host is None:
            raise RedirectError("the host of its Location is neither a host name nor an address", location)
        identifier = host
    # Step 5
    joined = _URL.match(urljoin(base.url, given.string))
    assert joined is not None  # noqa: S101  (the expression takes every text in one line)
    path = joined["path"] or "/"
    return Target(scheme, identifier, port, f"{path}?{joined['query']}" if joined["query"] else path)


def _parse_host(authority: re.Match[str]) -> Identifier | None:
    """The host of an authority as an identifier, or None.

    A name's last label begins with a letter, so that no spelling of an address (`127.1`, `0x7f.1`, `2130706433`) is
    taken for a name.
    """
    bracketed = authority["bracketed"]
    host = (authority["plain"] if bracketed is None else bracketed).lower()
    if bracketed is None and _HOST_NAME.match(host):
        return Identifier(IdentifierType.DNS, host)
    try:
        address = ip_address(host)
    except ValueError:
        return None
    is_ipv6 = isinstance(address, IPv6Address)
    scoped = isinstance(address, IPv6Address) and address.scope_id is not None
    if scoped or is_ipv6 is (bracketed is None):  # RFC 3986 §3.2.2: IPv6 in brackets, and only that
        return None
    return Identifier(IdentifierType.IP, str(address))
