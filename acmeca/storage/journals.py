"""The journals of all writers, read as one: which files there are, what cannot be read, and the commits in their order.

Rule 1: a segment that lies in several directories (copies of other servers' journals) is read once, where it is read best.
Rule 2: commits come in the order of their numbers, over all writers.
Rule 3: a commit that was journalled may never have happened (journal.py, rule 3). It surely has not when it was withdrawn, when
the same writer's next one has the same place in the audit's chain, or when another writer's, which has a successor, bears its
number. Those are left out. The last one of a writer is in doubt, and stays.
Rule 4: what is damaged is told and passed over: the lines behind it have checksums of their own.
"""

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from acmeca.storage.journal import Commit, Damage, Segment, scan_segment, segments

AUDIT: Final = "audit"  # the kind of entry that every commit has which was journalled


@dataclass(slots=True)
class Journals:
    """Segments to read. `damages` and `last_numbers` are complete when `commits` was read to its end."""

    segments: tuple[Segment, ...]
    damages: list[Damage] = field(default_factory=list)
    left_out: int = 0  # commits that never happened (rule 3)
    last_numbers: dict[str, int] = field(default_factory=dict)  # by writer, withdrawn ones among them

    @property
    def writers(self) -> frozenset[str]:
        return frozenset(segment.writer for segment in self.segments)

    def commits(self) -> Iterator[Commit]:
        """Rules 2 and 3."""
        streams = [self._of_writer(writer) for writer in sorted(self.writers)]
        merged = heapq.merge(*streams, key=lambda item: item[0].number)
        for _, group in itertools.groupby(merged, key=lambda item: item[0].number):
            rivals = list(group)
            is_settled = any(has_successor for _, has_successor in rivals)
            for commit, has_successor in rivals:
                if is_settled and not has_successor:
                    self.left_out += 1
                else:
                    yield commit

    def _of_writer(self, writer: str) -> Iterator[tuple[Commit, bool]]:
        """The commits of one writer, each with whether the writer's next one follows it."""
        before: Commit | None = None
        for commit in itertools.chain.from_iterable(self._instances(writer)):
            if before is not None:
                if _takes_the_place_of(commit, before):
                    self.left_out += 1
                else:
                    yield before, _follows(commit, before)
            before = commit
        if before is not None:
            yield before, False

    def _instances(self, writer: str) -> list[Iterator[Commit]]:
        """The instances of one writer, which wrote one after another."""
        parts: dict[str, list[Segment]] = defaultdict(list)
        for segment in self.segments:
            if segment.writer == writer:
                parts[segment.instance].append(segment)
        begun = []
        for instance, of_instance in parts.items():
            of_instance.sort(key=lambda segment: segment.part)
            stream = self._of_instance(writer, of_instance)
            first = next(stream, None)
            if first is not None:
                begun.append(((first.number, of_instance[0].opened_at, instance), itertools.chain((first,), stream)))
        return [stream for _, stream in sorted(begun, key=lambda item: item[0])]

    def _of_instance(self, writer: str, of_instance: Sequence[Segment]) -> Iterator[Commit]:
        """What an instance committed, without what it withdrew."""
        before: Commit | None = None
        for segment in of_instance:
            for found in scan_segment(segment):
                if isinstance(found, Damage):
                    self.damages.append(found)
                    continue
                self.last_numbers[writer] = max(found.number, self.last_numbers.get(writer, 0))
                if found.withdrawn:
                    if before is not None and before.number == found.number:
                        before = None
                        self.left_out += 1
                    continue
                if before is not None:
                    yield before
                before = found
        if before is not None:
            yield before


def gather(directories: Iterable[Path]) -> Journals:
    """The journals in some directories (rule 1)."""
    found: dict[str, list[Segment]] = defaultdict(list)
    for directory in dict.fromkeys(path.resolve() for path in directories):
        for segment in segments(directory):
            found[segment.path.name].append(segment)
    return Journals(tuple(copies[0] if len(copies) == 1 else min(copies, key=_faults) for copies in found.values()))


def _faults(segment: Segment) -> tuple[int, int]:
    """How bad a copy is: what is damaged in it, and how little it holds."""
    damaged = held = 0
    for found in scan_segment(segment):
        if isinstance(found, Damage):
            damaged += 1
        else:
            held += 1
    return damaged, -held


def places(commit: Commit) -> list[int]:
    """The places of a commit's records in the audit's chain of its writer."""
    return [
        sequence
        for entry in commit.entries
        if entry.kind == AUDIT and isinstance(sequence := entry.values.get("sequence"), int)
    ]


def _takes_the_place_of(commit: Commit, before: Commit) -> bool:
    """Whether `commit` begins where `before`, which was journalled earlier by the same writer, begins."""
    own, others = places(commit), places(before)
    return bool(own and others and own[0] == others[0])


def _follows(commit: Commit, before: Commit) -> bool:
    own, others = places(commit), places(before)
    return bool(own and others and own[0] == others[-1] + 1)
