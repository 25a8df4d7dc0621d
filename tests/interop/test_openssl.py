"""openssl as a relying party: TLS, chains, OCSP and CRLs, asked and verified by somebody else's code.

Rule 1: what openssl says is read together with its exit code: `openssl ocsp` exits with 0 for a revoked certificate too.
Rule 2: the certificates come over ACME, so that what is checked is what clients get.
"""

import base64
import re
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.interop.conftest import RequireTool
from tests.interop.relying_parties import World, fetched
from tests.support.installations import Installation
from tests.support.processes import Finished, Process, clean_environment, reserve_ports, run

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def openssl(require_tool: RequireTool) -> Path:
    return require_tool("openssl", "openssl")


# --- TLS and the chain --------------------------------------------------------------------------------------------


def s_client(ca: Installation, *arguments: str | Path, code: int | None = 0) -> Finished:
    return run(
        ["openssl", "s_client", "-connect", f"localhost:{ca.acme_port}", "-servername", "localhost", *arguments],
        code=code,
    )


def test_the_acme_listener_verifies_with_the_root_alone(openssl: Path, ca: Installation) -> None:
    """The listener's own certificate is from the CA, for its name, and comes with the intermediate."""
    said = s_client(
        ca,
        "-CAfile",
        ca.root_path,
        "-verify_hostname",
        "localhost",
        "-verify_return_error",
        "-x509_strict",
        "-showcerts",
    )
    assert "Verify return code: 0 (ok)" in said.stdout
    assert said.stdout.count("BEGIN CERTIFICATE") == 2, "leaf and intermediate, and no root"
    assert ca.root_path.read_text().strip() not in said.stdout


def test_the_acme_listener_is_not_somebody_else(openssl: Path, ca: Installation, tmp_path: Path) -> None:
    """Under another name, or by another root, it is refused: what the test above shows is not shown for anything."""
    wrong_name = s_client(
        ca, "-CAfile", ca.root_path, "-verify_hostname", "elsewhere.localhost", "-verify_return_error", code=1
    )
    assert "hostname mismatch" in wrong_name.said
    stranger = tmp_path / "stranger.pem"
    run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=Stranger", "-keyout", tmp_path / "stranger.key", "-out", stranger),
        ]
    )
    assert "unable to get" in s_client(ca, "-CAfile", stranger, "-verify_return_error", code=1).said


@pytest.mark.parametrize(("version", "works"), [("-tls1_3", True), ("-tls1_2", True), ("-tls1_1", False)])
def test_the_acme_listeners_tls_versions(openssl: Path, ca: Installation, version: str, *, works: bool) -> None:
    """TLS 1.2 and 1.3; nothing older (RFC 8996)."""
    said = s_client(
        ca, "-CAfile", ca.root_path, "-verify_return_error", version, "-cipher", "ALL:@SECLEVEL=0", code=None
    )
    assert (said.code == 0) == works
    assert ("Verify return code: 0 (ok)" in said.stdout and "Cipher is (NONE)" not in said.stdout) == works


def test_a_certificate_is_good_for_a_tls_server_and_nothing_else(world: World) -> None:
    """RFC 5280 by openssl's strictest reading; a leaf is for servers, not for clients, and no CA."""
    name = "good.openssl.localhost"
    world.verify(world.good.certificate, "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name)
    assert (
        "unsuitable certificate purpose" in world.verify(world.good.certificate, "-purpose", "sslclient", code=2).said
    )
    assert "hostname mismatch" in world.verify(world.good.certificate, "-verify_hostname", "x.localhost", code=2).said
    leaf_as_issuer = run(
        [
            "openssl",
            "verify",
            "-CAfile",
            world.ca.root_path,
            "-untrusted",
            world.good.certificate,
            world.other.certificate,
        ],
        code=2,
    )
    assert "unable to get local issuer certificate" in leaf_as_issuer.said


def test_what_stands_in_a_certificate(world: World) -> None:
    """Empty subject and so a critical SAN (RFC 5280 §4.2.1.6); where to ask for its status, over plain http; a serial of 128
    random bits and more."""
    text = run(["openssl", "x509", "-in", world.good.certificate, "-noout", "-text"]).stdout
    assert re.search(r"Subject: *\n", text)
    assert re.search(r"Subject Alternative Name: critical\s+DNS:good\.openssl\.localhost\n", text)
    assert re.search(r"Basic Constraints: critical\s+CA:FALSE", text)
    assert re.search(r"Key Usage: critical\s+Digital Signature\n", text)
    assert re.search(r"Extended Key Usage: *\n\s+TLS Web Server Authentication\n", text)
    assert f"OCSP - URI:{world.ca.status_url}/ocsp/" in text
    assert f"CA Issuers - URI:{world.ca.status_url}/issuer/" in text
    assert f"URI:{world.ca.status_url}/crl/" in text
    assert 16 < len(bytes.fromhex(world.good.serial)) <= 20


def test_the_issuer_is_where_the_certificate_says(world: World) -> None:
    """RFC 5280 §4.2.2.1: caIssuers is the issuer's certificate in DER."""
    text = run(["openssl", "x509", "-in", world.good.certificate, "-noout", "-ext", "authorityInfoAccess"]).stdout
    match = re.search(r"CA Issuers - URI:(\S+)", text)
    assert match is not None
    issuer = fetched(match[1], world.directory / "issuer.der")
    as_pem = run(["openssl", "x509", "-inform", "DER", "-in", issuer]).stdout
    assert as_pem.strip() == world.intermediate.read_text().strip()


# --- OCSP ---------------------------------------------------------------------------------------------------------

NONCES = pytest.mark.parametrize("nonce", ["-nonce", "-no_nonce"])
DIGESTS = pytest.mark.parametrize("digest", ["-sha1", "-sha256", "-sha384", "-sha512"])


@NONCES
@DIGESTS
def test_ocsp_good_and_revoked(world: World, digest: str, nonce: str) -> None:
    """RFC 6960 §2.2 by POST, with CertIDs of each hash, with a nonce and without; the answer verifies with the root alone,
    for the responder's certificate is in it. In one question both certificates get their own answer."""
    said = world.ocsp(
        *(nonce, digest, "-cert", world.good.certificate, digest, "-cert", world.revoked.certificate),
    )
    assert "Response verify OK" in said.stderr
    assert "WARNING" not in said.stderr  # "no nonce in response"
    assert f"{world.good.certificate}: good" in said.stdout
    assert re.search(
        rf"{re.escape(str(world.revoked.certificate))}: revoked\n.*\n.*\n\s*Reason: superseded\n", said.stdout
    )
    assert "Revocation Time" in said.stdout


@pytest.mark.parametrize("kind", ["good", "revoked"])
def test_ocsp_about_one(world: World, kind: str) -> None:
    """The question that can be answered from what was signed before: twice the same."""
    leaf = {"good": world.good, "revoked": world.revoked}[kind]
    first, second = (world.ocsp("-no_nonce", "-cert", leaf.certificate) for _ in range(2))
    assert f": {kind}" in first.stdout
    assert first.stdout == second.stdout


def test_ocsp_by_get(world: World) -> None:
    """RFC 6960 appendix A: the request, base64 and percent-encoded, as the path of a GET; openssl reads the answer."""
    request = world.directory / "request.der"
    run(
        [
            *("openssl", "ocsp", "-issuer", world.intermediate, "-cert", world.good.certificate, "-no_nonce"),
            *("-reqout", request),
        ]
    )
    encoded = quote(base64.b64encode(request.read_bytes()).decode(), safe="")
    answer = fetched(f"{world.ocsp_url}/{encoded}", world.directory / "answer.der")
    said = run(
        [
            *("openssl", "ocsp", "-respin", answer, "-CAfile", world.ca.root_path, "-issuer", world.intermediate),
            *("-cert", world.good.certificate),
        ]
    )
    assert "Response verify OK" in said.stderr
    assert f"{world.good.certificate}: good" in said.stdout


def test_ocsp_about_a_serial_that_was_never_issued(world: World) -> None:
    """RULES §5: never "good" for a serial that we did not record, but a signed `unknown`."""
    said = world.ocsp("-serial", "0x01000000000000000000000000000000aa", "-serial", "1")
    assert "Response verify OK" in said.stderr
    assert said.stdout.count(": unknown") == 2


def test_ocsp_about_another_issuers_certificate(world: World) -> None:
    """The root's name and key with our leaf's serial: not our answer to give. RFC 9919 §3.2.1: `unauthorized`."""
    said = run(
        [
            *("openssl", "ocsp", "-CAfile", world.ca.root_path, "-url", world.ocsp_url, "-issuer", world.ca.root_path),
            *("-serial", f"0x{world.good.serial}"),
        ],
        code=None,
    )
    assert "Responder Error: unauthorized (6)" in said.said
    assert "good" not in said.stdout


def test_ocsp_times(world: World) -> None:
    """An answer has a thisUpdate and a nextUpdate, and openssl takes it with half a minute of tolerance."""
    said = world.ocsp("-cert", world.good.certificate, "-validity_period", "30", "-status_age", "3600")
    assert "Response verify OK" in said.stderr
    assert "Next Update" in said.stdout
    assert "Status times invalid" not in said.said


# --- CRLs ---------------------------------------------------------------------------------------------------------


def crl_files(world: World) -> tuple[Path, Path]:
    """The intermediate's CRL and the root's, from the URLs in the certificates below them, as PEM."""
    found = []
    for certificate in (world.good.certificate, world.intermediate):
        url = world.extension(certificate, "crlDistributionPoints")
        der = fetched(url, world.directory / f"{certificate.stem}.crl")
        pem = der.with_suffix(".crl.pem")
        run(["openssl", "crl", "-inform", "DER", "-in", der, "-out", pem])
        found.append(pem)
    return found[0], found[1]


def test_crls_verify_and_list(world: World) -> None:
    """RFC 5280 §5: signed by the issuer, version 2 with a number and the authority's key identifier; the revoked certificate
    with its reason, and nothing else of ours."""
    of_intermediate, of_root = crl_files(world)
    for crl, issuer in ((of_intermediate, world.intermediate), (of_root, world.ca.root_path)):
        assert "verify OK" in run(["openssl", "crl", "-in", crl, "-noout", "-CAfile", issuer, "-verify"]).said
    text = run(["openssl", "crl", "-in", of_intermediate, "-noout", "-text"]).stdout
    assert "Version 2" in text
    assert re.search(r"X509v3 CRL Number: *\n\s+\d+", text)
    assert "X509v3 Authority Key Identifier" in text
    serials = re.findall(r"Serial Number: ([0-9A-F]+)", text)
    assert world.revoked.serial.upper() in serials
    assert world.good.serial.upper() not in serials
    assert re.search(rf"{world.revoked.serial.upper()}\n(?:.*\n){{1,4}}\s+Superseded", text)
    assert "No Revoked Certificates" in run(["openssl", "crl", "-in", of_root, "-noout", "-text"]).stdout


def test_crl_check_with_a_download(world: World) -> None:
    """`-crl_check -crl_download`: openssl fetches the leaf's CRL from its CDP."""
    world.verify(world.good.certificate, "-crl_check", "-crl_download")
    refused = world.verify(world.revoked.certificate, "-crl_check", "-crl_download", code=2)
    assert "error 23 at 0 depth lookup: certificate revoked" in refused.said


def test_crl_check_all(world: World) -> None:
    """`-crl_check_all` asks for the root's CRL too, also about the root itself, which has no CDP to download from."""
    of_intermediate, of_root = crl_files(world)
    with_files = ("-crl_check_all", "-CRLfile", of_root, "-CRLfile", of_intermediate)
    world.verify(world.good.certificate, *with_files)
    assert "certificate revoked" in world.verify(world.revoked.certificate, *with_files, code=2).said
    downloaded = ("-crl_check_all", "-crl_download", "-CRLfile", of_root)
    world.verify(world.good.certificate, *downloaded)
    assert "certificate revoked" in world.verify(world.revoked.certificate, *downloaded, code=2).said
    missing = world.verify(world.good.certificate, "-crl_check_all", "-CRLfile", of_intermediate, code=2)
    assert "unable to get certificate CRL" in missing.said


def test_a_renewed_crl_of_the_root(world: World) -> None:
    """`acmeca crl --root-key`: the new one is at the root's CDP at once, verifies, has a higher number, and serves for
    `-crl_check_all` as the first one did; a root's CRL by another key does not."""
    _, before = crl_files(world)
    number = re.compile(r"crlNumber=0x([0-9A-F]+)")

    def number_of(path: Path) -> int:
        said = run(["openssl", "crl", "-in", path, "-noout", "-crlnumber"]).stdout
        match = number.search(said)
        assert match is not None, said
        return int(match[1], 16)

    first = number_of(before)
    (key,) = (world.ca.data_dir / "root").glob("*.key.pem")
    said = world.ca.cli("crl", "--root-key", str(key)).stdout
    of_intermediate, of_root = crl_files(world)
    assert number_of(of_root) > first
    assert f"Published CRL {number_of(of_root)} of " in said
    assert (
        "verify OK" in run(["openssl", "crl", "-in", of_root, "-noout", "-CAfile", world.ca.root_path, "-verify"]).said
    )
    both = ("-crl_check_all", "-CRLfile", of_root, "-CRLfile", of_intermediate)
    world.verify(world.good.certificate, *both)
    assert "certificate revoked" in world.verify(world.revoked.certificate, *both, code=2).said
    # What is shown above is not shown for any CRL.
    tampered = bytearray(base64.b64decode("".join(of_root.read_text().splitlines()[1:-1])))
    tampered[-1] ^= 1
    forged = of_root.with_suffix(".forged")
    forged.write_bytes(tampered)
    options = ("-inform", "DER", "-in", forged, "-noout", "-CAfile", world.ca.root_path, "-verify")
    assert "verify failure" in run(["openssl", "crl", *options], code=None).said


# --- a server that uses a certificate -----------------------------------------------------------------------------


def test_a_server_with_a_stapled_answer(world: World) -> None:
    """`openssl s_server` fetches the OCSP answer itself and staples it; `s_client` sees the status and verifies the chain."""
    (port,) = reserve_ports(1)
    known = world.directory / "known.pem"  # s_server looks here for the issuer that it asks about
    known.write_text(world.ca.root_path.read_text() + world.intermediate.read_text())
    command: list[str | Path] = [
        *("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-CAfile", known, "-status_verbose", "-www"),
        *("-cert", world.good.certificate, "-key", world.good.key, "-cert_chain", world.good.chain),
    ]
    with Process(command, env=clean_environment()) as server:
        server.wait_for_line(r"^ACCEPT")
        said = run(
            [
                *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "good.openssl.localhost"),
                *("-CAfile", world.ca.root_path, "-verify_return_error", "-status"),
            ]
        )
    assert "Verify return code: 0 (ok)" in said.stdout
    assert "OCSP Response Status: successful" in said.stdout
    assert "Cert Status: good" in said.stdout
