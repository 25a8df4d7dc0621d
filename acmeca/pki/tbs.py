"""TBSCertificate (RFC 5280 §4.1) taken apart into, and put together from, the encodings that stand in it.

Rule 1: what is compared or copied is the bytes themselves. A library that parses and encodes again may answer with other
bytes than it was given (string types in names, times, parameters), and a hash of a name is a hash of its bytes.
Rule 2: what is built here is judged elsewhere: `lint.py` reads it back with another parser.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from acmeca.pki import der
from acmeca.pki.errors import PkiError

# RFC 5280 §4.1.2.1: "When extensions are used … version MUST be 3 (value is 2)".
VERSION_3: Final = der.integer(2)

_VERSION: Final = der.explicit(0)
_ISSUER_UNIQUE_ID: Final = der.implicit(1)
_SUBJECT_UNIQUE_ID: Final = der.implicit(2)
_EXTENSIONS: Final = der.explicit(3)


@dataclass(frozen=True, slots=True)
class TbsCertificate:
    """The fields of a TBSCertificate, each as its whole DER encoding; None where an optional field is absent.

    `version_der` is the INTEGER inside its explicit tag, `extensions_der` the SEQUENCE OF Extension inside its own.
    """

    version_der: bytes | None
    serial_der: bytes
    signature_algorithm_der: bytes
    issuer_der: bytes
    not_before_der: bytes
    not_after_der: bytes
    subject_der: bytes
    spki_der: bytes
    issuer_unique_id_der: bytes | None
    subject_unique_id_der: bytes | None
    extensions_der: bytes | None


def parse_tbs(tbs: bytes) -> TbsCertificate:
    """Take a DER TBSCertificate apart. Raises `PkiError` when the bytes are none."""
    try:
        return _parse_tbs(tbs)
    except der.DerError as error:
        raise PkiError(f"not a TBSCertificate: {error}") from None


def read_signature_algorithm(tbs: bytes) -> bytes:
    """The AlgorithmIdentifier in the signature field of a DER TBSCertificate; what comes after it is not looked at.

    Raises `PkiError` when the bytes do not begin as a TBSCertificate does.
    """
    try:
        reader = der.Reader(tbs).read_sequence()
        reader.read_optional(_VERSION)
        reader.read(der.INTEGER)
        return _read_encoding(reader, der.SEQUENCE)
    except der.DerError as error:
        raise PkiError(f"not a TBSCertificate: {error}") from None


def read_serial(tbs: bytes) -> int:
    """The serial number of a DER TBSCertificate, whatever number it is; what comes after it is not looked at.

    Raises `PkiError` when the bytes do not begin as a TBSCertificate does.
    """
    try:
        reader = der.Reader(tbs).read_sequence()
        reader.read_optional(_VERSION)
        return der.parse_integer(reader.read(der.INTEGER))
    except der.DerError as error:
        raise PkiError(f"not a TBSCertificate: {error}") from None


def build_tbs(
    *,
    serial: int,
    signature_algorithm_der: bytes,
    issuer_der: bytes,
    not_before: datetime,
    not_after: datetime,
    subject_der: bytes,
    spki_der: bytes,
    extensions: bytes,
) -> bytes:
    """The DER TBSCertificate of version 3. `extensions` is the joined encodings of one or more Extension values.

    Times are in UTC with whole seconds; `der.time` chooses the type (§4.1.2.5). Raises `PkiError` for a year that has no
    encoding.
    """
    try:
        validity = der.sequence(der.time(not_before), der.time(not_after))
    except der.DerError as error:
        raise PkiError(f"no certificate can be valid then: {error}") from None
    return der.sequence(
        der.encode(_VERSION, VERSION_3),
        der.integer(serial),
        signature_algorithm_der,
        issuer_der,
        validity,
        subject_der,
        spki_der,
        der.encode(_EXTENSIONS, der.sequence(extensions)),
    )


def _parse_tbs(tbs: bytes) -> TbsCertificate:
    outer = der.Reader(tbs)
    reader = outer.read_sequence()
    outer.finish()
    version = reader.read_optional(_VERSION)
    serial = _read_encoding(reader, der.INTEGER)
    algorithm = _read_encoding(reader, der.SEQUENCE)
    issuer = _read_encoding(reader, der.SEQUENCE)
    validity = reader.read_sequence()
    not_before = validity.read_any().encoding
    not_after = validity.read_any().encoding
    validity.finish()
    subject = _read_encoding(reader, der.SEQUENCE)
    spki = _read_encoding(reader, der.SEQUENCE)
    issuer_unique_id = reader.read_any().encoding if reader.peek() == _ISSUER_UNIQUE_ID else None
    subject_unique_id = reader.read_any().encoding if reader.peek() == _SUBJECT_UNIQUE_ID else None
    extensions = reader.read_optional(_EXTENSIONS)
    reader.finish()
    return TbsCertificate(
        version_der=version,
        serial_der=serial,
        signature_algorithm_der=algorithm,
        issuer_der=issuer,
        not_before_der=not_before,
        not_after_der=not_after,
        subject_der=subject,
        spki_der=spki,
        issuer_unique_id_der=issuer_unique_id,
        subject_unique_id_der=subject_unique_id,
        extensions_der=extensions,
    )


def _read_encoding(reader: der.Reader, tag: int) -> bytes:
    """The next element whole, which has to carry `tag`."""
    element = reader.read_any()
    if element.tag != tag:
        raise der.DerError(f"tag 0x{element.tag:02x} stands where 0x{tag:02x} is expected")
    return element.encoding
