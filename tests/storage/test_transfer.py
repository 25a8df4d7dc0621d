"""Whole databases between the engines: the same rows, the same digests, or nothing."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from acmeca.errors import Conflict
from acmeca.storage.backup import BackupError
from acmeca.storage.errors import StorageError
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.schema import read_steps
from acmeca.storage.sqlite import read_snapshot
from acmeca.storage.tables import Digest, Sum, Table, own_parents_first, read_pages, tables_of_version
from acmeca.storage.transfer import Place, copy_whole, require_empty_server
from tests.support.databases import connect
from tests.support.journalled import journalled_state, journalled_store, live, make_hierarchy
from tests.support.mishaps import KILLED, copy_database, killed_at, no_progress
from tests.support.postgres import administer, require_programs, shared_server
from tests.support.server import temporary_directory
from tests.support.stored import NOW


@pytest.fixture(scope="module")
def source() -> Iterator[Place]:
    async def make(directory: Path) -> None:
        async with journalled_store(directory) as store:
            await make_hierarchy(store)
            await live([store], 36, seed=11)
            await store.accounts.replace_contact(  # beyond ASCII, so that it is compared too
                (await store.database.fetch_all("SELECT id FROM accounts WHERE status = 'valid'"))[0]["id"],
                ("mailto:jürgen@example.org",),
                at=NOW,
            )

    with temporary_directory() as directory:
        asyncio.run(make(directory))
        yield file(directory / "acmeca.db")


def file(path: Path) -> Place:
    return Place.parse(f"sqlite:///{path}", base=Path("/"))


@pytest.fixture
async def server_place() -> AsyncIterator[Place]:
    """An empty database of PostgreSQL."""
    require_programs()
    name = f"transfer_{os.urandom(4).hex()}"
    await administer(shared_server(), f"CREATE DATABASE {name}")
    yield Place.parse(shared_server().url(name), base=Path("/"))
    await administer(shared_server(), f"DROP DATABASE {name} WITH (FORCE)")


async def count_of(place: Place) -> int:
    database = await PostgresDatabase.open(place.url)
    try:
        row = await database.fetch_one("SELECT COUNT(*) AS n FROM audit")
        return 0 if row is None else int(row["n"])
    finally:
        await database.close()


async def test_there_and_back_again(source: Place, server_place: Place, tmp_path: Path) -> None:
    await require_empty_server(server_place)
    there = await copy_whole(source, server_place, on_progress=no_progress)
    back = await copy_whole(server_place, file(tmp_path / "back.db"), on_progress=no_progress)
    assert there == back
    assert sum(found.rows for found in there.values()) > 100
    assert source.path is not None
    assert journalled_state(tmp_path / "back.db") == journalled_state(source.path)
    assert [path.name for path in tmp_path.iterdir()] == ["back.db"]
    with pytest.raises(StorageError, match="not empty"):
        await copy_whole(source, server_place, on_progress=no_progress)
    with pytest.raises(StorageError, match="not empty"):
        await require_empty_server(server_place)


async def test_from_file_to_file(source: Place, tmp_path: Path) -> None:
    sums = await copy_whole(source, file(tmp_path / "new.db"), on_progress=no_progress)
    assert sums.keys() == {table.name for table in tables_of_version(len(read_steps()))}
    with pytest.raises(Conflict, match="exists"):
        await copy_whole(source, file(tmp_path / "new.db"), on_progress=no_progress)


async def test_what_is_not_the_same_is_not_kept(
    source: Place, server_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Digest.add
    calls = 0

    def add(self: Digest, rows: object) -> None:
        nonlocal calls
        calls += 1
        real(self, [(*row[:-1], "changed") for row in rows] if calls > 20 else rows)  # type: ignore[attr-defined, arg-type]

    monkeypatch.setattr(Digest, "add", add)
    for target in (server_place, file(tmp_path / "new.db")):
        calls = 0
        with pytest.raises(BackupError, match="is not what was read"):
            await copy_whole(source, target, on_progress=no_progress)
    monkeypatch.undo()
    assert await count_of(server_place) == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_kill_leaves_the_server_s_database_empty(source: Place, server_place: Place) -> None:
    for step in (
        "after acmeca.storage.postgres_session.Session.load",
        "before acmeca.storage.postgres_session.Session.commit",
    ):
        assert await asyncio.to_thread(killed_at, step, copy_database, source, server_place) == KILLED
        assert await count_of(server_place) == 0
    await copy_whole(source, server_place, on_progress=no_progress)
    assert await count_of(server_place) > 0


async def test_an_older_schema_is_not_brought_up_to_date(tmp_path: Path) -> None:
    """Rule 1: the source is never written to."""
    with connect(tmp_path / "old.db") as connection:
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(StorageError, match="is 1, this program's is"):
        await copy_whole(file(tmp_path / "old.db"), file(tmp_path / "new.db"), on_progress=no_progress)
    with pytest.raises(StorageError, match="newer acmeca"):
        tables_of_version(99)


async def test_a_server_that_is_not_there() -> None:
    place = Place.parse("postgresql://acmeca@127.0.0.1:1/acmeca", base=Path("/"))
    with pytest.raises(StorageError, match="cannot be reached"):
        await require_empty_server(place)


async def test_a_row_with_its_parent_behind_it() -> None:
    table = Table("t", ("id", "parent"), ("id",), frozenset(), (("parent", "id"),))
    rows = [("a", "b"), ("b", "c"), ("c", None), ("d", None)]
    assert own_parents_first(table, rows) == [("c", None), ("d", None), ("b", "c"), ("a", "b")]
    with pytest.raises(StorageError, match="what is not there"):
        own_parents_first(table, [("a", "b")])


async def test_pages_are_the_table_in_the_order_of_its_keys(source: Place) -> None:
    """Rule 3: the same digest whatever the page, for keys of several columns too."""
    assert source.path is not None
    async with read_snapshot(source.path) as reader:
        for table in tables_of_version(len(read_steps())):
            found: set[Sum] = set()
            for page in (1, 7, 1000):
                digest = Digest()
                async for rows in read_pages(reader, table, page=page):
                    digest.add(rows)
                found.add(digest.sum)
            assert len(found) == 1


async def test_a_digest_is_what_is_written_down() -> None:
    """docs/backup.md shows how to compute one without acmeca."""
    digest = Digest()
    digest.add([("ä", 1, b"\x00\xff", None)])
    line = b'["\\u00e4",1,{"b64":"AP8="},null]\n'
    assert digest.sum == Sum(1, hashlib.sha256(line).hexdigest())
    with pytest.raises(StorageError, match="a set is no value"):
        digest.add([({1},)])  # type: ignore[list-item]
