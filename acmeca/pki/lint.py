"""Lints of end-entity certificates: is it what was asked for, and what RFC 5280 says it has to be?

Rule 1: a certificate is linted before its issuer's key is used; a finding stops the issuance.
Rule 2: what was asked for comes in as values (names, key, template), never out of the certificate that is judged.

CA certificates are judged by `lint_ca.py`, what both have in common by `lint_case.py`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from acmeca.pki import der, extensions
from acmeca.pki.errors import PkiError
from acmeca.pki.findings import Finding, Severity
from acmeca.pki.issuer import Issuer
from acmeca.pki.lint_case import COMMON_LINTS, Case, Lint, differs, key_usage_value, run_lints, take_apart, unreadable
from acmeca.pki.names import permitted_by
from acmeca.pki.template import SERVER_AUTH, Template

__all__ = ["Finding", "Severity", "expected_criticality", "lint_certificate"]

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME: Final = re.compile(rf"(?:\*\.)?(?:{_LABEL}\.)*{_LABEL}")
_MAX_DNS_NAME: Final = 253
_SECOND: Final = timedelta(seconds=1)
_EMPTY_NAME: Final = der.sequence()
_RSA_ENCRYPTION: Final = "1.2.840.113549.1.1.1"
_SIGNATURE_KEY_USAGE: Final = key_usage_value("digital_signature")
_RSA_KEY_USAGE: Final = key_usage_value("digital_signature", "key_encipherment")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafCase(Case):
    """An end-entity certificate and what was asked for. `issuer` is never None here; `signer` is it by its right type."""

    signer: Issuer
    template: Template
    dns_names: Sequence[str]
    ip_addresses: Sequence[str]
    not_before: datetime | None

    @property
    def names(self) -> tuple[x509.GeneralName, ...]:
        """The names of its subjectAltName, none where there is none."""
        extension = self.extensions.get(extensions.SUBJECT_ALT_NAME)
        if extension is None or not isinstance(extension.value, x509.SubjectAlternativeName):
            return ()
        return tuple(extension.value)


def lint_certificate(
    certificate: x509.Certificate,
    *,
    issuer: Issuer,
    template: Template,
    dns_names: Sequence[str],
    ip_addresses: Sequence[str],
    spki_der: bytes,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> tuple[Finding, ...]:
    """What is wrong with an end-entity certificate, or with its copy signed by a throwaway key: the signature is not looked at.

    `dns_names` and `ip_addresses` are the canonical names asked for, in their order, `spki_der` the key's SubjectPublicKeyInfo,
    `not_before` and `not_after` the times asked for, None where the template decides.
    """
    try:
        tbs, found = take_apart(certificate)
    except PkiError as error:
        return unreadable(error)
    case = LeafCase(
        certificate=certificate,
        tbs=tbs,
        extensions=found,
        issuer=issuer,
        issuer_der=issuer.subject_der,
        signature_algorithm_der=issuer.signature_algorithm_der,
        authority_key_identifier=issuer.key_identifier,
        spki_der=spki_der,
        lifetime=template.lifetime,
        expected_extensions=expected_criticality(template, has_subject=not template.subject(dns_names).is_empty),
        not_after=not_after,
        signer=issuer,
        template=template,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
        not_before=not_before,
    )
    return run_lints(case, COMMON_LINTS, LEAF_LINTS)


def expected_criticality(template: Template, *, has_subject: bool) -> dict[str, bool]:
    """Which extensions a certificate of this template has, and which of them are critical; with a subject or without."""
    expected = {
        extensions.BASIC_CONSTRAINTS: True,
        extensions.KEY_USAGE: True,
        extensions.EXTENDED_KEY_USAGE: False,
        extensions.SUBJECT_KEY_IDENTIFIER: False,
        extensions.AUTHORITY_KEY_IDENTIFIER: False,
        extensions.AUTHORITY_INFORMATION_ACCESS: False,
    }
    if template.ocsp_responder:
        # RFC 6960 §4.2.2.2.1: the responder's own revocation is not asked for, so there is nowhere to ask.
        expected[extensions.OCSP_NO_CHECK] = False
    else:
        # RFC 5280 §4.1.2.6: with an empty subject "the subjectAltName extension MUST be marked as critical"
        expected[extensions.SUBJECT_ALT_NAME] = not has_subject
        expected[extensions.CRL_DISTRIBUTION_POINTS] = False
    if template.must_staple:
        expected[extensions.TLS_FEATURE] = False
    return expected


def _subject(case: LeafCase) -> str | None:
    wanted = case.template.subject(case.dns_names)
    if wanted.is_empty and case.tbs.subject_der == _EMPTY_NAME:
        return None
    parts = (
        (NameOID.ORGANIZATION_NAME, wanted.organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, wanted.organizational_unit),
        (NameOID.COMMON_NAME, wanted.common_name),
    )
    expected = x509.Name([x509.NameAttribute(oid, text) for oid, text in parts if text is not None])
    # Byte for byte: two Names of the library are equal in whatever type of string they stand.
    if case.tbs.subject_der == expected.public_bytes():
        return None
    return f"the subject is {case.certificate.subject.rfc4514_string()!r}; expected {expected.rfc4514_string()!r}"


def _common_name(case: LeafCase) -> str | None:
    # Read from the certificate alone, whatever was asked for: clients that look at the common name take it for a name.
    if case.template.subject_common_name is not None or case.tbs.subject_der == _EMPTY_NAME:
        return None
    names = {name.value for name in case.names if isinstance(name, x509.DNSName)}
    for attribute in case.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        if attribute.value not in names:
            return "the common name is none of the host names"
    return None


def _not_before(case: LeafCase) -> str | None:
    got = case.certificate.not_valid_before_utc
    if case.not_before is None or got == case.not_before:
        return None
    return f"notBefore is {got}; expected {case.not_before}"


def _longest_lifetime(case: LeafCase) -> str | None:
    got = case.certificate.not_valid_after_utc - case.certificate.not_valid_before_utc + _SECOND
    return None if got <= case.template.longest else f"it lives for {got}; the longest is {case.template.longest}"


def _basic_constraints(case: LeafCase) -> str | None:
    if differs(case, extensions.BASIC_CONSTRAINTS, x509.BasicConstraints(ca=False, path_length=None)):
        return "the basic constraints make it a CA"
    return None


def _key_usage(case: LeafCase) -> str | None:
    # §4.2.1.3; NSS asks for keyEncipherment beside digitalSignature in a server's RSA certificate, ECDSA has no use for it.
    rsa = case.certificate.public_key_algorithm_oid.dotted_string == _RSA_ENCRYPTION
    expected = _RSA_KEY_USAGE if rsa and SERVER_AUTH in case.template.extended_key_usages else _SIGNATURE_KEY_USAGE
    return "the key usage is not that of its kind" if differs(case, extensions.KEY_USAGE, expected) else None


def _extended_key_usage(case: LeafCase) -> str | None:
    expected = x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, case.template.extended_key_usages))
    return (
        "the extended key usages are not the template's"
        if differs(case, extensions.EXTENDED_KEY_USAGE, expected)
        else None
    )


def _san_names(case: LeafCase) -> str | None:
    got: Counter[tuple[type[x509.GeneralName], str]] = Counter((type(name), str(name.value)) for name in case.names)
    wanted: Counter[tuple[type[x509.GeneralName], str]] = Counter((x509.DNSName, name) for name in case.dns_names)
    wanted.update((x509.IPAddress, address) for address in case.ip_addresses)
    if got == wanted:
        return None
    return f"the names are {sorted(value for _, value in got)}; expected {sorted(value for _, value in wanted)}"


def _san_duplicate(case: LeafCase) -> str | None:
    names = [(type(name), name.value) for name in case.names]
    return None if len(set(names)) == len(names) else "a name stands twice in the subject alternative name"


def _san_empty(case: LeafCase) -> str | None:
    # §4.2.1.6: "the sequence MUST contain at least one entry"
    if extensions.SUBJECT_ALT_NAME not in case.extensions or case.names:
        return None
    return "the subject alternative name is empty"


def _dns_name_syntax(case: LeafCase) -> str | None:
    for name in case.names:
        if isinstance(name, x509.DNSName) and not _is_host_name(name.value):
            return f"{name.value[:_MAX_DNS_NAME]!r} is no host name in lower case"
    return None


def _name_constraints(case: LeafCase) -> str | None:
    try:
        reasons = permitted_by(
            case.signer.certificate,
            case.dns_names,
            case.ip_addresses,
            has_subject=case.tbs.subject_der != _EMPTY_NAME,
        )
    except ValueError as error:
        return str(error)
    return "; ".join(reasons) or None


def _authority_information_access(case: LeafCase) -> str | None:
    wanted = [(AuthorityInformationAccessOID.CA_ISSUERS, case.signer.issuer_url)]
    if not case.template.ocsp_responder:
        wanted.insert(0, (AuthorityInformationAccessOID.OCSP, case.signer.ocsp_url))
    expected = x509.AuthorityInformationAccess(
        x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in wanted
    )
    if differs(case, extensions.AUTHORITY_INFORMATION_ACCESS, expected):
        return "the authority information access does not hold the issuer's URLs"
    return None


def _crl_distribution_points(case: LeafCase) -> str | None:
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(case.signer.crl_url)], None, None, None)
    if differs(case, extensions.CRL_DISTRIBUTION_POINTS, x509.CRLDistributionPoints([point])):
        return "the CRL distribution point is not the issuer's URL"
    return None


def _tls_feature(case: LeafCase) -> str | None:
    if differs(case, extensions.TLS_FEATURE, x509.TLSFeature([x509.TLSFeatureType.status_request])):
        return "the TLS features are not status_request alone"
    return None


def _url_scheme(case: LeafCase) -> str | None:
    # §4.2.1.13, §8: over https a verifier would need a verified certificate to verify a certificate.
    for url in (case.signer.ocsp_url, case.signer.crl_url, case.signer.issuer_url):
        if not url.startswith("http://"):
            return f"{url} is not plain http"
    return None


LEAF_LINTS: Final[tuple[Lint[LeafCase], ...]] = (
    Lint("e_subject", "RFC 5280 §4.1.2.6", _subject),
    Lint("e_common_name", "RFC 8555 §7.4", _common_name),
    Lint("e_not_before", "RFC 8555 §7.4", _not_before),
    Lint("e_longest_lifetime", "the template", _longest_lifetime),
    Lint("e_basic_constraints", "RFC 5280 §4.2.1.9", _basic_constraints),
    Lint("e_key_usage", "RFC 5280 §4.2.1.3", _key_usage),
    Lint("e_extended_key_usage", "RFC 5280 §4.2.1.12", _extended_key_usage),
    Lint("e_san_names", "RFC 8555 §7.4", _san_names),
    Lint("e_san_duplicate", "RFC 5280 §4.2.1.6", _san_duplicate),
    Lint("e_san_empty", "RFC 5280 §4.2.1.6", _san_empty),
    Lint("e_dns_name_syntax", "RFC 5280 §4.2.1.6", _dns_name_syntax),
    Lint("e_name_constraints", "RFC 5280 §4.2.1.10", _name_constraints),
    Lint("e_authority_information_access", "RFC 5280 §4.2.2.1", _authority_information_access),
    Lint("e_crl_distribution_points", "RFC 5280 §4.2.1.13", _crl_distribution_points),
    Lint("e_tls_feature", "RFC 7633 §4", _tls_feature),
    Lint("e_url_not_http", "RFC 5280 §4.2.1.13", _url_scheme),
)


def _is_host_name(name: str) -> bool:
    if len(name) > _MAX_DNS_NAME or _DNS_NAME.fullmatch(name) is None:
        return False
    return not name.rpartition(".")[2].isdigit()  # a last label of digits makes some clients read an address
