"""keys: what is taken for a key, and what a block brings about; the public half is all that leaves the command."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from acmeca.cli.key_files import read_public_key
from acmeca.errors import AcmecaError
from tests.cli.conftest import Acmeca, issue
from tests.support.csrs import build_csr, shared_key, spki
from tests.support.installations import Installation
from tests.support.jose import new_key
from tests.support.processes import clean_environment
from tests.support.terminal import on_terminal

PEM, DER = Encoding.PEM, Encoding.DER


def digest(key: Any) -> str:
    return hashlib.sha256(spki(key)).hexdigest()


def forms(key: Any) -> dict[str, tuple[bytes, str]]:
    """Everything that people keep a key in, with what it is taken for."""
    public, csr = key.public_key(), x509.load_der_x509_csr(build_csr(key, dns_names=["a.localhost"]))
    private = {
        f"private {name} {coding}": (key.private_bytes(encoding, form, NoEncryption()), "private key")
        for coding, encoding in (("PEM", PEM), ("DER", DER))
        for name, form in (("PKCS8", PrivateFormat.PKCS8), ("traditional", PrivateFormat.TraditionalOpenSSL))
        if name == "PKCS8" or not isinstance(key, ed25519.Ed25519PrivateKey)
    }
    spki_format = PublicFormat.SubjectPublicKeyInfo
    return private | {
        "public PEM": (public.public_bytes(PEM, spki_format), "public key"),
        "public DER": (public.public_bytes(DER, spki_format), "public key"),
        "request PEM": (csr.public_bytes(PEM), "certificate request"),
        "request DER": (csr.public_bytes(DER), "certificate request"),
    }


class TestFiles:
    @pytest.mark.parametrize("kind", ["P-256", "RSA", "Ed25519"])
    def test_every_form(self, tmp_path: Path, kind: str) -> None:
        key = shared_key(kind)
        for name, (data, what) in forms(key).items():
            path = tmp_path / name
            path.write_bytes(data)
            found = read_public_key(path)
            assert (found.sha256, found.what) == (digest(key), what), name
            assert found.spki_der == spki(key)
            assert found.is_private == ("private" in name)

    def test_a_private_key_beside_what_was_made_of_it(self, tmp_path: Path) -> None:
        """As openssl writes them: parameters before, text around, the certificate request behind."""
        key = shared_key()
        made = forms(key)
        path = tmp_path / "all.pem"
        path.write_bytes(
            b"Bag Attributes\n-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
            + made["request PEM"][0]
            + made["private traditional PEM"][0]
        )
        assert read_public_key(path).is_private

    def test_an_accounts_key(self, tmp_path: Path) -> None:
        """certbot keeps a JWK with its private members."""
        key = new_key()
        path = tmp_path / "private_key.json"
        path.write_text(json.dumps(key.jwk | {"d": "c2VjcmV0"}))
        found = read_public_key(path)
        assert (found.sha256, found.what) == (digest(key.private), "private key")
        path.write_text(json.dumps(key.jwk))
        assert not read_public_key(path).is_private

    def test_a_compressed_point_is_the_same_key(self, tmp_path: Path) -> None:
        key = shared_key()
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        compressed = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
        path = tmp_path / "compressed.der"
        path.write_bytes(head + compressed)
        assert read_public_key(path).sha256 == digest(key)

    def test_several_keys(self, tmp_path: Path) -> None:
        """A chain: it must not be the issuer's key that is blocked."""
        one, other = shared_key("P-256"), shared_key("RSA")
        path = tmp_path / "chain.pem"
        path.write_bytes(forms(one)["public PEM"][0] + forms(other)["public PEM"][0])
        with pytest.raises(AcmecaError, match="holds 2 keys") as caught:
            read_public_key(path)
        assert digest(one) in str(caught.value)
        assert digest(other) in str(caught.value)

    def test_an_encrypted_one(self, tmp_path: Path) -> None:
        path = tmp_path / "encrypted.pem"
        path.write_bytes(shared_key().private_bytes(PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
        with pytest.raises(AcmecaError, match="openssl pkey -in"):
            read_public_key(path)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x30\x00",
            b"hello",
            b"{}",
            b"{",
            b"[1]",
            b'{"kty":"oct","k":"c2VjcmV0"}',
            b"{" * 5000,
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
            b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
            bytes((1 << 20) + 1),
        ],
        ids=range(13),
    )
    def test_what_is_none(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "file"
        path.write_bytes(data)
        with pytest.raises(AcmecaError, match="file"):
            read_public_key(path)


def test_show_by_file_digest_and_serial(ca: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    listed = json.loads(acmeca(ca, "list", "--json", "--name", "first.localhost").stdout)["certificates"][0]
    shown = json.loads(acmeca(ca, "show", listed["serial"], "--json").stdout)
    path = tmp_path / "cert.pem"
    path.write_text(shown["pem"])
    spelt = ":".join(shown["spki_sha256"].upper()[at : at + 2] for at in range(0, 64, 2))
    documents = [
        json.loads(acmeca(ca, "keys", "show", key, "--json").stdout)
        for key in (str(path), shown["spki_sha256"], f"SHA256:{spelt}", listed["serial"], f"0x{listed['serial']}")
    ]
    assert all(document == documents[0] for document in documents)
    assert documents[0]["sha256"] == shown["spki_sha256"]
    assert documents[0]["kind"] == "ECDSA, P-256"
    assert documents[0]["blocked"] is None
    assert documents[0]["account"] is None
    assert [item["serial"] for item in documents[0]["certificates"]] == [listed["serial"]]
    said = acmeca(ca, "keys", "show", listed["serial"])
    assert f"  {listed['serial']}  valid, to 20" in said.stdout
    assert "blocked       no" in said.stdout


def test_block_and_revoke(stopped: Installation, acmeca: Acmeca) -> None:
    serial = issue(stopped, "a.localhost")
    blocked = acmeca(stopped, "keys", "block", serial, "--why", "laptop stolen", "--yes")
    assert blocked.code == 0
    assert blocked.stdout.startswith("Blocked ")
    assert f"acmeca revoke {serial} --reason keyCompromise" in blocked.stdout
    again = acmeca(stopped, "keys", "block", serial, "--why", "for the certificate", "--yes", "--revoke")
    assert "Blocked already, since " in again.stdout
    assert "Revoked 1 certificate that had it." in again.stdout
    assert "revoked" in acmeca(stopped, "show", serial).stdout
    document = json.loads(acmeca(stopped, "keys", "block", serial, "--why", "x", "--yes", "--revoke", "--json").stdout)
    assert (document["new"], document["revoked"]) == (False, [])
    assert document["blocked"]["why"] == "laptop stolen"
    listed = acmeca(stopped, "keys", "list")
    (line,) = listed.stdout.splitlines()[1:]
    assert line.split()[0] == document["sha256"]
    assert line.endswith("laptop stolen")


@pytest.mark.parametrize("answers", [("y", "y"), ("y", "n"), ("n",)])
def test_block_on_a_terminal_asks_twice(stopped: Installation, acmeca: Acmeca, answers: tuple[str, ...]) -> None:
    """What it brings about is shown before; whether certificates are revoked is a question of its own."""
    serial = issue(stopped, "a.localhost")
    command = stopped._command("keys", "block", serial, "--why", "laptop stolen")
    with on_terminal(command, env=clean_environment()) as terminal:
        shown = terminal.expect("Block it (laptop stolen)? This cannot be undone [y/N]: ")
        assert "certificates  1 certificate" in shown
        assert serial in shown
        terminal.type(answers[0])
        if len(answers) > 1:
            terminal.expect("Revoke 1 certificate for keyCompromise too? [y/N]: ")
            terminal.type(answers[1])
        assert terminal.wait() == (1 if answers == ("n",) else 0)
    assert ("No key is blocked" in acmeca(stopped, "keys", "list").stderr) == (answers == ("n",))
    assert ("keyCompromise" in acmeca(stopped, "show", serial).stdout) == (answers == ("y", "y"))


def test_a_revocation_for_key_compromise_is_listed(stopped: Installation, acmeca: Acmeca) -> None:
    assert acmeca(stopped, "keys", "list").stderr == "No key is blocked.\n"
    serials = [issue(stopped, f"{number}.localhost") for number in range(2)]
    for serial in serials:
        assert acmeca(stopped, "revoke", serial, "--reason", "keyCompromise", "--yes").code == 0
    text = acmeca(stopped, "keys", "list").stdout
    assert all(f"keyCompromise of certificate {serial}" in text for serial in serials)
    assert "More than 1" in acmeca(stopped, "keys", "list", "--limit", "1").stderr
    assert len(json.loads(acmeca(stopped, "keys", "list", "--json").stdout)["keys"]) == 2


def test_a_key_that_nobody_has(running: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    """A key that leaked before it came here: from its private half, of which nothing is told to anybody."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "leaked.pem"
    pem = key.private_bytes(PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem)
    said = acmeca(running, "keys", "block", str(path), "--why", "in a public repository", "--yes")
    assert said.code == 0
    assert "This file holds a private key." in said.stderr
    assert digest(key) in said.stdout
    database = b"".join(file.read_bytes() for file in running.data_dir.rglob("acmeca.db*"))
    journal = b"".join(file.read_bytes() for file in running.data_dir.rglob("journal/*"))
    secret = key.private_numbers().private_value.to_bytes(32)
    assert hashlib.sha256(spki(key)).digest() in database
    assert secret not in database + journal
    assert pem not in database + journal
    unknown = acmeca(running, "keys", "show", "ab" * 32)
    assert "unknown: nothing here has this key" in unknown.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("block", "ab" * 32), 2, "--why"),
        (("block", "ab" * 32, "--why", "x"), 2, "add --yes"),
        (("block", "ab" * 32, "--why", " ", "--yes"), 1, "why: a reason"),
        (("block", "ab" * 32, "--why", "x" * 201, "--yes"), 1, "why: a reason"),
        (("show", "no/such/file"), 1, "there is no file"),
        (("show", "cert.pem"), 1, "there is no file"),
        (("show", "0c0ffee0"), 1, "was ever issued here"),
        (("show", "nonsense"), 1, "is no serial"),
    ],
)
def test_refused(running: Installation, acmeca: Acmeca, arguments: tuple[str, ...], code: int, told: str) -> None:
    said = acmeca(running, "keys", *arguments)
    assert said.code == code
    assert told in said.stderr


def test_keys_that_nobody_can_have(running: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    for name, key in {
        "small": rsa.generate_private_key(65537, 1024),
        "curve": ec.generate_private_key(ec.SECP256K1()),
        "ed448": ed448.Ed448PrivateKey.generate(),
    }.items():
        path = tmp_path / f"{name}.pem"
        path.write_bytes(key.public_key().public_bytes(PEM, PublicFormat.SubjectPublicKeyInfo))
        said = acmeca(running, "keys", "show", str(path))
        assert said.code == (0 if name == "small" else 1)


def test_an_issuers_key(running: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    root = running.data_dir / "root.pem"
    said = acmeca(running, "keys", "block", str(root), "--why", "x", "--yes")
    assert said.code == 1
    assert "key of the issuer" in said.stderr
