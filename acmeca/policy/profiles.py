"""Certificate profiles: what kind of certificate an account gets, and for what (draft-ietf-acme-profiles).

Rule 1: everything in a certificate but its names, its key and the times that were asked for comes from here (RULES §4); nothing
comes from the CSR.
Rule 2: a profile narrows what the configuration allows, and never widens it: names, keys and challenge types are asked about in
both places.
Rule 3: a profile is its document. An order names the digest, so that a change of the configuration changes no order that was made
before; a profile that could not be made from the configuration cannot be read back either.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from ipaddress import ip_network
from typing import Any, Final

from acmeca.acme.identifiers import Identifier
from acmeca.acme.objects import ChallengeType
from acmeca.acme.problem import Problem
from acmeca.pki.template import CLIENT_AUTH, SERVER_AUTH, Template
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.keys import KeyType
from acmeca.policy.names import NamePolicy, Network, first_refusals, parse_name_pattern
from acmeca.policy.own_templates import BACKDATE, OWN

SERVER: Final = "server"

SHORTEST_LIFETIME: Final = timedelta(minutes=10)
LONGEST_LIFETIME: Final = timedelta(days=825)
MAX_DESCRIPTION: Final = 200
MAX_SUBJECT_PART: Final = 64  # characters; RFC 5280 appendix A.1

# What stands in URLs, commands and file names (RULES §6), and in a directory that people read.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}\Z")


class Usage(StrEnum):
    """What the key of a certificate is for, in TLS (RFC 5280 §4.2.1.12)."""

    SERVER = "server"
    CLIENT = "client"


_EXTENDED_KEY_USAGES: Final = {Usage.SERVER: SERVER_AUTH, Usage.CLIENT: CLIENT_AUTH}


class ProfileError(ValueError):
    """A profile that cannot be. `mistakes` are keys, each with what is wrong with it and what is allowed."""

    def __init__(self, mistakes: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {reason}" for key, reason in mistakes))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A checked profile. Raises `ProfileError` with all that is wrong.

    `lifetime` counts its last second in, and may be asked to be another one up to `maximum_lifetime` (RFC 8555 §7.4). With
    `common_name` the subject has the first of the host names that fits; `organization` and `organizational_unit` are fixed.
    `must_staple` is RFC 7633's. `challenges` are the types that show control, in the order that clients see. `allowed_names` and
    `allowed_networks` narrow what policy allows; both are None where nothing is narrowed.

    `document` is its canonical JSON, `id` the SHA-256 of that in hex, `template` what certificates are made from.
    """

    name: str
    description: str
    lifetime: timedelta
    maximum_lifetime: timedelta
    key_types: frozenset[KeyType]
    usages: frozenset[Usage]
    common_name: bool
    organization: str | None
    organizational_unit: str | None
    must_staple: bool
    challenges: tuple[ChallengeType, ...]
    allowed_names: tuple[str, ...] | None
    allowed_networks: tuple[Network, ...] | None
    document: str = field(init=False, repr=False, compare=False)
    id: str = field(init=False, compare=False)
    template: Template = field(init=False, repr=False, compare=False)
    challenge_policy: ChallengePolicy = field(init=False, repr=False, compare=False)
    _names: NamePolicy | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        mistakes = tuple(_mistakes(self))
        if mistakes:
            raise ProfileError(mistakes)
        document = _dump(self)
        for attribute, value in (
            ("document", document),
            ("id", hashlib.sha256(document.encode("ascii")).hexdigest()),
            ("template", _template(self)),
            ("challenge_policy", ChallengePolicy(self.challenges, key=f"profiles.{self.name}.challenges")),
            ("_names", _name_policy(self)),
        ):
            object.__setattr__(self, attribute, value)

    def limited_to(self, lifetime: timedelta) -> "Profile":
        """The same profile with certificates that live no longer than this: another document, under the same name."""
        if self.maximum_lifetime <= lifetime:
            return self
        return replace(self, lifetime=min(self.lifetime, lifetime), maximum_lifetime=lifetime)

    def refusals(self, identifiers: Sequence[Identifier]) -> tuple[Problem, ...]:
        """A problem for each identifier that the profile is not for, by its names or by its challenge types."""
        names = [] if self._names is None else [self._names.refusals]
        return first_refusals([*names, self.challenge_policy.refusals], identifiers)


def parse_profile(document: str) -> Profile:
    """The profile of a document that `Profile.document` gave. Raises `ValueError` for any other text."""
    try:
        members = json.loads(document)
        if not isinstance(members, dict) or members.keys() != _MEMBERS.keys():
            raise ValueError("its members are not those of a profile")
        profile = Profile(**{name: parse(members[name]) for name, (_, parse) in _MEMBERS.items()})
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"the document of a profile cannot be read: {error}") from None
    if profile.document != document:
        raise ValueError("the document of a profile is not in its canonical form")
    return profile


# --- checks -------------------------------------------------------------------------------------------------------


def _mistakes(profile: Profile) -> Iterator[tuple[str, str]]:
    if _NAME.match(profile.name) is None:
        yield "name", "1 to 32 lower-case letters, digits and hyphens are allowed, and no hyphen in front"
    elif profile.name in OWN:
        yield "name", "the server's own certificates are called that; take another name"
    if not (0 < len(profile.description) <= MAX_DESCRIPTION and profile.description.isprintable()):
        yield "description", f"1 to {MAX_DESCRIPTION} printable characters are allowed"
    yield from _lifetime_mistakes(profile)
    for key, entries in (
        ("key_types", len(profile.key_types)),
        ("usages", len(profile.usages)),
        ("challenges", len(profile.challenges)),
    ):
        if not entries:
            yield key, "without an entry nothing could be issued; write at least one"
    if len(set(profile.challenges)) < len(profile.challenges):
        yield "challenges", "each challenge type may stand in it once"
    for key, text in (
        ("organization", profile.organization),
        ("organizational_unit", profile.organizational_unit),
    ):
        if text is not None and not _is_subject_part(text):
            yield key, f"1 to {MAX_SUBJECT_PART} printable characters are allowed, without blanks at either end"
    if profile.must_staple and Usage.SERVER not in profile.usages:
        yield "must_staple", 'only a TLS server staples (RFC 7633); usages has to hold "server"'
    yield from _name_mistakes(profile)


def _lifetime_mistakes(profile: Profile) -> Iterator[tuple[str, str]]:
    for key, lifetime in (("lifetime", profile.lifetime), ("maximum_lifetime", profile.maximum_lifetime)):
        if not SHORTEST_LIFETIME <= lifetime <= LONGEST_LIFETIME or lifetime.microseconds:
            yield key, "10m to 825d is allowed, in whole seconds"
    if profile.maximum_lifetime < profile.lifetime:
        yield "maximum_lifetime", f"it has to be at least the lifetime, which is {profile.lifetime}"


def _name_mistakes(profile: Profile) -> Iterator[tuple[str, str]]:
    names, networks = profile.allowed_names, profile.allowed_networks
    if (names is None) is not (networks is None):
        yield "allowed_names", "names and networks are narrowed together, or neither is"
    elif names == () == networks:
        yield "allowed_names", "without a name and without a network nothing could be issued"
    for pattern in names or ():
        try:
            canonical = parse_name_pattern(pattern)
        except ValueError as error:
            yield "allowed_names", f"{pattern}: {error}"
        else:
            if canonical != pattern:
                yield "allowed_names", f"{pattern}: write {canonical}"


def _is_subject_part(text: str) -> bool:
    return 0 < len(text) <= MAX_SUBJECT_PART and text.isprintable() and text == text.strip()


# --- what is made of it --------------------------------------------------------------------------------------------


def _template(profile: Profile) -> Template:
    return Template(
        name=profile.name,
        lifetime=profile.lifetime,
        maximum_lifetime=profile.maximum_lifetime,
        extended_key_usages=tuple(oid for usage, oid in _EXTENDED_KEY_USAGES.items() if usage in profile.usages),
        backdate=BACKDATE,
        organization=profile.organization,
        organizational_unit=profile.organizational_unit,
        common_name_from_names=profile.common_name,
        must_staple=profile.must_staple,
    )


def _name_policy(profile: Profile) -> NamePolicy | None:
    if profile.allowed_names is None or profile.allowed_networks is None:
        return None
    return NamePolicy(
        profile.allowed_names, profile.allowed_networks, wildcards=True, section=f"profiles.{profile.name}"
    )


# --- the document ---------------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")  # noqa: TRY004  (a document is good or it is not: one exception)
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")  # noqa: TRY004  (as above)
    return value


def _seconds(value: object) -> timedelta:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is no number of seconds")  # noqa: TRY004  (as above)
    return timedelta(seconds=value)


def _each(parse: Callable[[str], Any], of: Callable[[Iterable[Any]], Any] = tuple) -> Callable[[object], Any]:
    def parse_all(value: object) -> Any:
        if not isinstance(value, list):
            raise ValueError(f"{value!r} is no list")  # noqa: TRY004  (as above)
        return of(parse(_text(item)) for item in value)

    return parse_all


def _optional(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else parse(value)


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | str():
            return value
        case timedelta():
            return int(value.total_seconds())
        case _:
            return [str(item) for item in value]


_MEMBERS: Final[dict[str, tuple[Callable[[Any], Any], Callable[[object], Any]]]] = {
    "name": (_plain, _text),
    "description": (_plain, _text),
    "lifetime": (_plain, _seconds),
    "maximum_lifetime": (_plain, _seconds),
    "key_types": (lambda types: [type_.value for type_ in KeyType if type_ in types], _each(KeyType, frozenset)),
    "usages": (lambda usages: [usage.value for usage in Usage if usage in usages], _each(Usage, frozenset)),
    "common_name": (_plain, _flag),
    "organization": (_plain, _optional(_text)),
    "organizational_unit": (_plain, _optional(_text)),
    "must_staple": (_plain, _flag),
    "challenges": (_plain, _each(ChallengeType)),
    "allowed_names": (_plain, _optional(_each(str))),
    "allowed_networks": (_plain, _optional(_each(ip_network))),
}
"""The members of a document: how each is written, and read."""


def _dump(profile: Profile) -> str:
    members = {name: write(getattr(profile, name)) for name, (write, _) in _MEMBERS.items()}
    return json.dumps(members, sort_keys=True, separators=(",", ":"))
