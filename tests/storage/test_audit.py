"""The audit's table: records come in with their write or not at all, and tampering with the file is found."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acmeca.audit import SYSTEM, AccountDeactivated, CrlSigned, Head, Record, ServerStarted, account_actor
from acmeca.storage.audit import append, fetch_head, records, verify
from acmeca.storage.database import Database, Transaction
from acmeca.storage.errors import StorageError
from acmeca.storage.schema import Engine
from acmeca.storage.sqlite import SqliteDatabase
from tests.support.databases import UnreliableDatabase, connect, open_database
from tests.support.stored import open_engine

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acmeca.db"


@pytest.fixture
async def sqlite(path: Path) -> AsyncIterator[SqliteDatabase]:
    async with open_database(path) as database:
        yield database


@pytest.fixture
async def database(engine: Engine) -> AsyncIterator[Database]:
    async with open_engine(engine) as database:
        yield database


async def add(database: Database, name: str, *, writer: str = "w") -> None:
    event = AccountDeactivated(actor=account_actor(name), account_id=name)

    async def body(tx: Transaction) -> None:
        await append(tx, writer=writer, at=AT, event=event)

    await database.write(body)


async def read(database: Database, *, page: int = 1000) -> list[Record]:
    return [record async for record in records(database, page=page)]


async def test_records_come_out_as_they_went_in(database: Database) -> None:
    for writer in ("w2", "w1"):
        for name in ("a", "b"):
            await add(database, name, writer=writer)
    found = await read(database)
    assert [(record.writer, record.sequence, record.subject) for record in found] == [
        ("w1", 1, "a"),
        ("w1", 2, "b"),
        ("w2", 1, "a"),
        ("w2", 2, "b"),
    ]
    assert {(record.kind, record.at) for record in found} == {("account.deactivated", 1795435200)}
    assert await verify(database) == []


async def test_concurrent_writes_make_one_chain(database: Database) -> None:
    await asyncio.gather(*(add(database, f"a{number}") for number in range(60)))
    found = await read(database)
    assert [record.sequence for record in found] == list(range(1, 61))
    assert await verify(database) == []
    assert await fetch_head(database, "w") == Head("w", 60, found[-1].hash)


async def test_a_write_that_fails_leaves_no_record_and_no_gap(database: Database) -> None:
    async def fail(tx: Transaction) -> None:
        await append(tx, writer="w", at=AT, event=CrlSigned(actor=SYSTEM, issuer_id="r", number=1, entries=0))
        raise LookupError

    await asyncio.gather(add(database, "a"), database.write(fail), add(database, "b"), return_exceptions=True)
    assert [(record.sequence, record.subject) for record in await read(database)] == [(1, "a"), (2, "b")]
    assert await verify(database) == []


async def test_without_its_record_nothing_is_kept(database: Database) -> None:
    """RULES §6: "If the audit record cannot be written, nothing is issued." """

    async def body(tx: Transaction) -> None:
        await tx.execute(
            "INSERT INTO accounts (id, thumbprint, jwk, status, contact, created_at) VALUES ('a', 'a', '{}', 'valid', '[]', 0)"
        )
        event = ServerStarted(actor=SYSTEM, version="1", config_sha256="")
        await append(tx, writer="w", at=AT.replace(tzinfo=None), event=event)

    with pytest.raises(ValueError, match="time zone"):
        await database.write(body)
    assert await database.fetch_all("SELECT id FROM accounts") == []


async def test_a_chain_goes_on_after_a_restart(path: Path) -> None:
    for name in "abc":
        async with open_database(path) as database:
            await add(database, name)
    async with open_database(path) as database:
        assert [record.sequence for record in await read(database)] == [1, 2, 3]
        assert await verify(database) == []


@pytest.mark.parametrize("kept", [True, False])
async def test_an_error_after_or_before_the_commit_leaves_a_good_chain(database: Database, *, kept: bool) -> None:
    unreliable = UnreliableDatabase(database)
    await add(unreliable, "a")
    unreliable.fail_next(kept=kept)
    with pytest.raises(StorageError, match="failed on demand"):
        await add(unreliable, "b")
    await add(unreliable, "c")
    assert [record.subject for record in await read(unreliable)] == (["a", "b", "c"] if kept else ["a", "c"])
    assert await verify(unreliable) == []


@pytest.mark.parametrize("page", [1, 2, 3, 5, 6, 100])
async def test_pages_neither_lose_nor_repeat(database: Database, page: int) -> None:
    for writer in ("w1", "w2", "w3"):
        await asyncio.gather(*(add(database, f"a{number}", writer=writer) for number in range(2)))
    found = await read(database, page=page)
    assert [(record.writer, record.sequence) for record in found] == [
        (writer, sequence) for writer in ("w1", "w2", "w3") for sequence in (1, 2)
    ]


async def test_the_head_is_found_by_the_index(sqlite: SqliteDatabase) -> None:
    """One indexed query an event: no sort and no walk, however long the chain."""
    with connect(sqlite._path) as other:
        plan = other.execute(
            "EXPLAIN QUERY PLAN SELECT sequence, hash FROM audit WHERE writer = ? ORDER BY sequence DESC LIMIT 1",
            ("w",),
        ).fetchall()
    assert [row[3] for row in plan] == ["SEARCH audit USING INDEX sqlite_autoindex_audit_1 (writer=?)"]


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET event = replace(event, 'a3', 'zz') WHERE sequence = 3",
        "UPDATE audit SET actor = 'admin:root' WHERE sequence = 3",
        "UPDATE audit SET kind = 'account.created' WHERE sequence = 3",
        "UPDATE audit SET subject = 'zz' WHERE sequence = 3",
        "UPDATE audit SET at = at - 1 WHERE sequence = 3",
        "UPDATE audit SET hash = zeroblob(32) WHERE sequence = 3",
        "UPDATE audit SET writer = 'other' WHERE sequence = 3",
        "UPDATE audit SET sequence = 300 WHERE sequence = 3",
        "DELETE FROM audit WHERE sequence = 1",
        "DELETE FROM audit WHERE sequence = 3",
        "INSERT INTO audit SELECT writer, 6, at, kind, actor, subject, event, hash FROM audit WHERE sequence = 3",
    ],
)
async def test_tampering_is_found(sqlite: SqliteDatabase, sql: str) -> None:
    """RULES §6: "an edited, deleted, reordered or truncated record is found by `acmeca audit verify`"."""
    for number in range(1, 6):
        await add(sqlite, f"a{number}")
    assert await verify(sqlite) == []
    with connect(sqlite._path) as other:
        assert other.execute(sql).rowcount == 1
    assert await verify(sqlite) != []


async def test_truncation_is_found_against_a_kept_head(sqlite: SqliteDatabase) -> None:
    for number in range(1, 6):
        await add(sqlite, f"a{number}")
    head = await fetch_head(sqlite, "w")
    assert head is not None
    with connect(sqlite._path) as other:
        other.execute("DELETE FROM audit WHERE sequence > 3")
    assert await verify(sqlite) == []  # a chain alone cannot show it
    assert [(fault.sequence, fault.through) for fault in await verify(sqlite, [head])] == [(4, 5)]


@pytest.mark.parametrize(
    ("column", "value"),
    [("sequence", "3x"), ("at", "now"), ("event", b"{}"), ("hash", "text"), ("kind", b"x"), ("writer", b"x")],
)
async def test_a_value_of_another_type_is_found(sqlite: SqliteDatabase, column: str, value: object) -> None:
    """SQLite keeps any type in any column; a verification must neither pass over it nor run for ever."""
    for number in range(1, 6):
        await add(sqlite, f"a{number}")
    with connect(sqlite._path) as other:
        other.execute(f"UPDATE audit SET {column} = ? WHERE sequence = 3", (value,))
    assert any(f"was changed: {column} is of type" in fault.detail for fault in await verify(sqlite))
    with pytest.raises(StorageError, match=r"was changed: .* is of type"):
        await read(sqlite)


async def test_no_head_is_none(database: Database) -> None:
    assert await fetch_head(database, "nobody") is None
    assert await read(database) == []
    assert await verify(database) == []
