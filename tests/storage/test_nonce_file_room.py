"""The room that the file of nonces has on its disk."""

import errno
import os
from pathlib import Path
from typing import NoReturn

import pytest

from acmeca.storage.errors import StorageError
from acmeca.storage.nonce_file import FileNonces


def allotted(path: Path) -> int:
    """The octets that the file has on its disk, holes not counted."""
    return path.stat().st_blocks * 512


async def test_the_file_has_no_holes(tmp_path: Path) -> None:
    """Its memory is written without asking: in a hole of it, on a full disk, that would end the process (SIGBUS)."""
    path = tmp_path / "nonces"
    FileNonces.open(path, entropy=os.urandom).close()
    assert allotted(path) >= path.stat().st_size > 128 << 10


async def test_a_file_with_holes_is_filled_and_kept(tmp_path: Path) -> None:
    """As an earlier version made it."""
    path = tmp_path / "nonces"
    nonces = FileNonces.open(path, entropy=os.urandom)
    spent = await nonces.mint()
    assert await nonces.redeem(spent)
    nonces.close()
    content = path.read_bytes()
    path.unlink()
    with path.open("wb") as file:
        file.write(content[:4096])
        file.truncate(len(content))
    path.chmod(0o600)
    again = FileNonces.open(path, entropy=os.urandom)
    assert allotted(path) >= len(content)
    assert not await again.redeem(spent)
    again.close()


async def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"cannot use .*nonces: No space left on device"):
        FileNonces.open(tmp_path / "nonces", entropy=os.urandom)
