"""Public keys as JSON Web Keys: RFC 7517, RFC 7518 §6, RFC 8037 §2, thumbprints by RFC 7638.

Rule 1: a `PublicKey` comes from `parse_jwk` (a client's) or `load_jwk` (one that we kept), and both check the same.
Rule 2: lengths are bounded on the text, before a number or a key object is made of it: a modulus of 16,384 bits is a denial
of service.
Rule 3: one key, one algorithm (RFC 8725 §3.1). The key says which algorithm its signatures have, never the request alone.
Rule 4: josepy is imported here and nowhere else, and sees only members whose text was checked.

Whether a well-formed key is also a good one (small factors, ROCA, a point that anybody can sign for, …) is the question of
`policy/keys.py`, to be asked before a key is given an account.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, assert_never

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from josepy.errors import Error as JosepyError
from josepy.jwk import JWKEC, JWKRSA

from acmeca.acme import base64url, strict_json
from acmeca.acme.problem import Problem, ProblemType
from acmeca.quoting import quote_input

SignatureKey = EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey

RSA_BITS: Final = frozenset({2048, 3072, 4096})
_RSA_EXPONENT: Final = "AQAB"  # 65537
_MAX_MODULUS_LENGTH: Final = 683  # base64url characters of 4096 bits

# RFC 7518 §6.2.2, §6.3.2, §6.4.1 and RFC 8037 §2: the members that hold what only the owner may know.
_PRIVATE_MEMBERS: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


@dataclass(frozen=True, slots=True)
class _Curve:
    algorithm: str
    coordinate_length: int  # octets
    signature: ECDSA


_CURVES: Final[Mapping[str, _Curve]] = MappingProxyType(  # RFC 7518 §3.4 and §6.2.1.1
    {
        "P-256": _Curve("ES256", 32, ECDSA(hashes.SHA256())),
        "P-384": _Curve("ES384", 48, ECDSA(hashes.SHA384())),
        "P-521": _Curve("ES512", 66, ECDSA(hashes.SHA512())),
    }
)
_CURVE_NAMES: Final[Mapping[str, str]] = MappingProxyType(  # as `cryptography` names them
    {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
)
_CURVES_BY_ALGORITHM: Final[Mapping[str, _Curve]] = MappingProxyType(
    {curve.algorithm: curve for curve in _CURVES.values()}
)
_ED25519_LENGTH: Final = 32  # octets, RFC 8032 §5.1.5

SUPPORTED_ALGORITHMS: Final = ("ES256", "ES384", "ES512", "RS256", "EdDSA")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signs requests.

    `jwk` is its canonical JSON text (required members only, sorted, no white space: the input of RFC 7638), `thumbprint` the
    SHA-256 of that, base64url. `algorithms` are the `alg` values its signatures may carry. Two keys are equal when their
    `jwk` is.
    """

    jwk: str
    thumbprint: str
    algorithms: tuple[str, ...]
    key: SignatureKey = field(compare=False, repr=False)


def parse_jwk(members: Mapping[str, object]) -> PublicKey:
    """The public key that a client's JWK describes. Raises Problem `badPublicKey` with what is wrong (RFC 8555 §6.2).

    Members that are not named here are ignored (RFC 7517 §4), `kid` and `key_ops` among them.
    """
    # A key whose private half was sent over the wire is not a key any more.
    if private := [name for name in _PRIVATE_MEMBERS if name in members]:
        raise _bad_key(f"it holds the private member {private[0]!r}: make a new key and send its public members only")
    match members.get("kty"):
        case "EC":
            key = _parse_ec(members)
        case "RSA":
            key = _parse_rsa(members)
        case "OKP":
            key = _parse_okp(members)
        case _:
            raise _bad_key("its 'kty' has to be one of EC, RSA, OKP")
    # RFC 7517 §4.2 and §4.4: what a key says about its own use is believed.
    if members.get("use", "sig") != "sig":
        raise _bad_key("its 'use' is not 'sig'")
    if members.get("alg", key.algorithms[0]) not in key.algorithms:
        raise _bad_key(f"its 'alg' is not {key.algorithms[0]}, the algorithm of such a key")
    return key


def thumbprint(key: SignatureKey) -> str:
    """The thumbprint of a key that came another way, from a CSR or a certificate: the same key has the same one."""
    return _thumbprint(_canonical(_members_of(key)))


def load_jwk(text: str) -> PublicKey:
    """The key whose `jwk` was kept. Raises ValueError when the text is not what `parse_jwk` made: the store is damaged."""
    try:
        key = parse_jwk(strict_json.parse_object(text.encode()))
    except Problem as problem:
        raise ValueError(f"stored key: {problem.detail}") from problem
    if key.jwk != text:
        raise ValueError("stored key: its text is not canonical")
    return key


def verify_signature(key: PublicKey, algorithm: str, signature: bytes, signed: bytes) -> bool:
    """Whether `signature` is the key's over `signed`, made with `algorithm`. False too when the key has no such algorithm."""
    if algorithm not in key.algorithms:
        return False
    try:
        match key.key:
            case EllipticCurvePublicKey():
                curve = _CURVES_BY_ALGORITHM[algorithm]
                length = curve.coordinate_length
                if len(signature) != 2 * length:  # RFC 7518 §3.4: R and S, each as long as a coordinate; never DER
                    return False
                r, s = int.from_bytes(signature[:length]), int.from_bytes(signature[length:])
                key.key.verify(encode_dss_signature(r, s), signed, curve.signature)
            case RSAPublicKey():
                key.key.verify(signature, signed, PKCS1v15(), hashes.SHA256())  # RFC 7518 §3.3
            case Ed25519PublicKey():
                key.key.verify(signature, signed)  # RFC 8037 §3.1
            case _:
                assert_never(key.key)
    except InvalidSignature:
        return False
    return True


def _members_of(key: SignatureKey) -> dict[str, str]:
    """The required members of a key's JWK."""
    match key:
        case EllipticCurvePublicKey():
            numbers = key.public_numbers()
            length = (key.curve.key_size + 7) // 8
            return {
                "kty": "EC",
                "crv": _CURVE_NAMES.get(key.curve.name, key.curve.name),
                "x": base64url.encode(numbers.x.to_bytes(length)),
                "y": base64url.encode(numbers.y.to_bytes(length)),
            }
        case RSAPublicKey():
            rsa = key.public_numbers()
            return {"kty": "RSA", "n": base64url.encode(_minimal(rsa.n)), "e": base64url.encode(_minimal(rsa.e))}
        case Ed25519PublicKey():
            return {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(key.public_bytes_raw())}
        case _:
            assert_never(key)


def _parse_ec(members: Mapping[str, object]) -> PublicKey:
    name = members.get("crv")
    curve = _CURVES.get(name) if isinstance(name, str) else None
    if curve is None:
        raise _bad_key("its 'crv' has to be one of P-256, P-384, P-521")
    # RFC 7518 §6.2.1.2: "The length of this octet string MUST be the full size of a coordinate"
    x = _octets_text(members, "x", length=curve.coordinate_length)
    y = _octets_text(members, "y", length=curve.coordinate_length)
    required = {"crv": str(name), "kty": "EC", "x": x, "y": y}
    try:
        key: EllipticCurvePublicKey = JWKEC.fields_from_json(required).key.public_numbers().public_key()
    except (JosepyError, ValueError):
        raise _bad_key(f"its point is not on {name}") from None
    return _public_key(required, key, curve.algorithm)


def _parse_rsa(members: Mapping[str, object]) -> PublicKey:
    if members.get("e") != _RSA_EXPONENT:
        raise _bad_key("its exponent 'e' has to be 65537, which is AQAB")
    n = members.get("n")
    if isinstance(n, str) and len(n) > _MAX_MODULUS_LENGTH:  # before it is decoded, by Rule 2
        raise _bad_key("its modulus 'n' has more than 4096 bits")
    n = _octets_text(members, "n")
    modulus = base64url.decode(n)
    # RFC 7518 §2, Base64urlUInt: "the minimum number of octets". A second spelling would have a second thumbprint.
    if modulus.startswith(b"\0"):
        raise _bad_key("its modulus 'n' starts with a zero octet: send it without")
    bits = int.from_bytes(modulus).bit_length()
    if bits not in RSA_BITS:
        raise _bad_key(f"its modulus 'n' has {bits} bits; it has to have 2048, 3072 or 4096")
    required = {"e": _RSA_EXPONENT, "kty": "RSA", "n": n}
    try:
        key: RSAPublicKey = JWKRSA.fields_from_json(required).key.public_numbers().public_key()
    except (JosepyError, ValueError):
        raise _bad_key("it is no RSA key") from None
    return _public_key(required, key, "RS256")


def _parse_okp(members: Mapping[str, object]) -> PublicKey:
    if members.get("crv") != "Ed25519":  # RFC 8555 §6.2 names this very refusal: EdDSA with Ed448
        raise _bad_key("its 'crv' has to be Ed25519")
    x = _octets_text(members, "x", length=_ED25519_LENGTH)
    required = {"crv": "Ed25519", "kty": "OKP", "x": x}
    return _public_key(required, Ed25519PublicKey.from_public_bytes(base64url.decode(x)), "EdDSA")


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)


def _octets_text(members: Mapping[str, object], name: str, *, length: int | None = None) -> str:
    """The member's text, known to be canonical base64url of `length` octets (of at least one when it is None)."""
    text = members.get(name)
    if not isinstance(text, str) or not text:
        raise _bad_key(f"its member {name!r} has to be a string")
    if length is not None and len(text) != (length * 8 + 5) // 6:
        raise _bad_key(f"its member {name!r} has to have {length} octets")
    try:
        base64url.decode(text)
    except ValueError as error:
        raise _bad_key(f"its member {name!r} is {error}: {quote_input(text)}") from None
    return text


def _public_key(required: Mapping[str, str], key: SignatureKey, algorithm: str) -> PublicKey:
    canonical = _canonical(required)
    return PublicKey(jwk=canonical, thumbprint=_thumbprint(canonical), algorithms=(algorithm,), key=key)


def _canonical(required: Mapping[str, str]) -> str:
    return json.dumps(required, sort_keys=True, separators=(",", ":"))  # RFC 7638 §3


def _thumbprint(canonical: str) -> str:
    return base64url.encode(hashlib.sha256(canonical.encode()).digest())


def _bad_key(reason: str) -> Problem:
    return Problem(ProblemType.BAD_PUBLIC_KEY, f"the public key is refused: {reason}")
