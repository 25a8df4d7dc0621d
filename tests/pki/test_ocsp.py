"""`pki/ocsp_*.py`: bounds, refusals, other implementations, and what must not be signed.

What RFC 6960 and RFC 9654 say stands in `tests/rfc`.
"""

import random
import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.pki import der
from acmeca.pki.crl import CrlError
from acmeca.pki.errors import PkiError
from acmeca.pki.ocsp_request import (
    MAX_CERT_ID_BYTES,
    MAX_CERT_IDS,
    MAX_REQUEST_BYTES,
    CertId,
    HashAlgorithm,
    MalformedRequestError,
    OcspRequest,
    UnsupportedCertId,
    build_cert_id,
    issuer_hashes,
    parse_request,
)
from acmeca.pki.ocsp_responder import Responder, ResponderError
from acmeca.pki.ocsp_response import AnswerError, CertStatus, Good, Revoked, SingleAnswer, Unknown, sign_response
from tests.support import ocsp_requests as requests
from tests.support.status_issuers import (
    NOW,
    TestIssuer,
    make_issuer,
    make_key,
    make_responder_certificate,
    shared_issuer,
)

SERIAL = 0x123456789ABCDEF0123456789ABCDEF0
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def issuer() -> TestIssuer:
    return shared_issuer()


@pytest.fixture(scope="module")
def responder(issuer: TestIssuer) -> Responder:
    key = make_key()
    return Responder(issuer.issuer, make_responder_certificate(issuer, key), key)


def cert_id_of(request_der: bytes) -> CertId:
    (cert_id,) = parse_request(request_der).cert_ids
    assert isinstance(cert_id, CertId)
    return cert_id


# --- bounds of a request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "serial"),
    [("00", 0), ("01", 1), ("7f", 127), ("0080", 128), ("7f" + "ff" * 19, 2**159 - 1)],
)
def test_serials_that_are_looked_up(issuer: TestIssuer, content: str, serial: int) -> None:
    encoding = requests.cert_id(issuer.certificate, bytes.fromhex(content))
    cert_id = cert_id_of(requests.request(requests.single(encoding)))
    assert (cert_id.serial, cert_id.encoding) == (serial, encoding)


@pytest.mark.parametrize("content", ["ff", "80", "ff7f", "80" + "00" * 19, "00" + "80" + "00" * 19, "01" + "00" * 40])
def test_serials_that_cannot_be_ours(issuer: TestIssuer, content: str) -> None:
    """RFC 5280 §4.1.2.2: positive, and at most 20 octets; others are well-formed, and nobody looks them up."""
    encoding = requests.cert_id(issuer.certificate, bytes.fromhex(content))
    (cert_id,) = parse_request(requests.request(requests.single(encoding))).cert_ids
    assert isinstance(cert_id, UnsupportedCertId)
    assert "serial" in cert_id.reason


@pytest.mark.parametrize("content", ["", "0001", "007f", "ffff", "ff80"])
def test_serials_that_are_not_der(issuer: TestIssuer, content: str) -> None:
    encoding = requests.cert_id(issuer.certificate, bytes.fromhex(content))
    with pytest.raises(MalformedRequestError, match="integer"):
        parse_request(requests.request(requests.single(encoding)))


@pytest.mark.parametrize("hash_name", requests.KNOWN_HASHES)
@pytest.mark.parametrize("length", [0, 19, 21, 33, 63, 65])
def test_hashes_of_another_length(issuer: TestIssuer, hash_name: str, length: int) -> None:
    for wrong in ({"name_hash": bytes(length)}, {"key_hash": bytes(length)}):
        encoding = requests.cert_id(issuer.certificate, SERIAL, hash_name, **wrong)  # type: ignore[arg-type]  # one of two
        with pytest.raises(MalformedRequestError, match="hashes"):
            parse_request(requests.request(requests.single(encoding)))


def test_a_cert_id_of_an_unknown_hash_is_bounded(issuer: TestIssuer) -> None:
    """What is echoed under our signature is never as long as the sender likes."""

    def padded(length: int) -> bytes:
        return requests.cert_id(issuer.certificate, 1, "md5", name_hash=bytes(length), key_hash=bytes(130))

    room = MAX_CERT_ID_BYTES - len(padded(0))
    fitting = padded(room)
    assert len(fitting) == MAX_CERT_ID_BYTES
    assert parse_request(requests.request(requests.single(fitting))).cert_ids[0].encoding == fitting
    with pytest.raises(MalformedRequestError, match=f"a CertID of {MAX_CERT_ID_BYTES + 1} bytes"):
        parse_request(requests.request(requests.single(padded(room + 1))))


def test_number_of_certificates(issuer: TestIssuer) -> None:
    singles = [requests.single(requests.cert_id(issuer.certificate, n, "sha512")) for n in range(1, MAX_CERT_IDS + 2)]
    assert len(parse_request(requests.request(*singles[:-1])).cert_ids) == MAX_CERT_IDS
    with pytest.raises(MalformedRequestError, match="more than 64"):
        parse_request(requests.request(*singles))
    with pytest.raises(MalformedRequestError, match="no certificate"):
        parse_request(requests.request())


def test_size_of_a_request(issuer: TestIssuer) -> None:
    def padded(length: int) -> bytes:
        extension = requests.extension(requests.UNHEARD_OF, bytes(length))
        return requests.simple(issuer.certificate, SERIAL, extensions=[extension])

    room = MAX_REQUEST_BYTES - (len(padded(1000)) - 1000)
    assert len(padded(room)) == MAX_REQUEST_BYTES
    assert parse_request(padded(room)).nonce is None
    with pytest.raises(MalformedRequestError, match=f"{MAX_REQUEST_BYTES + 1} bytes"):
        parse_request(padded(room + 1))


def test_trailing_bytes_anywhere(issuer: TestIssuer) -> None:
    """Every structure of a request ends where it says."""
    encoding = requests.cert_id(issuer.certificate, SERIAL)
    one = requests.single(encoding)
    extra = der.null()
    longer_cert_id = der.sequence(encoding[2:], extra)
    assert parse_request(requests.request(one))
    for request_der in (
        requests.request(one) + extra,
        requests.request(one, signature=extra),
        requests.request(one, version=extra),
        der.sequence(der.sequence(der.sequence(one), extra)),
        requests.request(der.sequence(encoding, extra)),
        requests.request(der.sequence(longer_cert_id)),
        requests.request(one, extra),
        requests.request(one, version=der.encode(0xA0, der.integer(0), extra)),
        der.sequence(
            der.sequence(der.sequence(one), der.encode(0xA2, der.sequence(requests.nonce(b"n")), extra)),
        ),
    ):
        with pytest.raises(MalformedRequestError):
            parse_request(request_der)


def test_a_hash_algorithm_is_an_algorithm_identifier(issuer: TestIssuer) -> None:
    hashes = der.octet_string(bytes(20)) * 2 + der.integer(5)
    for algorithm in (
        der.null(),
        der.oid(requests.OIDS["sha1"]),
        der.sequence(),
        der.sequence(der.null()),
        der.sequence(b"\x06\x02\x2a\x80"),
        der.sequence(der.oid(requests.OIDS["md5"]), der.null(), der.null()),
    ):
        with pytest.raises(MalformedRequestError):
            parse_request(requests.request(requests.single(der.sequence(algorithm, hashes))))
    for parameters in (b"", der.sequence(der.integer(3))):
        unheard_of = der.sequence(der.sequence(der.oid(requests.UNHEARD_OF), parameters), hashes)
        (cert_id,) = parse_request(requests.request(requests.single(unheard_of))).cert_ids
        assert isinstance(cert_id, UnsupportedCertId)


# --- any bytes ---------------------------------------------------------------------------------------------------------


def samples(issuer: TestIssuer) -> list[bytes]:
    certificate = issuer.certificate
    singles = [requests.single(requests.cert_id(certificate, SERIAL, name)) for name in requests.OIDS]
    return [
        requests.simple(certificate, SERIAL),
        requests.simple(certificate, SERIAL, "sha256", extensions=[requests.nonce(b"n" * 32)]),
        requests.request(
            *singles,
            version=der.encode(0xA0, der.integer(0)),
            requestor_name=der.encode(0x82, b"client.test"),
            extensions=[requests.nonce(b"n" * 16, critical=True), requests.extension(requests.UNHEARD_OF, b"x")],
            signature=requests.signature(certificates=[certificate.public_bytes(serialization.Encoding.DER)]),
        ),
    ]


def parse_or_refuse(data: bytes) -> OcspRequest | None:
    """Anything but a request or a `MalformedRequestError` fails the test that calls this."""
    try:
        return parse_request(data)
    except MalformedRequestError as error:
        if not str(error).isprintable():
            pytest.fail("the message holds raw bytes of the request")
        return None


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes(data: bytes) -> None:
    assert parse_or_refuse(data) is None


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_nesting(data: st.DataObject) -> None:
    """Bytes that are DER and no request, or one by chance."""
    leaves = st.one_of(
        st.integers(-(2**170), 2**170).map(der.integer),
        st.binary(max_size=40).map(der.octet_string),
        st.sampled_from([der.null(), *map(der.oid, requests.OIDS.values()), der.oid(requests.NONCE)]),
    )
    trees = st.recursive(
        leaves,
        lambda inner: st.builds(
            lambda tag, parts: der.encode(tag, *parts), st.sampled_from([0x30, 0xA0, 0xA1, 0xA2, 0x04]), st.lists(inner)
        ),
        max_leaves=12,
    )
    parse_or_refuse(data.draw(trees))


def test_a_thousand_mutations(issuer: TestIssuer) -> None:
    """Seeded: bits flipped, bytes replaced, cut, doubled; and where `cryptography` reads the same bytes, it reads the same."""
    chance = random.Random(6960)
    originals = samples(issuer)
    accepted = 0
    for _ in range(1000):
        mutated = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(mutated))
            match chance.randrange(4):
                case 0:
                    mutated[at] ^= 1 << chance.randrange(8)
                case 1:
                    mutated[at] = chance.choice((0x00, 0x01, 0x30, 0x80, 0x81, 0xA0, 0xFF))
                case 2:
                    del mutated[at : at + chance.randint(1, 4)]
                case _:
                    mutated[at:at] = mutated[at : at + chance.randint(1, 4)]
        request = parse_or_refuse(bytes(mutated))
        if request is not None:
            accepted += 1
            check_against_cryptography(bytes(mutated), request)
    assert 50 < accepted < 950  # both sides of the parser were visited


def check_against_cryptography(request_der: bytes, request: OcspRequest) -> None:
    try:
        other = ocsp.load_der_ocsp_request(request_der)
        serial, name_hash, key_hash = other.serial_number, other.issuer_name_hash, other.issuer_key_hash
    except (ValueError, NotImplementedError, UnsupportedAlgorithm):  # one certificate only, no spelt-out defaults
        return
    (cert_id,) = request.cert_ids
    if isinstance(cert_id, CertId):
        assert (serial, name_hash, key_hash) == (cert_id.serial, cert_id.issuer_name_hash, cert_id.issuer_key_hash)


def test_every_prefix_is_refused(issuer: TestIssuer) -> None:
    for request_der in samples(issuer):
        for length in range(len(request_der)):
            with pytest.raises(MalformedRequestError):
                parse_request(request_der[:length])


# --- CertIDs we build --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", HashAlgorithm)
@pytest.mark.parametrize("kind", ["P-256", "RSA"])
def test_built_cert_ids_equal_those_of_clients(kind: str, algorithm: HashAlgorithm) -> None:
    issuer = shared_issuer(kind)
    built = build_cert_id(issuer.issuer, SERIAL, algorithm)
    assert built == cert_id_of(requests.simple(issuer.certificate, SERIAL, algorithm.hashlib_name))
    assert issuer_hashes(issuer.issuer, algorithm) == requests.hash_name_and_key(
        issuer.certificate, algorithm.hashlib_name
    )


@pytest.mark.parametrize("serial", [-1, 2**159, 2**200])
def test_no_cert_id_for_such_a_serial(issuer: TestIssuer, serial: int) -> None:
    with pytest.raises(ValueError, match="serial"):
        build_cert_id(issuer.issuer, serial)


# --- what must not be signed -------------------------------------------------------------------------------------------


def answer(
    issuer: TestIssuer,
    status: CertStatus,
    *,
    this_update: datetime = NOW,
    next_update: datetime = NOW + timedelta(hours=12),
) -> SingleAnswer:
    return SingleAnswer(build_cert_id(issuer.issuer, SERIAL), status, this_update, next_update)


def test_nothing_is_no_response(responder: Responder) -> None:
    with pytest.raises(AnswerError, match="at least one"):
        sign_response(responder=responder, answers=[], produced_at=NOW, nonce=None)


@pytest.mark.parametrize("status", [Good(), Revoked(NOW, 1), Revoked(NOW)])
def test_no_authority_over_other_issuers(responder: Responder, status: CertStatus) -> None:
    """RULES §5: peers that look at the serial alone vouch for another issuer's certificates."""
    twin = make_issuer(common_name="Test CA P-256")
    other_name = make_issuer(common_name="Another", key=shared_issuer().key)
    unsupported = UnsupportedCertId("MD5", requests.cert_id(shared_issuer().certificate, SERIAL, "md5"))
    for cert_id in (build_cert_id(twin.issuer, SERIAL), build_cert_id(other_name.issuer, SERIAL), unsupported):
        refused = SingleAnswer(cert_id, status, NOW, NOW + DAY)
        right = answer(shared_issuer(), Good())
        with pytest.raises(AnswerError, match="only be unknown"):
            sign_response(responder=responder, answers=[right, refused], produced_at=NOW, nonce=None)
        unknown = SingleAnswer(cert_id, Unknown(), NOW, NOW + DAY)
        assert sign_response(responder=responder, answers=[right, unknown], produced_at=NOW, nonce=None)


def test_next_update_is_within_the_responders_validity(issuer: TestIssuer, responder: Responder) -> None:
    """RULES §5: nextUpdate never beyond the responder certificate's notAfter."""
    last = responder.not_after
    assert sign_response(
        responder=responder, answers=[answer(issuer, Good(), next_update=last)], produced_at=NOW, nonce=None
    )
    late = answer(issuer, Good(), next_update=last + timedelta(seconds=1))
    with pytest.raises(AnswerError, match="nextUpdate"):
        sign_response(responder=responder, answers=[late], produced_at=NOW, nonce=None)


@pytest.mark.parametrize("life", [timedelta(0), timedelta(milliseconds=999), -DAY])
def test_next_update_is_later(issuer: TestIssuer, responder: Responder, life: timedelta) -> None:
    with pytest.raises(AnswerError, match="nextUpdate"):
        sign_response(
            responder=responder, answers=[answer(issuer, Good(), next_update=NOW + life)], produced_at=NOW, nonce=None
        )


def test_this_update_is_produced_at(issuer: TestIssuer, responder: Responder) -> None:
    """RULES §5: producedAt = thisUpdate, so that both readings of Last-Modified agree."""
    for produced_at in (NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)):
        with pytest.raises(AnswerError, match="thisUpdate"):
            sign_response(responder=responder, answers=[answer(issuer, Good())], produced_at=produced_at, nonce=None)


def test_not_before_the_responder_is_valid(issuer: TestIssuer, responder: Responder) -> None:
    early = responder.not_before - timedelta(seconds=1)
    with pytest.raises(AnswerError, match="before the responder"):
        sign_response(
            responder=responder, answers=[answer(issuer, Good(), this_update=early)], produced_at=early, nonce=None
        )


@pytest.mark.parametrize("reason", [6, 7, 8, 11, -1])
def test_no_other_reasons(issuer: TestIssuer, responder: Responder, reason: int) -> None:
    """6 could be lifted, 7 is unused, 8 belongs in delta CRLs."""
    with pytest.raises(CrlError, match=f"reason {reason}"):
        sign_response(responder=responder, answers=[answer(issuer, Revoked(NOW, reason))], produced_at=NOW, nonce=None)


# --- the responder -----------------------------------------------------------------------------------------------------


def test_key_and_certificate_belong_together(issuer: TestIssuer) -> None:
    certificate_der = make_responder_certificate(issuer, make_key())
    with pytest.raises(ResponderError, match="not the one in its certificate"):
        Responder(issuer.issuer, certificate_der, make_key())


@pytest.mark.parametrize("certificate_der", [b"", b"\x30\x00", b"not a certificate"])
def test_a_certificate_that_is_none(issuer: TestIssuer, certificate_der: bytes) -> None:
    with pytest.raises(ResponderError, match="cannot be read"):
        Responder(issuer.issuer, certificate_der, make_key())


def test_unreadable_extensions_are_refused(issuer: TestIssuer) -> None:
    key = make_key()
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.31"), b"\x05\x00")
    with pytest.raises(PkiError, match="extension cannot be read"):
        Responder(issuer.issuer, make_responder_certificate(issuer, key, points=(broken, False)), key)


def test_a_responder_does_not_show_its_key(responder: Responder) -> None:
    assert "key" not in repr(responder).replace("certificate", "")


# --- OpenSSL -----------------------------------------------------------------------------------------------------------


def openssl(*arguments: str | Path) -> str:
    """Output and errors of `openssl`; that it succeeds is part of every test that calls this."""
    command = ["openssl", *map(str, arguments)]
    completed = subprocess.run(command, capture_output=True, check=False, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout + completed.stderr


def write_pem(path: Path, certificate_der: bytes) -> Path:
    certificate = x509.load_der_x509_certificate(certificate_der)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.mark.parametrize("kind", ["P-256", "RSA"])
def test_openssl_asks_and_believes(tmp_path: Path, kind: str) -> None:
    """`openssl ocsp` makes the request, and verifies our answer against the issuer alone."""
    issuer = shared_issuer(kind)
    now = datetime.now(UTC).replace(microsecond=0)
    key = make_key(kind)
    responder_der = make_responder_certificate(issuer, key, not_before=now - DAY, not_after=now + DAY)
    responder = Responder(issuer.issuer, responder_der, key)
    ca = write_pem(tmp_path / "ca.pem", issuer.issuer.certificate_der)
    leaves = [write_pem(tmp_path / f"{serial}.pem", issuer.make_leaf(serial)) for serial in (SERIAL, 2, 3)]
    request_path, response_path = tmp_path / "request.der", tmp_path / "response.der"
    asked = [argument for leaf in leaves for argument in ("-cert", leaf)]
    openssl("ocsp", "-issuer", ca, "-sha256", *asked, "-reqout", request_path, "-nonce")

    request = parse_request(request_path.read_bytes())
    assert [cert_id.serial for cert_id in request.cert_ids if isinstance(cert_id, CertId)] == [SERIAL, 2, 3]
    assert request.nonce is not None
    statuses: list[CertStatus] = [Good(), Revoked(now - DAY, 4), Unknown()]
    answers = [
        SingleAnswer(cert_id, status, now, now + timedelta(hours=12))
        for cert_id, status in zip(request.cert_ids, statuses, strict=True)
    ]
    response_path.write_bytes(sign_response(responder=responder, answers=answers, produced_at=now, nonce=request.nonce))
    trusting = ("-respin", response_path, "-CAfile", ca)
    verified = openssl("ocsp", "-reqin", request_path, *trusting)  # compares the nonce
    assert "Response verify OK" in verified
    assert "WARNING" not in verified
    told = openssl("ocsp", "-issuer", ca, "-sha256", *asked, "-no_nonce", *trusting)  # compares the CertIDs
    assert re.findall(r"\.pem: (\w+)", told) == ["good", "revoked", "unknown"]
    assert "Reason: superseded" in told


def test_openssl_signs_a_request(tmp_path: Path, issuer: TestIssuer) -> None:
    """A signed request with a requestor's name, as a client makes it (RFC 6960 §4.1.2)."""
    signer_key = make_key()
    key_path = tmp_path / "key.pem"
    key_path.write_bytes(
        signer_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    signer = write_pem(tmp_path / "signer.pem", make_responder_certificate(issuer, signer_key))
    ca = write_pem(tmp_path / "ca.pem", issuer.issuer.certificate_der)
    leaf = write_pem(tmp_path / "leaf.pem", issuer.make_leaf(SERIAL))
    request_path = tmp_path / "request.der"
    openssl(
        "ocsp", "-issuer", ca, "-cert", leaf, "-signer", signer, "-signkey", key_path, "-reqout", request_path
    )  # fmt: skip
    request_der = request_path.read_bytes()
    assert b"OCSP responder" in request_der  # the requestor's name is there
    assert cert_id_of(request_der).matches(issuer.issuer)


def test_openssl_parses_the_whole_answer(tmp_path: Path, issuer: TestIssuer, responder: Responder) -> None:
    path = tmp_path / "response.der"
    path.write_bytes(
        sign_response(responder=responder, answers=[answer(issuer, Revoked(NOW, 1))], produced_at=NOW, nonce=b"n" * 32)
    )
    structure = openssl("asn1parse", "-inform", "DER", "-in", path)
    assert "Basic OCSP Response" in structure
    text = openssl("ocsp", "-respin", path, "-resp_text", "-noverify")
    for line in (
        "Version: 1 (0x0)",
        f"Responder Id: {responder.responder_id_der[4:].hex().upper()}",
        "Hash Algorithm: sha1",
        f"Serial Number: {SERIAL:X}",
        "Revocation Reason: keyCompromise (0x1)",
        "OCSP Nonce:",
        "OCSP No Check:",
    ):
        assert line in text
