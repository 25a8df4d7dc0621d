"""The nonces of one machine: a file that its processes share in memory, so that each nonce is good at every worker, once.

Rule 1: what was spent is remembered as long as the machine runs, over restarts and kills of the processes: a client's nonce
outlives a restart. A loss of power may lose writes, so a file from an earlier boot is begun anew, with a fresh key.
Rule 2: the kernel's lock on the file makes looking and spending one step. It is held for microseconds, and let go with the
process, however that ends.
Rule 3: counters are allotted in blocks, so that most nonces are minted without the lock. A block that has grown old beside busier
processes is left for a new one: what it still has would soon be out of the window.
Rule 4: a process may be killed between any two changes of the memory. None of them, alone, makes a spent nonce good again or
allots a counter twice.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from acmeca.acme.nonces import CAPACITY, KEY_BYTES, NonceCipher, SpentWindow
from acmeca.storage.errors import StorageError

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_HEADER: Final = struct.Struct(">8s36s16sQ")  # magic, boot, key, capacity
_MAGIC: Final = b"acmecan1"
_END: Final = slice(72, 80)  # the first counter not allotted yet, in the machine's own order: changed by one store
_BITS_AT: Final = 128
_BLOCK: Final = 64  # counters that a process takes at a time


class FileNonces:
    """Mints and redeems. Made by `open`. For one event loop; other processes may share the file."""

    def __init__(self, file: int, memory: mmap.mmap, *, capacity: int) -> None:
        self._file = file
        self._memory = memory
        self._capacity = capacity
        _, _, key, _ = _HEADER.unpack_from(memory)
        self._cipher = NonceCipher(key)
        self._bits = memoryview(memory)[_BITS_AT:]
        self._window = SpentWindow(self._bits, capacity=capacity)
        self._end = memoryview(memory)[_END].cast("Q")
        self._next = 0
        self._block_end = 0

    @classmethod
    def open(
        cls, path: Path, *, entropy: Callable[[int], bytes], capacity: int = CAPACITY, boot_id: str | None = None
    ) -> Self:
        """Open the file, or begin it. `boot_id` names this run of the machine; the kernel's own unless given.

        Where the kernel has none (it is Linux that has), the file is begun anew each time. Raises `StorageError`, and
        ValueError for a `capacity` that is no multiple of 64 from 128 on.
        """
        if capacity < 2 * _BLOCK or capacity % _BLOCK:
            raise ValueError(f"capacity is {capacity}; it has to be a multiple of {_BLOCK}, {2 * _BLOCK} at least")
        boot = (_read_boot_id() if boot_id is None else boot_id).encode("ascii")[:36].ljust(36)
        try:
            file = _open_locked(path)
            try:
                if not _is_ours(os.pread(file, _HEADER.size, 0), os.fstat(file).st_size, boot=boot, capacity=capacity):
                    header = _HEADER.pack(_MAGIC, boot, entropy(KEY_BYTES), capacity)
                    file = _begin_anew(path, file, _BITS_AT + capacity // 8, header)
                else:
                    _allot(file, _BITS_AT + capacity // 8)
                memory = mmap.mmap(file, _BITS_AT + capacity // 8)
                fcntl.flock(file, fcntl.LOCK_UN)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            raise StorageError(f"cannot use {path}: {error.strerror}") from error
        return cls(file, memory, capacity=capacity)

    async def mint(self) -> str:
        """A fresh nonce."""
        if self._next == self._block_end or self._end[0] - self._next > self._capacity // 2:
            self._take_block()
        counter = self._next
        self._next = counter + 1
        return self._cipher.seal(counter)

    async def redeem(self, nonce: str) -> bool:
        """True the first time, in whatever process, for a nonce of ours that is recent enough; False ever after and for all else."""
        counter = self._cipher.open(nonce)
        if counter is None:
            return False
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            return self._window.spend(counter, end=self._end[0])
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file. What was minted stays good for the others, and for the next start."""
        self._bits.release()
        self._end.release()
        self._memory.close()
        os.close(self._file)

    def _take_block(self) -> None:
        """Rule 3."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            first = self._end[0]
            # Rule 4: allotted before their places are cleared, for until then those belong to counters in the window. A kill
            # between the two leaves counters that nobody mints.
            self._end[0] = first + _BLOCK
            self._window.admit(first, _BLOCK)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._next, self._block_end = first, first + _BLOCK


def _open_locked(path: Path) -> int:
    """The file that is at `path` once its lock is held: another process may put a new one there while we wait."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), path.lstat()):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_ours(header: bytes, size: int, *, boot: bytes, capacity: int) -> bool:
    if len(header) != _HEADER.size or size != _BITS_AT + capacity // 8:
        return False
    magic, kept_boot, _, kept_capacity = _HEADER.unpack(header)
    return bool(magic == _MAGIC and kept_boot == boot and boot.strip() and kept_capacity == capacity)


def _begin_anew(path: Path, old: int, size: int, header: bytes) -> int:
    """A new file in the place of the old one, whose lock is held; returns its descriptor, locked.

    A file and not new content: whoever still has the old one in memory goes on with that.
    """
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        _allot(file, size)
        os.pwrite(file, header, 0)
        fresh.rename(path)
    except BaseException:
        os.close(file)
        raise
    os.close(old)
    return file


def _allot(file: int, size: int) -> None:
    """Give the file its length, with room on the disk for all of it: where there is a hole, a write to the memory of a file on a full
    disk ends the process (SIGBUS).
    """
    os.ftruncate(file, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""
