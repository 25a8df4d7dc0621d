"""`pki/signing.py`, `tbs.py` and `issuer.py`: one key has one algorithm, and bytes come out as they went in."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.pki import der, signing
from acmeca.pki.errors import PkiError, SignatureMismatchError
from acmeca.pki.issuer import Issuer
from acmeca.pki.tbs import build_tbs, parse_tbs, read_signature_algorithm
from tests.support.authorities import NOW, Forgery, forge_issuer, intermediate, issue, make_issuer, root, serial
from tests.support.csrs import KEY_KINDS, shared_key

OIDS = {
    "P-256": "1.2.840.10045.4.3.2",
    "P-384": "1.2.840.10045.4.3.3",
    "P-521": "1.2.840.10045.4.3.4",
    "RSA": "1.2.840.113549.1.1.11",
    "Ed25519": "1.3.101.112",
}


class TokenKey(ec.EllipticCurvePrivateKey):
    """A key as PKCS#11 has it: a Python subclass whose `sign` calls something else (DESIGN §5)."""

    def __init__(self, inner: ec.EllipticCurvePrivateKey) -> None:
        self.inner = inner
        self.signed: list[bytes] = []

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        assert isinstance(signature_algorithm, ec.ECDSA)
        assert not isinstance(signature_algorithm.algorithm, Prehashed)
        self.signed.append(bytes(data))
        return self.inner.sign(data, signature_algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self.inner.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        return self.inner.curve

    @property
    def key_size(self) -> int:
        return self.inner.key_size

    def exchange(self, algorithm: object, peer_public_key: object) -> bytes:
        raise NotImplementedError

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        raise NotImplementedError

    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> bytes:  # noqa: A002
        raise NotImplementedError

    def __copy__(self) -> "TokenKey":
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, object]) -> "TokenKey":
        raise NotImplementedError


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_the_algorithm_belongs_to_the_key(kind: str) -> None:
    """RFC 5758 §3.2, RFC 4055 §5, RFC 8410 §3: what stands in the certificate is what the key does."""
    key = shared_key(kind)
    algorithm = signing.signature_algorithm(key.public_key())
    reader = der.Reader(algorithm).read_sequence()
    assert der.parse_oid(reader.read(der.OBJECT_IDENTIFIER)) == OIDS[kind]
    if kind == "RSA":  # "the parameters MUST be NULL"
        assert reader.read(der.NULL) == b""
    reader.finish()
    signature = signing.sign_with(key, b"data")
    signing.verify_with(key.public_key(), signature, b"data")


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_what_is_assembled_verifies_elsewhere(kind: str) -> None:
    """The library agrees about algorithm, signature and structure."""
    authority, parent = intermediate(kind), root(kind)
    certificate = authority.issuer.certificate
    certificate.verify_directly_issued_by(parent.issuer.certificate)
    assert certificate.signature_algorithm_oid.dotted_string == OIDS[kind]
    assert signing.certificate_from_tbs(certificate.tbs_certificate_bytes, certificate.signature) == (
        authority.issuer.certificate_der
    )


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_splitting_undoes_assembling(kind: str) -> None:
    certificate = intermediate(kind).issuer.certificate
    tbs, signature = signing.split_signed(intermediate(kind).issuer.certificate_der)
    assert (tbs, signature) == (certificate.tbs_certificate_bytes, certificate.signature)


@pytest.mark.parametrize(
    "signed", [b"", b"junk", der.sequence(der.null()), der.sequence(der.null(), der.sequence(), b"\x03\x02\x01\x00")]
)
def test_what_is_not_signed(signed: bytes) -> None:
    with pytest.raises(PkiError, match="not a signed value"):
        signing.split_signed(signed)


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_a_wrong_signature_is_found(kind: str) -> None:
    key = shared_key(kind)
    signature = signing.sign_with(key, b"data")
    for other_key, other_signature, other_data in [
        (shared_key(kind, 1), signature, b"data"),
        (key, signature, b"Data"),
        (key, signature[:-1] + bytes([signature[-1] ^ 1]), b"data"),
        (key, b"", b"data"),
    ]:
        with pytest.raises(SignatureMismatchError):
            signing.verify_with(other_key.public_key(), other_signature, other_data)


@pytest.mark.parametrize("key", [ed448.Ed448PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())])
def test_other_keys_are_refused(key: ed448.Ed448PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    with pytest.raises(PkiError, match="cannot sign here"):
        signing.signature_algorithm(key.public_key())
    with pytest.raises(PkiError, match="cannot sign here"):
        signing.sign_with(key, b"")  # type: ignore[arg-type]  # the wrong type is the point
    with pytest.raises(PkiError, match="cannot sign here"):
        signing.verify_with(key.public_key(), b"", b"")


def test_a_key_in_a_token_signs() -> None:
    """DESIGN §5: a subclass whose `sign` calls a token needs no abstraction of its own here."""
    inner = shared_key("P-384")
    assert isinstance(inner, ec.EllipticCurvePrivateKey)
    token = TokenKey(inner)
    assert signing.signature_algorithm(token.public_key()) == signing.signature_algorithm(inner.public_key())
    signing.verify_with(inner.public_key(), signing.sign_with(token, b"data"), b"data")
    assert token.signed == [b"data"]


# --- TBSCertificate ----------------------------------------------------------------------------------------------------


def test_takes_apart_what_it_put_together() -> None:
    certificate = intermediate().issuer.certificate
    parts = parse_tbs(certificate.tbs_certificate_bytes)
    rebuilt = build_tbs(
        serial=certificate.serial_number,
        signature_algorithm_der=parts.signature_algorithm_der,
        issuer_der=parts.issuer_der,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        subject_der=parts.subject_der,
        spki_der=parts.spki_der,
        extensions=der.Reader(parts.extensions_der or b"").read(der.SEQUENCE),
    )
    assert rebuilt == certificate.tbs_certificate_bytes
    assert parts.version_der == der.integer(2)
    assert (parts.issuer_unique_id_der, parts.subject_unique_id_der) == (None, None)


def test_reads_optional_fields() -> None:
    """§4.1: unique identifiers are read, so that lints can refuse them; a v1 certificate has neither version nor extensions."""
    forgery = Forgery.of(issue(intermediate()))
    forgery.unique_identifiers = b"\x81\x02\x00\x01\x82\x02\x00\x02"
    parts = parse_tbs(forgery.tbs)
    assert (parts.issuer_unique_id_der, parts.subject_unique_id_der) == (b"\x81\x02\x00\x01", b"\x82\x02\x00\x02")
    forgery = Forgery.of(issue(intermediate()))
    forgery.version, forgery.extensions = b"", {}
    parts = parse_tbs(forgery.tbs)
    assert (parts.version_der, parts.extensions_der) == (None, None)
    assert read_signature_algorithm(forgery.tbs) == parts.signature_algorithm_der


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_junk_is_no_tbs(data: bytes) -> None:
    with pytest.raises(PkiError, match="not a TBSCertificate"):
        parse_tbs(data)
    with pytest.raises(PkiError, match="not a TBSCertificate"):
        read_signature_algorithm(data[:20])


def test_a_year_without_an_encoding() -> None:
    with pytest.raises(PkiError, match="no certificate can be valid then"):
        build_tbs(
            serial=serial(),
            signature_algorithm_der=b"",
            issuer_der=b"",
            not_before=NOW.replace(year=1949),
            not_after=NOW,
            subject_der=b"",
            spki_der=b"",
            extensions=b"",
        )


# --- Issuer --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_an_issuer_knows_its_certificate(kind: str) -> None:
    issuer = intermediate(kind).issuer
    certificate = x509.load_der_x509_certificate(issuer.certificate_der)
    assert issuer.subject_der == certificate.subject.public_bytes()
    assert issuer.public_key == certificate.public_key() == shared_key(kind, 101).public_key()
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert issuer.key_identifier == identifier
    assert issuer.not_before == certificate.not_valid_before_utc
    assert issuer.not_after == certificate.not_valid_after_utc
    assert issuer.may_sign_certificates
    assert issuer.path_length == 0
    assert root(kind).issuer.path_length is None
    # RFC 6960 §4.1.1: the hash is "calculated over the value (excluding tag and length) of the subject public key field";
    # the library computes method 1 of RFC 5280 §4.2.1.2 over the same octets.
    digest = hashes.Hash(hashes.SHA1())
    digest.update(issuer.public_key_bits)
    assert x509.SubjectKeyIdentifier.from_public_key(issuer.public_key).digest == digest.finalize()


def test_the_subject_is_kept_byte_for_byte() -> None:
    """A name in PrintableString stays one: an OCSP issuerNameHash is of the bytes that stand in the certificate."""
    forgery = Forgery.of(intermediate().issuer.certificate_der)
    forgery.subject = der.sequence(der.set_(der.sequence(der.oid("2.5.4.3"), der.encode(der.PRINTABLE_STRING, b"CA"))))
    issuer = make_issuer(forgery.certificate().public_bytes(Encoding.DER))
    assert issuer.subject_der == forgery.subject


@pytest.mark.parametrize("certificate_der", [b"", b"junk", b"\x30\x00"])
def test_an_unreadable_certificate(certificate_der: bytes) -> None:
    with pytest.raises(PkiError, match="issuer test cannot be read"):
        _ = make_issuer(certificate_der).certificate


def test_a_certificate_of_an_unknown_version() -> None:
    forgery = Forgery.of(intermediate().issuer.certificate_der)
    forgery.version = b"\xa0\x03\x02\x01\x07"
    encoded = signing.assemble_signed(forgery.tbs, forgery.algorithm, b"\0")
    with pytest.raises(PkiError, match="cannot be read"):
        _ = make_issuer(encoded).certificate


def without(dotted: str) -> Issuer:
    forgery = Forgery.of(intermediate().issuer.certificate_der)
    del forgery.extensions[dotted]
    return make_issuer(forgery.certificate().public_bytes(Encoding.DER))


def test_an_issuer_without_a_key_identifier() -> None:
    """§4.2.1.2: the extension "MUST appear in all conforming CA certificates"."""
    with pytest.raises(PkiError, match="no subject key identifier"):
        _ = without("2.5.29.14").key_identifier


def test_what_makes_a_ca() -> None:
    """§6.1.4 (k) and (n): cA, and keyCertSign."""
    assert not without("2.5.29.19").may_sign_certificates
    assert without("2.5.29.19").path_length is None
    assert not without("2.5.29.15").may_sign_certificates
    assert not make_issuer(issue(intermediate())).may_sign_certificates
    assert forge_issuer(lambda builder: builder).may_sign_certificates


def test_an_issuer_with_another_kind_of_key() -> None:
    key = ed448.Ed448PrivateKey.generate()
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), serial(), NOW, NOW)
        .sign(key, None)
        .public_bytes(Encoding.DER)
    )
    with pytest.raises(PkiError, match="use EC, RSA or Ed25519"):
        _ = make_issuer(certificate).public_key


def test_an_issuer_is_a_value() -> None:
    """Equal fields, equal issuers: caches are keyed by it."""
    issuer = intermediate().issuer
    assert Issuer(issuer.id, issuer.certificate_der, issuer.ocsp_url, issuer.crl_url, issuer.issuer_url) == issuer
    assert isinstance(shared_key("RSA"), rsa.RSAPrivateKey)
