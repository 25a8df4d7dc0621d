"""`pki/crl.py` and `pki/crl_lint.py`: assembling, signing, and every finding with a list that deserves it.

What RFC 5280 §5 says stands in `tests/rfc/test_rfc5280_crls.py`.
"""

import random
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.pki import der, signing
from acmeca.pki.crl import ENCODABLE_REASONS, CrlError, build_tbs_crl, encode_entry, encode_reason, sign_crl
from acmeca.pki.crl_lint import _LINTS, lint_crl, parse_crl
from acmeca.pki.errors import SignatureMismatchError
from tests.support.status_issuers import NOW, TestIssuer, make_key, shared_issuer

DAY = timedelta(days=1)
ENTRIES = encode_entry(5, NOW - DAY, 1) + encode_entry(6, NOW, None)

entries_of_a_list = st.lists(
    st.tuples(
        st.integers(1, 2**159 - 1),
        st.datetimes(datetime(1950, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  (st adds it)
        st.sampled_from([None, 0, *sorted(ENCODABLE_REASONS)]),
    ),
    max_size=20,
    unique_by=lambda entry: entry[0],
)


@pytest.fixture(scope="module")
def issuer() -> TestIssuer:
    return shared_issuer()


def build(issuer: TestIssuer, entries: bytes = b"", number: int = 1) -> bytes:
    return build_tbs_crl(issuer=issuer.issuer, number=number, this_update=NOW, next_update=NOW + DAY, entries=entries)


def make_crl(issuer: TestIssuer, entries: bytes = b"", number: int = 1) -> bytes:
    return sign_crl(build(issuer, entries, number), issuer.issuer, issuer.key)


@given(entries_of_a_list, st.integers(1, 2**159 - 1))
@settings(max_examples=50, deadline=None)
def test_what_goes_in_comes_out(revoked: list[tuple[int, datetime, int | None]], number: int) -> None:
    """The bytes through another reader, and through the lint."""
    issuer = shared_issuer()
    crl_der = make_crl(issuer, b"".join(encode_entry(*each) for each in revoked), number)
    crl = x509.load_der_x509_crl(crl_der)
    assert [(entry.serial_number, entry.revocation_date_utc) for entry in crl] == [
        (serial, at.replace(microsecond=0)) for serial, at, _ in revoked
    ]
    assert [len(entry.extensions) for entry in crl] == [1 if reason else 0 for _, _, reason in revoked]
    assert crl.is_signature_valid(issuer.certificate.public_key())
    assert lint_crl(crl_der, issuer.issuer, number=number) == ()


def test_a_long_list_is_assembled(issuer: TestIssuer) -> None:
    """Rule 1: joined encodings, so 50,000 entries are a matter of copies; a list that is built takes minutes."""
    entries = b"".join(encode_entry(2**128 + serial, NOW, 4) for serial in range(500)) * 100
    crl = x509.load_der_x509_crl(make_crl(issuer, entries))
    assert len(crl) == 50_000
    assert crl.is_signature_valid(issuer.certificate.public_key())


def test_reasons() -> None:
    assert encode_reason(None) == encode_reason(0) == b""
    assert encode_reason(9) == b"\x0a\x01\x09"


# --- signing -----------------------------------------------------------------------------------------------------------


def test_the_signature_is_verified_before_the_list_leaves(issuer: TestIssuer) -> None:
    """A key that is not the issuer's makes no list."""
    with pytest.raises(SignatureMismatchError):
        sign_crl(build(issuer), issuer.issuer, make_key())


def test_nothing_but_a_crl_of_this_issuer_is_signed(issuer: TestIssuer) -> None:
    """Rule 3: a TBSCertificate, another issuer's list or any other bytes do not reach the key."""
    other = shared_issuer("P-384")
    certificate = x509.load_der_x509_certificate(issuer.make_leaf(5))
    for tbs in (
        certificate.tbs_certificate_bytes,
        build(other),
        build(issuer).replace(b"Test CA", b"Test CB"),
        build(issuer) + der.null(),
        der.sequence(),
        b"",
        b"anything",
    ):
        with pytest.raises(CrlError, match=r"not (a|the) TBSCertList"):
            sign_crl(tbs, issuer.issuer, issuer.key)


# --- lint --------------------------------------------------------------------------------------------------------------


def resign(tbs: bytes, issuer: TestIssuer, algorithm: bytes | None = None) -> bytes:
    """A CertificateList of any tbs, signed without a question."""
    outer = issuer.issuer.signature_algorithm_der if algorithm is None else algorithm
    return signing.assemble_signed(tbs, outer, signing.sign_with(issuer.key, tbs))


def elements(tbs: bytes) -> list[bytes]:
    reader = der.Reader(tbs).read_sequence()
    parts = []
    while reader.peek() is not None:
        parts.append(reader.read_any().encoding)
    return parts


VERSION, ALGORITHM, NAME, THIS_UPDATE, NEXT_UPDATE, REVOKED, EXTENSIONS = range(7)
AKI, NUMBER, IDP, DELTA = "2.5.29.35", "2.5.29.20", "2.5.29.28", "2.5.29.27"


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return der.sequence(der.oid(oid), der.boolean(True) if critical else b"", der.octet_string(value))


def aki(issuer: TestIssuer, identifier: bytes | None = None) -> bytes:
    return der.sequence(der.encode(0x80, issuer.issuer.key_identifier if identifier is None else identifier))


def with_part(position: int, replacement: bytes) -> Callable[[TestIssuer], bytes]:
    def make(issuer: TestIssuer) -> bytes:
        parts = elements(build(issuer, ENTRIES))
        parts[position] = replacement
        return resign(der.sequence(*parts), issuer)

    return make


def with_extensions(*others: bytes, keep: tuple[str, ...] = (AKI, NUMBER)) -> Callable[[TestIssuer], bytes]:
    def make(issuer: TestIssuer) -> bytes:
        own = {AKI: extension(AKI, aki(issuer)), NUMBER: extension(NUMBER, der.integer(1))}
        wrapped = der.encode(der.explicit(0), der.sequence(*(own[oid] for oid in keep), *others))
        return with_part(EXTENSIONS, wrapped)(issuer)

    return make


def with_entries(*entries: bytes) -> Callable[[TestIssuer], bytes]:
    return with_part(REVOKED, der.sequence(*entries))


def entry(serial: int = 5, at: bytes = der.time(NOW), extensions: bytes = b"") -> bytes:
    return der.sequence(der.integer(serial), at, extensions)


def reason(value: bytes, *, critical: bool = False) -> bytes:
    return der.sequence(extension("2.5.29.21", value, critical=critical))


def wrong_outer_algorithm(issuer: TestIssuer) -> bytes:
    return resign(build(issuer), issuer, algorithm=shared_issuer("P-384").issuer.signature_algorithm_der)


def forged(issuer: TestIssuer) -> bytes:
    crl_der = make_crl(issuer, ENTRIES)
    return crl_der.replace(der.integer(5) + der.time(NOW - DAY), der.integer(7) + der.time(NOW - DAY))


WRONG: list[tuple[str, str, Callable[[TestIssuer], bytes]]] = [
    ("e_crl_version", "no version", with_part(VERSION, b"")),
    ("e_crl_version", "version 1, spelt out", with_part(VERSION, der.integer(0))),
    ("e_crl_version", "version 3", with_part(VERSION, der.integer(2))),
    ("e_crl_signature_algorithm", "another one inside", with_part(ALGORITHM, der.sequence(der.oid("1.2.840.10045.4.3.3")))),
    ("e_crl_signature_algorithm", "another one outside", wrong_outer_algorithm),
    ("e_crl_issuer", "an empty name", with_part(NAME, der.sequence())),
    ("e_crl_signature", "an entry changed", forged),
    ("e_crl_time_encoding", "thisUpdate as GeneralizedTime", with_part(THIS_UPDATE, der.generalized_time(NOW))),
    ("e_crl_time_encoding", "nextUpdate as GeneralizedTime", with_part(NEXT_UPDATE, der.generalized_time(NOW + DAY))),
    ("e_crl_time_encoding", "no seconds", with_part(THIS_UPDATE, der.encode(der.UTC_TIME, b"2611011200Z"))),
    ("e_crl_next_update", "no nextUpdate", with_part(NEXT_UPDATE, b"")),
    ("e_crl_next_update", "nextUpdate at thisUpdate", with_part(NEXT_UPDATE, der.time(NOW))),
    ("e_crl_revoked_certificates_empty", "an empty list", with_entries()),
    ("e_crl_authority_key_identifier", "none", with_extensions(keep=(NUMBER,))),
    ("e_crl_authority_key_identifier", "another", with_extensions(extension(AKI, der.sequence(der.encode(0x80, b"x"))), keep=(NUMBER,))),
    ("e_crl_authority_key_identifier", "no extensions", with_part(EXTENSIONS, b"")),
    ("e_crl_number", "none", with_extensions(keep=(AKI,))),
    ("e_crl_number", "critical", with_extensions(extension(NUMBER, der.integer(1), critical=True), keep=(AKI,))),
    ("e_crl_number", "zero", with_extensions(extension(NUMBER, der.integer(0)), keep=(AKI,))),
    ("e_crl_number", "21 octets", with_extensions(extension(NUMBER, der.integer(2**159)), keep=(AKI,))),
    ("e_crl_number", "no integer", with_extensions(extension(NUMBER, der.null()), keep=(AKI,))),
    ("e_crl_number", "two", with_extensions(extension(NUMBER, der.integer(1)))),
    ("e_crl_extensions", "a distribution point", with_extensions(extension(IDP, der.sequence(), critical=True))),
    ("e_crl_extensions", "a delta", with_extensions(extension(DELTA, der.integer(1), critical=True))),
    ("e_crl_entry_duplicate", "twice", with_entries(entry(5), entry(6), entry(5))),
    ("e_crl_entry_serial", "zero", with_entries(entry(0))),
    ("e_crl_entry_serial", "negative", with_entries(entry(-5))),
    ("e_crl_entry_serial", "21 octets", with_entries(entry(2**159))),
    ("e_crl_entry_time_encoding", "GeneralizedTime", with_entries(entry(at=der.generalized_time(NOW)))),
    ("e_crl_entry_time_encoding", "no time", with_entries(entry(at=der.integer(1)))),
    ("e_crl_entry_reason", "reason 0", with_entries(entry(extensions=reason(der.enumerated(0))))),
    ("e_crl_entry_reason", "reason 6", with_entries(entry(extensions=reason(der.enumerated(6))))),
    ("e_crl_entry_reason", "reason 7", with_entries(entry(extensions=reason(der.enumerated(7))))),
    ("e_crl_entry_reason", "reason 8", with_entries(entry(extensions=reason(der.enumerated(8))))),
    ("e_crl_entry_reason", "an integer", with_entries(entry(extensions=reason(der.integer(1))))),
    ("e_crl_entry_extensions", "critical reason", with_entries(entry(extensions=reason(der.enumerated(1), critical=True)))),
    ("e_crl_entry_extensions", "invalidity date", with_entries(entry(extensions=der.sequence(extension("2.5.29.24", der.generalized_time(NOW)))))),
    ("e_crl_entry_unreadable", "no serial", with_entries(der.sequence(der.time(NOW)))),
    ("e_crl_entry_unreadable", "not an entry", with_entries(der.null())),
    ("e_crl_entry_unreadable", "something after it", with_entries(der.sequence(der.integer(5), der.time(NOW), der.null()))),
    ("e_crl_unreadable", "nothing", lambda _: b""),
    ("e_crl_unreadable", "no list", lambda _: der.sequence(der.null(), der.sequence(), der.bit_string(b""))),
    ("e_crl_unreadable", "trailing bytes", lambda issuer: make_crl(issuer) + b"\0"),
    ("e_crl_unreadable", "critical FALSE spelt out", with_extensions(der.sequence(der.oid("2.5.4.3"), der.boolean(False), der.octet_string(b"")))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "make"), [pytest.param(code, make, id=f"{code}-{name}") for code, name, make in WRONG]
)
def test_lint_finds(issuer: TestIssuer, code: str, make: Callable[[TestIssuer], bytes]) -> None:
    """One fault, its finding, and no other."""
    findings = lint_crl(make(issuer), issuer.issuer)
    codes = {finding.code for finding in findings}
    # Without extensions both are missing, which no list can separate.
    assert codes - ({"e_crl_number"} if code == "e_crl_authority_key_identifier" else set()) == {code}
    assert all(finding.message for finding in findings)


def test_every_lint_is_provoked() -> None:
    provoked = {code for code, _, _ in WRONG}
    assert set(_LINTS) <= provoked


def test_lint_of_another_issuers_list(issuer: TestIssuer) -> None:
    findings = lint_crl(make_crl(shared_issuer("RSA"), ENTRIES), issuer.issuer)
    assert {finding.code for finding in findings} == {
        "e_crl_signature_algorithm",
        "e_crl_issuer",
        "e_crl_signature",
        "e_crl_authority_key_identifier",
    }


def test_lint_of_the_number(issuer: TestIssuer) -> None:
    crl_der = make_crl(issuer, number=7)
    assert lint_crl(crl_der, issuer.issuer, number=7) == ()
    (finding,) = lint_crl(crl_der, issuer.issuer, number=8)
    assert finding.code == "e_crl_number_differs"


def test_a_fault_of_many_entries_is_found_once(issuer: TestIssuer) -> None:
    crl_der = with_entries(*(entry(serial, der.generalized_time(NOW)) for serial in range(1, 50)))(issuer)
    assert [finding.code for finding in lint_crl(crl_der, issuer.issuer)] == ["e_crl_entry_time_encoding"]


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_lint_of_any_bytes(data: bytes) -> None:
    (finding,) = lint_crl(data, shared_issuer().issuer)
    assert finding.code == "e_crl_unreadable"


def test_lint_of_changed_lists(issuer: TestIssuer) -> None:
    """Any one octet changed is found, and never an exception."""
    chance = random.Random(5280)
    crl_der = make_crl(issuer, ENTRIES)
    for at in range(len(crl_der)):
        changed = bytearray(crl_der)
        changed[at] ^= chance.randint(1, 255)
        assert lint_crl(bytes(changed), issuer.issuer), f"octet {at}"


def test_the_library_agrees_about_the_parts(issuer: TestIssuer) -> None:
    crl_der = make_crl(issuer, ENTRIES, number=9)
    parts, crl = parse_crl(crl_der), x509.load_der_x509_crl(crl_der)
    assert parts.tbs == crl.tbs_certlist_bytes
    assert parts.signature == crl.signature
    assert [each.serial for each in parts.iterate_entries()] == [each.serial_number for each in crl] == [5, 6]


# --- OpenSSL -----------------------------------------------------------------------------------------------------------


def openssl(*arguments: str | Path, succeeds: bool = True) -> str:
    command = ["openssl", *map(str, arguments)]
    completed = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (completed.returncode == 0) == succeeds, completed.stdout + completed.stderr
    return completed.stdout + completed.stderr


def write_pem(path: Path, certificate_der: bytes) -> Path:
    certificate = x509.load_der_x509_certificate(certificate_der)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA", "Ed25519"])
def test_openssl_verifies_the_list(tmp_path: Path, kind: str) -> None:
    """`openssl crl` checks the signature and prints what is in it."""
    issuer = shared_issuer(kind)
    path = tmp_path / "list.crl"
    path.write_bytes(make_crl(issuer, ENTRIES, number=0x1234))
    ca = write_pem(tmp_path / "ca.pem", issuer.issuer.certificate_der)
    text = openssl("crl", "-inform", "DER", "-in", path, "-noout", "-text", "-verify", "-CAfile", ca)
    for line in ("verify OK", "Version 2 (0x1)", "X509v3 CRL Number: \n                4660", "Key Compromise"):
        assert line in text
    assert text.count("Serial Number:") == 2
    other = write_pem(tmp_path / "other.pem", shared_issuer("P-521").issuer.certificate_der)
    assert "verify OK" not in openssl(
        "crl", "-inform", "DER", "-in", path, "-noout", "-verify", "-CAfile", other, succeeds=False
    )


def test_openssl_checks_certificates_against_the_list(tmp_path: Path, issuer: TestIssuer) -> None:
    """`openssl verify -crl_check` takes the list for complete, and refuses what is on it."""
    ca = write_pem(tmp_path / "ca.pem", issuer.issuer.certificate_der)
    good = write_pem(tmp_path / "good.pem", issuer.make_leaf(77))
    revoked = write_pem(tmp_path / "revoked.pem", issuer.make_leaf(5))
    crl = x509.load_der_x509_crl(make_crl(issuer, ENTRIES))
    crl_path = tmp_path / "list.pem"
    crl_path.write_bytes(crl.public_bytes(serialization.Encoding.PEM))
    arguments = (
        "verify", "-x509_strict", "-attime", str(int(NOW.timestamp()) + 60), "-crl_check_all",
        "-CAfile", ca, "-CRLfile", crl_path,
    )  # fmt: skip
    assert "good.pem: OK" in openssl(*arguments, good)
    assert "certificate revoked" in openssl(*arguments, revoked, succeeds=False)


def test_openssl_and_an_empty_list(tmp_path: Path, issuer: TestIssuer) -> None:
    path = tmp_path / "empty.crl"
    path.write_bytes(make_crl(issuer))
    assert "No Revoked Certificates." in openssl("crl", "-inform", "DER", "-in", path, "-noout", "-text")
    structure = openssl("asn1parse", "-inform", "DER", "-in", path)
    assert "X509v3 CRL Number" in structure
