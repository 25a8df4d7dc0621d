"""The public key in whatever file holds one: a certificate, a request, a public or a private key, an account's JWK.

Rule 1: of a private key nothing is kept but its public half, and nothing else leaves this module.
Rule 2: a file with several keys is refused, with all of them: which one was meant is for a person to say.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from acmeca.acme.jwk import parse_jwk
from acmeca.acme.problem import Problem
from acmeca.errors import AcmecaError

_MAX_OCTETS: Final = 1 << 20
_PEM: Final = re.compile(rb"-----BEGIN (?P<label>[A-Z0-9 ]+)-----.*?-----END (?P=label)-----", re.DOTALL)
_PASSED_OVER: Final = frozenset({"EC PARAMETERS", "DH PARAMETERS"})
_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key of a file: its SubjectPublicKeyInfo, and what it stood in ("certificate", "private key", …)."""

    spki_der: bytes
    what: str

    @property
    def is_private(self) -> bool:
        return self.what.endswith("private key")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.spki_der).hexdigest()


def read_public_key(path: Path) -> FoundKey:
    """The one key of a file. Raises `AcmecaError` for none, for several (rule 2), and for one that is encrypted."""
    with path.open("rb") as file:
        data = file.read(_MAX_OCTETS + 1)
    if len(data) > _MAX_OCTETS:
        raise AcmecaError(f"{path} has more than 1 MiB: it holds no key")
    found: dict[bytes, FoundKey] = {}
    for key in _keys(data, path):
        # A private key goes before what was made of it: that it was read has to be told.
        if key.spki_der not in found or key.is_private:
            found[key.spki_der] = key
    if not found:
        raise AcmecaError(f"{path} holds no key, certificate or request that can be read")
    if len(found) > 1:
        lines = "".join(f"\n  {key.sha256}  ({key.what})" for key in found.values())
        raise AcmecaError(f"{path} holds {len(found)} keys; name the one that is meant by its SHA-256:{lines}")
    return next(iter(found.values()))


def _keys(data: bytes, path: Path) -> Iterator[FoundKey]:
    blocks = list(_PEM.finditer(data))
    for match in blocks:
        label = match["label"].decode()
        if label not in _PASSED_OVER:
            yield _of_block(label, match[0] + b"\n", path)
    if blocks:
        return
    if data.lstrip().startswith(b"{"):
        yield _of_jwk(data, path)
        return
    for what, load in _DER:
        try:
            yield FoundKey(_encode(load(data)), what)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        return


def _of_block(label: str, block: bytes, path: Path) -> FoundKey:
    try:
        if label.endswith("PRIVATE KEY"):
            return FoundKey(_encode(load_pem_private_key(block, password=None).public_key()), "private key")
        if label.endswith("PUBLIC KEY"):
            return FoundKey(_encode(load_pem_public_key(block)), "public key")
        if label.endswith("CERTIFICATE REQUEST"):
            return FoundKey(_encode(x509.load_pem_x509_csr(block).public_key()), "certificate request")
        if label in {"CERTIFICATE", "X509 CERTIFICATE"}:
            return FoundKey(_encode(x509.load_pem_x509_certificate(block).public_key()), "certificate")
    except TypeError:
        raise AcmecaError(
            f"{path}: the private key is encrypted; give its public key: openssl pkey -in {path} -pubout"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise AcmecaError(f"{path}: what stands between BEGIN and END {label} cannot be read") from None
    raise AcmecaError(f"{path} holds a {label}, which has no key in it that can be read")


def _of_jwk(data: bytes, path: Path) -> FoundKey:
    """An account's key as clients keep it (certbot's private_key.json)."""
    try:
        members = json.loads(data)
        private = _PRIVATE_MEMBERS & members.keys()
        key = parse_jwk({name: value for name, value in members.items() if name not in _PRIVATE_MEMBERS})
    except (ValueError, AttributeError, RecursionError, Problem):
        raise AcmecaError(f"{path} is JSON and holds no key that is a JWK") from None
    return FoundKey(_encode(key.key), "private key" if private else "public key")


def _encode(key: Any) -> bytes:
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


_DER: Final[tuple[tuple[str, Callable[[bytes], Any]], ...]] = (
    ("certificate", lambda data: x509.load_der_x509_certificate(data).public_key()),
    ("certificate request", lambda data: x509.load_der_x509_csr(data).public_key()),
    ("public key", load_der_public_key),
    ("private key", lambda data: load_der_private_key(data, password=None).public_key()),
)
