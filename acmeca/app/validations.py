"""The table of validations, and the check of CAA records: what the configuration asks for, made once (RFC 8555 §8, RFC 8659)."""

from collections.abc import Callable, Collection, Mapping

from acmeca import __version__
from acmeca.acme.objects import ChallengeType
from acmeca.config import Config
from acmeca.policy.caa import CaaPolicy
from acmeca.service.caa import Caa
from acmeca.service.validations import Dns01, DnsAccount01, Http01, TlsAlpn01, Validation
from acmeca.validation.caa import CaaObserver
from acmeca.validation.dialler import Dialler
from acmeca.validation.dns01 import TxtObserver
from acmeca.validation.dns_client import DnsClient
from acmeca.validation.http01 import Http01Validator
from acmeca.validation.networks import Endpoint
from acmeca.validation.resolver import HOSTS_FILE, Resolver, build_resolver
from acmeca.validation.servers import build_servers
from acmeca.validation.tlsalpn01 import TlsAlpn01Validator


def build_dns_client(config: Config) -> DnsClient:
    """Asks whom the configuration names, for whatever a validation looks up."""
    return DnsClient(build_servers(config.validation.resolvers, config.validation.zones))


def build_validations(
    config: Config, client: DnsClient, *, own_endpoints: Callable[[], Collection[Endpoint]]
) -> Mapping[ChallengeType, Validation]:
    """A validation for every challenge type there is, offered or not. `own_endpoints` are our listeners, never connected to."""
    validation = config.validation
    dialler = Dialler(
        resolver=_resolver(config, client),
        allowed_networks=validation.allowed_networks,
        own_endpoints=own_endpoints,
        own_urls=(config.urls.base, config.urls.status),
    )
    records = TxtObserver(client)
    return {
        ChallengeType.HTTP_01: Http01(
            Http01Validator(
                dialler,
                user_agent=f"acmeca/{__version__} (http-01 validation)",
                http_port=validation.http_port,
            )
        ),
        ChallengeType.TLS_ALPN_01: TlsAlpn01(TlsAlpn01Validator(dialler, port=validation.tls_alpn_port)),
        ChallengeType.DNS_01: Dns01(records),
        ChallengeType.DNS_ACCOUNT_01: DnsAccount01(records),
    }


def build_caa(config: Config, client: DnsClient) -> Caa:
    """The check of CAA records; without identities it asks nobody."""
    policy = CaaPolicy(config.policy.caa_identities, config.policy.caa_zones)
    return Caa(policy, observer=CaaObserver(client), urls=config.urls)


def _resolver(config: Config, client: DnsClient) -> Resolver:
    validation = config.validation
    return build_resolver(
        client,
        hosts=validation.hosts,
        zones=validation.zones,
        hosts_file=None if validation.resolvers else HOSTS_FILE,
    )
