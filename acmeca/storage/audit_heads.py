"""Where signed heads are kept: in a file of the data directory, and in a table, by which other servers' heads travel.

Rule 1: the file is append-only: a line for each head, written by one call under a lock of the kernel's, durable when `append`
returns. A line that a crash cut short is taken away by the next append, nothing else but by rule 2.
Rule 2: file and table stay small: when they have grown, each writer's first head of each day and its newest ones are kept
(`audit.select_kept`). The file is replaced as a whole.
Rule 3: what does not read as a head is not passed over: who reads is told of it.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from acmeca.audit import Head, SignedHead, parse_signed_head, select_kept
from acmeca.storage.database import Database, Reader, Transaction
from acmeca.storage.errors import StorageError
from acmeca.storage.lock import FileTurn

HEADS_FILE: Final = "audit-heads.jsonl"
HEADS_SCHEMA: Final = 4  # the schema step that made the table
TURNS_FILE: Final = "audit-heads.lock"
_NEWEST: Final = 1000  # heads of a writer that are kept whatever their day: most of a day, with one each minute
_COMPACT_BYTES: Final = 1 << 20
_LONGEST_LINE: Final = 4096
_PRUNE_EVERY: Final = 64  # heads added to the table between two looks at what can go


@dataclass(frozen=True, slots=True)
class KeptHeads:
    """Heads as they were found: each with its line in the file (or 0); `damaged` says what was no head."""

    heads: tuple[tuple[int, SignedHead], ...] = ()
    damaged: tuple[str, ...] = ()


# --- the file -----------------------------------------------------------------------------------------------------


class HeadsFile:
    """The file of one data directory. Several processes may append to it."""

    def __init__(self, data_dir: Path, *, compact_bytes: int = _COMPACT_BYTES, newest: int = _NEWEST) -> None:
        self._path = data_dir / HEADS_FILE
        self._turns_path = data_dir / TURNS_FILE
        self._compact_at = compact_bytes
        self._newest = newest
        self._own_turn = asyncio.Lock()  # tasks that waited in threads could leave none for the one whose turn it is

    async def append(self, signed: SignedHead) -> None:
        """Add a head, durably. Raises `StorageError`, and then it is not there."""
        line = (json.dumps(signed.to_json(), separators=(",", ":")) + "\n").encode("ascii")
        async with self._own_turn, FileTurn(self._turns_path):
            await asyncio.to_thread(self._append, line)

    def read(self) -> KeptHeads:
        """All heads in the order of the file; none when there is no file."""
        return read_heads(self._path)

    def newest(self, writer: str) -> Head | None:
        """The head of a writer that was added last."""
        return next((signed.head for _, signed in reversed(self.read().heads) if signed.head.writer == writer), None)

    def _append(self, line: bytes) -> None:
        try:
            is_new = not self._path.exists()
            file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                length = _mend_end(file)
                _write_whole(file, line, length)
            finally:
                os.close(file)
            if is_new:
                _sync_directory(self._path.parent)
            if length + len(line) > self._compact_at:
                self._compact()
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be written: {error.strerror} (make room, or see that this user may write there)"
            ) from error

    def _compact(self) -> None:
        """Rule 2. A line that is no head stays: it is for `read` to tell of."""
        lines = self._path.read_bytes().splitlines(keepends=True)
        places: dict[str, list[tuple[int, SignedHead]]] = {}
        kept = set(range(len(lines)))
        for place, line in enumerate(lines):
            signed = _parse_line(line)
            if signed is not None:
                places.setdefault(signed.head.writer, []).append((place, signed))
                kept.discard(place)
        for found in places.values():
            chosen = select_kept([signed for _, signed in found], newest=self._newest)
            kept |= {found[index][0] for index in chosen}
        data = b"".join(lines[place] for place in sorted(kept))
        _replace(self._path, data)
        self._compact_at = max(self._compact_at, 2 * len(data))


def read_heads(path: Path) -> KeptHeads:
    """The heads in a file of JSON lines. A last line that was cut short is passed over; a missing file has none.

    Raises `StorageError` for a file that cannot be read.
    """
    heads, damaged = [], []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                signed = _parse_line(line)
                if signed is not None:
                    heads.append((number, signed))
                elif line.endswith(b"\n"):
                    damaged.append(f"line {number} of {path} is no head")
    except FileNotFoundError:
        return KeptHeads()
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    return KeptHeads(tuple(heads), tuple(damaged))


def _parse_line(line: bytes) -> SignedHead | None:
    try:
        return parse_signed_head(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _mend_end(file: int) -> int:
    """End the last line: one that a crash cut short is taken away, a whole one (somebody's editor) gets its end.

    Returns the length of the file then.
    """
    length = os.fstat(file).st_size
    tail = os.pread(file, _LONGEST_LINE, max(0, length - _LONGEST_LINE))
    torn = tail[tail.rfind(b"\n") + 1 :]
    if not torn:
        return length
    if _parse_line(torn) is not None:
        return length + os.write(file, b"\n")
    os.ftruncate(file, length - len(torn))
    return length - len(torn)


def _write_whole(file: int, line: bytes, length: int) -> None:
    try:
        if os.write(file, line) != len(line):
            raise OSError(28, "it was written in part only, so the disk is full")
        os.fsync(file)
    except OSError:
        with suppress(OSError):
            os.ftruncate(file, length)
        raise


def _replace(path: Path, data: bytes) -> None:
    """Another file in this one's place, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
    fresh.rename(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# --- the table ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class AuditHeads:
    """The table `audit_heads`."""

    database: Database
    _added: int = field(default=0, init=False)

    async def add(self, signed: SignedHead) -> None:
        """Keep a head; one of the same record that is there already stays."""
        prunes = self._added % _PRUNE_EVERY == 0

        async def body(tx: Transaction) -> None:
            await tx.execute(
                "INSERT INTO audit_heads (writer, sequence, hash, signed_at, public_key, signature)"
                " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (writer, sequence) DO NOTHING",
                signed.head.writer,
                signed.head.sequence,
                signed.head.hash,
                signed.signed_at,
                signed.public_key,
                signed.signature,
            )
            if prunes:
                await _prune(tx, signed.head.writer)

        await self.database.write(body)
        self._added += 1

    async def newest(self, writer: str) -> Head | None:
        """The head of a writer's furthest record that was signed."""
        row = await self.database.fetch_one(
            "SELECT sequence, hash FROM audit_heads WHERE writer = $1 ORDER BY sequence DESC LIMIT 1", writer
        )
        return None if row is None else Head(writer, row["sequence"], row["hash"])


async def _prune(tx: Transaction, writer: str) -> None:
    """Rule 2. What made a chain's numbers fall back, another database, has no rows of before: the days are enough here."""
    await tx.execute(
        "DELETE FROM audit_heads WHERE writer = $1 AND sequence < (SELECT MIN(sequence) FROM"
        " (SELECT sequence FROM audit_heads WHERE writer = $1 ORDER BY sequence DESC LIMIT $2) AS newest)"
        " AND sequence NOT IN (SELECT MIN(sequence) FROM audit_heads WHERE writer = $1 GROUP BY signed_at / 86400)",
        writer,
        _NEWEST,
    )


async def read_table(reader: Reader) -> KeptHeads:
    """The heads in the database, by writer and sequence."""
    rows = await reader.fetch_all(
        "SELECT writer, sequence, hash, signed_at, public_key, signature FROM audit_heads ORDER BY writer, sequence"
    )
    heads: list[tuple[int, SignedHead]] = []
    damaged: list[str] = []
    for row in rows:
        values: Sequence[object] = tuple(row[column] for column in row.keys())  # noqa: SIM118  (a row iterates its values)
        if tuple(map(type, values)) != (str, int, bytes, int, bytes, bytes):
            damaged.append(f"a row of audit_heads (writer {row['writer']!r}, sequence {row['sequence']!r}) is no head")
            continue
        head = Head(row["writer"], row["sequence"], row["hash"])
        heads.append((0, SignedHead(head, row["signed_at"], row["public_key"], row["signature"])))
    return KeptHeads(tuple(heads), tuple(damaged))
