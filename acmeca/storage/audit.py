"""The audit's table: records go in with the write they tell of, and come out in the order of their chains.

Rule 1: a record is appended in the transaction of what it tells, so neither stands without the other (RULES §6).
Rule 2: no code changes or deletes a record.
"""

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Final

from acmeca.audit import ChainVerifier, Event, Fault, Head, Record, build_record
from acmeca.storage.database import Database, Entry, Reader, Row, Transaction
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


async def records(database: Database, *, page: int = _PAGE) -> AsyncIterator[Record]:
    """All records, each writer's in order of `sequence`, read `page` at a time beside the event loop.

    Each page is a snapshot of its own: a record appended meanwhile may or may not be among them. Raises `StorageError`
    for a record that holds something else than `append` puts in.
    """
    writer, sequence = "", -1
    while True:
        rows = await database.scan(
            "SELECT writer, sequence, at, kind, actor, subject, event, hash FROM audit"
            " WHERE (writer, sequence) > ($1, $2) ORDER BY writer, sequence LIMIT $3",
            writer,
            sequence,
            page,
        )
        for row in rows:
            yield _record(row)
        if len(rows) < page:
            return
        writer, sequence = rows[-1]["writer"], rows[-1]["sequence"]


async def verify(database: Database, heads: Iterable[Head] = ()) -> list[Fault]:
    """What is wrong with the chains in the store (`acmeca.audit.verify_chain`); empty when all is well."""
    verifier = ChainVerifier(heads)
    async for record in records(database):
        verifier.add(record)
    return verifier.finish()


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


def _record(row: Row) -> Record:
    for column, type_ in _TYPES.items():
        if not isinstance(row[column], type_):
            raise StorageError(
                f"audit record {row['writer']!r} {row['sequence']!r} was changed: {column} is of type"
                f" {type(row[column]).__name__}, {type_.__name__} was written"
            )
    return Record(**{column: row[column] for column in _TYPES})
