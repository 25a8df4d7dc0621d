"""Grants: what they allow, that they narrow and never widen, and when they are of no use."""

import ipaddress
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import ProblemType
from acmeca.policy.grants import Grant, GrantStatus, dump_terms, load_grant
from acmeca.policy.limits import Limit, parse_rate
from acmeca.policy.names import NamePolicy, first_refusals, parse_name_pattern

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
NETWORK = ipaddress.ip_network("10.1.0.0/16")


def grant(**changes: Any) -> Grant:
    values: dict[str, Any] = {"id": "kid", "owner": "team-a", "created_at": NOW}
    return Grant(**(values | changes))


def dns(name: str) -> Identifier:
    return Identifier(IdentifierType.DNS, name)


def ip(address: str) -> Identifier:
    return Identifier(IdentifierType.IP, address)


class TestNames:
    GRANT = grant(
        names=("*.team-a.internal", "team-a.internal"), networks=(NETWORK, ipaddress.ip_network("fd00:1::/32"))
    )

    @pytest.mark.parametrize(
        "identifier",
        [
            dns("a.team-a.internal"),
            dns("a.b.team-a.internal"),
            dns("team-a.internal"),
            dns("*.team-a.internal"),
            dns("*.b.team-a.internal"),
            ip("10.1.0.0"),
            ip("10.1.255.255"),
            ip("fd00:1::9"),
        ],
    )
    def test_allowed(self, identifier: Identifier) -> None:
        assert self.GRANT.refusal(identifier) is None

    @pytest.mark.parametrize(
        "identifier",
        [
            dns("team-b.internal"),
            dns("xteam-a.internal"),
            dns("*.internal"),
            dns("internal"),
            ip("10.2.0.0"),
            ip("fd00:2::9"),
        ],
    )
    def test_refused_with_a_reason(self, identifier: Identifier) -> None:
        """STYLE: "answer with a reason that a person can act on": whose grant, and what it covers."""
        reason = self.GRANT.refusal(identifier)
        assert reason is not None
        assert "team-a" in reason
        assert ("10.1.0.0/16" if identifier.type is IdentifierType.IP else "*.team-a.internal") in reason

    def test_without_names_and_networks_it_narrows_neither(self) -> None:
        """Rule 2."""
        assert grant().refusal(dns("anything.at.all")) is None
        assert grant().refusal(ip("192.0.2.1")) is None

    def test_with_either_the_other_is_none(self) -> None:
        """Rule 2."""
        reason = grant(names=("*.a.internal",)).refusal(ip("10.1.0.1"))
        assert reason is not None
        assert "none" in reason
        assert grant(networks=(NETWORK,)).refusal(dns("a.internal")) is not None

    def test_a_name_alone_allows_no_wildcard(self) -> None:
        one = grant(names=("a.internal",))
        assert one.refusal(dns("a.internal")) is None
        assert one.refusal(dns("*.a.internal")) is not None

    def test_every_name_is_asked_about(self) -> None:
        """RULES §3: "Prove that all N were checked"."""
        names = [dns(f"n{number}.team-b.internal") for number in range(50)]
        problems = self.GRANT.refusals([*names, dns("x.team-a.internal")])
        assert [problem.identifier for problem in problems] == names
        assert {problem.type for problem in problems} == {ProblemType.REJECTED_IDENTIFIER}

    @settings(max_examples=200)
    @given(data=st.data())
    def test_it_never_widens(self, data: st.DataObject) -> None:
        """Rule 1: what both are asked about, and only that, is what both allow."""
        labels = st.sampled_from(["a", "b", "corp", "internal"])
        names = st.lists(labels, min_size=1, max_size=4).map(".".join)
        patterns = st.tuples(st.sampled_from(["", "*."]), names).map("".join)
        policy = NamePolicy(tuple(data.draw(st.lists(patterns, min_size=1, max_size=3))), wildcards=True)
        one = grant(names=tuple(data.draw(st.lists(patterns, max_size=3))))
        identifier = dns(data.draw(patterns))
        refused = first_refusals([policy.refusals, one.refusals], [identifier])
        assert len(refused) <= 1
        assert bool(refused) == (policy.refusal(identifier) is not None or one.refusal(identifier) is not None)
        if policy.refusal(identifier) is not None:
            assert refused

    @settings(max_examples=200)
    @given(data=st.data())
    def test_a_covered_pattern_allows_nothing_more(self, data: st.DataObject) -> None:
        """`refusal_of_pattern` is None only where every name of the pattern is allowed."""
        labels = st.sampled_from(["a", "b", "corp", "internal"])
        names = st.lists(labels, min_size=1, max_size=4).map(".".join)
        patterns = st.tuples(st.sampled_from(["", "*."]), names).map("".join)
        policy = NamePolicy(tuple(data.draw(st.lists(patterns, min_size=1, max_size=3))))
        pattern, name = parse_name_pattern(data.draw(patterns)), dns(data.draw(names))
        if policy.refusal_of_pattern(pattern) is None and grant(names=(pattern,)).refusal(name) is None:
            assert policy.refusal(name) is None

    @pytest.mark.parametrize(
        ("network", "covered"),
        [("10.1.2.0/24", True), ("10.0.0.0/8", True), ("10.0.0.0/7", False), ("fd00::/9", True), ("::/0", False)],
    )
    def test_a_covered_network(self, network: str, *, covered: bool) -> None:
        policy = NamePolicy(("a",), (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")))
        assert (policy.refusal_of_network(ipaddress.ip_network(network)) is None) is covered
        assert NamePolicy(("a",)).refusal_of_network(ipaddress.ip_network(network)) is not None


class TestOtherTerms:
    def test_quota(self) -> None:
        (taking,) = grant(quota=parse_rate("500/week")).takings
        assert (taking.limit, taking.subject, str(taking.rate)) == (Limit.GRANT_QUOTA, "kid", "500/7d")
        assert grant().takings == ()

    def test_preauthorized(self) -> None:
        """Rule 3."""
        one = grant(names=("*.a.internal",), preauthorized=True)
        assert one.authorizes(dns("x.a.internal"), NOW)
        assert not one.authorizes(dns("x.b.internal"), NOW)
        assert not grant(names=("*.a.internal",)).authorizes(dns("x.a.internal"), NOW)
        ended = grant(names=("*.a.internal",), preauthorized=True, expires_at=NOW + timedelta(days=1))
        assert ended.authorizes(dns("x.a.internal"), NOW)
        assert not ended.authorizes(dns("x.a.internal"), NOW + timedelta(days=1))

    def test_the_end(self) -> None:
        """Rule 5: expires_at is the first moment at which it is over."""
        one = grant(expires_at=NOW + timedelta(seconds=2))
        assert one.obstacle(NOW + timedelta(seconds=1)) is None
        ended = one.obstacle(NOW + timedelta(seconds=2))
        assert ended is not None
        assert "2026-11-01T12:00:02Z" in ended
        assert grant().obstacle(NOW + timedelta(days=9999)) is None
        disabled = grant(status=GrantStatus.DISABLED).obstacle(NOW)
        assert disabled is not None
        assert "disabled" in disabled


class TestWhatCannotBe:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"owner": ""}, "owner"),
            ({"owner": " a"}, "owner"),
            ({"owner": "a\nb"}, "owner"),
            ({"owner": "a" * 65}, "owner"),
            ({"preauthorized": True}, "no grant for everything"),
            ({"preauthorized": True, "profiles": ("server",)}, "no grant for everything"),
            ({"lifetime": timedelta(minutes=9)}, "10m"),
            ({"expires_at": NOW}, "end"),
            ({"names": tuple(f"n{number}.a" for number in range(101))}, "100"),
        ],
    )
    def test_refused(self, changes: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            grant(**changes)


class TestTerms:
    @pytest.mark.parametrize(
        "one",
        [
            grant(),
            grant(
                names=("*.a.internal", "b.internal"),
                networks=(NETWORK, ipaddress.ip_network("fd00::/8")),
                profiles=("short", "server"),
                lifetime=timedelta(days=30),
                quota=parse_rate("500/week"),
                single_use=True,
                preauthorized=True,
                expires_at=NOW + timedelta(days=90),
            ),
        ],
    )
    def test_kept_and_loaded(self, one: Grant) -> None:
        assert load(dump_terms(one), one) == one

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            json.dumps(json.loads(dump_terms(grant()))),  # with blanks
            dump_terms(grant()).replace("false", "1"),
            dump_terms(grant()).replace('"names":[]', '"names":["*"]'),
            dump_terms(grant()).replace('"names":[]', '"names":["A.B"]'),
            dump_terms(grant()).replace('"preauthorized":false', '"preauthorized":true'),
            dump_terms(grant()).replace("{", '{"more":1,'),
        ],
    )
    def test_damaged_ones_are_not_guessed_at(self, text: str) -> None:
        with pytest.raises(ValueError, match="grant kid"):
            load(text, grant())


def load(text: str, one: Grant) -> Grant:
    return load_grant(
        text,
        id_=one.id,
        owner=one.owner,
        single_use=one.single_use,
        status=one.status.value,
        created_at=one.created_at,
        expires_at=one.expires_at,
    )
