"""Delegated OCSP responders: which certificate and key may answer for an issuer (RFC 6960 §4.2.2.2).

Rule 1: a `Responder` that exists is one that verifiers accept; the checks stand in its constructor. Only the time is left to
compare, and whoever signs compares it.
Rule 2: whoever holds such a key can call any revoked certificate good. So the certificate is short-lived, may do nothing
else, and is checked against its issuer before the key is used, even though we made it ourselves.
"""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Final, TypeVar

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from acmeca.pki import der, signing
from acmeca.pki.errors import PkiError, SignatureMismatchError
from acmeca.pki.extensions import read_extensions
from acmeca.pki.issuer import Issuer
from acmeca.pki.spki import public_key_bits
from acmeca.pki.tbs import parse_tbs

_E = TypeVar("_E", bound=x509.ExtensionType)
_PROOF: Final = b"acmeca: this key belongs to this responder certificate"  # no DER, so no answer or certificate
_KEY_USAGE_BITS: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


class ResponderError(PkiError):
    """A certificate or key that must not sign OCSP answers."""


@dataclass(frozen=True)  # no slots: the cached properties live in the instance
class Responder:
    """A delegated responder (§4.2.2.2): the issuer it answers for, its certificate from that issuer, and its key.

    Making one checks all of `check_responder` but the time, and that the key is the certificate's, and raises the same.
    The time is compared whenever an answer is signed.
    """

    issuer: Issuer
    certificate_der: bytes
    key: signing.PrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        _check_certificate(self.certificate, self.issuer)
        try:
            signing.verify_with(self.certificate.public_key(), signing.sign_with(self.key, _PROOF), _PROOF)
        except SignatureMismatchError:
            raise ResponderError("the responder's key is not the one in its certificate") from None

    @cached_property
    def certificate(self) -> x509.Certificate:
        try:
            return x509.load_der_x509_certificate(self.certificate_der)
        except ValueError as error:
            raise ResponderError(f"the responder's certificate cannot be read: {error}") from None

    @cached_property
    def not_before(self) -> datetime:
        return self.certificate.not_valid_before_utc

    @cached_property
    def not_after(self) -> datetime:
        """The last second in which it is valid, and so the last `next_update` it may sign."""
        return self.certificate.not_valid_after_utc

    @cached_property
    def responder_id_der(self) -> bytes:
        """ResponderID by key: SHA-1 of the public key's bits (§4.2.1: no other hash is defined for it)."""
        bits = public_key_bits(parse_tbs(self.certificate.tbs_certificate_bytes).spki_der)
        key_hash = hashlib.sha1(bits, usedforsecurity=False).digest()
        return der.encode(der.explicit(2), der.octet_string(key_hash))

    @cached_property
    def signature_algorithm_der(self) -> bytes:
        return signing.signature_algorithm(self.certificate.public_key())

    @cached_property
    def certificates_der(self) -> bytes:
        """The `certs` field: the responder's certificate alone; its issuer is who the verifier asks about."""
        return der.encode(der.explicit(0), der.sequence(self.certificate_der))


def check_responder(certificate: x509.Certificate, issuer: Issuer, now: datetime) -> None:
    """Raises `ResponderError` unless `certificate` may sign answers about certificates of `issuer` at `now`.

    A certificate that cannot be read, or whose key is of a kind that cannot sign here, raises another `PkiError`.

    1. It was issued by `issuer`: its issuer field, algorithm and signature (§4.2.2.2: "issued directly by the CA").
    2. Its extended key usage is OCSPSigning and nothing else (§4.2.2.2).
    3. Its key usage is digitalSignature and nothing else, and it is no CA.
    4. It carries id-pkix-ocsp-nocheck (§4.2.2.2.1), and neither a CRL nor an OCSP URL, so that nobody asks us about it.
    5. Its subject is not empty; Java refuses it otherwise.
    6. Its key is of a kind that signs here and is not the issuer's.
    7. `now` is within its validity, both ends included.
    """
    _check_certificate(certificate, issuer)
    # Step 7.
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ResponderError(
            f"the responder's certificate is valid from {certificate.not_valid_before_utc} "
            f"to {certificate.not_valid_after_utc}, not at {now}"
        )


def _check_certificate(certificate: x509.Certificate, issuer: Issuer) -> None:
    tbs = parse_tbs(certificate.tbs_certificate_bytes)
    # Step 1.
    if tbs.issuer_der != issuer.subject_der or tbs.signature_algorithm_der != issuer.signature_algorithm_der:
        raise ResponderError(f"the responder's certificate was not issued by {issuer.id}")
    try:
        signing.verify_with(issuer.public_key, certificate.signature, certificate.tbs_certificate_bytes)
    except SignatureMismatchError:
        raise ResponderError(f"the responder's certificate was not signed by {issuer.id}") from None
    # Steps 2 to 4.
    _check_extensions(read_extensions(certificate))
    # Step 5.
    if tbs.subject_der == der.sequence():
        raise ResponderError("the responder's certificate has an empty subject")
    # Step 6.
    signing.signature_algorithm(certificate.public_key())
    if tbs.spki_der == issuer.spki_der:
        raise ResponderError("the responder's key is the issuer's own")


def _check_extensions(extensions: x509.Extensions) -> None:
    # Step 2.
    extended = _find(extensions, x509.ExtendedKeyUsage)
    if extended is None or list(extended) != [ExtendedKeyUsageOID.OCSP_SIGNING]:
        raise ResponderError("the responder's certificate needs the extended key usage OCSPSigning, and no other")
    # Step 3.
    usage = _find(extensions, x509.KeyUsage)
    if usage is None or [bit for bit in _KEY_USAGE_BITS if getattr(usage, bit)] != ["digital_signature"]:
        raise ResponderError("the responder's certificate needs the key usage digitalSignature, and no other")
    constraints = _find(extensions, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise ResponderError("the responder's certificate is a CA's")
    # Step 4.
    if _find(extensions, x509.OCSPNoCheck) is None:
        raise ResponderError("the responder's certificate lacks id-pkix-ocsp-nocheck")
    access = _find(extensions, x509.AuthorityInformationAccess)
    asks_us = access is not None and any(each.access_method == AuthorityInformationAccessOID.OCSP for each in access)
    if asks_us or _find(extensions, x509.CRLDistributionPoints) is not None:
        raise ResponderError("the responder's certificate names a place to ask for its own status")


def _find(extensions: x509.Extensions, kind: type[_E]) -> _E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
