"""acmeca.policy.keys: keys that were broken in the field are refused, each for its own reason."""

import hashlib
import math
import random
from typing import Final

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.policy import keys
from acmeca.policy.keys import KeyType, check_key, key_type, parse_weak_keys
from tests.support.jose import KEY_KINDS, KeyKind, shared_key
from tests.support.stopwatch import takes_less_than

PROPERTY = settings(deadline=None, max_examples=100)
P: Final = 2**255 - 19

# Two keys that Infineon chips made: the 2048-bit one is test vector mod03 of the finders' own tool (crocs-muni/roca), the
# other its test certificate cert05, which has 2049 bits.
ROCA_2048: Final = int(
    "9dcd7420e420c270a68060eb8b5aa7457a9f6648f86fafed2775cc1f79ae962f1e63f1b9e51c55f9ea6fdc7332e9b0058c9ff2eb1fc89855029cf6aaf"
    "e21e689feb38ac9ffb12f1ce371bb5d0e9aae64161abce74b4244bf68f1edb4411f756a097c8929c14740245ea355f8332d1aa36bb50c7dcb4505da8de"
    "02e4e53d38f8df06097da7524df0df93db48eac8cc4af2d3a16257eb2b2adca6ba464e5974fa92550d31b1babf161e7692d00b86e3dd886ecab4abfbe1"
    "a8f8cc263ff4af55cdb45f4249a5193925f5e983d762f0b6800943eb0267b08f42ed311ce1f5c86eacbc8ce4d3cb7a2fee1ef5641423a1cf4114e5ecf5"
    "0034a60a412523af9e6f4aa11",
    16,
)
# A key of Debian's broken generator and its entry in openssl-blacklist, as Boulder's tests have them.
DEBIAN_2048: Final = int(
    "D673252AF6723C3F72529403EAB7C30DEF3C52F97E799825F4A70191C616ADCF1ECE1113F1625971074C492C592025FDEADBDB146A081826BDF0D77C3"
    "C913DCF1B6F0B3B78F5108D2E493AD0EEE8CA5C021711ADC13D358E61133870FCD19C8E5C22403959782AA82E72AEE53A3D491E3912CE27B27E1A85EA6"
    "9C19A527D28F7934C9823B7E56FDD657DAC83FDC65BB22A98D843DF73238919781B714C81A5E2AFEC71F5C54AA2A27C590AD94C03C1062D50EFCFFAC7"
    "43E3C8A3AE056846A1D756EB862BF4224169D467C35215ADE0AFCC11E85FE629AFB802C4786FF2E9C929BCCF502B3D3B8876C6A11785CC398B389F1D86"
    "BDD9CB0BD4EC13956EC3FA270D",
    16,
)
DEBIAN_ENTRY: Final = "8df20e6961a16398b85a"


def rsa_public(n: int, e: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(e, n).public_key()


def spki(key: object) -> bytes:
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def is_prime(number: int, source: random.Random) -> bool:
    """Miller and Rabin, good enough for a test's primes."""
    if any(number % small == 0 for small in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(8):
        x = pow(source.randrange(2, number - 1), odd, number)
        if x in {1, number - 1}:
            continue
        for _ in range(twos - 1):
            x = x * x % number
            if x == number - 1:
                break
        else:
            return False
    return True


def next_prime(number: int, source: random.Random) -> int:
    number |= 1
    while not is_prime(number, source):
        number += 2
    return number


@pytest.mark.parametrize("kind", KEY_KINDS)
class TestGoodKeys:
    def test_they_are_accepted(self, kind: KeyKind) -> None:
        key = shared_key(kind).private.public_key()
        assert check_key(key, None) is None
        assert check_key(key, spki(key)) is None

    def test_it_takes_less_than_5_ms(self, kind: KeyKind) -> None:
        key = shared_key(kind).private.public_key()
        encoded = spki(key)
        assert takes_less_than(0.005, lambda: check_key(key, encoded))

    def test_any_other_encoding_of_them_is_refused(self, kind: KeyKind) -> None:
        key = shared_key(kind).private.public_key()
        encoded = spki(key)
        for other in (b"", encoded[:-1], encoded + b"\0", bytes([encoded[0] ^ 1]) + encoded[1:]):
            assert check_key(key, other) is not None

    def test_the_encoding_of_another_key_is_refused(self, kind: KeyKind) -> None:
        other = "P-384" if kind == "P-256" else "P-256"
        assert (
            check_key(shared_key(kind).private.public_key(), spki(shared_key(other).private.public_key())) is not None
        )


class TestOtherTypes:
    @pytest.mark.parametrize(
        "key",
        [
            ed448.Ed448PrivateKey.generate().public_key(),
            x25519.X25519PrivateKey.generate().public_key(),
            dsa.DSAPublicNumbers(2, dsa.DSAParameterNumbers(2**2047 + 9, 2**255 + 95, 2)),
            ed25519.Ed25519PrivateKey.generate(),  # a private key is no public key
            None,
            "key",
        ],
        ids=lambda key: type(key).__name__,
    )
    def test_they_are_refused(self, key: object) -> None:
        assert "type is not supported" in (check_key(key, None) or "")


class TestRsa:
    @pytest.mark.parametrize("bits", [1024, 2047, 2049, 3071, 3073, 4095, 4097, 8192])
    def test_the_length_is_2048_3072_or_4096(self, bits: int) -> None:
        reason = check_key(rsa_public(1 << (bits - 1) | 1), None)
        assert f"{bits} bits" in (reason or "")

    @pytest.mark.parametrize("exponent", [3, 17, 257, 65539, 2**32 + 1])
    def test_the_exponent_is_65537(self, exponent: int) -> None:
        n = shared_key("RSA-2048").private.public_key()
        assert isinstance(n, rsa.RSAPublicKey)
        assert "65537" in (check_key(rsa_public(n.public_numbers().n, exponent), None) or "")

    @pytest.mark.parametrize("factor", [n for n in range(2, 752) if all(n % d for d in range(2, math.isqrt(n) + 1))])
    def test_no_factor_below_752(self, factor: int) -> None:
        """A modulus with this one small factor, and its neighbour without any."""
        primes = [n for n in range(2, 752) if all(n % d for d in range(2, math.isqrt(n) + 1))]
        product = math.prod(primes)
        cofactor = next(c for c in range((3 << 2046) // factor, 1 << 2048) if math.gcd(c, product) == 1)
        assert "factor below 752" in (check_key(rsa_public(cofactor * factor), None) or "")
        n = next(n for n in range(3 << 2046, 1 << 2048) if math.gcd(n, product) == 1)
        assert check_key(rsa_public(n), None) is None


class TestRoca:
    def test_a_key_from_such_a_chip_is_refused(self) -> None:
        assert "ROCA" in (check_key(rsa_public(ROCA_2048), None) or "")

    def test_a_key_made_by_the_published_rule_is_refused(self) -> None:
        """Nemec et al. §2.1: p = k·M + (65537^a mod M), M the product of the first 126 primes for 2048 bits."""
        source = random.Random(2017)
        primes = [n for n in range(2, 702) if all(n % d for d in range(2, math.isqrt(n) + 1))]
        assert len(primes) == 126
        product = math.prod(primes)

        def make_prime(high: int) -> int:
            while True:
                k = source.randrange(high // product, high * 9 // 8 // product)
                p = k * product + pow(65537, source.getrandbits(250), product)
                if is_prime(p, source):
                    return p

        n = make_prime(3 << 1022) * make_prime(11 << 1020)
        assert n.bit_length() == 2048
        assert "ROCA" in (check_key(rsa_public(n), None) or "")

    @pytest.mark.parametrize("prime", [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157])
    def test_one_residue_that_does_not_fit_clears_a_key(self, prime: int) -> None:
        """Every one of the 17 primes for which the powers of 65537 are few is looked at."""
        powers = {pow(65537, exponent, prime) for exponent in range(prime)}
        cofactor = math.prod(other for other, _ in keys._ROCA_RESIDUES if other != prime)
        n = next(
            n for n in range(ROCA_2048, ROCA_2048 + 2 * cofactor * prime, 2 * cofactor) if n % prime not in powers | {0}
        )
        assert "ROCA" not in (check_key(rsa_public(n), None) or "")

    def test_the_table_is_those_17_primes(self) -> None:
        assert len(keys._ROCA_RESIDUES) == 17
        part = math.prod(len(residues) / (prime - 1) for prime, residues in keys._ROCA_RESIDUES)
        assert 2**-28 < part < 2**-27  # a good key looks bad so often


class TestClosePrimes:
    def test_neighbouring_primes_are_refused(self) -> None:
        """CVE-2022-26320: q was the next prime after p. One round of Fermat's method finds them."""
        source = random.Random(26320)
        p = next_prime(source.getrandbits(1024) | 3 << 1022, source)
        n = p * next_prime(p + 2, source)
        assert n.bit_length() == 2048
        assert "close" in (check_key(rsa_public(n), None) or "")

    def test_a_square_is_refused(self) -> None:
        source = random.Random(1)
        p = next_prime(source.getrandbits(1024) | 3 << 1022, source)
        assert "close" in (check_key(rsa_public(p * p), None) or "")

    @pytest.mark.parametrize(("round_", "found"), [(1, True), (50, True), (100, True), (101, False)])
    def test_a_hundred_rounds_are_tried(self, round_: int, found: bool) -> None:  # noqa: FBT001  (a table's column)
        """n = a² - b² with `a` exactly so many steps above the root of n."""
        root = 3 << 1022
        # (a - b)(a + b) with b² just below 2·a·k gives ceil(sqrt(n)) = a - k + 1 where k is the round.
        for b in range(math.isqrt(2 * (round_ - 1) * root), math.isqrt(2 * (round_ + 1) * root)):
            n = root * root - b * b
            if root - math.isqrt(n - 1) == round_:
                assert keys._has_close_factors(n) is found
                return
        pytest.fail("no such number")


class TestDebianWeakKeys:
    def test_a_key_on_the_list_is_refused(self) -> None:
        weak = parse_weak_keys(f"# openssl-blacklist 2048\n{DEBIAN_ENTRY}\n\n{'0' * 20}\n")
        assert weak == {bytes.fromhex(DEBIAN_ENTRY), bytes(10)}
        assert "CVE-2008-0166" in (check_key(rsa_public(DEBIAN_2048), None, weak_keys=weak) or "")
        assert check_key(rsa_public(DEBIAN_2048), None) is None
        assert check_key(shared_key("RSA-2048").private.public_key(), None, weak_keys=weak) is None

    def test_other_kinds_of_keys_are_not_on_it(self) -> None:
        assert check_key(shared_key("P-256").private.public_key(), None, weak_keys=frozenset({bytes(10)})) is None

    @pytest.mark.parametrize("line", ["0" * 19, "0" * 21, "0" * 40, "G" * 20, "0" * 19 + "A", " " + "0" * 20, "x"])
    def test_a_bad_line_is_named(self, line: str) -> None:
        with pytest.raises(ValueError, match="line 2"):
            parse_weak_keys(f"{'0' * 20}\n{line}\n")

    def test_an_empty_list_is_empty(self) -> None:
        assert parse_weak_keys("") == frozenset()

    def test_the_digest_is_of_what_openssl_prints(self) -> None:
        text = f"Modulus={DEBIAN_2048:X}\n".encode()
        assert hashlib.sha1(text, usedforsecurity=False).hexdigest()[20:] == DEBIAN_ENTRY


# DER by hand, for encodings that no library of ours writes.


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 128:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def der_integer(number: int) -> bytes:
    return der(0x02, number.to_bytes(number.bit_length() // 8 + 1))


OID_EC_PUBLIC_KEY: Final = bytes.fromhex("06072a8648ce3d0201")
OID_PRIME_FIELD: Final = bytes.fromhex("06072a8648ce3d0101")
OID_RSASSA_PSS: Final = bytes.fromhex("06092a864886f70d01010a")
OID_RSA: Final = bytes.fromhex("06092a864886f70d010101")


class TestCurves:
    @pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP224R1(), ec.BrainpoolP256R1(), ec.BrainpoolP384R1()])
    def test_other_curves_are_refused(self, curve: ec.EllipticCurve) -> None:
        key = ec.generate_private_key(curve).public_key()
        assert curve.name in (check_key(key, None) or "")

    def test_explicit_parameters_are_refused(self) -> None:
        """RFC 5480 §2.1.1: "specifiedCurve MUST NOT be used". (CVE-2020-0601 was a generator of the attacker's own.)"""
        key = shared_key("P-256").private.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        p = 2**256 - 2**224 + 2**192 + 2**96 - 1
        b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
        g = bytes.fromhex(
            "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
            "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
        )
        n = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
        curve = der(0x30, der(0x04, (p - 3).to_bytes(32)), der(0x04, b.to_bytes(32)))
        field = der(0x30, OID_PRIME_FIELD, der_integer(p))
        parameters = der(0x30, der_integer(1), field, curve, der(0x04, g), der_integer(n), der_integer(1))
        explicit = der(0x30, der(0x30, OID_EC_PUBLIC_KEY, parameters), der(0x03, b"\0", point))
        # This is why the octets are looked at: the library takes them for P-256 and does not tell.
        loaded = serialization.load_der_public_key(explicit)
        assert isinstance(loaded, ec.EllipticCurvePublicKey)
        assert loaded == key
        assert loaded.curve.name == "secp256r1"
        assert "named curve" in (check_key(loaded, explicit) or "")

    def test_a_compressed_point_is_refused(self) -> None:
        """One key, one encoding. (RFC 5480 §2.2 lets a CA choose whether it takes these.)"""
        key = shared_key("P-256").private.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        algorithm = spki(key)[2:23]
        encoded = der(0x30, algorithm, der(0x03, b"\0", compressed))
        assert serialization.load_der_public_key(encoded) == key
        assert "uncompressed point" in (check_key(key, encoded) or "")


class TestRsaEncodings:
    @pytest.mark.parametrize(
        "algorithm",
        [der(0x30, OID_RSASSA_PSS), der(0x30, OID_RSA), der(0x30, OID_RSA, b"\x04\x00")],
        ids=["id-RSASSA-PSS", "no parameters", "an octet string as parameters"],
    )
    def test_the_parameters_are_null(self, algorithm: bytes) -> None:
        """RFC 3279 §2.3.1: "The parameters field MUST have ASN.1 type NULL"."""
        key = shared_key("RSA-2048").private.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        pkcs1 = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
        assert check_key(key, der(0x30, der(0x30, OID_RSA, b"\x05\x00"), der(0x03, b"\0", pkcs1))) is None
        assert "usual encoding" in (check_key(key, der(0x30, algorithm, der(0x03, b"\0", pkcs1))) or "")


def ed25519_of(y: int, *, sign: int = 0) -> ed25519.Ed25519PublicKey:
    return ed25519.Ed25519PublicKey.from_public_bytes((y | sign << 255).to_bytes(32, "little"))


class TestEd25519:
    # The y of the eight points of small order: 1, -1, 0 and the two of order 8 (each with both signs of x).
    SMALL: Final = (
        1,
        P - 1,
        0,
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
    )

    @pytest.mark.parametrize("sign", [0, 1])
    @pytest.mark.parametrize("y", SMALL)
    def test_points_of_small_order_are_refused(self, y: int, sign: int) -> None:
        assert "small order" in (check_key(ed25519_of(y, sign=sign), None) or "")

    def test_anybody_can_sign_for_such_a_point(self) -> None:
        """Why: the library takes the neutral element for a key, and a signature that nobody made for its own."""
        key = ed25519_of(1)
        key.verify((1).to_bytes(32, "little") + bytes(32), b"whatever")
        assert check_key(key, None) is not None

    @pytest.mark.parametrize("sign", [0, 1])
    @pytest.mark.parametrize("y", [P, P + 1, P + 2, P + 18])
    def test_a_number_has_one_encoding(self, y: int, sign: int) -> None:
        """RFC 8032 §5.1.3: "If the resulting value is >= p, decoding fails."."""
        assert check_key(ed25519_of(y, sign=sign), None) is not None

    def test_every_number_below_p_is_judged_as_the_curve_says(self) -> None:
        """-x² + y² = 1 + d·x²·y² has a solution for about half of all y."""
        d = -121665 * pow(121666, -1, P) % P
        for y in range(2, 60):
            ratio = (y * y - 1) * pow(d * y * y + 1, P - 2, P) % P
            on_curve = pow(ratio, (P - 1) // 2, P) == 1
            reason = check_key(ed25519_of(y), None)
            assert (reason is None) == on_curve
            assert on_curve or "no point" in (reason or "")

    @PROPERTY
    @given(st.binary(min_size=32, max_size=32))
    def test_every_private_key_makes_a_good_one(self, seed: bytes) -> None:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
        assert check_key(key, spki(key)) is None

    @PROPERTY
    @given(st.binary(min_size=32, max_size=32))
    def test_no_octets_raise(self, octets: bytes) -> None:
        reason = check_key(ed25519.Ed25519PublicKey.from_public_bytes(octets), None)
        assert reason is None or "point" in reason


def test_every_reason_tells_a_person_something() -> None:
    bad: list[object] = [
        rsa_public(1 << 2047 | 1),
        rsa_public(3 << 2046),
        rsa_public(ROCA_2048),
        ed25519_of(1),
        ed25519_of(7),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        None,
    ]
    for key in bad:
        reason = check_key(key, None)
        assert reason is not None
        assert 20 < len(reason) < 200
        assert reason.startswith("its ")


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_every_good_key_has_a_type(kind: KeyKind) -> None:
    """What a profile names, for every kind of key that is certified at all."""
    key = shared_key(kind).private.public_key()
    assert check_key(key, None) is None
    assert key_type(key) == kind.lower().replace("-", "")


def test_the_types_are_those_of_the_good_keys() -> None:
    assert {kind.lower().replace("-", "") for kind in KEY_KINDS} == {type_.value for type_ in KeyType}


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        ec.generate_private_key(ec.BrainpoolP256R1()).public_key(),
        rsa_public(1 << 1023 | 1),
        ed448.Ed448PrivateKey.generate().public_key(),
        None,
    ],
)
def test_another_key_has_none(key: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        key_type(key)
