"""The certificate extensions that acmeca writes, as DER, and the way to the ones it reads (RFC 5280 §4.2).

Rule 1: each writing function returns one whole Extension and holds its clause; whether an extension belongs into a certificate,
and with what value, is decided in `issuance.py` and `hierarchy.py` and judged again in `lint.py`.
Rule 2: criticality is not a parameter where RFC 5280 leaves no choice.
"""

import hashlib
import ipaddress
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from cryptography import x509

from acmeca.pki import der
from acmeca.pki.errors import PkiError
from acmeca.pki.spki import public_key_bits

SUBJECT_KEY_IDENTIFIER: Final = "2.5.29.14"
KEY_USAGE: Final = "2.5.29.15"
SUBJECT_ALT_NAME: Final = "2.5.29.17"
BASIC_CONSTRAINTS: Final = "2.5.29.19"
CRL_DISTRIBUTION_POINTS: Final = "2.5.29.31"
AUTHORITY_KEY_IDENTIFIER: Final = "2.5.29.35"
EXTENDED_KEY_USAGE: Final = "2.5.29.37"
AUTHORITY_INFORMATION_ACCESS: Final = "1.3.6.1.5.5.7.1.1"
TLS_FEATURE: Final = "1.3.6.1.5.5.7.1.24"
OCSP_NO_CHECK: Final = "1.3.6.1.5.5.7.48.1.5"

_STATUS_REQUEST: Final = 5  # the TLS extension by which a server staples (RFC 6066 §8)

_OCSP: Final = der.oid("1.3.6.1.5.5.7.48.1")
_CA_ISSUERS: Final = der.oid("1.3.6.1.5.5.7.48.2")

# The GeneralName choices in use (§4.2.1.6), and the fields they stand in; all implicitly tagged.
_DNS_NAME: Final = der.implicit(2)
_URI: Final = der.implicit(6)
_IP_ADDRESS: Final = der.implicit(7)
_KEY_IDENTIFIER: Final = der.implicit(0)
_DISTRIBUTION_POINT: Final = der.explicit(0)
_FULL_NAME: Final = der.explicit(0)


class KeyUsage(IntEnum):
    """The bits of keyUsage by their number (§4.2.1.3), as far as acmeca sets them."""

    DIGITAL_SIGNATURE = 0
    KEY_ENCIPHERMENT = 2
    KEY_CERT_SIGN = 5
    CRL_SIGN = 6


def encode_extension(dotted: str, value: bytes, *, critical: bool = False) -> bytes:
    """An Extension (§4.1) of a value's DER. `critical` is DEFAULT FALSE, so DER leaves it out when false (X.690 §11.5)."""
    return der.sequence(der.oid(dotted), der.boolean(True) if critical else b"", der.octet_string(value))


def basic_constraints(*, ca: bool, path_length: int | None = None) -> bytes:
    """§4.2.1.9, critical: "Conforming CAs MUST … mark the extension as critical" in CA certificates; so in all of ours.

    A leaf's value is the empty SEQUENCE, because DER leaves a DEFAULT FALSE out (X.690 §11.5).
    """
    value = der.sequence(
        der.boolean(True) if ca else b"",
        b"" if path_length is None else der.integer(path_length),
    )
    return encode_extension(BASIC_CONSTRAINTS, value, critical=True)


def key_usage(*bits: KeyUsage) -> bytes:
    """§4.2.1.3, critical: "Conforming CAs SHOULD mark this extension as critical". All bits in use fit one octet."""
    octet = sum(0x80 >> bit for bit in bits)
    # X.690 §11.2.2: a named bit list loses its trailing zero bits, and the first octet counts those of the last octet.
    unused = (octet & -octet).bit_length() - 1
    return encode_extension(KEY_USAGE, der.encode(der.BIT_STRING, bytes((unused, octet))), critical=True)


def extended_key_usage(oids: Sequence[str]) -> bytes:
    """§4.2.1.12, not critical: an application that does not know a purpose may still use another."""
    return encode_extension(EXTENDED_KEY_USAGE, der.sequence(*map(der.oid, oids)))


def key_identifier(spki_der: bytes) -> bytes:
    """The 20 octets that name a key: the leftmost 160 bits of the SHA-256 of its bits (RFC 7093 §2 method 1).

    RFC 5280 §4.2.1.2 asks for unique values and names SHA-1 as common, not as required.
    """
    return hashlib.sha256(public_key_bits(spki_der)).digest()[:20]


def subject_key_identifier(identifier: bytes) -> bytes:
    """§4.2.1.2: "Conforming CAs MUST mark this extension as non-critical"."""
    return encode_extension(SUBJECT_KEY_IDENTIFIER, der.octet_string(identifier))


def authority_key_identifier(identifier: bytes) -> bytes:
    """§4.2.1.1: "Conforming CAs MUST mark this extension as non-critical"; the key identifier alone.

    Issuer and serial would tie the certificate to one of several certificates of the issuer's key.
    """
    return encode_extension(AUTHORITY_KEY_IDENTIFIER, der.sequence(der.encode(_KEY_IDENTIFIER, identifier)))


def subject_alt_name(*, dns_names: Sequence[str], ip_addresses: Sequence[str], critical: bool) -> bytes:
    """§4.2.1.6: critical when the subject is empty, and otherwise not.

    `dns_names` are ASCII, `ip_addresses` text that `ipaddress` reads; anything else is a ValueError.
    """
    value = der.sequence(
        *(der.encode(_DNS_NAME, name.encode("ascii")) for name in dns_names),
        # "the octet string MUST contain exactly four octets" for IPv4, sixteen for IPv6, in network byte order
        *(der.encode(_IP_ADDRESS, ipaddress.ip_address(address).packed) for address in ip_addresses),
    )
    return encode_extension(SUBJECT_ALT_NAME, value, critical=critical)


def authority_information_access(*, ocsp_url: str | None, issuer_url: str) -> bytes:
    """§4.2.2.1: "Conforming CAs MUST mark this extension as non-critical"; OCSP where there is one, then caIssuers."""
    ocsp = b"" if ocsp_url is None else der.sequence(_OCSP, _uri(ocsp_url))
    return encode_extension(
        AUTHORITY_INFORMATION_ACCESS, der.sequence(ocsp, der.sequence(_CA_ISSUERS, _uri(issuer_url)))
    )


def crl_distribution_points(url: str) -> bytes:
    """§4.2.1.13: "The extension SHOULD be non-critical"; one point with one URI, no reasons and no cRLIssuer."""
    name = der.encode(_DISTRIBUTION_POINT, der.encode(_FULL_NAME, _uri(url)))
    return encode_extension(CRL_DISTRIBUTION_POINTS, der.sequence(der.sequence(name)))


def tls_feature() -> bytes:
    """RFC 7633 §4, §6: the one feature status_request ("must staple"); not critical, for a client that does not know it."""
    return encode_extension(TLS_FEATURE, der.sequence(der.integer(_STATUS_REQUEST)))


def ocsp_no_check() -> bytes:
    """RFC 6960 §4.2.2.2.1: the value "SHALL be NULL", and the extension "SHOULD be a non-critical extension"."""
    return encode_extension(OCSP_NO_CHECK, der.null())


def read_extensions(certificate: x509.Certificate) -> x509.Extensions:
    """All extensions of a certificate. Raises `PkiError` when the library cannot read one of them, or finds one twice.

    The library parses when asked, and answers with different exceptions: ValueError for bad DER and networks with holes,
    TypeError for a single address as a constraint, KeyError for a TLS feature that it has no name for, its own ones for names of
    other forms and for duplicates.
    """
    try:
        return certificate.extensions
    except (ValueError, TypeError, KeyError, x509.UnsupportedGeneralNameType, x509.DuplicateExtension) as error:
        raise PkiError(f"an extension cannot be read: {error}") from None


def _uri(url: str) -> bytes:
    return der.encode(_URI, url.encode("ascii"))
