"""The journal: what must not be lost with the database, written to a file of its own before the database commits it.

A backup is of yesterday; what was signed and revoked since stands here, and a restore puts it back (`replay.py`). So that a
journal holds all that anybody was told, its entries are durable before the commit makes them visible (`database.Seal`).

Rule 1: a journal is append-only. Its segments are files of one process each, begun at its first entry and never opened for
writing again; so the torn line that a crash may leave is the last of its segment.
Rule 2: a line is a CRC-32 in hex, a blank, and a JSON object: the first one says whose segment it is, each other one is a
commit with its number, or takes one back (`withdrawn`). Octets stand in it as {"b64": "…"}.
Rule 3: a commit that was journalled and never withdrawn may still not have happened, when the process died between the two.
It is replayed all the same: that makes the CA more careful (a serial too many known, a revocation too many), never less.
Rule 4: an append that fails leaves nothing of itself. Where even that is impossible, or the disk failed to sync (what it has
of the file then is anybody's guess), the segment is given up for a new one. So is one that somebody has removed or moved to another
disk: what is written to a file without a name is gone with the process.
"""

import base64
import contextlib
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from acmeca.storage.database import Entry, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.times import to_seconds

_FORMAT: Final = 1
_SEGMENT_BYTES: Final = 64 << 20
_FILE_NAME: Final = re.compile(
    r"(?P<writer>[A-Za-z0-9_.-]+)@(?P<opened_at>\d{10,})-(?P<instance>[A-Za-z0-9_-]+)-(?P<part>\d{4,})\.journal"
)


class JournalError(StorageError):
    """A journal that cannot be written or read; the text says which file and why."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of one writer. `at` is in Unix seconds. `withdrawn` says that the database refused it after all."""

    writer: str
    number: int
    at: int
    entries: tuple[Entry, ...]
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a journal. `opened_at` is in Unix seconds."""

    path: Path
    writer: str
    opened_at: int
    instance: str
    part: int


class Journal:
    """The journal of one process. Its calls block; they are made from one thread at a time.

    `clock` says when a commit was made. The directory is made, for its owner alone, when it is not there; `JournalError` when
    it cannot be, or when everybody can write to it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        writer: str,
        instance: str,
        clock: Callable[[], datetime],
        segment_bytes: int = _SEGMENT_BYTES,
    ) -> None:
        self._directory = directory
        self._writer = writer
        self._instance = instance
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._file: int | None = None
        self._length = 0
        self._part = 0
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                _sync_directory(directory.parent)
            mode = directory.stat().st_mode
        except OSError as error:
            raise JournalError(
                f"the directory of the journal, {directory}, cannot be made: {error.strerror}"
            ) from error
        if mode & stat.S_IWOTH:  # a restore does what stands in it, and misses what is not there any more
            raise JournalError(f"anybody can write to the directory of the journal; run: chmod o-w {directory}")

    def append(self, number: int, entries: Sequence[Entry]) -> None:
        """Write one commit and wait until it is durable. Raises `JournalError`, and then nothing of it is there."""
        self._write(
            {
                "commit": number,
                "at": to_seconds(self._clock()),
                "entries": [
                    [entry.kind, {name: _dump(value) for name, value in entry.values.items()}] for entry in entries
                ],
            }
        )

    def withdraw(self, number: int) -> None:
        """Write down that the commit of this number was refused. Where that fails, rule 3 holds."""
        with contextlib.suppress(JournalError):
            self._write({"withdrawn": number, "at": to_seconds(self._clock())})

    def close(self) -> None:
        """Let go of the file; the next append begins a new segment."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _write(self, document: dict[str, object]) -> None:
        line = _line(document)
        try:
            if self._file is None or self._length + len(line) > self._segment_bytes or _is_unlinked(self._file):
                self._begin_segment()
            self._append(line)
        except OSError as error:
            raise JournalError(
                f"the journal in {self._directory} cannot be written: {error.strerror} (make room, or see that this user may "
                "write there); nothing was changed"
            ) from error

    def _begin_segment(self) -> None:
        self.close()
        opened_at = to_seconds(self._clock())
        self._part += 1
        path = self._directory / f"{self._writer}@{opened_at:010d}-{self._instance}-{self._part:04d}.journal"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._length = 0
        try:
            self._append(
                _line({"journal": _FORMAT, "writer": self._writer, "instance": self._instance, "opened_at": opened_at})
            )
            _sync_directory(self._directory)
        except OSError:  # a full disk: each attempt would leave a file
            self.close()
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def _append(self, line: bytes) -> None:
        file = self._file
        if file is None:
            raise RuntimeError("the segment was begun before")
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fdatasync(file)
        except OSError:
            is_as_before = False
            with contextlib.suppress(OSError):
                os.ftruncate(file, self._length)
                is_as_before = bool(rest)  # else it is the sync that failed
            if not is_as_before:  # Rule 4
                self.close()
            raise
        self._length += len(line)


# --- reading ------------------------------------------------------------------------------------------------------


def segments(directory: Path) -> list[Segment]:
    """The segments in a directory, none when there is no such directory: by writer, each instance's together.

    Instances come in the order in which they began, as far as their clock tells, their segments in the order of writing.
    """
    found = []
    if directory.is_dir():
        for path in directory.iterdir():
            match = _FILE_NAME.fullmatch(path.name)
            if match:
                found.append(
                    Segment(path, match["writer"], int(match["opened_at"]), match["instance"], int(match["part"]))
                )
    found.sort(key=lambda segment: segment.part)
    begun: dict[tuple[str, str], int] = {}
    for segment in found:
        begun.setdefault((segment.writer, segment.instance), segment.opened_at)
    return sorted(
        found,
        key=lambda segment: (segment.writer, begun[segment.writer, segment.instance], segment.instance, segment.part),
    )


@dataclass(frozen=True, slots=True)
class Damage:
    """Something in a journal that cannot be read. `line` is 0 for the file as a whole."""

    path: Path
    line: int
    detail: str

    def __str__(self) -> str:
        return f"line {self.line} of {self.path} {self.detail}" if self.line else f"{self.path} {self.detail}"


def read_segment(segment: Segment) -> Iterator[Commit]:
    """The commits of a segment in the order in which they were written; what is damaged raises `JournalError`."""
    for found in scan_segment(segment):
        if isinstance(found, Damage):
            raise JournalError(str(found))
        yield found


def scan_segment(segment: Segment) -> Iterator[Commit | Damage]:
    """The commits of a segment in the order in which they were written, and in their places what cannot be read.

    A last line that is cut short was never committed, and is left out. Raises `JournalError` for a journal of another format.
    """
    try:
        with segment.path.open("rb") as file:
            for position, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # a crash cut it: it was not durable, so nothing was committed after it
                yield from _read_line(line, position, segment)
    except OSError as error:
        yield Damage(segment.path, 0, f"cannot be read: {error.strerror}")


def _read_line(line: bytes, position: int, segment: Segment) -> Iterator[Commit | Damage]:
    try:
        document = _parse(line)
        if document is None:
            yield Damage(segment.path, position, "is damaged")
        elif "journal" in document:
            _require_format(document, segment)
            if position != 1 or (document["writer"], document["instance"]) != (segment.writer, segment.instance):
                yield Damage(segment.path, position, "is the beginning of another journal")
        else:
            yield _commit(document, segment)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        yield Damage(segment.path, position, "holds what acmeca never wrote there")


def _require_format(document: dict[str, Any], segment: Segment) -> None:
    if document.get("journal") != _FORMAT:
        raise JournalError(
            f"{segment.path} is a journal of format {document.get('journal')!r}, this program reads {_FORMAT}: "
            "use the version of acmeca that wrote it"
        )


def _commit(document: dict[str, Any], segment: Segment) -> Commit:
    if "withdrawn" in document:
        return Commit(segment.writer, int(document["withdrawn"]), int(document["at"]), (), withdrawn=True)
    entries = tuple(
        Entry(str(kind), {name: _load(value) for name, value in values.items()}) for kind, values in document["entries"]
    )
    return Commit(segment.writer, int(document["commit"]), int(document["at"]), entries)


def _line(document: dict[str, object]) -> bytes:
    text = json.dumps(document, separators=(",", ":")).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> dict[str, Any] | None:
    crc, _, text = line[:-1].partition(b" ")
    if crc != b"%08x" % zlib.crc32(text):
        return None
    document = json.loads(text)
    return document if isinstance(document, dict) else None


def _dump(value: Value) -> object:
    return {"b64": base64.b64encode(value).decode("ascii")} if isinstance(value, bytes) else value


def _load(value: Any) -> Value:
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    if value is None or isinstance(value, (str, int)):
        return value
    raise ValueError(f"a {type(value).__name__} is no value of a column")


def _is_unlinked(file: int) -> bool:
    return os.fstat(file).st_nlink == 0


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
