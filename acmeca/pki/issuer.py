"""An issuer: a CA certificate and the URLs that stand in everything it signs.

Rule 1: an issuer holds no private key; who signs brings the key along.
Rule 2: the URLs are fixed when the issuer is made and go into every certificate unchanged, because they have to keep
working until the last of these certificates has expired.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from acmeca.pki import signing
from acmeca.pki.errors import PkiError
from acmeca.pki.extensions import read_extensions
from acmeca.pki.spki import public_key_bits
from acmeca.pki.tbs import TbsCertificate, parse_tbs


@dataclass(frozen=True)  # no slots: the cached properties live in the instance
class Issuer:
    """A CA certificate with its URLs.

    `id` names it in URLs and in the store; `ocsp_url`, `crl_url` (its own CRL) and `issuer_url` (its certificate as DER,
    the caIssuers of RFC 5280 §4.2.2.1) are plain http. The properties raise `PkiError` when the certificate lacks
    something that an issuer needs.
    """

    id: str
    certificate_der: bytes
    ocsp_url: str
    crl_url: str
    issuer_url: str

    @cached_property
    def certificate(self) -> x509.Certificate:
        try:
            return x509.load_der_x509_certificate(self.certificate_der)
        except (ValueError, x509.InvalidVersion) as error:
            raise PkiError(f"the certificate of issuer {self.id} cannot be read: {error}") from None

    @cached_property
    def tbs(self) -> TbsCertificate:
        """The parts of its TBSCertificate, as they are encoded."""
        return parse_tbs(self.certificate.tbs_certificate_bytes)

    @property
    def subject_der(self) -> bytes:
        """Its Name byte for byte, as it has to stand in the issuer field and as OCSP hashes it."""
        return self.tbs.subject_der

    @property
    def spki_der(self) -> bytes:
        return self.tbs.spki_der

    @cached_property
    def public_key(self) -> signing.PublicKey:
        key = self.certificate.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
            return key
        raise PkiError(f"the key of issuer {self.id} is a {type(key).__name__}; use EC, RSA or Ed25519")

    @cached_property
    def public_key_bits(self) -> bytes:
        """The content of the BIT STRING in its SPKI, which OCSP's issuerKeyHash is made of (RFC 6960 §4.1.1)."""
        return public_key_bits(self.spki_der)

    @cached_property
    def key_identifier(self) -> bytes:
        """Its subjectKeyIdentifier, which stands as authorityKeyIdentifier in all that it signs (RFC 5280 §4.2.1.1)."""
        try:
            return read_extensions(self.certificate).get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except x509.ExtensionNotFound:
            raise PkiError(f"the certificate of issuer {self.id} has no subject key identifier") from None

    @cached_property
    def path_length(self) -> int | None:
        """How many intermediate certificates may follow it (RFC 5280 §4.2.1.9); None for no limit."""
        constraints = self._basic_constraints
        return None if constraints is None else constraints.path_length

    @cached_property
    def may_sign_certificates(self) -> bool:
        """Whether a verifier would accept it as a CA: cA in its basic constraints and keyCertSign in its key usage."""
        try:
            key_usage = read_extensions(self.certificate).get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            return False  # RFC 5280 §4.2.1.3: "Conforming CAs MUST include this extension in certificates" of CAs
        constraints = self._basic_constraints
        return constraints is not None and constraints.ca and key_usage.key_cert_sign

    @cached_property
    def _basic_constraints(self) -> x509.BasicConstraints | None:
        try:
            return read_extensions(self.certificate).get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            return None

    @cached_property
    def not_before(self) -> datetime:
        return self.certificate.not_valid_before_utc

    @cached_property
    def not_after(self) -> datetime:
        """The last second in which it is valid (RFC 5280 §4.1.2.5 counts it in)."""
        return self.certificate.not_valid_after_utc

    @cached_property
    def signature_algorithm_der(self) -> bytes:
        """The AlgorithmIdentifier that its own key signs with, not the one its certificate was signed with."""
        return signing.signature_algorithm(self.public_key)
