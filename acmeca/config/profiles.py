"""`[profiles.NAME]`: from tables to the profiles that are offered, or to all that is wrong with them.

Rule 1: what a table leaves out is what its profile is shipped with, else the default of the key; `enabled = false` takes a profile
away.
Rule 2: a profile narrows `[policy]` and `[validation]`. An entry that lies outside of them is a mistake, not a silence: nothing
would ever be issued for it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from acmeca.acme.objects import ChallengeType
from acmeca.config.values import (
    ca_name_up_to,
    duration_between,
    format_duration,
    parse_allowed_name,
    parse_bool,
    parse_challenge_type,
    parse_network,
    parse_text,
    parse_word,
)
from acmeca.policy.keys import KeyType
from acmeca.policy.names import NamePolicy, Network
from acmeca.policy.offer import Offer
from acmeca.policy.profiles import (
    LONGEST_LIFETIME,
    MAX_SUBJECT_PART,
    SHORTEST_LIFETIME,
    Profile,
    ProfileError,
    Usage,
)

_SHORT: Final = timedelta(hours=24)

SHIPPED: Final[Mapping[str, Mapping[str, object]]] = {
    "server": {},
    "short": {},
    "client": {"usages": ["client"], "common_name": True},
    "kubernetes": {"usages": ["server", "client"], "common_name": True},
}
"""The profiles that are there without being configured, with what differs from the defaults; `short` has its own lifetime."""

DEFAULT_PROFILE_MISTAKE: Final = "default_profile"
"""The type of the one mistake in here that is another section's: `policy.default_profile`."""


def _each_once(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:
        raise ValueError("without an entry nothing could be issued; write at least one")
    if len(set(items)) < len(items):
        raise ValueError("each may stand in it once")
    return items


_Lifetime = Annotated[timedelta, BeforeValidator(duration_between(SHORTEST_LIFETIME, LONGEST_LIFETIME))]
_Flag = Annotated[bool, BeforeValidator(parse_bool)]
_SubjectPart = Annotated[str, BeforeValidator(ca_name_up_to(MAX_SUBJECT_PART))]
_KeyType = Annotated[KeyType, BeforeValidator(parse_word(KeyType))]
_Usage = Annotated[Usage, BeforeValidator(parse_word(Usage))]
_ChallengeType = Annotated[ChallengeType, BeforeValidator(parse_challenge_type)]
_Name = Annotated[str, BeforeValidator(parse_allowed_name)]
_Network = Annotated[Network, BeforeValidator(parse_network)]


class ProfileSection(BaseModel):
    """One table. None is what is not written, and depends on other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: _Flag = True
    description: Annotated[str, BeforeValidator(parse_text)] | None = None
    lifetime: _Lifetime | None = None
    maximum_lifetime: _Lifetime | None = None
    key_types: Annotated[tuple[_KeyType, ...], AfterValidator(_each_once)] = tuple(KeyType)
    usages: Annotated[tuple[_Usage, ...], AfterValidator(_each_once)] = (Usage.SERVER,)
    common_name: _Flag = False
    organization: _SubjectPart | None = None
    organizational_unit: _SubjectPart | None = None
    must_staple: _Flag = False
    challenges: Annotated[tuple[_ChallengeType, ...], AfterValidator(_each_once)] | None = None
    allowed_names: tuple[_Name, ...] | None = None
    allowed_networks: tuple[_Network, ...] | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stands in `[policy]` and `[validation]`: what profiles take from there, and may narrow."""

    default: str
    lifetime: timedelta
    challenges: tuple[ChallengeType, ...]
    allowed_names: tuple[str, ...]
    allowed_networks: tuple[Network, ...]


_UNKNOWN: Final = Surroundings("", timedelta(days=90), tuple(ChallengeType), (), ())


def build_offer(tables: object, surroundings: Surroundings | None) -> Offer:
    """The profiles of the tables and those shipped.

    Raises `ValidationError` with all mistakes, each under the name of its profile and its key. Without surroundings, where these
    have mistakes of their own, each table is looked at for itself, and nothing of use comes out.
    """
    if not isinstance(tables, Mapping):
        raise ValueError("write a table for each profile, like [profiles.web]")  # noqa: TRY004  (pydantic collects ValueErrors)
    known = _UNKNOWN if surroundings is None else surroundings
    mistakes: list[InitErrorDetails] = []
    profiles: dict[str, Profile] = {}
    for name in dict.fromkeys((*SHIPPED, *tables)):
        written = tables.get(name, {})
        try:
            section = _read(name, written)
            mistakes += () if surroundings is None else _outside(name, section, surroundings)
            if section.enabled:
                profiles[name] = _build(name, section, known)
        except ValidationError as error:
            mistakes += [
                _mistake(item["type"], item["msg"], (name, *item["loc"]), item["input"])
                for item in error.errors(include_url=False)
            ]
        except ProfileError as error:
            mistakes += [
                _mistake("value_error", reason, (name,) if key == "name" else (name, key), _written(written, key, name))
                for key, reason in error.mistakes
            ]
    broken = {mistake["loc"][0] for mistake in mistakes}
    if surroundings is not None and surroundings.default not in {*profiles, *broken}:
        listed = ", ".join(profiles) or "none: every profile is switched off"
        reason = f"there is no such profile; there are: {listed}"
        mistakes.append(_mistake(DEFAULT_PROFILE_MISTAKE, reason, (), surroundings.default))
    if mistakes:
        raise ValidationError.from_exception_data("profiles", mistakes)
    return Offer(profiles, surroundings.default if surroundings is not None else "")


def _read(name: str, written: object) -> ProfileSection:
    if not isinstance(written, Mapping):
        raise ValidationError.from_exception_data(
            name, [_mistake("value_error", f"write a table, [profiles.{name}], with its keys below it", (), written)]
        )
    return ProfileSection.model_validate({**SHIPPED.get(name, {}), **written})


def _build(name: str, section: ProfileSection, surroundings: Surroundings) -> Profile:
    lifetime = section.lifetime
    if lifetime is None:
        lifetime = min(_SHORT, surroundings.lifetime) if name == "short" else surroundings.lifetime
    narrows = section.allowed_names is not None or section.allowed_networks is not None
    return Profile(
        name=name,
        description=_describe(section, lifetime) if section.description is None else section.description,
        lifetime=lifetime,
        maximum_lifetime=lifetime if section.maximum_lifetime is None else section.maximum_lifetime,
        key_types=frozenset(section.key_types),
        usages=frozenset(section.usages),
        common_name=section.common_name,
        organization=section.organization,
        organizational_unit=section.organizational_unit,
        must_staple=section.must_staple,
        challenges=surroundings.challenges if section.challenges is None else section.challenges,
        allowed_names=(section.allowed_names or ()) if narrows else None,
        allowed_networks=(section.allowed_networks or ()) if narrows else None,
    )


def _describe(section: ProfileSection, lifetime: timedelta) -> str:
    """What the directory says of a profile that has no description of its own."""
    usages = " and ".join(usage.value for usage in Usage if usage in section.usages)
    return f"TLS {usages}, {format_duration(lifetime)}"


def _outside(name: str, section: ProfileSection, surroundings: Surroundings) -> Iterator[InitErrorDetails]:
    """Rule 2."""
    for index, type_ in enumerate(section.challenges or ()):
        if type_ not in surroundings.challenges:
            missing = "validation.challenges does not have it; write it there too"
            yield _mistake("value_error", missing, (name, "challenges", index), type_.value)
    names = NamePolicy(surroundings.allowed_names, surroundings.allowed_networks)
    for index, pattern in enumerate(section.allowed_names or ()):
        reason = names.refusal_of_pattern(pattern)
        if reason is not None:
            yield _mistake("value_error", reason, (name, "allowed_names", index), pattern)
    for index, network in enumerate(section.allowed_networks or ()):
        reason = names.refusal_of_network(network)
        if reason is not None:
            yield _mistake("value_error", reason, (name, "allowed_networks", index), str(network))


def _written(written: object, key: str, name: str) -> object:
    return name if key == "name" or not isinstance(written, Mapping) else written.get(key)


def _mistake(type_: str, message: str, place: tuple[int | str, ...], value: object) -> InitErrorDetails:
    # The message is an argument, because braces in it would be taken for places of a template.
    error = PydanticCustomError(type_, "{message}", {"message": message.removeprefix("Value error, ")})
    return InitErrorDetails(type=error, loc=place, input=value)
