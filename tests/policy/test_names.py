"""The allow-list: nothing that is not named, every name asked about, refusals a person can act on (RULES §3)."""

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType, canonical_dns_name
from acmeca.acme.problem import ProblemType
from acmeca.policy.names import NamePolicy, parse_name_pattern

POLICY = NamePolicy(
    ("*.corp.internal", "intranet", "www.example.org"),
    (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")),
)


def dns(name: str) -> Identifier:
    return Identifier(IdentifierType.DNS, name)


def ip(address: str) -> Identifier:
    return Identifier(IdentifierType.IP, address)


class TestPatterns:
    @pytest.mark.parametrize(
        ("text", "canonical"),
        [
            ("*.corp.internal", "*.corp.internal"),
            ("*.Corp.INTERNAL", "*.corp.internal"),
            ("intranet", "intranet"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ],
    )
    def test_good(self, text: str, canonical: str) -> None:
        assert parse_name_pattern(text) == canonical

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "*",
            "*.",
            "**.a",
            "a.*.b",
            "*a.b",
            "*.*.a",
            ".a",
            "a.",
            "a..b",
            "a b",
            "a_b.c",
            "-a",
            "10.0.0.1",
            "*.1",
            "b\u00fc.a",
        ],
    )
    def test_bad(self, text: str) -> None:
        """Rule 1 of policy/names.py: "There is no pattern for "everything"."""
        with pytest.raises(ValueError, match=r"."):
            parse_name_pattern(text)


class TestNames:
    @pytest.mark.parametrize(
        "name", ["a.corp.internal", "a.b.c.corp.internal", "xn--bcher-kva.corp.internal", "intranet", "www.example.org"]
    )
    def test_allowed(self, name: str) -> None:
        """DESIGN §6: "`*.x` matches any depth below x, never x; `x` matches itself"."""
        assert POLICY.refusal(dns(name)) is None

    @pytest.mark.parametrize(
        "name",
        [
            "corp.internal",
            "evilcorp.internal",
            "a.evilcorp.internal",
            "a.corp.internal.evil.example",
            "a.intranet",
            "intranets",
            "example.org",
            "mail.www.example.org",
            "www.example.org.evil.example",
            "internal",
            "localhost",
        ],
    )
    def test_refused(self, name: str) -> None:
        reason = POLICY.refusal(dns(name))
        assert reason is not None
        assert "*.corp.internal" in reason  # Rule 2: what would be allowed

    @pytest.mark.parametrize("name", ["*.corp.internal", "*.a.corp.internal", "*.intranet"])
    def test_wildcards_have_to_be_asked_for(self, name: str) -> None:
        """DESIGN §6: "wildcard identifiers need `wildcards = true`"."""
        assert "policy.wildcards is false" in (POLICY.refusal(dns(name)) or "")

    @pytest.mark.parametrize(
        ("name", "allowed"),
        [
            ("*.corp.internal", True),
            ("*.a.corp.internal", True),
            ("*.a.b.corp.internal", True),
            ("*.internal", False),
            ("*.evilcorp.internal", False),
            ("*.intranet", False),
            ("*.www.example.org", False),
            ("*.example.org", False),
        ],
    )
    def test_wildcards(self, name: str, *, allowed: bool) -> None:
        """A wildcard stands for the names one label below: it is allowed where all of them are. One name allows none."""
        policy = replace(POLICY, wildcards=True)
        assert (policy.refusal(dns(name)) is None) == allowed
        below = policy.refusal(dns(name.replace("*", "any"))) is None
        assert below == allowed

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(st.sampled_from(["a", "b", "corp", "internal", "intranet", "x"]), min_size=1, max_size=4),
        st.sampled_from(["a", "corp", "zz"]),
    )
    def test_a_wildcard_allows_nothing_more(self, labels: list[str], label: str) -> None:
        policy = replace(POLICY, wildcards=True)
        base = ".".join(labels)
        if policy.refusal(dns(f"*.{base}")) is None:
            assert POLICY.refusal(dns(f"{label}.{base}")) is None

    @settings(deadline=None, max_examples=150)
    @given(
        st.lists(st.sampled_from(["a", "b", "corp", "internal", "intranet", "x"]), min_size=1, max_size=5),
        st.lists(st.sampled_from(["a", "b", "corp", "internal"]), min_size=1, max_size=3),
    )
    def test_below_means_below(self, labels: list[str], suffix: list[str]) -> None:
        """A name is below a suffix when its labels end in the suffix's and there is one more."""
        policy = NamePolicy(("*." + ".".join(suffix),))
        is_below = len(labels) > len(suffix) and labels[-len(suffix) :] == suffix
        assert (policy.refusal(dns(".".join(labels))) is None) == is_below

    def test_an_empty_list_allows_nothing(self) -> None:
        assert NamePolicy(()).refusal(dns("a.corp.internal")) is not None

    def test_a_long_list_is_cut(self) -> None:
        policy = NamePolicy(tuple(f"*.n{number}.internal" for number in range(20)))
        assert (policy.refusal(dns("x.example")) or "").endswith("and 14 more")

    def test_names_come_canonical(self) -> None:
        """What is compared is what `acme/identifiers.py` made canonical; upper case never gets here."""
        assert canonical_dns_name("A.Corp.Internal") == "a.corp.internal"


class TestAddresses:
    @pytest.mark.parametrize("address", ["10.0.0.1", "10.255.255.255", "fd00::1", "fdff::"])
    def test_allowed(self, address: str) -> None:
        assert POLICY.refusal(ip(address)) is None

    @pytest.mark.parametrize("address", ["9.255.255.255", "11.0.0.0", "127.0.0.1", "::1", "fe80::1", "::ffff:a00:1"])
    def test_refused(self, address: str) -> None:
        assert "10.0.0.0/8" in (POLICY.refusal(ip(address)) or "")

    def test_none_configured(self) -> None:
        assert "allowed_networks is empty" in (NamePolicy(("*.a",)).refusal(ip("10.0.0.1")) or "")


class TestEveryName:
    def test_a_problem_for_each(self) -> None:
        """RULES §3: "Prove that all N were checked (one CA checked one of N names N times …)"."""
        asked = [dns("a.corp.internal"), dns("b.evil"), ip("192.0.2.1"), dns("intranet"), dns("*.corp.internal")]
        problems = POLICY.refusals(asked)
        assert [problem.identifier for problem in problems] == [asked[1], asked[2], asked[4]]
        assert {problem.type for problem in problems} == {ProblemType.REJECTED_IDENTIFIER}
        assert all(str(problem.identifier) in problem.detail for problem in problems)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.booleans(), min_size=1, max_size=30))
    def test_each_in_its_place(self, good: list[bool]) -> None:
        asked = [dns(f"n{number}.{'corp.internal' if ok else 'evil'}") for number, ok in enumerate(good)]
        refused = [problem.identifier for problem in POLICY.refusals(asked)]
        assert refused == [identifier for identifier, ok in zip(asked, good, strict=True) if not ok]
