"""RFC 5280 as real verifiers read it: OpenSSL and `cryptography` judge what acmeca issues, and the sentences that bind a CA."""

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import DNSName
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from acmeca.pki import der
from acmeca.pki.extensions import AUTHORITY_KEY_IDENTIFIER
from acmeca.pki.signing import certificate_from_tbs, sign_with
from tests.support.authorities import (
    ADDRESSES,
    NAMED,
    NAMES,
    NOW,
    RESPONDER,
    Authority,
    Forgery,
    intermediate,
    issue,
    root,
)
from tests.support.csrs import KEY_KINDS


def openssl(*arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, timeout=30, check=False)


def write_pem(path: Path, *certificates_der: bytes) -> Path:
    path.write_bytes(
        b"".join(x509.load_der_x509_certificate(item).public_bytes(Encoding.PEM) for item in certificates_der)
    )
    return path


def verify(tmp_path: Path, leaf_der: bytes, authority: Authority, anchor: Authority, *arguments: str) -> str:
    """What `openssl verify -x509_strict` says to a path of three at `NOW`; empty when it is satisfied."""
    anchor_pem = write_pem(tmp_path / "root.pem", anchor.issuer.certificate_der)
    chain_pem = write_pem(tmp_path / "chain.pem", authority.issuer.certificate_der)
    leaf_pem = write_pem(tmp_path / "leaf.pem", leaf_der)
    at = ("-attime", str(int(NOW.timestamp())))
    result = openssl(
        "verify",
        "-x509_strict",
        "-policy_check",
        *at,
        *arguments,
        "-CAfile",
        anchor_pem,
        "-untrusted",
        chain_pem,
        leaf_pem,
    )
    return "" if result.returncode == 0 else (result.stdout + result.stderr).decode()


@pytest.mark.parametrize("issuer_kind", KEY_KINDS)
@pytest.mark.parametrize("kind", ["P-256", "RSA", "Ed25519"])
def test_openssl_verifies_strictly(tmp_path: Path, kind: str, issuer_kind: str) -> None:
    """§6.1: root, intermediate and leaf form a valid path, for a server and for a client, by name and by address."""
    leaf = issue(intermediate(issuer_kind), kind=kind)
    path = (leaf, intermediate(issuer_kind), root(issuer_kind))
    for arguments in (
        ("-purpose", "sslserver", "-verify_hostname", NAMES[0]),
        ("-purpose", "sslserver", "-verify_hostname", NAMES[1].replace("*", "www")),
        ("-purpose", "sslclient"),
        *(("-verify_ip", address) for address in ADDRESSES),
    ):
        assert verify(tmp_path, *path, *arguments) == ""


def test_openssl_refuses_what_was_not_issued(tmp_path: Path) -> None:
    """The check above can fail: other names, other purposes, another root, another time."""
    path = (issue(intermediate()), intermediate(), root())
    assert "hostname mismatch" in verify(tmp_path, *path, "-verify_hostname", "evil.test")
    assert "IP address mismatch" in verify(tmp_path, *path, "-verify_ip", "10.0.0.2")
    assert "unsuitable certificate purpose" in verify(tmp_path, *path, "-purpose", "smimesign")
    assert "unable to get" in verify(tmp_path, path[0], intermediate(), root("P-384"))
    late = str(int((NOW + timedelta(days=91)).timestamp()))
    assert "expired" in verify(tmp_path, *path, "-attime", late)


@pytest.mark.parametrize("issuer_kind", KEY_KINDS)
def test_openssl_takes_the_responder(tmp_path: Path, issuer_kind: str) -> None:
    """RFC 6960 §4.2.2.2: the delegated signer's certificate is issued by the CA itself, with id-kp-OCSPSigning."""
    leaf = issue(intermediate(issuer_kind), template=RESPONDER, dns_names=(), ip_addresses=())
    path = (leaf, intermediate(issuer_kind), root(issuer_kind))
    assert verify(tmp_path, *path, "-purpose", "ocsphelper") == ""
    assert "unsuitable certificate purpose" in verify(tmp_path, *path, "-purpose", "sslserver")
    text = openssl("x509", "-inform", "DER", "-noout", "-text", stdin=leaf).stdout.decode()
    for line in ("CN = OCSP responder", "OCSP No Check", "OCSP Signing", "Digital Signature\n"):
        assert line in text
    for line in ("CRL Distribution Points", "OCSP - URI", "Subject Alternative Name"):
        assert line not in text


def test_openssl_refuses_a_path_that_is_too_long(tmp_path: Path) -> None:
    """§4.2.1.9: pathlen 0 stands in the intermediate, so nothing below a CA that it might sign is valid.

    acmeca would not sign such a CA, so it is forged here with the intermediate's own key.
    """
    forgery = Forgery.of(intermediate("P-256", 1).issuer.certificate_der)
    forgery.issuer = intermediate().issuer.subject_der
    identifier = intermediate().issuer.key_identifier
    forgery.put(AUTHORITY_KEY_IDENTIFIER, der.sequence(der.encode(0x80, identifier)))
    below = certificate_from_tbs(forgery.tbs, sign_with(intermediate().key, forgery.tbs))
    leaf_pem = write_pem(tmp_path / "leaf.pem", issue(intermediate("P-256", 1)))
    chain_pem = write_pem(tmp_path / "chain.pem", below, intermediate().issuer.certificate_der)
    anchor_pem = write_pem(tmp_path / "root.pem", root().issuer.certificate_der)
    at = str(int(NOW.timestamp()))
    result = openssl("verify", "-attime", at, "-CAfile", anchor_pem, "-untrusted", chain_pem, leaf_pem)
    assert result.returncode != 0
    assert b"path length constraint exceeded" in result.stderr


def test_openssl_reads_what_was_written() -> None:
    """A third parser: every field of the leaf as OpenSSL prints it."""
    leaf = issue(intermediate(), kind="RSA", template=NAMED)
    text = openssl("x509", "-inform", "DER", "-noout", "-text", stdin=leaf).stdout.decode()
    for expected in (
        "Version: 3 (0x2)",
        "01:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:01",
        "Signature Algorithm: ecdsa-with-SHA256",
        "Issuer: O = Example, CN = Test Intermediate P-256 0",
        "Not Before: Nov  1 11:55:00 2026 GMT",
        "Not After : Jan 30 11:54:59 2027 GMT",
        "Subject: CN = a.corp.internal",
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "OCSP - URI:http://pki.test/ocsp/issuer",
        "CA Issuers - URI:http://pki.test/issuer/issuer.der",
        "URI:http://pki.test/crl/issuer.crl",
        "X509v3 Subject Alternative Name: \n",
        "DNS:a.corp.internal, DNS:*.b.corp.internal, IP Address:10.0.0.1, IP Address:2001:DB8:0:0:0:0:0:1",
    ):
        assert expected in text


@pytest.mark.parametrize("which", ["root", "intermediate", "leaf", "responder"])
def test_openssl_finds_no_fault_in_the_der(which: str) -> None:
    certificate_der = {
        "root": lambda: root().issuer.certificate_der,
        "intermediate": lambda: intermediate().issuer.certificate_der,
        "leaf": lambda: issue(intermediate()),
        "responder": lambda: issue(intermediate(), template=RESPONDER, dns_names=(), ip_addresses=()),
    }[which]()
    parsed = openssl("asn1parse", "-inform", "DER", "-i", stdin=certificate_der)
    assert parsed.returncode == 0
    assert parsed.stderr == b""
    again = openssl("x509", "-inform", "DER", "-outform", "DER", stdin=certificate_der)
    assert again.stdout == certificate_der


@pytest.mark.parametrize("issuer_kind", ["P-256", "P-384", "RSA"])
def test_the_library_verifies(issuer_kind: str) -> None:
    """cryptography's own path validation, which follows the web's rules more closely than OpenSSL does."""
    leaf = x509.load_der_x509_certificate(issue(intermediate(issuer_kind)))
    store = Store([root(issuer_kind).issuer.certificate])
    builder = PolicyBuilder().store(store).time(NOW.replace(tzinfo=None))
    path = builder.build_server_verifier(DNSName(NAMES[0])).verify(leaf, [intermediate(issuer_kind).issuer.certificate])
    assert len(path) == 3
    with pytest.raises(VerificationError):
        builder.build_server_verifier(DNSName("evil.test")).verify(leaf, [intermediate(issuer_kind).issuer.certificate])


# --- sentences ---------------------------------------------------------------------------------------------------------


def leaf_parts(**arguments: object) -> Forgery:
    return Forgery.of(issue(intermediate(), **arguments))  # type: ignore[arg-type]  # the arguments are of the right types


def extension(forgery: Forgery, dotted: str) -> tuple[bool, bytes]:
    fields = der.Reader(forgery.extensions[dotted]).read_sequence()
    fields.read(der.OBJECT_IDENTIFIER)
    critical = fields.read_optional(der.BOOLEAN) is not None
    return critical, fields.read(der.OCTET_STRING)


def test_4_1_1_2_both_algorithms_are_the_same() -> None:
    """This field MUST contain the same algorithm identifier as the signature field in the sequence tbsCertificate."""
    reader = der.Reader(issue(intermediate())).read_sequence()
    reader.read(der.SEQUENCE)
    assert reader.read_any().encoding == leaf_parts().algorithm


def test_4_1_2_1_version() -> None:
    """When extensions are used, as expected in this profile, version MUST be 3 (value is 2)."""
    assert leaf_parts().version == b"\xa0\x03\x02\x01\x02"


def test_4_1_2_2_serial() -> None:
    """The serial number MUST be a positive integer … Conforming CAs MUST NOT use serialNumber values longer than 20 octets."""
    content = der.Reader(leaf_parts().serial).read(der.INTEGER)
    assert der.parse_integer(content) > 0
    assert len(content) <= 20


def test_4_1_2_4_issuer() -> None:
    """The issuer field MUST contain a non-empty distinguished name (DN)."""
    assert leaf_parts().issuer == Forgery.of(intermediate().issuer.certificate_der).subject != der.sequence()


def test_4_1_2_6_empty_subject() -> None:
    """If … the subject name … is an empty sequence, … the subjectAltName extension MUST be critical; and otherwise, §4.2.1.6,
    when the subject is non-empty, conforming CAs SHOULD mark it as non-critical.
    """
    assert leaf_parts().subject == der.sequence()
    assert extension(leaf_parts(), "2.5.29.17")[0] is True
    assert leaf_parts(template=NAMED).subject != der.sequence()
    assert extension(leaf_parts(template=NAMED), "2.5.29.17")[0] is False


def test_4_2_1_1_authority_key_identifier() -> None:
    """The keyIdentifier field of the authorityKeyIdentifier extension MUST be included in all certificates generated by
    conforming CAs … Conforming CAs MUST mark this extension as non-critical.
    """
    identifier = extension(Forgery.of(intermediate().issuer.certificate_der), "2.5.29.14")
    expected = der.sequence(der.encode(0x80, der.Reader(identifier[1]).read(der.OCTET_STRING)))
    assert extension(leaf_parts(), "2.5.29.35") == (False, expected)


def test_4_2_1_2_subject_key_identifier() -> None:
    """This extension MUST appear in all conforming CA certificates … Conforming CAs MUST mark this extension as non-critical."""
    for certificate_der in (
        root().issuer.certificate_der,
        intermediate().issuer.certificate_der,
        issue(intermediate()),
    ):
        assert extension(Forgery.of(certificate_der), "2.5.29.14")[0] is False


def test_4_2_1_3_key_usage() -> None:
    """Conforming CAs MUST include this extension in certificates that contain public keys that are used to validate digital
    signatures on other public key certificates or CRLs. … at least one of the bits MUST be set to 1.
    """
    for authority in (root(), intermediate()):
        assert extension(Forgery.of(authority.issuer.certificate_der), "2.5.29.15") == (True, b"\x03\x02\x01\x06")
    assert extension(leaf_parts(), "2.5.29.15") == (True, b"\x03\x02\x07\x80")
    assert extension(leaf_parts(kind="RSA"), "2.5.29.15") == (True, b"\x03\x02\x05\xa0")
    assert extension(leaf_parts(kind="Ed25519"), "2.5.29.15") == (True, b"\x03\x02\x07\x80")


def test_4_2_1_9_basic_constraints() -> None:
    """Conforming CAs MUST include this extension in all CA certificates that contain public keys used to validate digital
    signatures on certificates and MUST mark the extension as critical in such certificates.
    """
    assert extension(Forgery.of(root().issuer.certificate_der), "2.5.29.19") == (True, bytes.fromhex("30030101ff"))
    assert extension(Forgery.of(intermediate().issuer.certificate_der), "2.5.29.19") == (
        True,
        bytes.fromhex("30060101ff020100"),
    )
    assert extension(leaf_parts(), "2.5.29.19") == (True, bytes.fromhex("3000"))


def test_4_2_1_13_crl_distribution_points() -> None:
    """The extension SHOULD be non-critical, but this profile RECOMMENDS support for this extension by CAs."""
    critical, value = extension(leaf_parts(), "2.5.29.31")
    uri = der.encode(0x86, b"http://pki.test/crl/issuer.crl")
    assert (critical, value) == (False, der.sequence(der.sequence(der.encode(0xA0, der.encode(0xA0, uri)))))


def test_4_2_2_1_authority_information_access() -> None:
    """Conforming CAs MUST mark this extension as non-critical."""
    for forgery in (leaf_parts(), Forgery.of(intermediate().issuer.certificate_der)):
        assert extension(forgery, "1.3.6.1.5.5.7.1.1")[0] is False


def test_6960_4_2_2_2_1_no_check() -> None:
    """RFC 6960: The value of the extension SHALL be NULL."""
    responder = leaf_parts(template=RESPONDER, dns_names=(), ip_addresses=())
    assert extension(responder, "1.3.6.1.5.5.7.48.1.5") == (False, der.null())
