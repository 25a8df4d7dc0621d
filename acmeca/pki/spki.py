"""SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), read before any library builds a key of it.

Rule 1: sizes are looked at in the bytes. A library that is handed a modulus of 16,384 bits has begun to work for whoever
sent it before anybody can object.
Rule 2: one key has one encoding. What is accepted equals what the library writes for the same key, so that comparing or
hashing a SubjectPublicKeyInfo compares keys: no explicit curve parameters, no compressed points, no other padding.
Rule 3: whether a well-formed key is a good one (weak, blocked, too short) is the question of `policy/keys.py`.
"""

from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from acmeca.pki import der
from acmeca.pki.errors import PkiError
from acmeca.pki.signing import PublicKey

MIN_MODULUS_BITS: Final = 1024  # the library refuses less in its own words; what is long enough is policy's
MAX_MODULUS_BITS: Final = 4096
_MAX_EXPONENT_BITS: Final = 64  # a long exponent makes every verification as slow as a signature

_RSA: Final = "1.2.840.113549.1.1.1"  # RFC 8017 appendix A.1
_EC: Final = "1.2.840.10045.2.1"  # RFC 5480 §2.1.1
_ED25519: Final = "1.3.101.112"  # RFC 8410 §3
_CURVES: Final = frozenset({"1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"})  # P-256, P-384, P-521


def parse_public_key(spki_der: bytes) -> PublicKey:
    """The key of a DER SubjectPublicKeyInfo: RSA from 1024 to 4096 bits, EC on P-256, P-384 or P-521, or Ed25519.

    Raises `PkiError`, with a sentence about the key, for anything else and for an encoding that is not the usual one.
    """
    # Step 1: algorithm, parameters and sizes, by the bytes.
    try:
        _check_encoding(spki_der)
    except der.DerError as error:
        raise PkiError(f"the public key is not the DER of a SubjectPublicKeyInfo: {error}") from None
    # Step 2: the mathematics (the point is on its curve) is the library's.
    try:
        key = serialization.load_der_public_key(spki_der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PkiError("the public key is not a valid key of its type") from None
    # Step 3: the one encoding of this key.
    if (
        isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
        and encode_public_key(key) == spki_der
    ):
        return key
    raise PkiError(
        "the public key is not in its usual encoding (named curve, uncompressed point, NULL parameters for RSA)"
    )


def encode_public_key(key: PublicKey) -> bytes:
    """The DER SubjectPublicKeyInfo of a key."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key_bits(spki_der: bytes) -> bytes:
    """The subjectPublicKey of a SubjectPublicKeyInfo, without tag, length and count of unused bits.

    That is what OCSP and key identifiers hash (RFC 6960 §4.1.1, RFC 5280 §4.2.1.2). Raises `PkiError`.
    """
    try:
        return _split(spki_der)[1]
    except der.DerError as error:
        raise PkiError(f"not a SubjectPublicKeyInfo: {error}") from None


def _check_encoding(spki_der: bytes) -> None:
    algorithm, bits = _split(spki_der)
    oid = der.parse_oid(algorithm.read(der.OBJECT_IDENTIFIER))
    if oid == _RSA:
        _check_rsa(bits)
    elif oid == _EC:
        # RFC 5480 §2.1.1: "implicitCurve and specifiedCurve MUST NOT be used in PKIX"
        if algorithm.peek() != der.OBJECT_IDENTIFIER:
            raise PkiError("the public key does not name its curve; use P-256, P-384 or P-521 by name")
        curve = der.parse_oid(algorithm.read(der.OBJECT_IDENTIFIER))
        if curve not in _CURVES:
            raise PkiError(f"the public key is on the curve {curve}; use P-256, P-384 or P-521")
    elif oid != _ED25519:
        raise PkiError(f"the public key is of the type {oid}; use RSA, EC (P-256, P-384, P-521) or Ed25519")


def _check_rsa(bits: bytes) -> None:
    outer = der.Reader(bits)
    numbers = outer.read_sequence()
    outer.finish()
    modulus = der.parse_integer(numbers.read(der.INTEGER))
    exponent = der.parse_integer(numbers.read(der.INTEGER))
    numbers.finish()
    if modulus < 1 or not MIN_MODULUS_BITS <= modulus.bit_length() <= MAX_MODULUS_BITS:
        raise PkiError(f"the RSA modulus has {modulus.bit_length()} bits; use 2048, 3072 or 4096")
    if exponent < 1 or exponent.bit_length() > _MAX_EXPONENT_BITS:
        raise PkiError(f"the RSA exponent has {exponent.bit_length()} bits; use 65537")


def _split(spki_der: bytes) -> tuple[der.Reader, bytes]:
    """A reader over the AlgorithmIdentifier, and the key's bits."""
    outer = der.Reader(spki_der)
    inner = outer.read_sequence()
    outer.finish()
    algorithm = inner.read_sequence()
    bits = der.parse_bit_string(inner.read(der.BIT_STRING))
    inner.finish()
    return algorithm, bits
