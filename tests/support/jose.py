"""An outside client's JOSE: keys of every kind, and requests signed well or in every wrong way.

Rule 1: nothing of acmeca is used here, so that a mistake in acmeca cannot hide in its own tests.
Rule 2: `sign` makes a good request; each keyword changes one thing about it.
"""

import base64
import functools
import hashlib
import hmac
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KeyKind = Literal["P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519"]
KEY_KINDS: Final[tuple[KeyKind, ...]] = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519")

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

_CURVES: Final[Mapping[str, tuple[ec.EllipticCurve, str, hashes.HashAlgorithm, int]]] = {
    "P-256": (ec.SECP256R1(), "ES256", hashes.SHA256(), 32),
    "P-384": (ec.SECP384R1(), "ES384", hashes.SHA384(), 48),
    "P-521": (ec.SECP521R1(), "ES512", hashes.SHA512(), 66),
}


_MACS: Final[Mapping[str, str]] = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}


@dataclass(frozen=True)
class SigningKey:
    """A private key with the `alg` that goes with it."""

    private: PrivateKey
    algorithm: str

    @functools.cached_property
    def jwk(self) -> dict[str, str]:
        """The public key's required members."""
        public = self.private.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            return {"crv": "Ed25519", "kty": "OKP", "x": encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw))}
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            return {"e": encode_integer(numbers.e), "kty": "RSA", "n": encode_integer(numbers.n)}
        name, length = next(
            (name, length) for name, (curve, _, _, length) in _CURVES.items() if curve.name == public.curve.name
        )
        point = public.public_numbers()
        return {
            "crv": name,
            "kty": "EC",
            "x": encode(point.x.to_bytes(length)),
            "y": encode(point.y.to_bytes(length)),
        }

    @property
    def thumbprint(self) -> str:
        """RFC 7638, base64url."""
        return encode(hashlib.sha256(json.dumps(self.jwk, sort_keys=True, separators=(",", ":")).encode()).digest())

    def sign(self, data: bytes) -> bytes:
        """The JWS signature of `data`, ECDSA as r‖s."""
        match self.private:
            case ed25519.Ed25519PrivateKey():
                return self.private.sign(data)
            case rsa.RSAPrivateKey():
                return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        _, _, hash_, length = next(row for row in _CURVES.values() if row[0].name == self.private.curve.name)
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hash_)))
        return r.to_bytes(length) + s.to_bytes(length)


def new_key(kind: KeyKind = "P-256") -> SigningKey:
    """A fresh key. RSA takes its time: use `shared_key` where any key will do."""
    if kind == "Ed25519":
        return SigningKey(ed25519.Ed25519PrivateKey.generate(), "EdDSA")
    if kind.startswith("RSA-"):
        return SigningKey(rsa.generate_private_key(65537, int(kind[4:])), "RS256")
    curve, algorithm, _, _ = _CURVES[kind]
    return SigningKey(ec.generate_private_key(curve), algorithm)


@functools.cache
def shared_key(kind: KeyKind = "P-256") -> SigningKey:
    """One key of each kind for the whole test run."""
    return new_key(kind)


def sign(
    key: SigningKey,
    *,
    url: str,
    nonce: str | None,
    payload: Mapping[str, object] | bytes = b"",
    kid: str | None = None,
    alg: object = None,
    header: Mapping[str, object] | None = None,
    without: Collection[str] = (),
    protected: bytes | None = None,
    signer: SigningKey | None = None,
    signature: bytes | None = None,
    members: Mapping[str, object] | None = None,
    without_members: Collection[str] = (),
) -> bytes:
    """The body of a request, flattened JWS.

    `payload` is JSON for a mapping, as it is for bytes; b"" makes a POST-as-GET. The key is embedded unless `kid` is given.
    To tamper before signing: `alg`, members of the protected `header` added or replaced, or left out (`without`), the whole
    `protected` header as octets, another `signer`. To tamper afterwards: the `signature`'s octets, members of the envelope
    added or replaced (`members`), or left out (`without_members`).
    """
    names: dict[str, object] = {"alg": key.algorithm if alg is None else alg, "url": url}
    if nonce is not None:
        names["nonce"] = nonce
    if kid is None:
        names["jwk"] = key.jwk
    else:
        names["kid"] = kid
    names |= header or {}
    for name in without:
        del names[name]
    protected_text = encode(json.dumps(names).encode() if protected is None else protected)
    payload_text = encode(payload if isinstance(payload, bytes) else json.dumps(payload).encode())
    signed = f"{protected_text}.{payload_text}".encode()
    envelope: dict[str, object] = {
        "protected": protected_text,
        "payload": payload_text,
        "signature": encode((signer or key).sign(signed) if signature is None else signature),
    }
    envelope |= members or {}
    for name in without_members:
        del envelope[name]
    return json.dumps(envelope, separators=(",", ":")).encode()


def bind(
    key: SigningKey,
    *,
    url: str,
    kid: str,
    hmac_key: str,
    alg: str = "HS256",
    header: Mapping[str, object] | None = None,
    without: Collection[str] = (),
    payload: bytes | None = None,
    mac: bytes | None = None,
    members: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """An external account binding (RFC 8555 §7.3.4) for the account key; `hmac_key` is base64url, as a CA hands it out.

    To tamper before the MAC is made: members of the protected `header` added or replaced, or left out (`without`), another `payload`.
    To tamper afterwards: the `mac`'s octets, `members` of the JWS added or replaced.
    """
    names: dict[str, object] = {"alg": alg, "kid": kid, "url": url} | dict(header or {})
    for name in without:
        del names[name]
    protected = encode(json.dumps(names).encode())
    payload_text = encode(json.dumps(key.jwk).encode() if payload is None else payload)
    signed = f"{protected}.{payload_text}".encode()
    if mac is None:
        mac = hmac.digest(decode(hmac_key), signed, _MACS.get(alg, "sha256"))
    return {"protected": protected, "payload": payload_text, "signature": encode(mac)} | dict(members or {})


def encode(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode_integer(number: int) -> str:
    """Base64urlUInt (RFC 7518 §2)."""
    return encode(number.to_bytes((number.bit_length() + 7) // 8))
