"""One SQLite file, several processes: all of their writes are kept, none waits without end, and the log stays bounded."""

import asyncio
import contextlib
import fcntl
import itertools
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from acmeca.errors import Busy
from acmeca.storage import group_commit, sqlite
from acmeca.storage.audit import verify
from acmeca.storage.database import Transaction
from acmeca.storage.errors import StorageError
from acmeca.storage.sqlite import SqliteDatabase
from tests.support.databases import NOTES, connect, in_writer, open_database, start_python, traced
from tests.support.processes import open_descriptors
from tests.support.server import until

WRITE_FOREVER = (
    "import asyncio, sys; from pathlib import Path; from tests.support.databases import write_forever;"
    "asyncio.run(write_forever(Path(sys.argv[1]), sys.argv[2]))"
)

# Opens a database that is not there yet, when it is told to.
OPEN = """
import asyncio, sys
from pathlib import Path
from acmeca.storage.sqlite import SqliteDatabase

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    database = await SqliteDatabase.open(Path(sys.argv[1]))
    await database.close()
    print("done", flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "acmeca.db"


def note(name: str) -> Callable[[Transaction], Awaitable[str]]:
    async def body(tx: Transaction) -> str:
        await tx.execute("INSERT INTO notes (id, body) VALUES ($1, 'text')", name)
        return name

    return body


async def names(database: SqliteDatabase) -> set[str]:
    return {row["id"] for row in await database.fetch_all("SELECT id FROM notes")}


async def begin(database: SqliteDatabase, body: Callable[[Transaction], Awaitable[str]]) -> "asyncio.Task[str]":
    """A write whose commit has begun: what comes now goes into another one."""
    task = asyncio.create_task(database.write(body))
    await asyncio.sleep(0)
    await until(lambda: not database._queue._waiting, what="the beginning of its commit")
    return task


@contextlib.contextmanager
def turn_held(path: Path) -> Iterator[None]:
    """As if another process were in the middle of a commit that does not end."""
    with path.with_name(path.name + "-turns").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class TestTogether:
    async def test_two_databases_write_at_once(self, path: Path) -> None:
        async with open_database(path, steps=NOTES) as one, open_database(path, steps=NOTES) as other:
            for turn in range(10):
                await asyncio.gather(
                    *(each.write(note(f"{turn}-{who}-{n}")) for who, each in enumerate((one, other)) for n in range(10))
                )
            assert len(await names(one)) == len(await names(other)) == 200

    async def test_what_one_was_answered_the_other_sees(self, path: Path) -> None:
        """`database.Database`: reads see "other processes' as soon as they were answered"."""
        async with open_database(path, steps=NOTES) as one, open_database(path, steps=NOTES) as other:
            for number in range(50):
                await one.write(note(f"n{number}"))
                assert f"n{number}" in await names(other)
                one, other = other, one  # noqa: PLW2901  (they take turns, each is closed where it was opened)

    async def test_bodies_of_two_never_interleave(self, path: Path) -> None:
        """Rule 4 of `database.py`: a read and the write that rests on it are one step, for all processes."""

        async def raise_by_one(tx: Transaction) -> None:
            row = await tx.fetch_one("SELECT number FROM notes WHERE id = 'n'")
            assert row is not None
            await tx.execute("UPDATE notes SET number = $1 WHERE id = 'n'", row["number"] + 100)

        async with open_database(path, steps=NOTES) as one, open_database(path, steps=NOTES) as other:
            await one.write(lambda tx: tx.execute("INSERT INTO notes (id, body, number) VALUES ('n', '', 0)"))
            for _ in range(10):
                await asyncio.gather(*(each.write(raise_by_one) for each in (one, other) for _ in range(5)))
            row = await other.fetch_one("SELECT number FROM notes")
            assert row is not None
            assert row["number"] == 100 * 100

    def test_two_processes_until_they_are_killed(self, path: Path) -> None:
        """What either of them acknowledged is there, and the chain that both append to is whole."""
        acknowledged: set[str] = set()
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(start_python(WRITE_FOREVER, str(path), prefix)) for prefix in "ab"]
            for process in processes:
                assert process.stdout is not None
                acknowledged |= {line.strip() for line in itertools.islice(process.stdout, 100)}
            for process in processes:
                process.kill()
            for process in processes:
                assert process.stdout is not None
                acknowledged |= {line.strip() for line in process.stdout if line.endswith("\n")}
        assert len({name for name in acknowledged if name.startswith("a-")}) >= 100
        assert len({name for name in acknowledged if name.startswith("b-")}) >= 100

        async def look() -> None:
            async with open_database(path) as database:
                kept = {row["id"] for row in await database.fetch_all("SELECT id FROM accounts")}
                assert acknowledged <= kept
                assert await verify(database) == []

        asyncio.run(look())

    def test_several_that_find_no_database(self, path: Path) -> None:
        """They make it together: one takes the steps of the schema, and none fails."""
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(start_python(OPEN, str(path))) for _ in range(4)]
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            assert [process.communicate(timeout=60)[0] for process in processes] == ["done\n"] * 4

    async def test_no_descriptor_is_left(self, path: Path) -> None:
        """Neither by a database that was closed nor by one that could not be opened."""
        async with open_database(path, steps=NOTES):  # what the process keeps for itself is open from here on
            pass
        before = open_descriptors()
        async with open_database(path, steps=NOTES) as database:
            await database.write(note("a"))
        damaged = path.with_name("damaged.db")
        damaged.write_bytes(b"something else entirely\n" * 200)
        damaged.chmod(0o600)
        with pytest.raises(StorageError):
            await SqliteDatabase.open(damaged)
        assert open_descriptors() == before


class TestStuck:
    """Rule 4 of `group_commit.py`, with a turn that is not given back."""

    async def test_nobody_waits_without_end(self, path: Path) -> None:
        async with open_database(path, steps=NOTES, stuck=0.1) as database:
            with turn_held(path):
                begun = await begin(database, note("begun"))
                waiting = [asyncio.create_task(database.write(note(f"w{number}"))) for number in range(5)]
                results = await asyncio.gather(*waiting, return_exceptions=True)
                assert [type(result) for result in results] == [Busy] * 5
                assert len({id(result) for result in results}) == 5
                with pytest.raises(Busy, match="try again later"):
                    database.write(note("new")).send(None)  # in its first step: nothing is waited for
                assert await names(database) == set()  # reads go on
                assert not begun.done()
            assert await begun == "begun"
            assert await database.write(note("later")) == "later"
            assert await names(database) == {"begun", "later"}

    async def test_a_body_that_does_not_return(self, path: Path) -> None:
        released = threading.Event()

        async def hang(tx: Transaction) -> str:
            await tx.execute("INSERT INTO notes (id, body) VALUES ('hung', '')")
            assert released.wait(30)
            return "hung"

        async with open_database(path, steps=NOTES, stuck=0.05) as database:
            begun = await begin(database, hang)
            with pytest.raises(Busy):
                await database.write(note("waiting"))
            released.set()
            assert await begun == "hung"
            assert await database.write(note("later")) == "later"

    async def test_its_own_callers_are_told_in_the_end(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(group_commit, "_GIVEN_UP", 0.05)
        async with open_database(path, steps=NOTES, stuck=0.05) as database:
            with turn_held(path):
                with pytest.raises(StorageError, match="may be kept, or not"):
                    await database.write(note("given up"))
                with pytest.raises(Busy):
                    await database.write(note("meanwhile"))
            await until(lambda: not database._queue._is_stuck, what="the end of the commit")
            await database.write(note("later"))
            assert await names(database) == {"given up", "later"}

    async def test_a_process_that_was_killed_in_its_turn_holds_nobody_up(self, path: Path) -> None:
        """The kernel gives the turn back with the process."""
        code = (
            "import fcntl, sys; file = open(sys.argv[1], 'r+b'); fcntl.flock(file, fcntl.LOCK_EX);"
            "print('held', flush=True); sys.stdin.read()"
        )
        async with open_database(path, steps=NOTES) as database:
            with start_python(code, f"{path}-turns") as holder:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "held\n"
                write = await begin(database, note("patient"))
                assert not write.done()
                holder.kill()
                assert await write == "patient"


class TestLog:
    @staticmethod
    async def write_much(database: SqliteDatabase, path: Path, *, many: int) -> int:
        """Write some 20 KB at a time; returns the greatest length of the log."""
        log_path, longest = path.with_name(path.name + "-wal"), 0
        for number in range(many):
            await database.write(
                partial(
                    lambda name, tx: tx.execute("INSERT INTO blobs (id, body) VALUES ($1, $2)", name, bytes(20_000)),
                    f"n{number}",
                )
            )
            longest = max(longest, log_path.stat().st_size)
        return longest

    async def test_it_stays_bounded_while_there_is_always_a_reader(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLite alone starts the log anew only in a moment without readers, and here there is none."""
        monkeypatch.setattr(sqlite, "_LOG_LOOK", 16)
        enough = threading.Event()

        def read() -> None:
            with connect(path) as one, connect(path) as other:
                current, following = one, other
                current.execute("BEGIN")
                while not enough.wait(0.001):
                    current.execute("SELECT COUNT(*) FROM blobs").fetchone()
                    following.execute("BEGIN")
                    following.execute("SELECT COUNT(*) FROM blobs").fetchone()
                    current.execute("COMMIT")
                    current, following = following, current
                current.execute("COMMIT")

        async with open_database(path, steps=NOTES, log_bytes=300_000) as database:
            reader = threading.Thread(target=read)
            reader.start()
            try:
                longest = await self.write_much(database, path, many=150)
            finally:
                enough.set()
                reader.join()
            assert longest < 300_000 + 2 * 16 * 30_000
            assert await in_writer(database, busy_timeout) == 5000

    async def test_a_reader_that_does_not_end_holds_writers_up_for_a_moment_alone(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A CRL's million entries are read for a second. Meanwhile the log grows, and is cut as soon as that is over."""
        monkeypatch.setattr(sqlite, "_LOG_LOOK", 8)
        async with open_database(path, steps=NOTES, log_bytes=100_000, busy_timeout=60) as database:
            with connect(path) as other:
                await self.write_much(database, path, many=1)
                other.execute("BEGIN")
                other.execute("SELECT COUNT(*) FROM blobs").fetchone()
                async with asyncio.timeout(30):  # with the patience of a commit it would be minutes
                    for number in range(24):
                        await database.write(note(f"n{number}"))
                        await database.write(
                            partial(
                                lambda name, tx: tx.execute("INSERT INTO blobs VALUES ($1, $2)", name, bytes(20_000)),
                                f"b{number}",
                            )
                        )
                assert path.with_name(path.name + "-wal").stat().st_size > 100_000
                other.execute("COMMIT")
            async with traced(database) as statements:
                for number in range(8):
                    await database.write(note(f"after-{number}"))
            assert any("wal_checkpoint" in statement for statement in statements)
            assert path.with_name(path.name + "-wal").stat().st_size < 100_000
            assert await in_writer(database, busy_timeout) == 60_000


def busy_timeout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA busy_timeout").fetchone()[0])
