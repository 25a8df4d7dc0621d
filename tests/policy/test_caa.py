"""CAA judgements: what authorizes, what does not, and what a refusal says. The RFC's own sentences are in tests/rfc/test_rfc8659.py."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.policy.caa import CaaObservation, CaaPolicy, CaaRecord, parse_issue_value

NAME = Identifier(IdentifierType.DNS, "www.corp.internal")
WILDCARD = Identifier(IdentifierType.DNS, "*.www.corp.internal")
ASKED = ("www.corp.internal", "corp.internal")
SERVER = "10.0.0.53:53"
URL = "https://ca.corp.internal:8443/acme/account/abc"
POLICY = CaaPolicy(("ca.corp.internal", "pki.corp.internal"))
PRINTABLE = frozenset(map(chr, range(0x20, 0x7F)))
OTHER = CaaRecord(0, b"issue", b"ca.example.net")


def issue(value: str, tag: str = "issue") -> CaaRecord:
    return CaaRecord(0, tag.encode(), value.encode())


def judged(
    *records: CaaRecord, identifier: Identifier = NAME, method: str | None = "http-01", is_alias: bool = False
) -> Problem | None:
    observation = CaaObservation(ASKED, records, SERVER, is_alias=is_alias)
    return POLICY.refusal(observation, identifier, account_url=URL, method=method)


def refused(*records: CaaRecord, identifier: Identifier = NAME, method: str | None = "http-01") -> str:
    problem = judged(*records, identifier=identifier, method=method)
    assert problem is not None
    assert problem.type is ProblemType.CAA
    assert problem.status == 403
    assert set(problem.detail) <= PRINTABLE
    assert problem.identifier is None, "the caller puts it where §6.7.1 allows it"
    assert problem.detail.startswith(f"{identifier}: CAA records forbid a certificate: ")
    return problem.detail


class TestSearch:
    @pytest.mark.parametrize("name", ["a.b.corp.internal", "*.a.b.corp.internal"])
    def test_up_to_the_top_and_not_the_root(self, name: str) -> None:
        assert POLICY.search(Identifier(IdentifierType.DNS, name)) == (
            "a.b.corp.internal",
            "b.corp.internal",
            "corp.internal",
            "internal",
        )

    def test_a_single_label(self) -> None:
        assert POLICY.search(Identifier(IdentifierType.DNS, "intranet")) == ("intranet",)

    def test_without_an_identity_nothing_is_asked(self) -> None:
        assert CaaPolicy().search(NAME) == ()
        assert CaaPolicy(zones=("corp.internal",)).search(NAME) == ()

    @pytest.mark.parametrize("address", ["10.0.0.5", "fd00::5"])
    def test_an_address_has_none(self, address: str) -> None:
        assert POLICY.search(Identifier(IdentifierType.IP, address)) == ()

    @pytest.mark.parametrize(
        ("name", "names"),
        [
            ("a.corp.internal", ("a.corp.internal", "corp.internal")),
            ("corp.internal", ("corp.internal",)),
            ("*.corp.internal", ("corp.internal",)),
            (
                "a.b.team.corp.internal",
                ("a.b.team.corp.internal", "b.team.corp.internal", "team.corp.internal", "corp.internal"),
            ),
            ("lab.example", ("lab.example",)),
            ("xcorp.internal", ()),
            ("internal", ()),
            ("a.example", ()),
        ],
    )
    def test_with_zones_it_ends_at_the_outermost_that_holds_the_name(self, name: str, names: tuple[str, ...]) -> None:
        policy = CaaPolicy(("ca.corp.internal",), zones=("team.corp.internal", "corp.internal", "lab.example"))
        assert policy.search(Identifier(IdentifierType.DNS, name)) == names


class TestIssuer:
    @pytest.mark.parametrize(
        "value",
        [
            "ca.corp.internal",
            "CA.Corp.INTERNAL",
            "pki.corp.internal",
            "  ca.corp.internal\t",
            "ca.corp.internal;",
            "ca.corp.internal ; ",
            f"ca.corp.internal; accounturi={URL}",
            f"ca.corp.internal;AccountURI = {URL} ; validationmethods=http-01",
        ],
    )
    def test_one_that_names_us_authorizes(self, value: str) -> None:
        assert judged(issue(value)) is None
        assert judged(OTHER, issue(value), issue("%%%")) is None, "authorizations are additive"

    @pytest.mark.parametrize(
        "value", ["", ";", " ", "ca.example.net", "corp.internal", "xca.corp.internal", "a.ca.corp.internal", "ca"]
    )
    def test_one_that_names_others_or_nobody_does_not(self, value: str) -> None:
        assert "none of the issue records names ca.corp.internal or pki.corp.internal" in refused(issue(value))

    @pytest.mark.parametrize(
        "value",
        [
            "ca.corp.internal.",
            ".ca.corp.internal",
            "ca..corp.internal",
            "-ca.corp.internal",
            "ca-.corp.internal",
            "ca_1.corp.internal",
            "ca.corp.internal ca.corp.internal",
            '"ca.corp.internal"',
            "ca.corp.internal\n",
            "ca.corp.internal; x",
            "ca.corp.internal; =y",
            "ca.corp.internal; x=a b",
            "ca.corp.internal;; x=y",
            "ca.corp.internal; x=y;",
            "ca.corp.internal, accounturi=x",
            "c\u00e4.corp.internal",
        ],
    )
    def test_one_that_breaks_the_grammar_does_not(self, value: str) -> None:
        assert parse_issue_value(value.encode()) is None
        assert "breaks the grammar" in refused(issue(value))

    def test_a_parameter_that_is_not_known_is_a_condition_that_is_not_met(self) -> None:
        """Rule 2: a misspelt restriction must not look like one."""
        assert "a parameter that this CA does not know" in refused(issue(f"ca.corp.internal; acounturi={URL}"))
        assert judged(issue("ca.example.net; x=y"), issue("ca.corp.internal")) is None

    def test_a_refusal_shows_the_records_and_what_to_publish(self) -> None:
        detail = refused(OTHER, *(issue(f"ca{number}.example.net") for number in range(6)))
        assert f'CAA corp.internal at {SERVER}: 0 issue "ca.example.net", 0 issue "ca0.example.net", ' in detail
        assert ' and 3 more. To allow it, publish: corp.internal. CAA 0 issue "ca.corp.internal"' in detail


class TestWildcards:
    def test_issuewild_counts_for_wildcards_alone(self) -> None:
        assert judged(issue("ca.corp.internal", "issuewild"), identifier=WILDCARD) is None
        assert judged(issue(";", "issuewild")) is None
        refused(issue("ca.corp.internal", "issuewild"), issue(";"))

    def test_issuewild_counts_instead_of_issue(self) -> None:
        detail = refused(issue("ca.corp.internal"), issue(";", "issuewild"), identifier=WILDCARD)
        assert 'publish: corp.internal. CAA 0 issuewild "ca.corp.internal"' in detail

    def test_without_issuewild_issue_counts(self) -> None:
        assert judged(issue("ca.corp.internal"), identifier=WILDCARD) is None
        assert 'publish: corp.internal. CAA 0 issue "' in refused(issue(";"), identifier=WILDCARD)


class TestTags:
    @pytest.mark.parametrize("tag", ["issue", "ISSUE", "Issue"])
    def test_case_makes_no_difference(self, tag: str) -> None:
        refused(issue(";", tag))
        assert judged(issue("ca.corp.internal", tag)) is None
        assert judged(issue("ca.corp.internal", tag + "wild"), issue(";"), identifier=WILDCARD) is None

    @pytest.mark.parametrize("tag", ["iodef", "issuemail", "contactemail", "unknown", "issu", "issues"])
    def test_others_do_not_restrict(self, tag: str) -> None:
        assert judged(issue(";", tag)) is None

    @pytest.mark.parametrize("flags", [128, 129, 255])
    @pytest.mark.parametrize("identifier", [NAME, WILDCARD])
    def test_a_critical_one_that_is_not_understood_refuses(self, flags: int, identifier: Identifier) -> None:
        detail = refused(CaaRecord(flags, b"future", b"x"), issue("ca.corp.internal"), identifier=identifier)
        assert "a critical property is one that this CA does not understand" in detail
        assert f'{flags} future "x"' in detail

    @pytest.mark.parametrize("flags", [0, 1, 127])
    def test_the_other_flags_mean_nothing(self, flags: int) -> None:
        assert judged(CaaRecord(flags, b"future", b"x")) is None

    @pytest.mark.parametrize("tag", [b"issue", b"issuewild", b"iodef", b"IODEF"])
    def test_a_critical_one_that_is_understood_does_no_harm(self, tag: bytes) -> None:
        assert judged(CaaRecord(128, tag, b"ca.corp.internal")) is None


class TestParameters:
    @pytest.mark.parametrize(
        "parameter",
        [
            f"accounturi={URL}x",
            "accounturi=",
            "accounturi=abc",
            f"accounturi={URL.upper()}",
            f"accounturi={URL}/",
            f"accounturi={URL}; accounturi={URL}",
            f"accounturi={URL}; ACCOUNTURI=other",
            f"accounturi={URL}; accounturi=https://ca.corp.internal:8443/acme/account/abd",
        ],
    )
    def test_another_account_or_no_account_or_two(self, parameter: str) -> None:
        detail = refused(issue(f"ca.corp.internal; {parameter}"))
        assert f"the record for ca.corp.internal is for another account than {URL} (accounturi)" in detail

    @pytest.mark.parametrize("value", ["http-01", "dns-01,http-01", "http-01,ca-foo"])
    def test_a_method_that_is_listed(self, value: str) -> None:
        assert judged(issue(f"ca.corp.internal; validationmethods={value}")) is None

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "dns-01",
            "HTTP-01",
            "http",
            "http-01x",
            ",http-01",
            "http-01,",
            "dns_01,http-01",
            "http-01; validationmethods=http-01",
        ],
    )
    def test_a_method_that_is_not(self, value: str) -> None:
        detail = refused(issue(f"ca.corp.internal; validationmethods={value}"))
        assert "the record for ca.corp.internal does not allow it by http-01 (validationmethods)" in detail

    def test_no_method_is_on_no_list(self) -> None:
        """An authorization that a grant made valid was shown by no method."""
        record = issue("ca.corp.internal; validationmethods=http-01,dns-01")
        assert "does not allow it without a validation" in refused(record, method=None)
        assert judged(issue("ca.corp.internal"), method=None) is None

    def test_all_of_them_have_to_be_met_within_one_record(self) -> None:
        by_account = issue(f"ca.corp.internal; accounturi={URL}; validationmethods=dns-01")
        by_method = issue("ca.corp.internal; accounturi=https://other; validationmethods=http-01")
        refused(by_account, by_method)
        assert judged(by_account, by_method, method="dns-01") is None


class TestFailures:
    def test_a_search_that_came_to_no_end_refuses(self) -> None:
        """RULES §3: it fails closed."""
        observation = CaaObservation(ASKED, failure=f"{SERVER} answered with SERVFAIL")
        for identifier in (NAME, WILDCARD):
            problem = POLICY.refusal(observation, identifier, account_url=URL, method="dns-01")
            assert problem is not None
            assert problem.type is ProblemType.DNS
            assert f"CAA corp.internal: {SERVER} answered with SERVFAIL. Check" in problem.detail
            assert str(identifier) in problem.detail

    def test_a_search_that_found_nothing_does_not_restrict(self) -> None:
        assert judged() is None


class TestWhatIsShown:
    @settings(deadline=None, max_examples=200)
    @given(
        records=st.lists(
            st.builds(
                CaaRecord,
                st.integers(0, 255),
                st.binary(min_size=1, max_size=80) | st.sampled_from([b"issue", b"issuewild", b"IODEF"]),
                st.binary(max_size=300) | st.sampled_from([b"ca.corp.internal", b";"]),
            ),
            max_size=8,
        ),
        identifier=st.sampled_from([NAME, WILDCARD]),
        is_alias=st.booleans(),
    )
    def test_any_records_are_judged_and_told_escaped_and_cut(
        self, *, records: list[CaaRecord], identifier: Identifier, is_alias: bool
    ) -> None:
        """RULES §3: "What a peer sent us … enters a problem or a log only escaped and cut to 64 bytes"."""
        problem = judged(*records, identifier=identifier, is_alias=is_alias)
        if problem is not None:
            assert set(problem.detail) <= PRINTABLE
            assert len(problem.detail) < 1200

    def test_nothing_is_shown_of_what_an_alias_leads_to(self) -> None:
        for record in (issue("secret.example"), CaaRecord(128, b"secret", b"x"), issue("secret=%%%")):
            problem = judged(record, is_alias=True)
            assert problem is not None
            assert "secret" not in problem.detail
            assert "what an alias (CNAME) leads to, which is not shown" in problem.detail


class TestGrammar:
    @pytest.mark.parametrize(
        ("value", "meant"),
        [
            (b"", ("", ())),
            (b";", ("", ())),
            (b"a.b", ("a.b", ())),
            (b" A--b.C1 ; X1-y = v=w,: ; z=", ("a--b.c1", (("x1-y", "v=w,:"), ("z", "")))),
            (b"; policy=ev", ("", (("policy", "ev"),))),
        ],
    )
    def test_what_it_allows(self, value: bytes, meant: object) -> None:
        assert parse_issue_value(value) == meant

    @settings(deadline=None, max_examples=300)
    @given(st.binary(max_size=40) | st.text("ab-.;= \t,", max_size=25).map(str.encode))
    def test_any_value_is_read_or_refused(self, value: bytes) -> None:
        """As a second reading of the ABNF says, in one expression."""
        label = rb"[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
        parameter = label + rb"[ \t]*=[ \t]*[\x21-\x3a\x3c-\x7e]*"
        grammar = (
            rb"[ \t]*(?:" + label + rb"(?:\." + label + rb")*[ \t]*)?"
            rb"(?:;[ \t]*(?:" + parameter + rb"(?:[ \t]*;[ \t]*" + parameter + rb")*[ \t]*)?)?"
        )
        assert (parse_issue_value(value) is not None) is (re.fullmatch(grammar, value) is not None)
