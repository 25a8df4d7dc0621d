"""`pki/hierarchy.py` and `lint_ca.py`: roots, intermediates, and what verifiers make of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from acmeca.pki import der, extensions
from acmeca.pki.errors import LintError, PkiError, SignatureMismatchError
from acmeca.pki.extensions import KeyUsage
from acmeca.pki.findings import Finding
from acmeca.pki.hierarchy import build_intermediate, build_root
from acmeca.pki.issuer import Issuer
from acmeca.pki.lint_ca import CA_LINTS, CaRequest, lint_ca_certificate
from acmeca.pki.lint_case import COMMON_LINTS, key_usage_value
from acmeca.pki.names import build_distinguished_name
from tests.support.authorities import NOW, Forgery, intermediate, make_issuer, root, serial
from tests.support.csrs import KEY_KINDS, Encoding, shared_key

YEAR = timedelta(days=365)


def new_root(**changes: object) -> bytes:
    arguments: dict[str, object] = {
        "key": shared_key(),
        "subject_common_name": "New Root",
        "organization": "Example",
        "not_before": NOW,
        "lifetime": 20 * YEAR,
        "serial": serial(),
    }
    return build_root(**(arguments | changes))  # type: ignore[arg-type]  # the changes are of the right types


def new_intermediate(**changes: object) -> bytes:
    arguments: dict[str, object] = {
        "root": root().issuer,
        "root_key": root().key,
        "public_key": shared_key().public_key(),
        "subject_common_name": "New Intermediate",
        "organization": "Example",
        "not_before": NOW,
        "lifetime": 5 * YEAR,
        "serial": serial(),
    }
    return build_intermediate(**(arguments | changes))  # type: ignore[arg-type]  # the changes are of the right types


def load(certificate_der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate_der)


def value(certificate: x509.Certificate, kind: type[x509.ExtensionType]) -> tuple[x509.ExtensionType, bool]:
    extension = certificate.extensions.get_extension_for_class(kind)
    return extension.value, extension.critical


# --- what is built -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_a_root(kind: str) -> None:
    certificate = load(new_root(key=shared_key(kind)))
    certificate.verify_directly_issued_by(certificate)
    assert certificate.subject.public_bytes() == certificate.issuer.public_bytes()
    assert value(certificate, x509.BasicConstraints) == (x509.BasicConstraints(ca=True, path_length=None), True)
    assert value(certificate, x509.KeyUsage) == (key_usage_value("key_cert_sign", "crl_sign"), True)
    identifier = value(certificate, x509.SubjectKeyIdentifier)[0]
    assert isinstance(identifier, x509.SubjectKeyIdentifier)
    assert value(certificate, x509.AuthorityKeyIdentifier)[0] == x509.AuthorityKeyIdentifier(
        identifier.digest, None, None
    )
    assert len(certificate.extensions) == 4  # nobody revokes a root, so it names no CRL and no OCSP
    assert certificate.not_valid_before_utc == NOW
    assert certificate.not_valid_after_utc == NOW + 20 * YEAR - timedelta(seconds=1)
    assert certificate.serial_number == serial()


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("root_kind", KEY_KINDS)
def test_an_intermediate(kind: str, root_kind: str) -> None:
    parent = root(root_kind)
    certificate = load(
        new_intermediate(root=parent.issuer, root_key=parent.key, public_key=shared_key(kind).public_key())
    )
    certificate.verify_directly_issued_by(parent.issuer.certificate)
    assert value(certificate, x509.BasicConstraints) == (x509.BasicConstraints(ca=True, path_length=0), True)
    assert value(certificate, x509.KeyUsage) == (key_usage_value("key_cert_sign", "crl_sign"), True)
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(parent.issuer.crl_url)], None, None, None)
    assert value(certificate, x509.CRLDistributionPoints) == (x509.CRLDistributionPoints([point]), False)
    access = x509.AccessDescription(
        AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier(parent.issuer.issuer_url)
    )
    assert value(certificate, x509.AuthorityInformationAccess) == (x509.AuthorityInformationAccess([access]), False)
    assert value(certificate, x509.AuthorityKeyIdentifier)[0] == x509.AuthorityKeyIdentifier(
        parent.issuer.key_identifier, None, None
    )
    assert len(certificate.extensions) == 6


def test_the_organization_stands_before_the_common_name() -> None:
    """CLIENTS 24: dehydrated matches a preferred chain by what follows the first attribute."""
    for certificate_der in (new_root(), new_intermediate()):
        assert [attribute.oid for attribute in load(certificate_der).subject] == [
            NameOID.ORGANIZATION_NAME,
            NameOID.COMMON_NAME,
        ]


def test_a_path_of_three() -> None:
    """§4.2.1.9: pathLenConstraint counts the intermediates that may follow."""
    middle = intermediate("P-256", 1)
    lower = load(new_intermediate(root=middle.issuer, root_key=middle.key))
    lower.verify_directly_issued_by(middle.issuer.certificate)
    for path_length in (1, 2):
        with pytest.raises(LintError, match="e_path_length"):
            new_intermediate(root=middle.issuer, root_key=middle.key, path_length=path_length)
    with pytest.raises(LintError, match="e_path_length"):
        new_intermediate(root=intermediate().issuer, root_key=intermediate().key)


def test_an_intermediate_ends_with_its_root() -> None:
    assert load(new_intermediate(lifetime=50 * YEAR)).not_valid_after_utc == root().issuer.not_after


def test_fractions_of_a_second_are_cut_off() -> None:
    assert load(new_root(not_before=NOW + timedelta(microseconds=999_999))).not_valid_before_utc == NOW


def test_a_root_beyond_2049() -> None:
    """§4.1.2.5: GeneralizedTime from 2050 on."""
    forgery = Forgery.of(new_root(lifetime=40 * YEAR))
    assert (forgery.not_before[0], forgery.not_after[0]) == (0x17, 0x18)


# --- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{"organization": ""}, {"subject_common_name": ""}, {"organization": "x" * 65}, {"subject_common_name": "a\nb"}],
)
@pytest.mark.parametrize("build", [new_root, new_intermediate])
def test_names_that_name_nobody(build: Callable[..., bytes], changes: dict[str, object]) -> None:
    """§4.1.2.6: a CA's certificate "MUST be populated with a non-empty distinguished name" of at most 64 characters each."""
    with pytest.raises(PkiError, match="cannot name a CA"):
        build(**changes)


@pytest.mark.parametrize("not_before", [NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=1)))])
def test_times_are_in_utc(not_before: datetime) -> None:
    with pytest.raises(PkiError, match="UTC"):
        new_root(not_before=not_before)


def test_a_wrong_root_key() -> None:
    with pytest.raises(SignatureMismatchError):
        new_intermediate(root_key=shared_key("P-256", 9))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"public_key": root().key.public_key()}, "e_public_key_of_issuer"),
        ({"serial": 5}, "e_serial_entropy"),
        ({"serial": 2**160}, "e_serial_bounds"),
        ({"not_before": root().issuer.not_before - timedelta(seconds=1)}, "e_validity_beyond_issuer"),
        ({"not_before": root().issuer.not_after + timedelta(seconds=1)}, "e_validity_order"),
        ({"lifetime": timedelta()}, "e_validity_order"),
        ({"subject_common_name": "Test Root P-256"}, "e_subject_of_issuer"),
        ({"root": replace(root().issuer, crl_url="https://pki.test/root.crl")}, "e_url_not_http"),
        ({"root": replace(root().issuer, issuer_url="ldap://pki.test/")}, "e_url_not_http"),
    ],
)
def test_findings_stop_an_intermediate(changes: dict[str, object], code: str) -> None:
    with pytest.raises(LintError) as caught:
        new_intermediate(**changes)
    assert code in [finding.code for finding in caught.value.findings]


def test_a_leaf_signs_no_intermediate() -> None:
    forgery = Forgery.of(root().issuer.certificate_der)
    forgery.extensions[extensions.BASIC_CONSTRAINTS] = extensions.basic_constraints(ca=False)
    broken = replace(root().issuer, certificate_der=encode(forgery.certificate()))
    with pytest.raises(LintError, match="e_issuer_not_ca"):
        new_intermediate(root=broken)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_serial_of_zero() -> None:
    with pytest.raises(LintError, match="e_serial_bounds"):
        new_root(serial=0)


# --- lints -------------------------------------------------------------------------------------------------------------------


def lint(certificate: x509.Certificate, *, issuer: Issuer | None = None, **changes: object) -> list[str]:
    request = CaRequest(
        organization="Example",
        subject_common_name="New Root" if issuer is None else "New Intermediate",
        public_key=shared_key().public_key(),
        lifetime=20 * YEAR if issuer is None else 5 * YEAR,
        path_length=None if issuer is None else 0,
        crl_url=None if issuer is None else issuer.crl_url,
        issuer_url=None if issuer is None else issuer.issuer_url,
    )
    request = replace(request, **changes)  # type: ignore[arg-type]  # the changes are of the right types
    findings: tuple[Finding, ...] = lint_ca_certificate(certificate, issuer=issuer, request=request)
    return [finding.code for finding in findings]


def test_what_is_built_has_no_findings() -> None:
    assert lint(load(new_root())) == []
    assert lint(load(new_intermediate()), issuer=root().issuer) == []
    assert lint(Forgery.of(new_intermediate()).certificate(), issuer=root().issuer) == []


@dataclass(frozen=True)
class Violation:
    what: str
    codes: tuple[str, ...]
    change: Callable[[Forgery], object]

    def __str__(self) -> str:
        return self.what


def put(dotted: str, extension: bytes) -> Callable[[Forgery], None]:
    def change(forgery: Forgery) -> None:
        forgery.extensions[dotted] = extension

    return change


def subject(encoding: bytes) -> Callable[[Forgery], None]:
    return lambda forgery: setattr(forgery, "subject", encoding)


REVERSED = x509.Name(
    [
        x509.NameAttribute(NameOID.COMMON_NAME, "New Intermediate"),
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
    ]
).public_bytes()
EVIL = "http://evil.test/"

VIOLATIONS = [
    Violation("CN before O", ("e_subject",), subject(REVERSED)),
    Violation("no subject", ("e_subject",), subject(der.sequence())),
    Violation("CN alone", ("e_subject",), subject(build_distinguished_name(common_name="New Intermediate"))),
    Violation("the issuer's subject", ("e_subject", "e_subject_of_issuer"), subject(root().issuer.subject_der)),
    Violation(
        "no CA", ("e_basic_constraints",), put(extensions.BASIC_CONSTRAINTS, extensions.basic_constraints(ca=False))
    ),
    Violation(
        "any path length",
        ("e_basic_constraints",),
        put(extensions.BASIC_CONSTRAINTS, extensions.basic_constraints(ca=True)),
    ),
    Violation(
        "a longer path",
        ("e_basic_constraints",),
        put(extensions.BASIC_CONSTRAINTS, extensions.basic_constraints(ca=True, path_length=1)),
    ),
    Violation(
        "digitalSignature",
        ("e_key_usage",),
        put(
            extensions.KEY_USAGE,
            extensions.key_usage(KeyUsage.DIGITAL_SIGNATURE, KeyUsage.KEY_CERT_SIGN, KeyUsage.CRL_SIGN),
        ),
    ),
    Violation("no cRLSign", ("e_key_usage",), put(extensions.KEY_USAGE, extensions.key_usage(KeyUsage.KEY_CERT_SIGN))),
    Violation(
        "constraints not critical",
        ("e_extension_criticality",),
        lambda forgery: forgery.flip_critical(extensions.BASIC_CONSTRAINTS),
    ),
    Violation(
        "no CRL", ("e_extension_missing",), lambda forgery: forgery.extensions.pop(extensions.CRL_DISTRIBUTION_POINTS)
    ),
    Violation(
        "no SKI", ("e_extension_missing",), lambda forgery: forgery.extensions.pop(extensions.SUBJECT_KEY_IDENTIFIER)
    ),
    Violation(
        "extended key usages",
        ("e_extension_unexpected",),
        put(extensions.EXTENDED_KEY_USAGE, extensions.extended_key_usage(("1.3.6.1.5.5.7.3.9",))),
    ),
    Violation(
        "another CRL",
        ("e_crl_distribution_points",),
        put(extensions.CRL_DISTRIBUTION_POINTS, extensions.crl_distribution_points(EVIL)),
    ),
    Violation(
        "another issuer certificate",
        ("e_authority_information_access",),
        put(
            extensions.AUTHORITY_INFORMATION_ACCESS,
            extensions.authority_information_access(ocsp_url=None, issuer_url=EVIL),
        ),
    ),
    Violation(
        "an OCSP for the root",
        ("e_authority_information_access",),
        put(
            extensions.AUTHORITY_INFORMATION_ACCESS,
            extensions.authority_information_access(ocsp_url=EVIL, issuer_url=root().issuer.issuer_url),
        ),
    ),
    Violation(
        "a lint of both kinds", ("e_serial_entropy",), lambda forgery: setattr(forgery, "serial", der.integer(1))
    ),
    Violation(
        "an extension twice",
        ("e_unreadable",),
        lambda forgery: forgery.extensions.update(again=forgery.extensions[extensions.KEY_USAGE]),
    ),
]

OTHERWISE = {"e_path_length", "e_url_not_http"}  # found by `build_intermediate` above


@pytest.mark.parametrize("violation", VIOLATIONS, ids=str)
def test_each_violation_is_found(violation: Violation) -> None:
    forgery = Forgery.of(new_intermediate())
    violation.change(forgery)
    assert tuple(lint(forgery.certificate(), issuer=root().issuer)) == violation.codes


def test_every_lint_has_a_violation() -> None:
    found = {code for violation in VIOLATIONS for code in violation.codes} - {"e_unreadable"}
    common = {row.code for row in COMMON_LINTS}
    assert found - common == {row.code for row in CA_LINTS} - OTHERWISE


def test_a_root_with_pointers() -> None:
    forgery = Forgery.of(new_root())
    forgery.extensions["crl"] = extensions.crl_distribution_points("http://pki.test/root.crl")
    assert lint(forgery.certificate()) == ["e_extension_unexpected"]


def test_a_root_is_its_own_issuer() -> None:
    """§3.2: issuer and subject of a self-issued certificate are the same."""
    forgery = Forgery.of(new_root())
    forgery.issuer = build_distinguished_name(organization="Example", common_name="Other")
    assert lint(forgery.certificate()) == ["e_issuer_name"]
    forgery = Forgery.of(new_root())
    forgery.put(extensions.AUTHORITY_KEY_IDENTIFIER, der.sequence(der.encode(0x80, bytes(20))))
    assert lint(forgery.certificate()) == ["e_authority_key_identifier"]


def test_an_intermediate_is_no_issuer_of_its_like() -> None:
    """pathlen 0 in action: the intermediate of the tests may sign leaves, and no CA."""
    assert intermediate().issuer.path_length == 0
    made = make_issuer(new_intermediate())
    assert (made.path_length, made.may_sign_certificates) == (0, True)
    assert made.not_before == NOW
    assert made.not_after.tzinfo is UTC


def encode(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
