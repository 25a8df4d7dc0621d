"""acmeca.acme.jwk: which JWKs are keys, what they are called, and what they sign."""

import json
from collections.abc import Mapping

import josepy
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme import jwk
from acmeca.acme.jwk import PublicKey, load_jwk, parse_jwk, thumbprint, verify_signature
from acmeca.acme.problem import Problem, ProblemType
from tests.support.jose import KEY_KINDS, KeyKind, decode, encode, encode_integer, shared_key

PROPERTY = settings(deadline=None, max_examples=200)
ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}


def refusal(members: Mapping[str, object]) -> str:
    with pytest.raises(Problem) as caught:
        parse_jwk(members)
    assert caught.value.type is ProblemType.BAD_PUBLIC_KEY
    assert caught.value.status == 400
    return caught.value.detail


@pytest.mark.parametrize("kind", KEY_KINDS)
class TestEveryKind:
    def test_it_is_parsed(self, kind: KeyKind) -> None:
        signing_key = shared_key(kind)
        key = parse_jwk(signing_key.jwk)
        assert key.key == signing_key.private.public_key()
        assert key.algorithms == (ALGORITHMS.get(kind, "RS256"),)
        assert key.thumbprint == signing_key.thumbprint

    def test_its_text_is_the_input_of_rfc_7638(self, kind: KeyKind) -> None:
        """RFC 7638 §3: required members only, in lexicographic order, no white space."""
        key = parse_jwk(shared_key(kind).jwk | {"kid": "x", "ext": "y"})
        assert key.jwk == json.dumps(shared_key(kind).jwk, sort_keys=True, separators=(",", ":"))

    def test_what_was_kept_is_the_same_key(self, kind: KeyKind) -> None:
        key = parse_jwk(shared_key(kind).jwk)
        loaded = load_jwk(key.jwk)
        assert loaded == key
        assert hash(loaded) == hash(key)
        assert loaded.key == key.key

    def test_its_signature_is_verified(self, kind: KeyKind) -> None:
        signing_key = shared_key(kind)
        key = parse_jwk(signing_key.jwk)
        signature = signing_key.sign(b"signed")
        assert verify_signature(key, key.algorithms[0], signature, b"signed")
        assert not verify_signature(key, key.algorithms[0], signature, b"Signed")
        assert not verify_signature(key, key.algorithms[0], signature[:-1], b"signed")
        assert not verify_signature(key, key.algorithms[0], signature + b"\0", b"signed")
        assert not verify_signature(key, key.algorithms[0], b"", b"signed")

    def test_no_other_algorithm_verifies(self, kind: KeyKind) -> None:
        """RFC 8725 §3.1: "each key MUST be used with exactly one algorithm"."""
        signing_key = shared_key(kind)
        key = parse_jwk(signing_key.jwk)
        others = {"none", "", "HS256", "PS256", "RS384", *jwk.SUPPORTED_ALGORITHMS} - set(key.algorithms)
        assert not any(verify_signature(key, other, signing_key.sign(b"signed"), b"signed") for other in others)

    @pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
    def test_private_members_are_refused(self, kind: KeyKind, member: str) -> None:
        assert "private" in refusal(shared_key(kind).jwk | {member: "AQAB"})
        assert "private" in refusal(shared_key(kind).jwk | {member: None})

    def test_every_required_member_is_required(self, kind: KeyKind) -> None:
        good = shared_key(kind).jwk
        for missing in good:
            refusal({name: value for name, value in good.items() if name != missing})

    @pytest.mark.parametrize("value", [None, True, 1, 1.5, "", " ", [], {}, ["AQAB"], "\u00e9", "\ud800"])
    def test_no_member_has_another_type(self, kind: KeyKind, value: object) -> None:
        for name in shared_key(kind).jwk:
            refusal(shared_key(kind).jwk | {name: value})

    def test_what_the_key_says_about_its_use_is_believed(self, kind: KeyKind) -> None:
        """RFC 7517 §4.2, §4.4."""
        good = shared_key(kind).jwk
        algorithm = ALGORITHMS.get(kind, "RS256")
        assert parse_jwk(good | {"use": "sig", "alg": algorithm, "key_ops": ["verify"], "kid": 1}).jwk
        assert "use" in refusal(good | {"use": "enc"})
        assert "use" in refusal(good | {"use": []})
        assert "alg" in refusal(good | {"alg": "PS256"})
        assert "alg" in refusal(good | {"alg": {}})


@pytest.mark.parametrize("kind", [kind for kind in KEY_KINDS if kind != "Ed25519"])
def test_josepy_agrees_on_the_thumbprint(kind: KeyKind) -> None:
    """The oracle. It knows no Ed25519; RFC 8037's own example stands in tests/rfc."""
    oracle = josepy.jwk.JWK.from_json(shared_key(kind).jwk)
    assert isinstance(oracle, josepy.jwk.JWK)
    assert parse_jwk(shared_key(kind).jwk).thumbprint == encode(oracle.thumbprint())


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
class TestEllipticCurves:
    def test_a_coordinate_has_its_full_length(self, kind: KeyKind) -> None:
        """RFC 7518 §6.2.1.2: "The length of this octet string MUST be the full size of a coordinate"."""
        good = shared_key(kind).jwk
        for name in ("x", "y"):
            octets = decode(good[name])
            assert "octets" in refusal(good | {name: encode(octets[1:])})
            assert "octets" in refusal(good | {name: encode(b"\0" + octets)})
            assert "octets" in refusal(good | {name: encode(octets) * 100})

    def test_a_coordinate_is_canonical_base64url(self, kind: KeyKind) -> None:
        good = shared_key(kind).jwk
        assert "base64url" in refusal(good | {"x": good["x"][:-1] + "="})
        assert "base64url" in refusal(good | {"x": "+" + good["x"][1:]})
        assert "base64url" in refusal(good | {"y": "\n" + good["y"][1:]})

    def test_the_point_lies_on_the_curve(self, kind: KeyKind) -> None:
        good = shared_key(kind).jwk
        zero = encode(bytes(len(decode(good["x"]))))
        y = int.from_bytes(decode(good["y"])) ^ 1
        assert "not on" in refusal(good | {"y": encode(y.to_bytes(len(decode(good["y"]))))})
        assert "not on" in refusal(good | {"x": zero, "y": zero})
        assert "not on" in refusal(good | {"x": encode(b"\xff" * len(decode(good["x"])))})

    def test_no_other_curve(self, kind: KeyKind) -> None:
        for crv in ("P-192", "secp256k1", "p-256", "P-256 ", "Ed25519", "BP-256"):
            assert "crv" in refusal(shared_key(kind).jwk | {"crv": crv})

    def test_a_signature_has_two_numbers_of_fixed_length_and_is_not_der(self, kind: KeyKind) -> None:
        """RFC 7518 §3.4: R and S, each as long as a coordinate, one after the other."""
        signing_key = shared_key(kind)
        assert isinstance(signing_key.private, ec.EllipticCurvePrivateKey)
        key = parse_jwk(signing_key.jwk)
        hash_ = {"P-256": hashes.SHA256(), "P-384": hashes.SHA384(), "P-521": hashes.SHA512()}[kind]
        good = signing_key.sign(b"signed")
        half = len(good) // 2
        bad = [
            signing_key.private.sign(b"signed", ec.ECDSA(hash_)),
            good[half:] + good[:half],
            bytes(half) + good[half:],
            good[:half] + bytes(half),
            bytes(2 * half),
            b"\xff" * (2 * half),
            b"\0" + good[:half] + b"\0" + good[half:],
            good[:half] + b"\0" + good[half:],  # the same two numbers, but longer
        ]
        assert not any(verify_signature(key, key.algorithms[0], signature, b"signed") for signature in bad)


def test_an_algorithm_of_the_wrong_hash_does_not_verify() -> None:
    """RFC 7518 §3.4 binds each curve to a hash: P-256 with SHA-384 is not ES256."""
    signing_key = shared_key("P-256")
    assert isinstance(signing_key.private, ec.EllipticCurvePrivateKey)
    r, s = decode_dss_signature(signing_key.private.sign(b"signed", ec.ECDSA(hashes.SHA384())))
    assert not verify_signature(parse_jwk(signing_key.jwk), "ES256", r.to_bytes(32) + s.to_bytes(32), b"signed")


class TestRsa:
    @pytest.mark.parametrize("bits", [1, 512, 1024, 2040, 2047, 2049, 3071, 4095])
    def test_no_other_length(self, bits: int) -> None:
        assert f"{bits} bits" in refusal(rsa_of(1 << (bits - 1) | 1))

    @pytest.mark.parametrize("bits", [4097, 8_192, 16_384, 300_000])
    def test_a_long_modulus_is_refused_before_it_is_read(self, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """RULES §1: "Check bit lengths before building a key object (a 16 kbit modulus is a denial of service)"."""
        members = rsa_of(1 << (bits - 1) | 1)
        monkeypatch.setattr(josepy.jwk.JWKRSA, "fields_from_json", None)  # whoever calls it fails
        assert "4096 bits" in refusal(members)

    @pytest.mark.parametrize("exponent", [0, 1, 3, 17, 65_536, 65_539, 2**32 + 1, 2**64 + 1])
    def test_the_exponent_is_65537(self, exponent: int) -> None:
        assert "65537" in refusal(shared_key("RSA-2048").jwk | {"e": encode_integer(exponent)})

    @pytest.mark.parametrize("text", ["AAEAAQ", "AQAB=", "AQAB\n", "aqab"])
    def test_the_exponent_has_one_spelling(self, text: str) -> None:
        assert "65537" in refusal(shared_key("RSA-2048").jwk | {"e": text})

    def test_the_modulus_has_the_minimum_of_octets(self) -> None:
        """RFC 7518 §2, Base64urlUInt: "the minimum number of octets"; §6.3.1.1 warns of the extra zero octet."""
        good = shared_key("RSA-2048").jwk
        assert "zero octet" in refusal(good | {"n": encode(b"\0" + decode(good["n"]))})

    def test_the_modulus_is_canonical_base64url(self) -> None:
        good = shared_key("RSA-2048").jwk
        assert "base64url" in refusal(good | {"n": good["n"] + "="})
        assert "base64url" in refusal(good | {"n": good["n"][:-1] + "B"})  # 2048 bits leave four of the last six unused

    def test_what_the_library_refuses_is_a_bad_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """cryptography 50 takes any number of the right length; one that looks closer must not become a failure of ours."""

        def refuse(_: object) -> None:
            raise ValueError("n must be odd")

        monkeypatch.setattr(josepy.jwk.JWKRSA, "fields_from_json", refuse)
        assert "no RSA key" in refusal(shared_key("RSA-2048").jwk)


class TestOctetKeyPairs:
    @pytest.mark.parametrize(("crv", "length"), [("Ed448", 57), ("X25519", 32), ("X448", 56), ("ed25519", 32)])
    def test_no_other_curve(self, crv: str, length: int) -> None:
        """RFC 8555 §6.2's example: "alg" is "EdDSA" and "crv" is "Ed448", but the server only supports Ed25519."""
        assert "Ed25519" in refusal({"kty": "OKP", "crv": crv, "x": encode(bytes(length))})

    @pytest.mark.parametrize("length", [1, 31, 33, 64])
    def test_the_key_has_32_octets(self, length: int) -> None:
        assert "32 octets" in refusal({"kty": "OKP", "crv": "Ed25519", "x": encode(bytes(length))})


class TestThumbprint:
    @pytest.mark.parametrize("kind", KEY_KINDS)
    def test_a_key_that_came_another_way_is_the_same_key(self, kind: KeyKind) -> None:
        """RFC 8555 §11.1: a certificate's key "MUST NOT be" an account's: they are compared by thumbprint."""
        shared = shared_key(kind)
        assert thumbprint(shared.private.public_key()) == parse_jwk(shared.jwk).thumbprint == shared.thumbprint

    def test_a_key_that_no_request_can_have_has_one_too(self) -> None:
        keys = [ec.generate_private_key(curve).public_key() for curve in (ec.SECP256K1(), ec.SECP224R1())]
        assert len({thumbprint(key) for key in keys}) == 2

    def test_what_is_no_key_is_a_mistake_of_the_caller(self) -> None:
        with pytest.raises(AssertionError):
            thumbprint("key")  # type: ignore[arg-type]  # what the type forbids must not pass in silence either
        odd = PublicKey(jwk="{}", thumbprint="", algorithms=("ES256",), key="key")  # type: ignore[arg-type]  # as above
        with pytest.raises(AssertionError):
            verify_signature(odd, "ES256", b"", b"")


@pytest.mark.parametrize("kty", ["oct", "", "ec", "RSA ", "AKP", "DH", None, 1, [], {}])
def test_no_other_type(kty: object) -> None:
    assert "kty" in refusal(shared_key("P-256").jwk | {"kty": kty})


def test_an_empty_object_is_refused() -> None:
    assert "kty" in refusal({})


def test_equal_keys_are_equal_whatever_else_their_jwk_said() -> None:
    one, other = parse_jwk(shared_key("P-256").jwk), parse_jwk(shared_key("P-256").jwk | {"kid": "x", "use": "sig"})
    assert one == other
    assert one != parse_jwk(shared_key("P-384").jwk)
    assert "PublicKey(" in repr(one)
    assert " object at " not in repr(one)


def test_a_key_cannot_be_changed() -> None:
    key: PublicKey = parse_jwk(shared_key("P-256").jwk)
    with pytest.raises(AttributeError):
        key.jwk = "{}"  # type: ignore[misc]  # what a frozen value has to refuse


@pytest.mark.parametrize(
    "damage", [lambda text: text + " ", lambda text: text[:-1], lambda _: "{}", lambda _: "[]", lambda _: ""]
)
def test_a_damaged_store_is_noticed(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(ValueError):
        load_jwk(damage(parse_jwk(shared_key("P-256").jwk).jwk))


_ANY_TEXT = st.text(max_size=50) | st.sampled_from(
    ["EC", "RSA", "OKP", "oct", "P-256", "Ed25519", "AQAB", "A" * 43, "A" * 342]
)
_ANYTHING = st.none() | st.booleans() | st.integers() | _ANY_TEXT | st.lists(_ANY_TEXT, max_size=2)


@PROPERTY
@given(st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "alg"]), _ANYTHING, max_size=8))
def test_nothing_but_bad_public_key_is_raised(members: dict[str, object]) -> None:
    try:
        parse_jwk(members)
    except Problem as problem:
        kind = problem.type
    else:
        kind = ProblemType.BAD_PUBLIC_KEY  # `A` * 43 is a string of 32 octets, so some are keys
    assert kind is ProblemType.BAD_PUBLIC_KEY


def rsa_of(n: int) -> dict[str, object]:
    return {"kty": "RSA", "e": "AQAB", "n": encode_integer(n)}
