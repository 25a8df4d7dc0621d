"""A backup: everything that a database held at one moment, in one file that can be proven whole.

Rule 1: it is an SQLite database of all tables, with two more: `backup_manifest` says what it is, `backup_files` holds key files
where they were asked for. Behind its last page stands a line with the SHA-256 of everything before: SQLite does not mind it, and
no octet of the file can change unseen.
Rule 2: it is one snapshot. What a commit did is in it whole or not at all, so each certificate has its audit record.
Rule 3: it is there whole or not at all: written as `NAME.part`, read back, synced, and then given its name.
Rule 4: nothing of a backup is believed before the line behind it, the structure, the manifest and every table's digest are right.
"""

import fcntl
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from acmeca.audit import Head
from acmeca.errors import Conflict
from acmeca.storage.errors import StorageError
from acmeca.storage.sqlite import open_snapshot
from acmeca.storage.tables import Digest, Sum, Table, read_rows, read_tables

FORMAT: Final = 1
_TRAILER: Final = re.compile(rb"\nacmeca backup (\d{4}) sha256 ([0-9a-f]{64})\n")
_TRAILER_BYTES: Final = len("\nacmeca backup 0001 sha256 ") + 64 + 1
_PAGES: Final = 2048  # copied between two words on the progress
_CHUNK: Final = 1 << 20
_MANIFEST: Final = "CREATE TABLE backup_manifest (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
_FILES: Final = "CREATE TABLE backup_files (path TEXT PRIMARY KEY, mode BIGINT NOT NULL, content BLOB NOT NULL)"

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""

Fill: TypeAlias = Callable[[sqlite3.Connection, OnProgress], None]
"""Puts one snapshot of a database, tables and rows, into an empty SQLite database."""


class BackupError(StorageError):
    """A backup that cannot be written, or must not be believed; the text says why."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of the data directory, by its path in there."""

    path: str
    mode: int
    content: bytes


@dataclass(frozen=True, slots=True)
class KnownWriter:
    """A writer as the database knew it: `is_running` unless it had said that it stops, or was shut out."""

    name: str
    last_commit: int
    is_running: bool


@dataclass(frozen=True, slots=True)
class KnownTable:
    """A table as the backup holds it."""

    columns: tuple[str, ...]
    sum: Sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup says of itself. Times are Unix seconds; `roots` are SHA-256 digests of certificates, in hex.

    `journals` are the segments that lay beside the database, by name, with the length they had; `journal_dir` is where.
    """

    format: int
    created_at: int
    acmeca: str
    schema: int
    source: str
    roots: tuple[str, ...]
    tables: Mapping[str, KnownTable]
    heads: tuple[Head, ...]
    last_commit: int
    newest_record: int | None
    writers: tuple[KnownWriter, ...]
    journal_dir: str
    journals: Mapping[str, int]
    has_keys: bool

    def to_json(self) -> dict[str, Any]:
        """The manifest's members, as the table and `--json` have them."""
        return {
            "format": self.format,
            "created_at": self.created_at,
            "acmeca": self.acmeca,
            "schema": self.schema,
            "source": self.source,
            "roots": list(self.roots),
            "tables": {
                name: {"columns": list(table.columns), "rows": table.sum.rows, "sha256": table.sum.sha256}
                for name, table in self.tables.items()
            },
            "heads": [[head.writer, head.sequence, head.hash.hex()] for head in self.heads],
            "last_commit": self.last_commit,
            "newest_record": self.newest_record,
            "writers": [[writer.name, writer.last_commit, writer.is_running] for writer in self.writers],
            "journal_dir": self.journal_dir,
            "journals": dict(self.journals),
            "has_keys": self.has_keys,
        }

    @classmethod
    def from_json(cls, members: Mapping[str, Any]) -> "Manifest":
        """Raises KeyError, TypeError or ValueError for what is none."""
        return cls(
            format=int(members["format"]),
            created_at=int(members["created_at"]),
            acmeca=str(members["acmeca"]),
            schema=int(members["schema"]),
            source=str(members["source"]),
            roots=tuple(map(str, members["roots"])),
            tables={
                name: KnownTable(tuple(table["columns"]), Sum(int(table["rows"]), str(table["sha256"])))
                for name, table in members["tables"].items()
            },
            heads=tuple(
                Head(str(writer), int(sequence), bytes.fromhex(hash_)) for writer, sequence, hash_ in members["heads"]
            ),
            last_commit=int(members["last_commit"]),
            newest_record=None if members["newest_record"] is None else int(members["newest_record"]),
            writers=tuple(
                KnownWriter(str(name), int(last_commit), bool(is_running))
                for name, last_commit, is_running in members["writers"]
            ),
            journal_dir=str(members["journal_dir"]),
            journals={str(name): int(length) for name, length in members["journals"].items()},
            has_keys=bool(members["has_keys"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a backup says of where and when it was made."""

    created_at: int
    acmeca: str
    source: str
    journal_dir: Path
    journals: Mapping[str, int]
    files: Sequence[KeyFile] | None = None  # None: without keys


# --- writing ------------------------------------------------------------------------------------------------------


def write_backup(
    target: Path, fill: Fill, circumstances: Circumstances, *, may_replace: bool, on_progress: OnProgress
) -> Manifest:
    """Write a backup, in numbered steps. Raises `Conflict` when there is a file, `BackupError`, `StorageError`."""
    if target.exists() and not may_replace:
        raise Conflict(f"{target} exists; choose another name, or replace it with --force")
    part = target.with_name(target.name + ".part")
    with part_file(part) as file:
        try:
            # Step 1: one snapshot. Nothing of the file is looked at before it is synced, so nothing is synced on the way.
            with closing(sqlite3.connect(part, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = OFF")
                fill(connection, on_progress)
                connection.execute("PRAGMA journal_mode = DELETE")
                # Step 2: it is sound, and this is what it holds.
                on_progress("checking", 0, 0)
                require_sound(connection, "the database that was to be backed up")
                manifest = _describe(connection, circumstances, on_progress)
                _add_own_tables(connection, manifest, circumstances.files)
            # Step 3: durable, with the line behind it.
            on_progress("writing down", 0, 0)
            digest = _digest_of(file, _length(file))
            _append(file, b"\nacmeca backup %04d sha256 %s\n" % (FORMAT, digest.encode("ascii")))
            os.fsync(file.fileno())
            # Step 4: its name.
            if target.exists() and not may_replace:
                raise Conflict(f"{target} was made meanwhile; choose another name")
            part.replace(target)
        except sqlite3.Error as error:
            raise writing_failed(target, error) from error
        except OSError as error:
            raise _failed(target, str(error.strerror)) from error
    sync_directory(target.parent)
    return manifest


def copy_pages(source: Path) -> Fill:
    """Fills from an SQLite database, page by page, whoever writes to it meanwhile."""

    def fill(connection: sqlite3.Connection, on_progress: OnProgress) -> None:
        # In a read transaction of its own the copy is never begun anew, however much is written beside it.
        with open_snapshot(source) as snapshot:
            snapshot.backup(
                connection,
                pages=_PAGES,
                progress=lambda _, left, total: on_progress("copying", total - left, total),
                sleep=0.0,
            )

    return fill


@contextmanager
def part_file(path: Path) -> Iterator[BinaryIO]:
    """The file while it is written: locked, so that two backups do not share it, and removed when it got no name."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _failed(path, str(error.strerror)) from error
    with os.fdopen(descriptor, "r+b", buffering=0) as file:  # nothing is left to be written when it is closed
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another backup is being written to {path}") from None
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        _forget_beside(path)
        try:
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            _forget_beside(path)
            raise


def _forget_beside(path: Path) -> None:
    """What SQLite had beside a part that was never finished."""
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _describe(connection: sqlite3.Connection, circumstances: Circumstances, on_progress: OnProgress) -> Manifest:
    tables = read_tables(connection)
    names = {table.name for table in tables}
    if not {"audit", "issuers"} <= names:
        raise BackupError("the database has no tables of acmeca; make a CA with: acmeca init")
    writers = (
        connection.execute(
            "SELECT name, last_commit, instance <> '' AND ended = 0 FROM writers ORDER BY name"
        ).fetchall()
        if "writers" in names
        else []
    )
    return Manifest(
        format=FORMAT,
        created_at=circumstances.created_at,
        acmeca=circumstances.acmeca,
        schema=int(connection.execute("PRAGMA user_version").fetchone()[0]),
        source=circumstances.source,
        roots=tuple(
            hashlib.sha256(certificate).hexdigest()
            for (certificate,) in connection.execute(
                "SELECT certificate FROM issuers WHERE parent_id IS NULL ORDER BY created_at, id"
            )
        ),
        tables=_known_tables(connection, tables, on_progress),
        heads=read_heads(connection),
        last_commit=max((last_commit for _, last_commit, _ in writers), default=0),
        newest_record=connection.execute("SELECT MAX(at) FROM audit").fetchone()[0],
        writers=tuple(KnownWriter(name, number, bool(is_running)) for name, number, is_running in writers),
        journal_dir=str(circumstances.journal_dir),
        journals=circumstances.journals,
        has_keys=circumstances.files is not None,
    )


def read_heads(connection: sqlite3.Connection) -> tuple[Head, ...]:
    """The end of each writer's chain."""
    ends = connection.execute("SELECT writer, MAX(sequence) FROM audit GROUP BY writer ORDER BY writer").fetchall()
    found = "SELECT hash FROM audit WHERE writer = ? AND sequence = ?"
    return tuple(
        Head(writer, sequence, connection.execute(found, (writer, sequence)).fetchone()[0]) for writer, sequence in ends
    )


def _known_tables(
    connection: sqlite3.Connection, tables: Sequence[Table], on_progress: OnProgress
) -> dict[str, KnownTable]:
    known = {}
    for number, table in enumerate(tables):
        on_progress("checking", number, len(tables))
        digest = Digest()
        for rows in read_rows(connection, table):
            digest.add(rows)
        known[table.name] = KnownTable(table.columns, digest.sum)
    return known


def _add_own_tables(connection: sqlite3.Connection, manifest: Manifest, files: Sequence[KeyFile] | None) -> None:
    connection.execute("BEGIN")
    connection.execute(_MANIFEST)
    connection.executemany(
        "INSERT INTO backup_manifest VALUES (?, ?)",
        [(name, json.dumps(value)) for name, value in manifest.to_json().items()],
    )
    if files is not None:
        connection.execute(_FILES)
        connection.executemany(
            "INSERT INTO backup_files VALUES (?, ?, ?)", [(file.path, file.mode, file.content) for file in files]
        )
    connection.execute("COMMIT")


def require_sound(connection: sqlite3.Connection, what: str) -> None:
    """Raise `BackupError` when SQLite finds something wrong with pages, rows or indexes, or a row without its parent."""
    faults = [text for (text,) in connection.execute("PRAGMA integrity_check(3)") if text != "ok"]
    if faults:
        raise BackupError(f"{what} is damaged: {faults[0]}")
    if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
        raise BackupError(f"{what} is damaged: rows refer to what is not there")


def writing_failed(target: Path, error: sqlite3.Error) -> StorageError:
    code: int = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}:
        return _failed(target, str(error))
    return BackupError(f"the backup was not made: {error}")


def _failed(target: Path, reason: str) -> BackupError:
    return BackupError(
        f"{target} cannot be written: {reason} (a backup takes as much room as the database); nothing is left of it"
    )


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was proven whole. `length` is that of the database in it, `sha256` is the digest of that."""

    path: Path
    length: int
    sha256: str
    manifest: Manifest
    connection: sqlite3.Connection

    def files(self) -> list[KeyFile]:
        """The key files in it; none when it was made without."""
        if not self.manifest.has_keys:
            return []
        rows = self.connection.execute("SELECT path, mode, content FROM backup_files ORDER BY path")
        return [KeyFile(path, mode, content) for path, mode, content in rows]

    def copy_database(self, target: Path) -> None:
        """Put the database into a new file of mode 0600, as it is but for the tables of the backup."""
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with self.path.open("rb") as source, os.fdopen(descriptor, "wb") as file:
            for chunk in _chunks(source, self.length):
                file.write(chunk)
        with closing(sqlite3.connect(target, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = OFF")  # it is synced when it is complete
            connection.execute("PRAGMA secure_delete = ON")  # keys must not stay behind in free pages
            connection.execute("DROP TABLE backup_manifest")
            connection.execute("DROP TABLE IF EXISTS backup_files")


@contextmanager
def opened_backup(path: Path, *, on_progress: OnProgress) -> Iterator[Backup]:
    """A backup, once it is proven whole (rule 4). Raises `BackupError`."""
    length, sha256 = _require_whole(path, on_progress)
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            manifest = _read_manifest(connection, path)
            require_sound(connection, str(path))
            tables = read_tables(connection)
            if _known_tables(connection, tables, on_progress) != dict(manifest.tables):
                raise BackupError(f"{path} does not hold what its manifest says; it was changed: use another backup")
            yield Backup(path, length, sha256, manifest, connection)
    except sqlite3.Error as error:
        raise BackupError(f"{path} cannot be read as a backup: {error}; use another one") from error


def _require_whole(path: Path, on_progress: OnProgress) -> tuple[int, str]:
    """The length and the digest of what stands before the line at the end, which has to fit."""
    on_progress("reading", 0, 0)
    try:
        with path.open("rb") as file:
            length = _length(file) - _TRAILER_BYTES
            file.seek(max(0, length))
            match = _TRAILER.fullmatch(file.read())
            if match is None:
                raise BackupError(f"{path} is no backup of acmeca, or its end is damaged or missing: use another one")
            if int(match[1]) != FORMAT:
                raise BackupError(
                    f"{path} is a backup of format {int(match[1])}, this program reads {FORMAT}: use the version of acmeca "
                    "that made it"
                )
            found = _digest_of(file, length)
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror}") from error
    if found != match[2].decode("ascii"):
        raise BackupError(f"{path} is damaged: it is not what was written; use another backup")
    return length, found


def _read_manifest(connection: sqlite3.Connection, path: Path) -> Manifest:
    try:
        members = {
            name: json.loads(value) for name, value in connection.execute("SELECT name, value FROM backup_manifest")
        }
        return Manifest.from_json(members)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BackupError(f"{path} has no manifest that can be read: use another backup") from error


def _digest_of(file: BinaryIO, length: int) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(file, length):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(file: BinaryIO, length: int) -> Iterator[bytes]:
    """The first `length` octets."""
    file.seek(0)
    left = length
    while left:
        chunk = file.read(min(left, _CHUNK))
        if not chunk:
            raise BackupError("the file became shorter while it was read")
        left -= len(chunk)
        yield chunk


def _append(file: BinaryIO, data: bytes) -> None:
    file.seek(0, os.SEEK_END)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def sync_directory(directory: Path) -> None:
    """Make what was renamed in it durable."""
    with suppress(PermissionError):  # one that may be entered and written to, but not read
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
