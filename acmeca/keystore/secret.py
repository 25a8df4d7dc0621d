"""Secrets that are no key pair: random octets in a file of their own.

Rule 1: such a file is readable by its owner and by nobody else, or it is refused (RULES §6), and it is written as keys are
(`pem.py`). It is never replaced.
Rule 2: no message holds anything of a secret but its path.
"""

from pathlib import Path
from typing import Final

from acmeca.keystore.pem import KeystoreError, read_private, write_durably

SECRET_LENGTH: Final = 32  # octets


def load_secret(path: Path) -> bytes:
    """The octets of a secret file. Raises `KeystoreError`: it is missing, others can read it, or it is no secret."""
    secret = read_private(path)
    if len(secret) != SECRET_LENGTH:
        raise KeystoreError(f"{path} has {len(secret)} bytes and not {SECRET_LENGTH}: it is no secret that acmeca made")
    return secret


def write_secret(path: Path, secret: bytes) -> None:
    """Write a new secret file, durably. For one caller at a time; a file that is there is a `KeystoreError`."""
    if len(secret) != SECRET_LENGTH:
        raise ValueError(f"a secret has {SECRET_LENGTH} bytes")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        raise KeystoreError(f"{path} exists; a secret is never overwritten")
    write_durably(path, secret)
