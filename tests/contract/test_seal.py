"""What a seal is asked, and when, by both engines alike (`storage/database.py`, `Seal`)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from acmeca.storage.database import Database, Entry, Transaction
from acmeca.storage.errors import FencedError, StorageError
from acmeca.storage.schema import Engine
from tests.support.seals import SEALED_NOTES, TableSeal
from tests.support.stored import open_engine

INSERT = "INSERT INTO notes (id, body) VALUES ($1, $2)"

Body = Callable[[Transaction], Awaitable[str]]


@pytest.fixture
def seal() -> TableSeal:
    return TableSeal()


@pytest.fixture
async def sealed(engine: Engine, seal: TableSeal) -> AsyncIterator[Database]:
    async with open_engine(engine, steps=SEALED_NOTES, seal=seal) as database:
        yield database


def note(name: str) -> Body:
    async def body(tx: Transaction) -> str:
        await tx.execute(INSERT, name, "text")
        tx.journal(Entry("note", {"id": name}))
        return name

    return body


async def names(database: Database) -> list[str]:
    return [row["id"] for row in await database.fetch_all("SELECT id FROM notes ORDER BY id")]


def journalled(seal: TableSeal) -> list[object]:
    return [entry.values["id"] for entries in seal.kept.values() for entry in entries]


async def test_each_commit_takes_a_number_and_journals_what_its_successful_bodies_did(
    sealed: Database, seal: TableSeal
) -> None:
    async def fail(tx: Transaction) -> str:
        tx.journal(Entry("note", {"id": "lost"}))
        raise LookupError

    await asyncio.gather(*(sealed.write(body) for body in (note("a"), fail, note("b"))), return_exceptions=True)
    assert seal.calls == ["number", "append"]
    assert seal.kept == {1: [Entry("note", {"id": "a"}), Entry("note", {"id": "b"})]}
    await sealed.write(note("c"))
    assert list(seal.kept) == [1, 2]


async def test_a_commit_without_entries_appends_nothing(sealed: Database, seal: TableSeal) -> None:
    await sealed.write(lambda tx: tx.execute(INSERT, "a", "text"))
    assert seal.calls == ["number"]


async def test_a_body_that_is_run_again_journals_once(sealed: Database, seal: TableSeal) -> None:
    async def body(tx: Transaction) -> None:
        tx.journal(Entry("note", {"id": "a"}))
        with suppress(StorageError):
            await tx.execute("INSERT INTO notes (id, body) VALUES ('a', NULL)")
        await tx.execute(INSERT, "a", "text")

    await sealed.write(body)
    assert journalled(seal) == ["a"]


async def test_where_nothing_is_kept_nothing_is_journalled(sealed: Database, seal: TableSeal) -> None:
    async def fail(tx: Transaction) -> str:
        raise LookupError

    with pytest.raises(LookupError):
        await sealed.write(fail)
    assert "append" not in seal.calls


async def test_a_fenced_process_is_told_in_every_caller(sealed: Database, seal: TableSeal) -> None:
    seal.refusal = FencedError("another process took over")
    results = await asyncio.gather(*(sealed.write(note(name)) for name in "abc"), return_exceptions=True)
    assert [type(result) for result in results] == [FencedError] * 3
    assert len({id(result) for result in results}) == 3
    seal.refusal = None
    assert await names(sealed) == []


async def test_a_journal_that_cannot_be_written_fails_the_commit(sealed: Database, seal: TableSeal) -> None:
    def fail() -> None:
        raise StorageError("the journal's disk is full")

    seal.trouble = fail
    results = await asyncio.gather(*(sealed.write(note(name)) for name in "ab"), return_exceptions=True)
    assert [str(result) for result in results] == ["the journal's disk is full"] * 2
    assert seal.calls == ["number", "append"]
    seal.trouble = lambda: None
    await sealed.write(note("c"))
    assert await names(sealed) == ["c"]
    assert journalled(seal) == ["c"]
