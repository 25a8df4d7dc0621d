"""What a restore can prove to be missing, and how the new database takes the old one's place."""

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acmeca.audit import Head
from acmeca.storage import placement
from acmeca.storage.audit import fetch_head
from acmeca.storage.backup import opened_backup
from acmeca.storage.journal import segments
from acmeca.storage.journals import Journals, gather
from acmeca.storage.pruning import superfluous
from acmeca.storage.restore import KnownHead, Restored, build
from tests.support import stored
from tests.support.databases import connect
from tests.support.journalled import journalled_state, journalled_store, live, make_hierarchy, revoke
from tests.support.mishaps import KILLED, back_up, killed_at, no_progress
from tests.support.server import temporary_directory


@pytest.fixture(scope="module")
def scene() -> Iterator[Path]:
    """A database of two writers, `b` of whom ran when the backup was made, and both went on; each has three segments."""

    async def make(directory: Path) -> None:
        async with journalled_store(directory, name="a") as a:
            await make_hierarchy(a)
            await live([a], 13, seed=1)
        async with journalled_store(directory, name="b") as b:
            async with journalled_store(directory, name="a") as a:
                await live([a, b], 10, seed=2)
            lengths = {segment.path.name: segment.path.stat().st_size for segment in segments(directory / "journal")}
            back_up(directory / "acmeca.db", directory / "b.backup", journals=lengths)
            async with journalled_store(directory, name="a", segment_bytes=3000) as a:
                await live([a, b], 20, seed=3)
        async with journalled_store(directory, name="b") as b:
            await live([b], 5, seed=4)

    with temporary_directory() as directory:
        asyncio.run(make(directory))
        yield directory


@pytest.fixture
def copy(scene: Path, tmp_path: Path) -> Path:
    """The scene, to be spoilt."""
    shutil.copytree(scene, tmp_path / "scene")
    return tmp_path / "scene"


def restored(
    directory: Path, *, known: list[KnownHead] | None = None, journals: Journals | None = None, target: str = "new.db"
) -> Restored:
    with opened_backup(directory / "b.backup", on_progress=no_progress) as backup:
        found = gather([directory / "journal"]) if journals is None else journals
        return asyncio.run(build(backup, directory / target, found, known_heads=known or []))


def journal_of(directory: Path, writer: str, place: int) -> Path:
    return [segment.path for segment in segments(directory / "journal") if segment.writer == writer][place]


async def test_a_journal_that_is_found_after_an_incomplete_restore_is_replayed_to_its_end(tmp_path: Path) -> None:
    """Another writer has gone on meanwhile, and its numbers say nothing of the last commit of the one that was lost."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with journalled_store(first, name="a") as a:
        await make_hierarchy(a)
        back_up(first / "acmeca.db", first / "b.backup")
    async with journalled_store(first, name="b") as b:
        made = await stored.issued_certificate(b)
        await revoke(b, made)
        head = await fetch_head(b.database, "b")
    assert head is not None

    async def build_with(journals: Journals, target: Path) -> Restored:
        with opened_backup(first / "b.backup", on_progress=no_progress) as backup:
            return await build(backup, target, journals, known_heads=[KnownHead(head, "heads", 1)])

    of_a = Journals(tuple(segment for segment in segments(first / "journal") if segment.writer == "a"))
    assert (await build_with(of_a, second / "acmeca.db")).losses
    async with journalled_store(second, name="c") as c:
        for _ in range(5):
            await stored.issued_certificate(c)
    found = await build_with(gather([first / "journal", second / "journal"]), tmp_path / "new.db")
    assert found.losses == ()
    with connect(tmp_path / "new.db") as connection:
        revoked = connection.execute("SELECT revoked_at FROM certificates WHERE id = ?", (made.id,)).fetchone()
    assert revoked is not None
    assert revoked[0] is not None


class TestCompleteness:
    def test_with_all_journals_nothing_is_missing(self, copy: Path) -> None:
        with connect(copy / "acmeca.db") as connection:
            writers = connection.execute("SELECT DISTINCT writer FROM audit").fetchall()
            heads = [
                Head(
                    writer,
                    *connection.execute(
                        "SELECT sequence, hash FROM audit WHERE writer = ? ORDER BY sequence DESC LIMIT 1", (writer,)
                    ).fetchone(),
                )
                for (writer,) in writers
            ]
        found = restored(copy, known=[KnownHead(head, "heads", 1) for head in heads])
        assert found.losses == ()
        assert journalled_state(copy / "new.db") == journalled_state(copy / "acmeca.db")
        assert found.counts["certificates"] == len(journalled_state(copy / "acmeca.db")["certificates"])

    def test_leases_and_writers_begin_anew(self, copy: Path) -> None:
        restored(copy)
        with connect(copy / "new.db") as connection:
            assert connection.execute("SELECT DISTINCT instance, ended FROM writers").fetchall() == [("", 1)]
            (last,) = connection.execute("SELECT MAX(last_commit) FROM writers").fetchone()
        assert last >= max(commit.number for commit in gather([copy / "journal"]).commits())

    def test_twice_is_the_same(self, copy: Path) -> None:
        restored(copy)
        restored(copy, target="again.db")
        assert journalled_state(copy / "again.db") == journalled_state(copy / "new.db")

    def test_no_journal(self, copy: Path) -> None:
        shutil.rmtree(copy / "journal")
        (loss,) = restored(copy).losses
        assert "since 2026-11-01 12:00:00 UTC: there is no journal" in loss

    def test_a_writer_that_was_running_has_none(self, copy: Path) -> None:
        for segment in segments(copy / "journal"):
            if segment.writer == "b":
                segment.path.unlink()
        losses = restored(copy).losses
        assert any("what b did since" in loss and "no journal of it was found" in loss for loss in losses)

    def test_a_segment_in_the_middle_is_missing(self, copy: Path) -> None:
        journal_of(copy, "a", -2).unlink()
        losses = restored(copy).losses
        assert any("what a did with its audit records" in loss for loss in losses)

    def test_a_segment_is_shorter_than_it_was(self, copy: Path) -> None:
        path = journal_of(copy, "a", 0)
        path.write_bytes(path.read_bytes()[:-10])
        assert any(str(path) in loss and "shorter now" in loss for loss in restored(copy).losses)

    def test_a_line_is_damaged(self, copy: Path) -> None:
        path = journal_of(copy, "b", -1)
        data = path.read_bytes()
        second = data.index(b"\n") + 20
        path.write_bytes(data[:second] + b"#" + data[second + 1 :])
        losses = restored(copy).losses
        assert losses[0] == f"line 2 of {path} is damaged"
        assert any("audit records" in loss for loss in losses[1:])

    def test_a_torn_end_is_no_loss(self, copy: Path) -> None:
        path = journal_of(copy, "b", -1)
        path.write_bytes(path.read_bytes() + b'00000000 {"commit": 99')
        assert restored(copy).losses == ()

    def test_the_end_is_missed_when_somebody_knows_its_head(self, copy: Path) -> None:
        """ "audit-heads.jsonl can show that a chain went further": without that nobody could."""
        journal_of(copy, "b", -1).unlink()
        assert restored(copy).losses == ()
        with connect(copy / "acmeca.db") as connection:
            head = connection.execute(
                "SELECT writer, sequence, hash FROM audit WHERE writer = 'b' ORDER BY sequence DESC LIMIT 1"
            ).fetchone()
        (loss,) = restored(copy, known=[KnownHead(Head(*head), "the heads")], target="2.db").losses
        assert loss.startswith(f"audit record {head[1]} of b and what came before it: the heads has it, they end at")

    def test_a_chain_that_was_written_anew(self, copy: Path) -> None:
        (loss,) = restored(copy, known=[KnownHead(Head("a", 3, b"another"), "the heads")]).losses
        assert "another one stands there now" in loss

    def test_what_rests_on_nothing(self, copy: Path) -> None:
        """A journal that begins later than the backup: its certificates are there, and their revocations too."""
        for segment in segments(copy / "journal")[:-1]:
            segment.path.unlink()
        assert restored(copy).losses


class TestPruning:
    def gone(self, directory: Path, running: frozenset[str] = frozenset()) -> list[str]:
        with opened_backup(directory / "b.backup", on_progress=no_progress) as backup:
            found = segments(directory / "journal")
            return [segment.path.name for segment in superfluous(found, backup.connection, running=running)]

    def test_what_the_backup_holds_can_go_and_nothing_else(self, copy: Path) -> None:
        gone = self.gone(copy)
        assert gone
        for name in gone:
            (copy / "journal" / name).unlink()
        assert restored(copy).losses == ()
        assert journalled_state(copy / "new.db") == journalled_state(copy / "acmeca.db")

    def test_what_is_written_to_stays_and_so_does_the_newest(self, copy: Path) -> None:
        running = frozenset(segment.instance for segment in segments(copy / "journal"))
        assert self.gone(copy, running) == []
        back_up(copy / "acmeca.db", copy / "b.backup")
        writers = {segment.writer: segment.path.name for segment in segments(copy / "journal")}
        gone = self.gone(copy)
        assert len(gone) == len(segments(copy / "journal")) - len(writers)
        assert not set(gone) & set(writers.values())

    def test_a_damaged_one_stays(self, copy: Path) -> None:
        for name in self.gone(copy):
            path = copy / "journal" / name
            path.write_bytes(path.read_bytes().replace(b"entries", b"entrieS", 1))
        assert self.gone(copy) == []


# --- taking the place ---------------------------------------------------------------------------------------------

STAMP = "20261125T220412Z"


def make_file(path: Path, mark: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mark (mark TEXT)")
        connection.execute("INSERT INTO mark VALUES (?)", (mark,))
        connection.commit()


def make_killed_file(path: Path, mark: str) -> None:
    """A database whose last commit is in its log alone, as a killed process leaves it."""
    work = path.with_name("work.db")
    connection = sqlite3.connect(work)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE mark (mark TEXT)")
    connection.execute("INSERT INTO mark VALUES (?)", (mark,))
    connection.commit()
    for suffix in ("", "-wal", "-shm"):
        shutil.copyfile(f"{work}{suffix}", f"{path}{suffix}")
    connection.close()
    work.unlink()


def mark_of(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT mark FROM mark").fetchone()[0])


def decide(path: Path) -> None:
    placement.decide(path, STAMP)


class TestPlacement:
    @pytest.mark.parametrize("make", [make_file, make_killed_file])
    def test_the_former_one_steps_aside_with_its_log(self, tmp_path: Path, make: Callable[[Path, str], None]) -> None:
        path = tmp_path / "ca.db"
        make(path, "old")
        make_file(placement.building_path(path, STAMP), "new")
        assert placement.decide(path, STAMP) == placement.aside_path(path, STAMP)
        assert mark_of(path) == "new"
        assert mark_of(placement.aside_path(path, STAMP)) == "old"

    def test_a_log_without_its_database_does_not_get_into_the_new_one(self, tmp_path: Path) -> None:
        """The database was deleted, and its log forgotten: SQLite would play it into whatever stands there."""
        path = tmp_path / "ca.db"
        make_killed_file(path, "old")
        path.unlink()
        make_file(placement.building_path(path, STAMP), "new")
        assert placement.decide(path, STAMP) is None
        assert mark_of(path) == "new"
        assert not path.with_name("ca.db-wal").exists()

    @pytest.mark.parametrize(
        "step",
        [
            "before pathlib.Path.replace",
            "after pathlib.Path.replace",
            "before pathlib.Path.rename",
            "after pathlib.Path.rename",
            "after acmeca.storage.placement.finish",
        ],
    )
    def test_a_kill_leaves_one_or_the_other(self, tmp_path: Path, step: str) -> None:
        path = tmp_path / "ca.db"
        make_killed_file(path, "old")
        make_file(placement.building_path(path, STAMP), "new")
        assert killed_at(step, decide, path) == KILLED
        is_decided = placement.is_decided(path)
        assert is_decided or mark_of(path) == ("old" if step == "before pathlib.Path.replace" else "new")
        placement.finish(path)
        placement.remove_leftovers(path)
        expected = "old" if step == "before pathlib.Path.replace" else "new"
        assert mark_of(path) == expected
        if expected == "new":
            assert mark_of(placement.aside_path(path, STAMP)) == "old"
        names = {item.name.removesuffix("-wal").removesuffix("-shm") for item in tmp_path.iterdir()}
        assert names <= {path.name, placement.aside_path(path, STAMP).name}
        assert placement.finish(path) is None

    def test_a_reader_between_two_steps_does_no_harm(self, tmp_path: Path) -> None:
        """The log of the former one is aside already; a log that a reader has made since must not take its place."""
        path = tmp_path / "ca.db"
        make_killed_file(path, "old")
        make_file(placement.building_path(path, STAMP), "new")
        assert killed_at("after pathlib.Path.replace", decide, path) == KILLED
        aside = placement.aside_path(path, STAMP)
        path.rename(aside)
        Path(f"{path}-wal").rename(f"{aside}-wal")
        Path(f"{path}-wal").write_bytes(b"of a reader")
        assert placement.finish(path) == aside
        assert (mark_of(path), mark_of(aside)) == ("new", "old")
