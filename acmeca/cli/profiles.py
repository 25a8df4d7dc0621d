"""`acmeca profiles`: the kinds of certificates that clients may ask for, as the configuration has them."""

from pathlib import Path

import click
from rich.text import Text

from acmeca.cli.options import json_option
from acmeca.cli.output import examples, print_json, print_line, print_table
from acmeca.config import find_config, format_duration, load_config
from acmeca.policy.keys import KeyType
from acmeca.policy.profiles import Profile, Usage


@click.command(
    short_help="List the profiles that clients may ask for.",
    epilog=examples("acmeca profiles", "acmeca profiles --json | jq -r '.profiles[].name'"),
)
@json_option
@click.pass_obj
def profiles(config_path: Path | None, *, as_json: bool) -> None:
    """List the profiles that clients may ask for: how long certificates live, and what they are for.

    They are read from the configuration and the environment; a running server has those of its start. A client that asks for
    none gets the one that is marked. `acmeca show SERIAL` says which one a certificate was made by.
    """
    offer = load_config(find_config(config_path)).profiles
    if as_json:
        print_json({"profiles": [_document(profile, offer.default) for profile in offer.profiles.values()]})
        return
    print_table(
        ("profile", "lifetime", "usages", "subject", "challenges", "for"),
        [
            (
                Text(profile.name, "bold" if profile.name == offer.default else ""),
                Text(_lifetime(profile)),
                Text(", ".join(_usages(profile)) + (", staples" if profile.must_staple else "")),
                Text(_subject(profile)),
                Text(" ".join(profile.challenges)),
                _names(profile) or ["every name of policy"],
            )
            for profile in offer.profiles.values()
        ],
    )
    print_line(f"{offer.default} is for orders that ask for none.", stderr=True)


def _document(profile: Profile, default: str) -> dict[str, object]:
    """For programs; durations are in seconds, and what is not narrowed or not there is null."""
    return {
        "name": profile.name,
        "default": profile.name == default,
        "id": profile.id,
        "description": profile.description,
        "lifetime": int(profile.lifetime.total_seconds()),
        "maximum_lifetime": int(profile.maximum_lifetime.total_seconds()),
        "key_types": [type_.value for type_ in KeyType if type_ in profile.key_types],
        "usages": _usages(profile),
        "common_name": profile.common_name,
        "organization": profile.organization,
        "organizational_unit": profile.organizational_unit,
        "must_staple": profile.must_staple,
        "challenges": [type_.value for type_ in profile.challenges],
        "allowed_names": None if profile.allowed_names is None else list(profile.allowed_names),
        "allowed_networks": (
            None if profile.allowed_networks is None else [str(network) for network in profile.allowed_networks]
        ),
    }


def _lifetime(profile: Profile) -> str:
    longest = "" if profile.maximum_lifetime == profile.lifetime else f" to {format_duration(profile.maximum_lifetime)}"
    return f"{format_duration(profile.lifetime)}{longest}"


def _usages(profile: Profile) -> list[str]:
    return [usage.value for usage in Usage if usage in profile.usages]


def _subject(profile: Profile) -> str:
    """As RFC 4514 would have it, as far as it is fixed."""
    parts = (
        ("O", profile.organization),
        ("OU", profile.organizational_unit),
        ("CN", "a name" if profile.common_name else None),
    )
    return ", ".join(f"{key}={text}" for key, text in parts if text is not None) or "-"


def _names(profile: Profile) -> list[str]:
    return [*(profile.allowed_names or ()), *(str(network) for network in profile.allowed_networks or ())]
