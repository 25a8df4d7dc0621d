"""Anti-replay nonces (RFC 8555 §6.5): free to mint, remembered only once they are spent.

Rule 1: a nonce is redeemed once. The last `capacity` nonces minted can be; older ones cannot.
Rule 2: nobody else can make one, nor tell one from random: §6.5.1 wants them unique and unpredictable.

A nonce is one AES block: a tag of eight fixed octets and a counter of eight, enciphered, in base64url. AES is a
permutation of blocks, so counters never share a nonce, and a block that was not minted deciphers to the tag once in 2^64.
The key is the epoch: whoever forgets what was spent takes a fresh key, and refuses every nonce from before; the client gets
a new one with the refusal. Where counters come from and who remembers is `storage/nonce_file.py` and `storage/postgres_nonces.py`.
"""

import struct
from typing import Final, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import ECB

from acmeca.acme import base64url

KEY_BYTES: Final = 16
CAPACITY: Final = 1 << 20  # nonces that can be redeemed at a time

_TAG: Final = int.from_bytes(b"acmenonc")
_BLOCK: Final = struct.Struct(">QQ")  # tag, counter
_TEXT_LENGTH: Final = 22  # base64url characters of one block


class Bits(Protocol):
    """Octets that can be changed in place: a bytearray, or a part of a file in memory."""

    def __getitem__(self, index: int, /) -> int: ...
    def __setitem__(self, index: int, value: int, /) -> None: ...


class NonceCipher:
    """Turns counters into nonces and back. `key` is 16 random octets. Not for several threads at once."""

    __slots__ = ("_decipher", "_encipher")

    def __init__(self, key: bytes) -> None:
        # One block for one nonce, no two blocks alike: there is nothing that a mode with chaining would hide. An
        # authenticated mode would need a nonce of its own and twice the length.
        cipher = Cipher(AES128(key), ECB())  # noqa: S305  (see above: a permutation of single blocks is what is wanted)
        self._encipher = cipher.encryptor().update
        self._decipher = cipher.decryptor().update

    def seal(self, counter: int) -> str:
        """The nonce of a counter below 2^64: 22 characters of base64url."""
        return base64url.encode(self._encipher(_BLOCK.pack(_TAG, counter)))

    def open(self, nonce: str) -> int | None:
        """The counter in a nonce that was sealed with this key; None for all else."""
        if len(nonce) != _TEXT_LENGTH:
            return None
        try:
            block = base64url.decode(nonce)
        except ValueError:
            return None
        # How long this comparison takes tells nothing: what deciphers wrongly is as good as random.
        tag: int
        counter: int
        tag, counter = _BLOCK.unpack(self._decipher(block))
        return counter if tag == _TAG else None


class SpentWindow:
    """Which of the last `capacity` counters were spent: one bit each, in `bits` (a multiple of eight of them)."""

    __slots__ = ("_bits", "_capacity")

    def __init__(self, bits: Bits, *, capacity: int) -> None:
        if capacity < 8 or capacity % 8:
            raise ValueError(f"capacity is {capacity}; it has to be a positive multiple of 8")
        self._bits = bits
        self._capacity = capacity

    def admit(self, first: int, count: int) -> None:
        """Let `count` new counters in, from `first` on: the counters whose places they take are out of the window now.

        `first` and `count` are multiples of 8, so whole octets are cleared.
        """
        for octet in range(first // 8, (first + count) // 8):
            self._bits[octet % (self._capacity // 8)] = 0

    def spend(self, counter: int, *, end: int) -> bool:
        """True the first time for a counter in the window that ends before `end`; False ever after and for all else."""
        if not max(0, end - self._capacity) <= counter < end:
            return False
        slot = counter % self._capacity
        bit = 1 << (slot & 7)
        octet = self._bits[slot >> 3]
        if octet & bit:
            return False
        self._bits[slot >> 3] = octet | bit
        return True
