"""acmeca.acme.key_change: the JWS inside a keyChange request, step by step (RFC 8555 §7.3.5)."""

import dataclasses
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.jwk import SUPPORTED_ALGORITHMS, parse_jwk
from acmeca.acme.key_change import KeyChange, require_own, verify_key_change
from acmeca.acme.objects import Account
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.states import AccountStatus
from tests.support.jose import KEY_KINDS, KeyKind, encode, new_key, shared_key, sign
from tests.support.stopwatch import takes_less_than

URL = "https://ca.example/acme/key-change"
ACCOUNT_URL = "https://ca.example/acme/account/evOfKhNU60wg"
OLD, NEW = shared_key("P-256"), shared_key("P-384")
MEMBERS: dict[str, object] = {"account": ACCOUNT_URL, "oldKey": OLD.jwk}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def inner(**changes: Any) -> bytes:
    arguments: dict[str, Any] = {"url": URL, "nonce": None, "payload": MEMBERS} | changes
    return sign(arguments.pop("key", NEW), **arguments)


def refusal(payload: bytes, type_: ProblemType = ProblemType.MALFORMED) -> Problem:
    with pytest.raises(Problem) as caught:
        verify_key_change(payload, url=URL)
    assert (caught.value.type, caught.value.status) == (type_, 400)
    assert caught.value.detail.startswith("the inner JWS: ")
    return caught.value


def account(**changes: Any) -> Account:
    old = parse_jwk(OLD.jwk)
    values: dict[str, Any] = {
        "id": "evOfKhNU60wg",
        "thumbprint": old.thumbprint,
        "jwk": old.jwk,
        "status": AccountStatus.VALID,
        "contact": (),
        "created_at": datetime(2026, 11, 1, tzinfo=UTC),
    }
    return Account(**(values | changes))


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("old", ["P-256", "RSA-2048"])
def test_a_good_one(kind: KeyKind, old: KeyKind) -> None:
    """From and to every kind of key."""
    new = new_key("Ed25519") if kind == "Ed25519" else shared_key(kind)
    change = verify_key_change(inner(key=new, payload=MEMBERS | {"oldKey": shared_key(old).jwk}), url=URL)
    assert change.new_key == parse_jwk(new.jwk)
    assert change.old_key == parse_jwk(shared_key(old).jwk)
    assert change.account_url == ACCOUNT_URL
    owner = account(thumbprint=change.old_key.thumbprint, jwk=change.old_key.jwk)
    require_own(change, owner, account_url=ACCOUNT_URL)


def test_only_the_check_makes_one() -> None:
    """Rule 1 of key_change.py."""
    key = parse_jwk(OLD.jwk)
    with pytest.raises(TypeError, match="verify_key_change"):
        KeyChange(ACCOUNT_URL, key, key, checked=None)
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(verify_key_change(inner(), url=URL), account_url="x")


class TestStep2WellFormed:
    @pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"null", b"{", b"\xff", b'"x"', b"{}{}"])
    def test_no_jws(self, payload: bytes) -> None:
        refusal(payload)

    @pytest.mark.parametrize("name", ["protected", "payload", "signature"])
    def test_its_members(self, name: str) -> None:
        assert name in refusal(inner(without_members=[name])).detail
        assert name in refusal(inner(members={name: 1})).detail
        assert name in refusal(inner(members={name: "AA=="})).detail

    @pytest.mark.parametrize("name", ["header", "signatures"])
    def test_flattened(self, name: str) -> None:
        assert name in refusal(inner(members={name: {}})).detail

    def test_a_member_twice(self) -> None:
        assert "twice" in refusal(inner()[:-1] + b',"payload":""}').detail

    @pytest.mark.parametrize("algorithm", ["none", "HS256", "PS256", "ES256K"])
    def test_algorithm(self, algorithm: str) -> None:
        problem = refusal(inner(alg=algorithm), ProblemType.BAD_SIGNATURE_ALGORITHM)
        assert problem.algorithms == SUPPORTED_ALGORITHMS

    @pytest.mark.parametrize("name", ["crit", "b64"])
    def test_nothing_critical(self, name: str) -> None:
        assert name in refusal(inner(header={name: ["url"]})).detail


class TestStep3Jwk:
    def test_it_has_to_be_there(self) -> None:
        assert "'jwk'" in refusal(inner(without=["jwk"])).detail

    @pytest.mark.parametrize("kid", [ACCOUNT_URL, None, 1])
    def test_and_no_kid(self, kid: object) -> None:
        assert "'kid'" in refusal(inner(header={"kid": kid})).detail
        assert "'kid'" in refusal(inner(header={"kid": kid}, without=["jwk"])).detail

    @pytest.mark.parametrize("nonce", ["", "AAAA", None])
    def test_and_no_nonce(self, nonce: object) -> None:
        """ "The inner JWS MUST omit the "nonce" header parameter." """
        assert "'nonce'" in refusal(inner(header={"nonce": nonce})).detail

    @pytest.mark.parametrize("jwk", [None, 1, "x", []])
    def test_no_object(self, jwk: object) -> None:
        refusal(inner(header={"jwk": jwk}))

    @pytest.mark.parametrize(
        "jwk", [{}, {"kty": "oct", "k": "AAAA"}, NEW.jwk | {"d": encode(bytes(48))}, OLD.jwk, NEW.jwk | {"x": "AA"}]
    )
    def test_a_bad_key(self, jwk: dict[str, str]) -> None:
        refusal(inner(header={"jwk": jwk}), ProblemType.BAD_PUBLIC_KEY)


class TestStep4Signature:
    def test_by_another_key(self) -> None:
        assert "signature" in refusal(inner(signer=new_key("P-384"))).detail

    @pytest.mark.parametrize("signature", [b"", bytes(96), bytes(95), b"\xff" * 96])
    def test_none(self, signature: bytes) -> None:
        assert "signature" in refusal(inner(signature=signature)).detail

    def test_for_something_else(self) -> None:
        """What was signed is what is read."""
        other = encode(json.dumps(MEMBERS | {"account": ACCOUNT_URL + "2"}).encode())
        assert "signature" in refusal(inner(members={"payload": other})).detail


class TestStep5KeyChangeObject:
    @pytest.mark.parametrize("payload", [b"", b"[]", b"x", {}, {"account": ACCOUNT_URL}, {"oldKey": OLD.jwk}])
    def test_not_well_formed(self, payload: Any) -> None:
        refusal(inner(payload=payload))

    @pytest.mark.parametrize("value", [None, 1, [], {}])
    def test_account_is_a_string(self, value: object) -> None:
        assert "account" in refusal(inner(payload=MEMBERS | {"account": value})).detail

    @pytest.mark.parametrize("value", [None, 1, [], "x", {}, {"kty": "EC"}, OLD.jwk | {"d": "AAAA"}])
    def test_old_key_is_a_public_key(self, value: object) -> None:
        assert "oldKey" in refusal(inner(payload=MEMBERS | {"oldKey": value})).detail

    def test_other_members_are_ignored(self) -> None:
        verify_key_change(inner(payload=MEMBERS | {"resource": "key-change", "newKey": {}}), url=URL)


class TestStep6Url:
    @pytest.mark.parametrize("url", ["", URL + "/", URL.upper(), "https://ca.example/acme/new-account", "key-change"])
    def test_another(self, url: str) -> None:
        """ "The inner JWS MUST have the same "url" header parameter as the outer JWS." """
        assert URL in refusal(inner(url=url)).detail

    def test_none(self) -> None:
        assert "'url'" in refusal(inner(without=["url"])).detail


class TestSteps7And8:
    @pytest.mark.parametrize("url", ["", ACCOUNT_URL + "2", ACCOUNT_URL + "/", "evOfKhNU60wg", ACCOUNT_URL.upper()])
    def test_another_account(self, url: str) -> None:
        change = verify_key_change(inner(payload=MEMBERS | {"account": url}), url=URL)
        with pytest.raises(Problem, match="'account'"):
            require_own(change, account(), account_url=ACCOUNT_URL)

    def test_another_old_key(self) -> None:
        for key in (NEW, new_key()):
            change = verify_key_change(inner(payload=MEMBERS | {"oldKey": key.jwk}), url=URL)
            with pytest.raises(Problem, match="'oldKey'"):
                require_own(change, account(), account_url=ACCOUNT_URL)

    def test_the_old_key_in_another_spelling(self) -> None:
        """ "the same as the account key": members that RFC 7638 leaves out of a thumbprint make no other key."""
        jwk = {"use": "sig", "alg": "ES256", "kid": "mine"} | dict(reversed(OLD.jwk.items()))
        change = verify_key_change(inner(payload=MEMBERS | {"oldKey": jwk}), url=URL)
        require_own(change, account(), account_url=ACCOUNT_URL)


class TestAnyInput:
    @settings(deadline=None, max_examples=100)
    @given(data=st.binary(max_size=400))
    def test_bytes(self, data: bytes) -> None:
        """RULES §1, step 8: "No input of any shape gives a 500": a Problem is all that comes out."""
        refusal(data)

    @settings(deadline=None, max_examples=100)
    @given(name=st.sampled_from(["alg", "jwk", "url", "kid", "nonce", "crit", "b64"]), value=JSON)
    def test_headers(self, name: str, value: object) -> None:
        """Whatever stands in the header, well signed: a Problem, or what was good already."""
        body = inner(header={name: value})
        try:
            change = verify_key_change(body, url=URL)
        except Problem:
            return
        assert (name, value) in {("alg", "ES384"), ("url", URL)}
        assert change.new_key == parse_jwk(NEW.jwk)

    @settings(deadline=None, max_examples=100)
    @given(members=st.dictionaries(st.sampled_from(["account", "oldKey", "x"]), JSON))
    def test_payloads(self, members: dict[str, object]) -> None:
        refusal(inner(payload=members))

    def test_it_takes_no_time(self) -> None:
        """RULES §1, step 8: at most 50 ms, the largest key there is and 60 KiB of nothing included."""
        body = inner(
            key=shared_key("RSA-4096"), payload=MEMBERS | {"oldKey": shared_key("RSA-4096").jwk, "x": "x" * 40_000}
        )
        assert takes_less_than(0.05, lambda: verify_key_change(body, url=URL))
