"""CSRs, good and bad, and the keys for them.

Rule 1: `build_csr` is what an ordinary client sends, made by `cryptography`; `forge_csr` puts one together from its parts
and signs whatever it is given, so that each part can be wrong on its own.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from acmeca.pki import der

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

KEY_KINDS: Final = ("P-256", "P-384", "P-521", "RSA", "Ed25519")

ECDSA_SHA256: Final = der.sequence(der.oid("1.2.840.10045.4.3.2"))
SUBJECT_ALT_NAME: Final = "2.5.29.17"
EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"
COMMON_NAME: Final = "2.5.4.3"


def shared_key(kind: str = "P-256", number: int = 0) -> PrivateKey:
    """A key of a kind, made once in a test run; another `number` is another key."""
    return _make_key(kind, number)


@cache
def _make_key(kind: str, number: int) -> PrivateKey:
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if kind == "Ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
    return ec.generate_private_key(curves[kind])


def spki(key: PrivateKey) -> bytes:
    """The DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signature_hash(key: PrivateKey) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def build_csr(
    key: PrivateKey,
    *,
    dns_names: Iterable[str] = (),
    ip_addresses: Iterable[str] = (),
    common_name: str | None = None,
    other_names: Iterable[x509.GeneralName] = (),
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    challenge_password: bytes | None = None,
) -> bytes:
    """A CSR as a client makes it, DER."""
    subject = x509.Name([] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ip_addresses]
    names += other_names
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    if challenge_password is not None:
        builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, challenge_password)
    return builder.sign(key, signature_hash(key)).public_bytes(Encoding.DER)


def general_name(tag: int, content: bytes) -> bytes:
    return der.encode(tag, content)


def dns_name(content: bytes) -> bytes:
    return der.encode(der.implicit(2), content)


def extension(dotted: str, value: bytes, *, critical: bytes = b"") -> bytes:
    return der.sequence(der.oid(dotted), critical, der.octet_string(value))


def subject_alt_name(*names: bytes) -> bytes:
    return extension(SUBJECT_ALT_NAME, der.sequence(*names))


def attribute(dotted: str, *values: bytes) -> bytes:
    return der.sequence(der.oid(dotted), der.encode(der.SET, *values))


def extension_request(*extensions: bytes) -> bytes:
    return attribute(EXTENSION_REQUEST, der.sequence(*extensions))


def name(*attributes: tuple[str, bytes]) -> bytes:
    """A Name of attributes with encoded values, one in each RDN."""
    return der.sequence(*(der.set_(der.sequence(der.oid(dotted), value)) for dotted, value in attributes))


def forge_csr(
    key: PrivateKey | None = None,
    *,
    version: bytes = b"\x02\x01\x00",
    subject: bytes = b"\x30\x00",
    spki_der: bytes | None = None,
    attributes: Sequence[bytes] = (),
    attributes_tag: int = 0xA0,
    after_attributes: bytes = b"",
    algorithm: bytes | None = None,
    signature: bytes | None = None,
    after: bytes = b"",
) -> bytes:
    """A CSR of these parts, DER where its parts are; signed by `key` unless a `signature` is given."""
    key = shared_key() if key is None else key
    info = der.sequence(
        version,
        subject,
        spki(key) if spki_der is None else spki_der,
        der.encode(attributes_tag, *attributes),
        after_attributes,
    )
    if algorithm is None:
        algorithm = _algorithm(key)
    if signature is None:
        signature = _sign(key, info)
    return der.sequence(info, algorithm, der.bit_string(signature)) + after


def _algorithm(key: PrivateKey) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return der.sequence(der.oid("1.2.840.113549.1.1.11"), der.null())
    return der.sequence(der.oid("1.3.101.112")) if isinstance(key, ed25519.Ed25519PrivateKey) else ECDSA_SHA256


def _sign(key: PrivateKey, data: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    return key.sign(data, ec.ECDSA(hashes.SHA256()))
