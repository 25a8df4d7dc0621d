"""`pki/csr.py` and `pki/spki.py`: from a CSR come a key and names, and nothing else."""

import random
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from acmeca.pki import der
from acmeca.pki.csr import MAX_CSR_OCTETS, parse_csr
from acmeca.pki.errors import CsrError, PkiError
from acmeca.pki.spki import encode_public_key, parse_public_key, public_key_bits
from tests.support import csrs
from tests.support.csrs import KEY_KINDS, build_csr, forge_csr, shared_key

PROPERTY = settings(max_examples=150, deadline=None)
NAMES = ("a.corp.internal", "*.b.corp.internal")
ADDRESSES = ("10.0.0.1", "2001:db8::1")


# --- what clients send -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_reads_key_and_names(kind: str) -> None:
    """RFC 8555 §7.4: the identifiers stand in the commonName, in a subjectAltName, or in both."""
    key = shared_key(kind)
    request = parse_csr(build_csr(key, dns_names=NAMES, ip_addresses=ADDRESSES, common_name=NAMES[0]))
    assert request.public_key == key.public_key()
    assert request.spki_der == csrs.spki(key)
    assert request.dns_names == frozenset(NAMES)
    assert request.ip_addresses == frozenset(ADDRESSES)
    assert request.common_names == (NAMES[0],)


def test_a_csr_without_any_name() -> None:
    request = parse_csr(build_csr(shared_key()))
    assert (request.dns_names, request.ip_addresses, request.common_names) == (frozenset(), frozenset(), ())


def test_common_name_alone() -> None:
    """CLIENTS 14: a name in the CN only is a CSR all the same."""
    assert parse_csr(build_csr(shared_key(), common_name="a.corp.internal")).common_names == ("a.corp.internal",)


@pytest.mark.parametrize("arguments", [(), ("-sha384",), ("-sha512",)])
@pytest.mark.parametrize("algorithm", ["ec", "rsa"])
def test_what_openssl_makes(tmp_path: Path, algorithm: str, arguments: tuple[str, ...]) -> None:
    key_path, csr_path = tmp_path / "key.pem", tmp_path / "csr.der"
    key_path.write_bytes(
        shared_key("P-384" if algorithm == "ec" else "RSA").private_bytes(
            Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    subprocess.run(
        [
            "openssl",
            "req",
            "-new",
            "-key",
            key_path,
            "-subj",
            "/C=DE/O=Example/CN=a.corp.internal",
            *arguments,
            "-addext",
            "subjectAltName=DNS:a.corp.internal,IP:10.0.0.1",
            "-outform",
            "DER",
            "-out",
            csr_path,
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    request = parse_csr(csr_path.read_bytes())
    assert request.dns_names == {"a.corp.internal"}
    assert request.ip_addresses == {"10.0.0.1"}
    assert request.common_names == ("a.corp.internal",)


# --- Rule 1: nothing else ------------------------------------------------------------------------------------------------


HARMFUL: list[tuple[x509.ExtensionType, bool]] = [
    (x509.BasicConstraints(ca=True, path_length=None), True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.CODE_SIGNING]), True),
    (x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)]), False),
    (x509.NameConstraints([x509.DNSName("")], None), True),
    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"not even DER"), True),
]


def test_all_other_requests_are_passed_over() -> None:
    """RULES §4: "All other requested extensions are ignored (basicConstraints CA:TRUE, EKU, policies …)"."""
    key = shared_key()
    asked = build_csr(key, dns_names=NAMES, common_name=NAMES[0], extensions=HARMFUL, challenge_password=b"secret")
    assert parse_csr(asked) == parse_csr(build_csr(key, dns_names=NAMES, common_name=NAMES[0]))
    assert set(parse_csr(asked).__slots__) == {"public_key", "spki_der", "dns_names", "ip_addresses", "common_names"}


def test_other_subject_attributes_are_passed_over() -> None:
    subject = csrs.name(("2.5.4.6", der.encode(0x13, b"DE")), (csrs.COMMON_NAME, der.encode(0x0C, b"a.example")))
    assert parse_csr(forge_csr(subject=subject)).common_names == ("a.example",)


# --- Rule 3: names are raw -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "A.EXAMPLE", "a..b", "127.0.0.1", "*", "", "a."])
def test_names_are_returned_as_found(text: str) -> None:
    """Canonical form is the next step's question; nothing is lost, cut at a NUL or folded before it."""
    san = csrs.extension_request(csrs.subject_alt_name(csrs.dns_name(text.encode())))
    subject = csrs.name((csrs.COMMON_NAME, der.encode(0x0C, text.encode())))
    request = parse_csr(forge_csr(subject=subject, attributes=[san]))
    assert request.dns_names == {text}
    assert request.common_names == (text,)


@pytest.mark.parametrize(
    ("tag", "encoding"),
    [(0x0C, "utf-8"), (0x13, "ascii"), (0x16, "ascii"), (0x14, "ascii"), (0x1E, "utf-16-be"), (0x1C, "utf-32-be")],
)
def test_string_types_of_a_common_name(tag: int, encoding: str) -> None:
    """RFC 5280 §4.1.2.4: DirectoryString is one of several types; IA5String is seen too."""
    subject = csrs.name((csrs.COMMON_NAME, der.encode(tag, "a.example".encode(encoding))))
    assert parse_csr(forge_csr(subject=subject)).common_names == ("a.example",)


@pytest.mark.parametrize(
    "value", [der.encode(0x0C, b"\xff"), der.encode(0x13, "ä".encode()), der.encode(0x1E, b"a"), der.integer(5)]
)
def test_a_common_name_that_is_no_text(value: bytes) -> None:
    with pytest.raises(CsrError, match="common name"):
        parse_csr(forge_csr(subject=csrs.name((csrs.COMMON_NAME, value))))


# --- step 1 and 2: size and structure --------------------------------------------------------------------------------------


def test_the_size_is_bounded() -> None:
    padding_attribute = csrs.attribute("1.2.3", der.octet_string(bytes(MAX_CSR_OCTETS)))
    with pytest.raises(CsrError, match="16384 are the most"):
        parse_csr(forge_csr(attributes=[padding_attribute]))
    fits = csrs.attribute("1.2.3", der.octet_string(bytes(MAX_CSR_OCTETS - 1000)))
    parse_csr(forge_csr(attributes=[fits]))


def test_a_hundred_names_fit() -> None:
    names = [f"{number:060}.{'x' * 40}.corp.internal" for number in range(100)]
    assert parse_csr(build_csr(shared_key("RSA"), dns_names=names)).dns_names == set(names)


@pytest.mark.parametrize(
    ("what", "csr_der"),
    [
        ("nothing", b""),
        ("PEM", b"-----BEGIN CERTIFICATE REQUEST-----\n"),
        ("trailing bytes", forge_csr(after=b"\0")),
        ("something after the attributes", forge_csr(after_attributes=der.null())),
        ("no attributes, which RFC 2986 does not leave optional", forge_csr(attributes_tag=0xA1)),
        ("a version that is no integer", forge_csr(version=der.null())),
        ("a subject that is no sequence", forge_csr(subject=der.null())),
        ("an attribute without values", forge_csr(attributes=[der.sequence(der.oid("1.2.3"))])),
        (
            "an attribute with something after its values",
            forge_csr(attributes=[der.sequence(der.oid("1.2.3"), b"\x31\x00\x05\x00")]),
        ),
        ("an extensionRequest without a value", forge_csr(attributes=[csrs.attribute(csrs.EXTENSION_REQUEST)])),
        (
            "an extensionRequest with two values",
            forge_csr(attributes=[csrs.attribute(csrs.EXTENSION_REQUEST, der.sequence(), der.sequence())]),
        ),
        (
            "a critical flag that is neither",
            forge_csr(attributes=[csrs.extension_request(csrs.extension("1.2.3", b"", critical=b"\x01\x01\x01"))]),
        ),
        (
            "a subjectAltName with trailing bytes",
            forge_csr(
                attributes=[csrs.extension_request(csrs.extension(csrs.SUBJECT_ALT_NAME, b"\x30\x02\x82\x00\x00"))]
            ),
        ),
        ("a certificate", csrs.forge_csr()[:20]),
        ("an info that is a set", b"\x31" + forge_csr()[1:]),
        ("nesting without end", b"\x30\x80" * 4000),
        ("the info is no sequence", der.sequence(der.null(), csrs.ECDSA_SHA256, der.bit_string(b""))),
    ],
)
def test_refuses_other_structures(what: str, csr_der: bytes) -> None:
    """RFC 2986 §4: CertificationRequest, in DER, and nothing after it."""
    with pytest.raises(CsrError, match="DER of a CertificationRequest"):
        parse_csr(csr_der)


@pytest.mark.parametrize("version", [1, 2])
def test_takes_the_version_of_a_certificate(version: int) -> None:
    """Ruby's acme-client, and older ones in Python, number a CSR as a certificate; all else is as in version 1."""
    assert parse_csr(forge_csr(version=der.integer(version))) == parse_csr(forge_csr())


@pytest.mark.parametrize("version", [3, -1, 256])
def test_refuses_another_version(version: int) -> None:
    """RFC 2986 §4.1: "It shall be 0 for this version of the standard.\""""
    with pytest.raises(CsrError, match="version"):
        parse_csr(forge_csr(version=der.integer(version)))


def test_refuses_duplicates() -> None:
    """RFC 5280 §4.2: "A certificate MUST NOT include more than one instance of a particular extension.\""""
    san = csrs.subject_alt_name(csrs.dns_name(b"a.example"))
    with pytest.raises(CsrError, match=r"the attribute 1\.2\.840\.113549\.1\.9\.14 twice"):
        parse_csr(forge_csr(attributes=[csrs.extension_request(san), csrs.extension_request(san)]))
    with pytest.raises(CsrError, match=r"the extension 2\.5\.29\.17 twice"):
        parse_csr(forge_csr(attributes=[csrs.extension_request(san, san)]))
    with pytest.raises(CsrError, match=r"the extension 1\.2\.3 twice"):
        parse_csr(forge_csr(attributes=[csrs.extension_request(*[csrs.extension("1.2.3", b"")] * 2)]))


# --- step 3: keys ------------------------------------------------------------------------------------------------------------


def rsa_spki(
    modulus: int, exponent: int = 65537, *, oid: str = "1.2.840.113549.1.1.1", parameters: bytes = b"\x05\x00"
) -> bytes:
    key = der.sequence(der.integer(modulus), der.integer(exponent))
    return der.sequence(der.sequence(der.oid(oid), parameters), der.bit_string(key))


def ec_spki(parameters: bytes, point: bytes) -> bytes:
    return der.sequence(der.sequence(der.oid("1.2.840.10045.2.1"), parameters), der.bit_string(point))


P256 = der.oid("1.2.840.10045.3.1.7")
POINT = public_key_bits(csrs.spki(shared_key()))
RSA_NUMBERS = shared_key("RSA").public_key().public_numbers()  # type: ignore[union-attr]  # it is RSA by its kind


@pytest.mark.parametrize(
    ("spki_der", "message"),
    [
        (rsa_spki((1 << 16384) - 1), "16384 bits"),
        (rsa_spki((1 << 4096) + 1), "4097 bits"),
        (rsa_spki((1 << 512) - 1), "512 bits"),
        (rsa_spki(-RSA_NUMBERS.n), "bits"),
        (rsa_spki(0), "0 bits"),
        (rsa_spki(RSA_NUMBERS.n, 1 << 200 | 1), "exponent has 201 bits"),
        (rsa_spki(RSA_NUMBERS.n, -3), "exponent"),
        (rsa_spki(RSA_NUMBERS.n, parameters=b""), "usual encoding"),
        (rsa_spki(RSA_NUMBERS.n, oid="1.2.840.113549.1.1.10"), r"type 1\.2\.840\.113549\.1\.1\.10"),
        (ec_spki(der.oid("1.3.132.0.10"), POINT), r"curve 1\.3\.132\.0\.10"),  # secp256k1
        (ec_spki(der.sequence(der.integer(1)), POINT), "does not name its curve"),
        (ec_spki(b"", POINT), "does not name its curve"),
        (ec_spki(P256, POINT[:-1] + bytes([POINT[-1] ^ 1])), "not a valid key"),
        (ec_spki(P256, b"\0"), "not a valid key"),  # the point at infinity
        (ec_spki(P256, bytes([2 + POINT[-1] % 2]) + POINT[1:33]), "usual encoding"),  # compressed
        (ec_spki(P256 + der.null(), POINT), "not a valid key|usual encoding"),
        (der.sequence(der.sequence(der.oid("1.3.101.112")), der.bit_string(b"\1" * 31)), "not a valid key"),
        (
            ed448.Ed448PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            "type",
        ),
        (der.sequence(), "not the DER of a SubjectPublicKeyInfo"),
        (der.null(), "not the DER of a SubjectPublicKeyInfo"),
        (rsa_spki(RSA_NUMBERS.n)[:-1], "not the DER of a SubjectPublicKeyInfo"),
    ],
)
def test_refuses_keys(spki_der: bytes, message: str) -> None:
    """RULES §1: bit lengths before building a key object; a named curve, looked up in the SPKI bytes."""
    with pytest.raises(PkiError, match=message):
        parse_public_key(spki_der)
    if spki_der[:1] == b"\x30" and message != "not the DER of a SubjectPublicKeyInfo":
        with pytest.raises(CsrError, match=message):
            parse_csr(forge_csr(spki_der=spki_der))


def test_refuses_explicit_parameters_that_openssl_makes(tmp_path: Path) -> None:
    """RULES §1: "cryptography silently accepts explicit parameters; look at the SPKI bytes"."""
    key_path, csr_path = tmp_path / "key.pem", tmp_path / "csr.der"
    command = [
        "openssl",
        "ecparam",
        "-name",
        "prime256v1",
        "-genkey",
        "-noout",
        "-param_enc",
        "explicit",
        "-out",
        key_path,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    command = ["openssl", "req", "-new", "-key", key_path, "-subj", "/CN=a", "-outform", "DER", "-out", csr_path]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    with pytest.raises(CsrError, match="does not name its curve"):
        parse_csr(csr_path.read_bytes())


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_one_key_has_one_encoding(kind: str) -> None:
    spki_der = csrs.spki(shared_key(kind))
    assert encode_public_key(parse_public_key(spki_der)) == spki_der


def test_public_key_bits_wants_a_public_key() -> None:
    for spki_der in (b"", der.sequence(der.sequence(), der.encode(der.BIT_STRING, b"\x01\x02"))):
        with pytest.raises(PkiError, match="SubjectPublicKeyInfo"):
            public_key_bits(spki_der)


# --- step 4: the signature ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_refuses_the_signature_of_another_key(kind: str) -> None:
    with pytest.raises(CsrError, match="not made by its own key"):
        parse_csr(forge_csr(shared_key(kind, 1), spki_der=csrs.spki(shared_key(kind))))


@pytest.mark.parametrize("signature", [b"", b"\0", b"\x30\x06\x02\x01\x00\x02\x01\x00", b"x" * 70])
def test_refuses_junk_signatures(signature: bytes) -> None:
    with pytest.raises(CsrError, match="not made by its own key"):
        parse_csr(forge_csr(signature=signature))


@pytest.mark.parametrize("hash_name", ["md5", "sha1"])
def test_refuses_weak_hashes(hash_name: str, tmp_path: Path) -> None:
    """RULES §4: signatures with MD5 or SHA-1 prove nothing any more."""
    key = shared_key("RSA")
    oid, algorithm = {"md5": ("4", hashes.MD5()), "sha1": ("5", hashes.SHA1())}[hash_name]
    template = forge_csr(key)
    info = der.Reader(template).read_sequence().read_any().encoding
    assert isinstance(key, rsa.RSAPrivateKey)
    weak = der.sequence(
        info,
        der.sequence(der.oid(f"1.2.840.113549.1.1.{oid}"), der.null()),
        der.bit_string(key.sign(info, padding.PKCS1v15(), algorithm)),
    )
    with pytest.raises(CsrError, match="with SHA-256 or better"):
        parse_csr(weak)


@pytest.mark.parametrize(
    ("kind", "algorithm", "message"),
    [
        ("P-256", der.sequence(der.oid("1.2.840.10045.4.1")), "use the key's own type"),  # ECDSA with SHA-1
        ("P-256", der.sequence(der.oid("1.2.840.113549.1.1.11"), der.null()), "use the key's own type"),
        ("RSA", csrs.ECDSA_SHA256, "use the key's own type"),
        ("RSA", der.sequence(der.oid("1.3.101.112")), "use the key's own type"),
        ("Ed25519", csrs.ECDSA_SHA256, "use the key's own type"),
        ("P-256", der.sequence(der.oid("1.2.840.10045.4.3.2"), der.null()), "parameters"),
        ("RSA", der.sequence(der.oid("1.2.840.113549.1.1.11"), der.integer(1)), "parameters"),
        ("RSA", der.sequence(der.oid("1.2.840.113549.1.1.11"), der.null(), der.null()), "DER"),
    ],
)
def test_refuses_other_algorithms(kind: str, algorithm: bytes, message: str) -> None:
    with pytest.raises(CsrError, match=message):
        parse_csr(forge_csr(shared_key(kind), algorithm=algorithm))


def test_rsa_parameters_may_be_absent() -> None:
    """RFC 4055 §5: "Implementations MUST accept the parameters being absent as well as present.\""""
    parse_csr(forge_csr(shared_key("RSA"), algorithm=der.sequence(der.oid("1.2.840.113549.1.1.11"))))


@pytest.mark.parametrize("hash_algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA"])
def test_any_good_hash_goes_with_any_key(kind: str, hash_algorithm: hashes.HashAlgorithm) -> None:
    """What openssl signs with by default does not follow the curve."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    key = shared_key(kind)
    assert isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    assert isinstance(hash_algorithm, hashes.SHA256 | hashes.SHA384 | hashes.SHA512)
    assert parse_csr(builder.sign(key, hash_algorithm).public_bytes(Encoding.DER)).public_key == key.public_key()


# --- step 5: subjectAltName --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        (0xA0, "otherName"),
        (0x81, "rfc822Name"),
        (0xA3, "x400Address"),
        (0xA4, "directoryName"),
        (0xA5, "ediPartyName"),
        (0x86, "uniformResourceIdentifier"),
        (0x88, "registeredID"),
        (0x89, "unknown"),
        (0x0C, "unknown"),
    ],
)
def test_refuses_other_kinds_of_names(tag: int, kind: str) -> None:
    """RULES §4: "Any other SAN type is badCSR": a name that was not validated must not come along with one that was."""
    san = csrs.subject_alt_name(csrs.dns_name(b"a.example"), csrs.general_name(tag, b""))
    with pytest.raises(CsrError, match=kind):
        parse_csr(forge_csr(attributes=[csrs.extension_request(san)]))


@pytest.mark.parametrize("length", [0, 1, 3, 5, 8, 15, 17, 32])
def test_refuses_addresses_of_other_lengths(length: int) -> None:
    """RFC 5280 §4.2.1.6: "the octet string MUST contain exactly four octets" or, for IPv6, "exactly sixteen octets"."""
    san = csrs.subject_alt_name(csrs.general_name(0x87, b"\1" * length))
    with pytest.raises(CsrError, match="4 or 16"):
        parse_csr(forge_csr(attributes=[csrs.extension_request(san)]))


def test_refuses_an_empty_subject_alt_name() -> None:
    """RFC 5280 §4.2.1.6: "the sequence MUST contain at least one entry.\""""
    with pytest.raises(CsrError, match="without a name"):
        parse_csr(forge_csr(attributes=[csrs.extension_request(csrs.subject_alt_name())]))


def test_refuses_a_dns_name_that_is_not_ascii() -> None:
    with pytest.raises(CsrError, match="not ascii"):
        parse_csr(
            forge_csr(attributes=[csrs.extension_request(csrs.subject_alt_name(csrs.dns_name("ä.example".encode())))])
        )


# --- Rule 2: any bytes give a value or a CsrError -------------------------------------------------------------------------------


@PROPERTY
@given(st.binary(max_size=300))
@example(b"0")
def test_random_bytes_raise_csr_errors_only(data: bytes) -> None:
    with pytest.raises(CsrError):
        parse_csr(data)


@pytest.mark.parametrize("kind", ["P-256", "RSA", "Ed25519"])
def test_mutations_raise_csr_errors_only(kind: str) -> None:
    """A CSR with one to three octets changed, cut or doubled is refused; a change that leaves it valid is of no other names."""
    generator = random.Random(8555)
    original = build_csr(
        shared_key(kind), dns_names=NAMES, ip_addresses=ADDRESSES, common_name=NAMES[0], extensions=HARMFUL
    )
    expected = parse_csr(original)
    for _ in range(400):
        data = bytearray(original)
        for _ in range(generator.randint(1, 3)):
            at = generator.randrange(len(data))
            match generator.randrange(4):
                case 0:
                    data[at] = generator.randrange(256)
                case 1:
                    del data[at : at + generator.randint(1, 8)]
                case 2:
                    data[at:at] = data[at : at + generator.randint(1, 8)]
                case _:
                    data[at] = generator.choice((0x00, 0x02, 0x03, 0x05, 0x30, 0x31, 0x7F, 0x80, 0x84, 0xA0, 0xFF))
        try:
            assert parse_csr(bytes(data)) == expected
        except CsrError:
            continue


def test_inner_mutations_raise_csr_errors_only() -> None:
    """The same below the signature: what is signed by its key may still be anything."""
    generator = random.Random(5280)
    parts = [
        (
            "subject",
            csrs.name((csrs.COMMON_NAME, der.encode(0x0C, b"a.example")), ("2.5.4.6", der.encode(0x13, b"DE"))),
        ),
        (
            "attribute",
            csrs.extension_request(
                csrs.subject_alt_name(csrs.dns_name(b"a.example"), csrs.general_name(0x87, b"\1" * 4))
            ),
        ),
        ("spki", csrs.spki(shared_key("RSA"))),
        ("spki", csrs.spki(shared_key("P-256"))),
    ]
    for part, original in parts:
        for _ in range(150):
            data = bytearray(original)
            for _ in range(generator.randint(1, 3)):
                data[generator.randrange(len(data))] = generator.choice(
                    (0x00, 0x01, 0x30, 0x31, 0x7F, 0x80, 0xFF, generator.randrange(256))
                )
            mutated = bytes(data)
            if part == "subject":
                csr_der = forge_csr(subject=mutated)
            elif part == "attribute":
                csr_der = forge_csr(attributes=[mutated])
            else:
                csr_der = forge_csr(spki_der=mutated)
            try:
                parse_csr(csr_der)
            except CsrError:
                continue


@PROPERTY
@given(
    dns_names=st.lists(st.text(st.characters(max_codepoint=127), min_size=1, max_size=30), max_size=5, unique=True),
    ip_addresses=st.lists(st.ip_addresses().map(str), max_size=5, unique=True),
    common_name=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16),  # 64 octets
)
def test_reads_what_the_library_writes(dns_names: list[str], ip_addresses: list[str], common_name: str | None) -> None:
    """Two parsers, one meaning: cryptography's reading of the CSR is ours."""
    csr_der = build_csr(shared_key(), dns_names=dns_names, ip_addresses=ip_addresses, common_name=common_name)
    request = parse_csr(csr_der)
    assert request.dns_names == set(dns_names)
    assert request.ip_addresses == set(ip_addresses)
    assert request.common_names == (() if common_name is None else (common_name,))
    theirs = x509.load_der_x509_csr(csr_der)
    assert theirs.public_key() == request.public_key
    assert theirs.is_signature_valid
