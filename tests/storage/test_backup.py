"""A backup is one moment of the database, there whole or not at all, and nothing of it can change unseen."""

import asyncio
import contextlib
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acmeca.audit import Head
from acmeca.errors import Conflict
from acmeca.storage import backup as backup_module
from acmeca.storage.backup import (
    BackupError,
    Circumstances,
    KeyFile,
    copy_pages,
    opened_backup,
    require_sound,
    write_backup,
)
from acmeca.storage.errors import StorageError
from acmeca.storage.tables import Digest, read_rows, read_tables
from tests.support import stored
from tests.support.databases import connect
from tests.support.journalled import journalled_store, live, make_hierarchy
from tests.support.mishaps import KILLED, back_up, killed_at, no_progress, with_a_full_disk
from tests.support.server import temporary_directory

CIRCUMSTANCES = Circumstances(
    created_at=1_793_534_400, acmeca="0.1.0", source="", journal_dir=Path("/journal"), journals={}
)


@pytest.fixture(scope="module")
def database() -> Iterator[Path]:
    """A database with a little of everything."""

    async def make(directory: Path) -> None:
        async with journalled_store(directory, name="a") as store:
            await make_hierarchy(store)
            await live([store], 25, seed=7)

    with temporary_directory() as directory:
        asyncio.run(make(directory))
        yield directory / "acmeca.db"


@pytest.fixture(scope="module")
def good(database: Path) -> Iterator[Path]:
    with temporary_directory() as directory:
        back_up(database, directory / "good.backup", files=[KeyFile("keys/a.pem", 0o600, b"secret key")])
        yield directory / "good.backup"


def sums(path: Path) -> dict[str, Any]:
    found = {}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for table in read_tables(connection):
            digest = Digest()
            for rows in read_rows(connection, table):
                digest.add(rows)
            found[table.name] = digest.sum
    return found


class TestWriting:
    def test_it_holds_what_the_database_holds(self, database: Path, tmp_path: Path) -> None:
        manifest = back_up(database, tmp_path / "b")
        assert {name: table.sum for name, table in manifest.tables.items()} == sums(database)
        assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o600
        assert [path.name for path in tmp_path.iterdir()] == ["b"]
        with opened_backup(tmp_path / "b", on_progress=no_progress) as opened:
            assert opened.manifest == manifest
            assert opened.files() == []
            opened.copy_database(tmp_path / "copy.db")
        assert sums(tmp_path / "copy.db") == sums(database)
        with connect(database) as connection:
            heads = connection.execute("SELECT MAX(sequence), hash FROM audit").fetchone()
            (last,) = connection.execute("SELECT MAX(last_commit) FROM writers").fetchone()
        assert manifest.heads == (Head("a", *heads),)
        assert manifest.last_commit == last
        assert len(manifest.roots) == 1

    def test_anybody_s_sqlite_can_read_it(self, good: Path) -> None:
        """Rule 1: "SQLite does not mind" the line at the end."""
        with contextlib.closing(sqlite3.connect(f"file:{good}?mode=ro", uri=True)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            manifest = dict(connection.execute("SELECT name, value FROM backup_manifest").fetchall())
        assert json.loads(manifest["format"]) == 1

    def test_keys_come_along_only_when_asked_for(self, good: Path, database: Path, tmp_path: Path) -> None:
        with opened_backup(good, on_progress=no_progress) as opened:
            assert opened.files() == [KeyFile("keys/a.pem", 0o600, b"secret key")]
            opened.copy_database(tmp_path / "copy.db")
        assert b"secret key" not in (tmp_path / "copy.db").read_bytes(), "not even in a free page"

    def test_a_file_is_replaced_only_when_asked_for(self, database: Path, tmp_path: Path) -> None:
        (tmp_path / "b").write_text("mine")
        with pytest.raises(Conflict, match="--force"):
            back_up(database, tmp_path / "b", may_replace=False)
        assert (tmp_path / "b").read_text() == "mine"
        back_up(database, tmp_path / "b")
        with opened_backup(tmp_path / "b", on_progress=no_progress):
            pass

    def test_what_was_made_meanwhile_is_not_replaced(self, database: Path, tmp_path: Path) -> None:
        def fill(connection: sqlite3.Connection, on_progress: Any) -> None:
            copy_pages(database)(connection, on_progress)
            (tmp_path / "b").write_text("mine")

        with pytest.raises(Conflict, match="meanwhile"):
            write_backup(tmp_path / "b", fill, CIRCUMSTANCES, may_replace=False, on_progress=no_progress)
        assert [path.name for path in tmp_path.iterdir()] == ["b"]

    def test_two_at_once(self, database: Path, tmp_path: Path) -> None:
        def fill(connection: sqlite3.Connection, on_progress: Any) -> None:
            with pytest.raises(Conflict, match="another backup"):
                back_up(database, tmp_path / "b")
            copy_pages(database)(connection, on_progress)

        write_backup(tmp_path / "b", fill, CIRCUMSTANCES, may_replace=False, on_progress=no_progress)
        with opened_backup(tmp_path / "b", on_progress=no_progress):
            pass

    def test_a_directory_that_is_not_there(self, database: Path, tmp_path: Path) -> None:
        with pytest.raises(BackupError, match="cannot be written: No such file"):
            back_up(database, tmp_path / "none" / "b")

    def test_no_database_of_ours(self, tmp_path: Path) -> None:
        with connect(tmp_path / "other.db") as connection:
            connection.execute("CREATE TABLE t (x INTEGER PRIMARY KEY)")
        with pytest.raises(BackupError, match="no tables of acmeca"):
            back_up(tmp_path / "other.db", tmp_path / "b")
        (tmp_path / "text").write_text("text, and no database at all" * 100)
        with pytest.raises(StorageError, match="not a database"):
            back_up(tmp_path / "text", tmp_path / "b")
        assert not (tmp_path / "b").exists()
        assert not (tmp_path / "b.part").exists()

    def test_a_database_with_a_damaged_index_is_not_backed_up(self, database: Path, tmp_path: Path) -> None:
        """A restore of that would be refused: it is told today."""
        damaged = tmp_path / "damaged.db"
        with connect(database) as connection:
            connection.execute(f"VACUUM INTO '{damaged}'")
        with connect(damaged) as connection:
            (root,) = connection.execute(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'certificate_names_exact'"
            ).fetchone()
            (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        data = bytearray(damaged.read_bytes())
        start = (root - 1) * page_size
        data[start + page_size - 40 : start + page_size - 30] = b"x" * 10
        damaged.write_bytes(data)
        with pytest.raises(BackupError, match="damaged"):
            back_up(damaged, tmp_path / "b")
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("b")] == []

    def test_rows_without_their_parent(self, database: Path, tmp_path: Path) -> None:
        with connect(database) as connection:
            connection.execute(f"VACUUM INTO '{tmp_path / 'x.db'}'")
        with connect(tmp_path / "x.db") as connection:
            connection.execute("DELETE FROM accounts")
            with pytest.raises(BackupError, match="not there"):
                require_sound(connection, "it")


class TestMishaps:
    @pytest.mark.parametrize("left", [40_000, 100_000, -4096, -50])
    def test_a_full_disk_is_told_and_leaves_nothing(self, database: Path, tmp_path: Path, left: int) -> None:
        """At the beginning, in the middle, at the last page, and at the line behind it."""
        back_up(database, tmp_path / "b")
        before = (tmp_path / "b").read_bytes()
        limit = left if left > 0 else len(before) + left
        (tmp_path / "b").write_bytes(before)
        said = with_a_full_disk(limit, tmp_path / "said", back_up, database, tmp_path / "b")
        assert said.startswith("BackupError")
        assert "cannot be written" in said
        assert "nothing is left of it" in said
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "said"]
        assert (tmp_path / "b").read_bytes() == before

    @pytest.mark.parametrize(
        "step",
        [
            "before acmeca.storage.backup.open_snapshot",
            "before acmeca.storage.backup.require_sound",
            "after acmeca.storage.backup._add_own_tables",
            "after acmeca.storage.backup._digest_of",
            "before pathlib.Path.replace",
        ],
    )
    def test_a_kill_leaves_the_one_before(self, database: Path, tmp_path: Path, step: str) -> None:
        (tmp_path / "b").write_text("the one before")
        assert killed_at(step, back_up, database, tmp_path / "b") == KILLED
        assert (tmp_path / "b").read_text() == "the one before"
        back_up(database, tmp_path / "b")
        assert [path.name for path in tmp_path.iterdir()] == ["b"]

    def test_a_kill_after_the_rename_leaves_the_new_one(self, database: Path, tmp_path: Path) -> None:
        assert killed_at("after pathlib.Path.replace", back_up, database, tmp_path / "b") == KILLED
        with opened_backup(tmp_path / "b", on_progress=no_progress):
            pass


class TestBelieving:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def test_no_octet_changes_unseen(self, good: Path, place: float, bit: int) -> None:
        with temporary_directory() as directory:
            data = bytearray(good.read_bytes())
            data[int(place * len(data))] ^= 1 << bit
            (directory / "bad").write_bytes(data)
            with (
                pytest.raises(BackupError, match=r"damaged|no backup|format"),
                opened_backup(directory / "bad", on_progress=no_progress),
            ):
                pass

    def test_each_octet_of_the_header_and_of_the_last_line(self, good: Path, tmp_path: Path) -> None:
        whole = good.read_bytes()
        for position in (*range(0, 100, 3), *range(len(whole) - 92, len(whole))):
            data = bytearray(whole)
            data[position] ^= 0x01
            (tmp_path / "bad").write_bytes(data)
            with pytest.raises(BackupError), opened_backup(tmp_path / "bad", on_progress=no_progress):
                pass

    @pytest.mark.parametrize("length", [0, 1, 91, 92, 5000, -1])
    def test_cut_off(self, good: Path, tmp_path: Path, length: int) -> None:
        (tmp_path / "bad").write_bytes(good.read_bytes()[:length])
        with pytest.raises(BackupError, match="no backup"), opened_backup(tmp_path / "bad", on_progress=no_progress):
            pass

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ("UPDATE accounts SET contact = '[]'", "does not hold what its manifest says"),
            ("DELETE FROM audit WHERE sequence = (SELECT MAX(sequence) FROM audit)", "does not hold"),
            ("DROP TABLE leases", "does not hold"),
            ("DROP TABLE backup_manifest", "cannot be read as a backup: no such table"),
            ("DELETE FROM backup_manifest WHERE name = 'tables'", "has no manifest"),
            ("UPDATE backup_manifest SET value = '[' WHERE name = 'heads'", "has no manifest"),
            ("UPDATE backup_manifest SET value = '[[1]]' WHERE name = 'heads'", "has no manifest"),
            ("UPDATE backup_manifest SET value = '3' WHERE name = 'tables'", "has no manifest"),
            ("PRAGMA foreign_keys = OFF; DELETE FROM issuers", "damaged: rows refer"),
        ],
    )
    def test_one_that_was_changed_with_a_right_line_behind_it(
        self, good: Path, tmp_path: Path, change: str, match: str
    ) -> None:
        """Somebody who knows the format: what does not fit together is refused all the same."""
        path = tmp_path / "forged"
        length = good.stat().st_size - backup_module._TRAILER_BYTES
        path.write_bytes(good.read_bytes()[:length])
        with connect(path) as connection:
            connection.executescript(change)
        with path.open("r+b") as file:
            digest = backup_module._digest_of(file, path.stat().st_size)
            file.seek(0, os.SEEK_END)
            file.write(b"\nacmeca backup 0001 sha256 %s\n" % digest.encode())
        with pytest.raises(BackupError, match=match), opened_backup(path, on_progress=no_progress):
            pass

    def test_a_newer_format(self, good: Path, tmp_path: Path) -> None:
        (tmp_path / "new").write_bytes(good.read_bytes().replace(b"acmeca backup 0001", b"acmeca backup 0002"))
        with (
            pytest.raises(BackupError, match="format 2, this program reads 1"),
            opened_backup(tmp_path / "new", on_progress=no_progress),
        ):
            pass

    def test_no_file(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(BackupError, match="cannot be read"), opened_backup(path, on_progress=no_progress):
                pass


async def test_twenty_writers_write_beside_it(tmp_path: Path) -> None:
    """Rule 2: each certificate has its audit record, and nobody waits for the backup."""
    async with journalled_store(tmp_path) as first:
        await make_hierarchy(first)
        stop = threading.Event()
        written = 0

        async def write() -> None:
            nonlocal written
            while not stop.is_set():
                await stored.issued_certificate(first)
                written += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(write())
            try:
                for number in range(3):
                    await asyncio.sleep(0.1)
                    before = written
                    await asyncio.to_thread(back_up, tmp_path / "acmeca.db", tmp_path / f"{number}.backup")
                    assert written > before, "the writers did not wait"
            finally:
                stop.set()
        counts = []
        for number in range(3):
            with opened_backup(tmp_path / f"{number}.backup", on_progress=no_progress) as opened:
                recorded, issued, certificates, signed = (
                    opened.connection.execute(sql).fetchone()[0]
                    for sql in (
                        "SELECT COUNT(*) FROM audit WHERE kind = 'certificate.recorded'",
                        "SELECT COUNT(*) FROM audit WHERE kind = 'certificate.issued'",
                        "SELECT COUNT(*) FROM certificates",
                        "SELECT COUNT(*) FROM certificates WHERE signature IS NOT NULL",
                    )
                )
                assert (recorded, issued) == (certificates, signed)
                counts.append(certificates)
                (head,) = opened.manifest.heads
                (last,) = opened.connection.execute("SELECT MAX(last_commit) FROM writers").fetchone()
                assert opened.manifest.last_commit == last
                assert head.sequence == opened.connection.execute("SELECT COUNT(*) FROM audit").fetchone()[0]
        assert counts == sorted(counts)


async def test_the_log_is_short_again_after_a_long_backup(tmp_path: Path) -> None:
    """While a snapshot is read the log only grows; the next commits begin it anew."""
    async with journalled_store(tmp_path) as store:
        await make_hierarchy(store)
        log = tmp_path / "acmeca.db-wal"

        def fill(connection: sqlite3.Connection, on_progress: Any) -> None:
            copy_pages(tmp_path / "acmeca.db")(connection, on_progress)

        await asyncio.to_thread(
            write_backup, tmp_path / "b", fill, CIRCUMSTANCES, may_replace=False, on_progress=no_progress
        )
        for _ in range(30):
            await stored.issued_certificate(store)
        assert log.stat().st_size < 8 << 20
    assert not log.exists()
