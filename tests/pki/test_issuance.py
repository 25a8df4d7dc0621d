"""`pki/issuance.py` and `template.py`: prepare, record, sign once."""

import copy
import hashlib
import pickle
import random
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.pki import der, extensions, signing, throwaway
from acmeca.pki.errors import IssuanceError, LintError, PkiError, SignatureMismatchError
from acmeca.pki.issuance import Prepared, prepare, random_serial, restore, sign
from acmeca.pki.issuer import Issuer
from acmeca.pki.lint_case import key_usage_value
from acmeca.pki.template import ANY_EXTENDED_KEY_USAGE, CLIENT_AUTH, OCSP_SIGNING, SERVER_AUTH, Template
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
    make_issuer,
    serial,
)
from tests.support.csrs import KEY_KINDS, shared_key

PROPERTY = settings(max_examples=60, deadline=None)


def make(
    *,
    issuer: Issuer | None = None,
    template: Template = SERVER,
    dns_names: tuple[str, ...] = NAMES,
    ip_addresses: tuple[str, ...] = ADDRESSES,
    public_key: signing.PublicKey | None = None,
    number: int | None = None,
    now: datetime = NOW,
    not_before: datetime | None = None,
    not_after: datetime | None = None,
) -> Prepared:
    return prepare(
        issuer=intermediate().issuer if issuer is None else issuer,
        template=template,
        dns_names=dns_names,
        ip_addresses=ip_addresses,
        public_key=shared_key().public_key() if public_key is None else public_key,
        serial=serial() if number is None else number,
        now=now,
        not_before=not_before,
        not_after=not_after,
    )


def bring_back(tbs: bytes, **changes: object) -> Prepared:
    arguments: dict[str, object] = {
        "issuer": intermediate().issuer,
        "template": SERVER,
        "tbs": tbs,
        "dns_names": NAMES,
        "ip_addresses": ADDRESSES,
    }
    return restore(**(arguments | changes))  # type: ignore[arg-type]  # the changes are of the right types


# --- what is issued ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("issuer_kind", KEY_KINDS)
def test_issues_for_every_kind_of_key(kind: str, issuer_kind: str) -> None:
    authority = intermediate(issuer_kind)
    prepared = make(issuer=authority.issuer, public_key=shared_key(kind).public_key())
    certificate = x509.load_der_x509_certificate(sign(prepared, authority.key))
    certificate.verify_directly_issued_by(authority.issuer.certificate)
    assert certificate.tbs_certificate_bytes == prepared.tbs
    assert certificate.public_key() == shared_key(kind).public_key()
    assert prepared.spki_der == csrs.spki(shared_key(kind))
    assert certificate.serial_number == prepared.serial == serial()
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (
        prepared.not_before,
        prepared.not_after,
    )
    assert (prepared.issuer, prepared.template) == (authority.issuer, SERVER)
    assert (prepared.dns_names, prepared.ip_addresses) == (NAMES, ADDRESSES)


def library_tbs(template: Template, kind: str, issuer: Issuer, key: signing.PrivateKey) -> bytes:
    """The same certificate by cryptography's builder, with the extensions in acmeca's order."""
    responder = template.ocsp_responder
    parts = [
        (NameOID.ORGANIZATION_NAME, template.organization),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, template.organizational_unit),
        (NameOID.COMMON_NAME, NAMES[0] if template.common_name_from_names else template.subject_common_name),
    ]
    subject = [(oid, text) for oid, text in parts if text is not None]
    enciphers = kind == "RSA" and SERVER_AUTH in template.extended_key_usages
    usage = ["digital_signature", "key_encipherment"] if enciphers else ["digital_signature"]
    access = [] if responder else [(AuthorityInformationAccessOID.OCSP, issuer.ocsp_url)]
    access.append((AuthorityInformationAccessOID.CA_ISSUERS, issuer.issuer_url))
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(issuer.crl_url)], None, None, None)
    names = [*map(x509.DNSName, NAMES), *(x509.IPAddress(csrs.ipaddress.ip_address(text)) for text in ADDRESSES)]
    public_key = shared_key(kind).public_key()
    identifier = hashlib.sha256(x509_bits(public_key)).digest()[:20]
    values: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage_value(*usage), True),
        (x509.ExtendedKeyUsage([x509.ObjectIdentifier(oid) for oid in template.extended_key_usages]), False),
        (x509.AuthorityKeyIdentifier(issuer.key_identifier, None, None), False),
        (
            x509.AuthorityInformationAccess(
                [x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in access]
            ),
            False,
        ),
        (x509.OCSPNoCheck() if responder else x509.CRLDistributionPoints([point]), False),
        *([(x509.TLSFeature([x509.TLSFeatureType.status_request]), False)] if template.must_staple else []),
        (x509.SubjectKeyIdentifier(identifier), False),
    ]
    if not responder:
        values.append((x509.SubjectAlternativeName(names), not subject))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, text) for oid, text in subject]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(serial())
        .not_valid_before(NOW - template.backdate)
        .not_valid_after(NOW - template.backdate + template.lifetime - timedelta(seconds=1))
    )
    for value, critical in values:
        builder = builder.add_extension(value, critical)
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = hashes.SHA256()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = None
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = {"secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}.get(key.curve.name, hashes.SHA256())
    return builder.sign(key, algorithm).tbs_certificate_bytes


def x509_bits(public_key: signing.PublicKey) -> bytes:
    """The bits of the key by another way: an uncompressed point, an RSAPublicKey, 32 octets."""
    encoding, form = csrs.Encoding, csrs.PublicFormat
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return public_key.public_bytes(encoding.X962, form.UncompressedPoint)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return public_key.public_bytes(encoding.Raw, form.Raw)
    return public_key.public_bytes(encoding.DER, form.PKCS1)


@pytest.mark.parametrize("template", [SERVER, NAMED, CLIENT, FULL, RESPONDER], ids=lambda template: template.name)
@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("issuer_kind", KEY_KINDS)
def test_the_bytes_are_those_of_the_library(kind: str, issuer_kind: str, template: Template) -> None:
    """Our encoder against cryptography's builder, byte for byte."""
    authority = intermediate(issuer_kind)
    names, addresses = ((), ()) if template.ocsp_responder else (NAMES, ADDRESSES)
    prepared = make(
        issuer=authority.issuer,
        template=template,
        public_key=shared_key(kind).public_key(),
        dns_names=names,
        ip_addresses=addresses,
    )
    assert prepared.tbs == library_tbs(template, kind, authority.issuer, authority.key)


@PROPERTY
@given(
    labels=st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True), max_size=20, unique=True),
    addresses=st.lists(st.ip_addresses().map(str), max_size=20, unique=True),
    wildcard=st.booleans(),
    number=st.integers(2**120, 2**159 - 1),
    seconds=st.integers(0, 86400 * 1800),
)
def test_any_names_any_time(
    labels: list[str], addresses: list[str], *, wildcard: bool, number: int, seconds: int
) -> None:
    """What is asked for is what stands in the certificate, inside the validity of the issuer."""
    dns_names = tuple(("*." if wildcard else "") + f"{label}.corp.internal" for label in labels)
    issuer = intermediate().issuer
    now = min(issuer.not_before + timedelta(seconds=seconds), issuer.not_after)
    if not dns_names and not addresses:
        with pytest.raises(IssuanceError, match="at least one name"):
            make(dns_names=(), ip_addresses=())
        return
    prepared = make(dns_names=dns_names, ip_addresses=tuple(addresses), number=number, now=now)
    certificate = x509.load_der_x509_certificate(sign(prepared, intermediate().key))
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(san.get_values_for_type(x509.DNSName)) == dns_names
    assert tuple(map(str, san.get_values_for_type(x509.IPAddress))) == tuple(addresses)
    assert certificate.serial_number == number
    assert issuer.not_before <= prepared.not_before <= now <= prepared.not_after <= issuer.not_after
    assert prepared.not_after - prepared.not_before < SERVER.lifetime


# --- validity --------------------------------------------------------------------------------------------------------------


def test_validity_is_inclusive() -> None:
    """RULES §4: notAfter = notBefore + lifetime less a second (§4.1.2.5 counts both ends)."""
    prepared = make(now=NOW + timedelta(microseconds=999_999))
    assert prepared.not_before == NOW - timedelta(minutes=5)
    assert prepared.not_after == prepared.not_before + timedelta(days=90) - timedelta(seconds=1)


def test_validity_stays_within_the_issuers() -> None:
    issuer = intermediate().issuer
    assert make(now=issuer.not_before).not_before == issuer.not_before
    assert make(now=issuer.not_before + timedelta(minutes=4)).not_before == issuer.not_before
    assert make(now=issuer.not_after).not_after == issuer.not_after
    assert make(now=issuer.not_after - timedelta(days=10)).not_after == issuer.not_after


@pytest.mark.parametrize("side", [-1, 1])
def test_an_issuer_out_of_its_time_issues_nothing(side: int) -> None:
    issuer = intermediate().issuer
    now = issuer.not_before - timedelta(seconds=1) if side < 0 else issuer.not_after + timedelta(seconds=1)
    with pytest.raises(IssuanceError, match="valid from"):
        make(now=now)


def test_times_from_2050_on() -> None:
    """§4.1.2.5: "dates in 2050 or later MUST be encoded as GeneralizedTime\""""
    forgery = Forgery.of(intermediate().issuer.certificate_der)
    forgery.not_after = der.generalized_time(datetime(2060, 1, 1, tzinfo=UTC))
    issuer = make_issuer(forgery.certificate().public_bytes(csrs.Encoding.DER))
    for now, tag in [(datetime(2049, 1, 1, tzinfo=UTC), 0x17), (datetime(2049, 12, 31, tzinfo=UTC), 0x18)]:
        tbs = Forgery.of(sign(make(issuer=issuer, now=now), intermediate().key))
        assert tbs.not_before[0] == 0x17
        assert tbs.not_after[0] == tag


@pytest.mark.parametrize("now", [NOW.replace(tzinfo=None), NOW.astimezone(timezone(timedelta(hours=1)))])
def test_now_is_in_utc(now: datetime) -> None:
    with pytest.raises(IssuanceError, match="UTC"):
        make(now=now)


def test_a_lifetime_beyond_all_encodings() -> None:
    with pytest.raises(PkiError, match="after the year 9999"):
        make(template=replace(SERVER, lifetime=timedelta(days=3_000_000)))


# --- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_the_issuers_own_key_is_refused(kind: str) -> None:
    """RFC 8555 §11.1 in spirit, RULES §1: "an issuer's key … is never certified"."""
    authority = intermediate(kind)
    with pytest.raises(IssuanceError, match="never certified"):
        make(issuer=authority.issuer, public_key=authority.key.public_key())


def test_name_constraints_are_checked_before_signing() -> None:
    issuer = constrained(x509.NameConstraints([x509.DNSName("corp.internal")], [x509.DNSName("b.corp.internal")]))
    with pytest.raises(IssuanceError, match=r"^\*\.b\.corp\.internal is excluded"):
        make(issuer=issuer)
    make(issuer=issuer, dns_names=NAMES[:1])


def test_constraints_on_directory_names_stop_a_responder() -> None:
    name = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")]))
    with pytest.raises(IssuanceError, match="directory names"):
        make(issuer=constrained(x509.NameConstraints([name], None)), template=RESPONDER, dns_names=(), ip_addresses=())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dns_names": (), "ip_addresses": ()}, "at least one name"),
        ({"template": RESPONDER}, "has no names"),
        ({"dns_names": ("ä.example",)}, "A-labels"),
        ({"ip_addresses": ("10.0.0.256",)}, "no IP address"),
        ({"ip_addresses": ("2001:DB8::1",)}, "is written 2001:db8::1"),
        ({"ip_addresses": ("2001:db8:0::1",)}, "is written 2001:db8::1"),
        ({"number": 0}, "positive"),
        ({"number": -serial()}, "positive"),
    ],
)
def test_what_cannot_be_asked_for(changes: dict[str, object], message: str) -> None:
    with pytest.raises(IssuanceError, match=message):
        make(**changes)  # type: ignore[arg-type]  # the changes are of the right types


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"dns_names": ("A.example",)}, "e_dns_name_syntax"),
        ({"dns_names": ("a.example\n",)}, "e_dns_name_syntax"),
        ({"dns_names": ("a.example", "a.example")}, "e_san_duplicate"),
        ({"ip_addresses": ("10.0.0.1", "10.0.0.1")}, "e_san_duplicate"),
        ({"number": 1}, "e_serial_entropy"),
        ({"number": 2**160}, "e_serial_bounds"),
        ({"issuer": replace(intermediate().issuer, ocsp_url="https://pki.test/")}, "e_url_not_http"),
    ],
)
def test_a_finding_stops_the_issuance(changes: dict[str, object], code: str) -> None:
    """RULES §4: "a finding stops the issuance". Nothing comes back that could be signed."""
    with pytest.raises(LintError) as caught:
        make(**changes)  # type: ignore[arg-type]  # the changes are of the right types
    assert code in [finding.code for finding in caught.value.findings]
    assert code in str(caught.value)


def test_a_leaf_is_no_issuer() -> None:
    leaf = make_issuer(issue(intermediate()))
    with pytest.raises(LintError, match="e_issuer_not_ca"):
        make(issuer=leaf, public_key=shared_key("P-384").public_key())


# --- sign once -------------------------------------------------------------------------------------------------------------


def test_a_second_redeem_raises() -> None:
    """RULES §4: "Only a prepared, linted value can be signed, once"."""
    prepared = make()
    sign(prepared, intermediate().key)
    with pytest.raises(IssuanceError, match="redeemed before"):
        sign(prepared, intermediate().key)


def test_one_of_many_threads_redeems() -> None:
    prepared, key = make(), intermediate().key
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def redeem() -> None:
        barrier.wait()
        try:
            sign(prepared, key)
            outcomes.append("signed")
        except IssuanceError:
            outcomes.append("refused")

    threads = [threading.Thread(target=redeem) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["signed"]


def test_a_failed_signature_spends_it() -> None:
    """A wrong key's signature is never returned, and the value is spent; `restore` makes another of the same bytes."""
    prepared = make()
    with pytest.raises(SignatureMismatchError):
        sign(prepared, shared_key("P-256", 7))
    with pytest.raises(IssuanceError, match="redeemed before"):
        sign(prepared, intermediate().key)
    certificate = x509.load_der_x509_certificate(sign(bring_back(prepared.tbs), intermediate().key))
    assert certificate.tbs_certificate_bytes == prepared.tbs


@pytest.mark.parametrize("kind", ["P-384", "RSA", "Ed25519"])
def test_a_key_of_another_kind(kind: str) -> None:
    with pytest.raises(SignatureMismatchError):
        sign(make(), shared_key(kind))


def test_a_fault_in_assembling_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """RULES §4: "the tbs of what is served equals what was recorded"."""
    other, prepared = issue(intermediate(), number=2), make()
    monkeypatch.setattr(signing, "certificate_from_tbs", lambda *_: other)
    with pytest.raises(IssuanceError, match="does not hold the bytes"):
        sign(prepared, intermediate().key)


def test_it_comes_from_nowhere_else() -> None:
    prepared = make()
    for maker in (None, object()):
        with pytest.raises(TypeError, match="made by prepare"):
            Prepared(prepared._request, prepared.tbs, prepared._copy, maker=maker)


def test_it_cannot_be_copied() -> None:
    """A copy could be redeemed a second time."""
    prepared = make()
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied"):
            duplicate(prepared)


def test_it_cannot_be_changed() -> None:
    """What is recorded is what is signed."""
    prepared = make()
    for attribute in ("tbs", "serial", "not_before", "not_after", "spki_der", "issuer", "dns_names", "new"):
        with pytest.raises(AttributeError):
            setattr(prepared, attribute, None)
    assert repr(prepared) == f"<Prepared {serial():x} by issuer>"


def test_the_copy_is_signed_by_somebody_else() -> None:
    """RULES §4: "sign a copy with a throwaway key": not the issuer's, and always the same one of its kind."""
    issuer = intermediate().issuer
    copied = throwaway.sign_copy(make().tbs, issuer.public_key)
    with pytest.raises(SignatureMismatchError):
        signing.verify_with(issuer.public_key, copied.signature, copied.tbs_certificate_bytes)
    again = throwaway.sign_copy(make().tbs, issuer.public_key)
    key = throwaway._throwaway_key(issuer.public_key).public_key()
    for certificate in (copied, again):
        signing.verify_with(key, certificate.signature, certificate.tbs_certificate_bytes)


# --- restore -----------------------------------------------------------------------------------------------------------------


def test_brings_back_what_was_recorded() -> None:
    prepared = make()
    restored = bring_back(prepared.tbs, spki_sha256=hashlib.sha256(prepared.spki_der).digest())
    assert restored.tbs == prepared.tbs
    assert (restored.serial, restored.not_before, restored.not_after, restored.spki_der) == (
        prepared.serial,
        prepared.not_before,
        prepared.not_after,
        prepared.spki_der,
    )
    bring_back(prepared.tbs, dns_names=NAMES[::-1], ip_addresses=ADDRESSES[::-1])


def test_lints_again() -> None:
    tbs = make().tbs
    with pytest.raises(LintError, match="e_extended_key_usage"):
        bring_back(tbs, template=replace(SERVER, extended_key_usages=(SERVER_AUTH,)))
    with pytest.raises(LintError, match="e_validity_length"):
        bring_back(tbs, template=replace(SERVER, lifetime=timedelta(days=30)))
    with pytest.raises(LintError, match="e_san_names"):
        bring_back(tbs, dns_names=(*NAMES, "c.corp.internal"))
    with pytest.raises(LintError, match="e_issuer_name"):
        bring_back(tbs, issuer=intermediate("P-256", 1).issuer)
    with pytest.raises(LintError, match="e_not_before"):
        bring_back(tbs, not_before=NOW)
    with pytest.raises(LintError, match="e_validity_length"):
        bring_back(tbs, not_after=NOW + timedelta(days=1))
    with pytest.raises(LintError, match="e_subject"):
        bring_back(make(template=FULL).tbs, template=FULL, dns_names=NAMES[::-1])
    with pytest.raises(IssuanceError, match="at least one name"):
        bring_back(tbs, dns_names=(), ip_addresses=())
    with pytest.raises(IssuanceError, match="another key"):
        bring_back(tbs, spki_sha256=bytes(32))


@pytest.mark.parametrize("tbs", [b"", b"junk", der.sequence()])
def test_restores_no_junk(tbs: bytes) -> None:
    with pytest.raises(LintError, match="e_unreadable"):
        bring_back(tbs)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # a negative one is a finding, and a warning before it
@pytest.mark.parametrize("template", [SERVER, FULL], ids=lambda template: template.name)
def test_a_flipped_octet_is_found(template: Template) -> None:
    """Whatever octet of the record changes: it is refused, or it is the serial, which is nowhere else in the request."""
    generator = random.Random(5280)
    tbs = make(template=template).tbs
    spki_sha256 = hashlib.sha256(make().spki_der).digest()
    for _ in range(600):
        data = bytearray(tbs)
        at = generator.randrange(len(data))
        data[at] = generator.choice((0x00, 0x01, 0x02, 0x05, 0x30, 0x7F, 0x80, 0xFF, data[at] ^ 1))
        if data[at] == tbs[at]:
            continue
        try:
            restored = bring_back(bytes(data), template=template, spki_sha256=spki_sha256)
        except (LintError, IssuanceError):
            continue
        assert restored.serial != serial()
        assert len(der.integer(restored.serial)) == len(der.integer(serial()))


def test_an_unknown_key_in_the_record() -> None:
    forgery = Forgery.of(issue(intermediate()))
    forgery.spki = der.sequence(der.sequence(der.oid("1.2.3")), der.bit_string(b"key"))
    with pytest.raises(LintError, match="e_unreadable"):
        bring_back(forgery.tbs)


def test_a_critical_flag_spelt_out() -> None:
    """X.690 §11.5: a DEFAULT value is left out in DER; the library's parser says so."""
    forgery = Forgery.of(issue(intermediate()))
    value = csrs.extension(extensions.EXTENDED_KEY_USAGE, der.sequence(der.oid(SERVER_AUTH)), critical=b"\x01\x01\x00")
    forgery.extensions[extensions.EXTENDED_KEY_USAGE] = value
    with pytest.raises(LintError, match="e_unreadable"):
        bring_back(forgery.tbs)


# --- serials -----------------------------------------------------------------------------------------------------------------


@PROPERTY
@given(st.binary(min_size=16, max_size=19))
def test_serials_hold_their_entropy(entropy: bytes) -> None:
    """§4.1.2.2: positive, at most 20 octets; RULES §4: at least 128 random bits, all of them."""
    number = random_serial(entropy)
    content = der.Reader(der.integer(number)).read(der.INTEGER)
    assert number > 0
    assert len(content) == len(entropy) + 1 <= 20
    assert content[1:] == entropy


@pytest.mark.parametrize("length", [0, 8, 15, 20, 32])
def test_serials_want_enough_entropy(length: int) -> None:
    with pytest.raises(PkiError, match="16 to 19 random octets"):
        random_serial(bytes(length))


# --- templates -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lifetime": timedelta()}, "lifetime"),
        ({"lifetime": timedelta(minutes=5)}, "lifetime"),
        ({"lifetime": timedelta(days=1, microseconds=1)}, "lifetime"),
        ({"maximum_lifetime": timedelta(days=89)}, "maximum_lifetime"),
        ({"maximum_lifetime": timedelta(days=91, microseconds=1)}, "maximum_lifetime"),
        ({"backdate": timedelta(hours=1, seconds=1)}, "backdate"),
        ({"backdate": timedelta(seconds=-1)}, "backdate"),
        ({"backdate": timedelta(microseconds=1)}, "backdate"),
        ({"extended_key_usages": ()}, "at least one purpose"),
        ({"extended_key_usages": (SERVER_AUTH, SERVER_AUTH)}, "each once"),
        ({"extended_key_usages": ("serverAuth",)}, "no object identifier"),
        ({"extended_key_usages": (ANY_EXTENDED_KEY_USAGE,)}, "anyExtendedKeyUsage"),
        ({"extended_key_usages": (SERVER_AUTH, OCSP_SIGNING)}, "for OCSP responders only"),
        ({"ocsp_responder": True, "subject_common_name": "x"}, "and no other"),
        (
            {"ocsp_responder": True, "subject_common_name": "x", "extended_key_usages": (OCSP_SIGNING, SERVER_AUTH)},
            "and no other",
        ),
        ({"ocsp_responder": True, "extended_key_usages": (OCSP_SIGNING,)}, "Java refuses"),
        ({"subject_common_name": ""}, "1 to 64"),
        ({"subject_common_name": "x" * 65}, "1 to 64"),
        ({"subject_common_name": "a\0b"}, "1 to 64"),
        ({"subject_common_name": "\ud800"}, "1 to 64"),
        ({"subject_common_name": "x", "common_name_from_names": True}, "not both"),
        ({"organization": ""}, "organization has to be 1 to 64"),
        ({"organization": "x" * 65}, "organization has to be 1 to 64"),
        ({"organizational_unit": "a\nb"}, "organizational_unit has to be 1 to 64"),
        ({"must_staple": True, "extended_key_usages": (CLIENT_AUTH,)}, "for TLS servers"),
    ],
)
def test_harmful_templates_cannot_be_made(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PkiError, match=message):
        replace(SERVER, **changes)  # type: ignore[arg-type]  # the changes are of the right types


def test_the_longest_backdate() -> None:
    """RULES §4: "backdated at most an hour"."""
    template = replace(SERVER, backdate=timedelta(hours=1))
    assert make(template=template).not_before == NOW - timedelta(hours=1)


@pytest.mark.parametrize(
    ("dns_names", "common_name"),
    [
        (("a.test", "b.test"), "a.test"),
        (("b.test", "a.test"), "b.test"),
        (("x" * 60 + ".test", "b.test"), "b.test"),
        (("x" * 59 + ".test",), "x" * 59 + ".test"),
        (("x" * 60 + ".test",), None),
        (("*.b.test",), "*.b.test"),
        ((), None),
    ],
)
def test_the_common_name_is_the_first_name_that_fits(dns_names: tuple[str, ...], common_name: str | None) -> None:
    """RFC 5280 appendix A.1: a common name has at most 64 characters; and an address is none."""
    subject = replace(SERVER, common_name_from_names=True).subject(dns_names)
    assert (subject.common_name, subject.is_empty) == (common_name, common_name is None)


@pytest.mark.parametrize("template", [SERVER, CLIENT, FULL], ids=lambda template: template.name)
def test_without_a_subject_the_names_are_critical(template: Template) -> None:
    """RFC 5280 §4.1.2.6: critical if and only if the subject is empty, also where only the names decide that."""
    template = replace(template, organization=None, organizational_unit=None)
    for dns_names in (NAMES, ()):
        prepared = make(template=template, dns_names=dns_names)
        certificate = x509.load_der_x509_certificate(sign(prepared, intermediate().key))
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert san.critical is (len(list(certificate.subject)) == 0)


def test_constraints_on_directory_names_stop_a_subject() -> None:
    """RFC 5280 §4.2.1.10: they "apply to the subject field in the certificate (when the certificate includes a non-empty
    subject field)".
    """
    name = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example")]))
    issuer = constrained(x509.NameConstraints([name], None))
    make(issuer=issuer)
    with pytest.raises(IssuanceError, match="directory names"):
        make(issuer=issuer, template=FULL)
    make(issuer=issuer, template=replace(FULL, organization=None, organizational_unit=None), dns_names=())
