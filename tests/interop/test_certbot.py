"""certbot, the current one, as its users run it: issue, renew, revoke, accounts, and what it says when the CA refuses.

Rule 1: what certbot says is what a person sees, so the tests read it.
Rule 2: what it was given is checked by openssl and by the CA's own word, not by what certbot believes.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.clients.certbot import Certbot, CurrentCertbot
from tests.interop.clients.client import Issued
from tests.interop.clients.fleet import kinds
from tests.interop.conftest import NewClient
from tests.support.installations import Installation
from tests.support.processes import reserve_ports, run

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def new_certbot(new_client: NewClient) -> Callable[[], Certbot]:
    (kind,) = (kind for kind in kinds() if kind.client is CurrentCertbot)
    return lambda: new_client(kind)


@pytest.fixture(scope="module")
def certbot(new_certbot: Callable[[], Certbot]) -> Certbot:
    """A user who has an account already, with one certificate, `first.localhost`."""
    certbot = new_certbot()
    certbot.certonly("first.localhost")
    return certbot


def text_of(path: Path) -> str:
    return run(["openssl", "x509", "-in", path, "-noout", "-text"]).stdout


def shown(ca: Installation, path: Path) -> dict[str, Any]:
    """What the CA's administrator sees of a certificate."""
    return ca.operate("show", serial=Issued(path, path).serial)


def verify(certbot: Certbot, name: str) -> None:
    run(
        [
            *("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name),
            *("-CAfile", certbot.ca.root_path, "-untrusted", certbot.live(name, "chain.pem")),
            certbot.live(name, "cert.pem"),
        ]
    )


def test_one_name_with_the_default_key(certbot: Certbot) -> None:
    """certbot's defaults: an ECDSA P-256 key, http-01; the chain is the leaf and the intermediate, without the root."""
    verify(certbot, "first.localhost")
    text = text_of(certbot.live("first.localhost", "cert.pem"))
    assert "ASN1 OID: prime256v1" in text
    assert "DNS:first.localhost" in text
    full_chain = certbot.live("first.localhost", "fullchain.pem").read_text()
    assert full_chain.count("BEGIN CERTIFICATE") == 2
    assert certbot.ca.root_path.read_text().strip() not in full_chain


def test_several_names_with_an_rsa_key(certbot: Certbot) -> None:
    """Three names in one order, each of them validated; an RSA key gets keyEncipherment too (NSS asks for it)."""
    names = ("a.localhost", "b.localhost", "deep.under.c.localhost")
    certbot.certonly(*names, more=("--key-type", "rsa", "--rsa-key-size", "3072"))
    for name in names:
        run(
            [
                *("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name),
                *("-CAfile", certbot.ca.root_path, "-untrusted", certbot.live(names[0], "chain.pem")),
                certbot.live(names[0], "cert.pem"),
            ]
        )
    text = text_of(certbot.live(names[0], "cert.pem"))
    assert "Public-Key: (3072 bit)" in text
    assert "Digital Signature, Key Encipherment" in text
    assert shown(certbot.ca, certbot.live(names[0], "cert.pem"))["names"] == sorted(names)


def test_a_larger_curve(certbot: Certbot) -> None:
    """`--elliptic-curve secp384r1`."""
    certbot.certonly("p384.localhost", more=("--key-type", "ecdsa", "--elliptic-curve", "secp384r1"))
    assert "ASN1 OID: secp384r1" in text_of(certbot.live("p384.localhost", "cert.pem"))
    verify(certbot, "p384.localhost")


def test_a_second_certificate_uses_the_same_account(certbot: Certbot) -> None:
    """One registration, many orders: certbot finds its account again, and the CA has one."""
    said = certbot.certonly("second.localhost").said
    assert "Account registered" not in said
    assert len(certbot.accounts) == 1
    first, second = (shown(certbot.ca, certbot.live(f"{name}.localhost", "cert.pem")) for name in ("first", "second"))
    assert first["account"] == second["account"]
    assert first["order"] != second["order"]


def test_renewal(certbot: Certbot) -> None:
    """`certbot renew --force-renewal`: a new certificate for the same names, and the old one stays valid."""
    certbot.certonly("renewed.localhost")
    path = certbot.live("renewed.localhost", "cert.pem")
    before = shown(certbot.ca, path)
    said = certbot("renew", "--force-renewal", "--cert-name", "renewed.localhost", "--no-random-sleep-on-renew").said
    assert "all renewals succeeded" in said
    after = shown(certbot.ca, path)
    assert after["serial"] != before["serial"]
    assert after["names"] == before["names"] == ["renewed.localhost"]
    assert after["spki_sha256"] != before["spki_sha256"]
    assert certbot.ca.operate("show", serial=before["serial"])["status"] == "valid"
    verify(certbot, "renewed.localhost")


def test_renewal_when_the_ca_says_so(new_certbot: Callable[[], Certbot]) -> None:
    """RFC 9773: `certbot renew` asks about each certificate; one is to be renewed by the operator's word, the other's time has not
    come."""
    certbot = new_certbot()
    names = ["told.ari.localhost", "left.ari.localhost"]
    for name in names:
        certbot.certonly(name)
    before = [shown(certbot.ca, certbot.live(name, "cert.pem"))["serial"] for name in names]
    window = certbot.ca.operate("renewal_set", serials=before[:1], at_once=True, why="https://wiki.example.org/ca/42")
    certbot("renew", "--no-random-sleep-on-renew")
    after = [shown(certbot.ca, certbot.live(name, "cert.pem"))["serial"] for name in names]
    assert after[0] != before[0]
    assert after[1] == before[1]
    # certbot does not say which certificate the new one replaces, so that it is known by its names.
    progress = certbot.ca.operate("renewal_progress", id=window["id"])
    assert (progress["certificates"], progress["renewed"], progress["left"]) == (1, 1, 0)


def test_revocation_by_the_account(certbot: Certbot) -> None:
    """RFC 8555 §7.6, signed with the account's key; a second time it is "alreadyRevoked", and certbot says so."""
    certbot.certonly("gone.localhost")
    path = certbot.live("gone.localhost", "cert.pem")
    said = certbot("revoke", "--cert-path", path, "--reason", "superseded", "--no-delete-after-revoke").said
    assert "successfully revoked" in said
    item = shown(certbot.ca, path)
    assert (item["status"], item["reason"]) == ("revoked", "superseded")
    again = certbot("revoke", "--cert-path", path, "--no-delete-after-revoke", code=1)
    assert "the certificate is revoked already" in again.said
    assert "urn:ietf:params:acme:error:alreadyRevoked" in (certbot.directory / "logs" / "letsencrypt.log").read_text()


def test_revocation_by_the_certificates_key(
    certbot: Certbot, new_certbot: Callable[[], Certbot], tmp_path: Path
) -> None:
    """§7.6, signed with the certificate's own key by somebody without an account. keyCompromise blocks the key."""
    certbot.certonly("leaked.localhost")
    path, key = certbot.live("leaked.localhost", "cert.pem"), certbot.live("leaked.localhost", "privkey.pem")
    stranger = new_certbot()
    said = stranger(
        *("revoke", "--cert-path", path, "--key-path", key, "--reason", "keycompromise", "--no-delete-after-revoke")
    ).said
    assert "successfully revoked" in said
    assert stranger.accounts == []
    item = shown(certbot.ca, path)
    assert (item["status"], item["reason"]) == ("revoked", "keyCompromise")

    csr = tmp_path / "leaked.csr"
    run(
        [
            "openssl",
            "req",
            "-new",
            "-key",
            key,
            "-subj",
            "/",
            "-addext",
            "subjectAltName=DNS:leaked.localhost",
            "-out",
            csr,
        ]
    )
    refused = certbot(
        *("certonly", "--standalone", "--http-01-port", str(certbot.ca.http_port), "--csr", csr),
        *(
            "--cert-path",
            tmp_path / "x.pem",
            "--chain-path",
            tmp_path / "y.pem",
            "--fullchain-path",
            tmp_path / "z.pem",
        ),
        code=1,
    )
    assert "reported as compromised" in refused.said
    assert not (tmp_path / "x.pem").exists()


def test_another_key_does_not_revoke(certbot: Certbot, new_certbot: Callable[[], Certbot], tmp_path: Path) -> None:
    """§7.6: who has neither the account, nor the authorizations, nor the key, is refused."""
    path = certbot.live("first.localhost", "cert.pem")
    key = tmp_path / "other.key.pem"
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key])
    # certbot itself compares key and certificate first, so the CA never sees this one.
    assert new_certbot()("revoke", "--cert-path", path, "--key-path", key, "--no-delete-after-revoke", code=1).code == 1
    stranger = new_certbot()
    stranger("register", "--agree-tos", "--register-unsafely-without-email")
    refused = stranger("revoke", "--cert-path", path, "--no-delete-after-revoke", code=1)
    assert "neither was issued this certificate nor holds valid authorizations" in refused.said
    assert shown(certbot.ca, path)["status"] == "valid"


def test_an_account_from_registration_to_its_end(new_certbot: Callable[[], Certbot]) -> None:
    """register, show_account, update_account, unregister (§7.3.2, §7.3.6); afterwards the account can do nothing."""
    certbot = new_certbot()
    certbot("register", "--agree-tos", "--email", "ops@example.org", "--no-eff-email")
    account_url = json.loads(certbot.accounts[0].read_text())["uri"]
    assert account_url.startswith(certbot.ca.base_url + "/acme/account/")
    assert "ops@example.org" in certbot("show_account").said
    certbot("update_account", "--email", "noc@example.org", "--no-eff-email")
    said = certbot("show_account").said
    assert "noc@example.org" in said
    assert "ops@example.org" not in said
    kept = certbot.directory / "kept"
    shutil.copytree(certbot.directory / "config" / "accounts", kept)
    assert "Account deactivated" in certbot("unregister").said
    # Somebody restores the account's files from a backup: the CA does not take the key any more.
    shutil.rmtree(certbot.directory / "config" / "accounts")
    shutil.copytree(kept, certbot.directory / "config" / "accounts")
    refused = certbot.certonly("late.localhost", code=1)
    assert "deactivated" in refused.said


def test_a_name_that_policy_refuses(certbot: Certbot) -> None:
    """certbot shows the name and what is allowed, so that a person knows whom to ask; nothing is issued for the rest."""
    refused = certbot.certonly("www.example.com", "fine.localhost", code=1)
    assert "www.example.com" in refused.said
    assert re.search(r"allowed|not issued for|policy", refused.said)
    assert "fine.localhost" not in [
        name for item in certbot.ca.operate("list")["certificates"] for name in item["names"]
    ]


def test_a_validation_that_finds_nobody(certbot: Certbot) -> None:
    """Nothing listens where the CA looks: the message has the address and the port, and says what to check."""
    (elsewhere,) = reserve_ports(1)
    refused = certbot.certonly("closed.localhost", more=("--http-01-port", str(elsewhere)), code=1)
    assert "closed.localhost" in refused.said
    assert str(certbot.ca.http_port) in refused.said
    assert "127.0.0.1" in refused.said
    assert re.search(r"(?i)connection refused|refused", refused.said)


def test_a_dry_run_is_a_real_order(certbot: Certbot) -> None:
    """There is no staging server: with `--server`, certbot's dry run orders here, and throws the certificate away."""
    said = certbot.certonly("dry.localhost", more=("--dry-run",)).said
    assert "dry run was successful" in said
    assert not certbot.live("dry.localhost", "cert.pem").exists()
    listed = certbot.ca.operate("list", name="dry.localhost")["certificates"]
    assert [item["status"] for item in listed] == ["valid"]
