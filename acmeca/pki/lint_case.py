"""What a lint looks at, and the lints that hold for every certificate, a leaf's or a CA's (RFC 5280 §4.1).

Rule 1: the certificate is read by another parser than the encoder that wrote it (`cryptography` reads, `der.py` wrote),
and what a parser would smooth over is read from the bytes.
Rule 2: a lint is one function of a case that returns what is wrong, or None. It stands in a table with its code and its
clause; nothing else decides whether it runs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from acmeca.pki import der, extensions
from acmeca.pki.errors import PkiError
from acmeca.pki.findings import Finding, Severity
from acmeca.pki.issuer import Issuer
from acmeca.pki.tbs import VERSION_3, TbsCertificate, parse_tbs
from acmeca.pki.validity import last_second

_MAX_SERIAL_OCTETS: Final = 20
_MIN_SERIAL_OCTETS: Final = 16

Extensions = Mapping[str, x509.Extension[x509.ExtensionType]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A certificate taken apart, and what was asked for.

    `issuer` is None for a self-signed root. `expected_extensions` maps each object identifier that has to be there, and
    no other may be, to its criticality. `lifetime` counts both ends in; the certificate may be shorter only where
    `issuer` ends, or where `not_after` was asked for.
    """

    certificate: x509.Certificate
    tbs: TbsCertificate
    extensions: Extensions
    issuer: Issuer | None
    issuer_der: bytes
    signature_algorithm_der: bytes
    authority_key_identifier: bytes
    spki_der: bytes
    lifetime: timedelta
    expected_extensions: Mapping[str, bool]
    not_after: datetime | None = None


CaseT = TypeVar("CaseT", bound=Case)
CaseT_contra = TypeVar("CaseT_contra", bound=Case, contravariant=True)  # a lint of any case is a lint of a leaf's


@dataclass(frozen=True, slots=True)
class Lint(Generic[CaseT_contra]):
    """A row of a table of lints. `check` returns what is wrong with the case in half a sentence, or None."""

    code: str
    clause: str
    check: Callable[[CaseT_contra], str | None]


def run_lints(case: CaseT, *tables: Iterable[Lint[CaseT]]) -> tuple[Finding, ...]:
    """The findings of all lints of all tables, in their order. Codes beginning with `w_` are warnings."""
    return tuple(
        Finding(
            lint.code, Severity.WARNING if lint.code.startswith("w_") else Severity.ERROR, f"{message} ({lint.clause})"
        )
        for table in tables
        for lint in table
        if (message := lint.check(case)) is not None
    )


def take_apart(certificate: x509.Certificate) -> tuple[TbsCertificate, Extensions]:
    """The encodings of a certificate's fields, and its extensions by object identifier. Raises `PkiError`.

    The library reads a subject when it is asked for it; one that it cannot read is found here, and no lint has to expect that.
    """
    tbs = parse_tbs(certificate.tbs_certificate_bytes)
    try:
        _ = certificate.subject
    except ValueError as error:
        raise PkiError(f"the subject cannot be read: {error}") from None
    return tbs, {extension.oid.dotted_string: extension for extension in extensions.read_extensions(certificate)}


def unreadable(error: PkiError) -> tuple[Finding, ...]:
    """The one finding about a certificate that cannot be taken apart."""
    return (Finding("e_unreadable", Severity.ERROR, f"{error} (RFC 5280 §4.1, §4.2)"),)


# --- the fields ------------------------------------------------------------------------------------------------------


def _version(case: Case) -> str | None:
    return None if case.tbs.version_der == VERSION_3 else "the version is not 3"


def _serial_bounds(case: Case) -> str | None:
    # §4.1.2.2: "The serial number MUST be a positive integer"; "CAs MUST NOT use serialNumber values longer than 20 octets"
    serial = case.certificate.serial_number
    if serial > 0 and len(_content(case.tbs.serial_der)) <= _MAX_SERIAL_OCTETS:
        return None
    return f"the serial is {serial:x}; it has to be positive and of at most {_MAX_SERIAL_OCTETS} octets"


def _serial_entropy(case: Case) -> str | None:
    # Fewer octets cannot hold 128 random bits; a counter or a timestamp has found its way here.
    octets = len(_content(case.tbs.serial_der))
    return (
        None if octets >= _MIN_SERIAL_OCTETS else f"the serial has {octets} octets; {_MIN_SERIAL_OCTETS} are the least"
    )


def _signature_algorithm(case: Case) -> str | None:
    # §4.1.1.2 and §4.1.2.3: both fields hold the same identifier, and it has to be the one the key signs with.
    certificate = der.Reader(case.certificate.public_bytes(Encoding.DER)).read_sequence()
    certificate.read(der.SEQUENCE)
    outer = certificate.read_any().encoding
    if outer == case.tbs.signature_algorithm_der == case.signature_algorithm_der:
        return None
    return "the signature algorithm, inside or outside, is not the one that the issuer's key signs with"


def _issuer_name(case: Case) -> str | None:
    # §4.1.2.4, §6.1.3 (a)(4): path building compares names; bytes that are equal compare equal for everyone.
    if case.tbs.issuer_der == case.issuer_der and case.issuer_der != der.sequence():
        return None
    return "the issuer field is not the issuer's subject, byte for byte, or is empty"


def _time_encoding(case: Case) -> str | None:
    # §4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050; "MUST include seconds", "MUST NOT include fractional seconds"
    for encoding in (case.tbs.not_before_der, case.tbs.not_after_der):
        try:
            if der.time(der.parse_time(der.Reader(encoding).read_any())) != encoding:
                return "a time before 2050 is no UTCTime"
        except der.DerError as error:
            return f"a time is not as it has to be: {error}"
    return None


def _validity_order(case: Case) -> str | None:
    certificate = case.certificate
    if certificate.not_valid_before_utc <= certificate.not_valid_after_utc:
        return None
    return "notAfter is before notBefore"


def _validity_length(case: Case) -> str | None:
    # §4.1.2.5: the validity is "the period of time from notBefore through notAfter, inclusive".
    not_before, not_after = case.certificate.not_valid_before_utc, case.certificate.not_valid_after_utc
    expected = case.not_after or last_second(not_before, case.lifetime, case.issuer)
    return None if not_after == expected else f"notAfter is {not_after}; expected {expected}"


def _validity_within_issuer(case: Case) -> str | None:
    if case.issuer is None:
        return None
    if case.issuer.not_before <= case.certificate.not_valid_before_utc:
        if case.certificate.not_valid_after_utc <= case.issuer.not_after:
            return None
        return "it is valid longer than its issuer"
    return "it is valid earlier than its issuer"


def _public_key(case: Case) -> str | None:
    return None if case.tbs.spki_der == case.spki_der else "the public key is not the one asked for, byte for byte"


def _key_of_issuer(case: Case) -> str | None:
    if case.issuer is None or case.issuer.spki_der != case.tbs.spki_der:
        return None
    return "the public key is the issuer's own"


def _issuer_is_ca(case: Case) -> str | None:
    # §6.1.4 (k), (n): a verifier asks for cA and, where there is a key usage, for keyCertSign.
    if case.issuer is None or case.issuer.may_sign_certificates:
        return None
    return "the issuer's certificate is not a CA's, or may not sign certificates"


def _unique_identifiers(case: Case) -> str | None:
    # §4.1.2.8: "CAs conforming to this profile MUST NOT generate certificates with unique identifiers."
    if case.tbs.issuer_unique_id_der is None and case.tbs.subject_unique_id_der is None:
        return None
    return "it has a unique identifier"


# --- the extensions --------------------------------------------------------------------------------------------------


def _extension_unexpected(case: Case) -> str | None:
    unexpected = case.extensions.keys() - case.expected_extensions.keys()
    return f"it has the extensions {', '.join(sorted(unexpected))}, which nobody asked for" if unexpected else None


def _extension_missing(case: Case) -> str | None:
    missing = case.expected_extensions.keys() - case.extensions.keys()
    return f"it lacks the extensions {', '.join(sorted(missing))}" if missing else None


def _extension_criticality(case: Case) -> str | None:
    for oid, critical in case.expected_extensions.items():
        extension = case.extensions.get(oid)
        if extension is not None and extension.critical is not critical:
            return f"the extension {oid} is {'not ' if critical else ''}critical"
    return None


def _key_usage_encoding(case: Case) -> str | None:
    # X.690 §11.2.2: trailing zero bits are left out. Of all values here, only a bit list has other encodings that the
    # library reads; what it would write is searched for in what stands there.
    extension = case.extensions.get(extensions.KEY_USAGE)
    if extension is None or case.tbs.extensions_der is None:
        return None
    expected = extensions.encode_extension(
        extensions.KEY_USAGE, extension.value.public_bytes(), critical=extension.critical
    )
    return (
        None if expected in case.tbs.extensions_der else "the key usage is not in the one encoding that DER has for it"
    )


def _subject_key_identifier(case: Case) -> str | None:
    try:
        expected = x509.SubjectKeyIdentifier(extensions.key_identifier(case.tbs.spki_der))
    except PkiError as error:
        return f"the subject key identifier cannot be made: {error}"
    if differs(case, extensions.SUBJECT_KEY_IDENTIFIER, expected):
        return "the subject key identifier is not made of its public key"
    return None


def _authority_key_identifier(case: Case) -> str | None:
    # §4.2.1.1; the issuer and serial would tie it to one of several certificates of the issuer's key
    expected = x509.AuthorityKeyIdentifier(case.authority_key_identifier, None, None)
    if differs(case, extensions.AUTHORITY_KEY_IDENTIFIER, expected):
        return "the authority key identifier is not the issuer's subject key identifier alone"
    return None


COMMON_LINTS: Final[tuple[Lint[Case], ...]] = (
    Lint("e_version", "RFC 5280 §4.1.2.1", _version),
    Lint("e_serial_bounds", "RFC 5280 §4.1.2.2", _serial_bounds),
    Lint("e_serial_entropy", "at least 128 random bits", _serial_entropy),
    Lint("e_signature_algorithm", "RFC 5280 §4.1.1.2", _signature_algorithm),
    Lint("e_issuer_name", "RFC 5280 §4.1.2.4", _issuer_name),
    Lint("e_issuer_not_ca", "RFC 5280 §4.2.1.9", _issuer_is_ca),
    Lint("e_time_encoding", "RFC 5280 §4.1.2.5", _time_encoding),
    Lint("e_validity_order", "RFC 5280 §4.1.2.5", _validity_order),
    Lint("e_validity_length", "RFC 5280 §4.1.2.5", _validity_length),
    Lint("e_validity_beyond_issuer", "a path is valid while all of it is", _validity_within_issuer),
    Lint("e_public_key", "RFC 5280 §4.1.2.7", _public_key),
    Lint("e_public_key_of_issuer", "RFC 8555 §11.1", _key_of_issuer),
    Lint("e_unique_identifier", "RFC 5280 §4.1.2.8", _unique_identifiers),
    Lint("e_extension_unexpected", "RFC 5280 §4.2", _extension_unexpected),
    Lint("e_extension_missing", "RFC 5280 §4.2", _extension_missing),
    Lint("e_extension_criticality", "RFC 5280 §4.2", _extension_criticality),
    Lint("e_key_usage_encoding", "X.690 §11.2.2", _key_usage_encoding),
    Lint("e_subject_key_identifier", "RFC 5280 §4.2.1.2", _subject_key_identifier),
    Lint("e_authority_key_identifier", "RFC 5280 §4.2.1.1", _authority_key_identifier),
)


def differs(case: Case, oid: str, expected: x509.ExtensionType) -> bool:
    """Whether the extension is there with another value. Absence is the business of `e_extension_missing`."""
    extension = case.extensions.get(oid)
    return extension is not None and extension.value != expected


def key_usage_value(*bits: str) -> x509.KeyUsage:
    """The library's keyUsage with these bits, by its own names for them."""
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in bits for name in names})


def _content(encoding: bytes) -> bytes:
    return der.Reader(encoding).read_any().content
