"""Copies for linting: certificates signed by keys that nobody trusts.

Rule 1: a throwaway key is made in this process when first needed, never leaves this module and never signs anything but
copies; a copy is never served and never stored.
Rule 2: a copy differs from the real certificate in its signature alone. Its to-be-signed bytes are the ones that the
issuer's key will sign, if the lints find nothing.

The keys are the one use of randomness in `pki`; no value that leaves it depends on them. They are kept, one for each
signature algorithm, because making an RSA key takes a tenth of a second.
"""

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from acmeca.pki import signing
from acmeca.pki.errors import PkiError

_keys: Final[dict[bytes, signing.PrivateKey]] = {}  # by the DER of their AlgorithmIdentifier; grows to five


def sign_copy(tbs: bytes, public_key: signing.PublicKey) -> x509.Certificate:
    """A certificate of these to-be-signed bytes, signed with the algorithm of `public_key`, by another key.

    It has been parsed, which is the first lint: raises `PkiError` when the library cannot read it.
    """
    signature = signing.sign_with(_throwaway_key(public_key), tbs)
    try:
        return x509.load_der_x509_certificate(signing.certificate_from_tbs(tbs, signature))
    except (ValueError, x509.InvalidVersion) as error:
        raise PkiError(f"the to-be-signed certificate cannot be read: {error}") from None


def _throwaway_key(public_key: signing.PublicKey) -> signing.PrivateKey:
    algorithm = signing.signature_algorithm(public_key)
    # Two threads may both make one; `setdefault` keeps the first.
    return _keys.get(algorithm) or _keys.setdefault(algorithm, _generate_like(public_key))


def _generate_like(public_key: signing.PublicKey) -> signing.PrivateKey:
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(public_key.curve)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)
