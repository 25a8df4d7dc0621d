"""The table of validations: what the configuration asks for of each challenge type, made once (RFC 8555 §8)."""

from collections.abc import Callable, Collection, Mapping

from acmeca import __version__
from acmeca.acme.objects import ChallengeType
from acmeca.config import Config
from acmeca.service.validations import Http01, TlsAlpn01, Validation
from acmeca.validation.dialler import Dialler
from acmeca.validation.dns_client import DnsClient
from acmeca.validation.http01 import Http01Validator
from acmeca.validation.networks import Endpoint
from acmeca.validation.resolver import HOSTS_FILE, Resolver, build_resolver
from acmeca.validation.servers import build_servers
from acmeca.validation.tlsalpn01 import TlsAlpn01Validator


def build_validations(
    config: Config, *, own_endpoints: Callable[[], Collection[Endpoint]]
) -> Mapping[ChallengeType, Validation]:
    """A validation for every challenge type there is, offered or not. `own_endpoints` are our listeners, never connected to."""
    validation = config.validation
    dialler = Dialler(
        resolver=_resolver(config, _dns_client(config)),
        allowed_networks=validation.allowed_networks,
        own_endpoints=own_endpoints,
        own_urls=(config.urls.base, config.urls.status),
    )
    return {
        ChallengeType.HTTP_01: Http01(
            Http01Validator(
                dialler,
                user_agent=f"acmeca/{__version__} (http-01 validation)",
                http_port=validation.http_port,
            )
        ),
        ChallengeType.TLS_ALPN_01: TlsAlpn01(TlsAlpn01Validator(dialler, port=validation.tls_alpn_port)),
    }


def _dns_client(config: Config) -> DnsClient:
    return DnsClient(build_servers(config.validation.resolvers, config.validation.zones))


def _resolver(config: Config, client: DnsClient) -> Resolver:
    validation = config.validation
    return build_resolver(
        client,
        hosts=validation.hosts,
        zones=validation.zones,
        hosts_file=None if validation.resolvers else HOSTS_FILE,
    )
