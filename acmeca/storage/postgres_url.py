"""The address of a PostgreSQL database: `postgresql://user@host1,host2:5433/database?sslmode=verify-full`.

Rule 1: what is wrong is said here, before anything is dialled, and without the password.
Rule 2: only what says where the database is and how the connection is secured may stand in it. How a session works is the
driver's: an option like `synchronous_commit` in an address would undo what it promises.
"""

import re
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

_EXAMPLE: Final = 'write it like "postgresql://acmeca@db1.corp.internal,db2.corp.internal/acmeca"'
_DEFAULT_PORT: Final = 5432
_OPTIONS: Final = frozenset(
    {
        "host", "port", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl",
        "sslnegotiation", "ssl_min_protocol_version", "ssl_max_protocol_version",
    }
)  # fmt: skip
_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_HOST: Final = re.compile(
    r"\[(?P<address>[0-9A-Fa-f:.]+)\](?::(?P<port6>\d+))?|(?P<name>[^:\[\]\s]+)(?::(?P<port>\d+))?"
)


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """One database on one or several hosts, of which one takes writes at a time.

    `hosts` are names, addresses or directories of Unix sockets, each with its port; empty: what `PGHOST` or the platform
    says. `password` is None where a `passfile`, `PGPASSFILE`, `PGPASSWORD` or the server's own rules supply it.
    """

    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[tuple[str, int], ...]
    database: str
    options: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError with what is allowed, and never with the password."""
        if not text.isprintable() or " " in text:
            raise ValueError(f"spaces and control characters are written as %20 and so on in it; {_EXAMPLE}")
        if not text.startswith(("postgresql://", "postgres://")):
            raise ValueError(_EXAMPLE)
        try:
            parts = urlsplit(text)
            pairs = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
        except ValueError:  # its text may hold the password
            raise ValueError(f"it is no URL: {_EXAMPLE}") from None
        authority, has_user, host_list = parts.netloc.rpartition("@")
        # Where a password holds one of these as it is, a part of it stands where the host should: nothing of that is printed.
        if "@" in authority + parts.path + parts.query or parts.fragment:
            raise ValueError('in a user\'s name or a password write %2F for "/", %3F for "?", %23 for "#", %40 for "@"')
        user, _, password = authority.partition(":")
        database = unquote(parts.path.removeprefix("/"))
        if not database or "/" in database:
            raise ValueError(f"it has to end in the name of one database; {_EXAMPLE}")
        options = _parse_options(pairs)
        return cls(
            user=unquote(user) if has_user and user else None,
            password=unquote(password) if password else None,
            hosts=_parse_hosts(host_list or options.pop("host", ""), options.pop("port", "")),
            database=database,
            options=tuple(options.items()),
        )

    @property
    def dsn(self) -> str:
        """What asyncpg reads, without hosts: one of them is given to it at a time. It holds the password."""
        authority = quote(self.user or "", safe="")
        if self.password is not None:
            authority += ":" + quote(self.password, safe="")
        return f"postgresql://{authority}{'@' if authority else ''}/{quote(self.database, safe='')}{self._query()}"

    @property
    def redacted(self) -> str:
        """The address for a log or a message: everything but the password."""
        user = "" if self.user is None else quote(self.user, safe="") + "@"
        hosts = ",".join(print_host(host, port) for host, port in self.hosts)
        return f"postgresql://{user}{hosts}/{quote(self.database, safe='')}{self._query()}"

    def _query(self) -> str:
        return f"?{urlencode(self.options)}" if self.options else ""


def print_host(host: str, port: int) -> str:
    """`db1`, `db1:5433`, `[::1]:5433`, `%2Frun%2Fpostgresql`."""
    printed = f"[{host}]" if ":" in host else quote(host, safe="")
    return printed if port == _DEFAULT_PORT else f"{printed}:{port}"


def _parse_options(pairs: list[tuple[str, str]]) -> dict[str, str]:
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ValueError("an option stands in it twice")
    if "password" in options:
        raise ValueError("a password stands before the host, or better in a file that PGPASSFILE or passfile= names")
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ValueError(f"it has the option {unknown[0]!r}; those allowed are {', '.join(sorted(_OPTIONS))}")
    if options.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError(f"sslmode is one of {', '.join(_SSL_MODES)}")
    return options


def _parse_hosts(text: str, port_text: str) -> tuple[tuple[str, int], ...]:
    """`db1,db2:5433,[::1]`; `port_text` is the port of those that name none."""
    default = _parse_port(port_text) if port_text else _DEFAULT_PORT
    hosts = []
    for item in text.split(",") if text else ():
        match = _HOST.fullmatch(unquote(item))
        if match is None:
            # Behind the colon may be a password: of an address without a host, or with the user in ?host=.
            shown = unquote(item).partition(":")[0]
            raise ValueError(
                f"{shown!r} with what follows it is no host, nor host:port (an IPv6 address stands in brackets); {_EXAMPLE}"
            )
        port = match["port"] or match["port6"]
        hosts.append((match["address"] or match["name"], _parse_port(port) if port else default))
    return tuple(hosts)


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 16:
        raise ValueError(f"{text!r} is no port: 1 to 65535 are allowed")
    return int(text)
