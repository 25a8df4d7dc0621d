"""The whole audit, examined: the records, the heads in the database and in the file, those kept elsewhere, the journal.

Rule 1: heads are read before the records and journals after them. So beside a server that writes, whatever a head stands for is
among the records, and whatever record was read is in the journal.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from acmeca.audit import ChainVerifier, Fault, FoundHead, Report, What
from acmeca.storage import audit
from acmeca.storage.audit_heads import HEADS_FILE, KeptHeads, read_heads, read_table
from acmeca.storage.audit_journal import compare_journal
from acmeca.storage.database import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the records are held against.

    `has_table`: the schema has the table of heads. `journal_dir` is None where journals are not to be read. `kept` are heads
    from elsewhere. `keys` are fingerprints of keys that may sign heads; with `only_keys` no others may.
    """

    data_dir: Path
    has_table: bool
    journal_dir: Path | None = None
    kept: tuple[FoundHead, ...] = ()
    keys: frozenset[str] = frozenset()
    only_keys: bool = False


@dataclass(frozen=True, slots=True)
class Examination:
    """The report, and how many records of each writer the journal agreed on or not."""

    report: Report
    journalled: dict[str, int]


async def examine(
    database: Database,
    evidence: Evidence,
    *,
    on_progress: Callable[[str, int, int], object] = lambda phase, done, total: None,  # noqa: ARG005  (nobody looks)
) -> Examination:
    """Examine the audit in numbered steps. `on_progress` is told the phase, and how much of how much is done.

    Raises `StorageError` for a database or a file that cannot be read.
    """
    # Step 1: the heads.
    path = evidence.data_dir / HEADS_FILE
    in_file = read_heads(path)
    in_table = await read_table(database) if evidence.has_table else KeptHeads()
    verifier = ChainVerifier(
        (*evidence.kept, *_found(in_file, HEADS_FILE), *_found(in_table, "the database")),
        trusted=evidence.keys,
        only_trusted=evidence.only_keys,
    )
    for detail in (*in_file.damaged, *in_table.damaged):
        verifier.add_fault(Fault(What.DAMAGED, "", None, detail))
    # Step 2: the records.
    total = await audit.count(database)
    done = 0

    def note(count: int) -> None:
        nonlocal done
        done += count
        on_progress("records", done, max(done, total))

    await audit.verify_records(database, verifier, on_page=note)
    verifier.finish_records()
    # Step 3: the journal.
    journalled: dict[str, int] = {}
    if evidence.journal_dir is not None:
        journalled = await compare_journal(
            database,
            evidence.journal_dir,
            verifier,
            on_segment=lambda read, octets: on_progress("journal", read, octets),
        )
    return Examination(verifier.finish(), journalled)


def _found(kept: KeptHeads, where: str) -> Iterable[FoundHead]:
    return (FoundHead(signed.head, f"{where}, line {line}" if line else where, signed) for line, signed in kept.heads)
