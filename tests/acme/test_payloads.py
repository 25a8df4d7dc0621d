"""acmeca.acme.payloads: what clients send, and what they are told when it is not what they meant."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime

import idna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme import identifiers, payloads
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.payloads import (
    AccountUpdate,
    AuthorizationUpdate,
    ChallengeResponse,
    Finalize,
    NewAccount,
    NewOrder,
    Revocation,
    parse_account_update,
    parse_authorization_update,
    parse_challenge_response,
    parse_finalize,
    parse_new_account,
    parse_new_order,
    parse_revocation,
)
from acmeca.acme.problem import Problem, ProblemType
from tests.support.jose import encode
from tests.support.stopwatch import takes_less_than

PROPERTY = settings(deadline=None, max_examples=200)
PARSERS: tuple[Callable[[bytes], object], ...] = (
    parse_new_account,
    parse_account_update,
    parse_new_order,
    parse_finalize,
    parse_revocation,
    parse_authorization_update,
    parse_challenge_response,
)
SLOW_LABELS = [idna.alabel("\u0627" + chr(0x660 + number % 10) * (44 + number // 10)).decode() for number in range(48)]
DER = b"\x30\x03\x02\x01\x00"


def data(**members: object) -> bytes:
    return json.dumps(members).encode()


def refusal(parser: Callable[[bytes], object], payload: bytes, type_: ProblemType = ProblemType.MALFORMED) -> Problem:
    with pytest.raises(Problem) as caught:
        parser(payload)
    assert caught.value.type is type_, caught.value.detail
    json.dumps(caught.value.to_json(), ensure_ascii=False).encode()  # no half of a surrogate pair in it
    return caught.value


def dns(value: str) -> Identifier:
    return Identifier(IdentifierType.DNS, value)


@pytest.mark.parametrize("parser", PARSERS)
class TestEveryPayload:
    @pytest.mark.parametrize(
        "payload", [b"x", b"[]", b"null", b'""', b"\xff", b'{"a":1,"a":1}', b'{"a":NaN}', b"{} {}"]
    )
    def test_it_is_a_strict_json_object(self, parser: Callable[[bytes], object], payload: bytes) -> None:
        assert "the payload cannot be read" in refusal(parser, payload).detail

    def test_it_is_not_empty(self, parser: Callable[[bytes], object]) -> None:
        assert "POST-as-GET" in refusal(parser, b"").detail


def test_unknown_members_are_ignored() -> None:
    """RFC 8555 §7.3: the server "MUST ignore … any other fields that it does not recognize"."""
    extra = {
        "resource": "new-reg",
        "keyAuthorization": "a.b",
        "orders": 1,
        "newAuthz": [{}],
    }
    assert parse_new_account(data(**extra)) == NewAccount(contact=(), only_return_existing=False)
    assert parse_account_update(data(**extra)) == AccountUpdate(contact=None, deactivate=False)
    assert parse_new_order(data(identifiers=[{"type": "dns", "value": "a"}], **extra)) == NewOrder(
        identifiers=(dns("a"),)
    )
    assert parse_finalize(data(csr=encode(DER), **extra)) == Finalize(csr_der=DER)
    assert parse_revocation(data(certificate=encode(DER), **extra)) == Revocation(certificate_der=DER, reason=None)
    assert parse_authorization_update(data(**extra)) == AuthorizationUpdate(deactivate=False)
    assert parse_challenge_response(data(**extra)) == ChallengeResponse()


@pytest.mark.parametrize(
    ("value", "agreed"), [(True, True), (False, False), (None, False), ("true", False), (1, False)]
)
def test_an_update_that_agrees_to_the_terms(value: object, *, agreed: bool) -> None:
    """§7.3.2: such updates are ignored, but for the one that §7.3.3 has: true."""
    assert parse_account_update(data(termsOfServiceAgreed=value)).terms_of_service_agreed is agreed


def test_null_is_absent() -> None:
    assert parse_new_account(data(contact=None, onlyReturnExisting=None)) == NewAccount((), only_return_existing=False)
    assert parse_account_update(data(contact=None, status=None)) == AccountUpdate(contact=None, deactivate=False)
    order = data(identifiers=[{"type": "dns", "value": "a"}], notBefore=None, notAfter=None)
    assert parse_new_order(order) == NewOrder(identifiers=(dns("a"),))
    assert parse_revocation(data(certificate=encode(DER), reason=None)).reason is None
    assert not parse_authorization_update(data(status=None)).deactivate
    assert "identifiers" in refusal(parse_new_order, data(identifiers=None)).detail
    assert "csr" in refusal(parse_finalize, data(csr=None)).detail


class TestNewAccount:
    def test_the_rfcs_example(self) -> None:
        """RFC 8555 §7.3."""
        payload = b"""{
          "termsOfServiceAgreed": true,
          "contact": [
            "mailto:cert-admin@example.org",
            "mailto:admin@example.org"
          ]
        }"""
        assert parse_new_account(payload) == NewAccount(
            contact=("mailto:cert-admin@example.org", "mailto:admin@example.org"),
            only_return_existing=False,
            terms_of_service_agreed=True,
        )

    @pytest.mark.parametrize("value", [True, False])
    def test_only_return_existing(self, *, value: bool) -> None:
        assert parse_new_account(data(onlyReturnExisting=value)).only_return_existing is value

    @pytest.mark.parametrize("name", ["onlyReturnExisting", "termsOfServiceAgreed"])
    @pytest.mark.parametrize("value", [0, 1, "true", [], {}])
    def test_what_is_a_boolean(self, name: str, value: object) -> None:
        assert name in refusal(parse_new_account, data(**{name: value})).detail

    def test_a_binding_is_an_object(self) -> None:
        """§7.3.4: its value is "a JWS", which RFC 7515 §7.2.2 makes a JSON object; what is in it is read later."""
        assert parse_new_account(data(externalAccountBinding={"payload": 1})).external_account_binding == {"payload": 1}
        for value in (1, "e30", [], True):
            assert "externalAccountBinding" in refusal(parse_new_account, data(externalAccountBinding=value)).detail


@pytest.mark.parametrize("parser", [parse_new_account, parse_account_update])
class TestContacts:
    @pytest.mark.parametrize(
        "contact",
        [
            "mailto:a@example",
            "mailto:first.last+acme@host.example",
            "MAILTO:A@Example",
            "mailto:a%2Bb@example.org",
            "mailto:o'hara@example",
            "mailto:" + "a" * 64 + "@" + ".".join(["b" * 63] * 2) + "." + "c" * 61,
        ],
    )
    def test_good_ones(self, parser: Callable[[bytes], NewAccount | AccountUpdate], contact: str) -> None:
        assert parser(data(contact=[contact])).contact == (contact,)

    def test_none(self, parser: Callable[[bytes], NewAccount | AccountUpdate]) -> None:
        assert parser(data(contact=[])).contact == ()

    @pytest.mark.parametrize(
        "contact", ["", "a@example", "tel:+1", "https://example/", "xmpp:a@example", "mailto", ":", "//a"]
    )
    def test_other_schemes_are_unsupported(self, parser: Callable[[bytes], object], contact: str) -> None:
        """RFC 8555 §7.3: "unsupportedContact", with "what types of contact URLs the server considers acceptable"."""
        problem = refusal(parser, data(contact=["mailto:a@example", contact]), ProblemType.UNSUPPORTED_CONTACT)
        assert "contact[1]" in problem.detail
        assert "mailto:" in problem.detail

    @pytest.mark.parametrize(
        ("contact", "reason"),
        [
            ("mailto:a@example?subject=x", "header fields"),
            ("mailto:a@example?", "header fields"),
            ("mailto:?to=a@example", "header fields"),
            ("mailto:a@example,b@example", "several"),
            ("mailto:a@example,", "several"),
            ("mailto:", "no mail address"),
            ("mailto:a", "no mail address"),
            ("mailto:@example", "no mail address"),
            ("mailto:a@b@example", "no mail address"),
            ("mailto:a b@example", "no mail address"),
            ("mailto:a%@example", "no mail address"),
            ("mailto:a%2@example", "no mail address"),
            ("mailto:a#b@example", "no mail address"),
            ("mailto:\u00e9@example", "no mail address"),
            ("mailto:a\n@example", "no mail address"),
            ("mailto:<a>@example", "no mail address"),
            ("mailto:" + "a" * 65 + "@example", "no mail address"),
            ("mailto:a@", "host name"),
            ("mailto:a@example\n", "host name"),
            ("mailto:a@example.", "host name"),
            ("mailto:a@127.0.0.1", "host name"),
            ("mailto:a@[127.0.0.1]", "host name"),
            ("mailto:a@m\u00fcnchen", "host name"),
            ("mailto:a@*.example", "wildcard"),
            ("mailto:" + "a" * 60 + "@" + ".".join(["b" * 60] * 4), "too long"),
            ("mailto:" + "a" * 40_000, "too long"),
            ("mailto:\x00", "no mail address"),
        ],
    )
    def test_bad_addresses_are_invalid(self, parser: Callable[[bytes], object], contact: str, reason: str) -> None:
        """RFC 8555 §7.3: no `hfields`, no more than one `addr-spec`; "invalidContact"."""
        problem = refusal(parser, data(contact=[contact]), ProblemType.INVALID_CONTACT)
        assert "contact[0]" in problem.detail
        assert reason in problem.detail
        assert len(problem.detail) < 400

    @pytest.mark.parametrize("contact", ["mailto:a@example", {}, 1, True, [1], [["mailto:a@example"]], [None], [{}]])
    def test_it_is_a_list_of_strings(self, parser: Callable[[bytes], object], contact: object) -> None:
        assert "contact" in refusal(parser, data(contact=contact)).detail

    def test_at_most_ten(self, parser: Callable[[bytes], object]) -> None:
        assert parser(data(contact=["mailto:a@example"] * 10))
        refusal(parser, data(contact=["mailto:a@example"] * 11), ProblemType.INVALID_CONTACT)


class TestAccountUpdate:
    def test_deactivation(self) -> None:
        """RFC 8555 §7.3.6."""
        assert parse_account_update(b'{"status": "deactivated"}') == AccountUpdate(contact=None, deactivate=True)

    @pytest.mark.parametrize("status", ["valid", "revoked", "DEACTIVATED", "", 1, [], {}, ["deactivated"], True])
    def test_other_changes_of_status_are_ignored(self, status: object) -> None:
        """§7.3.2: the server "MUST ignore any updates to … the "status" field (except as allowed by" §7.3.6)."""
        assert parse_account_update(data(status=status, contact=[])) == AccountUpdate(contact=(), deactivate=False)


class TestNewOrder:
    def test_the_rfcs_identifiers(self) -> None:
        """RFC 8555 §7.4."""
        payload = b"""{
          "identifiers": [
            { "type": "dns", "value": "www.example.org" },
            { "type": "dns", "value": "example.org" }
          ]
        }"""
        assert parse_new_order(payload) == NewOrder(identifiers=(dns("www.example.org"), dns("example.org")))

    def test_duplicates_are_merged_after_canonicalising_and_the_order_is_kept(self) -> None:
        values = ["b.example", "A.example", "a.EXAMPLE", "*.a.example", "B.example", "a.example"]
        order = parse_new_order(data(identifiers=[{"type": "dns", "value": value} for value in values]))
        assert order.identifiers == (dns("b.example"), dns("a.example"), dns("*.a.example"))

    def test_an_address_and_a_name(self) -> None:
        order = parse_new_order(data(identifiers=[{"type": "ip", "value": "::1"}, {"type": "dns", "value": "a"}]))
        assert order.identifiers == (Identifier(IdentifierType.IP, "::1"), dns("a"))

    @pytest.mark.parametrize("value", [[], {}, "a.example", 1, True, {"type": "dns", "value": "a"}])
    def test_identifiers_is_a_list_of_some(self, value: object) -> None:
        assert "identifiers" in refusal(parse_new_order, data(identifiers=value)).detail
        assert "identifiers" in refusal(parse_new_order, b"{}").detail

    def test_at_most_a_hundred(self) -> None:
        entries = [{"type": "dns", "value": f"h{number}.example"} for number in range(101)]
        assert len(parse_new_order(data(identifiers=entries[:100])).identifiers) == 100
        assert "101" in refusal(parse_new_order, data(identifiers=entries)).detail

    def test_what_else_may_be_asked_for(self) -> None:
        """§7.4, RFC 9773 §5, draft-ietf-acme-profiles §4."""
        entries = [{"type": "dns", "value": "a"}]
        order = parse_new_order(
            data(
                identifiers=entries,
                notBefore="2016-01-01T00:04:00+04:00",
                notAfter="2016-01-08t00:04:00.75z",
                profile="short",
                replaces="aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE",
            )
        )
        assert order.not_before == datetime(2015, 12, 31, 20, 4, tzinfo=UTC)
        assert order.not_after == datetime(2016, 1, 8, 0, 4, tzinfo=UTC)
        assert (order.profile, order.replaces) == ("short", "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")

    @pytest.mark.parametrize("name", ["notBefore", "notAfter"])
    @pytest.mark.parametrize(
        "value",
        [
            "",
            1,
            {},
            "2016-01-01",
            "2016-01-01T00:04:00",
            "2016-01-01 00:04:00Z",
            "2016-02-30T00:00:00Z",
            "0001-01-01T00:00:00+01:00",
            "2016-01-01T24:00:01Z",
            "2016-01-01T00:04:00Z\n",
            "٢٠١٦-01-01T00:04:00Z",
        ],
    )
    def test_a_time_that_is_none(self, name: str, value: object) -> None:
        """§7.1.3: "in the date format defined in [RFC3339]"."""
        problem = refusal(parse_new_order, data(identifiers=[{"type": "dns", "value": "a"}], **{name: value}))
        assert problem.detail.startswith(f"{name}: ")

    @pytest.mark.parametrize("name", ["profile", "replaces"])
    @pytest.mark.parametrize("value", ["", 1, {}, "x" * 257])
    def test_a_text_that_is_none(self, name: str, value: object) -> None:
        problem = refusal(parse_new_order, data(identifiers=[{"type": "dns", "value": "a"}], **{name: value}))
        assert problem.detail.startswith(f"{name}: ")

    def test_every_bad_identifier_is_a_subproblem(self) -> None:
        """RFC 8555 §6.7.1."""
        values: list[object] = [
            {"type": "dns", "value": "good.example"},
            {"type": "dns", "value": "_example.org"},
            {"type": "email", "value": "a@example.org"},
            {"type": "dns", "value": 1},
            "c.example",
            {"type": "ip", "value": "::ffff:127.0.0.1"},
        ]
        problem = refusal(parse_new_order, data(identifiers=values), ProblemType.COMPOUND)
        assert "5 of 6" in problem.detail
        found = [(sub.type.value, sub.detail.split(":")[0]) for sub in problem.subproblems]
        assert found == [
            ("malformed", "identifiers[1]"),
            ("unsupportedIdentifier", "identifiers[2]"),
            ("malformed", "identifiers[3]"),
            ("malformed", "identifiers[4]"),
            ("malformed", "identifiers[5]"),
        ]
        assert [sub.identifier and sub.identifier.value for sub in problem.subproblems] == [
            "_example.org",
            None,
            None,
            None,
            "::ffff:127.0.0.1",
        ]

    def test_bad_ones_of_one_type_keep_the_type(self) -> None:
        problem = refusal(
            parse_new_order, data(identifiers=[{"type": "dns", "value": value} for value in ("_a", "_b", "c")])
        )
        assert len(problem.subproblems) == 2

    def test_the_identifier_of_a_single_bad_one_is_not_at_the_top_level(self) -> None:
        """§6.7.1: "The "identifier" field MUST NOT be present at the top level in ACME problem documents"."""
        document = refusal(parse_new_order, data(identifiers=[{"type": "dns", "value": "_a"}])).to_json()
        assert "identifier" not in document
        subproblems = document["subproblems"]
        assert isinstance(subproblems, list)
        assert subproblems[0]["identifier"] == {"type": "dns", "value": "_a"}
        assert document["detail"] == subproblems[0]["detail"]

    def test_internationalised_labels_are_bounded_in_number(self) -> None:
        labels = [idna.alabel(f"\u00fc{number}").decode() for number in range(51)]
        entries = [{"type": "dns", "value": f"{label}.example"} for label in labels]
        assert len(parse_new_order(data(identifiers=entries[:50])).identifiers) == 50
        assert "internationalised" in refusal(parse_new_order, data(identifiers=entries)).detail
        one_name = [{"type": "dns", "value": f"h{number}.{labels[0]}".upper()} for number in range(100)]
        assert len(parse_new_order(data(identifiers=one_name)).identifiers) == 100
        assert "internationalised" in refusal(parse_new_order, data(identifiers=[1, {}, {"value": 1}, *entries])).detail
        unicode = [{"type": "dns", "value": f"\u00fc{number}"} for number in range(51)]
        assert "internationalised" in refusal(parse_new_order, data(identifiers=unicode)).detail
        assert "write xn--" in refusal(parse_new_order, data(identifiers=unicode[:50])).subproblems[49].detail

    @pytest.mark.parametrize(
        "values",
        [
            # IDNA looks at the whole label for each of these digits.
            ["\u0627" + chr(0x660 + number % 10) * (15 + number // 10) for number in range(50)],
            [".".join(SLOW_LABELS[start : start + 4]) for start in range(0, 48, 4)],
            ["xn--" + "9" * 57 + f"{number:02}" for number in range(50)],
            [f"xn--{'a' * 50}{number:04}" for number in range(100)],
            ["\u0627" * 70] * 100,
            ["a." * 126 + "a"] * 100,
            ["_" * 253] * 100,
            ["*" * 253] * 100,
            ["-" * 253] * 100,
        ],
        ids=lambda values: ascii(values[0][:16]),
    )
    def test_no_order_takes_50_ms(self, values: list[str]) -> None:
        """RULES: "No input of any shape … takes over 50 ms", not even one whose labels were never seen before."""
        payload = data(identifiers=[{"type": "dns", "value": value} for value in values])

        def parse() -> None:
            identifiers._is_a_label.cache_clear()
            with contextlib.suppress(Problem):
                parse_new_order(payload)

        assert takes_less_than(0.05, parse)


@pytest.mark.parametrize(("parser", "name"), [(parse_finalize, "csr"), (parse_revocation, "certificate")])
class TestDer:
    @pytest.mark.parametrize("value", [1, True, [], {}, [encode(DER)], ""])
    def test_it_is_a_string(self, parser: Callable[[bytes], object], name: str, value: object) -> None:
        assert name in refusal(parser, data(**{name: value})).detail
        assert name in refusal(parser, b"{}").detail

    @pytest.mark.parametrize("text", ["MAMCAQA=", "MAMCA QA", "MAMCAQA\n", "MAM+AQA", "MAMCAQB", "\u00e9", "!"])
    def test_it_is_strict_base64url(self, parser: Callable[[bytes], object], name: str, text: str) -> None:
        detail = refusal(parser, data(**{name: text})).detail
        assert detail.startswith(f"{name}: ")
        assert "base64url" in detail

    @pytest.mark.parametrize("start", ["", "\n", "  "])
    def test_pem_is_told_apart(self, parser: Callable[[bytes], object], name: str, start: str) -> None:
        """§7.4: "Because this field uses base64url, and does not include headers, it is different from PEM."."""
        pem = f"{start}-----BEGIN CERTIFICATE REQUEST-----\nMAMCAQA=\n-----END CERTIFICATE REQUEST-----\n"
        assert "PEM" in refusal(parser, data(**{name: pem})).detail
        assert "PEM" in refusal(parser, data(**{name: encode(pem.encode())})).detail


class TestRevocation:
    @pytest.mark.parametrize(("reason", "kept"), [(0, None), (1, 1), (3, 3), (4, 4), (5, 5), (9, 9)])
    def test_reasons_that_a_client_may_give(self, reason: int, kept: int | None) -> None:
        """RULES §5: 0, 1, 3, 4, 5, 9; "Reason 0 is stored as "no reason""."""
        payload = data(certificate=encode(DER), reason=reason)
        assert parse_revocation(payload) == Revocation(certificate_der=DER, reason=kept)

    @pytest.mark.parametrize("reason", [-1, 2, 6, 7, 8, 10, 11, 255, 2**64])
    def test_other_reasons(self, reason: int) -> None:
        """§7.6: "badRevocationReason", and "which reasonCodes are allowed"."""
        problem = refusal(
            parse_revocation, data(certificate=encode(DER), reason=reason), ProblemType.BAD_REVOCATION_REASON
        )
        assert "0, 1, 3, 4, 5, 9" in problem.detail
        assert problem.status == 400

    @pytest.mark.parametrize("reason", [True, False, 1.0, "1", [], {}, [1]])
    def test_a_reason_is_an_integer(self, reason: object) -> None:
        assert "reason" in refusal(parse_revocation, data(certificate=encode(DER), reason=reason)).detail


class TestAuthorizationUpdate:
    def test_deactivation(self) -> None:
        """RFC 8555 §7.5.2."""
        assert parse_authorization_update(b'{"status": "deactivated"}') == AuthorizationUpdate(deactivate=True)

    @pytest.mark.parametrize("status", ["valid", "revoked", "", 1, True, [], {}, ["deactivated"]])
    def test_nothing_else_can_be_set(self, status: object) -> None:
        assert "status" in refusal(parse_authorization_update, data(status=status)).detail


def test_a_challenge_is_answered_with_an_object() -> None:
    """RFC 8555 §7.5.1: "{}"; sewer and acme-micro still send a keyAuthorization."""
    assert parse_challenge_response(b"{}") == ChallengeResponse()
    assert parse_challenge_response(b'{"keyAuthorization": "x.y", "resource": "challenge"}') == ChallengeResponse()


_NAMES = st.sampled_from(
    [
        "contact",
        "onlyReturnExisting",
        "status",
        "identifiers",
        "notBefore",
        "csr",
        "certificate",
        "reason",
        "type",
        "value",
    ]
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | st.text(max_size=8)
    | st.sampled_from(["dns", "ip", "a.example", "::1", "deactivated", "mailto:a@b", "MAMCAQA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)


@PROPERTY
@given(st.dictionaries(_NAMES, _VALUES, max_size=4), st.sampled_from(PARSERS))
def test_nothing_but_problems_is_raised(members: dict[str, object], parser: Callable[[bytes], object]) -> None:
    problem = Problem(ProblemType.MALFORMED, "it was accepted")
    try:
        parser(json.dumps(members).encode())
    except Problem as raised:
        problem = raised
    assert problem.type in {
        ProblemType.BAD_REVOCATION_REASON,
        ProblemType.COMPOUND,
        ProblemType.INVALID_CONTACT,
        ProblemType.MALFORMED,
        ProblemType.UNSUPPORTED_CONTACT,
        ProblemType.UNSUPPORTED_IDENTIFIER,
    }
    assert problem.detail.isprintable()


def test_the_bounds_are_what_the_documentation_says() -> None:
    assert (payloads.MAX_CONTACTS, payloads.MAX_IDENTIFIERS) == (10, 100)
