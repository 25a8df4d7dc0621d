"""A front page to look at: a root and an issuer made for the occasion, and the model that shows them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from acmeca.web.front_page import FrontPageModel, build_certificate_card

BASE = "https://ca.corp.internal:8443"
STATUS = "http://ca.corp.internal:8080"

_START = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class SampleChain:
    """A self-signed root and one issuer below it."""

    root: x509.Certificate
    issuer: x509.Certificate


def make_chain(*, organization: str = "Example Corporation", name: str = "Example Internal CA") -> SampleChain:
    root_key, issuer_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, issuer_name = _name(organization, f"{name} Root 2026"), _name(organization, f"{name} Issuer 1")
    root = _sign(root_name, root_name, root_key, root_key, days=3650)
    return SampleChain(root, _sign(issuer_name, root_name, issuer_key, root_key, days=1825))


def make_model(
    chain: SampleChain | None = None, *, base: str = BASE, status: str = STATUS, **changes: Any
) -> FrontPageModel:
    """The model of a company's CA; `changes` replace single values."""
    chain = chain or make_chain()
    values: dict[str, Any] = {
        "ca_name": "Example Internal CA",
        "organization": "Example Corporation",
        "demo": False,
        "version": "0.1.0",
        "directory_url": f"{base}/acme/directory",
        "status_url": status,
        "roots_url": f"{status}/roots.pem",
        "bundle_url": f"{status}/bundle.pem",
        "root": build_certificate_card(
            chain.root,
            pem_url=f"{status}/issuer/root1.pem",
            der_url=f"{status}/issuer/root1.der",
            crl_url=f"{status}/crl/root1.crl",
        ),
        "issuers": (
            build_certificate_card(
                chain.issuer,
                pem_url=f"{status}/issuer/a1b2c3.pem",
                der_url=f"{status}/issuer/a1b2c3.der",
                crl_url=f"{status}/crl/a1b2c3.crl",
                ocsp_url=f"{status}/ocsp/a1b2c3",
            ),
        ),
        "allowed_names": ("*.corp.internal", "*.lab.corp.internal", "intranet"),
        "profiles": (("server", "TLS server, 90d"), ("client", "TLS client, 90d")),
        "http_port": 80,
    }
    return FrontPageModel(**(values | changes))


def make_demo_model(chain: SampleChain | None = None, **changes: Any) -> FrontPageModel:
    """The model that `acmeca serve` shows right after a demonstration's set-up."""
    chosen: dict[str, Any] = {
        "ca_name": "acmeca demo",
        "organization": "acmeca demo",
        "demo": True,
        "allowed_names": ("*.localhost",),
        "http_port": 5002,
        "base": "https://localhost:8443",
        "status": "http://127.0.0.1:8080",
    }
    return make_model(chain or make_chain(organization="acmeca demo", name="acmeca demo"), **(chosen | changes))


def _name(organization: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signing_key: ec.EllipticCurvePrivateKey,
    *,
    days: int,
) -> x509.Certificate:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_START)
        .not_valid_after(_START + timedelta(days=days, seconds=-1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signing_key, hashes.SHA256())
    )
