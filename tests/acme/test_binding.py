"""acmeca.acme.binding: the JWS inside a newAccount request, step by step (RFC 8555 §7.3.4)."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.binding import MAC_ALGORITHMS, VerifiedBinding, parse_binding, verify_binding, wrong_mac
from acmeca.acme.jwk import PublicKey, parse_jwk
from acmeca.acme.problem import Problem, ProblemType
from tests.support.jose import KEY_KINDS, KeyKind, bind, encode, new_key, shared_key
from tests.support.stopwatch import takes_less_than

URL = "https://ca.example/acme/new-account"
KID = "9vhAv9rRoogB6iiOl2kYOA"
MAC_KEY = bytes(range(64))
KEY = shared_key("P-256")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def binding(**changes: Any) -> dict[str, object]:
    arguments: dict[str, Any] = {"url": URL, "kid": KID, "hmac_key": encode(MAC_KEY)} | changes
    return bind(arguments.pop("key", KEY), **arguments)


def verify(members: dict[str, object], *, mac_key: bytes = MAC_KEY, key: PublicKey | None = None) -> VerifiedBinding:
    return verify_binding(parse_binding(members, url=URL), mac_key, key or parse_jwk(KEY.jwk))


def refusal(members: dict[str, object], type_: ProblemType = ProblemType.MALFORMED, **changes: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        verify(members, **changes)
    assert caught.value.type is type_
    assert caught.value.detail.startswith("externalAccountBinding: ")
    return caught.value


class TestGood:
    @pytest.mark.parametrize("kind", KEY_KINDS)
    @pytest.mark.parametrize("alg", MAC_ALGORITHMS)
    def test_every_key_and_algorithm(self, kind: KeyKind, alg: str) -> None:
        key = shared_key(kind)
        found = verify(binding(key=key, alg=alg), key=parse_jwk(key.jwk))
        assert (found.kid, found.thumbprint) == (KID, key.thumbprint)

    def test_a_verified_one_comes_from_the_check_alone(self) -> None:
        """Rule 1."""
        with pytest.raises(TypeError, match="verify_binding"):
            VerifiedBinding(KID, KEY.thumbprint, checked=None)
        with pytest.raises(TypeError):
            dataclasses.replace(verify(binding()), kid="another", checked=None)

    def test_other_members_are_ignored(self) -> None:
        """RFC 7515 §7.2.1, §4.1: "MUST be ignored"."""
        assert verify(binding(header={"typ": "x", "jwk": KEY.jwk, "cty": "y"}, members={"more": 1})).kid == KID

    def test_a_jwk_with_more_in_it_is_the_same_key(self) -> None:
        """RFC 7638: by thumbprint; §7.3.4: "represents the same key"."""
        payload = json.dumps(KEY.jwk | {"kid": "mine", "use": "sig", "alg": "ES256"}, indent=1).encode()
        assert verify(binding(payload=payload)).thumbprint == KEY.thumbprint


class TestStep1:
    """§7.3.4: "Verify that the value of the field is a well-formed JWS"."""

    @pytest.mark.parametrize("name", ["protected", "payload", "signature"])
    @pytest.mark.parametrize("value", [None, 1, [], {}, "a=", "a+b/", "a b", "\u00fc", "a"])
    def test_members(self, name: str, value: object) -> None:
        refusal(binding(members={name: value}))

    @pytest.mark.parametrize("name", ["protected", "payload", "signature"])
    def test_missing_members(self, name: str) -> None:
        members = binding()
        del members[name]
        assert name in refusal(members).detail

    @pytest.mark.parametrize("name", ["header", "signatures"])
    def test_one_signature_and_no_unprotected_header(self, name: str) -> None:
        assert name in refusal(binding(members={name: {}})).detail

    @pytest.mark.parametrize("header", [b"", b"[]", b"null", b'{"alg":"HS256","alg":"HS256"}', b"\xff", b"[" * 99])
    def test_header(self, header: bytes) -> None:
        refusal(binding(members={"protected": encode(header)}))


class TestStep2:
    """§7.3.4: "The protected header of the JWS MUST meet the following criteria"."""

    @pytest.mark.parametrize(
        "alg", ["none", "ES256", "RS256", "EdDSA", "hs256", "HS1", "", "HS256 ", None, 1, ["HS256"]]
    )
    def test_a_mac(self, alg: object) -> None:
        """ "The "alg" field MUST indicate a MAC-based algorithm" """
        refusal(binding(header={"alg": alg}))

    @pytest.mark.parametrize("name", ["alg", "kid", "url"])
    def test_what_has_to_be_there(self, name: str) -> None:
        assert name in refusal(binding(without=[name])).detail

    @pytest.mark.parametrize("kid", [None, 1, {}, ["x"], "k\u00fc", "\u2028"])
    def test_key_identifier(self, kid: object) -> None:
        """ "The key identifier MUST be an ASCII string." """
        refusal(binding(header={"kid": kid}))

    @pytest.mark.parametrize("nonce", ["AAAA", "", None, 1])
    def test_no_nonce(self, nonce: object) -> None:
        """ "The "nonce" field MUST NOT be present" """
        assert "nonce" in refusal(binding(header={"nonce": nonce})).detail

    @pytest.mark.parametrize("url", [URL + "/", URL.upper(), "https://other.example/acme/new-account", ""])
    def test_same_url(self, url: str) -> None:
        """ "The "url" field MUST be set to the same value as the outer JWS"; §6.4 has `unauthorized` for the outer one."""
        assert URL in refusal(binding(url=url), ProblemType.UNAUTHORIZED).detail

    @pytest.mark.parametrize("name", ["crit", "b64"])
    def test_nothing_critical(self, name: str) -> None:
        assert name in refusal(binding(header={name: ["x"]})).detail


class TestStep4:
    """§7.3.4: "Verify that the MAC on the JWS verifies using that MAC key"."""

    @pytest.mark.parametrize("alg", MAC_ALGORITHMS)
    @pytest.mark.parametrize("length", [0, 1, 31, 32, 48, 64, 65])
    def test_another_mac(self, alg: str, length: int) -> None:
        assert refusal(binding(alg=alg, mac=bytes(length)), ProblemType.UNAUTHORIZED) == wrong_mac()

    @pytest.mark.parametrize("mac_key", [b"", bytes(32), bytes(64), MAC_KEY[:-1], MAC_KEY + b"\1"])
    def test_another_key(self, mac_key: bytes) -> None:
        assert refusal(binding(), ProblemType.UNAUTHORIZED, mac_key=mac_key) == wrong_mac()

    def test_a_mac_of_another_algorithm(self) -> None:
        members = binding(alg="HS256")
        other = binding(alg="HS512") | {"protected": members["protected"]}
        assert refusal(other, ProblemType.UNAUTHORIZED) == wrong_mac()

    @pytest.mark.parametrize("name", ["protected", "payload"])
    def test_what_it_covers(self, name: str) -> None:
        other = binding(key=new_key(), header={"kid": "another"})
        assert refusal(binding(members={name: other[name]}), ProblemType.UNAUTHORIZED) == wrong_mac()

    @settings(max_examples=60)
    @given(data=st.data())
    def test_no_bit_can_be_changed(self, data: st.DataObject) -> None:
        """Whatever octet is changed, of what was sent or of the MAC, nothing is verified."""
        members = binding()
        name = data.draw(st.sampled_from(["protected", "payload", "signature"]))
        text = str(members[name])
        place = data.draw(st.integers(0, len(text) - 1))
        other = data.draw(st.sampled_from("ABab01-_").filter(lambda character: character != text[place]))
        with pytest.raises(Problem):
            verify(members | {name: text[:place] + other + text[place + 1 :]})


class TestStep5:
    """§7.3.4: "the payload of the JWS represents the same key as was used to verify the outer JWS"."""

    def test_another_key(self) -> None:
        found = refusal(binding(key=new_key()), ProblemType.UNAUTHORIZED)
        assert found != wrong_mac()
        assert "another account key" in found.detail

    @pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"\xff", b'"x"', b'{"kty":"oct","k":"AAAA"}'])
    def test_no_key(self, payload: bytes) -> None:
        refusal(binding(payload=payload))

    def test_a_private_key(self) -> None:
        assert "private" in refusal(binding(payload=json.dumps(KEY.jwk | {"d": "AAAA"}).encode())).detail


@settings(max_examples=100, deadline=None)
@given(members=st.dictionaries(st.sampled_from(["protected", "payload", "signature", "header", "x"]), JSON, max_size=4))
def test_any_members(members: dict[str, object]) -> None:
    """RULES §1, step 8: whatever comes, it is refused by a problem that says so, quickly."""
    refusal(members)
    assert takes_less_than(0.05, lambda: refusal(members))


@settings(max_examples=100, deadline=None)
@given(header=JSON, payload=st.binary(max_size=60), mac=st.binary(max_size=70))
def test_any_content(header: object, payload: bytes, mac: bytes) -> None:
    members: dict[str, object] = {
        "protected": encode(json.dumps(header).encode()),
        "payload": encode(payload),
        "signature": encode(mac),
    }
    with pytest.raises(Problem):
        verify(members)


def test_long_ones_are_quick() -> None:
    long = "A" * 60_000
    for members in (binding(kid=long), binding(members={"payload": long}), binding(members={"signature": long})):
        assert takes_less_than(0.05, lambda m=members: refusal(m, ProblemType.UNAUTHORIZED, mac_key=bytes(64)))
