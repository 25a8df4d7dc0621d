"""Profiles: what cannot be one, what comes out of one, and that its document is the whole of it."""

import dataclasses
import hashlib
import json
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import ChallengeType
from acmeca.acme.problem import ProblemType
from acmeca.pki.template import CLIENT_AUTH, SERVER_AUTH
from acmeca.policy.keys import KeyType
from acmeca.policy.own_templates import OWN
from acmeca.policy.profiles import LONGEST_LIFETIME, SHORTEST_LIFETIME, Profile, ProfileError, Usage, parse_profile
from tests.support.profiles import DAY, make_profile

SECOND = timedelta(seconds=1)


def dns(name: str) -> Identifier:
    return Identifier(IdentifierType.DNS, name)


# --- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "told"),
    [
        ({"name": ""}, "name", "1 to 32"),
        ({"name": "x" * 33}, "name", "1 to 32"),
        ({"name": "Web"}, "name", "lower-case"),
        ({"name": "web\n"}, "name", "lower-case"),
        ({"name": "-web"}, "name", "no hyphen in front"),
        ({"name": "../web"}, "name", "lower-case"),
        ({"name": "listener"}, "name", "the server's own"),
        ({"name": "ocsp-responder"}, "name", "the server's own"),
        ({"description": ""}, "description", "1 to 200"),
        ({"description": "x" * 201}, "description", "1 to 200"),
        ({"description": "a\nb"}, "description", "printable"),
        ({"lifetime": SHORTEST_LIFETIME - SECOND}, "lifetime", "10m to 825d"),
        ({"lifetime": LONGEST_LIFETIME + SECOND}, "lifetime", "10m to 825d"),
        ({"lifetime": timedelta(days=1, microseconds=1)}, "lifetime", "whole seconds"),
        ({"maximum_lifetime": LONGEST_LIFETIME + SECOND}, "maximum_lifetime", "10m to 825d"),
        ({"maximum_lifetime": 89 * DAY}, "maximum_lifetime", "at least the lifetime"),
        ({"key_types": frozenset()}, "key_types", "at least one"),
        ({"usages": frozenset()}, "usages", "at least one"),
        ({"challenges": ()}, "challenges", "at least one"),
        ({"challenges": (ChallengeType.HTTP_01,) * 2}, "challenges", "once"),
        ({"organization": ""}, "organization", "1 to 64"),
        ({"organization": "x" * 65}, "organization", "1 to 64"),
        ({"organization": " x"}, "organization", "blanks"),
        ({"organizational_unit": "a\0b"}, "organizational_unit", "printable"),
        ({"must_staple": True, "usages": frozenset({Usage.CLIENT})}, "must_staple", "RFC 7633"),
        ({"allowed_names": ("*.a.test",)}, "allowed_names", "together"),
        ({"allowed_networks": ()}, "allowed_names", "together"),
        ({"allowed_names": (), "allowed_networks": ()}, "allowed_names", "nothing could be issued"),
        ({"allowed_names": ("*",), "allowed_networks": ()}, "allowed_names", "every name there is"),
        ({"allowed_names": ("A.test",), "allowed_networks": ()}, "allowed_names", "write a.test"),
    ],
)
def test_what_cannot_be_a_profile(changes: dict[str, Any], key: str, told: str) -> None:
    with pytest.raises(ProfileError) as caught:
        make_profile(**changes)
    assert key in [found for found, _ in caught.value.mistakes]
    assert told in dict(caught.value.mistakes)[key]


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ProfileError) as caught:
        make_profile(name="X", description="", lifetime=SECOND, organization="", key_types=frozenset())
    assert [key for key, _ in caught.value.mistakes] == [
        "name",
        "description",
        "lifetime",
        "maximum_lifetime",
        "key_types",
        "organization",
    ]


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_profile().lifetime = DAY  # type: ignore[misc]  # that is the point


# --- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usages", "oids"),
    [
        ({Usage.SERVER}, (SERVER_AUTH,)),
        ({Usage.CLIENT}, (CLIENT_AUTH,)),
        ({Usage.CLIENT, Usage.SERVER}, (SERVER_AUTH, CLIENT_AUTH)),
    ],
)
def test_the_template(usages: set[Usage], oids: tuple[str, ...]) -> None:
    profile = make_profile(
        name="web",
        lifetime=30 * DAY,
        maximum_lifetime=60 * DAY,
        usages=frozenset(usages),
        common_name=True,
        organization="Example",
        organizational_unit="Köln",
    )
    template = profile.template
    assert (template.name, template.lifetime, template.longest) == ("web", 30 * DAY, 60 * DAY)
    assert template.extended_key_usages == oids
    assert (template.organization, template.organizational_unit) == ("Example", "Köln")
    assert template.common_name_from_names
    assert not template.ocsp_responder
    assert template.subject_common_name is None
    assert template is profile.template, "it is made once, for it is looked up by its value"


def test_the_template_staples() -> None:
    assert make_profile(must_staple=True).template.must_staple
    assert not make_profile().template.must_staple


def test_backdating() -> None:
    """RULES §4: "notBefore backdated at most an hour"."""
    assert timedelta(0) < make_profile().template.backdate <= timedelta(hours=1)


def test_no_name_is_the_servers_own() -> None:
    """The store tells the server's own certificates from the accounts' by the profile's name."""
    for name in OWN:
        with pytest.raises(ProfileError):
            make_profile(name=name)


def test_names_are_narrowed() -> None:
    """A narrower list, and networks of its own: with one of them written, the other one is empty."""
    profile = make_profile(name="web", allowed_names=("*.a.test",), allowed_networks=())
    refused = profile.refusals([dns("x.a.test"), dns("b.test"), Identifier(IdentifierType.IP, "10.0.0.1")])
    assert [problem.type for problem in refused] == [ProblemType.REJECTED_IDENTIFIER] * 2
    assert [str(problem.identifier) for problem in refused] == ["b.test", "10.0.0.1"]
    assert "not in profiles.web.allowed_names, which allows *.a.test" in refused[0].detail
    assert "profiles.web.allowed_networks is empty" in refused[1].detail
    only_addresses = make_profile(allowed_names=(), allowed_networks=(ip_network("10.0.0.0/8"),))
    assert only_addresses.refusals([Identifier(IdentifierType.IP, "10.0.0.1")]) == ()
    (refused_name,) = only_addresses.refusals([dns("a.test")])
    assert "names are not issued for: profiles.server.allowed_names is empty" in refused_name.detail
    assert make_profile().refusals([dns("anything.test"), Identifier(IdentifierType.IP, "192.0.2.1")]) == ()


def test_a_wildcard_is_for_policy_to_allow() -> None:
    """Rule 2: the profile says which names, `policy.wildcards` whether wildcards at all."""
    profile = make_profile(challenges=tuple(ChallengeType), allowed_names=("*.a.test",), allowed_networks=())
    refused = profile.refusals([dns("*.b.a.test"), dns("*.b.test")])
    told = {str(problem.identifier): problem.detail for problem in refused}
    assert "allowed_names" not in told.get("*.b.a.test", "")
    assert "the name is not in profiles.server.allowed_names" in told["*.b.test"]


def test_a_name_without_a_challenge() -> None:
    """An identifier for which the profile has no challenge type is refused, with where to add one."""
    (refused,) = make_profile(name="web").refusals([dns("*.a.test")])
    assert "profiles.web.challenges has no type that suits wildcard names" in refused.detail


def test_limited() -> None:
    """A grant's maximum lifetime makes another profile under the same name, never a longer one."""
    profile = make_profile(maximum_lifetime=180 * DAY)
    for lifetime, expected in ((30 * DAY, (30 * DAY, 30 * DAY)), (120 * DAY, (90 * DAY, 120 * DAY))):
        limited = profile.limited_to(lifetime)
        assert (limited.lifetime, limited.maximum_lifetime, limited.name) == (*expected, "server")
        assert limited.id != profile.id
    for lifetime in (180 * DAY, 181 * DAY):
        assert profile.limited_to(lifetime) is profile


# --- the document ------------------------------------------------------------------------------------------------------


def test_the_document() -> None:
    """Spelt out once, so that no change of it goes unseen: orders name its digest."""
    profile = make_profile(
        name="web",
        description="Köln",
        usages=frozenset({Usage.CLIENT, Usage.SERVER}),
        key_types=frozenset({KeyType.P256, KeyType.RSA4096}),
        organization="Example",
        allowed_names=("*.a.test",),
        allowed_networks=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
    )
    assert profile.document == (
        '{"allowed_names":["*.a.test"],"allowed_networks":["10.0.0.0/8","fd00::/8"],"challenges":["http-01"],'
        '"common_name":false,"description":"K\\u00f6ln","key_types":["rsa4096","p256"],"lifetime":7776000,'
        '"maximum_lifetime":7776000,"must_staple":false,"name":"web","organization":"Example","organizational_unit":null,'
        '"usages":["server","client"]}'
    )
    assert profile.id == hashlib.sha256(profile.document.encode()).hexdigest()
    assert parse_profile(profile.document) == profile


def profiles() -> st.SearchStrategy[Profile]:
    texts = st.none() | st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=64)
    narrowings = st.none() | st.tuples(
        st.lists(st.from_regex(r"(\*\.)?[a-z]{1,8}\.test", fullmatch=True), min_size=1, unique=True).map(tuple),
        st.lists(st.sampled_from(["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]), unique=True),
    )
    return st.builds(
        lambda lifetime, longer, usages, staple, narrowing, **rest: make_profile(
            lifetime=lifetime * SECOND,
            maximum_lifetime=min((lifetime + longer) * SECOND, LONGEST_LIFETIME),
            usages=usages,
            must_staple=staple and Usage.SERVER in usages,
            allowed_names=None if narrowing is None else narrowing[0],
            allowed_networks=None if narrowing is None else tuple(map(ip_network, narrowing[1])),
            **rest,
        ),
        lifetime=st.integers(600, 825 * 86400),
        longer=st.integers(0, 10**7),
        usages=st.frozensets(st.sampled_from(Usage), min_size=1),
        staple=st.booleans(),
        narrowing=narrowings,
        name=st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True).filter(lambda name: name not in OWN),
        description=st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=200),
        key_types=st.frozensets(st.sampled_from(KeyType), min_size=1),
        common_name=st.booleans(),
        organization=texts,
        organizational_unit=texts,
        challenges=st.lists(st.sampled_from(ChallengeType), min_size=1, unique=True).map(tuple),
    )


@settings(max_examples=60)
@given(profiles(), profiles())
def test_a_profile_is_its_document(one: Profile, other: Profile) -> None:
    """Rule 3: read back it is the same, to the last character; and two that differ have two ids."""
    assert parse_profile(one.document) == one
    assert parse_profile(one.document).template == one.template
    assert (one.id == other.id) is (one == other)
    assert one.document.isascii()


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.pop("lifetime"),
        lambda members: members.update(more=1),
        lambda members: members.update(lifetime="90d"),
        lambda members: members.update(lifetime=True),
        lambda members: members.update(lifetime=1),
        lambda members: members.update(lifetime=10**30),
        lambda members: members.update(usages=["both"]),
        lambda members: members.update(usages="server"),
        lambda members: members.update(usages=[1]),
        lambda members: members.update(key_types=["p256", "p256"]),
        lambda members: members.update(common_name=0),
        lambda members: members.update(name=None),
        lambda members: members.update(name="listener"),
        lambda members: members.update(allowed_networks=["10.0.0.1/8"]),
        lambda members: members.update(challenges=["dns-00"]),
    ],
)
def test_what_was_never_written_cannot_be_read(change: Any) -> None:
    """Rule 3: "a profile that could not be made from the configuration cannot be read back either"."""
    members = json.loads(make_profile().document)
    change(members)
    with pytest.raises(ValueError, match="document of a profile"):
        parse_profile(json.dumps(members, sort_keys=True, separators=(",", ":")))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"name":"x"}'])
def test_no_junk_can_be_read(text: str) -> None:
    with pytest.raises(ValueError, match="document of a profile"):
        parse_profile(text)


def test_one_form() -> None:
    """The digest is of the canonical text: another spelling of the same is no document."""
    for text in (json.dumps(json.loads(make_profile().document)), f" {make_profile().document}"):
        with pytest.raises(ValueError, match="canonical"):
            parse_profile(text)
