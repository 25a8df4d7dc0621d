"""The table of validations: what the configuration asks for of each challenge type, made once (RFC 8555 §8)."""

from collections.abc import Callable, Collection, Mapping

from acmeca import __version__
from acmeca.acme.objects import ChallengeType
from acmeca.config import Config
from acmeca.service.validations import Http01, Validation
from acmeca.validation.http01 import Http01Validator
from acmeca.validation.networks import Endpoint
from acmeca.validation.resolver import build_resolver


def build_validations(
    config: Config, *, own_endpoints: Callable[[], Collection[Endpoint]]
) -> Mapping[ChallengeType, Validation]:
    """A validation for every challenge type there is, offered or not. `own_endpoints` are our listeners, never connected to."""
    resolver = build_resolver(config.validation.resolvers)
    return {
        ChallengeType.HTTP_01: Http01(
            Http01Validator(
                resolver=resolver,
                allowed_networks=config.validation.allowed_networks,
                own_endpoints=own_endpoints,
                own_urls=(config.urls.base, config.urls.status),
                user_agent=f"acmeca/{__version__} (http-01 validation)",
                http_port=config.validation.http_port,
            )
        ),
    }
