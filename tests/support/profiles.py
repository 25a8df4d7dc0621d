"""Profiles for tests, each with what it changes of the one that is shipped as `server`."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from acmeca.acme.objects import ChallengeType
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.keys import KeyType
from acmeca.policy.offer import Offer
from acmeca.policy.profiles import Profile, Usage
from acmeca.service.services import Services

DAY: Final = timedelta(days=1)


def make_profile(**changes: Any) -> Profile:
    """A profile of 90 days for TLS servers, any key and any name."""
    defaults: dict[str, Any] = {
        "name": "server",
        "description": "TLS server, 90d",
        "lifetime": 90 * DAY,
        "key_types": frozenset(KeyType),
        "usages": frozenset({Usage.SERVER}),
        "common_name": False,
        "organization": None,
        "organizational_unit": None,
        "must_staple": False,
        "challenges": (ChallengeType.HTTP_01,),
        "allowed_names": None,
        "allowed_networks": None,
    }
    values = defaults | changes
    values.setdefault("maximum_lifetime", values["lifetime"])
    return Profile(**values)


def offer_challenges(services: Services, *types: ChallengeType) -> None:
    """Have these challenge types offered from now on, by every profile, as if the configuration named them."""
    services.orders._challenges = services.challenges._policy = ChallengePolicy(types)
    offer = services.profiles.offer
    profiles = {name: replace(profile, challenges=types) for name, profile in offer.profiles.items()}
    services.profiles.offer = Offer(profiles, offer.default)
