"""What is wrong with a CRL: coded findings against RFC 5280 §5 and the profile of our lists (full, v2).

Rule 1: a lint reads the finished bytes and believes nothing of how they were made.
Rule 2: one small function per lint, with its clause; the table is what runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from acmeca.pki import der, signing
from acmeca.pki.crl import ENCODABLE_REASONS, MAX_NUMBER_OCTETS, MAX_SERIAL_OCTETS, CrlError
from acmeca.pki.errors import PkiError
from acmeca.pki.findings import Finding, Severity
from acmeca.pki.issuer import Issuer

_REASON_CODE: Final = "2.5.29.21"
_CRL_NUMBER: Final = "2.5.29.20"
_AUTHORITY_KEY_IDENTIFIER: Final = "2.5.29.35"
_REASONS_DER: Final = frozenset(der.enumerated(reason) for reason in ENCODABLE_REASONS)


@dataclass(frozen=True, slots=True)
class CrlEntry:
    """One entry as it stands: the serial, its time with its type, and the contents of its extensions."""

    serial: int
    revoked_at: der.Element
    extensions: tuple[tuple[str, bool, bytes], ...]


@dataclass(frozen=True, slots=True)
class CrlParts:
    """A CRL taken apart without judging it. None where an optional field is absent; extensions as (OID, critical, value).

    `entries_content` is what stands inside revokedCertificates; `iterate_entries` reads it.
    """

    tbs: bytes
    version_der: bytes | None
    inner_algorithm_der: bytes
    issuer_der: bytes
    this_update: der.Element
    next_update: der.Element | None
    entries_content: bytes | None
    extensions: tuple[tuple[str, bool, bytes], ...]
    outer_algorithm_der: bytes
    signature: bytes

    def iterate_entries(self) -> Iterator[CrlEntry]:
        """The entries in their order. Raises `DerError` at the first that cannot be read."""
        reader = der.Reader(self.entries_content or b"")
        while reader.peek() is not None:
            entry = reader.read_sequence()
            serial = der.parse_integer(entry.read(der.INTEGER))
            revoked_at = entry.read_any()
            extensions = entry.read_optional(der.SEQUENCE)
            entry.finish()
            yield CrlEntry(serial, revoked_at, () if extensions is None else _parse_extensions(extensions))


def parse_crl(crl_der: bytes) -> CrlParts:
    """Takes a CertificateList (§5.1) apart. Raises `CrlError` when the bytes are none; the entries are read later."""
    try:
        return _parse_crl(crl_der)
    except der.DerError as error:
        raise CrlError(f"not a CRL: {error}") from None


def lint_crl(crl_der: bytes, issuer: Issuer, *, number: int | None = None) -> tuple[Finding, ...]:
    """Findings against RFC 5280 §5 and the profile of our CRLs (full, v2), none when all is well.

    With `number`, the CRL number has to be that one. Entries are read one by one, some 10 µs each, so a list of a million
    takes ten seconds; publishing does not wait for it, `encode_entry` being the only maker of entries.
    """
    try:
        parts = parse_crl(crl_der)
    except CrlError as error:
        return (Finding("e_crl_unreadable", Severity.ERROR, str(error)),)
    findings = [
        Finding(code, Severity.ERROR, message)
        for code, lint in _LINTS.items()
        if (message := lint(parts, issuer)) is not None
    ]
    if number is not None and _crl_number(parts) not in {number, None}:
        message = f"the CRL number is {_crl_number(parts)}, not {number}"
        findings.append(Finding("e_crl_number_differs", Severity.ERROR, message))
    return (*findings, *_lint_entries(parts))


def _lint_version(parts: CrlParts, _issuer: Issuer) -> str | None:
    # §5.1.2.1: "When extensions are used, as required by this profile, this field MUST be present and MUST specify
    # version 2 (the integer value is 1)."
    return None if parts.version_der == der.integer(1) else "the version is not v2"


def _lint_algorithm(parts: CrlParts, issuer: Issuer) -> str | None:
    # §5.1.1.2: "This field MUST contain the same algorithm identifier as the signature field in the sequence tbsCertList".
    if parts.inner_algorithm_der == parts.outer_algorithm_der == issuer.signature_algorithm_der:
        return None
    return "the signature algorithms inside and outside are not both the issuer's"


def _lint_issuer(parts: CrlParts, issuer: Issuer) -> str | None:
    return None if parts.issuer_der == issuer.subject_der else f"the issuer's name is not the subject of {issuer.id}"


def _lint_signature(parts: CrlParts, issuer: Issuer) -> str | None:
    try:
        signing.verify_with(issuer.public_key, parts.signature, parts.tbs)
    except PkiError:
        return f"the signature is not by {issuer.id}"
    return None


def _lint_times(parts: CrlParts, _issuer: Issuer) -> str | None:
    # §5.1.2.4, §5.1.2.5: UTCTime through 2049, GeneralizedTime from 2050 on.
    for element in (parts.this_update, parts.next_update):
        if element is not None and (message := _time_fault(element)) is not None:
            return message
    return None


def _lint_next_update(parts: CrlParts, _issuer: Issuer) -> str | None:
    if parts.next_update is None:
        return "nextUpdate is absent"
    try:
        later = der.parse_time(parts.this_update) < der.parse_time(parts.next_update)
    except der.DerError:
        return None  # _lint_times says so
    return None if later else "nextUpdate is not after thisUpdate"


def _lint_entries_absent(parts: CrlParts, _issuer: Issuer) -> str | None:
    # §5.1.2.6: "When there are no revoked certificates, the revoked certificates list MUST be absent."
    return "revokedCertificates is present and empty" if parts.entries_content == b"" else None


def _lint_authority_key(parts: CrlParts, issuer: Issuer) -> str | None:
    expected = der.sequence(der.encode(der.implicit(0), issuer.key_identifier))
    found = [(critical, value) for oid, critical, value in parts.extensions if oid == _AUTHORITY_KEY_IDENTIFIER]
    return None if found == [(False, expected)] else "the authority key identifier is not the issuer's key identifier"


def _lint_number(parts: CrlParts, _issuer: Issuer) -> str | None:
    # §5.2.3: "CRL issuers conforming to this profile MUST include this extension in all CRLs"; it is non-critical.
    number = _crl_number(parts)
    if number is None or any(critical for oid, critical, _ in parts.extensions if oid == _CRL_NUMBER):
        return "a non-critical CRL number is not there exactly once"
    if not 0 < number < 1 << (8 * MAX_NUMBER_OCTETS - 1):
        return f"the CRL number {number} is not positive and of at most {MAX_NUMBER_OCTETS} octets"
    return None


def _lint_extensions(parts: CrlParts, _issuer: Issuer) -> str | None:
    # A full CRL has these two; an issuing distribution point or a delta indicator would make it another kind of list.
    others = sorted(oid for oid, _, _ in parts.extensions if oid not in {_CRL_NUMBER, _AUTHORITY_KEY_IDENTIFIER})
    return f"the extensions {', '.join(others)} do not belong in a full CRL" if others else None


_LINTS: Final[dict[str, Callable[[CrlParts, Issuer], str | None]]] = {
    "e_crl_version": _lint_version,
    "e_crl_signature_algorithm": _lint_algorithm,
    "e_crl_issuer": _lint_issuer,
    "e_crl_signature": _lint_signature,
    "e_crl_time_encoding": _lint_times,
    "e_crl_next_update": _lint_next_update,
    "e_crl_revoked_certificates_empty": _lint_entries_absent,
    "e_crl_authority_key_identifier": _lint_authority_key,
    "e_crl_number": _lint_number,
    "e_crl_extensions": _lint_extensions,
}


def _lint_entries(parts: CrlParts) -> Iterator[Finding]:
    """The first finding of each code; a list with a fault has it a thousand times."""
    seen_codes: set[str] = set()
    serials: set[int] = set()
    try:
        for entry in parts.iterate_entries():
            for code, message in _entry_faults(entry, serials):
                if code not in seen_codes:
                    seen_codes.add(code)
                    yield Finding(code, Severity.ERROR, f"serial {entry.serial:#x}: {message}")
            serials.add(entry.serial)
    except der.DerError as error:
        yield Finding("e_crl_entry_unreadable", Severity.ERROR, str(error))


def _entry_faults(entry: CrlEntry, earlier_serials: set[int]) -> Iterator[tuple[str, str]]:
    if entry.serial in earlier_serials:
        yield "e_crl_entry_duplicate", "stands in the list twice"
    if not 0 < entry.serial < 1 << (8 * MAX_SERIAL_OCTETS - 1):
        yield "e_crl_entry_serial", f"not positive and of at most {MAX_SERIAL_OCTETS} octets"
    if (message := _time_fault(entry.revoked_at)) is not None:
        yield "e_crl_entry_time_encoding", message
    for oid, critical, value in entry.extensions:
        # Reasons only: no invalidity date, and no certificate issuer, which would make it an indirect CRL (§5.3.3).
        if oid != _REASON_CODE or critical:
            yield "e_crl_entry_extensions", f"the extension {oid} does not belong in an entry"
        elif value not in _REASONS_DER:
            yield "e_crl_entry_reason", f"the reason is not one of {sorted(ENCODABLE_REASONS)}"


def _time_fault(element: der.Element) -> str | None:
    try:
        at = der.parse_time(element)
    except der.DerError as error:
        return str(error)
    return None if der.time(at) == element.encoding else f"{at} is encoded as GeneralizedTime before 2050"


def _crl_number(parts: CrlParts) -> int | None:
    values = [value for oid, _, value in parts.extensions if oid == _CRL_NUMBER]
    if len(values) != 1:
        return None
    try:
        reader = der.Reader(values[0])
        number = der.parse_integer(reader.read(der.INTEGER))
        reader.finish()
    except der.DerError:
        return None
    return number


def _parse_crl(crl_der: bytes) -> CrlParts:
    outer = der.Reader(crl_der)
    signed = outer.read_sequence()
    outer.finish()
    tbs = signed.read_any()
    outer_algorithm = signed.read_any()
    signature = der.parse_bit_string(signed.read(der.BIT_STRING))
    signed.finish()

    if tbs.tag != der.SEQUENCE:
        raise der.DerError(f"tag 0x{tbs.tag:02x} stands where the TBSCertList is expected")
    reader = der.Reader(tbs.content)
    version = reader.read_any().encoding if reader.peek() == der.INTEGER else None
    algorithm = reader.read_any()
    issuer = reader.read_any()
    this_update = reader.read_any()
    next_update = reader.read_any() if reader.peek() in {der.UTC_TIME, der.GENERALIZED_TIME} else None
    entries = reader.read_optional(der.SEQUENCE)
    extensions = reader.read_optional(der.explicit(0))
    reader.finish()
    parsed: tuple[tuple[str, bool, bytes], ...] = ()
    if extensions is not None:
        wrapper = der.Reader(extensions)
        parsed = _parse_extensions(wrapper.read(der.SEQUENCE))
        wrapper.finish()
    return CrlParts(
        tbs=tbs.encoding,
        version_der=version,
        inner_algorithm_der=algorithm.encoding,
        issuer_der=issuer.encoding,
        this_update=this_update,
        next_update=next_update,
        entries_content=entries,
        extensions=parsed,
        outer_algorithm_der=outer_algorithm.encoding,
        signature=signature,
    )


def _parse_extensions(content: bytes) -> tuple[tuple[str, bool, bytes], ...]:
    """Extension ::= SEQUENCE { extnID, critical BOOLEAN DEFAULT FALSE, extnValue OCTET STRING }, one after the other."""
    reader = der.Reader(content)
    extensions: list[tuple[str, bool, bytes]] = []
    while reader.peek() is not None:
        extension = reader.read_sequence()
        oid = der.parse_oid(extension.read(der.OBJECT_IDENTIFIER))
        critical = extension.read_optional(der.BOOLEAN)
        value = extension.read(der.OCTET_STRING)
        extension.finish()
        # X.690 §11.5: a component equal to its DEFAULT is not encoded.
        if critical is not None and not der.parse_boolean(critical):
            raise der.DerError("a critical flag of FALSE is spelt out")
        extensions.append((oid, critical is not None, value))
    return tuple(extensions)
