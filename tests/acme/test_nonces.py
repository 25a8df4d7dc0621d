"""acmeca.acme.nonces: redeemed once, made by us alone, forgotten by their epoch."""

import itertools
import random
import re

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme import base64url
from acmeca.acme.nonces import CAPACITY, NonceCipher, SpentWindow

KEY = bytes(range(16))
PROPERTY = settings(deadline=None, max_examples=100)


class Nonces:
    """Cipher and window put together in the plainest way: counters are let in by the least number that can be."""

    BLOCK = 8

    def __init__(self, key: bytes = KEY, *, capacity: int = CAPACITY) -> None:
        self.cipher = NonceCipher(key)
        self.window = SpentWindow(bytearray(max(1, capacity // 8)), capacity=capacity)
        self.next = self.end = 0

    def mint(self) -> str:
        if self.next == self.end:
            self.window.admit(self.end, self.BLOCK)
            self.end += self.BLOCK
        self.next += 1
        return self.cipher.seal(self.next - 1)

    def redeem(self, nonce: str) -> bool:
        counter = self.cipher.open(nonce)
        return counter is not None and self.window.spend(counter, end=self.end)


def test_a_nonce_is_redeemed_once() -> None:
    """RFC 8555 §6.5: "Once a nonce value has appeared in an ACME request, the server MUST consider it invalid"."""
    nonces = Nonces(KEY)
    nonce = nonces.mint()
    assert [nonces.redeem(nonce) for _ in range(50)] == [True] + [False] * 49


def test_a_nonce_is_a_header_value_of_base64url() -> None:
    """RFC 8555 §6.5.1: Replay-Nonce = 1*base64url."""
    nonces = Nonces(KEY)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", nonces.mint()) for _ in range(100))


def test_nonces_are_unique_and_look_random() -> None:
    """RFC 8555 §6.5.1: "unique to each message, with high probability, and unpredictable to anyone besides the server"."""
    nonces = Nonces(KEY)
    minted = [nonces.mint() for _ in range(2_000)]
    assert len(set(minted)) == len(minted)
    blocks = [int.from_bytes(base64url.decode(nonce)) for nonce in minted]
    # Neighbours differ in about half of their 128 bits: nothing of the counter shows.
    differing = [(one ^ other).bit_count() for one, other in itertools.pairwise(blocks)]
    assert 60 < sum(differing) / len(differing) < 68
    assert min(differing) > 30


def test_order_of_redemption_does_not_matter() -> None:
    nonces = Nonces(KEY, capacity=64)
    minted = [nonces.mint() for _ in range(64)]
    random.Random(1).shuffle(minted)
    assert all(nonces.redeem(nonce) for nonce in minted)
    assert not any(nonces.redeem(nonce) for nonce in minted)


def test_another_key_is_another_epoch() -> None:
    before = Nonces(KEY).mint()
    after = Nonces(bytes(16))
    after.mint()
    assert not after.redeem(before)


def test_a_block_that_was_not_minted_is_refused() -> None:
    """The tag: someone who draws blocks at random is refused even while every counter is free."""
    nonces = Nonces(KEY)
    for _ in range(10):
        nonces.mint()
    source = random.Random(2)
    assert not any(nonces.redeem(base64url.encode(source.randbytes(16))) for _ in range(2_000))


def test_the_tag_is_looked_at() -> None:
    """A block made with the right key and a counter in the window, but another tag, is not a nonce."""
    nonces = Nonces(KEY)
    nonce = nonces.mint()
    cipher = Cipher(AES128(KEY), ECB())
    block = cipher.decryptor().update(base64url.decode(nonce))
    assert block[8:] == bytes(8)  # the first counter
    other = cipher.encryptor().update(bytes([block[0] ^ 1]) + block[1:])
    assert not nonces.redeem(base64url.encode(other))
    assert nonces.redeem(nonce)


def test_a_nonce_of_the_future_is_refused() -> None:
    """The same key, but not minted by this process yet: the counter is ahead."""
    ahead, nonces = Nonces(KEY), Nonces(KEY)
    first = ahead.mint()
    assert not nonces.redeem(first)
    assert nonces.mint() == first
    assert nonces.redeem(first)


@pytest.mark.parametrize("bit", range(128))
def test_a_changed_nonce_is_refused(bit: int) -> None:
    nonces = Nonces(KEY)
    nonce = nonces.mint()
    changed = base64url.encode((int.from_bytes(base64url.decode(nonce)) ^ 1 << bit).to_bytes(16))
    assert not nonces.redeem(changed)
    assert nonces.redeem(nonce)


@pytest.mark.parametrize(
    "text",
    ["", "A", "A" * 21, "A" * 23, "A" * 22 + "==", "!" * 22, "\u00e9" * 22, "A" * 21 + "B", " " * 22, "A" * 60_000],
)
def test_a_text_that_is_no_nonce_is_refused(text: str) -> None:
    nonces = Nonces(KEY)
    nonces.mint()
    assert not nonces.redeem(text)


@PROPERTY
@given(st.text(max_size=30))
def test_no_text_raises(text: str) -> None:
    assert not Nonces(KEY).redeem(text)


@pytest.mark.parametrize("capacity", [8, 16, 72, 128])
def test_the_last_capacity_nonces_can_be_redeemed_and_older_ones_cannot(capacity: int) -> None:
    nonces = Nonces(KEY, capacity=capacity)
    minted = [nonces.mint() for _ in range(3 * capacity)]
    assert [nonces.redeem(nonce) for nonce in minted] == [False] * (2 * capacity) + [True] * capacity


@PROPERTY
@given(st.integers(1, 4), st.lists(st.integers(-20, 40), max_size=200))
def test_the_ring_agrees_with_a_set(octets: int, steps: list[int]) -> None:
    """A model that remembers everything: what it would redeem, the ring redeems, and nothing else."""
    capacity = 8 * octets
    nonces = Nonces(KEY, capacity=capacity)
    minted: list[str] = []
    spent: set[str] = set()
    for step in steps:
        if step < 0 or not minted:
            minted.append(nonces.mint())
            continue
        index = step % len(minted)
        nonce = minted[index]
        expected = index >= nonces.end - capacity and nonce not in spent
        assert nonces.redeem(nonce) is expected
        spent.add(nonce)


def test_letting_counters_in_touches_no_other() -> None:
    """The octets of the counters that leave are cleared, and none beside them."""
    bits = bytearray(b"\xff" * 8)
    SpentWindow(bits, capacity=64).admit(64 + 16, 24)
    assert bytes(bits) == b"\xff\xff\0\0\0\xff\xff\xff"


def test_letting_more_in_than_there_is_room_clears_all() -> None:
    bits = bytearray(b"\xff" * 8)
    SpentWindow(bits, capacity=64).admit(8, 128)
    assert bytes(bits) == bytes(8)


@pytest.mark.parametrize("capacity", [8, 16, 72, 128])
def test_the_ring_goes_round(capacity: int) -> None:
    """A slot that was spent is free again for the nonce that is minted `capacity` later."""
    nonces = Nonces(KEY, capacity=capacity)
    for _ in range(3 * capacity):
        nonce = nonces.mint()
        assert nonces.redeem(nonce)
        assert not nonces.redeem(nonce)


@pytest.mark.parametrize("capacity", [0, -8, 4, 9, 63])
def test_a_capacity_that_is_no_number_of_octets_is_a_mistake(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        SpentWindow(bytearray(8), capacity=capacity)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_the_key_has_sixteen_octets(length: int) -> None:
    with pytest.raises(ValueError):
        NonceCipher(bytes(length))


@PROPERTY
@given(st.integers(0, 2**64 - 1))
def test_a_counter_comes_back(counter: int) -> None:
    cipher = NonceCipher(KEY)
    assert cipher.open(cipher.seal(counter)) == counter


def test_the_memory_is_a_bit_for_each_nonce() -> None:
    """A million nonces are remembered in 128 KiB: the last octet is in use, and none behind it."""
    window = SpentWindow(bytearray(128 * 1024), capacity=CAPACITY)
    assert all(window.spend(counter, end=CAPACITY) for counter in range(0, CAPACITY, 4095))
    assert window.spend(CAPACITY - 1, end=CAPACITY)
    assert not window.spend(CAPACITY - 1, end=CAPACITY)
