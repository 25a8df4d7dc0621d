"""What the SQLite driver promises beyond the contract (tests/contract): durability, bounds, its statements, plain refusals."""

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import random
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import StrEnum
from functools import partial
from pathlib import Path

import aiosqlite
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.errors import Busy
from acmeca.storage.database import Database, Transaction
from acmeca.storage.errors import NotUniqueError, StorageError
from acmeca.storage.schema import Step
from acmeca.storage.sqlite import SqliteDatabase, _run_in_thread
from acmeca.storage.statements import parse_statement
from tests.support.databases import NOTES, connect, in_writer, open_database, start_python, traced

INSERT = "INSERT INTO notes (id, body) VALUES ($1, $2)"
COUNT = "SELECT COUNT(*) AS n FROM notes"

Body = Callable[[Transaction], Awaitable[str]]


def spoil(path: Path) -> None:
    """Put something that is no database in its place."""
    path.write_bytes(b"something else entirely\n" * 200)
    path.chmod(0o600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acmeca.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    async with open_database(path, steps=NOTES) as database:
        yield database


def note(name: str) -> Body:
    """A body that inserts one note and returns its name."""

    async def body(tx: Transaction) -> str:
        await tx.execute(INSERT, name, "text")
        return name

    return body


async def names(database: Database) -> list[str]:
    """The notes in the order they were written."""
    return [row["id"] for row in await database.fetch_all("SELECT id FROM notes ORDER BY rowid")]


class Gate:
    """A body that stops the writer's thread until it is opened, so that a test decides what happens meanwhile."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    async def body(self, tx: Transaction) -> str:
        await tx.execute(INSERT, "gate-1", "text")
        self._reached.set()
        assert self._opened.wait(10)
        await tx.execute(INSERT, "gate-2", "text")
        return "gate"

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 10)

    def open(self) -> None:
        self._opened.set()


class TestGroupCommit:
    async def test_concurrent_writes_share_a_commit(self, database: SqliteDatabase) -> None:
        async with traced(database) as statements:
            results = await asyncio.gather(*(database.write(note(f"n{number}")) for number in range(64)))
        assert results == [f"n{number}" for number in range(64)]
        assert statements.count("COMMIT") == 1
        assert await names(database) == results

    async def test_a_write_alone_has_a_commit_of_its_own(self, database: SqliteDatabase) -> None:
        async with traced(database) as statements:
            for number in range(5):
                await database.write(note(f"n{number}"))
        assert statements.count("COMMIT") == 5

    async def test_writes_that_arrive_during_a_commit_go_into_the_next_one(self, database: SqliteDatabase) -> None:
        gate = Gate()
        async with traced(database) as statements:
            first = asyncio.create_task(database.write(gate.body))
            await gate.reached()
            later = [asyncio.create_task(database.write(note(f"n{number}"))) for number in range(20)]
            await asyncio.sleep(0)
            gate.open()
            await asyncio.gather(first, *later)
        assert statements.count("COMMIT") == 2

    async def test_bodies_run_one_after_another_in_the_order_of_the_calls(self, database: SqliteDatabase) -> None:
        expected = [f"n{number}" for number in random.Random(7).sample(range(1000), 50)]
        await asyncio.gather(*(database.write(note(name)) for name in expected))
        assert await names(database) == expected

    async def test_a_failing_body_rolls_back_alone(self, database: SqliteDatabase) -> None:
        class OddError(BaseException):
            """Not even an Exception."""

        async def fail(tx: Transaction) -> str:
            await tx.execute(INSERT, "lost", "text")
            raise OddError

        gate = Gate()
        tasks = [asyncio.create_task(database.write(gate.body))]
        await gate.reached()
        tasks += [asyncio.create_task(database.write(body)) for body in (note("before"), fail, note("after"))]
        await asyncio.sleep(0)
        gate.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [str, str, OddError, str]
        assert await names(database) == ["gate-1", "gate-2", "before", "after"]

    async def test_a_caller_is_answered_after_the_commit_returned(self, database: SqliteDatabase, path: Path) -> None:
        """A connection that has nothing to do with ours sees the row at the moment the caller goes on."""
        with connect(path) as other:

            async def write_and_look(name: str) -> bool:
                await database.write(note(name))
                return other.execute("SELECT 1 FROM notes WHERE id = ?", (name,)).fetchone() is not None

            assert all(await asyncio.gather(*(write_and_look(f"n{number}") for number in range(30))))

    async def test_nobody_is_answered_before_the_commit(self, database: SqliteDatabase) -> None:
        """A body that returned is no answer: its caller waits for the COMMIT it shares with a slower one."""
        gate = Gate()
        first = asyncio.create_task(database.write(note("first")))
        stopped = asyncio.create_task(database.write(gate.body))
        await gate.reached()  # both are in one batch, and the first one's body has returned
        assert not first.done()
        assert await names(database) == []
        gate.open()
        assert (await first, await stopped) == ("first", "gate")

    @given(st.lists(st.tuples(st.sampled_from(["keep", "fail", "double"]), st.integers(0, 5)), max_size=12))
    @settings(max_examples=25, deadline=None)
    def test_what_is_kept_is_what_was_acknowledged(
        self, tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, int]]
    ) -> None:
        """For any mixture of bodies that end well, raise, or meet a constraint half way: all or nothing of each."""

        def make(index: int, action: str, number: int) -> Body:
            async def body(tx: Transaction) -> str:
                await tx.execute(INSERT, f"{index}-a", action)
                if action == "double":  # unique among the notes that were kept
                    await tx.execute("UPDATE notes SET number = $1 WHERE id = $2", number, f"{index}-a")
                await tx.execute(INSERT, f"{index}-b", action)
                if action == "fail":
                    raise LookupError(index)
                return str(index)

            return body

        async def run() -> None:
            path = tmp_path_factory.mktemp("model") / "acmeca.db"
            async with open_database(path, steps=NOTES) as database:
                results = await asyncio.gather(
                    *(database.write(make(index, *step)) for index, step in enumerate(plan)), return_exceptions=True
                )
                expected: list[str] = []
                used: set[int] = set()
                for index, (action, number) in enumerate(plan):
                    clash = action == "double" and number in used
                    assert isinstance(results[index], LookupError) == (action == "fail")
                    assert isinstance(results[index], NotUniqueError) == clash
                    if action == "double":
                        used.add(number)
                    if action != "fail" and not clash:
                        assert results[index] == str(index)
                        expected += [f"{index}-a", f"{index}-b"]
                assert await names(database) == expected

        asyncio.run(run())


class TestBodies:
    async def test_a_body_that_awaits_something_else_is_told_so_and_rolled_back(self, database: SqliteDatabase) -> None:
        async def suspend(tx: Transaction) -> None:
            await tx.execute(INSERT, "lost", "text")
            await asyncio.sleep(0)

        with pytest.raises(RuntimeError, match="awaited something other than its transaction"):
            await database.write(suspend)
        await database.write(note("next"))
        assert await names(database) == ["next"]

    async def test_a_body_that_waits_for_a_future_is_told_so_too(self, database: SqliteDatabase) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def suspend(tx: Transaction) -> None:
            await tx.execute(INSERT, "lost", "text")
            await future

        with pytest.raises(RuntimeError, match="awaited something other than its transaction"):
            await database.write(suspend)
        assert await names(database) == []

    async def test_a_body_cannot_read_through_the_database(self, database: SqliteDatabase) -> None:
        async def body(tx: Transaction) -> None:
            await database.fetch_one(COUNT)

        with pytest.raises(StorageError, match="thread"):
            await database.write(body)

    async def test_values_come_back_as_they_went_in(self, database: SqliteDatabase) -> None:
        class Colour(StrEnum):
            RED = "red"

        row = await database.fetch_one(
            "SELECT $1 AS a, $2 AS b, $3 AS c, $4 AS d, $5 AS e, $2 AS f",
            "ü\0'",
            2**63 - 1,
            b"\0\xff",
            None,
            Colour.RED,
        )
        assert row is not None
        assert tuple(row[column] for column in "abcdef") == ("ü\0'", 2**63 - 1, b"\0\xff", None, "red", 2**63 - 1)


class TestConstraints:
    async def test_a_body_may_catch_it_and_go_on(self, database: SqliteDatabase) -> None:
        async def body(tx: Transaction) -> None:
            await tx.execute(INSERT, "a", "text")
            with pytest.raises(NotUniqueError):
                await tx.execute("INSERT INTO notes (id, body) VALUES ('b', 'x'), ('a', 'x')")
            await tx.execute(INSERT, "c", "text")

        await database.write(body)
        assert await names(database) == ["a", "c"]

    @pytest.mark.parametrize(
        ("sql", "constraint"),
        [
            ("INSERT INTO pages (note_id, page) VALUES ('nobody', 1)", "FOREIGN KEY"),
            ("INSERT INTO notes (id, body, number) VALUES ('a', 'x', 13)", "CHECK"),
            ("INSERT INTO notes (id, body) VALUES ('a', NULL)", "NOT NULL"),
        ],
    )
    async def test_other_constraints_hold(self, database: SqliteDatabase, sql: str, constraint: str) -> None:
        with pytest.raises(StorageError, match=constraint) as caught:
            await database.write(lambda tx: tx.execute(sql))
        assert not isinstance(caught.value, NotUniqueError)

    @pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "secret\ud800"])
    async def test_a_value_that_cannot_be_kept_is_refused_and_not_shown(
        self, database: SqliteDatabase, value: str | int
    ) -> None:
        for attempt in (
            database.write(lambda tx: tx.execute(INSERT, "a", value)),
            database.fetch_one("SELECT $1 AS a", value),
            database.scan("SELECT $1 AS a", value),
        ):
            with pytest.raises(StorageError, match="a value cannot be kept") as caught:
                await attempt
            assert "secret" not in str(caught.value)
            assert str(2**63) not in str(caught.value)

    async def test_too_many_and_too_few_values_are_refused(self, database: SqliteDatabase) -> None:
        for args in ((), ("a",), ("a", "b", "c")):

            async def body(tx: Transaction, args: tuple[str, ...] = args) -> None:
                await tx.execute(INSERT, *args)

            with pytest.raises(StorageError, match="bindings"):
                await database.write(body)


class TestReads:
    async def test_reads_see_what_is_committed_and_nothing_else(self, database: SqliteDatabase) -> None:
        gate = Gate()
        task = asyncio.create_task(database.write(gate.body))
        await gate.reached()
        assert await database.fetch_all("SELECT id FROM notes") == []
        assert await database.fetch_one("SELECT id FROM notes") is None
        assert await database.scan("SELECT id FROM notes") == []
        gate.open()
        await task
        assert await names(database) == ["gate-1", "gate-2"]

    async def test_a_read_does_not_suspend(self, database: SqliteDatabase) -> None:
        """No thread hop per row: the coroutine ends in its first step."""
        with pytest.raises(StopIteration) as ended:
            database.fetch_one("SELECT 7 AS n").send(None)
        assert ended.value.value["n"] == 7

    async def test_no_read_stays_in_its_snapshot(self, database: SqliteDatabase, path: Path) -> None:
        """An open read would keep a truncating checkpoint from finishing."""
        await asyncio.gather(*(database.write(note(f"n{number}")) for number in range(50)))
        assert await database.fetch_one("SELECT id FROM notes") is not None
        assert len(await database.fetch_all("SELECT id FROM notes")) == 50
        assert len(await database.scan("SELECT id FROM notes")) == 50
        with connect(path) as other:
            busy, frames, _ = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert (busy, frames) == (0, 0)

    @pytest.mark.parametrize("sql", ["INSERT INTO notes (id, body) VALUES ('a', 'x')", "DELETE FROM notes"])
    async def test_a_read_cannot_write(self, database: SqliteDatabase, sql: str) -> None:
        for attempt in (database.fetch_one(sql), database.fetch_all(sql), database.scan(sql)):
            with pytest.raises(StorageError, match="readonly"):
                await attempt

    async def test_a_long_scan_does_not_hold_the_event_loop(self, database: SqliteDatabase) -> None:
        scan = asyncio.create_task(
            database.scan(
                "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < $1) SELECT MAX(x) AS x FROM c",
                300_000,
            )
        )
        turns = 0
        while not scan.done():
            await database.write(note(f"n{turns}"))
            turns += 1
        assert scan.result()[0]["x"] == 300_000
        assert turns > 1

    async def test_many_scans_share_few_threads(self, database: SqliteDatabase) -> None:
        await asyncio.gather(*(database.scan("SELECT $1 AS n", number) for number in range(50)))
        running = [thread for thread in threading.enumerate() if thread.name.startswith("acmeca-scan")]
        assert 1 <= len(running) <= 2


class TestBounds:
    async def test_a_full_queue_is_busy_at_once(self, path: Path) -> None:
        async with open_database(path, steps=NOTES, queue_limit=3) as database:
            gate = Gate()
            tasks = [asyncio.create_task(database.write(gate.body))]
            await gate.reached()
            tasks += [asyncio.create_task(database.write(note(f"n{number}"))) for number in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                database.write(note("too many")).send(None)  # it raises in its first step: nothing is waited for
            gate.open()
            assert await asyncio.gather(*tasks) == ["gate", "n0", "n1", "n2"]
            assert await database.write(note("later")) == "later"
            assert await names(database) == ["gate-1", "gate-2", "n0", "n1", "n2", "later"]

    async def test_a_cancelled_write_that_was_not_begun_is_not_done(self, database: SqliteDatabase) -> None:
        gate = Gate()
        running = asyncio.create_task(database.write(gate.body))
        await gate.reached()
        waiting = [asyncio.create_task(database.write(note(f"n{number}"))) for number in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(running, *waiting, return_exceptions=True)
        assert waiting[1].cancelled()
        assert await names(database) == ["gate-1", "gate-2", "n0", "n2"]

    async def test_a_write_cancelled_under_way_is_whole_or_absent(self, database: SqliteDatabase) -> None:
        gate = Gate()
        running = asyncio.create_task(database.write(gate.body))
        await gate.reached()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        gate.open()
        await database.write(note("next"))
        assert await names(database) in (["gate-1", "gate-2", "next"], ["next"])


class TestTrouble:
    async def test_a_locked_database_fails_every_caller_after_a_bounded_time(self, path: Path) -> None:
        async with open_database(path, steps=NOTES, busy_timeout=0.05) as database:
            with connect(path) as other:
                other.execute("BEGIN IMMEDIATE")
                results = await asyncio.gather(
                    *(database.write(note(f"n{number}")) for number in range(5)), return_exceptions=True
                )
                assert [type(result) for result in results] == [StorageError] * 5
                assert "another process" in str(results[0])
                assert len({id(result) for result in results}) == 5
                assert await names(database) == []  # reads go on
                other.execute("ROLLBACK")
            await database.write(note("later"))
            assert await names(database) == ["later"]

    async def test_a_lock_that_is_let_go_in_time_is_waited_for(self, database: SqliteDatabase, path: Path) -> None:
        with connect(path) as other:
            other.execute("BEGIN IMMEDIATE")
            task = asyncio.create_task(database.write(note("patient")))
            await asyncio.sleep(0)
            assert not task.done()
            other.execute("ROLLBACK")
            assert await task == "patient"

    async def test_a_full_database_refuses_and_lives_on(self, database: SqliteDatabase) -> None:
        async def insert(tx: Transaction) -> str:
            await tx.execute(INSERT, "big", "x" * 1_000_000)
            return "big"

        await in_writer(database, lambda connection: connection.execute("PRAGMA max_page_count = 50").fetchall())
        results = await asyncio.gather(
            database.write(note("a")), database.write(insert), database.write(note("b")), return_exceptions=True
        )
        assert isinstance(results[1], StorageError)
        assert "make room on its disk" in str(results[1])
        # Whatever SQLite did with the rest of the batch: who was told "done" has a row, who was not has none.
        assert await names(database) == [result for result in results if isinstance(result, str)]
        await in_writer(database, lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchall())
        await database.write(insert)
        assert "big" in await names(database)

    def test_a_full_disk_fails_every_caller_of_the_commit(self, path: Path) -> None:
        """The log cannot grow (RLIMIT_FSIZE in a process of its own): COMMIT fails, nobody is told "done"."""
        code = (
            "import asyncio, sys; from pathlib import Path; from tests.support.databases import fill_the_disk;"
            "asyncio.run(fill_the_disk(Path(sys.argv[1]), int(sys.argv[2])))"
        )
        with start_python(code, str(path), str(1_000_000)) as process:
            output, _ = process.communicate(timeout=60)
        report = json.loads(output)
        batches: list[list[str]] = report["full"]
        told = [[answer for answer in batch if not answer.startswith("failed")] for batch in batches]
        assert len(told[0]) == 10
        assert told[-1] == []
        assert all(len(batch) in {0, 10} for batch in told)
        assert "disk" in batches[-1][0]
        assert report["after"] == [f"after-{number}" for number in range(10)]
        with connect(path) as other:
            kept = {row[0] for row in other.execute("SELECT id FROM blobs")}
            assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert kept == {*itertools.chain(*told), *report["after"]}

    async def test_when_sqlite_rolls_back_by_itself_the_whole_batch_is_told(self, database: SqliteDatabase) -> None:
        """After some errors SQLite ends the transaction. A body that goes on regardless writes nothing outside of one."""

        async def destroy(tx: Transaction) -> str:
            await tx.execute(INSERT, "a", "text")
            with pytest.raises(NotUniqueError):
                await tx.execute("INSERT OR ROLLBACK INTO notes (id, body) VALUES ('a', 'x')")
            with pytest.raises(StorageError, match="rolled back"):
                await tx.execute(INSERT, "outside", "text")
            return "destroyed"

        results = await asyncio.gather(
            database.write(note("before")),
            database.write(destroy),
            database.write(note("behind")),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [StorageError] * 3
        assert await names(database) == []
        await database.write(note("later"))
        assert await names(database) == ["later"]

    @pytest.mark.parametrize("many", [1, 2])
    async def test_no_value_is_told_when_sqlite_rolls_back_by_itself(self, database: SqliteDatabase, many: int) -> None:
        """`storage/errors.py`, rule 2; for a body alone and for one among others."""

        async def destroy(tx: Transaction) -> str:
            await tx.execute(INSERT, "a", "text")
            with contextlib.suppress(NotUniqueError):
                await tx.execute("INSERT OR ROLLBACK INTO notes (id, body) VALUES ('a', 'x')")
            raise LookupError("a secret value")

        results = await asyncio.gather(
            database.write(destroy),
            *(database.write(note(f"n{number}")) for number in range(1, many)),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [StorageError] * many
        assert not any("secret" in str(result) for result in results)
        assert await names(database) == []

    async def test_a_commit_that_fails_is_told_to_every_caller_and_holds_nothing(self, path: Path) -> None:
        """A deferred check, which our own schema never has, makes COMMIT fail and leaves SQLite in the transaction."""
        script = "CREATE TABLE later (id TEXT REFERENCES notes (id) DEFERRABLE INITIALLY DEFERRED);"
        async with open_database(path, steps=[*NOTES, Step(2, "later", script)]) as database:

            async def orphan(tx: Transaction) -> str:
                await tx.execute("INSERT INTO later (id) VALUES ('nobody')")
                return "orphan"

            results = await asyncio.gather(
                database.write(note("a")), database.write(orphan), database.write(note("b")), return_exceptions=True
            )
            assert [type(result) for result in results] == [StorageError] * 3
            assert await names(database) == []
            with connect(path) as other:  # the lock is free at once, not with the next write
                other.execute("PRAGMA busy_timeout = 0").fetchall()
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")
            await database.write(note("later"))
            assert await names(database) == ["later"]

    async def test_a_rollback_that_failed_is_made_up_for(self, database: SqliteDatabase) -> None:
        await in_writer(database, lambda connection: connection.execute("BEGIN"))
        await in_writer(
            database, lambda connection: connection.execute("INSERT INTO notes (id, body) VALUES ('x', 'x')")
        )
        await database.write(note("a"))
        assert await names(database) == ["a"]

    async def test_an_event_loop_that_ends_without_close_leaves_nobody_waiting(self, database: SqliteDatabase) -> None:
        gate = Gate()
        running = asyncio.create_task(database.write(gate.body))
        await gate.reached()
        waiting = asyncio.create_task(database.write(note("waiting")))
        await asyncio.sleep(0)
        database._queue._task.cancel()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
        assert [type(result) for result in results] == [StorageError, StorageError]
        assert "may have been kept" in str(results[0])
        gate.open()
        with pytest.raises(StorageError, match="closed"):
            await database.write(note("later"))

    def test_what_was_acknowledged_survives_a_killed_process(self, tmp_path: Path) -> None:
        """kill -9 at a random moment: every acknowledged write is there, nothing is there by half."""
        code = (
            "import asyncio, sys; from pathlib import Path; from tests.support.databases import write_forever;"
            "asyncio.run(write_forever(Path(sys.argv[1]), sys.argv[2]))"
        )
        path = tmp_path / "acmeca.db"
        acknowledged: set[str] = set()
        for seed in range(5):
            wanted = random.Random(seed).randrange(1, 200)
            with start_python(code, str(path), str(seed)) as process:
                assert process.stdout is not None
                for _ in range(wanted):
                    acknowledged.add(process.stdout.readline().strip())
                process.kill()
                acknowledged.update(line.strip() for line in process.stdout if line.endswith("\n"))
                process.wait(timeout=10)
            with connect(path) as other:
                kept = {row[0] for row in other.execute("SELECT id FROM accounts")}
                audited = {row[0] for row in other.execute("SELECT subject FROM audit")}
                assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert acknowledged <= kept
            assert kept == audited
            assert len(acknowledged) >= wanted


class TestClose:
    async def test_close_finishes_what_waits(self, path: Path) -> None:
        database = await SqliteDatabase.open(path, steps=NOTES)
        tasks = [asyncio.create_task(database.write(note(f"n{number}"))) for number in range(20)]
        await asyncio.sleep(0)
        await database.close()
        assert await asyncio.gather(*tasks) == [f"n{number}" for number in range(20)]
        with connect(path) as other:
            assert other.execute("SELECT COUNT(*) FROM notes").fetchone() == (20,)

    async def test_close_finishes_what_came_during_the_last_commit(self, path: Path) -> None:
        database = await SqliteDatabase.open(path, steps=NOTES)
        gate = Gate()
        tasks = [asyncio.create_task(database.write(gate.body))]
        await gate.reached()
        tasks += [asyncio.create_task(database.write(note(f"n{number}"))) for number in range(3)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(database.close())
        while not database._queue._closing:  # noqa: ASYNC110  (nobody sets an event for it)
            await asyncio.sleep(0)
        gate.open()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await closing
        assert results == ["gate", "n0", "n1", "n2"]

    async def test_close_empties_the_log_though_another_process_has_it_open(self, path: Path) -> None:
        database = await SqliteDatabase.open(path, steps=NOTES)
        await database.write(note("a"))
        log = path.with_name("acmeca.db-wal")
        with connect(path) as other:
            other.execute(COUNT).fetchall()
            size = os.stat(log).st_size  # noqa: PTH116  (a moment in a test, not on a server's loop)
            await database.close()
            assert size > 0
            assert os.stat(log).st_size == 0  # noqa: PTH116

    async def test_close_empties_the_log_and_ends_the_threads(self, path: Path) -> None:
        before = set(threading.enumerate())
        database = await SqliteDatabase.open(path, steps=NOTES)
        await database.write(note("a"))
        await database.scan(COUNT)
        await database.close()
        assert not path.with_name("acmeca.db-wal").exists()
        for thread in set(threading.enumerate()) - before:
            if not thread.name.startswith("asyncio"):  # the loop's own, for `to_thread`
                await asyncio.to_thread(thread.join, 10)
                assert not thread.is_alive()

    async def test_a_closed_database_says_so(self, path: Path) -> None:
        database = await SqliteDatabase.open(path, steps=NOTES)
        await asyncio.gather(database.close(), database.close())
        await database.close()
        for attempt in (
            database.write(note("a")),
            database.fetch_one(COUNT),
            database.fetch_all(COUNT),
            database.scan(COUNT),
        ):
            with pytest.raises(StorageError, match="closed"):
                await attempt

    async def test_what_was_written_is_there_when_opened_again(self, path: Path) -> None:
        for number in range(3):
            async with open_database(path, steps=NOTES) as database:
                await database.write(note(f"n{number}"))
                assert len(await names(database)) == number + 1


class TestOpen:
    async def test_the_files_are_for_their_owner_alone(self, database: SqliteDatabase, path: Path) -> None:
        await database.write(note("a"))
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["acmeca.db", "acmeca.db-shm", "acmeca.db-turns", "acmeca.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    @pytest.mark.parametrize("mode", [0o640, 0o644, 0o606, 0o660])
    async def test_a_file_others_may_use_is_refused(self, path: Path, mode: int) -> None:
        async with open_database(path, steps=NOTES):
            pass
        os.chmod(path, mode)  # noqa: PTH101  (a moment in a test, not on a server's loop)
        with pytest.raises(StorageError, match="chmod 600"):
            await SqliteDatabase.open(path, steps=NOTES)

    async def test_a_missing_directory_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"missing/acmeca\.db"):
            await SqliteDatabase.open(tmp_path / "missing" / "acmeca.db")

    async def test_a_file_that_is_no_database_is_refused(self, path: Path) -> None:
        spoil(path)
        with pytest.raises(StorageError, match="restore a backup"):
            await SqliteDatabase.open(path)

    async def test_a_name_that_needs_escaping_works(self, tmp_path: Path) -> None:
        async with open_database(tmp_path / "a b?mode=memory&c#d%41.db", steps=NOTES) as database:
            await database.write(note("a"))
            assert await names(database) == ["a"]
            assert len(await database.scan(COUNT)) == 1

    @pytest.mark.parametrize(
        ("pragma", "value"),
        [
            ("journal_mode", "wal"),
            ("synchronous", 2),  # FULL
            ("foreign_keys", 1),
            ("fullfsync", 1),
            ("secure_delete", 0),
            ("trusted_schema", 0),
            ("wal_autocheckpoint", 1000),
            ("journal_size_limit", 64 << 20),
            ("busy_timeout", 5000),
        ],
    )
    async def test_the_writer_runs_with(self, database: SqliteDatabase, pragma: str, value: object) -> None:
        rows = await in_writer(database, lambda connection: connection.execute(f"PRAGMA {pragma}").fetchall())
        assert rows[0][0] == value

    async def test_a_failed_open_leaves_no_thread(self, path: Path) -> None:
        before = set(threading.enumerate())
        spoil(path)
        with pytest.raises(StorageError):
            await SqliteDatabase.open(path)
        for thread in set(threading.enumerate()) - before:
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


async def test_what_we_rely_on_in_aiosqlite(path: Path) -> None:
    """The only private call: should aiosqlite change it, this is the test that says so."""
    advice = "aiosqlite changed: storage/sqlite.py (`_run_in_thread`) and this test have to follow it"
    execute = getattr(aiosqlite.Connection, "_execute", None)
    assert inspect.iscoroutinefunction(execute), advice
    threads: list[int] = []

    def connector() -> sqlite3.Connection:
        threads.append(threading.get_ident())
        return sqlite3.connect(path)

    async with aiosqlite.Connection(connector, iter_chunk_size=64) as connection:
        threads += [await _run_in_thread(connection, threading.get_ident) for _ in range(2)]
        with pytest.raises(ZeroDivisionError):
            await _run_in_thread(connection, partial(divmod, 1, 0))
    assert len(set(threads)) == 1, advice
    assert threads[0] != threading.get_ident(), advice
    with pytest.raises(ValueError, match="closed"):
        await _run_in_thread(connection, os.getpid)


class TestStatements:
    @pytest.mark.parametrize(
        ("sql", "expected"),
        [
            ("SELECT $1", "SELECT ?1"),
            ("SELECT $2, $1, $2", "SELECT ?2, ?1, ?2"),
            ("SELECT '$1', $1", "SELECT '$1', ?1"),
            ("SELECT 'it''s $2', $1", "SELECT 'it''s $2', ?1"),
            ('SELECT "a$1""$2" FROM t WHERE x=$1', 'SELECT "a$1""$2" FROM t WHERE x=?1'),
            ("SELECT $1 -- and $2\n, $2", "SELECT ?1 -- and $2\n, ?2"),
            ("SELECT $1 /* $2 ; ' */", "SELECT ?1 /* $2 ; ' */"),
            ("SELECT a$1 FROM t", "SELECT a$1 FROM t"),
            ("SELECT x -> '$.a' FROM t WHERE y = $1", "SELECT x -> '$.a' FROM t WHERE y = ?1"),
            ("SELECT x'00', 1.5e-3, 0x1F, a||b, $1", "SELECT x'00', 1.5e-3, 0x1F, a||b, ?1"),
            (
                f"SELECT {', '.join(f'${n}' for n in range(1, 13))}",
                f"SELECT {', '.join(f'?{n}' for n in range(1, 13))}",
            ),
            ("  insert into t values ($1)", "  insert into t values (?1)"),
        ],
    )
    def test_placeholders_are_rewritten_and_nothing_else(self, sql: str, expected: str) -> None:
        assert parse_statement(sql) == expected

    @pytest.mark.parametrize(
        "sql",
        [
            "",
            "-- SELECT 1",
            "SELECT ?",
            "SELECT ?1",
            "SELECT :a",
            "SELECT @a",
            "SELECT $a",
            "SELECT $0",
            "SELECT $01",
            "SELECT $",
            "SELECT $$a$$",
            "SELECT $1$2",
            "SELECT $1a",
            "SELECT $1::int",
            "SELECT $1(a)",
            "SELECT $2",
            "SELECT $1, $3",
            "SELECT $99999",
            "SELECT 'open",
            'SELECT "open',
            "SELECT 1 /* open",
            "SELECT [a] FROM t",
            "SELECT `a` FROM t",
            "SELECT 1; SELECT 2",
            "SELECT 1;",
            "SELECT 1 \0",
            "BEGIN",
            "COMMIT",
            "ROLLBACK",
            "SAVEPOINT a",
            "RELEASE a",
            "END",
            "PRAGMA synchronous = OFF",
            "/* SELECT */ ATTACH 'x' AS y",
            "VACUUM",
            "DROP TABLE notes",
            "CREATE TABLE t (a)",
            "EXPLAIN SELECT 1",
        ],
    )
    async def test_anything_else_is_refused_everywhere(self, database: SqliteDatabase, sql: str) -> None:
        with pytest.raises(ValueError):
            parse_statement(sql)
        with pytest.raises(ValueError):
            await database.fetch_all(sql)
        with pytest.raises(ValueError):
            await database.write(lambda tx: tx.execute(sql))

    @given(
        st.lists(
            st.one_of(
                st.integers(1, 3).map(lambda number: f"${number}"),
                st.text("$123'\"-/*;?: a\n", max_size=8).map(lambda text: "'" + text.replace("'", "''") + "'"),
                st.text("$123 '-/*;?:a", max_size=6).map(
                    lambda text: "/*" + text.replace("*/", "").rstrip("*") + "*/ 1"
                ),
                st.text("$123 '-/*;?:a", max_size=6).map(lambda text: f"--{text}\n2"),
                st.text("$12ab", max_size=4).map(lambda text: f"1 AS c{text}"),
                st.text("$12'ab-", max_size=4).map(lambda text: '2 AS "x' + text.replace('"', '""') + '"'),
            ),
            min_size=1,
            max_size=6,
        )
    )
    @settings(max_examples=300, deadline=None)
    def test_sqlite_reads_the_rewritten_statement_as_it_read_the_first(self, columns: list[str]) -> None:
        """SQLite knows `$1` too, as a name: bound by name before and by number after, the rows and titles agree."""
        sql = "SELECT " + ", ".join([*columns, "$1", "$2", "$3"])
        with sqlite3.connect(":memory:") as connection:
            by_name = connection.execute(sql, {"1": "one", "2": b"two", "3": 3})
            by_number = connection.execute(parse_statement(sql), ("one", b"two", 3))
            assert by_number.fetchall() == by_name.fetchall()
            titles = [title[0].replace("?", "$") for title in by_number.description]
            assert titles == [title[0].replace("?", "$") for title in by_name.description]
        connection.close()

    @given(st.text("$?:@'\"-/*;[]` \nSELECT123a", max_size=30))
    @settings(max_examples=300, deadline=None)
    def test_no_text_does_anything_but_pass_or_be_refused(self, text: str) -> None:
        try:
            rewritten = parse_statement(f"SELECT {text}")
        except ValueError:
            return
        assert rewritten.replace("?", "$") == f"SELECT {text}".replace("?", "$")
