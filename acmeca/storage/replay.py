"""Replay: what a journal says was done is done again on a database that was restored from an earlier backup.

Rule 1: it only ever makes the CA more careful. Revoked never becomes good, shut stays shut, a blocked key stays blocked, a reason
is only raised to keyCompromise, a CRL number is never taken twice, a key that an account has given up is not its key again.
Rule 2: each entry looks at what is there first, so that whatever is replayed twice, or was in the backup already, changes nothing.
Rule 3: the audit's records come back as they were, octet by octet, so that each chain is whole and goes on.
Rule 4: orders and authorizations are not journalled: a client makes new ones. A certificate whose order is not there keeps its
account and its names; an order that is there moves on with its certificate.
Rule 5: an entry of a kind, or with a column, that this program does not know stops the replay: a newer acmeca wrote it, and what
it meant must not be lost. What cannot be placed, because something before it is missing, is told and passed over.
Rule 6: a CA has one root from its beginning. A journal with another one is another CA's, and stops the replay: its issuers would be
this one's, its root would be handed out as this one's, and its numbers would decide which commits of this one never happened.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from acmeca.storage.database import Database, Transaction
from acmeca.storage.journal import Commit
from acmeca.storage.journal_kinds import known
from acmeca.storage.journals import AUDIT
from acmeca.storage.placing import PLACES, Placing, Tally

_BATCH: Final = 200  # commits of one transaction


async def replay(database: Database, commits: Iterable[Commit], *, base: int = 0) -> Tally:
    """Do again what the commits say, which are in the order of their numbers. Raises `JournalError` (rule 5), `StorageError`.

    The database has all commits up to the number `base` that ever happened. Those are not done again: what was deleted on
    purpose since must not come back.
    """
    tally = Tally()
    remaining = iter(commits)
    while batch := list(islice(remaining, _BATCH)):

        async def body(tx: Transaction, batch: list[Commit] = batch) -> Tally:
            part = Tally()
            for commit in batch:
                await _replay_commit(tx, commit, part, base=base)
            return part

        tally.add(await database.write(body))
    return tally


async def raise_last_commits(database: Database, last_numbers: Mapping[str, int]) -> None:
    """Have numbers go on from the highest that stands in any journal, by writer."""

    async def body(tx: Transaction) -> None:
        for writer, number in last_numbers.items():
            await tx.execute(
                "INSERT INTO writers (name, instance, last_commit, ended) VALUES ($1, '', $2, 1) ON CONFLICT (name)"
                " DO UPDATE SET last_commit = CASE WHEN writers.last_commit > excluded.last_commit"
                " THEN writers.last_commit ELSE excluded.last_commit END",
                writer,
                number,
            )

    await database.write(body)


async def _replay_commit(tx: Transaction, commit: Commit, tally: Tally, *, base: int) -> None:
    entries = [known(entry, commit) for entry in commit.entries]
    records = [entry.values for entry in entries if entry.kind == AUDIT]
    if commit.number <= base and records and all([await _is_there(tx, record) for record in records]):
        return
    is_late = any([await _is_passed(tx, record) for record in records])
    before = sum(tally.changed.values())
    for entry in entries:
        place = PLACES[entry.kind]
        if await place(Placing(tx, entry.values, tally, is_late)):
            tally.note(entry.kind)
    if sum(tally.changed.values()) > before:
        tally.commits += 1
        tally.newest_at = max(commit.at, tally.newest_at or commit.at)


async def _is_there(tx: Transaction, record: Mapping[str, Any]) -> bool:
    row = await tx.fetch_one(
        "SELECT hash FROM audit WHERE writer = $1 AND sequence = $2", record["writer"], record["sequence"]
    )
    return row is not None and row["hash"] == record["hash"]


async def _is_passed(tx: Transaction, record: Mapping[str, Any]) -> bool:
    """Whether the record's writer has written this or a later one already."""
    row = await tx.fetch_one(
        "SELECT 1 FROM audit WHERE writer = $1 AND sequence >= $2 LIMIT 1", record["writer"], record["sequence"]
    )
    return row is not None
