"""Issuers and OCSP responders for tests of status, made with `cryptography` and not with acmeca's own issuance.

Rule 1: a test that asks whether a checker refuses something needs a maker that makes everything.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from acmeca.pki.issuer import Issuer
from acmeca.pki.signing import PrivateKey

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
KEY_KINDS = ("P-256", "P-384", "P-521", "RSA", "Ed25519")


def make_key(kind: str = "P-256") -> PrivateKey:
    match kind:
        case "P-256":
            return ec.generate_private_key(ec.SECP256R1())
        case "P-384":
            return ec.generate_private_key(ec.SECP384R1())
        case "P-521":
            return ec.generate_private_key(ec.SECP521R1())
        case "RSA":
            return rsa.generate_private_key(65537, 2048)
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def signature_hash(key: PrivateKey) -> hashes.HashAlgorithm | None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}.get(key.curve.name, hashes.SHA256())
    return hashes.SHA256()


def key_usage(*bits: str) -> x509.KeyUsage:
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


def name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


@dataclass(frozen=True)
class TestIssuer:
    """An issuer with its key."""

    __test__ = False

    issuer: Issuer
    key: PrivateKey

    @property
    def certificate(self) -> x509.Certificate:
        return self.issuer.certificate

    def make_leaf(self, serial: int, *, common_name: str = "leaf", not_before: datetime | None = None) -> bytes:
        """A certificate of this issuer, DER, valid for ten years around `NOW` unless told otherwise."""
        start = not_before or NOW - timedelta(days=365)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(common_name))
            .issuer_name(self.certificate.subject)
            .public_key(make_key().public_key())
            .serial_number(serial)
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .add_extension(x509.AuthorityKeyIdentifier(self.issuer.key_identifier, None, None), critical=False)
        )
        return builder.sign(self.key, signature_hash(self.key)).public_bytes(serialization.Encoding.DER)


def make_issuer(kind: str = "P-256", *, common_name: str = "Test CA", key: PrivateKey | None = None) -> TestIssuer:
    """A self-signed CA of twenty years around `NOW`."""
    key = make_key(kind) if key is None else key
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name(common_name))
        .issuer_name(name(common_name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=3650))
        .not_valid_after(NOW + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, signature_hash(key))
    )
    issuer = Issuer(
        id="test",
        certificate_der=certificate.public_bytes(serialization.Encoding.DER),
        ocsp_url="http://pki.test/ocsp/test",
        crl_url="http://pki.test/crl/test.crl",
        issuer_url="http://pki.test/issuer/test.der",
    )
    return TestIssuer(issuer, key)


def shared_issuer(kind: str = "P-256") -> TestIssuer:
    """One issuer for a kind of key, made once in a test run."""
    return _make_shared_issuer(kind)


@cache  # in a function of its own, because a cache tells a default from the same value given
def _make_shared_issuer(kind: str) -> TestIssuer:
    return make_issuer(kind, common_name=f"Test CA {kind}")


RESPONDER_EXTENSIONS: dict[str, tuple[x509.ExtensionType, bool]] = {
    "extended_key_usage": (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False),
    "key_usage": (key_usage("digital_signature"), True),
    "basic_constraints": (x509.BasicConstraints(ca=False, path_length=None), True),
    "no_check": (x509.OCSPNoCheck(), False),
}
OCSP_ACCESS = x509.AuthorityInformationAccess(
    [
        x509.AccessDescription(
            AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://pki.test/ocsp/test")
        )
    ]
)
CRL_POINTS = x509.CRLDistributionPoints(
    [x509.DistributionPoint([x509.UniformResourceIdentifier("http://pki.test/crl/test.crl")], None, None, None)]
)


def make_responder_certificate(
    issuer: TestIssuer,
    key: PrivateKey,
    *,
    signing_key: PrivateKey | None = None,
    issuer_name: x509.Name | None = None,
    subject: x509.Name | None = None,
    not_before: datetime = NOW - timedelta(hours=1),
    not_after: datetime = NOW + timedelta(days=14),
    **changes: tuple[x509.ExtensionType, bool] | None,
) -> bytes:
    """A responder's certificate, DER: right in everything that is not changed.

    A change is another value for an entry of `RESPONDER_EXTENSIONS`, None to leave it out, or a further extension.
    """
    signing_key = issuer.key if signing_key is None else signing_key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("OCSP responder") if subject is None else subject)
        .issuer_name(issuer.certificate.subject if issuer_name is None else issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
    )
    for each in (RESPONDER_EXTENSIONS | changes).values():
        if each is not None:
            builder = builder.add_extension(each[0], critical=each[1])
    return builder.sign(signing_key, signature_hash(signing_key)).public_bytes(serialization.Encoding.DER)
