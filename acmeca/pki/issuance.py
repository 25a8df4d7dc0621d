"""Issuing an end-entity certificate: prepare, record, sign once.

Rule 1: only a `Prepared` can be signed, and only `prepare` and `restore` make one, after its lints found nothing.
Rule 2: a `Prepared` is redeemed once. Its caller records `serial` and `tbs` durably between preparing and signing, so
that no signature of an issuer exists which the store does not know of.
Rule 3: what is signed is the bytes that were linted, and what is returned holds these bytes.

The bytes are put together by `tbs.py` and `extensions.py`; a copy signed by a throwaway key is read back by the library's
parser and compared with what was asked for (`lint.py`), so the encoder is judged by what it did not write.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, Never

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from acmeca.pki import extensions, signing
from acmeca.pki.errors import IssuanceError, LintError, PkiError
from acmeca.pki.issuer import Issuer
from acmeca.pki.lint import lint_certificate
from acmeca.pki.lint_case import unreadable
from acmeca.pki.names import Subject, permitted_by
from acmeca.pki.spki import encode_public_key, parse_public_key
from acmeca.pki.tbs import build_tbs, parse_tbs
from acmeca.pki.template import SERVER_AUTH, Template
from acmeca.pki.throwaway import sign_copy
from acmeca.pki.validity import choose_validity

__all__ = ["Prepared", "Template", "prepare", "random_serial", "restore", "sign"]

_MIN_ENTROPY_OCTETS: Final = 16
_MAX_ENTROPY_OCTETS: Final = 19  # with the octet in front, 20: RFC 5280 §4.1.2.2

_MAKER: Final = object()  # only this module holds it; the way into `Prepared`


@dataclass(frozen=True, slots=True)
class _Request:
    """What was asked for, as far as it can be compared with a certificate. A time is None where the template decides."""

    issuer: Issuer
    template: Template
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    spki_der: bytes
    not_before: datetime | None
    not_after: datetime | None

    @property
    def subject(self) -> Subject:
        return self.template.subject(self.dns_names)


class Prepared:
    """A certificate that has passed its lints and may be signed, once.

    It cannot be copied or pickled, because a copy could be redeemed a second time; what was recorded of it is brought
    back by `restore`.
    """

    __slots__ = ("_copy", "_request", "_tbs", "_ticket")

    def __init__(self, request: _Request, tbs: bytes, copy: x509.Certificate, *, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("a Prepared is made by prepare() or restore()")
        self._request = request
        self._tbs = tbs
        self._copy = copy  # signed by a throwaway key, and never handed out
        self._ticket = [tbs]

    @property
    def tbs(self) -> bytes:
        """The DER TBSCertificate that will be signed, byte for byte."""
        return self._tbs

    @property
    def serial(self) -> int:
        return self._copy.serial_number

    @property
    def not_before(self) -> datetime:
        return self._copy.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """The last second in which the certificate will be valid."""
        return self._copy.not_valid_after_utc

    @property
    def issuer(self) -> Issuer:
        return self._request.issuer

    @property
    def template(self) -> Template:
        return self._request.template

    @property
    def dns_names(self) -> tuple[str, ...]:
        return self._request.dns_names

    @property
    def ip_addresses(self) -> tuple[str, ...]:
        return self._request.ip_addresses

    @property
    def spki_der(self) -> bytes:
        return self._request.spki_der

    def _redeem(self) -> bytes:
        """The bytes to sign, for the first caller only: `list.pop` is atomic, also where several threads sign."""
        try:
            return self._ticket.pop()
        except IndexError:
            raise IssuanceError(
                f"the certificate {self.serial:x} has been redeemed before; each is signed once"
            ) from None

    def __reduce__(self) -> Never:
        raise TypeError("a Prepared cannot be copied")

    def __repr__(self) -> str:
        return f"<Prepared {self.serial:x} by {self.issuer.id}>"


def random_serial(entropy: bytes) -> int:
    """A serial number of 16 to 19 random octets, all of them kept.

    An octet 01 in front makes the number positive, never zero and of one length for one length of entropy
    (RFC 5280 §4.1.2.2). Raises `PkiError` for another length.
    """
    if not _MIN_ENTROPY_OCTETS <= len(entropy) <= _MAX_ENTROPY_OCTETS:
        raise PkiError(f"a serial is made of 16 to 19 random octets, not of {len(entropy)}")
    return int.from_bytes(b"\x01" + entropy)


def prepare(
    *,
    issuer: Issuer,
    template: Template,
    dns_names: tuple[str, ...],
    ip_addresses: tuple[str, ...],
    public_key: signing.PublicKey,
    serial: int,
    now: datetime,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Prepared:
    """Build the bytes of a certificate and lint them.

    1. The names are text of their kind, at least one (none for an OCSP responder), within the issuer's name constraints.
    2. The public key is not the issuer's. 3. The validity is the template's, or what is asked for instead. 4. Build. 5. Lint a
    signed copy.

    `dns_names` and `ip_addresses` are canonical, in the order in which they will stand; `now`, `not_before` and `not_after` are
    in UTC, and the fraction of a second of `now` is cut off. The caller has asked `policy` about names and key, and has a serial
    never used before (`random_serial`); it records `serial` and `tbs` before it calls `sign`. Raises `IssuanceError` for what was
    asked (`ValidityError` for its times), `LintError` for what was built.
    """
    spki_der = encode_public_key(public_key)
    request = _Request(issuer, template, dns_names, ip_addresses, spki_der, not_before, not_after)
    # Steps 1 and 2
    _check_request(request)
    # Step 3
    validity = choose_validity(template, issuer, now=now, not_before=not_before, not_after=not_after)
    if serial <= 0:  # a lint says so too, but the library's parser is about to refuse such certificates altogether
        raise IssuanceError(f"the serial is {serial}; it has to be positive")
    # Step 4
    tbs = build_tbs(
        serial=serial,
        signature_algorithm_der=issuer.signature_algorithm_der,
        issuer_der=issuer.subject_der,
        not_before=validity.not_before,
        not_after=validity.not_after,
        subject_der=request.subject.der,
        spki_der=spki_der,
        extensions=b"".join(
            (
                _constant_extensions(issuer, template, rsa_key=isinstance(public_key, rsa.RSAPublicKey)),
                extensions.subject_key_identifier(extensions.key_identifier(spki_der)),
                b""
                if template.ocsp_responder
                else extensions.subject_alt_name(
                    dns_names=dns_names,
                    ip_addresses=ip_addresses,
                    critical=request.subject.is_empty,  # RFC 5280 §4.1.2.6
                ),
            )
        ),
    )
    # Step 5
    return _lint(request, tbs)


def restore(
    *,
    issuer: Issuer,
    template: Template,
    tbs: bytes,
    dns_names: tuple[str, ...],
    ip_addresses: tuple[str, ...],
    spki_sha256: bytes | None = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Prepared:
    """Bring back what was recorded before a crash, so that it can be signed after all.

    The bytes are linted again, against the names that were ordered (in their order where a common name is taken from them, else
    in any), the template that they were made from, the SHA-256 of the key's SubjectPublicKeyInfo and the notBefore where the
    store kept these beside them, and the notAfter where one was asked for. The caller makes sure that no certificate of this
    serial has been signed, and that the time of asking still fits.

    Raises `LintError` for bytes that are not what was asked for, and `IssuanceError` for what this issuer would not certify
    today.
    """
    try:
        spki_der = parse_tbs(tbs).spki_der
        parse_public_key(spki_der)
    except PkiError as error:
        raise LintError(unreadable(error)) from None
    request = _Request(issuer, template, dns_names, ip_addresses, spki_der, not_before, not_after)
    _check_request(request)
    if spki_sha256 is not None and hashlib.sha256(spki_der).digest() != spki_sha256:
        raise IssuanceError("the recorded certificate holds another key than was recorded with it")
    return _lint(request, tbs)


def sign(prepared: Prepared, key: signing.PrivateKey) -> bytes:
    """Sign what was prepared; the DER of the certificate.

    1. Redeem: a second call raises `IssuanceError`, also when the first one failed (`restore` makes another). 2. Sign.
    3. Verify by the issuer's public key, which finds a wrong key, a broken token and a flipped bit. 4. Assemble, parse, and
    compare what is inside with what was recorded.

    Raises `SignatureMismatchError` when the key is not the issuer's; what a token raises passes through.
    """
    # Step 1
    tbs = prepared._redeem()  # noqa: SLF001  (its other half)
    # Step 2
    signature = signing.sign_with(key, tbs)
    # Step 3
    signing.verify_with(prepared.issuer.public_key, signature, tbs)
    # Step 4
    certificate_der = signing.certificate_from_tbs(tbs, signature)
    if x509.load_der_x509_certificate(certificate_der).tbs_certificate_bytes != tbs:
        raise IssuanceError(f"the certificate {prepared.serial:x} does not hold the bytes that were recorded")
    return certificate_der


def _check_request(request: _Request) -> None:
    """Steps 1 and 2 of `prepare`."""
    issuer, template = request.issuer, request.template
    names = (*request.dns_names, *request.ip_addresses)
    if template.ocsp_responder and names:
        raise IssuanceError("the certificate of an OCSP responder has no names")
    if not template.ocsp_responder and not names:
        raise IssuanceError("a certificate needs at least one name")
    for name in request.dns_names:
        if not name.isascii():
            raise IssuanceError(f"the name {name!r} is not in the form of A-labels")
    for address in request.ip_addresses:
        _check_address(address)
    reasons = permitted_by(
        issuer.certificate,
        request.dns_names,
        request.ip_addresses,
        has_subject=not request.subject.is_empty,
    )
    if reasons:
        raise IssuanceError("; ".join(reasons))
    if request.spki_der == issuer.spki_der:
        raise IssuanceError(
            f"the public key is that of the issuer {issuer.id}; an issuer's key is never certified by it"
        )


def _check_address(text: str) -> None:
    try:
        canonical = str(ipaddress.ip_address(text))
    except ValueError:
        raise IssuanceError(f"{text!r} is no IP address") from None
    if canonical != text:
        raise IssuanceError(f"the address {text} is written {canonical}")


@lru_cache(maxsize=256)
def _constant_extensions(issuer: Issuer, template: Template, *, rsa_key: bool) -> bytes:
    """The extensions that are the same in every certificate of an issuer, a template and a type of key."""
    usage = [extensions.KeyUsage.DIGITAL_SIGNATURE]
    if rsa_key and SERVER_AUTH in template.extended_key_usages:
        usage.append(extensions.KeyUsage.KEY_ENCIPHERMENT)  # NSS asks for it in a server's RSA certificate
    parts = [
        extensions.basic_constraints(ca=False),
        extensions.key_usage(*usage),
        extensions.extended_key_usage(template.extended_key_usages),
        extensions.authority_key_identifier(issuer.key_identifier),
        extensions.authority_information_access(
            ocsp_url=None if template.ocsp_responder else issuer.ocsp_url, issuer_url=issuer.issuer_url
        ),
        extensions.ocsp_no_check() if template.ocsp_responder else extensions.crl_distribution_points(issuer.crl_url),
        extensions.tls_feature() if template.must_staple else b"",
    ]
    return b"".join(parts)


def _lint(request: _Request, tbs: bytes) -> Prepared:
    try:
        copy = sign_copy(tbs, request.issuer.public_key)
    except PkiError as error:
        raise LintError(unreadable(error)) from None
    findings = lint_certificate(
        copy,
        issuer=request.issuer,
        template=request.template,
        dns_names=request.dns_names,
        ip_addresses=request.ip_addresses,
        spki_der=request.spki_der,
        not_before=request.not_before,
        not_after=request.not_after,
    )
    if findings:
        raise LintError(findings)
    return Prepared(request, tbs, copy, maker=_MAKER)
