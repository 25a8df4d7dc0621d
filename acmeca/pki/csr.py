"""Certificate signing requests (RFC 2986), read for what RFC 8555 §7.4 takes out of them: a key and names.

Rule 1: from a CSR come its public key and its names, for comparing, and nothing else. Requested extensions other than
subjectAltName, other attributes and other parts of the subject are passed over, whatever they ask for: CA certificates
have been had from CAs that copied basicConstraints.
Rule 2: any bytes give a `CertificateRequest` or a `CsrError`. The structure is read by `der.py`; the library sees the key
after its size is known, and a signature.
Rule 3: names are returned raw. A dNSName or a CN may hold a NUL, a newline, upper case or an address; making them
canonical, and comparing them with the order, is the caller's.
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from acmeca.pki import der
from acmeca.pki.errors import CsrError, PkiError
from acmeca.pki.extensions import SUBJECT_ALT_NAME
from acmeca.pki.signing import PublicKey
from acmeca.pki.spki import parse_public_key

MAX_CSR_OCTETS: Final = 16 * 1024  # a hundred names and an RSA-4096 key take less than half of it

# RFC 2986 §4.1 has 0 alone. Ruby's acme-client and what was built on pyOpenSSL write 2, which in a certificate is version 3; the
# structure is the same, and the version is in what is signed.
_VERSIONS: Final = frozenset({0, 1, 2})
_ATTRIBUTES: Final = der.explicit(0)  # [0] IMPLICIT on a constructed type has the same tag
_DNS_NAME: Final = der.implicit(2)
_IP_ADDRESS: Final = der.implicit(7)
_COMMON_NAME: Final = "2.5.4.3"
_EXTENSION_REQUEST: Final = "1.2.840.113549.1.9.14"  # RFC 2985 §5.4.2

# What the other choices of GeneralName are called (RFC 5280 §4.2.1.6), for telling a client what it sent.
_GENERAL_NAMES: Final[Mapping[int, str]] = MappingProxyType(
    {
        der.explicit(0): "otherName",
        der.implicit(1): "rfc822Name",
        der.explicit(3): "x400Address",
        der.explicit(4): "directoryName",
        der.explicit(5): "ediPartyName",
        der.implicit(6): "uniformResourceIdentifier",
        der.implicit(8): "registeredID",
    }
)

# How the string types of DirectoryString (RFC 5280 §4.1.2.4) are read. TeletexString has no agreed alphabet beyond ASCII.
_STRINGS: Final[Mapping[int, str]] = MappingProxyType(
    {
        der.UTF8_STRING: "utf-8",
        der.PRINTABLE_STRING: "ascii",
        der.IA5_STRING: "ascii",
        0x14: "ascii",  # TeletexString
        0x1C: "utf-32-be",  # UniversalString
        0x1E: "utf-16-be",  # BMPString
    }
)

# The signatures accepted, by object identifier, with their hashes. No MD5 and no SHA-1.
_SHA256: Final = hashes.SHA256()
_SHA384: Final = hashes.SHA384()
_SHA512: Final = hashes.SHA512()
_RSA_SIGNATURES: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {"1.2.840.113549.1.1.11": _SHA256, "1.2.840.113549.1.1.12": _SHA384, "1.2.840.113549.1.1.13": _SHA512}
)
_ECDSA_SIGNATURES: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {"1.2.840.10045.4.3.2": _SHA256, "1.2.840.10045.4.3.3": _SHA384, "1.2.840.10045.4.3.4": _SHA512}
)
_ED25519_SIGNATURE: Final = "1.3.101.112"
_PKCS1: Final = padding.PKCS1v15()


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What a CSR asks for, as far as anybody listens; its signature has been verified.

    `spki_der` is the SubjectPublicKeyInfo as sent, which is also the one encoding of `public_key`. `dns_names` (from
    subjectAltName) and `common_names` (from the subject) are text as found, not canonical and not checked;
    `ip_addresses` are canonical text (RFC 5952).
    """

    public_key: PublicKey
    spki_der: bytes
    dns_names: frozenset[str]
    ip_addresses: frozenset[str]
    common_names: tuple[str, ...]


def parse_csr(csr_der: bytes) -> CertificateRequest:
    """Read a DER CertificationRequest (RFC 2986 §4) and verify its signature.

    1. At most 16 KiB. 2. One CertificationRequest of version 1 (`_VERSIONS`) and nothing after it. 3. A key of a type and size that is
    used here. 4. Signed by that key, with SHA-256 or better. 5. At most one extensionRequest, in it no extension twice,
    in subjectAltName only dNSName and iPAddress. 6. Common names that are text.

    The caller makes the names canonical, compares them with the order, and asks `policy` about the key. Raises `CsrError`
    and nothing else. An order of SET OF elements that DER would not have is let pass: nothing is copied from them.
    """
    # Step 1
    if len(csr_der) > MAX_CSR_OCTETS:
        raise CsrError(f"the CSR has {len(csr_der)} bytes; {MAX_CSR_OCTETS} are the most")
    try:
        return _parse(csr_der)
    except der.DerError as error:
        raise CsrError(f"the CSR is not the DER of a CertificationRequest: {error}") from None


def _parse(csr_der: bytes) -> CertificateRequest:
    # Step 2
    outer = der.Reader(csr_der)
    request = outer.read_sequence()
    outer.finish()
    info = request.read_any()
    if info.tag != der.SEQUENCE:
        raise der.DerError(f"tag 0x{info.tag:02x} stands where the CertificationRequestInfo is expected")
    algorithm = request.read_sequence()
    signature = der.parse_bit_string(request.read(der.BIT_STRING))
    request.finish()

    fields = der.Reader(info.content)
    if der.parse_integer(fields.read(der.INTEGER)) not in _VERSIONS:
        raise CsrError("the CSR is not of version 1, the only one there is")
    subject = fields.read_sequence()
    spki = fields.read_any()
    attributes = der.Reader(fields.read(_ATTRIBUTES))
    fields.finish()

    # Step 3
    try:
        public_key = parse_public_key(spki.encoding)
    except PkiError as error:
        raise CsrError(str(error)) from None

    # Step 4
    _verify_signature(public_key, algorithm, signature, info.encoding)

    # Step 5
    dns_names, ip_addresses = _read_attributes(attributes)

    # Step 6
    common_names = tuple(_read_common_names(subject))
    return CertificateRequest(
        public_key=public_key,
        spki_der=spki.encoding,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
        common_names=common_names,
    )


def _verify_signature(public_key: PublicKey, algorithm: der.Reader, signature: bytes, signed: bytes) -> None:
    """RFC 2986 §4.2: the signature proves that whoever asks holds the private key."""
    oid = der.parse_oid(algorithm.read(der.OBJECT_IDENTIFIER))
    parameters = None if algorithm.peek() is None else algorithm.read_any().encoding
    algorithm.finish()
    rsa_hash, ecdsa_hash = _RSA_SIGNATURES.get(oid), _ECDSA_SIGNATURES.get(oid)
    try:
        # RFC 4055 §5: with RSA the parameters are NULL, and "implementations MUST accept the parameters being absent"
        if isinstance(public_key, rsa.RSAPublicKey) and rsa_hash is not None:
            _refuse_parameters(oid, None if parameters == der.null() else parameters)
            public_key.verify(signature, signed, _PKCS1, rsa_hash)
        # RFC 5758 §3.2, RFC 8410 §3: absent
        elif isinstance(public_key, ec.EllipticCurvePublicKey) and ecdsa_hash is not None:
            _refuse_parameters(oid, parameters)
            public_key.verify(signature, signed, ec.ECDSA(ecdsa_hash))
        elif isinstance(public_key, ed25519.Ed25519PublicKey) and oid == _ED25519_SIGNATURE:
            _refuse_parameters(oid, parameters)
            public_key.verify(signature, signed)
        else:
            raise CsrError(
                f"the CSR is signed with {oid}; use the key's own type (RSA PKCS #1 v1.5, ECDSA, Ed25519) with SHA-256 or better"
            )
    except InvalidSignature:
        raise CsrError("the CSR's signature was not made by its own key") from None


def _refuse_parameters(oid: str, parameters: bytes | None) -> None:
    if parameters is not None:
        raise CsrError(f"the CSR's signature algorithm {oid} has parameters that it must not have")


def _read_attributes(attributes: der.Reader) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the one extensionRequest, or none; all other attributes are passed over."""
    found = _read_table(attributes, "attribute", _read_attribute)
    request = found.get(_EXTENSION_REQUEST)
    if request is None:
        return frozenset(), frozenset()
    # RFC 2985 §5.4.2: extensionRequest is SINGLE VALUE TRUE
    values = der.Reader(request)
    extensions = values.read_sequence()
    values.finish()
    value = _read_table(extensions, "extension", _read_extension).get(SUBJECT_ALT_NAME)
    return (frozenset(), frozenset()) if value is None else _read_subject_alt_name(value)


def _read_attribute(fields: der.Reader) -> bytes:
    return fields.read(der.SET)


def _read_extension(fields: der.Reader) -> bytes:
    critical = fields.read_optional(der.BOOLEAN)
    if critical is not None:
        der.parse_boolean(critical)
    return fields.read(der.OCTET_STRING)


def _read_table(entries: der.Reader, what: str, read_value: Callable[[der.Reader], bytes]) -> dict[str, bytes]:
    """SEQUENCEs that begin with an object identifier, each of which may stand there once (RFC 5280 §4.2)."""
    table: dict[str, bytes] = {}
    while entries.peek() is not None:
        fields = entries.read_sequence()
        oid = der.parse_oid(fields.read(der.OBJECT_IDENTIFIER))
        if oid in table:
            raise CsrError(f"the CSR has the {what} {oid} twice")
        table[oid] = read_value(fields)
        fields.finish()
    return table


def _read_subject_alt_name(value: bytes) -> tuple[frozenset[str], frozenset[str]]:
    dns_names: set[str] = set()
    ip_addresses: set[str] = set()
    outer = der.Reader(value)
    names = outer.read_sequence()
    outer.finish()
    # RFC 5280 §4.2.1.6: "If the subjectAltName extension is present, the sequence MUST contain at least one entry."
    if names.peek() is None:
        raise CsrError("the CSR has a subjectAltName without a name")
    while names.peek() is not None:
        name = names.read_any()
        if name.tag == _DNS_NAME:
            dns_names.add(_decode(name.content, "ascii", "a dNSName"))
        elif name.tag == _IP_ADDRESS:
            if len(name.content) not in {4, 16}:
                raise CsrError(f"the CSR has an iPAddress of {len(name.content)} bytes; 4 or 16 are an address")
            ip_addresses.add(str(ipaddress.ip_address(name.content)))
        else:
            kind = _GENERAL_NAMES.get(name.tag, "unknown name")
            raise CsrError(
                f"the CSR's subjectAltName has a name of the type {kind}; only dNSName and iPAddress are issued"
            )
    return frozenset(dns_names), frozenset(ip_addresses)


def _read_common_names(subject: der.Reader) -> Iterator[str]:
    while subject.peek() is not None:
        attributes = der.Reader(subject.read(der.SET))
        while attributes.peek() is not None:
            attribute = attributes.read_sequence()
            oid = der.parse_oid(attribute.read(der.OBJECT_IDENTIFIER))
            value = attribute.read_any()
            attribute.finish()
            if oid != _COMMON_NAME:
                continue
            if value.tag not in _STRINGS:
                raise CsrError(f"the CSR's common name has the tag 0x{value.tag:02x}, which is no string")
            yield _decode(value.content, _STRINGS[value.tag], "the common name")


def _decode(content: bytes, encoding: str, what: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise CsrError(f"the CSR has {what} that is not {encoding}") from None
