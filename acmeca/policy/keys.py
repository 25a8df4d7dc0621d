"""Which public keys are good enough, for accounts and certificates alike.

Rule 1: the answer is a reason that a person can act on, or None. Nothing is raised, nothing is looked up.
Rule 2: sizes are checked first; every later check costs a few hundred microseconds at the most.
Rule 3: what is checked here was broken in the field: each check names what broke.

Sources: CA/Browser Forum Baseline Requirements §6.1.1.3 and §6.1.6, NIST SP 800-56A §5.6.2.3.3 (points), SP 800-89 §5.3.3
(RSA), CVE-2017-15361 (ROCA), CVE-2022-26320 (close primes), CVE-2008-0166 (Debian).
"""

import hashlib
import math
import re
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RSA_BITS: Final = (2048, 3072, 4096)
_RSA_EXPONENT: Final = 65537
_CURVES: Final = (SECP256R1, SECP384R1, SECP521R1)

_FIRST_PRIME_NOT_TRIED: Final = 752  # the bound of SP 800-89 §5.3.3
_SMALL_PRIMES: Final = tuple(
    number for number in range(3, _FIRST_PRIME_NOT_TRIED) if all(number % d for d in range(2, math.isqrt(number) + 1))
)
_SMALL_FACTORS: Final = 2 * math.prod(_SMALL_PRIMES)

# ROCA: the library of certain Infineon chips made primes of the form k·M + (65537^a mod M), M a product of the first primes.
# So modulo each of these primes the modulus is a power of 65537. For 17 of them that is a small part of what it could be;
# a key from elsewhere looks so once in 2^27. (Nemec et al., "The Return of Coppersmith's Attack", CCS 2017, §4.)
_ROCA_LARGEST_PRIME: Final = 167


def _powers(base: int, prime: int) -> frozenset[int]:
    return frozenset(pow(base, exponent, prime) for exponent in range(prime - 1))


_ROCA_RESIDUES: Final = tuple(
    (prime, residues)
    for prime in _SMALL_PRIMES
    if prime <= _ROCA_LARGEST_PRIME and len(residues := _powers(_RSA_EXPONENT, prime)) < prime - 1
)
_FERMAT_ROUNDS: Final = 100

# The curve of Ed25519: -x² + y² = 1 + d·x²·y² modulo p (RFC 8032 §5.1).
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P

_WEAK_KEY_LINE: Final = re.compile(r"[0-9a-f]{20}\Z")


class KeyType(StrEnum):
    """The kinds of keys that can be good enough, as a profile names them."""

    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"
    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    ED25519 = "ed25519"


def check_key(key: object, spki_der: bytes | None, *, weak_keys: frozenset[bytes] = frozenset()) -> str | None:
    """Why the key is not accepted, or None.

    `key` is a public key of `cryptography`; `spki_der` the SubjectPublicKeyInfo as it was sent, where there is one (in a
    CSR). `weak_keys` comes from `parse_weak_keys`.
    """
    reason: str | None
    match key:
        case RSAPublicKey():
            numbers = key.public_numbers()
            reason = _why_rsa_is_bad(numbers.n, numbers.e) or _why_rsa_is_known(numbers.n, weak_keys)
        case EllipticCurvePublicKey():
            reason = _why_curve_is_bad(key)
        case Ed25519PublicKey():
            reason = _why_ed25519_is_bad(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
        case _:
            return "its type is not supported: use ECDSA (P-256, P-384, P-521), RSA or Ed25519"
    if reason is None and spki_der is not None:
        reason = _why_spki_is_bad(key, spki_der)
    return reason


def key_type(key: object) -> KeyType:
    """What kind of key it is, for one that `check_key` has nothing against; ValueError for another kind."""
    match key:
        case RSAPublicKey():
            return KeyType(f"rsa{key.key_size}")
        case EllipticCurvePublicKey() if isinstance(key.curve, _CURVES):
            return KeyType(f"p{key.curve.key_size}")
        case Ed25519PublicKey():
            return KeyType.ED25519
        case _:
            raise ValueError(f"a {type(key).__name__} is no kind of key that is certified")


def parse_weak_keys(text: str) -> frozenset[bytes]:
    """The suffixes of a list of known RSA keys in the format of Debian's openssl-blacklist; ValueError names a bad line.

    A line holds the last 20 hex digits of the SHA-1 of what `openssl rsa -modulus` prints; `#` starts a comment.
    """
    suffixes = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        if _WEAK_KEY_LINE.match(line) is None:
            raise ValueError(f"line {number} is not 20 lower-case hex digits")
        suffixes.add(bytes.fromhex(line))
    return frozenset(suffixes)


def _why_rsa_is_bad(n: int, e: int) -> str | None:
    if n.bit_length() not in RSA_BITS:
        return f"its RSA modulus has {n.bit_length()} bits: use 2048, 3072 or 4096"
    if e != _RSA_EXPONENT:
        return "its RSA exponent is not 65537"
    if math.gcd(n, _SMALL_FACTORS) != 1:
        return f"its RSA modulus has a prime factor below {_FIRST_PRIME_NOT_TRIED}: it was not made by an RSA key generator"
    if all(n % prime in residues for prime, residues in _ROCA_RESIDUES):
        return "its RSA modulus has the mark of keys that anybody can factor (ROCA, CVE-2017-15361): make one elsewhere"
    if _has_close_factors(n):
        return "its RSA primes are so close that anybody can find them (CVE-2022-26320): make a key with other software"
    return None


def _has_close_factors(n: int) -> bool:
    """Fermat's method: n = a² - b² = (a - b)(a + b), with `a` from the root of n upwards."""
    a = math.isqrt(n - 1) + 1
    b_squared = a * a - n
    for _ in range(_FERMAT_ROUNDS):
        if math.isqrt(b_squared) ** 2 == b_squared:
            return True
        b_squared += 2 * a + 1
        a += 1
    return False


def _why_rsa_is_known(n: int, weak_keys: frozenset[bytes]) -> str | None:
    if not weak_keys:
        return None
    # The list hashes text, so SHA-1 is given; it identifies here and proves nothing.
    digest = hashlib.sha1(f"Modulus={n:X}\n".encode(), usedforsecurity=False).digest()
    return "it is on the list of keys that everybody has (CVE-2008-0166)" if digest[10:] in weak_keys else None


def _why_curve_is_bad(key: EllipticCurvePublicKey) -> str | None:
    # That the point lies on the curve was checked when the key object was made.
    return (
        None
        if isinstance(key.curve, _CURVES)
        else f"its curve {key.curve.name} is not supported: use P-256, P-384 or P-521"
    )


def _why_ed25519_is_bad(encoded: bytes) -> str | None:
    """RFC 8032 §5.1.3, which `cryptography` leaves for later; and points of small order, for which anybody can sign."""
    y = int.from_bytes(encoded, "little") & ((1 << 255) - 1)
    y_squared = y * y % _P
    x_squared = (y_squared - 1) * pow(_D * y_squared + 1, -1, _P) % _P
    # Order 1 and 2 are the points with x = 0, order 4 those with y = 0. A point of order 8 doubles to one with y = 0; the
    # doubled y is (x² + y²) over something that is never 0.
    if x_squared == 0 or y_squared == 0 or (x_squared + y_squared) % _P == 0:
        return "its point has a small order, so that anybody can sign for it"
    is_square = pow(x_squared, (_P - 1) // 2, _P) == 1
    if y >= _P or not is_square:
        return "its 32 octets are no point of Ed25519"
    return None


def _why_spki_is_bad(key: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey, spki_der: bytes) -> str | None:
    """One key, one encoding: named curve (RFC 5480 §2.1.1), uncompressed point, NULL parameters (RFC 3279 §2.3.1).

    `cryptography` takes explicit curve parameters and id-RSASSA-PSS too, and does not tell.
    """
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki_der:
        return None
    if isinstance(key, EllipticCurvePublicKey):
        return "it is not encoded with a named curve and an uncompressed point"
    return "its SubjectPublicKeyInfo is not the usual encoding of such a key"
