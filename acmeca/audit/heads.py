"""Signed heads: the end of a chain at some moment, signed, so that a copy kept elsewhere proves what was there.

Rule 1: the key signs heads and nothing else, and no issuer's key signs a head. What is signed begins with the eight octets of a
length, of which the first is zero, so that it cannot be taken for a TBSCertificate, a CRL or an OCSP answer: those begin with
0x30 (DER's SEQUENCE).
Rule 2: a head is of records that are committed. It says that they were there, not that nothing came after.
Rule 3: keys are Ed25519 (RFC 8032), in their 32 raw octets; a signature has 64.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from acmeca.audit.chain import Head, join_fields

_DOMAIN: Final = b"acmeca audit head 1"
_DAY: Final = 86_400
_HASH_OCTETS: Final = 32
_KEY_OCTETS: Final = 32
_SIGNATURE_OCTETS: Final = 64


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head, when it was signed (Unix seconds), by which key (raw) and its signature. Not verified yet: `is_genuine`."""

    head: Head
    signed_at: int
    public_key: bytes
    signature: bytes

    def to_json(self) -> dict[str, str | int]:
        """The members of a line in the file of heads; `parse_signed_head` reads them."""
        return {
            "writer": self.head.writer,
            "sequence": self.head.sequence,
            "hash": self.head.hash.hex(),
            "signed_at": datetime.fromtimestamp(self.signed_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "public_key": base64.b64encode(self.public_key).decode("ascii"),
            "signature": base64.b64encode(self.signature).decode("ascii"),
        }


def sign_head(head: Head, key: ed25519.Ed25519PrivateKey, *, at: datetime) -> SignedHead:
    """Sign a head. `at` is cut to whole seconds."""
    seconds = int(at.timestamp())
    return SignedHead(head, seconds, raw_public_key(key.public_key()), key.sign(_message(head, seconds)))


def is_genuine(signed: SignedHead) -> bool:
    """Whether the signature is the named key's over this head. Whose key that is, is another question."""
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(signed.public_key)
        key.verify(signed.signature, _message(signed.head, signed.signed_at))
    except (InvalidSignature, ValueError, OverflowError):
        return False
    return True


def parse_signed_head(document: object) -> SignedHead:
    """A signed head from the JSON that `to_json` gave. Raises `ValueError` for anything else."""
    if not isinstance(document, Mapping):
        raise ValueError("a head is a JSON object")  # noqa: TRY004  (what was read is of the wrong form, whatever its type)
    writer, sequence, signed_at = (document.get(name) for name in ("writer", "sequence", "signed_at"))
    if not isinstance(writer, str) or not isinstance(signed_at, str):
        raise ValueError("writer and signed_at are texts")  # noqa: TRY004
    if not isinstance(sequence, int) or isinstance(sequence, bool) or not 0 < sequence < 1 << 63:
        raise ValueError("sequence is a number from 1")
    moment = datetime.fromisoformat(signed_at)
    if moment.tzinfo is None:
        raise ValueError("signed_at needs a time zone")
    return SignedHead(
        Head(writer, sequence, _octets(bytes.fromhex(str(document.get("hash"))), _HASH_OCTETS)),
        int(moment.timestamp()),
        _octets(base64.b64decode(str(document.get("public_key")), validate=True), _KEY_OCTETS),
        _octets(base64.b64decode(str(document.get("signature")), validate=True), _SIGNATURE_OCTETS),
    )


def raw_public_key(key: ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def parse_public_key(pem: bytes) -> bytes:
    """The raw key of a PEM file (SubjectPublicKeyInfo). Raises `ValueError` for what is no Ed25519 key."""
    try:
        key = serialization.load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ValueError("it is no Ed25519 key")  # noqa: TRY004  (a file's content, not an argument's type)
    return raw_public_key(key)


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, in hex: `openssl pkey -pubin -in audit.pub.pem -outform DER | sha256sum`."""
    der = ed25519.Ed25519PublicKey.from_public_bytes(public_key).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()


def select_kept(heads: Sequence[SignedHead], *, newest: int) -> list[int]:
    """Which of one writer's heads to keep when they have become many, by their places in the order of their signing.

    The first of each day, the `newest` ones, and both sides of each place where the numbers fall back: they tell of a chain that is
    not there any more, and have to be known for it the next time as well.
    """
    days: set[int] = set()
    kept = []
    for place, signed in enumerate(heads):
        day = signed.signed_at // _DAY
        falls_back = place + 1 < len(heads) and heads[place + 1].head.sequence <= signed.head.sequence
        fell_back = place > 0 and heads[place - 1].head.sequence >= signed.head.sequence
        if day not in days or falls_back or fell_back or place >= len(heads) - newest:
            kept.append(place)
        days.add(day)
    return kept


def _message(head: Head, signed_at: int) -> bytes:
    """What is signed (rule 1)."""
    return join_fields(
        _DOMAIN,
        head.writer.encode(),
        head.sequence.to_bytes(8, "big"),
        head.hash,
        signed_at.to_bytes(8, "big", signed=True),
    )


def _octets(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ValueError(f"{len(value)} octets stand where {length} are expected")
    return value
