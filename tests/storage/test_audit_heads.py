"""Signed heads in their file and their table: durable, whole whoever writes at once, small for ever."""

import asyncio
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from acmeca.audit import Head, SignedHead, is_genuine, sign_head
from acmeca.storage import audit_heads
from acmeca.storage.audit_heads import HEADS_FILE, AuditHeads, HeadsFile, read_table
from acmeca.storage.errors import StorageError
from tests.support.databases import connect, open_database, start_python

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def head(sequence: int, *, writer: str = "w", at: datetime = AT) -> SignedHead:
    return sign_head(Head(writer, sequence, sequence.to_bytes(32, "big")), KEY, at=at)


def sequences(file: HeadsFile) -> list[int]:
    return [signed.head.sequence for _, signed in file.read().heads]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / HEADS_FILE


async def test_heads_come_out_as_they_went_in(tmp_path: Path, path: Path) -> None:
    file = HeadsFile(tmp_path)
    assert file.read().heads == ()
    assert file.newest("w") is None
    for number in (1, 2):
        await file.append(head(number))
    await file.append(head(7, writer="other"))
    assert file.read().heads == ((1, head(1)), (2, head(2)), (3, head(7, writer="other")))
    assert file.newest("w") == head(2).head
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("length", [1, 20, 300])
async def test_a_line_that_a_crash_cut_short(tmp_path: Path, path: Path, length: int) -> None:
    """It was never answered for: readers pass over it, and the next append takes its place."""
    file = HeadsFile(tmp_path)
    await file.append(head(1))
    await file.append(head(2))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - length])
    assert (sequences(file), file.read().damaged) == ([1] if length > 1 else [1, 2], ())
    await file.append(head(3))
    assert (sequences(file), file.read().damaged) == ([1, 3] if length > 1 else [1, 2, 3], ())


async def test_a_line_that_is_no_head_is_told(tmp_path: Path, path: Path) -> None:
    path.write_text("{}\n")
    file = HeadsFile(tmp_path)
    await file.append(head(1))
    assert sequences(file) == [1]
    assert file.read().damaged == (f"line 1 of {path} is no head",)


async def test_a_full_disk_leaves_nothing_of_a_head(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = HeadsFile(tmp_path)
    await file.append(head(1))
    before = path.read_bytes()
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
        with pytest.raises(StorageError, match=f"{HEADS_FILE} cannot be written: .*make room"):
            await file.append(head(2))
    assert path.read_bytes() == before
    await file.append(head(2))
    assert sequences(file) == [1, 2]


async def test_a_link_in_its_place_is_not_followed(tmp_path: Path, path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="cannot be written"):
        await HeadsFile(tmp_path).append(head(1))


APPEND = """
import asyncio, sys
from pathlib import Path
from acmeca.storage.audit_heads import HeadsFile
from tests.storage.test_audit_heads import head
async def work():
    file = HeadsFile(Path(sys.argv[1]), compact_bytes=8_000, newest=10)
    for number in range(1, 31):
        await file.append(head(number, writer=sys.argv[2]))
asyncio.run(work())
"""


def test_processes_that_append_at_once_tear_nothing(tmp_path: Path) -> None:
    """Not even while one of them replaces the file by a smaller one: the newest heads of each are there."""
    with start_python(APPEND, str(tmp_path), "w1") as one, start_python(APPEND, str(tmp_path), "w2") as two:
        assert (one.wait(60), two.wait(60)) == (0, 0)
    found = HeadsFile(tmp_path).read()
    assert found.damaged == ()
    assert all(is_genuine(signed) for _, signed in found.heads)
    for writer in ("w1", "w2"):
        numbers = [signed.head.sequence for _, signed in found.heads if signed.head.writer == writer]
        assert numbers[0] == 1
        assert numbers[-10:] == list(range(21, 31))
        assert len(numbers) < 30


async def test_the_file_stays_small(tmp_path: Path, path: Path) -> None:
    """Rule 2: the first of each day and the newest stay, and so does what is no head."""
    path.write_text("what somebody wrote\n")
    file = HeadsFile(tmp_path, compact_bytes=15_000, newest=5)
    for number in range(1, 121):
        await file.append(head(number, at=AT + timedelta(hours=number)))
    kept = sequences(file)
    assert len(kept) < 60
    assert path.stat().st_size < 30_000
    assert kept[-5:] == [116, 117, 118, 119, 120]
    firsts = [1, *range(12, 121, 24)]
    assert set(firsts) <= set(kept)
    assert len(file.read().damaged) == 1


async def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_heads, "_NEWEST", 3)
    monkeypatch.setattr(audit_heads, "_PRUNE_EVERY", 1)
    async with open_database(tmp_path / "acmeca.db") as database:
        table = AuditHeads(database)
        assert await table.newest("w") is None
        for number in range(1, 31):
            await table.add(head(number, at=AT + timedelta(hours=number)))
        await table.add(head(7, writer="other"))
        await table.add(sign_head(Head("w", 30, bytes(32)), KEY, at=AT))  # the one that is there stays
        assert await table.newest("w") == head(30).head
        found = await read_table(database)
        assert [(signed.head.writer, signed.head.sequence) for _, signed in found.heads] == [
            ("other", 7), *(("w", number) for number in (1, 12, 28, 29, 30))
        ]  # fmt: skip
        assert all(is_genuine(signed) for _, signed in found.heads)


async def test_a_row_that_is_no_head_is_told(tmp_path: Path) -> None:
    async with open_database(tmp_path / "acmeca.db") as database:
        await AuditHeads(database).add(head(1))
        with connect(tmp_path / "acmeca.db") as other:
            other.execute("UPDATE audit_heads SET signed_at = 'yesterday'")
        found = await read_table(database)
        assert found.heads == ()
        assert found.damaged == ("a row of audit_heads (writer 'w', sequence 1) is no head",)
        await AuditHeads(database).add(head(2))  # and hinders nothing


async def test_appends_of_one_process_at_once(tmp_path: Path, path: Path) -> None:
    file = HeadsFile(tmp_path)
    await asyncio.gather(*(file.append(head(number)) for number in range(1, 9)))
    assert sorted(sequences(file)) == list(range(1, 9))
    assert all(json.loads(line) for line in path.read_text().splitlines())
