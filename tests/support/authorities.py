"""A root, an intermediate and leaves made by acmeca's own `pki`, and a maker of certificates that are wrong in one place.

Rule 1: a `Forgery` starts as the parts of a good certificate; each change makes it another one, and nothing stops it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from acmeca.pki import der, signing
from acmeca.pki.extensions import encode_extension
from acmeca.pki.hierarchy import build_intermediate, build_root
from acmeca.pki.issuance import prepare, random_serial, sign
from acmeca.pki.issuer import Issuer
from acmeca.pki.lint_case import key_usage_value
from acmeca.pki.tbs import parse_tbs
from acmeca.pki.template import CLIENT_AUTH, OCSP_SIGNING, SERVER_AUTH, Template
from tests.support.csrs import shared_key

NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=UTC)
NAMES = ("a.corp.internal", "*.b.corp.internal")
ADDRESSES = ("10.0.0.1", "2001:db8::1")

SERVER = Template(
    name="server",
    lifetime=timedelta(days=90),
    extended_key_usages=(SERVER_AUTH, CLIENT_AUTH),
    backdate=timedelta(minutes=5),
)
NAMED = replace(SERVER, name="named", subject_common_name="a.corp.internal")
CLIENT = replace(SERVER, name="client", extended_key_usages=(CLIENT_AUTH,))
FULL = replace(
    SERVER,
    name="full",
    organization="Example GmbH",
    organizational_unit="Köln",
    common_name_from_names=True,
    must_staple=True,
    maximum_lifetime=timedelta(days=180),
)
RESPONDER = Template(
    name="responder",
    lifetime=timedelta(days=14),
    extended_key_usages=(OCSP_SIGNING,),
    backdate=timedelta(hours=1),
    ocsp_responder=True,
    subject_common_name="OCSP responder",
)


def serial(number: int = 1) -> int:
    return random_serial(number.to_bytes(16))


@dataclass(frozen=True)
class Authority:
    """An issuer and its key."""

    issuer: Issuer
    key: signing.PrivateKey


def make_issuer(certificate_der: bytes, id_: str = "test") -> Issuer:
    return Issuer(
        id=id_,
        certificate_der=certificate_der,
        ocsp_url=f"http://pki.test/ocsp/{id_}",
        crl_url=f"http://pki.test/crl/{id_}.crl",
        issuer_url=f"http://pki.test/issuer/{id_}.der",
    )


def root(kind: str = "P-256") -> Authority:
    """A root that is valid from two years before `NOW` on, for twenty years; one of each kind in a test run."""
    return _make_root(kind)


def intermediate(kind: str = "P-256", path_length: int = 0) -> Authority:
    """An intermediate below the root of its kind, valid from a year before `NOW` on, for five years; one of each kind."""
    return _make_intermediate(kind, path_length)


@cache
def _make_root(kind: str) -> Authority:
    key = shared_key(kind, 100)
    certificate = build_root(
        key=key,
        subject_common_name=f"Test Root {kind}",
        organization="Example",
        not_before=NOW - timedelta(days=730),
        lifetime=timedelta(days=7305),
        serial=serial(100),
    )
    return Authority(make_issuer(certificate, "root"), key)


@cache
def _make_intermediate(kind: str, path_length: int) -> Authority:
    key = shared_key(kind, 101 + path_length)
    certificate = build_intermediate(
        root=root(kind).issuer,
        root_key=root(kind).key,
        public_key=key.public_key(),
        subject_common_name=f"Test Intermediate {kind} {path_length}",
        organization="Example",
        not_before=NOW - timedelta(days=365),
        lifetime=timedelta(days=1826),
        serial=serial(101),
        path_length=path_length,
    )
    return Authority(make_issuer(certificate, "issuer"), key)


def issue(
    authority: Authority,
    *,
    template: Template = SERVER,
    kind: str = "P-256",
    dns_names: tuple[str, ...] = NAMES,
    ip_addresses: tuple[str, ...] = ADDRESSES,
    now: datetime = NOW,
    number: int = 1,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> bytes:
    """A leaf, DER."""
    prepared = prepare(
        issuer=authority.issuer,
        template=template,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
        public_key=shared_key(kind).public_key(),
        serial=serial(number),
        now=now,
        not_before=not_before,
        not_after=not_after,
    )
    return sign(prepared, authority.key)


def constrained(constraints: x509.NameConstraints | bytes, *, critical: bool = True) -> Issuer:
    """An issuer with name constraints, as a value or as the DER of one, made by the library."""
    value: x509.ExtensionType = (
        x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.30"), constraints)
        if isinstance(constraints, bytes)
        else constraints
    )
    return forge_issuer(lambda builder: builder.add_extension(value, critical))


def forge_issuer(change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder]) -> Issuer:
    """A self-signed CA by the library, with a change to its builder; its key is the intermediate's."""
    key = intermediate().key
    name = intermediate().issuer.certificate.subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial())
        .not_valid_before(NOW - timedelta(days=365))
        .not_valid_after(NOW + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage_value("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(intermediate().issuer.key_identifier), critical=False)
    )
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    certificate = change(builder).sign(key, hashes.SHA256())
    return make_issuer(certificate.public_bytes(Encoding.DER), "forged")


@dataclass
class Forgery:
    """A certificate in parts, each a DER encoding that a test may change; `extensions` by object identifier.

    `outer_algorithm` is what stands beside the signature; None copies what stands inside.
    """

    version: bytes
    serial: bytes
    algorithm: bytes
    issuer: bytes
    not_before: bytes
    not_after: bytes
    subject: bytes
    spki: bytes
    unique_identifiers: bytes
    extensions: dict[str, bytes]
    outer_algorithm: bytes | None = None

    @classmethod
    def of(cls, certificate_der: bytes) -> "Forgery":
        """The parts of a good certificate."""
        tbs = parse_tbs(x509.load_der_x509_certificate(certificate_der).tbs_certificate_bytes)
        found: dict[str, bytes] = {}
        reader = der.Reader(tbs.extensions_der or b"").read_sequence()
        while reader.peek() is not None:
            encoding = reader.read_any().encoding
            found[der.parse_oid(der.Reader(encoding).read_sequence().read(der.OBJECT_IDENTIFIER))] = encoding
        return cls(
            version=der.encode(0xA0, tbs.version_der or b""),
            serial=tbs.serial_der,
            algorithm=tbs.signature_algorithm_der,
            issuer=tbs.issuer_der,
            not_before=tbs.not_before_der,
            not_after=tbs.not_after_der,
            subject=tbs.subject_der,
            spki=tbs.spki_der,
            unique_identifiers=b"",
            extensions=found,
        )

    def put(self, dotted: str, value: bytes, *, critical: bool | None = None) -> None:
        """Give an extension another value, and another criticality unless None."""
        old = self.extensions.get(dotted, b"")
        keep = b"\x01\x01\xff" in old[:20] if critical is None else critical
        self.extensions[dotted] = encode_extension(dotted, value, critical=keep)

    def flip_critical(self, dotted: str) -> None:
        fields = der.Reader(self.extensions[dotted]).read_sequence()
        fields.read(der.OBJECT_IDENTIFIER)
        critical = fields.read_optional(der.BOOLEAN) is not None
        self.extensions[dotted] = encode_extension(dotted, fields.read(der.OCTET_STRING), critical=not critical)

    @property
    def tbs(self) -> bytes:
        return der.sequence(
            self.version,
            self.serial,
            self.algorithm,
            self.issuer,
            der.sequence(self.not_before, self.not_after),
            self.subject,
            self.spki,
            self.unique_identifiers,
            der.encode(0xA3, der.sequence(*self.extensions.values())) if self.extensions else b"",
        )

    def certificate(self) -> x509.Certificate:
        """With a signature that nothing looks at."""
        algorithm = self.algorithm if self.outer_algorithm is None else self.outer_algorithm
        return x509.load_der_x509_certificate(signing.assemble_signed(self.tbs, algorithm, b"\0" * 8))
