"""The journal as a second witness of the audit: each audit record was journalled before it was committed (`journal.py`).

Rule 1: a journalled record must be in the database once a later commit went on from it: its hash is in the next one's. One that
nothing was built on may be of a process that died before the commit, or of a commit that was refused.
Rule 2: what a writer has in the database beyond its journal's last record, no server put there.
Rule 3: journals are as long as the CA's life: they are read line by line, and compared in runs of `_RUN` records.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from acmeca.audit import ChainVerifier, Fault, What, record_hash
from acmeca.storage.database import Database
from acmeca.storage.journal import Commit, JournalError, Segment, read_segment, segments

_RUN: Final = 1000


@dataclass(frozen=True, slots=True)
class _Journalled:
    """An audit record as its journal has it; `event` is its text."""

    writer: str
    sequence: int
    at: int
    event: str
    hash: bytes


async def compare_journal(
    database: Database,
    directory: Path,
    verifier: ChainVerifier,
    *,
    on_segment: Callable[[int, int], object] = lambda done, total: None,  # noqa: ARG005  (nobody looks)
) -> dict[str, int]:
    """Add to `verifier`, which has seen all records, what the journals in a directory know better.

    Returns how many journalled records of each writer were compared. `on_segment` is told how many octets of how many were read.
    """
    comparison = _Comparison(database, verifier, verifier.ends())
    found = [
        (segment, _size(segment)) for segment in segments(directory)
    ]  # after the records, so that theirs are in it
    total, done = sum(size for _, size in found), 0
    for segment, size in found:
        try:
            for commit in read_segment(segment):
                await comparison.add(commit)
        except JournalError as error:
            if segment.path.exists():  # else its retention is over, just now
                verifier.add_fault(Fault(What.DAMAGED, segment.writer, None, str(error)))
                comparison.unreadable.add(segment.writer)
        done += size
        on_segment(done, total)
    await comparison.finish()
    return comparison.compared


def _size(segment: Segment) -> int:
    try:
        return segment.path.stat().st_size
    except OSError:
        return 0


@dataclass(slots=True)
class _Differing:
    """Neighbouring records on which journal and database differ in the same way."""

    what: What
    first: int
    last: int
    at: int


@dataclass(slots=True)
class _Comparison:
    database: Database
    verifier: ChainVerifier
    ends: Mapping[str, int]  # of the chains in the database, from before the journals were read
    compared: dict[str, int] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)  # writers whose journal has a part that cannot be read
    _pending: dict[str, tuple[int, list[_Journalled]]] = field(
        default_factory=dict
    )  # the last commit: its number, its records
    _run: list[_Journalled] = field(default_factory=list)
    _furthest: dict[str, int] = field(default_factory=dict)
    _differing: dict[str, _Differing] = field(default_factory=dict)

    async def add(self, commit: Commit) -> None:
        """Take in the next commit of a journal."""
        pending = self._pending.get(commit.writer)
        if commit.withdrawn:
            if pending is not None and pending[0] == commit.number:
                del self._pending[commit.writer]
            return
        records = list(_audit_records(commit))
        if not records:
            return
        if pending is not None and _goes_on(pending[1][-1], records[0]):
            for record in pending[1]:
                await self._compare(record)
        self._pending[commit.writer] = (commit.number, records)
        furthest = max(record.sequence for record in records)
        self._furthest[commit.writer] = max(furthest, self._furthest.get(commit.writer, 0))

    async def finish(self) -> None:
        """What only the end shows."""
        await self._look_up()
        for writer, differing in list(self._differing.items()):
            self._tell(writer, differing)
        for writer, furthest in self._furthest.items():
            if self.ends.get(writer, 0) > furthest and writer not in self.unreadable:
                self.verifier.add_fault(
                    Fault(
                        What.ADDED,
                        writer,
                        furthest + 1,
                        f"the journal of this writer ends at {furthest}: no server wrote this, or the end of the journal is gone",
                        through=self.ends[writer],
                    )
                )

    async def _compare(self, record: _Journalled) -> None:
        """Compare a record that must be in the database; looked up with its neighbours."""
        if self._run:
            last = self._run[-1]
            goes_on = record.writer == last.writer and record.sequence == last.sequence + 1
            if len(self._run) >= _RUN or not goes_on:
                await self._look_up()
        self._run.append(record)

    async def _look_up(self) -> None:
        run, self._run = self._run, []
        if not run:
            return
        writer = run[0].writer
        rows = await self.database.scan(
            "SELECT sequence, hash FROM audit WHERE writer = $1 AND sequence >= $2 AND sequence <= $3",
            writer,
            run[0].sequence,
            run[-1].sequence,
        )
        hashes = {row["sequence"]: row["hash"] for row in rows}
        for record in run:
            found = hashes.get(record.sequence)
            if found is None:
                self._differ(record, What.MISSING)
            elif found != record.hash:
                self._differ(record, What.REWRITTEN)
        self.compared[writer] = self.compared.get(writer, 0) + len(run)

    def _differ(self, record: _Journalled, what: What) -> None:
        """Neighbours are one fault, and what the chain has shown is not told again."""
        if self.verifier.is_told(record.writer, record.sequence):
            return
        known = self._differing.get(record.writer)
        if known is not None and known.what is what and record.sequence == known.last + 1:
            known.last = record.sequence
            return
        if known is not None:
            self._tell(record.writer, known)
        self._differing[record.writer] = _Differing(what, record.sequence, record.sequence, record.at)

    def _tell(self, writer: str, differing: _Differing) -> None:
        first, last = differing.first, differing.last
        detail = "the journal has another record here: this was changed, or the database is another one"
        if differing.what is What.MISSING:
            if first > self.ends.get(writer, 0):
                self.verifier.add_beyond(writer, last, "the journal")
                return
            detail = "the journal says that it was committed, and the database does not have it"
        through = last if last > first else None
        self.verifier.add_fault(Fault(differing.what, writer, first, detail, through=through, at=differing.at))


def _goes_on(before: _Journalled, record: _Journalled) -> bool:
    """Whether a record was built on the other one (rule 1)."""
    return (
        record.sequence == before.sequence + 1
        and record_hash(before.hash, record.writer, record.sequence, record.at, record.event) == record.hash
    )


def _audit_records(commit: Commit) -> Iterator[_Journalled]:
    for entry in commit.entries:
        if entry.kind == "audit":
            writer, sequence, at, event, hash_ = map(entry.values.get, ("writer", "sequence", "at", "event", "hash"))
            if not (
                isinstance(writer, str)
                and isinstance(sequence, int)
                and isinstance(at, int)
                and isinstance(event, str)
                and isinstance(hash_, bytes)
            ):
                raise JournalError(
                    f"commit {commit.number} in the journal of {commit.writer} is not what acmeca writes"
                )
            yield _Journalled(writer, sequence, at, event, hash_)
