"""A database built anew from a backup and the journals, and what can be said of what is missing in it.

Rule 1: it is built beside the one that is there, which is not touched (`placement.py` puts it into its place).
Rule 2: what is missing is looked for where it must show: damaged and shortened journals, writers without a journal, gaps in the
audit's chains (every commit that was journalled has a record there, and a chain has no gaps), and ends of chains that were kept
elsewhere (`KnownHead`). The end of a journal that nobody kept the head of cannot be missed: that is said in docs/backup.md.
Rule 3: leases and writers begin anew: whoever had something in hand is gone.
Rule 4: where something is missing, numbers go on far above all that the missing journals can have. When those are found one day, a
commit in them is not taken for one that never happened because another writer's bears its number (journals.py, rule 3).
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from acmeca.audit import FIRST_PREVIOUS, Head, StoreRestored, record_hash
from acmeca.storage.backup import Backup, Manifest
from acmeca.storage.database import Database, Reader, Transaction
from acmeca.storage.journals import Journals
from acmeca.storage.placing import Tally
from acmeca.storage.replay import raise_last_commits, replay
from acmeca.storage.sqlite import SqliteDatabase

_PAGE: Final = 2000
_ROOM: Final = 1 << 40  # numbers; a thousand commits a second need 35 years for them


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A record that was there once. `source` says who knows; `at` is when it was known (Unix seconds), None for just now."""

    head: Head
    source: str
    at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A database that was built. `losses` is what is known to be missing, a sentence each; nothing when it is complete."""

    path: Path
    manifest: Manifest
    sha256: str
    tally: Tally
    left_out: int
    losses: tuple[str, ...]
    newest_record: int | None
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return not self.losses


async def build(
    backup: Backup, path: Path, journals: Journals | None, *, known_heads: Sequence[KnownHead] = ()
) -> Restored:
    """Build the database of a backup at `path`, bring its schema up to date, and replay the journals; None: without.

    Raises `StorageError`, and `JournalError` for a journal that this program must not replay.
    """
    backup.copy_database(path)
    database = await SqliteDatabase.open(path)
    try:
        tally = Tally()
        if journals is not None:
            tally = await replay(database, journals.commits(), base=backup.manifest.last_commit)
            await raise_last_commits(database, journals.last_numbers)
        await _begin_anew(database)
        losses = await _find_losses(database, backup.manifest, journals, tally, known_heads)
        if losses:
            await _leave_room(database)
        newest = await database.fetch_one("SELECT MAX(at) AS at FROM audit")
        return Restored(
            path=path,
            manifest=backup.manifest,
            sha256=backup.sha256,
            tally=tally,
            left_out=0 if journals is None else journals.left_out,
            losses=tuple(losses),
            newest_record=None if newest is None else newest["at"],
            counts=await _counts(database),
        )
    finally:
        await database.close()


def format_moment(seconds: int | None) -> str:
    """`2026-11-25 22:04:12 UTC`."""
    return "never" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


async def _begin_anew(database: Database) -> None:
    """Rule 3."""

    async def body(tx: Transaction) -> None:
        await tx.execute("UPDATE leases SET instance = ''")
        await tx.execute("UPDATE writers SET instance = '', ended = 1")

    await database.write(body)


async def _leave_room(database: Database) -> None:
    """Rule 4."""

    async def body(tx: Transaction) -> None:
        await tx.execute("UPDATE writers SET last_commit = last_commit + $1", _ROOM)

    await database.write(body)


async def _counts(reader: Reader) -> dict[str, int]:
    row = await reader.fetch_one(
        "SELECT (SELECT COUNT(*) FROM certificates) AS certificates,"
        " (SELECT COUNT(*) FROM certificates WHERE revoked_at IS NOT NULL) AS revoked,"
        " (SELECT COUNT(*) FROM accounts) AS accounts, (SELECT COUNT(*) FROM audit) AS records"
    )
    return {} if row is None else {name: row[name] for name in row.keys()}  # noqa: SIM118  (a row is no mapping)


# --- what is missing (rule 2) -------------------------------------------------------------------------------------


async def _find_losses(
    database: Database,
    manifest: Manifest,
    journals: Journals | None,
    tally: Tally,
    known_heads: Sequence[KnownHead],
) -> list[str]:
    since = format_moment(manifest.created_at)
    if journals is None:
        return [f"whatever was signed, revoked or shut since {since}: no journal was replayed, as was asked for"]
    if not journals.segments:
        return [f"whatever was signed, revoked or shut since {since}: there is no journal"]
    losses = [*_missing_journals(manifest, journals), *map(str, journals.damages)]
    losses += [text async for text in _gaps(database, manifest)]
    losses += [text async for text in _missing_heads(database, known_heads)]
    if tally.unplaced_count:
        more = f", and {tally.unplaced_count - 1} more" if tally.unplaced_count > 1 else ""
        losses.append(f"entries of journals that rest on something which is not there: {tally.unplaced[0]}{more}")
    return losses


def _missing_journals(manifest: Manifest, journals: Journals) -> Iterable[str]:
    found = journals.writers
    kept = {name.partition("@")[0] for name in manifest.journals}
    for writer in manifest.writers:
        if writer.name not in found and (writer.is_running or writer.name in kept):
            yield (
                f"what {writer.name} did since {format_moment(manifest.created_at)}: it was running or had a journal when the "
                "backup was made, and no journal of it was found (--journal DIR takes a copy)"
            )
    lengths = {segment.path.name: segment for segment in journals.segments}
    for name, length in manifest.journals.items():
        segment = lengths.get(name)
        if segment is not None and segment.path.stat().st_size < length:
            yield f"the end of {segment.path}: it had {length} octets when the backup was made, and is shorter now"


async def _gaps(database: Database, manifest: Manifest) -> AsyncIterator[str]:
    """Each chain is whole from the backup's head on."""
    heads = {head.writer: head for head in manifest.heads}
    for row in await database.scan("SELECT DISTINCT writer FROM audit ORDER BY writer"):
        writer = row["writer"]
        head = heads.get(writer, Head(writer, 0, FIRST_PREVIOUS))
        async for text in _gaps_of_writer(database, head, newest_before=manifest.newest_record):
            yield text


async def _gaps_of_writer(database: Database, head: Head, *, newest_before: int | None) -> AsyncIterator[str]:
    before, at = head, newest_before
    while True:
        rows = await database.scan(
            "SELECT sequence, at, event, hash FROM audit WHERE writer = $1 AND sequence > $2 ORDER BY sequence LIMIT $3",
            before.writer,
            before.sequence,
            _PAGE,
        )
        for row in rows:
            missing = row["sequence"] - before.sequence - 1
            if missing:
                last = row["sequence"] - 1
                yield (
                    f"what {before.writer} did with its audit records {before.sequence + 1} to {last} ({missing} of them), between"
                    f" {format_moment(at)} and {format_moment(row['at'])}: no journal that was found has them"
                )
            elif row["hash"] != record_hash(before.hash, before.writer, row["sequence"], row["at"], row["event"]):
                yield (
                    f"something of {before.writer} before its audit record {row['sequence']} of {format_moment(row['at'])}, which "
                    "does not follow the one before it"
                )
            before, at = Head(before.writer, row["sequence"], row["hash"]), row["at"]
        if len(rows) < _PAGE:
            return


async def _missing_heads(database: Database, known_heads: Sequence[KnownHead]) -> AsyncIterator[str]:
    """What was there once is there, unless an operator has given it up before."""
    given_up = await _last_given_up(database)
    newest: dict[tuple[str, str], KnownHead] = {}
    for known in known_heads:
        key = known.source, known.head.writer
        is_open = known.at is None or known.at > given_up
        if is_open and (key not in newest or newest[key].head.sequence < known.head.sequence):
            newest[key] = known
    for known in newest.values():
        head = known.head
        row = await database.fetch_one(
            "SELECT hash FROM audit WHERE writer = $1 AND sequence = $2", head.writer, head.sequence
        )
        if row is not None and row["hash"] == head.hash:
            continue
        end = await database.fetch_one("SELECT MAX(sequence) AS last FROM audit WHERE writer = $1", head.writer)
        last = 0 if end is None else end["last"] or 0
        what = f"they end at {last}" if row is None else "another one stands there now"
        yield f"audit record {head.sequence} of {head.writer} and what came before it: {known.source} has it, {what}"


async def _last_given_up(database: Database) -> int:
    """When an operator last took an incomplete restore for good; 0: never."""
    found = 0
    for row in await database.scan("SELECT at, event FROM audit WHERE kind = $1", StoreRestored.kind):
        if json.loads(row["event"]).get("complete") == "no":
            found = max(found, row["at"])
    return found
