"""Which segments of the journals a backup makes superfluous.

Rule 1: a segment can go when the backup holds everything in it: for each of its commits the audit's records, with the same
hashes. A commit that never happened holds nothing up when another took its place.
Rule 2: what a process may still write to stays, and so does the newest segment of each writer: by it a restore sees that the
journal of that writer is there and where it ends.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from acmeca.storage.database import Value
from acmeca.storage.journal import Commit, Damage, Segment, scan_segment
from acmeca.storage.journals import AUDIT


@dataclass(frozen=True, slots=True)
class Summary:
    """What is in a segment. Times are Unix seconds, None for one without a commit."""

    segment: Segment
    length: int
    commits: int
    first_number: int | None
    last_number: int | None
    first_at: int | None
    last_at: int | None
    damages: tuple[str, ...]


def summarize(segment: Segment) -> Summary:
    """Read a segment from its beginning to its end. Raises `JournalError` for one of another format."""
    numbers: list[int] = []
    times: list[int] = []
    damages: list[str] = []
    count = 0
    for found in scan_segment(segment):
        if isinstance(found, Damage):
            damages.append(str(found))
            continue
        count += not found.withdrawn
        numbers = [*numbers[:1], found.number]
        times = [*times[:1], found.at]
    return Summary(
        segment=segment,
        length=segment.path.stat().st_size,
        commits=count,
        first_number=numbers[0] if numbers else None,
        last_number=numbers[-1] if numbers else None,
        first_at=times[0] if times else None,
        last_at=times[-1] if times else None,
        damages=tuple(damages),
    )


def superfluous(
    segments: Sequence[Segment], backup: sqlite3.Connection, *, running: Collection[str]
) -> Iterator[Segment]:
    """The segments that can go. `running` are the instances that write, or may."""
    newest = {segment.writer: segment for segment in segments}
    last_parts: dict[str, int] = {}
    for segment in segments:
        last_parts[segment.instance] = max(segment.part, last_parts.get(segment.instance, 0))
    for segment in segments:
        is_open = segment.instance in running and segment.part == last_parts[segment.instance]
        if segment is not newest[segment.writer] and not is_open and _is_held(segment, backup):
            yield segment


def _is_held(segment: Segment, backup: sqlite3.Connection) -> bool:
    """Rule 1."""
    doubtful: Commit | None = None
    for found in scan_segment(segment):
        if isinstance(found, Damage):
            return False
        if found.withdrawn:
            if doubtful is not None and doubtful.number == found.number:
                doubtful = None
            continue
        if doubtful is not None:
            return False
        held = [_holds(backup, entry.values) for entry in found.entries if entry.kind == AUDIT]
        if None in held:
            return False
        doubtful = None if all(held) else found
    return True


def _holds(backup: sqlite3.Connection, record: Mapping[str, Value]) -> bool | None:
    """Whether the backup has this record: True, another one in its place (False), or none there (None)."""
    row = backup.execute(
        "SELECT hash FROM audit WHERE writer = ? AND sequence = ?", (record.get("writer"), record.get("sequence"))
    ).fetchone()
    return None if row is None else bool(row[0] == record.get("hash"))
