"""Signatures over certificates, CRLs and OCSP answers, and the SEQUENCE that holds them (RFC 5280 §4.1.1).

Rule 1: one key has one signature algorithm, chosen here by its type and curve, so that what stands inside a
to-be-signed value and what stands beside its signature cannot differ.
Rule 2: nothing here parses or builds what is signed; the bytes go in and come out as they were given.
Rule 3: keys are `cryptography` key objects. A subclass whose `sign` calls a token serves as well.
"""

from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from acmeca.pki import der
from acmeca.pki.errors import PkiError, SignatureMismatchError
from acmeca.pki.tbs import read_signature_algorithm

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

# The hash is as strong as the curve. RFC 5758 §3.2: with ECDSA "the encoding MUST omit the parameters field".
_ECDSA: Final[dict[str, tuple[ec.ECDSA, bytes]]] = {
    "secp256r1": (ec.ECDSA(hashes.SHA256()), der.sequence(der.oid("1.2.840.10045.4.3.2"))),
    "secp384r1": (ec.ECDSA(hashes.SHA384()), der.sequence(der.oid("1.2.840.10045.4.3.3"))),
    "secp521r1": (ec.ECDSA(hashes.SHA512()), der.sequence(der.oid("1.2.840.10045.4.3.4"))),
}
# RFC 4055 §5: sha256WithRSAEncryption, and "the parameters MUST be NULL".
_RSA: Final = der.sequence(der.oid("1.2.840.113549.1.1.11"), der.null())
# RFC 8410 §3: "the parameters MUST be absent".
_ED25519: Final = der.sequence(der.oid("1.3.101.112"))
_PADDING: Final = padding.PKCS1v15()
_SHA256: Final = hashes.SHA256()


def signature_algorithm(public_key: object) -> bytes:
    """The DER of the AlgorithmIdentifier that this key, or its private half, signs with.

    P-256, P-384 and P-521 sign with ECDSA and SHA-256, SHA-384 and SHA-512, RSA with PKCS #1 v1.5 and SHA-256, Ed25519
    with itself. Raises `PkiError` for any other key.
    """
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _ecdsa(public_key.curve)[1]
    if isinstance(public_key, rsa.RSAPublicKey):
        return _RSA
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return _ED25519
    raise PkiError(f"a key of type {type(public_key).__name__} cannot sign here; use EC, RSA or Ed25519")


def sign_with(key: PrivateKey, data: bytes) -> bytes:
    """The signature of `data` by the algorithm that `signature_algorithm` names for this key.

    ECDSA signatures are the DER of Ecdsa-Sig-Value (RFC 3279 §2.2.3). A key in a token raises what its token raises.
    """
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, _ecdsa(key.curve)[0])
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, _PADDING, _SHA256)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    raise PkiError(f"a key of type {type(key).__name__} cannot sign here; use EC, RSA or Ed25519")


def verify_with(public_key: object, signature: bytes, data: bytes) -> None:
    """Raise `SignatureMismatchError` unless `signature` is this key's over `data`, by the key's one algorithm."""
    try:
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, data, _ecdsa(public_key.curve)[0])
        elif isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(signature, data, _PADDING, _SHA256)
        elif isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, data)
        else:
            raise PkiError(f"a key of type {type(public_key).__name__} cannot sign here; use EC, RSA or Ed25519")
    except InvalidSignature:
        raise SignatureMismatchError("the signature is not by this key over this data") from None


def assemble_signed(tbs: bytes, signature_algorithm: bytes, signature: bytes) -> bytes:
    """SEQUENCE { tbs, signatureAlgorithm, signature BIT STRING }: a certificate, a CRL or a BasicOCSPResponse.

    `tbs` and `signature_algorithm` are whole DER encodings, `signature` is what goes into the BIT STRING.
    """
    return der.sequence(tbs, signature_algorithm, der.bit_string(signature))


def split_signed(signed: bytes) -> tuple[bytes, bytes]:
    """What `assemble_signed` put together: the to-be-signed encoding and the signature. Raises `PkiError`."""
    try:
        outer = der.Reader(signed)
        reader = outer.read_sequence()
        outer.finish()
        tbs = reader.read_any().encoding
        reader.read(der.SEQUENCE)
        signature = der.parse_bit_string(reader.read(der.BIT_STRING))
        reader.finish()
    except der.DerError as error:
        raise PkiError(f"not a signed value: {error}") from None
    return tbs, signature


def certificate_from_tbs(tbs: bytes, signature: bytes) -> bytes:
    """The certificate of a DER TBSCertificate and its signature.

    RFC 5280 §4.1.1.2: signatureAlgorithm "MUST contain the same algorithm identifier as the signature field in the
    sequence tbsCertificate", so it is copied out of there. Raises `PkiError` when `tbs` does not begin as a
    TBSCertificate does.
    """
    return assemble_signed(tbs, read_signature_algorithm(tbs), signature)


def _ecdsa(curve: ec.EllipticCurve) -> tuple[ec.ECDSA, bytes]:
    try:
        return _ECDSA[curve.name]
    except KeyError:
        raise PkiError(f"the curve {curve.name} cannot sign here; use P-256, P-384 or P-521") from None
