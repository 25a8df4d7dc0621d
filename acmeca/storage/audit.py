"""The audit's table: records go in with the write they tell of, and come out in the order of their chains.

Rule 1: a record is appended in the transaction of what it tells, so neither stands without the other (RULES §6).
Rule 2: no code changes or deletes a record.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from acmeca.audit import ChainVerifier, Event, Fault, FoundHead, Head, Record, build_record
from acmeca.storage.database import Database, Entry, Reader, Row, Transaction, Value
from acmeca.storage.errors import StorageError
from acmeca.storage.times import from_seconds

_PAGE: Final = 1000  # records read at a time: the chain may be longer than memory


async def append(tx: Transaction, *, writer: str, at: datetime, event: Event) -> None:
    """Add the next record to the chain of `writer`, which one process at a time may use.

    Raises `NotUniqueError` when another process added to that chain meanwhile; the write must fail with it. Raises
    ValueError for a moment without a time zone.
    """
    record = build_record(await fetch_head(tx, writer), writer=writer, at=at, event=event)
    await tx.execute(
        "INSERT INTO audit (writer, sequence, at, kind, actor, subject, event, hash)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        record.writer,
        record.sequence,
        record.at,
        record.kind,
        record.actor,
        record.subject,
        record.event,
        record.hash,
    )
    tx.journal(
        Entry(
            "audit",
            {
                "writer": record.writer,
                "sequence": record.sequence,
                "at": record.at,
                "event": record.event,
                "hash": record.hash,
            },
        )
    )


async def fetch_head(reader: Reader, writer: str) -> Head | None:
    """The last record of a writer's chain, or None when it has none."""
    row = await reader.fetch_one(
        "SELECT sequence, hash FROM audit WHERE writer = $1 ORDER BY sequence DESC LIMIT 1", writer
    )
    return None if row is None else Head(writer, row["sequence"], row["hash"])


async def fetch_newest(reader: Reader, writer: str) -> datetime | None:
    """When the last record of a writer's chain was made, or None when it has none."""
    row = await reader.fetch_one("SELECT at FROM audit WHERE writer = $1 ORDER BY sequence DESC LIMIT 1", writer)
    return None if row is None else from_seconds(row["at"])


async def fetch_heads(reader: Reader) -> list[Head]:
    """The last record of each writer's chain."""
    ends = await reader.fetch_all("SELECT writer FROM audit GROUP BY writer ORDER BY writer")
    heads = [await fetch_head(reader, row["writer"]) for row in ends]
    return [head for head in heads if head is not None]


async def fetch_hash(reader: Reader, writer: str, sequence: int) -> bytes | None:
    """The hash of one record, or None when there is no such record."""
    row = await reader.fetch_one("SELECT hash FROM audit WHERE writer = $1 AND sequence = $2", writer, sequence)
    return None if row is None else row["hash"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which records: all that fit everything that is given. `since` and `until` (which is not in it) are Unix seconds."""

    since: int | None = None
    until: int | None = None
    kinds: tuple[str, ...] = ()
    actor: str | None = None
    subject: str | None = None
    writer: str | None = None


_ALL: Final = Selection()


async def records(database: Database, selection: Selection = _ALL, *, page: int = _PAGE) -> AsyncIterator[Record]:
    """The records, each writer's in order of `sequence`, read `page` at a time beside the event loop.

    Each page is a snapshot of its own: a record appended meanwhile may or may not be among them. Raises `StorageError`
    for a record that holds something else than `append` puts in.
    """
    async for rows in _pages(database, selection, page=page):
        for row in rows:
            yield _record(row)


async def count(database: Database) -> int:
    """How many records there are."""
    row = await database.fetch_one("SELECT COUNT(*) AS records FROM audit")
    return 0 if row is None else int(row["records"])


async def verify_records(database: Database, verifier: ChainVerifier, *, on_page: Callable[[int], object]) -> None:
    """Give all records to a verifier. A record that holds something else than `append` puts in is a fault of its own.

    `on_page` is told how many records were given with each page.
    """
    async for rows in _pages(database, _ALL, page=_PAGE):
        for row in rows:
            try:
                verifier.add(_record(row))
            except ChangedRecordError as error:
                verifier.add_damaged(error.writer, error.sequence, error.detail)
        on_page(len(rows))


async def verify(database: Database, heads: Iterable[Head] = ()) -> list[Fault]:
    """What is wrong with the chains in the store, against heads that were kept elsewhere; empty when all is well."""
    verifier = ChainVerifier(FoundHead(head, "what was kept") for head in heads)
    await verify_records(database, verifier, on_page=lambda _: None)
    return list(verifier.finish().faults)


async def _pages(database: Database, selection: Selection, *, page: int) -> AsyncIterator[list[Row]]:
    """Page by page from where the last one ended, by the primary key, whatever type stands in it."""
    wanted: list[tuple[str, Value]] = [
        (condition, value)
        for condition, value in (
            ("at >= {}", selection.since),
            ("at < {}", selection.until),
            ("actor = {}", selection.actor),
            ("subject = {}", selection.subject),
            ("writer = {}", selection.writer),
        )
        if value is not None
    ]
    conditions = [condition.format(f"${number}") for number, (condition, _) in enumerate(wanted, start=4)]
    args = [value for _, value in wanted]
    if selection.kinds:
        numbers = range(4 + len(args), 4 + len(args) + len(selection.kinds))
        conditions.append(f"kind IN ({', '.join(f'${number}' for number in numbers)})")
        args += selection.kinds
    sql = (
        "SELECT writer, sequence, at, kind, actor, subject, event, hash FROM audit WHERE "
        + " AND ".join(["(writer, sequence) > ($1, $2)", *conditions])
        + " ORDER BY writer, sequence LIMIT $3"
    )
    writer, sequence = "", -1
    while True:
        rows = await database.scan(sql, writer, sequence, page, *args)
        yield rows
        if len(rows) < page:
            return
        writer, sequence = rows[-1]["writer"], rows[-1]["sequence"]


class ChangedRecordError(StorageError):
    """A record holds a value of another type than was written. `sequence` is None when that is it."""

    def __init__(self, writer: str, sequence: int | None, detail: str) -> None:
        super().__init__(f"audit record {writer} {sequence} {detail}; acmeca audit verify says more")
        self.writer = writer
        self.sequence = sequence
        self.detail = detail


# SQLite keeps whatever type it is given; what `append` puts in has these.
_TYPES: Final = {
    "writer": str,
    "sequence": int,
    "at": int,
    "kind": str,
    "actor": str,
    "subject": str,
    "event": str,
    "hash": bytes,
}
_EXACT: Final = tuple(_TYPES.values())


def _record(row: Row) -> Record:
    values = (
        row["writer"],
        row["sequence"],
        row["at"],
        row["kind"],
        row["actor"],
        row["subject"],
        row["event"],
        row["hash"],
    )
    if tuple(map(type, values)) == _EXACT:
        return Record(*values)
    for (column, type_), value in zip(_TYPES.items(), values, strict=True):
        if not isinstance(value, type_):
            raise ChangedRecordError(
                values[0] if isinstance(values[0], str) else repr(values[0]),
                values[1] if isinstance(values[1], int) else None,
                f"was changed: {column} is of type {type(value).__name__}, {type_.__name__} was written",
            )
    return Record(*values)
