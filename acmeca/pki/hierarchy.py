"""The CA certificates above the leaves: a self-signed root, and intermediates below it.

Rule 1: a CA certificate is linted on a copy before its issuer's key is used, as a leaf's is.
Rule 2: an intermediate can be revoked and found: it names its issuer's CRL and certificate. A root can be neither, and
names nothing. There is no OCSP for intermediates: the root's key stays away from daily work.
"""

from datetime import datetime, timedelta
from typing import Final

from acmeca.pki import extensions, signing
from acmeca.pki.errors import LintError, PkiError
from acmeca.pki.extensions import KeyUsage
from acmeca.pki.issuer import Issuer
from acmeca.pki.lint_ca import CaRequest, lint_ca_certificate
from acmeca.pki.names import build_distinguished_name
from acmeca.pki.spki import encode_public_key
from acmeca.pki.tbs import build_tbs
from acmeca.pki.throwaway import sign_copy
from acmeca.pki.validity import last_second

_MAX_NAME: Final = 64  # characters; RFC 5280 appendix A.1, ub-common-name and ub-organization-name


def build_root(
    *,
    key: signing.PrivateKey,
    subject_common_name: str,
    organization: str,
    not_before: datetime,
    lifetime: timedelta,
    serial: int,
) -> bytes:
    """A self-signed root certificate, DER.

    `not_before` is in UTC, and its fraction of a second is cut off; `lifetime` counts its last second in, `serial` comes from
    `issuance.random_serial`. Raises `PkiError` for names or times that cannot be, `LintError` for findings.
    """
    request = CaRequest(
        organization=organization,
        subject_common_name=subject_common_name,
        public_key=key.public_key(),
        lifetime=lifetime,
        path_length=None,
    )
    return _build(issuer=None, key=key, request=request, not_before=not_before, serial=serial)


def build_intermediate(
    *,
    root: Issuer,
    root_key: signing.PrivateKey,
    public_key: signing.PublicKey,
    subject_common_name: str,
    organization: str,
    not_before: datetime,
    lifetime: timedelta,
    serial: int,
    path_length: int = 0,
) -> bytes:
    """An intermediate certificate signed by a root, or by another intermediate that allows it; DER.

    It names the root's `crl_url` and `issuer_url`. Times are as in `build_root`; the certificate ends with the root where
    its own lifetime would go on. Raises `PkiError` for names or times that cannot
    be, `SignatureMismatchError` when `root_key` is not the root's, `LintError` for findings.
    """
    request = CaRequest(
        organization=organization,
        subject_common_name=subject_common_name,
        public_key=public_key,
        lifetime=lifetime,
        path_length=path_length,
        crl_url=root.crl_url,
        issuer_url=root.issuer_url,
    )
    return _build(issuer=root, key=root_key, request=request, not_before=not_before, serial=serial)


def _build(
    *, issuer: Issuer | None, key: signing.PrivateKey, request: CaRequest, not_before: datetime, serial: int
) -> bytes:
    # Step 1: what the lints could not say better.
    for text in (request.organization, request.subject_common_name):
        if not (0 < len(text) <= _MAX_NAME and text.isprintable()):
            raise PkiError(f"{text!r} cannot name a CA; use 1 to {_MAX_NAME} printable characters")
    if not_before.utcoffset() != timedelta():
        raise PkiError(f"not_before is {not_before}; it has to be in UTC")
    not_before = not_before.replace(microsecond=0)

    # Step 2: build.
    signer = request.public_key if issuer is None else issuer.public_key
    spki_der = encode_public_key(request.public_key)
    identifier = extensions.key_identifier(spki_der)
    subject_der = build_distinguished_name(organization=request.organization, common_name=request.subject_common_name)
    tbs = build_tbs(
        serial=serial,
        signature_algorithm_der=signing.signature_algorithm(signer),
        issuer_der=subject_der if issuer is None else issuer.subject_der,
        not_before=not_before,
        not_after=last_second(not_before, request.lifetime, issuer),
        subject_der=subject_der,
        spki_der=spki_der,
        extensions=b"".join(
            (
                extensions.basic_constraints(ca=True, path_length=request.path_length),
                extensions.key_usage(KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN),
                extensions.subject_key_identifier(identifier),
                extensions.authority_key_identifier(identifier if issuer is None else issuer.key_identifier),
                _pointers(request),
            )
        ),
    )

    # Step 3: lint a copy.
    findings = lint_ca_certificate(sign_copy(tbs, signer), issuer=issuer, request=request)
    if findings:
        raise LintError(findings)

    # Step 4: sign, and verify by the key that everybody else will use.
    signature = signing.sign_with(key, tbs)
    signing.verify_with(signer, signature, tbs)
    return signing.certificate_from_tbs(tbs, signature)


def _pointers(request: CaRequest) -> bytes:
    """Where to find the issuer's certificate and CRL; nothing in a root."""
    access = (
        b""
        if request.issuer_url is None
        else extensions.authority_information_access(ocsp_url=None, issuer_url=request.issuer_url)
    )
    points = b"" if request.crl_url is None else extensions.crl_distribution_points(request.crl_url)
    return access + points
