"""The sections of the configuration, each key with its type, its default and its limits.

Rule 1: what has no safe default has no default: the allow-list of names, and the URLs that clients and certificates carry.
Rule 2: a check that needs two keys stands at the second of them, so that it is told with the rest, under a key.
Rule 3: each key that has to be written carries an example, for messages and for the reference.
"""

from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
)

from acmeca.acme.objects import ChallengeType
from acmeca.config.profiles import Surroundings, build_offer
from acmeca.config.values import (
    ListenAddress,
    ca_name_up_to,
    duration_between,
    format_duration,
    never_or,
    parse_allowed_name,
    parse_base_url,
    parse_bool,
    parse_challenge_type,
    parse_directory,
    parse_directory_below,
    parse_file,
    parse_host_address,
    parse_host_name,
    parse_limit,
    parse_listen_address,
    parse_network,
    parse_page_url,
    parse_port,
    parse_resolver,
    parse_status_url,
    parse_storage_url,
    parse_text,
    parse_workers,
    parse_zone,
    table_like,
    zero_or,
)
from acmeca.policy.lifetimes import DEFAULT_CONTROL
from acmeca.policy.limits import Limit, Rate
from acmeca.policy.names import Network
from acmeca.policy.offer import Offer
from acmeca.policy.profiles import LONGEST_LIFETIME, SERVER, SHORTEST_LIFETIME
from acmeca.policy.suffixes import parse_own_top_level, refuse_suffix
from acmeca.storage.postgres_url import PostgresUrl
from acmeca.urls import Urls
from acmeca.validation.networks import IPAddress
from acmeca.validation.servers import Server

DEFAULT_CHALLENGES: Final = (
    ChallengeType.HTTP_01,
    ChallengeType.TLS_ALPN_01,
    ChallengeType.DNS_01,
    ChallengeType.DNS_ACCOUNT_01,
)

PRIVATE_NETWORKS: Final = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)

_Item = TypeVar("_Item")


def _owned(pattern: str, info: ValidationInfo) -> str:
    # RULES §3: public names are refused by default
    reason = refuse_suffix(pattern, info.data.get("private_top_level", ()))
    if reason is not None:
        raise ValueError(reason)
    return pattern


def _not_empty(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("without an entry nothing could be issued; write at least one name")
    return names


def _needs_identity(zones: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    if zones and not info.data.get("caa_identities", True):  # absent when it is a mistake itself
        raise ValueError("CAA is not looked at without caa_identities: write the name that means this CA there")
    return zones


def _some_entry(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    if not items:
        raise ValueError("write at least one address, or leave the name out")
    return items


def _other_port(address: ListenAddress, info: ValidationInfo) -> ListenAddress:
    return _require_apart(address, info, "acme_listen")


def _own_port(address: ListenAddress, info: ValidationInfo) -> ListenAddress:
    return _require_apart(_require_apart(address, info, "acme_listen"), info, "status_listen")


def _require_apart(address: ListenAddress, info: ValidationInfo, key: str) -> ListenAddress:
    other = info.data.get(key)
    if (
        other is not None
        and other.port == address.port
        and (other.host == address.host or not other.host or not address.host)
    ):
        raise ValueError(f"{key} is {other}: two listeners cannot share a port; give one of them another")
    return address


def _fits_lifetime(interval: timedelta, info: ValidationInfo) -> timedelta:
    lifetime = info.data.get("crl_lifetime")
    if lifetime is not None and interval * 2 > lifetime:
        raise ValueError(
            f"with a crl_lifetime of {format_duration(lifetime)} at most {format_duration(lifetime / 2)} is allowed, so "
            "that one CRL that could not be made does no harm"
        )
    return interval


def _each_once(types: tuple[ChallengeType, ...]) -> tuple[ChallengeType, ...]:
    if not types:
        raise ValueError("without an entry nothing could be issued; write at least one challenge type")
    if len(set(types)) < len(types):
        raise ValueError("each challenge type may stand in it once")
    return types


def _has_terms(again: bool, info: ValidationInfo) -> bool:  # noqa: FBT001  (pydantic passes it)
    if again and info.data.get("terms_of_service") is None:
        raise ValueError("there are no terms to agree to: terms_of_service is not set")
    return again


Bool = Annotated[bool, BeforeValidator(parse_bool)]
Port = Annotated[int, BeforeValidator(parse_port)]
Address = Annotated[ListenAddress, BeforeValidator(parse_listen_address)]
AllowedName = Annotated[str, BeforeValidator(parse_allowed_name), AfterValidator(_owned)]
OwnTopLevel = Annotated[str, BeforeValidator(parse_allowed_name), AfterValidator(parse_own_top_level)]
AllowedNetwork = Annotated[Network, BeforeValidator(parse_network)]
OfferedType = Annotated[ChallengeType, BeforeValidator(parse_challenge_type)]
RateOrOff = Annotated[Rate | None, BeforeValidator(parse_limit)]
ResolverAddress = Annotated[Server, BeforeValidator(parse_resolver)]
Zone = Annotated[str, BeforeValidator(parse_zone)]
HostName = Annotated[str, BeforeValidator(parse_host_name)]
HostAddress = Annotated[IPAddress, BeforeValidator(parse_host_address)]


def _duration(low: timedelta, high: timedelta) -> BeforeValidator:
    return BeforeValidator(duration_between(low, high))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSection(_Section):
    """`[server]`: who we are and where we listen."""

    base_url: Annotated[
        str, BeforeValidator(parse_base_url), Field(examples=['base_url = "https://ca.corp.internal:8443"'])
    ]
    status_url: Annotated[
        str, BeforeValidator(parse_status_url), Field(examples=['status_url = "http://ca.corp.internal:8080"'])
    ]
    data_dir: Annotated[Path, BeforeValidator(parse_directory)] = Path("/var/lib/acmeca")
    acme_listen: Address = ListenAddress("", 8443)
    status_listen: Annotated[Address, AfterValidator(_other_port), Field(validate_default=True)] = ListenAddress(
        "", 8080
    )
    admin_listen: Annotated[Address, AfterValidator(_own_port)] = ListenAddress("localhost", 9443)
    workers: Annotated[int, BeforeValidator(parse_workers)] = 1
    terms_of_service: Annotated[str | None, BeforeValidator(parse_page_url)] = None
    terms_must_be_agreed_again: Annotated[Bool, AfterValidator(_has_terms)] = False
    cors: Bool = True
    demo: Bool = False

    @property
    def is_admin_listen_asked_for(self) -> bool:
        """Whether the key was written: the default may be gone without, what was asked for may not."""
        return "admin_listen" in self.model_fields_set


class CaSection(_Section):
    """`[ca]`: what a new CA is called. Read by `init` only."""

    organization: Annotated[str, BeforeValidator(ca_name_up_to(64))] = "Internal"
    common_name: Annotated[str, BeforeValidator(ca_name_up_to(48))] = "Internal CA"  # with room for " Intermediate"


class PolicySection(_Section):
    """`[policy]`: who may have what."""

    private_top_level: tuple[OwnTopLevel, ...] = ()
    allowed_names: Annotated[
        tuple[AllowedName, ...], AfterValidator(_not_empty), Field(examples=['allowed_names = ["*.corp.internal"]'])
    ]
    wildcards: Bool = False
    allowed_networks: tuple[AllowedNetwork, ...] = ()
    lifetime: Annotated[timedelta, _duration(SHORTEST_LIFETIME, LONGEST_LIFETIME)] = timedelta(days=90)
    authorization_lifetime: Annotated[
        timedelta, BeforeValidator(zero_or(duration_between(timedelta(hours=1), timedelta(days=90))))
    ] = DEFAULT_CONTROL
    external_account_required: Bool = False
    default_profile: Annotated[str, BeforeValidator(parse_text)] = SERVER
    weak_key_lists: tuple[Annotated[Path, BeforeValidator(parse_file)], ...] = ()
    caa_identities: tuple[Zone, ...] = ()
    caa_zones: Annotated[tuple[Zone, ...], AfterValidator(_needs_identity)] = ()


class ValidationSection(_Section):
    """`[validation]`: how control is checked."""

    challenges: Annotated[tuple[OfferedType, ...], AfterValidator(_each_once)] = DEFAULT_CHALLENGES

    allowed_networks: tuple[AllowedNetwork, ...] = PRIVATE_NETWORKS
    resolvers: tuple[ResolverAddress, ...] = ()
    zones: Annotated[
        dict[Zone, Annotated[tuple[ResolverAddress, ...], AfterValidator(_some_entry)]],
        BeforeValidator(table_like('{"corp.internal" = ["10.0.0.53"]}')),
    ] = {}
    hosts: Annotated[
        dict[HostName, Annotated[tuple[HostAddress, ...], AfterValidator(_some_entry)]],
        BeforeValidator(table_like('{"db1.corp.internal" = ["10.0.0.7"]}')),
    ] = {}
    http_port: Port = 80
    tls_alpn_port: Port = 443


class LimitsSection(_Section):
    """`[limits]`: how often something may be done (RFC 8555 §6.6). The keys are the values of `policy.limits.Limit`."""

    new_accounts_per_address: RateOrOff = Rate(20_000, 86_400)
    new_orders_per_account: RateOrOff = Rate(20_000, 3_600)
    certificates_per_name: RateOrOff = None
    failed_validations_per_account_and_name: RateOrOff = Rate(60, 3_600)

    @property
    def rates(self) -> dict[Limit, Rate]:
        """Those that are not off."""
        rates = {limit: getattr(self, limit.value) for limit in Limit if limit.value in type(self).model_fields}
        return {limit: rate for limit, rate in rates.items() if rate is not None}


class StatusSection(_Section):
    """`[status]`: how long status information lives."""

    ocsp_lifetime: Annotated[timedelta, _duration(timedelta(minutes=10), timedelta(days=7))] = timedelta(hours=12)
    crl_lifetime: Annotated[timedelta, _duration(timedelta(hours=1), timedelta(days=30))] = timedelta(hours=24)
    crl_interval: Annotated[
        timedelta,
        _duration(timedelta(minutes=1), timedelta(days=7)),
        AfterValidator(_fits_lifetime),
        Field(validate_default=True),
    ] = timedelta(hours=6)


class RenewalSection(_Section):
    """`[renewal]`: what clients are told about when to renew (RFC 9773)."""

    # RFC 9773 §4.3.2: clients may take less than a minute for a minute, and more than a day for a day.
    retry_after: Annotated[timedelta, _duration(timedelta(minutes=1), timedelta(days=1))] = timedelta(hours=6)


class StorageSection(_Section):
    """`[storage]`: where everything is kept."""

    # A password may stand in it, so it is not printed with the rest of the configuration.
    url: Annotated[str, BeforeValidator(parse_storage_url), Field(repr=False)] = "sqlite:///acmeca.db"
    journal: Annotated[Path, BeforeValidator(parse_directory_below)] = Path("journal")

    @property
    def postgres(self) -> PostgresUrl | None:
        """The address of a PostgreSQL database; None for an SQLite one."""
        return None if self.url.startswith("sqlite:") else PostgresUrl.parse(self.url)


class RetentionSection(_Section):
    """`[retention]`: for how long what has ended is kept."""

    orders: Annotated[timedelta, _duration(timedelta(days=1), timedelta(days=3650))] = timedelta(days=30)
    # CRLs and OCSP answers live for 30 days at the most: by then no copy of one is left that calls the certificate good.
    certificates: Annotated[
        timedelta | None, BeforeValidator(never_or(duration_between(timedelta(days=30), timedelta(days=3650))))
    ] = None


def _offer(tables: object, info: ValidationInfo) -> Offer:
    """Every `[profiles.NAME]`, as far as the sections that profiles narrow can be read."""
    policy, validation = info.data.get("policy"), info.data.get("validation")
    if not isinstance(policy, PolicySection) or not isinstance(validation, ValidationSection):
        return build_offer(tables, None)
    surroundings = Surroundings(
        default=policy.default_profile,
        lifetime=policy.lifetime,
        challenges=validation.challenges,
        allowed_names=policy.allowed_names,
        allowed_networks=policy.allowed_networks,
    )
    return build_offer(tables, surroundings)


def _plain(offer: Offer) -> dict[str, str]:
    return {name: profile.document for name, profile in offer.profiles.items()}


class Config(_Section):
    """The whole configuration."""

    server: ServerSection
    ca: CaSection = CaSection()
    policy: PolicySection
    validation: ValidationSection = ValidationSection()
    profiles: Annotated[Offer, PlainValidator(_offer), PlainSerializer(_plain), Field(validate_default=True)] = {}  # type: ignore[assignment]  # an Offer once it is validated, as every default is
    limits: LimitsSection = LimitsSection()
    status: StatusSection = StatusSection()
    renewal: RenewalSection = RenewalSection()
    storage: StorageSection = StorageSection()
    retention: RetentionSection = RetentionSection()

    @property
    def urls(self) -> Urls:
        return Urls(base=self.server.base_url, status=self.server.status_url)

    @property
    def database_path(self) -> Path | None:
        """The database's file; None when a database server has it."""
        path = self.storage.url.removeprefix("sqlite:///")
        return None if path == self.storage.url else self.server.data_dir / path

    @property
    def journal_dir(self) -> Path:
        return self.server.data_dir / self.storage.journal


PROFILES: Final = "profiles"
"""The one part of it that is no section: a table for each profile."""

SECTIONS: Final[dict[str, type[BaseModel]]] = {
    name: section
    for name, field in Config.model_fields.items()
    if isinstance(section := field.annotation, type) and issubclass(section, BaseModel)
}
"""Every section by its name."""
