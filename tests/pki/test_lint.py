"""`pki/lint.py` and `lint_case.py`: each lint finds what it is there for, and nothing else finds it first."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.pki import der, extensions, signing
from acmeca.pki.extensions import KeyUsage
from acmeca.pki.findings import Finding, Severity
from acmeca.pki.issuer import Issuer
from acmeca.pki.lint import LEAF_LINTS, lint_certificate
from acmeca.pki.lint_case import COMMON_LINTS
from acmeca.pki.names import build_distinguished_name
from acmeca.pki.template import CLIENT_AUTH, SERVER_AUTH, Template
from tests.support import csrs
from tests.support.authorities import (
    ADDRESSES,
    CLIENT,
    FULL,
    NAMED,
    NAMES,
    NOW,
    RESPONDER,
    SERVER,
    Forgery,
    constrained,
    intermediate,
    issue,
    root,
)
from tests.support.csrs import KEY_KINDS, shared_key


def lint(
    certificate: x509.Certificate,
    *,
    issuer: Issuer | None = None,
    template: Template = SERVER,
    dns_names: tuple[str, ...] = NAMES,
    ip_addresses: tuple[str, ...] = ADDRESSES,
    spki_der: bytes | None = None,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> tuple[Finding, ...]:
    return lint_certificate(
        certificate,
        issuer=intermediate().issuer if issuer is None else issuer,
        template=template,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
        spki_der=csrs.spki(shared_key()) if spki_der is None else spki_der,
        not_before=not_before,
        not_after=not_after,
    )


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


def leaf(template: Template = SERVER) -> bytes:
    if template.ocsp_responder:
        return issue(intermediate(), template=template, dns_names=(), ip_addresses=())
    return issue(intermediate(), template=template)


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("issuer_kind", KEY_KINDS)
def test_a_good_certificate_has_no_findings(kind: str, issuer_kind: str) -> None:
    authority = intermediate(issuer_kind)
    certificate = x509.load_der_x509_certificate(issue(authority, kind=kind))
    assert lint(certificate, issuer=authority.issuer, spki_der=csrs.spki(shared_key(kind))) == ()


@pytest.mark.parametrize("template", [NAMED, CLIENT, FULL, RESPONDER])
def test_other_templates_have_no_findings(template: Template) -> None:
    names, addresses = ((), ()) if template.ocsp_responder else (NAMES, ADDRESSES)
    certificate = x509.load_der_x509_certificate(leaf(template))
    assert lint(certificate, template=template, dns_names=names, ip_addresses=addresses) == ()


def test_a_forgery_without_changes_has_no_findings() -> None:
    """Otherwise the tests below would prove nothing."""
    for template in (SERVER, NAMED, CLIENT, FULL):
        assert lint(Forgery.of(leaf(template)).certificate(), template=template) == ()
    assert lint(Forgery.of(leaf(RESPONDER)).certificate(), template=RESPONDER, dns_names=(), ip_addresses=()) == ()


# --- one certificate for each violation ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Violation:
    """A change to a good certificate, and the codes of all that a lint says to it."""

    what: str
    codes: tuple[str, ...]
    change: Callable[[Forgery], None]
    template: Template = SERVER

    def __str__(self) -> str:
        return self.what


def san(*names: bytes) -> Callable[[Forgery], None]:
    return lambda forgery: forgery.put(extensions.SUBJECT_ALT_NAME, der.sequence(*names))


def put(dotted: str, extension: bytes) -> Callable[[Forgery], None]:
    def change(forgery: Forgery) -> None:
        forgery.extensions[dotted] = extension

    return change


def drop(dotted: str) -> Callable[[Forgery], None]:
    def change(forgery: Forgery) -> None:
        del forgery.extensions[dotted]

    return change


def flip(dotted: str) -> Callable[[Forgery], None]:
    return lambda forgery: forgery.flip_critical(dotted)


def fields(**changes: bytes) -> Callable[[Forgery], None]:
    def change(forgery: Forgery) -> None:
        for name, encoding in changes.items():
            assert hasattr(forgery, name)
            setattr(forgery, name, encoding)

    return change


def swap_key(forgery: Forgery, spki_der: bytes) -> None:
    forgery.spki = spki_der
    identifier = extensions.key_identifier(spki_der)
    forgery.extensions[extensions.SUBJECT_KEY_IDENTIFIER] = extensions.subject_key_identifier(identifier)


GOOD_NAMES = (
    csrs.dns_name(b"a.corp.internal"),
    csrs.dns_name(b"*.b.corp.internal"),
    csrs.general_name(0x87, bytes((10, 0, 0, 1))),
    csrs.general_name(0x87, bytes.fromhex("20010db8" + "00" * 11 + "01")),
)
NOT_BEFORE = NOW - SERVER.backdate
NOT_AFTER = NOT_BEFORE + SERVER.lifetime - timedelta(seconds=1)
SUBJECT = {"organization": FULL.organization, "organizational_unit": FULL.organizational_unit, "common_name": NAMES[0]}
ISSUER = "http://pki.test/issuer/issuer.der"
OCSP = "http://pki.test/ocsp/issuer"
EVIL = "http://evil.test/"
USAGE = KeyUsage.DIGITAL_SIGNATURE
IDENTIFIER = bytes(20)
KEY = csrs.spki(shared_key())
UNFILLED = KEY[:-1].replace(b"\x03\x42\x00", b"\x03\x42\x01") + bytes((KEY[-1] & 0xFE,))  # the last bit is unused

VIOLATIONS = [
    Violation("serial zero", ("e_serial_bounds", "e_serial_entropy"), fields(serial=der.integer(0))),
    Violation("negative serial", ("e_serial_bounds",), fields(serial=der.integer(-(2**130)))),
    Violation("serial of 21 octets", ("e_serial_bounds",), fields(serial=der.integer(2**160))),
    Violation("a counter as a serial", ("e_serial_entropy",), fields(serial=der.integer(2**64))),
    Violation(
        "another algorithm inside and outside",
        ("e_signature_algorithm",),
        fields(algorithm=signing.signature_algorithm(shared_key("P-384").public_key())),
    ),
    Violation(
        "another algorithm outside",
        ("e_signature_algorithm",),
        fields(outer_algorithm=signing.signature_algorithm(shared_key("P-384").public_key())),
    ),
    Violation("another issuer", ("e_issuer_name",), fields(issuer=build_distinguished_name(common_name="Other"))),
    Violation("no issuer", ("e_issuer_name",), fields(issuer=der.sequence())),
    Violation(
        "a year of 1949",
        ("e_time_encoding", "e_validity_length", "e_validity_beyond_issuer", "e_longest_lifetime"),
        fields(not_before=der.encode(0x18, b"19490101000000Z")),
    ),
    Violation(
        "valid from before the issuer",
        ("e_validity_length", "e_validity_beyond_issuer", "e_longest_lifetime"),
        fields(not_before=der.time(intermediate().issuer.not_before - timedelta(seconds=1))),
    ),
    Violation(
        "valid after the issuer",
        ("e_validity_length", "e_validity_beyond_issuer", "e_longest_lifetime"),
        fields(not_after=der.time(intermediate().issuer.not_after + timedelta(seconds=1))),
    ),
    Violation(
        "a second too long",
        ("e_validity_length", "e_longest_lifetime"),
        fields(not_after=der.time(NOT_AFTER + timedelta(seconds=1))),
    ),
    Violation(
        "as long as could have been asked for",
        ("e_validity_length",),
        fields(not_after=der.time(NOT_BEFORE + FULL.longest - timedelta(seconds=1))),
        FULL,
    ),
    Violation(
        "a second too short", ("e_validity_length",), fields(not_after=der.time(NOT_AFTER - timedelta(seconds=1)))
    ),
    Violation(
        "the end before the beginning",
        ("e_validity_order", "e_validity_length"),
        fields(not_after=der.time(NOT_BEFORE - timedelta(seconds=1))),
    ),
    Violation("another key", ("e_public_key",), lambda forgery: swap_key(forgery, csrs.spki(shared_key("P-256", 1)))),
    Violation(
        "the issuer's key",
        ("e_public_key", "e_public_key_of_issuer"),
        lambda forgery: swap_key(forgery, intermediate().issuer.spki_der),
    ),
    Violation(
        "a key that fills no octets",
        ("e_public_key", "e_subject_key_identifier"),
        fields(spki=UNFILLED),
    ),
    Violation("an issuer unique identifier", ("e_unique_identifier",), fields(unique_identifiers=b"\x81\x02\x00\x01")),
    Violation("a subject unique identifier", ("e_unique_identifier",), fields(unique_identifiers=b"\x82\x02\x00\x01")),
    Violation(
        "an extension nobody asked for",
        ("e_extension_unexpected",),
        put("1.2.3.4", extensions.encode_extension("1.2.3.4", b"\x05\x00")),
    ),
    Violation("an OCSP responder's extension", ("e_extension_unexpected",), put("nocheck", extensions.ocsp_no_check())),
    Violation(
        "an extension twice",
        ("e_unreadable",),
        lambda forgery: forgery.extensions.update(again=forgery.extensions[extensions.KEY_USAGE]),
    ),
    Violation(
        "an extension that is no DER", ("e_unreadable",), lambda forgery: forgery.put(extensions.KEY_USAGE, b"junk")
    ),
    *(
        Violation(f"without {dotted}", ("e_extension_missing",), drop(dotted))
        for dotted in (
            extensions.BASIC_CONSTRAINTS,
            extensions.KEY_USAGE,
            extensions.EXTENDED_KEY_USAGE,
            extensions.SUBJECT_KEY_IDENTIFIER,
            extensions.AUTHORITY_KEY_IDENTIFIER,
            extensions.AUTHORITY_INFORMATION_ACCESS,
            extensions.CRL_DISTRIBUTION_POINTS,
        )
    ),
    Violation("without a name", ("e_extension_missing", "e_san_names"), drop(extensions.SUBJECT_ALT_NAME)),
    *(
        Violation(f"{dotted} of the other criticality", ("e_extension_criticality",), flip(dotted))
        for dotted in (
            extensions.BASIC_CONSTRAINTS,
            extensions.KEY_USAGE,
            extensions.EXTENDED_KEY_USAGE,
            extensions.SUBJECT_KEY_IDENTIFIER,
            extensions.AUTHORITY_KEY_IDENTIFIER,
            extensions.AUTHORITY_INFORMATION_ACCESS,
            extensions.CRL_DISTRIBUTION_POINTS,
            extensions.SUBJECT_ALT_NAME,
        )
    ),
    Violation(
        "critical names beside a subject", ("e_extension_criticality",), flip(extensions.SUBJECT_ALT_NAME), NAMED
    ),
    Violation(
        "a padded key usage",
        ("e_key_usage_encoding",),
        lambda forgery: forgery.put(extensions.KEY_USAGE, b"\x03\x02\x00\x80"),
    ),
    Violation(
        "another subject key identifier",
        ("e_subject_key_identifier",),
        put(extensions.SUBJECT_KEY_IDENTIFIER, extensions.subject_key_identifier(IDENTIFIER)),
    ),
    Violation(
        "another authority key identifier",
        ("e_authority_key_identifier",),
        put(extensions.AUTHORITY_KEY_IDENTIFIER, extensions.authority_key_identifier(IDENTIFIER)),
    ),
    Violation(
        "an authority key identifier with issuer and serial",
        ("e_authority_key_identifier",),
        lambda forgery: forgery.put(
            extensions.AUTHORITY_KEY_IDENTIFIER,
            der.sequence(
                der.encode(0x80, intermediate().issuer.key_identifier),
                der.encode(0xA1, der.encode(0xA4, root().issuer.subject_der)),
                der.encode(0x82, b"\x01"),
            ),
        ),
    ),
    Violation(
        "a subject",
        ("e_subject",),
        fields(subject=build_distinguished_name(common_name="a.corp.internal")),
    ),
    Violation(
        "a common name that nobody asked for",
        ("e_subject", "e_common_name"),
        fields(subject=build_distinguished_name(common_name="evil.test")),
    ),
    *(
        Violation(f"a subject without {part}", ("e_subject",), fields(subject=without), FULL)
        for part in SUBJECT
        for without in [build_distinguished_name(**(SUBJECT | {part: None}))]
    ),
    *(
        Violation(f"another {part}", codes, fields(subject=other), FULL)
        for part, codes in {
            "organization": ("e_subject",),
            "organizational_unit": ("e_subject",),
            "common_name": ("e_subject", "e_common_name"),
        }.items()
        for other in [build_distinguished_name(**(SUBJECT | {part: "evil"}))]
    ),
    Violation(
        "another of the names as common name",
        ("e_subject",),
        fields(subject=build_distinguished_name(**(SUBJECT | {"common_name": NAMES[1]}))),
        FULL,
    ),
    Violation(
        "a subject of another type of string",
        ("e_subject",),
        fields(
            subject=x509.Name(
                [x509.NameAttribute(NameOID.COMMON_NAME, "a.corp.internal", x509.name._ASN1Type.PrintableString)]
            ).public_bytes()
        ),
        NAMED,
    ),
    Violation("no subject, where there is one", ("e_subject",), fields(subject=der.sequence()), FULL),
    Violation("no subject", ("e_subject",), fields(subject=der.sequence()), NAMED),
    Violation(
        "another common name",
        ("e_subject",),
        fields(subject=build_distinguished_name(common_name="b.corp.internal")),
        NAMED,
    ),
    Violation(
        "a CA", ("e_basic_constraints",), put(extensions.BASIC_CONSTRAINTS, extensions.basic_constraints(ca=True))
    ),
    Violation(
        "keyCertSign",
        ("e_key_usage",),
        put(extensions.KEY_USAGE, extensions.key_usage(USAGE, KeyUsage.KEY_CERT_SIGN)),
    ),
    Violation(
        "keyEncipherment for an EC key",
        ("e_key_usage",),
        put(extensions.KEY_USAGE, extensions.key_usage(USAGE, KeyUsage.KEY_ENCIPHERMENT)),
    ),
    Violation(
        "an extended key usage more",
        ("e_extended_key_usage",),
        put(
            extensions.EXTENDED_KEY_USAGE,
            extensions.extended_key_usage((*SERVER.extended_key_usages, "1.3.6.1.5.5.7.3.9")),
        ),
    ),
    Violation(
        "an extended key usage less",
        ("e_extended_key_usage",),
        put(extensions.EXTENDED_KEY_USAGE, extensions.extended_key_usage(SERVER.extended_key_usages[:1])),
    ),
    Violation("a name less", ("e_san_names",), san(*GOOD_NAMES[1:])),
    Violation("an address less", ("e_san_names",), san(*GOOD_NAMES[:3])),
    Violation("a name more", ("e_san_names",), san(*GOOD_NAMES, csrs.dns_name(b"evil.test"))),
    Violation(
        "a name of another kind", ("e_san_names",), san(*GOOD_NAMES, csrs.general_name(0x81, b"root@corp.internal"))
    ),
    Violation("a name twice", ("e_san_names", "e_san_duplicate"), san(*GOOD_NAMES, GOOD_NAMES[0])),
    Violation("no names", ("e_san_names", "e_san_empty"), san()),
    Violation(
        "a name in upper case",
        ("e_san_names", "e_dns_name_syntax"),
        san(csrs.dns_name(b"A.corp.internal"), *GOOD_NAMES[1:]),
    ),
    Violation(
        "no OCSP",
        ("e_authority_information_access",),
        put(
            extensions.AUTHORITY_INFORMATION_ACCESS,
            extensions.authority_information_access(ocsp_url=None, issuer_url=ISSUER),
        ),
    ),
    Violation(
        "another OCSP",
        ("e_authority_information_access",),
        put(
            extensions.AUTHORITY_INFORMATION_ACCESS,
            extensions.authority_information_access(ocsp_url=EVIL, issuer_url=ISSUER),
        ),
    ),
    Violation(
        "another caIssuers",
        ("e_authority_information_access",),
        put(
            extensions.AUTHORITY_INFORMATION_ACCESS,
            extensions.authority_information_access(ocsp_url=OCSP, issuer_url=EVIL),
        ),
    ),
    Violation(
        "another CRL",
        ("e_crl_distribution_points",),
        put(extensions.CRL_DISTRIBUTION_POINTS, extensions.crl_distribution_points(EVIL)),
    ),
    Violation("no must-staple", ("e_extension_missing",), drop(extensions.TLS_FEATURE), FULL),
    Violation(
        "must-staple that nobody asked for", ("e_extension_unexpected",), put("staple", extensions.tls_feature())
    ),
    Violation("a critical must-staple", ("e_extension_criticality",), flip(extensions.TLS_FEATURE), FULL),
    *(
        Violation(
            f"the TLS features {numbers}",
            ("e_tls_feature",),
            put(
                extensions.TLS_FEATURE,
                extensions.encode_extension(extensions.TLS_FEATURE, der.sequence(*map(der.integer, numbers))),
            ),
            FULL,
        )
        for numbers in ((17,), (5, 17), (17, 5))
    ),
    *(
        Violation(
            f"a TLS feature that is {value.hex()}",
            ("e_unreadable",),
            put(extensions.TLS_FEATURE, extensions.encode_extension(extensions.TLS_FEATURE, value)),
            FULL,
        )
        for value in (der.sequence(), der.sequence(der.integer(99)), der.sequence(der.integer(2**64)), b"junk")
    ),
    Violation(
        "keyEncipherment for a client",
        ("e_key_usage",),
        put(extensions.KEY_USAGE, extensions.key_usage(USAGE, KeyUsage.KEY_ENCIPHERMENT)),
        CLIENT,
    ),
    Violation(
        "a client that is a server",
        ("e_extended_key_usage",),
        put(extensions.EXTENDED_KEY_USAGE, extensions.extended_key_usage((SERVER_AUTH, CLIENT_AUTH))),
        CLIENT,
    ),
    Violation("a responder without nocheck", ("e_extension_missing",), drop(extensions.OCSP_NO_CHECK), RESPONDER),
    Violation(
        "a responder with a CRL",
        ("e_extension_unexpected",),
        put(extensions.CRL_DISTRIBUTION_POINTS, extensions.crl_distribution_points("http://pki.test/crl/issuer.crl")),
        RESPONDER,
    ),
    Violation(
        "a responder with OCSP",
        ("e_authority_information_access",),
        put(
            extensions.AUTHORITY_INFORMATION_ACCESS,
            extensions.authority_information_access(ocsp_url=OCSP, issuer_url=ISSUER),
        ),
        RESPONDER,
    ),
    Violation(
        "a nocheck with a value",
        ("e_unreadable",),
        lambda forgery: forgery.put(extensions.OCSP_NO_CHECK, b"\x05\x01\x00"),
        RESPONDER,
    ),
    Violation("a responder without a subject", ("e_subject",), fields(subject=der.sequence()), RESPONDER),
]

# Lints whose violation is not in the certificate but in its issuer or in what was asked for; each has a test below.
OTHERWISE = {"e_version", "e_issuer_not_ca", "e_name_constraints", "e_not_before", "e_url_not_http"}


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # the library warns too, and will refuse one day
@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_each_violation_is_found(violation: Violation) -> None:
    forgery = Forgery.of(leaf(violation.template))
    violation.change(forgery)
    names, addresses = ((), ()) if violation.template.ocsp_responder else (NAMES, ADDRESSES)
    findings = lint(forgery.certificate(), template=violation.template, dns_names=names, ip_addresses=addresses)
    assert tuple(codes(findings)) == violation.codes
    assert all(finding.severity is Severity.ERROR and finding.message for finding in findings)


def test_every_lint_has_a_violation() -> None:
    lints = [row.code for row in (*COMMON_LINTS, *LEAF_LINTS)]
    assert len(set(lints)) == len(lints)
    assert {code for violation in VIOLATIONS for code in violation.codes} - {"e_unreadable"} == set(lints) - OTHERWISE


def test_utc_time_through_2049() -> None:
    """§4.1.2.5: "CAs conforming to this profile MUST always encode certificate validity dates through the year 2049 as
    UTCTime". (Times without seconds, with an offset or with fractions are refused by the library before any lint.)
    """
    forgery = Forgery.of(leaf())
    forgery.not_before = der.generalized_time(NOT_BEFORE)
    assert codes(lint(forgery.certificate())) == ["e_time_encoding"]


def test_the_issuer_has_to_be_a_ca() -> None:
    """§6.1.4 (k): a verifier would refuse the path; an end-entity certificate must not become an issuer by configuration."""
    for dotted in (extensions.BASIC_CONSTRAINTS, extensions.KEY_USAGE):
        forgery = Forgery.of(intermediate().issuer.certificate_der)
        del forgery.extensions[dotted]
        broken = replace(intermediate().issuer, certificate_der=encode(forgery.certificate()))
        assert codes(lint(x509.load_der_x509_certificate(leaf()), issuer=broken)) == ["e_issuer_not_ca"]


def test_name_constraints_of_the_issuer() -> None:
    """§4.2.1.10."""
    issuer = constrained(x509.NameConstraints([x509.DNSName("other.test")], None))
    certificate = x509.load_der_x509_certificate(leaf())
    finding = next(item for item in lint(certificate, issuer=issuer) if item.code == "e_name_constraints")
    assert all(name in finding.message for name in NAMES)


def test_an_address_that_is_none() -> None:
    findings = lint(x509.load_der_x509_certificate(leaf()), ip_addresses=("10.0.0.256",))
    assert codes(findings) == ["e_san_names"]
    issuer = constrained(x509.NameConstraints([x509.DNSName("internal")], None))
    findings = lint(x509.load_der_x509_certificate(leaf()), issuer=issuer, ip_addresses=("10.0.0.256",))
    assert "e_name_constraints" in codes(findings)


@pytest.mark.parametrize("field", ["ocsp_url", "crl_url", "issuer_url"])
def test_urls_are_plain_http(field: str) -> None:
    """RULES §4: "AIA has caIssuers and OCSP over http; CDP over http"."""
    issuer = intermediate().issuer
    changed = replace(issuer, **{field: getattr(issuer, field).replace("http://", "https://")})
    findings = lint(x509.load_der_x509_certificate(leaf()), issuer=changed)
    assert "e_url_not_http" in codes(findings)


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "a\0.test",
        "a.test\n",
        "a.test.",
        ".test",
        "a..test",
        "-a.test",
        "a-.test",
        "a_b.test",
        "*",
        "*.",
        "a.*.test",
        "*a.test",
        "*.*.test",
        "127.0.0.1",
        "1.2.3",
        "a.1",
        "a" * 64 + ".test",
        ".".join(["a" * 49] * 5) + ".test",
        "",
    ],
)
def test_names_that_are_no_host_names(name: str) -> None:
    """§4.2.1.6: dNSName is "in the 'preferred name syntax'", even if it is what was asked for."""
    forgery = Forgery.of(leaf())
    san(csrs.dns_name(name.encode()))(forgery)
    assert codes(lint(forgery.certificate(), dns_names=(name,), ip_addresses=())) == ["e_dns_name_syntax"]


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a.b",
        "*.a",
        "xn--bcher-kva.test",
        "1.test",
        "a-b.test",
        "a" * 63,
        ".".join(["a" * 49] * 4) + "." + "b" * 53,
    ],
)
def test_names_that_are_host_names(name: str) -> None:
    forgery = Forgery.of(leaf())
    san(csrs.dns_name(name.encode()))(forgery)
    assert lint(forgery.certificate(), dns_names=(name,), ip_addresses=()) == ()


def test_an_rsa_key_enciphers() -> None:
    """CLIENTS: NSS wants keyEncipherment beside digitalSignature in an RSA certificate."""
    forgery = Forgery.of(issue(intermediate(), kind="RSA"))
    spki_der = csrs.spki(shared_key("RSA"))
    assert lint(forgery.certificate(), spki_der=spki_der) == ()
    forgery.extensions[extensions.KEY_USAGE] = extensions.key_usage(USAGE)
    assert codes(lint(forgery.certificate(), spki_der=spki_der)) == ["e_key_usage"]


def test_an_rsa_key_of_a_client_enciphers_nothing() -> None:
    """RFC 5246 §7.4.6: a client signs; keyEncipherment is for a server's key, to which TLS 1.2 may encrypt."""
    forgery = Forgery.of(issue(intermediate(), kind="RSA", template=CLIENT))
    spki_der = csrs.spki(shared_key("RSA"))
    assert lint(forgery.certificate(), template=CLIENT, spki_der=spki_der) == ()
    forgery.extensions[extensions.KEY_USAGE] = extensions.key_usage(USAGE, KeyUsage.KEY_ENCIPHERMENT)
    assert codes(lint(forgery.certificate(), template=CLIENT, spki_der=spki_der)) == ["e_key_usage"]


ASKED_FROM, ASKED_UNTIL = NOW + timedelta(hours=1), NOW + timedelta(days=100)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"not_before": ASKED_FROM - timedelta(seconds=1)}, ["e_not_before"]),
        ({"not_before": ASKED_FROM + timedelta(seconds=1)}, ["e_not_before"]),
        ({"not_after": ASKED_UNTIL - timedelta(seconds=1)}, ["e_validity_length"]),
        ({"not_after": ASKED_UNTIL + timedelta(seconds=1)}, ["e_validity_length"]),
        ({"not_after": ASKED_FROM + FULL.longest}, ["e_validity_length", "e_longest_lifetime"]),
    ],
)
def test_what_was_asked_for_is_there_to_the_second(change: dict[str, datetime], found: list[str]) -> None:
    """RFC 8555 §7.4: "The server MUST return an error if it cannot fulfill the request as specified"."""
    forgery = Forgery.of(issue(intermediate(), template=FULL, not_before=ASKED_FROM, not_after=ASKED_UNTIL))
    for name, moment in change.items():
        setattr(forgery, name, der.time(moment))
    assert codes(lint(forgery.certificate(), template=FULL, not_before=ASKED_FROM, not_after=ASKED_UNTIL)) == found


def test_a_certificate_longer_than_its_kind_may_be_is_found_also_where_it_was_asked_for() -> None:
    """The lint does not trust what asks: the longest lifetime holds for what was asked for too."""
    asked = NOT_BEFORE + FULL.longest
    forgery = Forgery.of(leaf(FULL))
    forgery.not_after = der.time(asked)
    assert codes(lint(forgery.certificate(), template=FULL, not_after=asked)) == ["e_longest_lifetime"]


@settings(max_examples=80, deadline=None)
@given(made=st.data())
def test_whatever_differs_between_two_kinds_is_found(made: st.DataObject) -> None:
    """A certificate made by one template has no finding under it, and under another exactly when their contents differ."""
    templates = st.builds(
        lambda usages, organization, unit, common_name, staple, lifetime: replace(
            SERVER,
            extended_key_usages=usages,
            organization=organization,
            organizational_unit=unit,
            common_name_from_names=common_name,
            must_staple=staple and SERVER_AUTH in usages,
            lifetime=timedelta(days=lifetime),
        ),
        st.sampled_from([(SERVER_AUTH,), (CLIENT_AUTH,), (SERVER_AUTH, CLIENT_AUTH)]),
        st.sampled_from([None, "Example GmbH"]),
        st.sampled_from([None, "Köln"]),
        st.booleans(),
        st.booleans(),
        st.sampled_from([1, 90]),
    )
    one, other = made.draw(templates), made.draw(templates)
    kind = made.draw(st.sampled_from(["P-256", "RSA"]))
    certificate = x509.load_der_x509_certificate(issue(intermediate(), template=one, kind=kind))
    spki_der = csrs.spki(shared_key(kind))
    assert lint(certificate, template=one, spki_der=spki_der) == ()
    assert (lint(certificate, template=other, spki_der=spki_der) == ()) is (one == other)


def test_the_end_of_the_issuer_cuts_the_lifetime() -> None:
    """RULES §4: "never beyond the issuer's notAfter", and no shorter than that without being asked."""
    late = intermediate().issuer.not_after - timedelta(days=30)
    certificate = x509.load_der_x509_certificate(issue(intermediate(), now=late))
    assert certificate.not_valid_after_utc == intermediate().issuer.not_after
    assert lint(certificate) == ()
    forgery = Forgery.of(encode(certificate))
    forgery.not_after = der.time(intermediate().issuer.not_after - timedelta(seconds=1))
    assert codes(lint(forgery.certificate())) == ["e_validity_length"]


def test_the_names_may_stand_in_any_order() -> None:
    certificate = x509.load_der_x509_certificate(leaf())
    assert lint(certificate, dns_names=NAMES[::-1], ip_addresses=ADDRESSES[::-1]) == ()


def test_an_address_is_no_host_name() -> None:
    """The text 10.0.0.1 as a dNSName is not the address 10.0.0.1."""
    certificate = x509.load_der_x509_certificate(leaf())
    assert codes(lint(certificate, dns_names=(*NAMES, *ADDRESSES), ip_addresses=())) == ["e_san_names"]


def test_a_version_1_certificate_is_refused() -> None:
    forgery = Forgery.of(leaf())
    forgery.version, forgery.extensions = b"", {}
    assert codes(lint(forgery.certificate()))[:1] == ["e_version"]
    assert "e_extension_missing" in codes(lint(forgery.certificate()))


def test_a_finding_says_where_it_is_written() -> None:
    forgery = Forgery.of(leaf())
    forgery.put(extensions.BASIC_CONSTRAINTS, der.sequence(der.boolean(True)))
    (finding,) = lint(forgery.certificate())
    assert str(finding) == "e_basic_constraints: the basic constraints make it a CA (RFC 5280 §4.2.1.9)"


def encode(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(csrs.Encoding.DER)
