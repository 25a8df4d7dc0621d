"""Private keys in PEM files, and the certificates that go with them.

Rule 1: a key file is readable by its owner and by nobody else, or it is refused (RULES §6).
Rule 2: a file is written under another name, synced, and then put in its place: a crash leaves the old one or the new one.
Rule 3: no message holds anything of a key but its path.
"""

import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from acmeca.errors import AcmecaError
from acmeca.pki.errors import PkiError
from acmeca.pki.signing import PrivateKey, signature_algorithm

_OWNER_ONLY: Final = 0o600


class KeystoreError(AcmecaError):
    """A key that is missing, readable by others, or not a key."""


class UnreadableError(KeystoreError):
    """A file that is there and could not be read or written now: it says nothing about what is in it."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A private key with the certificate for it and the issuers above, leaf first, each as DER."""

    key: PrivateKey
    chain: tuple[bytes, ...]


def load_key(path: Path) -> PrivateKey:
    """The private key in an unencrypted PEM file of mode 0600. Raises `KeystoreError`."""
    return _parse_key(read_private(path), path)


def load_credential(path: Path) -> Credential:
    """A key followed by its certificates in one PEM file of mode 0600. Raises `KeystoreError`."""
    data = read_private(path)
    key = _parse_key(data, path)
    try:
        certificates = x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise KeystoreError(f"{path} holds no certificate beside its key: {error}") from None
    return Credential(key, tuple(item.public_bytes(serialization.Encoding.DER) for item in certificates))


def read_private(path: Path) -> bytes:
    """What is in a secret file, when nobody else can read it. Raises `KeystoreError`."""
    try:
        with path.open("rb") as file:
            complaint = complaint_about_mode(path, os.fstat(file.fileno()))  # of the file that is read, not of the name
            data = b"" if complaint else file.read()
    except FileNotFoundError:
        raise KeystoreError(f"{path} is missing: bring it from another server of this CA, or from a backup") from None
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from None
    if complaint is not None:
        raise KeystoreError(complaint)
    return data


def write_key(path: Path, key: PrivateKey) -> None:
    """Write a new key file, durably; an existing file is never replaced (`KeystoreError`)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        raise KeystoreError(f"{path} exists; a key is never overwritten. Move it away if it is of no use any more")
    write_durably(path, _encode_key(key))


def write_credential(path: Path, credential: Credential) -> None:
    """Write a key with its certificates, in place of the credential that was there before."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    chain = b"".join(
        x509.load_der_x509_certificate(item).public_bytes(serialization.Encoding.PEM) for item in credential.chain
    )
    write_durably(path, _encode_key(credential.key) + chain)


def write_durably(path: Path, data: bytes, *, mode: int = _OWNER_ONLY) -> None:
    """Put `data` at `path` so that a crash leaves the old content or the new one, never a part of it."""
    # Nobody can have made this file before us, so nobody else can hold it open.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask must neither widen nor narrow it
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_leftovers(data_dir: Path) -> None:
    """Delete what `write_durably` left when it was killed: a part of a file, and perhaps of a key.

    Only for who holds the store's lock: nobody else is writing.
    """
    for folder in (data_dir, data_dir / "keys", data_dir / "root"):
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def complaint_about_mode(path: Path, status: os.stat_result | None = None) -> str | None:
    """What is wrong with the permissions of a secret file, or None."""
    found = path.stat() if status is None else status
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return f"{path} has mode {mode:04o}, so that others can read it; run: chmod 600 {path}"
    if found.st_uid not in {os.geteuid(), 0}:
        return f"{path} belongs to another user, who can read and change it; run: chown {os.geteuid()} {path}"
    return None


def _parse_key(data: bytes, path: Path) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise KeystoreError(f"{path} holds no unencrypted private key in PEM form") from None
    try:
        signature_algorithm(key.public_key())  # a key that cannot sign here is refused now, not at the first use
    except PkiError as error:
        raise KeystoreError(f"{path}: {error}") from None
    return key  # type: ignore[return-value]  # the lines above have refused every other kind


def _encode_key(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
