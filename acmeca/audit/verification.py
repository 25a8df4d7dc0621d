"""What is wrong with the audit: every record against its chain, every chain against the heads that were kept of it.

Rule 1: records come one by one, each writer's in order of `sequence`, and none is held: what is kept is the end of each chain,
the heads, and at most `_MOST_BROKEN` records that do not fit.
Rule 2: one thing that was done is one fault, on the record it was done to. Where two readings are possible, the text says both.
Rule 3: a head whose signature is good counts, whoever's key it is: a key that nobody knows is a fault by itself. A head without
a signature counts as well: somebody kept it apart and vouches for it.
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from acmeca.audit.chain import FIRST_PREVIOUS, Head, Record, record_hash
from acmeca.audit.events import AuditKeyCreated
from acmeca.audit.heads import SignedHead, fingerprint, is_genuine

_MOST_BROKEN: Final = 64  # records of one chain that are held to see where they belong; each is tried in each place
_MOST_FAULTS: Final = 1000  # told; the others are counted


class What(StrEnum):
    """What was done."""

    EDITED = "edited"
    MISSING = "missing"
    MOVED = "out of order"
    CUT = "cut off"
    REWRITTEN = "rewritten"
    ADDED = "added"
    FORGED = "forged"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the record `sequence`, or all from there through `through`, in the chain of `writer`.

    `sequence` is None where the fault is no record's. `at` (Unix seconds) and `kind` are the record's, where there is one.
    """

    what: What
    writer: str
    sequence: int | None
    detail: str
    through: int | None = None
    at: int | None = None
    kind: str | None = None

    def __str__(self) -> str:
        record = "" if self.sequence is None else format_range(self.sequence, self.through)
        known = ", ".join(text for text in (self.kind, None if self.at is None else format_at(self.at)) if text)
        where = " ".join(text for text in (self.writer, record, known and f"({known})") if text)
        return ": ".join(text for text in (where, self.what.value, self.detail) if text)

    def to_json(self) -> dict[str, object]:
        return {
            "what": self.what.value,
            "writer": self.writer,
            "sequence": self.sequence,
            "through": self.through,
            "at": None if self.at is None else format_at(self.at),
            "kind": self.kind,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class FoundHead:
    """A head and where it was found. `signed` is None for one that somebody wrote down without its signature."""

    head: Head
    source: str
    signed: SignedHead | None = None

    def __str__(self) -> str:
        when = "" if self.signed is None else f" of {format_at(self.signed.signed_at)}"
        return f"the head{when} in {self.source}"


@dataclass(frozen=True, slots=True)
class ChainSummary:
    """One writer's chain as it was found. Of `kept_heads` it passes through `heads`, of which `newest_head` is the last."""

    writer: str
    records: int
    first_at: int | None
    last_at: int | None
    head: Head | None
    kept_heads: int
    heads: int
    newest_head: FoundHead | None
    faults: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found. `left_out` is how many faults more there are than `faults` has."""

    faults: tuple[Fault, ...]
    left_out: int
    chains: tuple[ChainSummary, ...]
    heads: int


class ChainVerifier:
    """Takes records, gathers the faults. `heads` are what the chains have to pass through.

    `trusted` are fingerprints of the keys that may have signed them, besides those that the audit itself names
    (`AuditKeyCreated`); with `only_trusted` those do not count, for who can rewrite an audit can name a key in it.
    """

    def __init__(
        self, heads: Iterable[FoundHead] = (), *, trusted: Iterable[str] = (), only_trusted: bool = False
    ) -> None:
        self._faults = _Faults()
        self._keys = set(trusted)
        self._only_trusted = only_trusted
        self._heads: list[FoundHead] = []
        self._chains: dict[str, _Chain] = {}
        for found in _distinct(heads):
            if found.signed is not None and not is_genuine(found.signed):
                self._faults.add(
                    Fault(
                        What.FORGED,
                        found.head.writer,
                        found.head.sequence,
                        f"{found} has a signature that is not its key's",
                    )
                )
                continue
            self._heads.append(found)
            self._chain(found.head.writer).expect(found)

    def add(self, record: Record) -> None:
        """Check one record (`_Chain.add`)."""
        self._chain(record.writer).add(record)
        if record.kind == AuditKeyCreated.kind and not self._only_trusted:
            self._keys.add(record.subject)

    def add_damaged(self, writer: str, sequence: int | None, detail: str) -> None:
        """A record that cannot be checked, because it holds what nobody wrote: `detail` says what."""
        self._chain(writer).add_damaged(sequence, detail)

    def add_beyond(self, writer: str, sequence: int, source: str) -> None:
        """There was a record of this number, says `source`; where the chain ends before it, it was cut off."""
        self._chain(writer).note_beyond(sequence, source)

    def add_fault(self, fault: Fault) -> None:
        """A fault that was found elsewhere, with a heads file or a journal."""
        self._faults.add(fault)

    def finish_records(self) -> None:
        """No records come after these; other witnesses may be heard (`is_told`, `add_fault`, `add_beyond`)."""
        for chain in self._chains.values():
            chain.judge_broken()

    def is_told(self, writer: str, sequence: int) -> bool:
        """Whether there is a fault of this record already."""
        return self._faults.has(writer, sequence)

    def ends(self) -> dict[str, int]:
        """The number of the last record of each writer so far."""
        return {writer: chain.last for writer, chain in self._chains.items()}

    def finish(self) -> Report:
        """Everything that was found, with what only the end of the records shows. Called once."""
        for chain in self._chains.values():
            chain.finish()
        self._judge_keys()
        chains = tuple(chain.summary(self._faults.count(writer)) for writer, chain in sorted(self._chains.items()))
        return Report(self._faults.sorted(), self._faults.left_out, chains, len(self._heads))

    def _chain(self, writer: str) -> "_Chain":
        chain = self._chains.get(writer)
        if chain is None:
            chain = self._chains[writer] = _Chain(writer, self._faults)
        return chain

    def _judge_keys(self) -> None:
        """One fault for each key that is nobody's."""
        unknown: dict[str, list[FoundHead]] = {}
        for found in self._heads:
            if found.signed is not None:
                key = fingerprint(found.signed.public_key)
                if key not in self._keys:
                    unknown.setdefault(key, []).append(found)
        known_from = "is none of those given" if self._only_trusted else "neither the audit nor the key's file knows"
        for key, found_heads in unknown.items():
            first = found_heads[0]
            more = f" and {len(found_heads) - 1} more" if len(found_heads) > 1 else ""
            self._faults.add(
                Fault(
                    What.FORGED,
                    first.head.writer,
                    first.head.sequence,
                    f"{first}{more} is signed by the key {key}, which {known_from}",
                )
            )


def verify_chain(records: Iterable[Record], heads: Iterable[Head] = ()) -> list[Fault]:
    """What is wrong with the chains that `records` form, each writer's in order of `sequence`; empty when all is well.

    Without `heads` a chain whose last records were deleted looks whole.
    """
    verifier = ChainVerifier(FoundHead(head, "what was kept") for head in heads)
    for record in records:
        verifier.add(record)
    return list(verifier.finish().faults)


# --- one chain ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Faults:
    """The first faults, and a count of the others."""

    told: list[Fault] = field(default_factory=list)
    left_out: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    _places: dict[str, set[int]] = field(default_factory=dict)
    _ranges: dict[str, list[range]] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        self.counts[fault.writer] = self.count(fault.writer) + 1
        if len(self.told) < _MOST_FAULTS:
            self.told.append(fault)
            if fault.through is not None and fault.sequence is not None:
                self._ranges.setdefault(fault.writer, []).append(range(fault.sequence, fault.through + 1))
            elif fault.sequence is not None:
                self._places.setdefault(fault.writer, set()).add(fault.sequence)
        else:
            self.left_out += 1

    def has(self, writer: str, sequence: int) -> bool:
        return sequence in self._places.get(writer, ()) or any(
            sequence in places for places in self._ranges.get(writer, ())
        )

    def count(self, writer: str) -> int:
        return self.counts.get(writer, 0)

    def sorted(self) -> tuple[Fault, ...]:
        return tuple(sorted(self.told, key=lambda fault: (fault.writer, fault.sequence or 0)))


@dataclass(frozen=True, slots=True)
class _Broken:
    """A record whose hash does not fit, the hash that stands before it, and whether its columns say what its event says."""

    record: Record
    before: bytes
    agrees: bool


class _Chain:
    """One writer's chain."""

    def __init__(self, writer: str, faults: _Faults) -> None:
        self._writer = writer
        self._faults = faults
        self._expected: dict[int, list[FoundHead]] = {}
        self._beyond: list[tuple[int, str]] = []
        self._passed: FoundHead | None = None  # the newest head that the chain passes through
        self._passed_count = 0
        self._missed: FoundHead | None = None  # the oldest one that it does not
        self._broken: list[_Broken] = []
        self._count = 0
        self._first_at: int | None = None
        self._last_at: int | None = None
        self.last = 0
        self._hash: bytes | None = FIRST_PREVIOUS  # of the last record; None: not known
        self._other_hash: bytes | None = None  # what it should have been, by what the record says

    def expect(self, found: FoundHead) -> None:
        self._expected.setdefault(found.head.sequence, []).append(found)

    def note_beyond(self, sequence: int, source: str) -> None:
        self._beyond.append((sequence, source))

    def add(self, record: Record) -> None:
        """Check one record in numbered steps; a record may have several faults."""
        sequence = record.sequence
        self._count += 1
        # Step 1: its place. Numbers run from 1 without a gap.
        if sequence <= self.last:
            self._fault(What.MOVED, record, f"it comes after {self.last}")
            return
        if sequence > self.last + 1:
            self._miss(sequence)
        # Step 2: its hash, over what it says and the hash before it. Behind a gap that hash is not known.
        other_hash, is_broken = None, False
        if self._hash is not None:
            computed = _hash_or_none(self._hash, record)
            if computed != record.hash:
                is_broken = self._other_hash is None or _hash_or_none(self._other_hash, record) != record.hash
                other_hash = computed
        # Step 3: the columns say what the hashed text says.
        agrees = _agrees(record)
        if is_broken and self._hash is not None:
            self._break(record, self._hash, agrees=agrees)
        elif not agrees:
            self._fault(What.EDITED, record, _DISAGREES)
        # Step 4: the heads that were kept of it.
        if sequence in self._expected:
            self._meet_heads(record, other_hash, is_broken=is_broken)
        self._move_to(sequence, record.hash, other_hash, record.at)

    def add_damaged(self, sequence: int | None, detail: str) -> None:
        self._count += 1
        self._faults.add(Fault(What.EDITED, self._writer, sequence, detail))
        if sequence is not None and sequence > self.last:
            if sequence > self.last + 1:
                self._miss(sequence)
            self._move_to(sequence, None, None, None)

    def finish(self) -> None:
        self.judge_broken()
        if self._missed is not None:
            self._faults.add(self._rewritten(self._missed))
        for sequence, heads in self._expected.items():
            self._beyond += [(sequence, str(found)) for found in heads]
        furthest, source = max(self._beyond, key=lambda item: item[0], default=(0, ""))
        if furthest > self.last:
            self._faults.add(
                Fault(
                    What.CUT,
                    self._writer,
                    self.last + 1,
                    f"the chain ends at {self.last}, but {furthest} was there by {source}: records were deleted, or the database is "
                    "an older copy",
                    through=furthest,
                )
            )

    def summary(self, faults: int) -> ChainSummary:
        head = None if self.last == 0 or self._hash is None else Head(self._writer, self.last, self._hash)
        return ChainSummary(
            self._writer,
            self._count,
            self._first_at,
            self._last_at,
            head,
            sum(map(len, self._expected.values())),
            self._passed_count,
            self._passed,
            faults,
        )

    def _move_to(self, sequence: int, hash_: bytes | None, other_hash: bytes | None, at: int | None) -> None:
        self.last, self._hash, self._other_hash = sequence, hash_, other_hash
        self._first_at = at if self._first_at is None else self._first_at
        self._last_at = at if at is not None else self._last_at

    def _miss(self, sequence: int) -> None:
        first, last = self.last + 1, sequence - 1
        count = last - first + 1
        self._faults.add(
            Fault(
                What.MISSING,
                self._writer,
                first,
                f"{'1 record is' if count == 1 else f'{count} records are'} not there: after {self.last} comes {sequence}",
                through=last if count > 1 else None,
            )
        )
        self._hash = self._other_hash = None

    def _meet_heads(self, record: Record, other_hash: bytes | None, *, is_broken: bool) -> None:
        """A head fits the hash that stands there, or the one that the record has by what it says (then the hash was edited).

        That a broken record fits no head is told with it.
        """
        for found in self._expected[record.sequence]:
            if found.head.hash in {record.hash, other_hash}:
                self._passed_count += 1
                if self._passed is None or found.signed is not None:
                    self._passed = found
            elif self._missed is None and not is_broken:
                self._missed = found

    def _rewritten(self, missed: FoundHead) -> Fault:
        before = 0 if self._passed is None else self._passed.head.sequence
        since = (
            f"after {before}, which fits {self._passed}" if 0 < before < missed.head.sequence else "from its beginning"
        )
        return Fault(
            What.REWRITTEN,
            self._writer,
            missed.head.sequence,
            f"this is not the record that {missed} stands for: the chain was written anew, somewhere {since}",
        )

    def _break(self, record: Record, before: bytes, *, agrees: bool) -> None:
        if len(self._broken) < _MOST_BROKEN:
            self._broken.append(_Broken(record, before, agrees))
        else:
            self._fault(What.EDITED, record, _BROKEN)

    def judge_broken(self) -> None:
        """Where do the records belong that do not fit where they are? A record that only has a wrong one before it is in order.

        The places are gone through in their order: the record that fits the hash before is the one that belongs there, and
        with its hash the next place is tried.
        """
        true_hashes: dict[int, bytes] = {}
        homes: dict[int, int] = {}  # where it is → where it belongs
        for broken in self._broken:
            place = broken.record.sequence
            before = true_hashes.get(place - 1, broken.before)
            for other in self._broken:
                record = other.record
                if record.sequence not in homes and _hash_or_none(before, record, place) == record.hash:
                    true_hashes[place] = record.hash
                    homes[record.sequence] = place
                    break
        for broken in self._broken:
            place = broken.record.sequence
            home = homes.get(place)
            if home is None:
                self._fault(What.EDITED, broken.record, _BROKEN)
            elif home != place:
                self._fault(What.MOVED, broken.record, f"it was written as {home}, and moved here")
            elif not broken.agrees:
                self._fault(What.EDITED, broken.record, _DISAGREES)
        self._broken.clear()

    def _fault(self, what: What, record: Record, detail: str) -> None:
        self._faults.add(Fault(what, self._writer, record.sequence, detail, at=record.at, kind=record.kind))


_DISAGREES: Final = "its columns do not say what its event says"
_BROKEN: Final = "its hash does not fit: it was changed, or the one before it together with its hash"


def _distinct(heads: Iterable[FoundHead]) -> list[FoundHead]:
    """Each head once: the same ones stand in the database and in the file. By their numbers."""
    seen: dict[object, FoundHead] = {}
    for found in heads:
        seen.setdefault(found.head if found.signed is None else found.signed, found)
    return sorted(seen.values(), key=lambda found: (found.head.writer, found.head.sequence))


def _hash_or_none(before: bytes, record: Record, sequence: int | None = None) -> bytes | None:
    """The hash the record should have, as the one numbered `sequence`, or None when its values cannot be hashed at all."""
    try:
        return record_hash(
            before, record.writer, record.sequence if sequence is None else sequence, record.at, record.event
        )
    except (struct.error, UnicodeEncodeError):
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


# --- for people ---------------------------------------------------------------------------------------------------


def format_at(at: int) -> str:
    """A moment as RFC 3339 in UTC; a number that is no moment of a calendar stays one."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return str(at)


def format_range(first: int, last: int | None) -> str:
    return str(first) if last is None or last == first else f"{first} to {last}"
