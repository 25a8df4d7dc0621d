"""Certificate revocation lists, version 2 (RFC 5280 §5).

Rule 1: a CRL is assembled, not built: every entry is encoded once, when its certificate is revoked, and the kept encodings
are joined. A list of a million entries costs a few copies of its bytes and one signature.
Rule 2: a signature over a CRL is verified before the CRL leaves; a wrong one would be published for hours.
Rule 3: the key signs nothing here but a TBSCertList of its own issuer.

Our CRLs are full: one list of everything the issuer has revoked, CA certificates and leaves alike. So they carry no
issuing distribution point: §5.2.5 has it for lists whose scope is less than all that the issuer signed, and without it
the scope is just that. A verifier that does not know the (critical) extension must not use a list that has it.
"""

from datetime import datetime
from typing import Final

from acmeca.pki import der, signing
from acmeca.pki.errors import PkiError
from acmeca.pki.issuer import Issuer

# CRLReason values (§5.3.1) that may stand in a full CRL or an OCSP answer of ours. Not 0 (unspecified "SHOULD be absent"),
# not 6 (a hold could be lifted, and revoked never becomes good again), not 7 (unused), not 8 (for delta CRLs only).
ENCODABLE_REASONS: Final = frozenset({1, 2, 3, 4, 5, 9, 10})
MAX_NUMBER_OCTETS: Final = 20  # §5.2.3
MAX_SERIAL_OCTETS: Final = 20  # §4.1.2.2

_VERSION_2: Final = der.integer(1)
_REASON_CODE: Final = der.oid("2.5.29.21")
_CRL_NUMBER: Final = der.oid("2.5.29.20")
_AUTHORITY_KEY_IDENTIFIER: Final = der.oid("2.5.29.35")


class CrlError(PkiError):
    """A CRL or an entry that must not be made as asked."""


def encode_reason(reason: int | None) -> bytes:
    """The CRLReason ENUMERATED of a reason, or nothing when it is None or 0 (§5.3.1: unspecified is said by absence).

    Raises `CrlError` for a reason that no list of ours holds.
    """
    if reason is None or reason == 0:
        return b""
    if reason not in ENCODABLE_REASONS:
        raise CrlError(f"reason {reason} never stands in a CRL; use one of {sorted(ENCODABLE_REASONS)}")
    return der.enumerated(reason)


def encode_entry(serial: int, revoked_at: datetime, reason: int | None) -> bytes:
    """One entry of revokedCertificates (§5.1.2.6), to be kept and joined with others.

    Without entry extensions when `reason` is None or 0. Raises `CrlError` for a reason that is never encoded and a serial
    that is not positive or longer than 20 octets.
    """
    serial_der = der.integer(serial)
    if serial <= 0 or len(serial_der) - 2 > MAX_SERIAL_OCTETS:
        raise CrlError(f"serial {serial:#x} is not positive and of at most {MAX_SERIAL_OCTETS} octets")
    reason_der = encode_reason(reason)
    if not reason_der:
        return der.sequence(serial_der, der.time(revoked_at))
    extensions = der.sequence(der.sequence(_REASON_CODE, der.octet_string(reason_der)))  # §5.3.1: non-critical
    return der.sequence(serial_der, der.time(revoked_at), extensions)


def build_tbs_crl(
    *, issuer: Issuer, number: int, this_update: datetime, next_update: datetime, entries: bytes
) -> bytes:
    """The TBSCertList (§5.1.2) of a full CRL, ready for `sign_crl`.

    `entries` are the joined results of `encode_entry`, b"" for none. Times are cut to whole seconds. Raises `CrlError`
    when `next_update` is not after `this_update`, or when `number` is not positive or longer than 20 octets; that it is
    higher than the last one's is the caller's to see to.
    """
    number_der = der.integer(number)
    # §5.2.3: "CRL issuers MUST NOT use CRLNumber values longer than 20 octets."
    if number <= 0 or len(number_der) - 2 > MAX_NUMBER_OCTETS:
        raise CrlError(f"CRL number {number} is not positive and of at most {MAX_NUMBER_OCTETS} octets")
    if next_update.replace(microsecond=0) <= this_update.replace(microsecond=0):
        raise CrlError(f"nextUpdate {next_update} is not after thisUpdate {this_update}")
    # §5.2.1: "Conforming CRL issuers MUST use the key identifier method"; §5.2.1 and §5.2.3 are non-critical.
    authority_key = der.sequence(der.encode(der.implicit(0), issuer.key_identifier))
    extensions = der.sequence(
        der.sequence(_AUTHORITY_KEY_IDENTIFIER, der.octet_string(authority_key)),
        der.sequence(_CRL_NUMBER, der.octet_string(number_der)),
    )
    return der.sequence(
        _VERSION_2,
        issuer.signature_algorithm_der,
        issuer.subject_der,
        der.time(this_update),
        der.time(next_update),  # §5.1.2.5: "Conforming CRL issuers MUST include the nextUpdate field in all CRLs."
        der.sequence(entries) if entries else b"",  # §5.1.2.6: "the revoked certificates list MUST be absent"
        der.encode(der.explicit(0), extensions),
    )


def sign_crl(tbs: bytes, issuer: Issuer, key: signing.PrivateKey) -> bytes:
    """The CertificateList of a TBSCertList by `build_tbs_crl`, DER.

    1. `tbs` begins like a CRL of this issuer, so that the key cannot be made to sign anything else.
    2. The key signs.
    3. The signature is verified with the public key in the issuer's certificate.

    Raises `CrlError` at step 1, `SignatureMismatchError` at step 3, and what a key in a token raises at step 2.
    """
    # Step 1.
    try:
        version, algorithm, name = _beginning(tbs)
    except der.DerError as error:
        raise CrlError(f"not a TBSCertList: {error}") from None
    if (version, algorithm, name) != (_VERSION_2, issuer.signature_algorithm_der, issuer.subject_der):
        raise CrlError(f"not the TBSCertList of a CRL by {issuer.id}")
    # Step 2.
    signature = signing.sign_with(key, tbs)
    # Step 3.
    signing.verify_with(issuer.public_key, signature, tbs)
    return signing.assemble_signed(tbs, issuer.signature_algorithm_der, signature)


def _beginning(tbs: bytes) -> tuple[bytes, bytes, bytes]:
    outer = der.Reader(tbs)
    reader = outer.read_sequence()
    outer.finish()
    return reader.read_any().encoding, reader.read_any().encoding, reader.read_any().encoding
