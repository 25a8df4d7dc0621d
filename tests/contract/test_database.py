"""What `storage/database.py` promises, kept by both engines alike: each test is there twice."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import StrEnum

import pytest

from acmeca.errors import Busy
from acmeca.storage.database import Database, Transaction, Value
from acmeca.storage.errors import NotUniqueError, StorageError
from acmeca.storage.schema import Engine
from tests.support.databases import NOTES
from tests.support.stored import open_engine

INSERT = "INSERT INTO notes (id, body) VALUES ($1, $2)"
COUNT = "SELECT COUNT(*) AS n FROM notes"

Body = Callable[[Transaction], Awaitable[str]]


@pytest.fixture
async def database(engine: Engine) -> AsyncIterator[Database]:
    async with open_engine(engine, steps=NOTES) as database:
        yield database


def note(name: str) -> Body:
    """A body that inserts one note and returns its name."""

    async def body(tx: Transaction) -> str:
        await tx.execute(INSERT, name, "text")
        return name

    return body


async def names(database: Database) -> list[str]:
    return [row["id"] for row in await database.fetch_all("SELECT id FROM notes ORDER BY id")]


class TestWrites:
    async def test_fifty_at_once_are_all_kept_and_answered_with_their_own_result(self, database: Database) -> None:
        expected = [f"n{number:02}" for number in range(50)]
        assert await asyncio.gather(*(database.write(note(name)) for name in expected)) == expected
        assert await names(database) == expected

    async def test_more_than_one_commit_can_take(self, database: Database) -> None:
        expected = [f"n{number:03}" for number in range(150)]
        assert await asyncio.gather(*(database.write(note(name)) for name in expected)) == expected
        assert await names(database) == expected

    async def test_bodies_run_one_after_another_in_the_order_of_the_calls(self, database: Database) -> None:
        def numbered(name: str) -> Body:
            async def body(tx: Transaction) -> str:
                row = await tx.fetch_one("SELECT COALESCE(MAX(number), 0) + 100 AS next FROM notes")
                assert row is not None
                await tx.execute("INSERT INTO notes (id, body, number) VALUES ($1, 'x', $2)", name, row["next"])
                return name

            return body

        expected = [f"n{number}" for number in random.Random(7).sample(range(1000), 50)]
        await asyncio.gather(*(database.write(numbered(name)) for name in expected))
        assert [row["id"] for row in await database.fetch_all("SELECT id FROM notes ORDER BY number")] == expected

    async def test_a_failing_body_rolls_back_alone(self, database: Database) -> None:
        class OddError(BaseException):
            """Not even an Exception."""

        async def fail(tx: Transaction) -> str:
            await tx.execute(INSERT, "lost", "text")
            raise OddError

        bodies = (note("before"), fail, fail, note("between"), fail, note("behind"), fail)
        results = await asyncio.gather(*(database.write(body) for body in bodies), return_exceptions=True)
        assert [type(result) for result in results] == [str, OddError, OddError, str, OddError, str, OddError]
        assert await names(database) == ["before", "behind", "between"]

    async def test_nothing_is_kept_when_all_fail(self, database: Database) -> None:
        async def fail(tx: Transaction) -> str:
            await tx.execute(INSERT, "lost", "text")
            raise LookupError

        for _ in range(2):
            results = await asyncio.gather(*(database.write(fail) for _ in range(3)), return_exceptions=True)
            assert [type(result) for result in results] == [LookupError] * 3
        assert await names(database) == []

    async def test_a_body_that_is_cancelled_by_itself_fails_alone(self, database: Database) -> None:
        async def cancel(tx: Transaction) -> str:
            await tx.execute(INSERT, "lost", "text")
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await database.write(cancel)
        await database.write(note("next"))
        assert await names(database) == ["next"]

    async def test_a_caller_reads_its_own_write(self, database: Database) -> None:
        async def write_and_look(name: str) -> bool:
            await database.write(note(name))
            return await database.fetch_one("SELECT 1 FROM notes WHERE id = $1", name) is not None

        assert all(await asyncio.gather(*(write_and_look(f"n{number}") for number in range(30))))

    async def test_a_body_sees_its_own_changes_and_those_before_it(self, database: Database) -> None:
        async def count(tx: Transaction) -> int:
            row = await tx.fetch_one(COUNT)
            assert row is not None
            await tx.execute(INSERT, f"n{row['n']}", "text")
            return len(await tx.fetch_all("SELECT id FROM notes"))

        assert await asyncio.gather(*(database.write(count) for _ in range(5))) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("seed", range(4))
    async def test_what_is_kept_is_what_was_acknowledged(self, database: Database, seed: int) -> None:
        """For any mixture of bodies that end well, raise, or meet a constraint half way: all or nothing of each."""
        dice = random.Random(seed)
        plan = [(dice.choice(["keep", "fail", "double"]), dice.randrange(6)) for _ in range(15)]

        def make(index: int, action: str, number: int) -> Body:
            async def body(tx: Transaction) -> str:
                await tx.execute(INSERT, f"{index:02}-a", action)
                if action == "double":  # unique among the notes that were kept
                    await tx.execute("UPDATE notes SET number = $1 WHERE id = $2", number, f"{index:02}-a")
                await tx.execute(INSERT, f"{index:02}-b", action)
                if action == "fail":
                    raise LookupError(index)
                return str(index)

            return body

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
                expected += [f"{index:02}-a", f"{index:02}-b"]
        assert await names(database) == expected


class TestBodies:
    async def test_a_body_awaits_nothing_but_its_transaction(self, database: Database) -> None:
        async def sleep(tx: Transaction) -> None:
            await tx.execute(INSERT, "lost", "text")
            await asyncio.sleep(0)

        async def wait(tx: Transaction) -> None:
            await tx.execute(INSERT, "lost", "text")
            await asyncio.get_running_loop().create_future()

        async def cling(tx: Transaction) -> None:
            try:
                await asyncio.sleep(0)
            finally:
                await tx.execute(INSERT, "lost", "text")

        for body in (sleep, wait, cling):
            with pytest.raises(RuntimeError):
                await database.write(body)
        await database.write(note("next"))
        assert await names(database) == ["next"]

    async def test_a_body_cannot_write_through_the_database(self, database: Database) -> None:
        inner = note("inner")

        async def body(tx: Transaction) -> None:
            await database.write(inner)

        with pytest.raises(RuntimeError):
            await database.write(body)
        await database.write(note("next"))
        assert await names(database) == ["next"]

    async def test_a_body_cannot_read_through_the_database(self, database: Database) -> None:
        async def body(tx: Transaction) -> None:
            await database.fetch_one(COUNT)

        with pytest.raises((StorageError, RuntimeError)):
            await database.write(body)

    async def test_a_transaction_is_good_only_inside_its_body(self, database: Database) -> None:
        kept: list[Transaction] = []

        async def body(tx: Transaction) -> None:
            kept.append(tx)

        await database.write(body)
        for call in (kept[0].execute(INSERT, "late", "text"), kept[0].fetch_one(COUNT), kept[0].fetch_all(COUNT)):
            with pytest.raises(StorageError, match="after its write had ended"):
                await call

    async def test_execute_says_how_many_rows_changed(self, database: Database) -> None:
        async def body(tx: Transaction) -> list[int]:
            return [
                await tx.execute("INSERT INTO notes (id, body) VALUES ('a', 'x'), ('b', 'x'), ('c', 'y')"),
                await tx.execute("UPDATE notes SET body = $1 WHERE id = $2 AND body = $3", "z", "a", "x"),
                await tx.execute("UPDATE notes SET body = $1 WHERE id = $2 AND body = $3", "z", "a", "x"),
                await tx.execute("  -- all\nUPDATE notes SET body = 'w' RETURNING id"),
                await tx.execute("INSERT INTO notes (id, body) VALUES ('a', 'x') ON CONFLICT (id) DO NOTHING"),
                await tx.execute("DELETE FROM notes"),
            ]

        assert await database.write(body) == [3, 1, 0, 3, 0, 3]

    @pytest.mark.parametrize(
        "sql", ["SELECT id FROM notes", "WITH x AS (SELECT 'a' AS id) UPDATE notes SET body = 'z' WHERE id = 'a'"]
    )
    async def test_execute_never_guesses_the_number(self, database: Database, sql: str) -> None:
        await database.write(note("a"))
        with pytest.raises(StorageError, match="execute is for INSERT, UPDATE and DELETE"):
            await database.write(lambda tx: tx.execute(sql))
        row = await database.fetch_one("SELECT body FROM notes")
        assert row is not None
        assert row["body"] == "text"

    async def test_returning_gives_rows(self, database: Database) -> None:
        row = await database.write(lambda tx: tx.fetch_one(INSERT + " RETURNING id, body", "a", "text"))
        assert row is not None
        assert (row["id"], row["body"], list(row.keys())) == ("a", "text", ["id", "body"])
        assert await names(database) == ["a"]


class TestValues:
    async def test_absence_is_none_and_an_empty_list(self, database: Database) -> None:
        assert await database.fetch_one("SELECT id FROM notes") is None
        assert await database.fetch_all("SELECT id FROM notes") == []
        assert await database.write(lambda tx: tx.fetch_one("SELECT id FROM notes")) is None
        assert await database.scan("SELECT id FROM notes") == []

    @pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63), None, True])
    async def test_numbers_come_back_as_they_went_in(self, database: Database, number: int | None) -> None:
        insert = "INSERT INTO notes (id, body, number) VALUES ('a', 'x', $1)"
        await database.write(lambda tx: tx.execute(insert, number))
        row = await database.fetch_one("SELECT number, COUNT(*) AS n, MAX(number) AS m FROM notes GROUP BY number")
        assert row is not None
        assert (row["number"], row["n"], row["m"]) == (number, 1, number)
        assert {type(row["n"]), type(row["number"])} <= {int, type(None)}

    async def test_text_and_bytes_come_back_as_they_went_in(self, database: Database) -> None:
        class Colour(StrEnum):
            RED = "red"

        async def body(tx: Transaction) -> None:
            await tx.execute(INSERT, Colour.RED, "ü'\\ \n😀")
            await tx.execute("INSERT INTO blobs (id, body) VALUES ($1, $2)", "b", b"\0\xff")

        await database.write(body)
        row = await database.fetch_one("SELECT n.id, n.body AS text, b.body AS bytes FROM notes n CROSS JOIN blobs b")
        assert row is not None
        assert tuple(row[column] for column in row.keys()) == ("red", "ü'\\ \n😀", b"\0\xff")  # noqa: SIM118  (no dict)

    async def test_text_is_compared_and_sorted_byte_by_byte(self, database: Database) -> None:
        """Searches below a suffix are ranges of reversed names: no locale may reorder `-`, `.`, capitals and digits."""
        texts = ["a.", "a-b", "a/", "B", "_", "0", "é", "Z", "a", "a.b", "~"]
        for text in texts:
            await database.write(note(text))
        assert await names(database) == sorted(texts)
        between = "SELECT id FROM notes WHERE id > $1 AND id < $2 ORDER BY id"
        assert [row["id"] for row in await database.fetch_all(between, "a.", "a/")] == ["a.b"]

    async def test_a_missing_column_is_an_error(self, database: Database) -> None:
        row = await database.fetch_one(COUNT)
        assert row is not None
        with pytest.raises(LookupError):
            row["m"]

    @pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
    async def test_a_number_that_cannot_be_kept_is_refused_and_not_shown(self, database: Database, value: int) -> None:
        sql = "SELECT id FROM notes WHERE number = $1"
        for attempt in (
            database.write(lambda tx: tx.execute("UPDATE notes SET number = $1", value)),
            database.fetch_one(sql, value),
            database.scan(sql, value),
        ):
            with pytest.raises(StorageError, match="a value cannot be kept") as caught:
                await attempt
            assert str(2**63) not in str(caught.value)

    async def test_text_that_is_not_unicode_is_refused_and_not_shown(self, database: Database) -> None:
        with pytest.raises(StorageError, match="a value cannot be kept") as caught:
            await database.write(note("secret\ud800"))
        assert "secret" not in str(caught.value)


class TestConstraints:
    async def test_a_double_names_its_columns_and_no_value(self, database: Database) -> None:
        await database.write(note("secret-value"))
        with pytest.raises(NotUniqueError) as caught:
            await database.write(note("secret-value"))
        assert caught.value.columns == ("notes.id",)
        assert "secret-value" not in str(caught.value)

    async def test_a_double_of_two_columns(self, database: Database) -> None:
        async def body(tx: Transaction) -> None:
            await tx.execute(INSERT, "a", "text")
            for _ in range(2):
                await tx.execute("INSERT INTO pages (note_id, page) VALUES ($1, $2)", "a", 1)

        with pytest.raises(NotUniqueError) as caught:
            await database.write(body)
        assert caught.value.columns == ("pages.note_id", "pages.page")
        assert await names(database) == []

    async def test_a_body_may_catch_it_and_go_on(self, database: Database) -> None:
        async def body(tx: Transaction) -> str:
            await tx.execute(INSERT, "a", "text")
            for _ in range(2):
                with pytest.raises(NotUniqueError):
                    await tx.execute("INSERT INTO notes (id, body) VALUES ('b', 'x'), ('a', 'x')")
            await tx.execute(INSERT, "c", "text")
            return "done"

        results = await asyncio.gather(database.write(note("0")), database.write(body), database.write(note("9")))
        assert results == ["0", "done", "9"]
        assert await names(database) == ["0", "9", "a", "c"]

    async def test_a_body_may_catch_it_and_end(self, database: Database) -> None:
        async def body(tx: Transaction) -> str:
            await tx.execute(INSERT, "a", "text")
            try:
                await tx.execute(INSERT, "a", "text")
            except NotUniqueError:
                return "known"
            return "new"

        assert await database.write(body) == "known"
        assert await names(database) == ["a"]

    async def test_a_body_may_catch_it_and_raise_something_else(self, database: Database) -> None:
        async def body(tx: Transaction) -> None:
            await tx.execute(INSERT, "a", "text")
            try:
                await tx.execute(INSERT, "a", "text")
            except NotUniqueError as error:
                raise LookupError from error

        with pytest.raises(LookupError):
            await database.write(body)
        assert await names(database) == []

    @pytest.mark.parametrize(
        ("sql", "constraint"),
        [
            ("INSERT INTO pages (note_id, page) VALUES ('nobody', 1)", "FOREIGN KEY"),
            ("INSERT INTO notes (id, body, number) VALUES ('a', 'x', 13)", "CHECK"),
            ("INSERT INTO notes (id, body) VALUES ('a', NULL)", "NOT NULL"),
        ],
    )
    async def test_other_constraints_hold(self, database: Database, sql: str, constraint: str) -> None:
        with pytest.raises(StorageError, match=constraint) as caught:
            await database.write(lambda tx: tx.execute(sql))
        assert not isinstance(caught.value, NotUniqueError)
        await database.write(note("next"))
        assert await names(database) == ["next"]

    @pytest.mark.parametrize("args", [(), ("a",), ("a", "b", "c")])
    async def test_too_many_and_too_few_values_are_refused(self, database: Database, args: tuple[Value, ...]) -> None:
        with pytest.raises(StorageError):
            await database.write(lambda tx: tx.execute(INSERT, *args))
        with pytest.raises(StorageError):
            await database.fetch_all("SELECT id FROM notes WHERE id = $1 AND body = $2", *args)


class TestReads:
    @pytest.mark.parametrize("sql", ["INSERT INTO notes (id, body) VALUES ('a', 'x')", "DELETE FROM notes"])
    async def test_a_read_cannot_write(self, database: Database, sql: str) -> None:
        for attempt in (database.fetch_one(sql), database.fetch_all(sql), database.scan(sql)):
            with pytest.raises(StorageError, match=r"read-?only"):
                await attempt

    async def test_many_reads_at_once(self, database: Database) -> None:
        await database.write(note("a"))
        reads = [*(database.fetch_one(COUNT) for _ in range(40)), *(database.fetch_one(COUNT) for _ in range(40))]
        assert {row["n"] for row in await asyncio.gather(*reads) if row is not None} == {1}
        scans = await asyncio.gather(*(database.scan(COUNT) for _ in range(20)))
        assert [rows[0]["n"] for rows in scans] == [1] * 20

    async def test_writes_go_on_beside_a_long_scan(self, database: Database) -> None:
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

    async def test_a_cancelled_read_disturbs_no_other(self, database: Database) -> None:
        await database.write(note("a"))
        reads = [asyncio.create_task(database.scan(COUNT)) for _ in range(10)]
        await asyncio.sleep(0)
        for read in reads[::2]:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
        assert [rows[0]["n"] for rows in await asyncio.gather(*(database.scan(COUNT) for _ in range(4)))] == [1] * 4

    @pytest.mark.parametrize(
        "sql", ["SELECT 1;", "SELECT ?1", "COMMIT", "DROP TABLE notes", "SELECT $2", "SELECT $1::text"]
    )
    async def test_what_is_not_one_plain_statement_is_refused(self, database: Database, sql: str) -> None:
        for attempt in (
            database.fetch_all(sql),
            database.scan(sql),
            database.write(lambda tx: tx.execute(sql)),
            database.write(lambda tx: tx.fetch_one(sql)),
        ):
            with pytest.raises(ValueError):
                await attempt


class TestBounds:
    async def test_a_full_queue_is_busy_at_once(self, engine: Engine) -> None:
        async with open_engine(engine, steps=NOTES, queue_limit=3) as database:
            tasks = [asyncio.create_task(database.write(note(f"n{number}"))) for number in range(5)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [str, str, str, Busy, Busy]
            assert await database.write(note("later")) == "later"
            assert await names(database) == ["later", "n0", "n1", "n2"]

    async def test_a_cancelled_write_is_whole_or_absent(self, database: Database) -> None:
        async def body(tx: Transaction) -> None:
            await tx.execute(INSERT, "a", "text")
            await tx.execute(INSERT, "b", "text")

        for turns in range(4):
            task = asyncio.create_task(database.write(body))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await database.write(lambda tx: tx.execute("UPDATE notes SET body = 'x'"))
            assert await names(database) in ([], ["a", "b"])
            await database.write(lambda tx: tx.execute("DELETE FROM notes"))


class TestClose:
    async def test_close_finishes_what_waits(self, engine: Engine) -> None:
        async with open_engine(engine, steps=NOTES) as database:
            tasks = [asyncio.create_task(database.write(note(f"n{number}"))) for number in range(20)]
            await asyncio.sleep(0)
            await database.close()
            assert await asyncio.gather(*tasks) == [f"n{number}" for number in range(20)]

    async def test_a_closed_database_says_so(self, engine: Engine) -> None:
        async with open_engine(engine, steps=NOTES) as database:
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


class TestSnapshots:
    async def test_it_sees_one_moment_whatever_is_written_meanwhile(self, database: Database) -> None:
        await database.write(note("before"))
        async with database.snapshot() as snapshot:
            assert [row["id"] for row in await snapshot.fetch_all("SELECT id FROM notes")] == ["before"]
            await database.write(note("meanwhile"))  # and is not held up
            assert [row["id"] for row in await snapshot.fetch_all("SELECT id FROM notes")] == ["before"]
            row = await snapshot.fetch_one(COUNT)
            assert row is not None
            assert row["n"] == 1
            assert await snapshot.fetch_one("SELECT id FROM notes WHERE id = $1", "meanwhile") is None
        assert await names(database) == ["before", "meanwhile"]

    async def test_it_only_reads(self, database: Database) -> None:
        async with database.snapshot() as snapshot:
            with pytest.raises(StorageError):
                await snapshot.fetch_all("DELETE FROM notes RETURNING id")

    async def test_not_of_one_that_is_closed(self, database: Database) -> None:
        await database.close()
        with pytest.raises(StorageError, match="closed"):
            async with database.snapshot():
                pass
