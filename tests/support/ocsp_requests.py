"""OCSP requests of every kind, well-formed and not (RFC 6960 §4.1.1).

Rule 1: each part is built by itself from bytes, so that a test can put a wrong one in its place.
Rule 2: hashes are computed here from the certificate as `cryptography` reads it, not by the code under test.
"""

import hashlib
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from acmeca.pki import der

OIDS = {
    "md5": "1.2.840.113549.2.5",
    "sha1": "1.3.14.3.2.26",
    "sha224": "2.16.840.1.101.3.4.2.4",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
KNOWN_HASHES = ("sha1", "sha256", "sha384", "sha512")
NONCE = "1.3.6.1.5.5.7.48.1.2"
ACCEPTABLE_RESPONSES = "1.3.6.1.5.5.7.48.1.4"
SERVICE_LOCATOR = "1.3.6.1.5.5.7.48.1.7"
UNHEARD_OF = "1.3.6.1.4.1.32473.1"  # below the private number for documentation (RFC 5612)


def hash_name_and_key(issuer: x509.Certificate, hash_name: str) -> tuple[bytes, bytes]:
    """issuerNameHash and issuerKeyHash, from the issuer's certificate."""
    key = issuer.public_key()
    try:  # the raw point or number string, as it stands in the BIT STRING
        bits = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    except ValueError:
        try:
            bits = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
        except ValueError:
            bits = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.new(hash_name, issuer.subject.public_bytes()).digest(), hashlib.new(hash_name, bits).digest()


def cert_id(
    issuer: x509.Certificate,
    serial: int | bytes,
    hash_name: str = "sha1",
    *,
    parameters: bytes = der.null(),
    name_hash: bytes | None = None,
    key_hash: bytes | None = None,
) -> bytes:
    """A CertID. A serial given as bytes is the content of its INTEGER."""
    right_name_hash, right_key_hash = hash_name_and_key(issuer, hash_name)
    return der.sequence(
        der.sequence(der.oid(OIDS[hash_name]), parameters),
        der.octet_string(right_name_hash if name_hash is None else name_hash),
        der.octet_string(right_key_hash if key_hash is None else key_hash),
        der.integer(serial) if isinstance(serial, int) else der.encode(der.INTEGER, serial),
    )


def extension(oid: str, value: bytes, *, critical: bool | None = None) -> bytes:
    """An Extension; `critical=False` spells the default out, None leaves it away."""
    flag = b"" if critical is None else der.boolean(critical)
    return der.sequence(der.oid(oid), flag, der.octet_string(value))


def nonce(value: bytes, *, critical: bool | None = None) -> bytes:
    """A nonce extension, the OCTET STRING inside extnValue."""
    return extension(NONCE, der.octet_string(value), critical=critical)


def single(cert_id_der: bytes, *, extensions: Sequence[bytes] | None = None) -> bytes:
    """A Request: one CertID and its singleRequestExtensions."""
    wrapped = b"" if extensions is None else der.encode(der.explicit(0), der.sequence(*extensions))
    return der.sequence(cert_id_der, wrapped)


def signature(*, certificates: Sequence[bytes] = ()) -> bytes:
    """An optionalSignature with bits that nobody made."""
    wrapped = der.encode(der.explicit(0), der.sequence(*certificates)) if certificates else b""
    value = der.sequence(der.sequence(der.oid("1.2.840.10045.4.3.2")), der.bit_string(b"\x30\x00"), wrapped)
    return der.encode(der.explicit(0), value)


def request(
    *singles: bytes,
    version: bytes = b"",
    requestor_name: bytes | None = None,
    extensions: Sequence[bytes] | None = None,
    signature: bytes = b"",
) -> bytes:
    """An OCSPRequest. `version` and `signature` are whole fields, `requestor_name` is a GeneralName."""
    name = b"" if requestor_name is None else der.encode(der.explicit(1), requestor_name)
    wrapped = b"" if extensions is None else der.encode(der.explicit(2), der.sequence(*extensions))
    return der.sequence(der.sequence(version, name, der.sequence(*singles), wrapped), signature)


def simple(issuer: x509.Certificate, serial: int, hash_name: str = "sha1", **parts: object) -> bytes:
    """The request that nearly all clients send: one certificate, and perhaps extensions."""
    return request(single(cert_id(issuer, serial, hash_name)), **parts)  # type: ignore[arg-type]  # parts of request()
