"""Lints of CA certificates: our roots and intermediates.

Rule 1: a CA certificate stays for years in stores that nobody can reach, so it holds what RFC 5280 asks of a CA and
nothing more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from acmeca.pki import extensions, signing, spki
from acmeca.pki.errors import PkiError
from acmeca.pki.findings import Finding
from acmeca.pki.issuer import Issuer
from acmeca.pki.lint_case import COMMON_LINTS, Case, Lint, differs, key_usage_value, run_lints, take_apart, unreadable

_ROOT_EXTENSIONS: Final[Mapping[str, bool]] = MappingProxyType(
    {
        extensions.BASIC_CONSTRAINTS: True,
        extensions.KEY_USAGE: True,
        extensions.SUBJECT_KEY_IDENTIFIER: False,
        extensions.AUTHORITY_KEY_IDENTIFIER: False,
    }
)
_INTERMEDIATE_EXTENSIONS: Final[Mapping[str, bool]] = MappingProxyType(
    {
        **_ROOT_EXTENSIONS,
        extensions.AUTHORITY_INFORMATION_ACCESS: False,
        extensions.CRL_DISTRIBUTION_POINTS: False,
    }
)
_KEY_USAGE: Final = key_usage_value("key_cert_sign", "crl_sign")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaRequest:
    """What a CA certificate is asked to be.

    `lifetime` counts both ends in. `crl_url` and `issuer_url` are the issuer's own CRL and certificate, and None in a
    root, which nobody revokes. `path_length` is how many intermediates may follow, None for no limit.
    """

    organization: str
    subject_common_name: str
    public_key: signing.PublicKey
    lifetime: timedelta
    path_length: int | None
    crl_url: str | None = None
    issuer_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaCase(Case):
    """A CA certificate and what was asked for."""

    request: CaRequest


def lint_ca_certificate(
    certificate: x509.Certificate, *, issuer: Issuer | None, request: CaRequest
) -> tuple[Finding, ...]:
    """What is wrong with a CA certificate, or with its copy signed by a throwaway key: the signature is not looked at.

    `issuer` is None for a self-signed root.
    """
    spki_der = spki.encode_public_key(request.public_key)
    try:
        tbs, found = take_apart(certificate)
    except PkiError as error:
        return unreadable(error)
    case = CaCase(
        certificate=certificate,
        tbs=tbs,
        extensions=found,
        issuer=issuer,
        # RFC 5280 §3.2: "Self-issued certificates are CA certificates in which the issuer and subject are the same entity."
        issuer_der=tbs.subject_der if issuer is None else issuer.subject_der,
        signature_algorithm_der=signing.signature_algorithm(
            request.public_key if issuer is None else issuer.public_key
        ),
        authority_key_identifier=extensions.key_identifier(spki_der) if issuer is None else issuer.key_identifier,
        spki_der=spki_der,
        lifetime=request.lifetime,
        expected_extensions=_ROOT_EXTENSIONS if issuer is None else _INTERMEDIATE_EXTENSIONS,
        request=request,
    )
    return run_lints(case, COMMON_LINTS, CA_LINTS)


def _subject(case: CaCase) -> str | None:
    # RFC 5280 §4.1.2.6: a CA's subject "MUST be populated with a non-empty distinguished name"; O stands before CN, or
    # dehydrated cannot match a preferred chain.
    expected = [
        (NameOID.ORGANIZATION_NAME, case.request.organization),
        (NameOID.COMMON_NAME, case.request.subject_common_name),
    ]
    if [(attribute.oid, attribute.value) for attribute in case.certificate.subject] == expected:
        return None
    return f"the subject is {case.certificate.subject.rfc4514_string()!r}; expected O and then CN, as asked for"


def _subject_of_issuer(case: CaCase) -> str | None:
    # Path building by name would take it for its own issuer.
    if case.issuer is None or case.tbs.subject_der != case.issuer.subject_der:
        return None
    return "an intermediate has the subject of its issuer"


def _basic_constraints(case: CaCase) -> str | None:
    expected = x509.BasicConstraints(ca=True, path_length=case.request.path_length)
    if differs(case, extensions.BASIC_CONSTRAINTS, expected):
        return f"the basic constraints are not those of a CA with the path length {case.request.path_length}"
    return None


def _path_length(case: CaCase) -> str | None:
    # RFC 5280 §6.1.4 (l), (m): each intermediate uses up one of what its issuer allows.
    if case.issuer is None or case.issuer.path_length is None:
        return None
    if case.request.path_length is not None and case.request.path_length < case.issuer.path_length:
        return None
    return f"the path length is {case.request.path_length}, and the issuer's is {case.issuer.path_length}"


def _key_usage(case: CaCase) -> str | None:
    # No digitalSignature: a CA's key signs certificates and CRLs; OCSP answers are signed by a delegated key.
    if differs(case, extensions.KEY_USAGE, _KEY_USAGE):
        return "the key usage is not keyCertSign and cRLSign alone"
    return None


def _authority_information_access(case: CaCase) -> str | None:
    if case.request.issuer_url is None:
        return None
    location = x509.UniformResourceIdentifier(case.request.issuer_url)
    access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, location)
    if differs(case, extensions.AUTHORITY_INFORMATION_ACCESS, x509.AuthorityInformationAccess([access])):
        return "the authority information access is not caIssuers with the issuer's URL alone"
    return None


def _crl_distribution_points(case: CaCase) -> str | None:
    if case.request.crl_url is None:
        return None
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(case.request.crl_url)], None, None, None)
    if differs(case, extensions.CRL_DISTRIBUTION_POINTS, x509.CRLDistributionPoints([point])):
        return "the CRL distribution point is not the issuer's URL"
    return None


def _url_scheme(case: CaCase) -> str | None:
    for url in (case.request.crl_url, case.request.issuer_url):
        if url is not None and not url.startswith("http://"):
            return f"{url} is not plain http"
    return None


CA_LINTS: Final[tuple[Lint[CaCase], ...]] = (
    Lint("e_subject", "RFC 5280 §4.1.2.6", _subject),
    Lint("e_subject_of_issuer", "RFC 5280 §6.1", _subject_of_issuer),
    Lint("e_basic_constraints", "RFC 5280 §4.2.1.9", _basic_constraints),
    Lint("e_path_length", "RFC 5280 §4.2.1.9", _path_length),
    Lint("e_key_usage", "RFC 5280 §4.2.1.3", _key_usage),
    Lint("e_authority_information_access", "RFC 5280 §4.2.2.1", _authority_information_access),
    Lint("e_crl_distribution_points", "RFC 5280 §4.2.1.13", _crl_distribution_points),
    Lint("e_url_not_http", "RFC 5280 §4.2.1.13", _url_scheme),
)
