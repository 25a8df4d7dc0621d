"""The configuration: TOML, with the environment on top, to frozen and checked values.

Rule 1: every mistake is reported, all of them at once, each with its key path, the value and what is allowed.
Rule 2: an unknown key is a mistake: a misspelt limit must not look like a limit.
Rule 3: what has no safe default has no default: the allow-list of names, and the URLs that clients and certificates carry.
Rule 4: every key is documented in `conf/acmeca.toml`, and a test proves it.
"""

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from acmeca.errors import AcmecaError
from acmeca.policy.names import Network, parse_name_pattern
from acmeca.policy.profiles import DEFAULT_LIFETIME
from acmeca.urls import Urls
from acmeca.validation.resolver import Server, parse_server

ENVIRONMENT_PREFIX: Final = "ACMECA_"
SEARCH_PATH: Final = (Path("acmeca.toml"), Path("/etc/acmeca/acmeca.toml"))

_DURATION: Final = re.compile(r"(\d+)([smhd])\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class ConfigError(AcmecaError):
    """A configuration that cannot be used. `mistakes` is one line for each, with its key path."""

    def __init__(self, source: str, mistakes: list[str]) -> None:
        super().__init__("\n".join([f"{source}: {len(mistakes)} to mend:", *(f"  {mistake}" for mistake in mistakes)]))
        self.mistakes = tuple(mistakes)


def parse_duration(value: object) -> timedelta:
    """`90d`, `12h`, `5m`, `30s`. Raises `ValueError` with what is allowed."""
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or (match := _DURATION.match(value)) is None:
        raise ValueError('write a whole number and a unit (s, m, h, d), like "90d" or "12h"')
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def _origin(scheme: str, value: str) -> str:
    """`scheme://host[:port]`, canonical, without a path: what our URLs begin with."""
    allowed = f'"{scheme}://host" or "{scheme}://host:port" is allowed, without a path'
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError(allowed) from None
    if parts.scheme != scheme or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(allowed)
    if parts.username is not None or parts.password is not None:
        raise ValueError(allowed)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}" + ("" if port is None else f":{port}")


def _https_origin(value: str) -> str:
    return _origin("https", value)


def _http_origin(value: str) -> str:
    # RFC 5280 §8: fetching what a certificate's status needs over https asks for that status again, in a circle.
    return _origin("http", value)


def _address(value: str) -> tuple[str, int]:
    """`host:port` to listen on; an empty host or `*` means every address."""
    host, separator, port = value.rpartition(":")
    if not separator or not port.isdecimal() or not 0 < int(port) < 65536:  # noqa: PLR2004
        raise ValueError('write "host:port", like "0.0.0.0:8443", "[::]:8443" or "localhost:8443"')
    return host.strip("[]").replace("*", ""), int(port)


def _network(value: object) -> Network:
    if not isinstance(value, str):
        raise ValueError('write a network, like "10.0.0.0/8"')  # noqa: TRY004  (pydantic collects ValueErrors)
    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f'{error}; write a network, like "10.0.0.0/8" or "fd00::/8"') from None


def _server(value: object) -> Server:
    if not isinstance(value, str):
        raise ValueError('write an address, like "10.0.0.53" or "[fd00::53]:5353"')  # noqa: TRY004
    return parse_server(value)


def _storage_url(value: str) -> str:
    if not value.startswith("sqlite:///") or value == "sqlite:///":
        raise ValueError('"sqlite:///path" is allowed: three slashes for a path in data_dir, four for an absolute one')
    return value


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Port = Annotated[int, Field(ge=1, le=65535)]
Address = Annotated[
    tuple[str, int], BeforeValidator(lambda value: _address(value) if isinstance(value, str) else value)
]
AllowedName = Annotated[str, AfterValidator(parse_name_pattern)]
AllowedNetwork = Annotated[Network, BeforeValidator(_network)]
ResolverAddress = Annotated[Server, BeforeValidator(_server)]

PRIVATE_NETWORKS: Final = tuple(
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class ServerSection(_Section):
    """`[server]`: who we are and where we listen."""

    base_url: Annotated[str, AfterValidator(_https_origin)]
    status_url: Annotated[str, AfterValidator(_http_origin)]
    data_dir: Annotated[Path, AfterValidator(Path.absolute)] = Path("/var/lib/acmeca")
    acme_listen: Address = ("", 8443)
    status_listen: Address = ("", 8080)
    demo: bool = False


class CaSection(_Section):
    """`[ca]`: what a new CA is called. Read by `init` only."""

    organization: Annotated[str, Field(min_length=1, max_length=64)] = "Internal"
    common_name: Annotated[str, Field(min_length=1, max_length=48)] = "Internal CA"


class PolicySection(_Section):
    """`[policy]`: who may have what."""

    allowed_names: Annotated[tuple[AllowedName, ...], Field(min_length=1)]
    allowed_networks: tuple[AllowedNetwork, ...] = ()
    lifetime: Annotated[Duration, Field(ge=timedelta(minutes=10), le=timedelta(days=825))] = DEFAULT_LIFETIME


class ValidationSection(_Section):
    """`[validation]`: how control is checked."""

    allowed_networks: tuple[AllowedNetwork, ...] = PRIVATE_NETWORKS
    resolvers: tuple[ResolverAddress, ...] = ()
    http_port: Port = 80


class StatusSection(_Section):
    """`[status]`: how long status information lives."""

    ocsp_lifetime: Annotated[Duration, Field(ge=timedelta(minutes=10), le=timedelta(days=7))] = timedelta(hours=12)
    crl_lifetime: Annotated[Duration, Field(ge=timedelta(hours=1), le=timedelta(days=30))] = timedelta(hours=24)
    crl_interval: Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=7))] = timedelta(hours=6)

    @model_validator(mode="after")
    def _interval_fits(self) -> Self:
        if self.crl_interval * 2 > self.crl_lifetime:
            raise ValueError("crl_interval has to be at most half of crl_lifetime, so that one failed CRL does no harm")
        return self


class StorageSection(_Section):
    """`[storage]`: where everything is kept."""

    url: Annotated[str, AfterValidator(_storage_url)] = "sqlite:///acmeca.db"


class Config(_Section):
    """The whole configuration."""

    server: ServerSection
    ca: CaSection = CaSection()
    policy: PolicySection
    validation: ValidationSection = ValidationSection()
    status: StatusSection = StatusSection()
    storage: StorageSection = StorageSection()

    @property
    def urls(self) -> Urls:
        return Urls(base=self.server.base_url, status=self.server.status_url)

    @property
    def database_path(self) -> Path:
        return self.server.data_dir / self.storage.url.removeprefix("sqlite:///")


def environment_name(section: str, key: str) -> str:
    """The variable that overrides a key."""
    return f"{ENVIRONMENT_PREFIX}{section}__{key}".upper()


def find_config(path: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The configuration file: the one named, `$ACMECA_CONFIG`, `./acmeca.toml` or `/etc/acmeca/acmeca.toml`."""
    if path is not None:
        return path
    if environment.get("ACMECA_CONFIG"):
        return Path(environment["ACMECA_CONFIG"])
    for candidate in SEARCH_PATH:
        if candidate.is_file():
            return candidate
    raise ConfigError("configuration", ["no acmeca.toml here and none in /etc/acmeca; make one with: acmeca init"])


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read the file, put the environment on top, check everything. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [f"is no UTF-8: {error}"]) from None
    return parse_config(text, path, environment)


def parse_config(text: str, path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration that `text` would be as the file at `path`. Raises `ConfigError`.

    A relative `data_dir` in the file is meant from the file's directory, one in the environment from the working
    directory.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), [f"is no TOML: {error}"]) from None
    data_dir = document.get("server", {}).get("data_dir") if isinstance(document.get("server"), dict) else None
    if isinstance(data_dir, str):
        document["server"]["data_dir"] = str((path.parent / data_dir).resolve())
    mistakes = _override(document, environment)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        mistakes += [_mistake(item) for item in error.errors(include_url=False)]
        raise ConfigError(str(path), mistakes) from None
    if mistakes:
        raise ConfigError(str(path), mistakes)
    return config


def _override(document: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Put `ACMECA_SECTION__KEY` over the file's values; returns the mistakes in it."""
    mistakes = []
    for name, text in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        values = document.setdefault(section, {})
        if not isinstance(values, dict):
            continue  # the file's own mistake, reported with the rest
        value: object = text
        if text.lstrip().startswith("["):
            try:
                value = json.loads(text)
            except ValueError:
                mistakes.append(f'{name}: {text!r} is no list; write it as JSON, like ["a", "b"]')
                continue
        values[key] = value
    return mistakes


def _mistake(error: ErrorDetails) -> str:
    """One line: key path, value, what is allowed."""
    path = ".".join(str(part) for part in error["loc"]) or "the file"
    value = error.get("input")
    match error["type"]:
        case "missing":
            return f"{path}: missing; it has no default, see conf/acmeca.toml"
        case "extra_forbidden":
            return f"{path}: there is no such key; see conf/acmeca.toml for those there are"
        case "tuple_type":
            return f'{path}: got {value!r}; write a list, like ["a", "b"]'
        case "greater_than_equal" | "less_than_equal" if isinstance(value, str):
            limits = error.get("ctx", {})
            bound = limits.get("ge", limits.get("le"))
            return f"{path}: got {value!r}; {'at least' if 'ge' in limits else 'at most'} {bound} is allowed"
        case _:
            said = error["msg"].removeprefix("Value error, ")
            return f"{path}: {said}" if isinstance(value, dict) else f"{path}: got {value!r}; {said}"
