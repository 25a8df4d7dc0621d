"""acmeca.acme.problem: RFC 8555 §6.7, RFC 9457."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.problem import Problem, ProblemType, join_problems
from acmeca.quoting import quote_input

PROPERTY = settings(deadline=None, max_examples=200)
NAME = Identifier(IdentifierType.DNS, "a.example")

# RFC 8555 §6.7, the table of error types, whole; and what its extensions have registered.
REGISTERED = {
    "accountDoesNotExist",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
    "alreadyReplaced",  # RFC 9773 §7.4
}

# draft-ietf-acme-profiles §6.3 asks IANA for it, and a server that offers profiles MUST send it (§4).
REQUESTED = {"invalidProfile"}


@pytest.mark.parametrize("type_", ProblemType)
def test_only_registered_types_are_in_the_namespace(type_: ProblemType) -> None:
    """§6.7: "Servers MUST NOT use the ACME URN namespace for errors not listed in the appropriate IANA registry"."""
    assert type_.urn == f"urn:ietf:params:acme:error:{type_.value}"
    assert type_.value in REGISTERED | REQUESTED


@pytest.mark.parametrize(
    ("type_", "status"),
    [
        (ProblemType.BAD_NONCE, 400),  # §6.5
        (ProblemType.BAD_SIGNATURE_ALGORITHM, 400),  # §6.2
        (ProblemType.BAD_PUBLIC_KEY, 400),  # §6.2
        (ProblemType.ACCOUNT_DOES_NOT_EXIST, 400),  # §7.3.1
        (ProblemType.ORDER_NOT_READY, 403),  # §7.4
        (ProblemType.SERVER_INTERNAL, 500),
    ],
)
def test_the_status_that_the_rfc_gives(type_: ProblemType, status: int) -> None:
    assert Problem(type_, "x").status == status
    assert Problem(type_, "x", status=409).status == 409


@pytest.mark.parametrize("type_", ProblemType)
def test_every_status_is_an_error(type_: ProblemType) -> None:
    assert 400 <= Problem(type_, "x").status <= 599


def test_members_that_are_not_set_are_absent() -> None:
    assert Problem(ProblemType.MALFORMED, "why").to_json() == {
        "type": "urn:ietf:params:acme:error:malformed",
        "detail": "why",
        "status": 400,
    }


def test_every_member() -> None:
    inner = Problem(ProblemType.DNS, "inner", identifier=NAME)
    outer = Problem(
        ProblemType.BAD_SIGNATURE_ALGORITHM,
        "outer",
        subproblems=(inner,),
        algorithms=("ES256",),
        status=418,
        instance="https://x",
    )
    assert json.loads(json.dumps(outer.to_json())) == {
        "type": "urn:ietf:params:acme:error:badSignatureAlgorithm",
        "detail": "outer",
        "status": 418,
        "algorithms": ["ES256"],
        "instance": "https://x",
        "subproblems": [
            {
                "type": "urn:ietf:params:acme:error:dns",
                "detail": "inner",
                "status": 400,
                "identifier": {"type": "dns", "value": "a.example"},
            }
        ],
    }


def test_problems_are_compared_by_what_they_render() -> None:
    one, same = Problem(ProblemType.DNS, "x", headers={"Retry-After": "1"}), Problem(ProblemType.DNS, "x")
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, same, Problem(ProblemType.DNS, "y")}) == 2
    assert one != Problem(ProblemType.TLS, "x")
    assert one != Problem(ProblemType.DNS, "x", status=403)
    assert one != "x"
    assert repr(one) == "Problem(dns, 'x', status=400)"
    assert str(one) == "x"


def test_headers_cannot_leak_into_the_next_problem() -> None:
    headers = Problem(ProblemType.DNS, "x").headers
    assert dict(headers) == {}
    with pytest.raises(TypeError):
        headers["a"] = "b"  # type: ignore[index]  # what a read-only mapping has to refuse


class TestJoin:
    def test_a_single_problem_keeps_its_detail(self) -> None:
        only = Problem(ProblemType.DNS, "x", status=503, headers={"Retry-After": "1"})
        assert join_problems((only,), detail="several") is only

    def test_the_identifier_is_never_at_the_top_level(self) -> None:
        """§6.7.1: "The "identifier" field MUST NOT be present at the top level in ACME problem documents"."""
        only = Problem(ProblemType.REJECTED_IDENTIFIER, "x", identifier=NAME, status=451, headers={"Retry-After": "1"})
        joined = join_problems((only,), detail="several")
        assert joined.identifier is None
        assert (joined.type, joined.detail, joined.status) == (only.type, only.detail, 451)
        assert dict(joined.headers) == {"Retry-After": "1"}
        assert joined.subproblems == (only,)

    def test_several_of_one_type_keep_it(self) -> None:
        problems = (Problem(ProblemType.MALFORMED, "x"), Problem(ProblemType.MALFORMED, "y", identifier=NAME))
        joined = join_problems(problems, detail="several")
        assert (joined.type, joined.detail, joined.subproblems) == (ProblemType.MALFORMED, "several", problems)

    def test_several_types_are_compound(self) -> None:
        """RFC 8555 §6.7: "compound": "Specific error conditions are indicated in the "subproblems" array"."""
        problems = (Problem(ProblemType.MALFORMED, "x"), Problem(ProblemType.DNS, "y"))
        assert join_problems(problems, detail="several").type is ProblemType.COMPOUND


class TestQuoteInput:
    @pytest.mark.parametrize(
        ("text", "quoted"),
        [
            ("", "''"),
            ("a.example", "'a.example'"),
            ("a\n\0\x1b[31m", r"'a\n\x00\x1b[31m'"),
            ("\u00e9\u202e", r"'\xe9\u202e'"),
            ("\ud800", r"'\ud800'"),
            ("it's", "'it's'"),
            ("a" * 64, "'" + "a" * 64 + "'"),
            ("a" * 65, "'" + "a" * 64 + "...'"),
        ],
    )
    def test_known_texts(self, text: str, quoted: str) -> None:
        assert quote_input(text) == quoted

    @PROPERTY
    @given(st.text())
    def test_it_is_short_and_plain(self, text: str) -> None:
        quoted = quote_input(text * 3)
        assert len(quoted) <= 69
        assert quoted.isascii()
        assert quoted.isprintable()
