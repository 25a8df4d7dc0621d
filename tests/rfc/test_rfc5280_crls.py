"""RFC 5280 §5, certificate revocation lists: what a conforming CRL issuer must do.

`cryptography` reads what we write; the clauses it does not show are looked for in the bytes.
"""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import CRLEntryExtensionOID, ExtensionOID

from acmeca.pki import der
from acmeca.pki.crl import CrlError, build_tbs_crl, encode_entry, sign_crl
from acmeca.pki.crl_lint import lint_crl
from tests.support.status_issuers import KEY_KINDS, NOW, shared_issuer

DAY = timedelta(days=1)


def make_crl(
    entries: bytes = b"",
    *,
    kind: str = "P-256",
    number: int = 1,
    this_update: datetime = NOW,
    next_update: datetime = NOW + DAY,
) -> bytes:
    issuer = shared_issuer(kind)
    tbs = build_tbs_crl(
        issuer=issuer.issuer, number=number, this_update=this_update, next_update=next_update, entries=entries
    )
    return sign_crl(tbs, issuer.issuer, issuer.key)


def load(crl_der: bytes) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(crl_der)


def fields(crl_der: bytes) -> list[der.Element]:
    """The elements of the TBSCertList."""
    reader = der.Reader(load(crl_der).tbs_certlist_bytes).read_sequence()
    elements = []
    while reader.peek() is not None:
        elements.append(reader.read_any())
    return elements


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_5_1_1_2_signature_algorithm(kind: str) -> None:
    """§5.1.1.2: signatureAlgorithm "MUST contain the same algorithm identifier as the signature field in the sequence
    tbsCertList".
    """
    issuer, crl_der = shared_issuer(kind), make_crl(encode_entry(5, NOW, 1), kind=kind)
    outer = der.Reader(crl_der).read_sequence()
    outer.read_any()
    assert outer.read_any().encoding == fields(crl_der)[1].encoding
    assert load(crl_der).is_signature_valid(issuer.certificate.public_key())
    assert lint_crl(crl_der, issuer.issuer) == ()


def test_5_1_2_1_version() -> None:
    """§5.1.2.1: "this field MUST be present and MUST specify version 2 (the integer value is 1)"."""
    assert fields(make_crl())[0].encoding == b"\x02\x01\x01"


def test_5_1_2_3_issuer_name() -> None:
    """§5.1.2.3: the issuer field "MUST contain a non-empty X.500 distinguished name (DN)"; byte for byte the subject's."""
    issuer = shared_issuer()
    assert fields(make_crl())[2].encoding == issuer.issuer.subject_der
    assert load(make_crl()).issuer == issuer.certificate.subject


def test_5_1_2_4_times_through_2049() -> None:
    """§5.1.2.4: "CRL issuers conforming to this profile MUST encode thisUpdate as UTCTime for dates through the year 2049",
    and as GeneralizedTime "in the year 2050 or later"; §5.1.2.5 the same of nextUpdate.
    """
    start, end = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)
    crl_der = make_crl(this_update=start, next_update=end)
    this_update, next_update = fields(crl_der)[3:5]
    assert this_update.encoding == b"\x17\x0d491231235959Z"
    assert next_update.encoding == b"\x18\x0f20500101000000Z"
    assert (load(crl_der).last_update_utc, load(crl_der).next_update_utc) == (start, end)


def test_5_1_2_5_next_update() -> None:
    """§5.1.2.5: "Conforming CRL issuers MUST include the nextUpdate field in all CRLs"."""
    assert load(make_crl()).next_update_utc == NOW + DAY


@pytest.mark.parametrize("life", [timedelta(0), -DAY, timedelta(milliseconds=900)])
def test_5_1_2_5_next_update_is_later(life: timedelta) -> None:
    """§5.1.2.5: nextUpdate is "the date by which the next CRL will be issued", after this one."""
    with pytest.raises(CrlError, match="nextUpdate"):
        make_crl(next_update=NOW + life)


def test_5_1_2_6_no_revoked_certificates() -> None:
    """§5.1.2.6: "When there are no revoked certificates, the revoked certificates list MUST be absent"."""
    tags = [element.tag for element in fields(make_crl())]
    assert tags == [der.INTEGER, der.SEQUENCE, der.SEQUENCE, der.UTC_TIME, der.UTC_TIME, der.explicit(0)]
    assert len(load(make_crl())) == 0


def test_5_1_2_6_revoked_certificates() -> None:
    """§5.1.2.6: "Certificates revoked by the CA are uniquely identified by the certificate serial number", with the date."""
    revoked = {1: NOW - DAY, 2**159 - 1: datetime(2050, 6, 1, tzinfo=UTC), 255: datetime(1999, 1, 1, tzinfo=UTC)}
    crl_der = make_crl(b"".join(encode_entry(serial, at, None) for serial, at in revoked.items()))
    assert {entry.serial_number: entry.revocation_date_utc for entry in load(crl_der)} == revoked
    assert b"\x18\x0f20500601000000Z" in crl_der  # "using the same encoding rules as thisUpdate"


@pytest.mark.parametrize("serial", [0, -1, 2**159, 2**200])
def test_4_1_2_2_serials(serial: int) -> None:
    """§4.1.2.2: a serial is positive and of at most 20 octets."""
    with pytest.raises(CrlError, match="serial"):
        encode_entry(serial, NOW, None)


def test_5_2_exactly_two_extensions() -> None:
    """§5.2: "Conforming CRL issuers are REQUIRED to include the authority key identifier and the CRL number extensions in all
    CRLs issued"; ours is complete for its issuer, so it has no others (§5.2.4, §5.2.5).
    """
    extensions = load(make_crl()).extensions
    assert [(each.oid, each.critical) for each in extensions] == [
        (ExtensionOID.AUTHORITY_KEY_IDENTIFIER, False),
        (ExtensionOID.CRL_NUMBER, False),
    ]


def test_5_2_1_authority_key_identifier() -> None:
    """§5.2.1: "Conforming CRL issuers MUST use the key identifier method"."""
    issuer = shared_issuer()
    value = load(make_crl()).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert value == x509.AuthorityKeyIdentifier(issuer.issuer.key_identifier, None, None)
    ski = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert value.key_identifier == ski.digest


@pytest.mark.parametrize("number", [1, 127, 128, 1_800_000_000_000, 2**159 - 1])
def test_5_2_3_number(number: int) -> None:
    """§5.2.3: a "monotonically increasing sequence number"; verifiers "MUST be able to handle CRLNumber values up to 20
    octets".
    """
    assert load(make_crl(number=number)).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number


@pytest.mark.parametrize("number", [0, -1, 2**159])
def test_5_2_3_number_bounds(number: int) -> None:
    """§5.2.3: "Conforming CRL issuers MUST NOT use CRLNumber values longer than 20 octets"; ours begin at 1."""
    with pytest.raises(CrlError, match="CRL number"):
        make_crl(number=number)


REASONS = {
    1: x509.ReasonFlags.key_compromise,
    2: x509.ReasonFlags.ca_compromise,
    3: x509.ReasonFlags.affiliation_changed,
    4: x509.ReasonFlags.superseded,
    5: x509.ReasonFlags.cessation_of_operation,
    9: x509.ReasonFlags.privilege_withdrawn,
    10: x509.ReasonFlags.aa_compromise,
}


@pytest.mark.parametrize("reason", REASONS)
def test_5_3_1_reason(reason: int) -> None:
    """§5.3.1: "The reasonCode is a non-critical CRL entry extension"."""
    (entry,) = load(make_crl(encode_entry(5, NOW, reason)))
    (extension,) = entry.extensions
    assert (extension.oid, extension.critical) == (CRLEntryExtensionOID.CRL_REASON, False)
    assert extension.value == x509.CRLReason(REASONS[reason])


@pytest.mark.parametrize("reason", [None, 0])
def test_5_3_1_unspecified(reason: int | None) -> None:
    """§5.3.1: the extension "SHOULD be absent instead of using the unspecified (0) reasonCode value"; §5.3: without one, no
    crlEntryExtensions at all.
    """
    entry_der = encode_entry(5, NOW, reason)
    assert entry_der == der.sequence(der.integer(5), der.time(NOW))
    (entry,) = load(make_crl(entry_der))
    assert list(entry.extensions) == []


@pytest.mark.parametrize("reason", [6, 7, 8, 11, 255, -1])
def test_5_3_1_reasons_that_are_never_encoded(reason: int) -> None:
    """§5.3.1: "(7) is not used", "removeFromCRL (8) reasonCode value may only appear in delta CRLs"; and a hold (6) could be
    lifted, while revoked never becomes good again here.
    """
    with pytest.raises(CrlError, match=f"reason {reason}"):
        encode_entry(5, NOW, reason)
