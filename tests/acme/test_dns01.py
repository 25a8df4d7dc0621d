"""dns-01 and dns-account-01 (RFC 8555 §8.4): names, values, and the judgement of TXT observations."""

import base64
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.dns01 import TxtObservation, dns01_name, dns_account01_name, judge_txt, txt_value
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import Problem, ProblemType

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
AUTHORIZATION = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
DIGEST = hashlib.sha256(AUTHORIZATION.encode()).digest()
VALUE = base64.urlsafe_b64encode(DIGEST).rstrip(b"=")
NAME = Identifier(IdentifierType.DNS, "www.corp.internal")
ASKED = "_acme-challenge.www.corp.internal"
SERVER = "10.0.0.53:53"
PRINTABLE = frozenset(map(chr, range(0x20, 0x7F)))
SECRET = b"hunter2"


def seen(*values: bytes, alias: str | None = None) -> TxtObservation:
    return TxtObservation(ASKED, SERVER, values, alias=alias)


def judged(observation: TxtObservation, account_url: str | None = None) -> Problem:
    problem = judge_txt(observation, key_authorization=AUTHORIZATION, account_url=account_url)
    assert problem is not None
    assert set(problem.detail) <= PRINTABLE
    assert problem.detail.startswith(f"TXT {ASKED}")
    return problem


class TestNames:
    def test_the_label_of_dns01(self) -> None:
        assert dns01_name(NAME) == ASKED

    @pytest.mark.parametrize(
        "identifier",
        [
            Identifier(IdentifierType.IP, "10.0.0.5"),
            Identifier(IdentifierType.IP, "fd00::5"),
            Identifier(IdentifierType.DNS, "*.corp.internal"),
        ],
    )
    def test_never_an_address_nor_a_wildcards_own_name(self, identifier: Identifier) -> None:
        """RULES §3: "dns-01 never an IP"; an authorization's identifier has lost its `*.` (§7.1.4)."""
        with pytest.raises(ValueError, match="control of a name"):
            dns01_name(identifier)
        with pytest.raises(ValueError, match="control of a name"):
            dns_account01_name(identifier, "https://example.com/acme/acct/1")

    def test_accounts_have_names_of_their_own(self) -> None:
        urls = [f"https://ca.corp.internal:8443/acme/account/{number}" for number in range(50)]
        names = {dns_account01_name(NAME, url) for url in urls}
        assert len(names) == 50
        for name in names:
            label, rest = name.split(".", 1)
            assert rest == ASKED
            assert label.startswith("_")
            assert set(label[1:]) <= set("abcdefghijklmnopqrstuvwxyz234567")
            assert len(label) == 17

    def test_the_value_is_the_digest(self) -> None:
        assert txt_value(AUTHORIZATION).encode() == VALUE
        assert len(VALUE) == 43


class TestValid:
    @pytest.mark.parametrize(
        "values",
        [(VALUE,), (b"old", VALUE, b"other"), (VALUE, VALUE), (b"",) * 300 + (VALUE,), (b'"' + VALUE + b'"', VALUE)],
    )
    def test_one_record_is_enough(self, values: tuple[bytes, ...]) -> None:
        """RULES §3: "any record may match"."""
        assert judge_txt(seen(*values), key_authorization=AUTHORIZATION) is None

    def test_by_an_alias_too(self) -> None:
        """How validation is delegated to a zone of its own."""
        assert judge_txt(seen(VALUE, alias="x.validation.internal"), key_authorization=AUTHORIZATION) is None

    @settings(deadline=None, max_examples=200)
    @given(st.lists(st.binary(max_size=60) | st.sampled_from([VALUE + b"=", VALUE[:-1], VALUE.lower()]), max_size=5))
    def test_nothing_else_is(self, values: list[bytes]) -> None:
        problem = judged(seen(*values))
        assert problem.type is (ProblemType.INCORRECT_RESPONSE if values else ProblemType.DNS)


class TestProblems:
    def test_no_answer(self) -> None:
        problem = judged(TxtObservation(ASKED, failure=f"{SERVER} answered with SERVFAIL"))
        assert problem.type is ProblemType.DNS
        assert problem.detail.startswith(
            f"TXT {ASKED}: {SERVER} answered with SERVFAIL. Check that the zone's name servers"
        )

    def test_a_name_that_does_not_exist(self) -> None:
        problem = judged(TxtObservation(ASKED, SERVER, exists=False))
        assert problem.type is ProblemType.DNS
        assert problem.detail.startswith(
            f"TXT {ASKED} at {SERVER}: the name does not exist. Check that the ACME client"
        )
        assert "every name server" in problem.detail

    def test_a_name_without_records(self) -> None:
        problem = judged(seen())
        assert problem.type is ProblemType.DNS
        assert "there is no TXT record. Check that the ACME client published" in problem.detail

    def test_other_values_are_shown_beside_the_expected_one(self) -> None:
        problem = judged(seen(b"v=spf1 -all", b"a", b"b", b"c", b"d"))
        assert problem.type is ProblemType.INCORRECT_RESPONSE
        assert f'expected "{VALUE.decode()}", found "v=spf1 -all", "a", "b" and 2 more. Check' in problem.detail

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (AUTHORIZATION.encode(), "is the key authorization itself"),
            (b'"' + AUTHORIZATION.encode() + b'"', "is the key authorization itself"),
            (VALUE + b"=", "without quotation marks, white space and padding"),
            (b'"' + VALUE + b'"', "without quotation marks, white space and padding"),
            (b" " + VALUE + b"\n", "without quotation marks, white space and padding"),
            (DIGEST.hex().encode(), "it has to be base64url"),
            (DIGEST.hex().upper().encode(), "it has to be base64url"),
            (base64.urlsafe_b64encode(hashlib.sha256(b"other").digest()).rstrip(b"="), "by another account key"),
            (b"x" * 43, "by another account key"),
            (b"x" * 44, "publishes the digest for this challenge"),
        ],
    )
    def test_what_is_probably_wrong_is_told(self, value: bytes, words: str) -> None:
        assert words in judged(seen(value)).detail
        assert words in judged(seen(b"unrelated", value, b"more", b"and more")).detail or "publishes" in words

    def test_plain_base64_is_told(self) -> None:
        token = next(
            text
            for text in (f"{n}.x" for n in range(1000))
            if b"/" in base64.b64encode(hashlib.sha256(text.encode()).digest())
        )
        value = base64.b64encode(hashlib.sha256(token.encode()).digest())
        problem = judge_txt(seen(value), key_authorization=token)
        assert problem is not None
        assert "it has to be base64url" in problem.detail

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.text(max_size=300))
    def test_what_a_peer_sent_is_escaped_and_cut(self, values: list[bytes], alias: str) -> None:
        """RULES §3: "What a peer sent us … enters a problem or a log only escaped and cut to 64 bytes"."""
        detail = judged(seen(*values)).detail
        assert len(detail) < 1000
        assert detail.count('"') == 2 + 2 * min(3, len(values))
        assert judged(seen(*values, alias=alias)).detail.count('"') == 4

    @pytest.mark.parametrize("values", [(SECRET,), (SECRET, VALUE + b"="), (AUTHORIZATION.encode(),), (b"x" * 43,)])
    def test_nothing_of_what_an_alias_leads_to_is_shown_or_hinted_at(self, values: tuple[bytes, ...]) -> None:
        """Rule 5, RFC 8555 §10.4: whoever holds the name can point it at records that only we can read."""
        problem = judged(seen(*values, alias="secrets.corp.internal"))
        assert problem.detail == judged(seen(b"anything else", alias="secrets.corp.internal")).detail
        assert SECRET.decode() not in problem.detail
        assert 'an alias (CNAME) of "secrets.corp.internal"' in problem.detail

    @pytest.mark.parametrize(
        "observation",
        [
            TxtObservation(ASKED, SERVER, exists=False),
            seen(),
            seen(b"other"),
            TxtObservation(ASKED, failure="nobody answered"),
        ],
    )
    def test_the_account_url_is_told_where_the_name_is_made_of_it(self, observation: TxtObservation) -> None:
        """draft-ietf-acme-dns-account-label §3.4: the server "SHOULD include the account URL it used"."""
        url = "https://ca.corp.internal:8443/acme/account/abc"
        name = dns_account01_name(NAME, url)
        problem = judge_txt(replace(observation, name=name), key_authorization=AUTHORIZATION, account_url=url)
        assert problem is not None
        assert problem.detail.startswith(f"TXT {name} (the label is made from the account URL {url})")
        assert url not in judged(observation).detail
