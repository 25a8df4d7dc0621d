"""A look at a database without a trace: beside a writer, without one, and after one that was killed."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acmeca.audit import SYSTEM, ServerStarted
from acmeca.storage.audit import append, verify
from acmeca.storage.database import Transaction
from acmeca.storage.errors import StorageError
from acmeca.storage.readonly import has_log, open_read_only
from acmeca.storage.schema import read_steps
from tests.support.databases import connect, open_database, start_python

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from acmeca.storage.sqlite import SqliteDatabase

async def main():
    database = await SqliteDatabase.open(Path(sys.argv[1]))
    await database.write(lambda tx: tx.execute(
        "INSERT INTO accounts (id, thumbprint, jwk, status, contact, created_at) VALUES ('a', 'a', '{}', 'valid', '[]', 0)"))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def contents(directory: Path) -> dict[str, bytes]:
    """Every file but the index of the log, which SQLite makes anew as it likes."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}


async def add_record(tx: Transaction) -> None:
    event = ServerStarted(actor=SYSTEM, version="1", config_sha256="")
    await append(tx, writer="server", at=datetime.now(UTC), event=event)


async def count(path: Path, table: str) -> int:
    with open_read_only(path) as database:
        row = await database.fetch_one(f"SELECT COUNT(*) AS n FROM {table}")
    assert row is not None
    return int(row["n"])


async def test_a_closed_database_is_read_without_making_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ca.db"
    async with open_database(path) as database:
        await database.write(add_record)
    before = contents(tmp_path)
    assert not has_log(path)
    with open_read_only(path) as look:
        assert look.schema_version() == len(read_steps())
        assert look.faults() == []
        assert await verify(look) == []
        assert [row["kind"] for row in await look.scan("SELECT kind FROM audit")] == ["server.started"]
    assert contents(tmp_path) == before
    assert sorted(before) == ["ca.db", "ca.db-turns"]


async def test_an_open_database_is_read_beside_its_writer(tmp_path: Path) -> None:
    """What was committed is seen at once, and the writer goes on."""
    path = tmp_path / "ca.db"
    async with open_database(path) as database:
        await database.write(add_record)
        assert has_log(path)
        with open_read_only(path) as look:
            assert len(await look.fetch_all("SELECT 1 FROM audit")) == 1
            await database.write(add_record)
            assert len(await look.fetch_all("SELECT 1 FROM audit")) == 2
            assert look.faults() == []
        assert await count(path, "audit") == 2


async def test_what_a_killed_writer_left_is_read_and_left(tmp_path: Path) -> None:
    """A log that was never copied back holds acknowledged writes: they are seen, and the log stays as it is."""
    path = tmp_path / "ca.db"
    with start_python(KILLED, str(path)) as process:
        process.wait(timeout=30)
    assert has_log(path)
    before = contents(tmp_path)
    assert await count(path, "accounts") == 1
    assert contents(tmp_path) == before


async def test_a_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ca.db"
    async with open_database(path):
        pass
    with open_read_only(path) as database, pytest.raises(StorageError, match="for reading only"):
        await database.write(add_record)
    with open_read_only(path) as database, pytest.raises(StorageError, match="readonly"):
        await database.fetch_all("DELETE FROM audit")


async def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"), open_read_only(tmp_path / "ca.db"):
        pass
    assert contents(tmp_path) == {}


async def test_a_file_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "ca.db"
    path.write_bytes(os.urandom(4096))
    with open_read_only(path) as database, pytest.raises(StorageError, match="not a database"):
        database.schema_version()
    with open_read_only(path) as database, pytest.raises(StorageError, match="not a database"):
        await database.fetch_all("SELECT 1 FROM audit")


async def test_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "ca.db"
    async with open_database(path) as database:
        for _ in range(200):
            await database.write(add_record)
    with connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'audit'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)
    with open_read_only(path) as look:
        assert look.faults()
