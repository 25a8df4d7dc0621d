"""A relying party for tests: OCSP by POST and GET, CRLs, over plain http, from the URLs that a certificate names."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from yarl import URL

from acmeca.pki.issuer import Issuer
from tests.support import ocsp_requests
from tests.support.acme_client import Answer

OCSP_RESPONSE = "application/ocsp-response"


@dataclass(frozen=True)
class Said:
    """What an OCSP answer says of one certificate, its signature checked."""

    status: str
    reason: str | None
    revoked_at: object
    this_update: object
    next_update: object


@dataclass
class StatusClient:
    """Asks one issuer. Nothing is cached, no redirect is followed."""

    session: aiohttp.ClientSession
    issuer: Issuer

    @property
    def certificate(self) -> x509.Certificate:
        return self.issuer.certificate

    def request(self, serial: int, hash_name: str = "sha1", **parts: object) -> bytes:
        """An OCSP request for one certificate of this issuer."""
        return ocsp_requests.simple(self.certificate, serial, hash_name, **parts)

    async def fetch(
        self, url: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """`url` goes onto the wire as it is."""
        async with self.session.request(
            method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def post(self, request_der: bytes, *, headers: Mapping[str, str] | None = None) -> Answer:
        """RFC 6960 §A.1, by POST."""
        sent = {"Content-Type": "application/ocsp-request"} | dict(headers or {})
        return await self.fetch(self.issuer.ocsp_url, method="POST", body=request_der, headers=sent)

    async def get(
        self, request_der: bytes, *, method: str = "GET", headers: Mapping[str, str] | None = None, raw: bool = False
    ) -> Answer:
        """RFC 6960 §A.1, by GET: base64, percent-encoded unless `raw`."""
        text = base64.b64encode(request_der).decode()
        path = text if raw else quote(text, safe="")
        return await self.fetch(f"{self.issuer.ocsp_url}/{path}", method=method, headers=headers)

    async def said(self, serial: int, hash_name: str = "sha1") -> Said:
        """What is said of a serial."""
        (said,) = read_answer(await self.post(self.request(serial, hash_name)), self.issuer)
        return said

    async def status(self, serial: int) -> str:
        """`GOOD`, `REVOKED` or `UNKNOWN`."""
        return (await self.said(serial)).status

    async def crl(self) -> x509.CertificateRevocationList:
        """The CRL, its signature checked."""
        answer = await self.fetch(self.issuer.crl_url)
        assert answer.status == 200, answer
        assert answer.content_type == "application/pkix-crl"
        crl = x509.load_der_x509_crl(answer.body)
        public_key = self.certificate.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        assert crl.is_signature_valid(public_key)
        return crl


def response_status(answer: Answer) -> str:
    """The OCSPResponseStatus: `SUCCESSFUL`, `MALFORMED_REQUEST`, `UNAUTHORIZED`, `TRY_LATER`, …"""
    assert (answer.status, answer.content_type) == (200, OCSP_RESPONSE), answer
    return ocsp.load_der_ocsp_response(answer.body).response_status.name


def read_answer(answer: Answer, issuer: Issuer) -> list[Said]:
    """What a successful answer says; the delegated responder and its signature are checked as RFC 6960 §4.2.2.2 has it."""
    assert response_status(answer) == "SUCCESSFUL"
    response = ocsp.load_der_ocsp_response(answer.body)
    (responder,) = response.certificates
    responder.verify_directly_issued_by(issuer.certificate)
    usage = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
    public_key, algorithm = responder.public_key(), response.signature_hash_algorithm
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert algorithm is not None
    public_key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    return [
        Said(
            status=one.certificate_status.name,
            reason=None if one.revocation_reason is None else one.revocation_reason.value,
            revoked_at=one.revocation_time_utc,
            this_update=one.this_update_utc,
            next_update=one.next_update_utc,
        )
        for one in response.responses
    ]


def crl_number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def entries(crl: x509.CertificateRevocationList) -> dict[int, str | None]:
    """Serial to reason."""
    found: dict[int, str | None] = {}
    for item in crl:
        try:
            found[item.serial_number] = item.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
        except x509.ExtensionNotFound:
            found[item.serial_number] = None
    return found
