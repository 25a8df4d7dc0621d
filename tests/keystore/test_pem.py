"""Keys in files: for their owner alone, whole or not at all, and never in a message (RULES §6)."""

import os
import stat
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, x25519

from acmeca.keystore import pem
from acmeca.keystore.pem import (
    Credential,
    KeystoreError,
    complaint_about_mode,
    load_credential,
    load_key,
    remove_leftovers,
    write_credential,
    write_durably,
    write_key,
)
from tests.support.csrs import KEY_KINDS, shared_key
from tests.support.server import temporary_directory

NOW = datetime(2026, 11, 1, tzinfo=UTC)
NO_ENCRYPTION = serialization.NoEncryption()


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path


def encode(key: object, *, password: bytes | None = None) -> bytes:
    encryption = NO_ENCRYPTION if password is None else serialization.BestAvailableEncryption(password)
    return key.private_bytes(  # type: ignore[attr-defined, no-any-return]  # every private key has it
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def private_file(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def self_signed(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )


class TestKeys:
    @pytest.mark.parametrize("kind", KEY_KINDS)
    def test_back_again(self, folder: Path, kind: str) -> None:
        key = shared_key(kind)
        write_key(folder / "new" / "folder" / "a.key.pem", key)
        loaded = load_key(folder / "new" / "folder" / "a.key.pem")
        assert encode(loaded) == encode(key)

    def test_modes(self, folder: Path) -> None:
        """0600 whatever the umask says; folders for their owner too."""
        for mask in (0o000, 0o022, 0o277):
            previous = os.umask(mask)
            try:
                path = folder / f"{mask}" / "a.pem"
                if mask == 0o277:
                    path.parent.mkdir(mode=0o700)
                    path.parent.chmod(0o700)
                write_key(path, shared_key())
            finally:
                os.umask(previous)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0

    def test_never_overwritten(self, folder: Path) -> None:
        path = folder / "a.pem"
        write_key(path, shared_key())
        with pytest.raises(KeystoreError, match="never overwritten"):
            write_key(path, shared_key("P-256", 1))
        assert encode(load_key(path)) == encode(shared_key())

    @pytest.mark.parametrize("mode", [0o601, 0o604, 0o610, 0o620, 0o640, 0o644, 0o660, 0o666, 0o777])
    def test_readable_by_others(self, folder: Path, mode: int) -> None:
        """RULES §6: "refused if group or others can read them", and the message says what to do."""
        path = private_file(folder / "a.pem", encode(shared_key()), mode)
        with pytest.raises(KeystoreError, match=f"chmod 600 {path}"):
            load_key(path)
        assert complaint_about_mode(path)

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
    def test_for_the_owner(self, folder: Path, mode: int) -> None:
        path = private_file(folder / "a.pem", encode(shared_key()), mode)
        assert complaint_about_mode(path) is None
        load_key(path)

    def test_missing(self, folder: Path) -> None:
        with pytest.raises(KeystoreError, match="missing"):
            load_key(folder / "nothing.pem")
        with pytest.raises(KeystoreError, match="Is a directory"):
            load_key(folder)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"junk",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            encode(shared_key(), password=b"secret"),
            shared_key()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        ],
        ids=["empty", "junk", "broken", "encrypted", "public"],
    )
    def test_no_key(self, folder: Path, data: bytes) -> None:
        with pytest.raises(KeystoreError, match="no unencrypted private key"):
            load_key(private_file(folder / "a.pem", data))

    @pytest.mark.parametrize(
        "key",
        [
            ec.generate_private_key(ec.SECP256K1()),
            ec.generate_private_key(ec.SECP192R1()),
            ed448.Ed448PrivateKey.generate(),
            x25519.X25519PrivateKey.generate(),
            dsa.generate_private_key(1024),
        ],
        ids=lambda key: type(key).__name__,
    )
    def test_keys_that_cannot_sign_here(self, folder: Path, key: object) -> None:
        with pytest.raises(Exception, match="cannot sign here"):
            load_key(private_file(folder / "a.pem", encode(key)))

    def test_no_message_holds_a_key(self, folder: Path) -> None:
        """Rule 3 of keystore/pem.py, down to the traceback."""
        data = encode(shared_key()).replace(b"M", b"!", 1)
        path = private_file(folder / "a.pem", data)
        body = data.split(b"\n")[1].decode()
        try:
            load_key(path)
        except KeystoreError as error:
            text = "".join(traceback.format_exception(error))
        assert body[:20] not in text
        assert str(path) in text


class TestCredentials:
    def test_back_again_and_replaced(self, folder: Path) -> None:
        for number in range(2):
            key = shared_key("P-256", number)
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            credential = Credential(key, (self_signed(key), self_signed(key)))
            write_credential(folder / "keys" / "a.pem", credential)
            loaded = load_credential(folder / "keys" / "a.pem")
            assert encode(loaded.key) == encode(key)
            assert loaded.chain == credential.chain
        assert [path.name for path in (folder / "keys").iterdir()] == ["a.pem"]

    def test_no_certificate(self, folder: Path) -> None:
        with pytest.raises(KeystoreError, match="no certificate"):
            load_credential(private_file(folder / "a.pem", encode(shared_key())))

    def test_readable_by_others(self, folder: Path) -> None:
        with pytest.raises(KeystoreError, match="chmod 600"):
            load_credential(private_file(folder / "a.pem", encode(shared_key()), 0o644))


class TestDurably:
    @pytest.mark.parametrize("step", ["fsync", "replace", "fchmod"])
    def test_the_old_or_the_new(self, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        """Rule 2: "a crash leaves the old one or the new one"; a failure at any step leaves the old and no rubbish."""
        path = folder / "a.pem"
        write_durably(path, b"old")

        def fail(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        if step == "replace":
            monkeypatch.setattr(Path, "replace", fail)
        else:
            monkeypatch.setattr(pem.os, step, fail)
        with pytest.raises(OSError, match="No space"):
            write_durably(path, b"new")
        monkeypatch.undo()
        assert path.read_bytes() == b"old"
        assert list(folder.iterdir()) == [path]

    def test_the_order_of_things(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Written, synced, put in place, and the directory synced: in this order, or a power cut leaves an empty key."""
        steps: list[str] = []
        fsync, replace = os.fsync, Path.replace

        def noted_fsync(descriptor: int) -> None:
            steps.append("sync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync file")
            fsync(descriptor)

        def noted_replace(path: Path, target: Path) -> Path:
            steps.append("replace")
            assert path.read_bytes() == b"new"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            return replace(path, target)

        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(Path, "replace", noted_replace)
        write_durably(folder / "a.pem", b"new")
        assert steps == ["sync file", "replace", "sync folder"]

    def test_a_mode_of_ones_own(self, folder: Path) -> None:
        previous = os.umask(0o077)
        try:
            write_durably(folder / "root.pem", b"x", mode=0o644)
        finally:
            os.umask(previous)
        assert stat.S_IMODE((folder / "root.pem").stat().st_mode) == 0o644

    def test_a_symbolic_link_is_not_followed(self, folder: Path) -> None:
        """Whoever may make files beside ours does not get the key somewhere else."""
        elsewhere = folder / "elsewhere"
        (folder / "a.pem").symlink_to(elsewhere)
        write_durably(folder / "a.pem", b"secret")
        assert not elsewhere.exists()
        assert not (folder / "a.pem").is_symlink()

    def test_a_temporary_file_that_is_there_is_not_taken(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever made it could read what is written into it."""
        monkeypatch.setattr(pem.secrets, "token_hex", lambda _: "known")
        (folder / ".a.pem.known.tmp").touch(mode=0o666)
        with pytest.raises(FileExistsError):
            write_durably(folder / "a.pem", b"secret")
        assert (folder / ".a.pem.known.tmp").read_bytes() == b""

    def test_leftovers(self, folder: Path) -> None:
        """What a kill left of a key is removed, and nothing else."""
        (folder / "keys").mkdir()
        for name in (".a.pem.tmp", "keys/.b.key.pem.tmp"):
            (folder / name).write_bytes(b"half a key")
        for name in ("a.pem", "keys/b.key.pem", ".hidden", "c.tmp"):
            (folder / name).write_bytes(b"whole")
        remove_leftovers(folder)
        left = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert left == {"a.pem", "keys/b.key.pem", ".hidden", "c.tmp"}
