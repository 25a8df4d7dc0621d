"""Single values of the configuration: what a person may write, to what the layers below take.

Rule 1: every parser takes whatever TOML can hold, and says in its ValueError what is allowed, with an example. Whoever
reports it adds the key and the value.
Rule 2: a value is taken as it was meant or refused; nothing is trimmed, rounded or guessed.
Rule 3: what is already of the type that comes out is taken as it is, so that code can give it too.
"""

import ipaddress
import re
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from acmeca.acme.identifiers import canonical_dns_name, canonical_ip
from acmeca.acme.objects import ChallengeType
from acmeca.policy.limits import Rate, parse_rate
from acmeca.policy.names import Network, parse_name_pattern
from acmeca.storage.postgres_url import PostgresUrl
from acmeca.validation.networks import IPAddress
from acmeca.validation.resolver import is_loopback_name
from acmeca.validation.servers import Server, parse_server

_Word = TypeVar("_Word", bound=StrEnum)

_DURATION: Final = re.compile(r"([0-9]{1,10})([smhd])\Z")
_SECONDS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_MAX_DURATION: Final = timedelta(days=36_500)  # beyond it dates overflow

_NEVER: Final = "never"
_OFF: Final = "off"
_ZERO: Final = frozenset({"0s", "0m", "0h", "0d"})

_ORIGIN: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)\Z", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?\Z")
# RFC 3986 §3: scheme, host and the characters of path, query and fragment; others are percent-encoded.
_PAGE_URL: Final = re.compile(r"https?://[A-Za-z0-9\[][A-Za-z0-9.:\[\]-]*(?:[/?#][A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*)?\Z")
_MAX_PAGE_URL: Final = 1000  # characters
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_MAX_SOCKET_PATH: Final = 107  # bytes: sockaddr_un of Linux holds 108 with the NUL
_SOCKET_ROOM: Final = len("/acmeca.sock")
MAX_WORKERS: Final = 64


class ListenAddress(NamedTuple):
    """Where a listener is bound; an empty host means every address of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host or '*'}:{self.port}"


# --- durations ----------------------------------------------------------------------------------------------------


def parse_duration(value: object) -> timedelta:
    """`90d`, `12h`, `5m`, `30s`. Raises `ValueError` with what is allowed."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('write a whole number and a unit (s, m, h, d) in quotes, like "90d" or "12h"')
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > _MAX_DURATION.total_seconds():
        raise ValueError(f"at most {format_duration(_MAX_DURATION)} is allowed")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """What `parse_duration` reads, in the largest unit that divides it."""
    seconds = int(duration.total_seconds())
    unit = next(unit for unit, size in _SECONDS.items() if seconds % size == 0 and (seconds or unit == "s"))
    return f"{seconds // _SECONDS[unit]}{unit}"


def duration_between(low: timedelta, high: timedelta) -> Callable[[object], timedelta]:
    """A parser of durations from `low` to `high`, both allowed."""

    def parse(value: object) -> timedelta:
        duration = parse_duration(value)
        if not low <= duration <= high:
            raise ValueError(f"{format_duration(low)} to {format_duration(high)} is allowed")
        return duration

    return parse


def never_or(parse: Callable[[object], timedelta]) -> Callable[[object], timedelta | None]:
    """A parser of what `parse` takes, or `never`, which is None."""

    def parse_both(value: object) -> timedelta | None:
        if value is None or value == _NEVER:
            return None
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f'{error}; or "{_NEVER}"') from None

    return parse_both


def zero_or(parse: Callable[[object], timedelta]) -> Callable[[object], timedelta]:
    """A parser of what `parse` takes, or of no time at all."""

    def parse_both(value: object) -> timedelta:
        if value == timedelta() or (isinstance(value, str) and value in _ZERO):
            return timedelta()
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f'{error}; or "0s"') from None

    return parse_both


def parse_limit(value: object) -> Rate | None:
    """How often something may happen, like `500/week`; `off` is None."""
    if value is None or isinstance(value, Rate):
        return value
    text = parse_text(value)
    if text == _OFF:
        return None
    try:
        return parse_rate(text)
    except ValueError as error:
        raise ValueError(f'{error}; or "{_OFF}"') from None


# --- plain types --------------------------------------------------------------------------------------------------


def parse_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("write a text in quotes")  # noqa: TRY004  (pydantic collects ValueErrors)
    return value


def parse_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("write true or false, without quotes")  # noqa: TRY004  (as above)
    return value


def parse_word(words: type[_Word]) -> Callable[[object], _Word]:
    """A parser of one of a few words."""

    def parse(value: object) -> _Word:
        try:
            return words(parse_text(value))
        except ValueError:
            raise ValueError(f"write one of {', '.join(words)}") from None

    return parse


def parse_port(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise ValueError("write a whole number from 1 to 65535, without quotes")
    return value


def parse_workers(value: object) -> int:
    """How many processes serve."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_WORKERS:
        raise ValueError(
            f"write a whole number from 1 to {MAX_WORKERS}, without quotes; as many as the machine has cores is a good one"
        )
    return value


def ca_name_up_to(length: int) -> Callable[[object], str]:
    """A parser of a part of the CA's name (X.520 gives organizationName and commonName 64 characters)."""

    def parse(value: object) -> str:
        text = parse_text(value)
        if not 1 <= len(text) <= length:
            raise ValueError(f"1 to {length} characters are allowed")
        if not text.isprintable() or text != text.strip():
            raise ValueError("printable characters are allowed, without blanks at either end")
        return text

    return parse


# --- URLs and addresses -------------------------------------------------------------------------------------------


def parse_base_url(value: object) -> str:
    """The origin of the ACME listener: https."""
    return _parse_origin("https", value, other_scheme="RFC 8555 §6.1 asks for https")


def parse_status_url(value: object) -> str:
    """The origin for OCSP, CRLs and issuer certificates: plain http."""
    return _parse_origin(
        "http",
        value,
        other_scheme="status has to be on plain http: over https a client would first have to ask for the status of that "
        "connection's own certificate, in a circle (RFC 5280 §8). What is served there is signed",
    )


def parse_page_url(value: object) -> str | None:
    """The URL of a page for people, or `""` for none. It stands in a header field: what RFC 3986 does not have is refused."""
    if value is None or value == "":
        return None
    text = parse_text(value)
    if len(text) > _MAX_PAGE_URL or _PAGE_URL.match(text) is None:
        raise ValueError('write the whole URL of a page, like "https://pki.corp.internal/terms/2026-11"')
    return text


def _parse_origin(scheme: str, value: object, *, other_scheme: str) -> str:
    """`scheme://host[:port]`, canonical: lower case, no path, no port where it is the scheme's own.

    Clients take URLs apart and put them together again, and drop a default port then; what they sign has to be what we
    expect, byte for byte (RULES §1).

    1. the scheme, 2. no user name, 3. no path, 4. the host, 5. the port
    """
    allowed = f'write "{scheme}://host" or "{scheme}://host:port"'
    match = _ORIGIN.match(parse_text(value))
    if match is None:
        raise ValueError(allowed)
    # Step 1
    if match["scheme"].lower() != scheme:
        raise ValueError(f"{other_scheme}; {allowed}")
    # Step 2
    if "@" in match["authority"]:
        raise ValueError(f"a user name or a password has no place in it; {allowed}")
    # Step 3
    if match["rest"] not in {"", "/"}:
        raise ValueError(f"it ends behind the host and the port, without a path; {allowed}")
    parts = _AUTHORITY.match(match["authority"])
    if parts is None or not parts["host"]:
        raise ValueError(f"{allowed}, an IPv6 address in brackets")
    # Step 4
    host = _parse_host(parts["host"])
    # Step 5
    port = _DEFAULT_PORTS[scheme] if parts["port"] is None else parse_port(int(parts["port"]))
    return f"{scheme}://{host}" + ("" if port == _DEFAULT_PORTS[scheme] else f":{port}")


def _parse_host(text: str) -> str:
    """A host of a URL: a canonical name, an IPv4 address, or an IPv6 address in brackets."""
    if text.startswith("["):
        return f"[{canonical_ip(text[1:-1].lower())}]"
    if text[-1].isdigit():
        return canonical_ip(text)
    if "*" in text:
        raise ValueError("a host is one name, without a wildcard")
    return canonical_dns_name(text)


def parse_listen_address(value: object) -> ListenAddress:
    """`host:port` to listen on; `*` or no host means every address."""
    if isinstance(value, ListenAddress):
        return value
    allowed = 'write "host:port", like "*:8443", "10.0.0.5:8443", "[::1]:8443" or "localhost:8443"'
    parts = _AUTHORITY.match(value) if isinstance(value, str) else None
    if parts is None or parts["port"] is None:
        raise ValueError(allowed)
    port = parse_port(int(parts["port"]))
    host = parts["host"]
    if host in {"", "*"}:
        return ListenAddress("", port)
    try:
        return ListenAddress(_parse_host(host).strip("[]"), port)
    except ValueError as error:
        raise ValueError(f"{error}; {allowed}") from None


def parse_network(value: object) -> Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    allowed = 'write a network, like "10.0.0.0/8" or "fd00::/8"'
    if not isinstance(value, str):
        raise ValueError(allowed)  # noqa: TRY004  (as above)
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise ValueError(allowed) from None
    raise ValueError(f'it has bits set behind its prefix; write "{network}"')


def parse_resolver(value: object) -> Server:
    if isinstance(value, tuple):
        address, port = value
        return address, port
    try:
        return parse_server(parse_text(value))
    except ValueError:
        raise ValueError('write an address, like "10.0.0.53", "10.0.0.53:5353" or "[fd00::53]:5353"') from None


def parse_zone(value: object) -> str:
    """A name that stands for itself and for everything below it, canonical."""
    text = parse_text(value)
    if text.startswith("*."):
        raise ValueError(f'a zone is its name alone, and holds everything below it; write "{text[2:]}"')
    if "*" in text:
        raise ValueError('write a zone\'s name, like "corp.internal"')
    return canonical_dns_name(text)


def parse_host_name(value: object) -> str:
    """A single name that is looked up, canonical."""
    text = parse_text(value)
    if "*" in text:
        raise ValueError('write one name, without a wildcard, like "db1.corp.internal"')
    name = canonical_dns_name(text)
    if is_loopback_name(name):
        raise ValueError("it is loopback always (RFC 6761), and cannot be given another address")
    return name


def parse_host_address(value: object) -> IPAddress:
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return value
    try:
        return ipaddress.ip_address(canonical_ip(parse_text(value)))
    except ValueError as error:
        raise ValueError(f'{error}; write an address, like "10.0.0.7" or "fd00::7"') from None


def table_like(example: str) -> Callable[[object], object]:
    """A check of a table before its entries are looked at; `example` is what a person may write."""

    def check(value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"write a table, like {example}")  # noqa: TRY004  (as above)
        names = [str(name).lower() for name in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:  # TOML takes names that differ in capitals alone; one of them would be lost
            raise ValueError(f'"{twice}" stands in it twice, and capitals make no difference')
        return value

    return check


def parse_allowed_name(value: object) -> str:
    """An entry of the allow-list, canonical."""
    return parse_name_pattern(parse_text(value))


def parse_challenge_type(value: object) -> ChallengeType:
    """A challenge type, as the protocol writes it."""
    allowed = [type_.value for type_ in ChallengeType]
    text = parse_text(value)
    if text not in allowed:
        raise ValueError(f"write one of {', '.join(allowed)}")
    return ChallengeType(text)


# --- files --------------------------------------------------------------------------------------------------------


def parse_directory(value: object) -> Path:
    """An absolute path; a relative one is meant from the working directory."""
    text = str(value) if isinstance(value, Path) else parse_text(value)
    if not text or not text.isprintable():
        raise ValueError('write a directory, like "/var/lib/acmeca"')
    if text.startswith("~"):
        raise ValueError('"~" is not expanded here; write the whole path, like "/var/lib/acmeca"')
    path = Path(text).absolute()
    room = _MAX_SOCKET_PATH - _SOCKET_ROOM
    if len(bytes(path)) > room:
        raise ValueError(f"it is too long for the Unix socket in it: at most {room} bytes are allowed ({path})")
    return path


def parse_directory_below(value: object) -> Path:
    """A directory; a relative one is meant from data_dir."""
    text = str(value) if isinstance(value, Path) else parse_text(value)
    if not text or not text.isprintable():
        raise ValueError('write a directory, like "journal" (in data_dir) or "/srv/acmeca/journal"')
    if text.startswith("~"):
        raise ValueError('"~" is not expanded here; write the whole path, like "/srv/acmeca/journal"')
    return Path(text)


def parse_file(value: object) -> Path:
    """The absolute path of a file; whether it can be read is seen when it is."""
    path = Path(value if isinstance(value, Path) else parse_text(value))
    if not path.is_absolute():
        raise ValueError('write the whole path, like "/usr/share/openssl-blacklist/blacklist.RSA-2048"')
    return path


def parse_storage_url(value: object) -> str:
    """`sqlite:///path`, or `postgresql://user@host,host/database` (`PostgresUrl`)."""
    allowed = (
        'write "sqlite:///acmeca.db" (three slashes: a path in data_dir), or four slashes and an absolute path,'
        ' or "postgresql://acmeca@db.corp.internal/acmeca"'
    )
    text = parse_text(value)
    path = text.removeprefix("sqlite:///")
    if text.startswith(("postgresql:", "postgres:")):
        PostgresUrl.parse(text)
        return text
    if path == text or not path.strip("/") or path.endswith("/"):
        raise ValueError(allowed)
    if not path.isprintable() or any(character in path for character in "?#:"):
        raise ValueError(f"options and special names have no place in it; {allowed}")
    return text
