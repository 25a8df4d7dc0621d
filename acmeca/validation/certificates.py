"""The certificate that a server shows for tls-alpn-01, as far as RFC 8737 asks for it.

Rule 1: read by `pki/der.py`, strictly: what two parsers may read differently is not read at all.
Rule 2: an extension stands once (RFC 5280 §4.2): with two of a kind, one reader would take the first and another the last.
Rule 3: key, signature, names of subject and issuer, and validity are passed over unread.
"""

from typing import Final

from acmeca.acme.tlsalpn01 import (
    ACME_IDENTIFIER,
    SUBJECT_ALT_NAME,
    ShownAcmeIdentifier,
    ShownCertificate,
    ShownName,
)
from acmeca.pki import der

_MAX_EXTENSIONS: Final = 64  # a certificate of today has about ten


def read_certificate(encoding: bytes) -> ShownCertificate:
    """Read a DER Certificate (RFC 5280 §4.1). Raises `DerError`, whose text holds nothing of it but tags and lengths.

    1. the frame, 2. the fields up to the extensions, 3. the extensions, each kind once, 4. the two that count.
    """
    # Step 1
    outer = der.Reader(encoding)
    certificate = outer.read_sequence()
    outer.finish()
    tbs = certificate.read_sequence()
    certificate.read(der.SEQUENCE)  # signatureAlgorithm
    certificate.read(der.BIT_STRING)  # signatureValue
    certificate.finish()
    # Step 2
    tbs.read_optional(der.explicit(0))  # version
    tbs.read(der.INTEGER)  # serialNumber
    for _ in range(5):  # signature, issuer, validity, subject, subjectPublicKeyInfo
        tbs.read(der.SEQUENCE)
    tbs.read_optional(der.implicit(1))  # issuerUniqueID
    tbs.read_optional(der.implicit(2))  # subjectUniqueID
    extensions = tbs.read_optional(der.explicit(3))
    tbs.finish()
    # Step 3
    found = {} if extensions is None else _read_extensions(extensions)
    # Step 4
    names = found.get(SUBJECT_ALT_NAME)
    acme_identifier = found.get(ACME_IDENTIFIER)
    return ShownCertificate(
        None if names is None else _read_names(names[1]),
        None if acme_identifier is None else ShownAcmeIdentifier(*acme_identifier),
    )


def _read_extensions(content: bytes) -> dict[str, tuple[bool, bytes]]:
    """Criticality and value of each extension by its kind."""
    outer = der.Reader(content)
    extensions = outer.read_sequence()
    outer.finish()
    found: dict[str, tuple[bool, bytes]] = {}
    while extensions.peek() is not None:
        extension = extensions.read_sequence()
        kind = der.parse_oid(extension.read(der.OBJECT_IDENTIFIER))
        critical = extension.read_optional(der.BOOLEAN)
        value = extension.read(der.OCTET_STRING)
        extension.finish()
        if kind in found:
            raise der.DerError("an extension stands in it twice")
        if len(found) == _MAX_EXTENSIONS:
            raise der.DerError(f"more than {_MAX_EXTENSIONS} extensions")
        # X.690 §11.5 leaves a default value out; some encoders write the FALSE, which reads as nothing else.
        found[kind] = (critical is not None and der.parse_boolean(critical), value)
    return found


def _read_names(value: bytes) -> tuple[ShownName, ...]:
    """GeneralNames (RFC 5280 §4.2.1.6), whatever they are."""
    outer = der.Reader(value)
    names = outer.read_sequence()
    outer.finish()
    found: list[ShownName] = []
    while names.peek() is not None:
        element = names.read_any()
        found.append(ShownName(element.tag, element.content))
    return tuple(found)
