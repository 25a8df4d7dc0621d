"""The chain of hashes that shows whether audit records were touched.

Rule 1: each writer has a chain of its own, numbered from 1. A record's hash covers the hash before it, so that an edited,
deleted, inserted or reordered record shows. A chain cut off at its end is whole in itself: that shows only against a head
(the last number and hash) that was kept elsewhere.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from acmeca.audit.events import Event

FIRST_PREVIOUS: Final = bytes(32)
"""What stands for the hash before a chain's first record."""

_DOMAIN: Final = b"acmeca audit record 1"


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it is kept. `at` is in Unix seconds; `kind`, `actor`, `subject` repeat members of `event` for search."""

    writer: str
    sequence: int
    at: int
    kind: str
    actor: str
    subject: str
    event: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a writer's chain at some moment, kept where who can write to the store cannot."""

    writer: str
    sequence: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the record at, or next to, `sequence` in the chain of `writer`."""

    writer: str
    sequence: int
    detail: str

    def __str__(self) -> str:
        return f"{self.writer} {self.sequence}: {self.detail}"


def dump_event(event: Event) -> str:
    """The event as canonical JSON: sorted members, no white space, ASCII only. These characters are what is hashed."""
    return json.dumps(event.to_json(), sort_keys=True, separators=(",", ":"), allow_nan=False)


def record_hash(previous: bytes, writer: str, sequence: int, at: int, event_json: str) -> bytes:
    """SHA-256 over a record and the hash before it.

    Every field goes in behind its length (8 octets, big-endian), so that no two records have the same encoding.
    `at` is in Unix seconds.
    """
    digest = hashlib.sha256()
    for field in (
        _DOMAIN,
        previous,
        writer.encode(),
        sequence.to_bytes(8, "big"),
        at.to_bytes(8, "big", signed=True),
        event_json.encode(),
    ):
        digest.update(len(field).to_bytes(8, "big"))
        digest.update(field)
    return digest.digest()


def build_record(previous: Head | None, *, writer: str, at: datetime, event: Event) -> Record:
    """The record that follows `previous`, or a writer's first one. `at` is cut to whole seconds.

    Raises ValueError for a moment without a time zone: it would be read differently on another machine.
    """
    if at.tzinfo is None:
        raise ValueError(f"an audit record needs a moment with a time zone, got {at.isoformat()}")
    sequence = 1 if previous is None else previous.sequence + 1
    before = FIRST_PREVIOUS if previous is None else previous.hash
    seconds = int(at.timestamp())
    text = dump_event(event)
    return Record(
        writer=writer,
        sequence=sequence,
        at=seconds,
        kind=event.kind,
        actor=event.actor,
        subject=event.subject,
        event=text,
        hash=record_hash(before, writer, sequence, seconds, text),
    )


class ChainVerifier:
    """Takes records one by one, each writer's in order of `sequence`, and gathers the faults. Holds no record.

    After a fault it goes on from what the record itself says, so that one fault is told once.
    """

    def __init__(self, heads: Iterable[Head] = ()) -> None:
        self._expected = {head.writer: head for head in heads}
        self._last: dict[str, Head] = {}
        self._faults: list[Fault] = []

    def add(self, record: Record) -> None:
        """Check one record in numbered steps; a record may have several faults."""
        last = self._last.get(record.writer)
        last_sequence = 0 if last is None else last.sequence
        # Step 1: its place. Numbers run from 1 without a gap.
        if record.sequence <= last_sequence:
            self._fault(record, f"out of order: it comes after {last_sequence}")
            return
        gap = record.sequence - last_sequence - 1
        if gap:
            self._fault(record, f"{gap} {'record is' if gap == 1 else 'records are'} missing before it")
        # Step 2: its hash, over what it says and the hash before it. Behind a gap that hash is not known.
        before = FIRST_PREVIOUS if last is None else last.hash
        if not gap and record.hash != _hash_or_none(before, record):
            self._fault(record, "its hash does not fit: it, or the one before it, was changed")
        # Step 3: the columns say what the hashed text says.
        if not _agrees(record):
            self._fault(record, "its columns do not say what its event says")
        # Step 4: a head that was kept elsewhere.
        head = self._expected.get(record.writer)
        if head is not None and head.sequence == record.sequence and head.hash != record.hash:
            self._fault(record, "it is not the record whose hash was kept: the chain was written anew")
        self._last[record.writer] = Head(record.writer, record.sequence, record.hash)

    def finish(self) -> list[Fault]:
        """All faults, with those that only the end of the records shows."""
        cut = [
            Fault(
                head.writer, head.sequence, f"the chain ends at {last}, but this record was there once: it was cut off"
            )
            for head in self._expected.values()
            if (last := self._last_sequence(head.writer)) < head.sequence
        ]
        return [*self._faults, *cut]

    def _last_sequence(self, writer: str) -> int:
        last = self._last.get(writer)
        return 0 if last is None else last.sequence

    def _fault(self, record: Record, detail: str) -> None:
        self._faults.append(Fault(record.writer, record.sequence, detail))


def verify_chain(records: Iterable[Record], heads: Iterable[Head] = ()) -> list[Fault]:
    """What is wrong with the chains that `records` form, each writer's in order of `sequence`; empty when all is well.

    Without `heads` a chain whose last records were deleted looks whole.
    """
    verifier = ChainVerifier(heads)
    for record in records:
        verifier.add(record)
    return verifier.finish()


def _hash_or_none(before: bytes, record: Record) -> bytes | None:
    """The hash the record should have, or None when its values cannot be hashed at all."""
    try:
        return record_hash(before, record.writer, record.sequence, record.at, record.event)
    except (OverflowError, UnicodeEncodeError):
        return None


def _agrees(record: Record) -> bool:
    try:
        members = json.loads(record.event)
    except (ValueError, RecursionError):
        return False
    if not isinstance(members, dict):
        return False
    said = (members.get("kind"), members.get("actor"), members.get("subject"))
    return said == (record.kind, record.actor, record.subject)
