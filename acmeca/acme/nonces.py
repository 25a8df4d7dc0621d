"""Anti-replay nonces (RFC 8555 §6.5): free to mint, remembered only once they are spent.

Rule 1: a nonce is redeemed once. The last `capacity` nonces minted can be; older ones cannot.
Rule 2: nobody else can make one, nor tell one from random: §6.5.1 wants them unique and unpredictable.

A nonce is one AES block: a tag of eight fixed octets and a counter of eight, enciphered, in base64url. AES is a
permutation of blocks, so counters never share a nonce, and a block that was not minted deciphers to the tag once in 2^64.
The key is the epoch: a process that starts with a fresh key refuses every nonce from before, and the client gets a new
one with the refusal. What was spent is one bit for each of the last `capacity` counters (128 KiB for a million).
"""

import struct
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import ECB

from acmeca.acme import base64url

_TAG: Final = int.from_bytes(b"acmenonc")
_BLOCK: Final = struct.Struct(">QQ")  # tag, counter
_TEXT_LENGTH: Final = 22  # base64url characters of one block


class Nonces:
    """The nonces of one process. `key` is 16 random octets, made anew whenever the memory of spent ones is.

    Not for several threads at once: the cipher contexts are kept.
    """

    __slots__ = ("_capacity", "_decipher", "_encipher", "_next", "_spent")

    def __init__(self, key: bytes, *, capacity: int = 1 << 20) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it has to be at least 1")
        # One block for one nonce, no two blocks alike: there is nothing that a mode with chaining would hide. An
        # authenticated mode would need a nonce of its own and twice the length.
        cipher = Cipher(AES128(key), ECB())  # noqa: S305  (see above: a permutation of single blocks is what is wanted)
        self._encipher = cipher.encryptor().update
        self._decipher = cipher.decryptor().update
        self._capacity = capacity
        self._next = 0
        self._spent = bytearray((capacity + 7) // 8)

    def mint(self) -> str:
        """A fresh nonce: 22 characters of base64url."""
        counter = self._next
        self._next = counter + 1
        slot = counter % self._capacity
        self._spent[slot >> 3] &= ~(1 << (slot & 7))  # the slot's former counter is out of the window now
        return base64url.encode(self._encipher(_BLOCK.pack(_TAG, counter)))

    def redeem(self, nonce: str) -> bool:
        """True the first time for a nonce of ours that is recent enough; False ever after and for all else."""
        if len(nonce) != _TEXT_LENGTH:
            return False
        try:
            block = base64url.decode(nonce)
        except ValueError:
            return False
        # How long this comparison takes tells nothing: what deciphers wrongly is as good as random.
        tag, counter = _BLOCK.unpack(self._decipher(block))
        if tag != _TAG or not self._next - self._capacity <= counter < self._next:
            return False
        slot = counter % self._capacity
        bit = 1 << (slot & 7)
        if self._spent[slot >> 3] & bit:
            return False
        self._spent[slot >> 3] |= bit
        return True
