"""acmeca.storage.writers: one order of commits for all writers, one instance for a name, and who lives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from acmeca.audit import SYSTEM, ServerStarted
from acmeca.storage.audit import verify
from acmeca.storage.database import Entry, Transaction
from acmeca.storage.errors import FencedError, StorageError
from acmeca.storage.journal import JournalError
from acmeca.storage.schema import Step, read_steps
from acmeca.storage.store import Store
from acmeca.storage.writers import GONE_AFTER
from tests.support.instances import Monotonic, journalled, open_instance, others_of
from tests.support.server import until
from tests.support.stored import NOW, rows

STARTED = ServerStarted(actor=SYSTEM, version="1", config_sha256="")

Open: TypeAlias = Callable[..., Awaitable[Store]]


@pytest.fixture
async def open_(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens instances by name; all are closed at the end."""
    async with AsyncExitStack() as stack:
        yield lambda instance, **options: stack.enter_async_context(open_instance(tmp_path, instance, **options))


def inserting(name: str, *, error: Exception | None = None) -> Callable[[Transaction], Awaitable[str]]:
    """A body that makes a lease and journals it, then raises if it is told to."""

    async def body(tx: Transaction) -> str:
        await tx.execute("INSERT INTO leases (name, instance, fence) VALUES ($1, '', 0)", name)
        tx.journal(Entry("made", {"name": name}))
        if error is not None:
            raise error
        return name

    return body


async def made(store: Store) -> list[str]:
    return [name for (name,) in await rows(store, "SELECT name FROM leases ORDER BY rowid")]


def told(tmp_path: Path) -> list[tuple[int, list[object]]]:
    """What the journals say was made, by commit."""
    return [(commit.number, [entry.values["name"] for entry in commit.entries]) for commit in journalled(tmp_path)]


class TestNumbers:
    async def test_two_writers_count_together(self, open_: Open, tmp_path: Path) -> None:
        """Rule 2: "every commit of any writer takes the next number of one sequence"."""
        a, b = await open_("a-1"), await open_("b-1")
        for store in (a, b, b, a, b):
            await store.note(STARTED, at=NOW)
        await asyncio.gather(*(store.note(STARTED, at=NOW) for store in (a, b) for _ in range(10)))
        numbers = sorted(commit.number for commit in journalled(tmp_path))
        assert numbers == list(range(3, numbers[-1] + 1))  # 1 and 2 are the claims
        assert max((await a.writers.last_commits()).values()) == numbers[-1]
        assert await verify(a.database) == []

    async def test_a_number_is_seen_to_be_kept(self, open_: Open) -> None:
        """What a driver asks when the answer to a COMMIT was lost."""
        a, b = await open_("a-1"), await open_("b-1")
        seal = a.database._writer._committer.seal  # type: ignore[attr-defined]
        assert [await seal.has_number(a.database, number) for number in (1, 2, 3)] == [True, False, False]
        await b.writers.beat()
        assert not await seal.has_number(a.database, 3)
        await a.writers.beat()
        assert await seal.has_number(a.database, 4)
        await open_("a-2")
        with pytest.raises(FencedError):  # it was kept: with a "no" it would be withdrawn from the journal
            await seal.has_number(a.database, 4)

    async def test_a_beat_is_a_commit_of_nothing(self, open_: Open, tmp_path: Path) -> None:
        a = await open_("a-1")
        for number in (2, 3):
            await a.writers.beat()
            assert await a.writers.last_commits() == {"a-1": number}
        assert journalled(tmp_path) == []


class TestJournal:
    async def test_a_failing_body_is_not_in_it_and_the_others_are(self, open_: Open, tmp_path: Path) -> None:
        a = await open_("a-1")
        results = await asyncio.gather(
            *(a.database.write(body) for body in (inserting("x"), inserting("y", error=LookupError()), inserting("z"))),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [str, LookupError, str]
        assert await made(a) == ["x", "z"]
        assert told(tmp_path) == [(2, ["x", "z"])]

    async def test_it_is_there_before_the_commit_is_seen(self, open_: Open, tmp_path: Path) -> None:
        """`database.py`, rule 5: "journalled before it is committed". Whoever sees the row finds it in the journal."""
        a, b = await open_("a-1"), await open_("b-1")

        async def is_made(name: str) -> bool:
            return name in await made(b)

        for number in range(20):
            write = asyncio.create_task(a.database.write(inserting(f"n{number}")))
            await until(partial(is_made, f"n{number}"), what="the row")
            assert told(tmp_path)[-1][1] == [f"n{number}"]
            await write

    async def test_where_it_cannot_be_written_nothing_is_kept(self, open_: Open, tmp_path: Path) -> None:
        a = await open_("a-1")
        (tmp_path / "journal").rmdir()
        results = await asyncio.gather(
            *(a.database.write(inserting(name)) for name in ("x", "y")), a.writers.beat(), return_exceptions=True
        )
        assert [type(result) for result in results] == [StorageError] * 3
        assert all("make room" in str(result) for result in results)
        assert isinstance(results[0], BaseException)
        assert isinstance(results[0].__cause__, JournalError)
        assert await made(a) == []
        (tmp_path / "journal").mkdir()
        await a.database.write(inserting("z"))
        assert told(tmp_path) == [(2, ["z"])]

    async def test_a_commit_that_is_refused_is_withdrawn(self, open_: Open, tmp_path: Path) -> None:
        """A deferred check, which our own schema never has, makes COMMIT fail after the journal has it."""
        script = "CREATE TABLE later (id TEXT REFERENCES accounts (id) DEFERRABLE INITIALLY DEFERRED);"
        a = await open_("a-1", steps=[*read_steps(), Step(len(read_steps()) + 1, "later", script)])

        async def orphan(tx: Transaction) -> None:
            await tx.execute("INSERT INTO later (id) VALUES ('nobody')")

        results = await asyncio.gather(
            a.database.write(inserting("x")), a.database.write(orphan), return_exceptions=True
        )
        assert [type(result) for result in results] == [StorageError] * 2
        await a.database.write(inserting("y"))
        assert await made(a) == ["y"]
        assert [(commit.number, commit.withdrawn) for commit in journalled(tmp_path)] == [
            (2, False),
            (2, True),
            (2, False),
        ]
        assert told(tmp_path)[-1] == (2, ["y"])


class TestOneInstance:
    async def test_who_claims_a_name_shuts_the_former_one_out(self, open_: Open, tmp_path: Path) -> None:
        """Rule 1: "its next commit fails", every caller of it is told, and nothing of it is kept or journalled."""
        former = await open_("a-1")
        await former.database.write(inserting("before"))
        now = await open_("a-2")
        results = await asyncio.gather(
            *(former.database.write(inserting(name)) for name in ("x", "y")),
            former.writers.beat(),
            former.note(STARTED, at=NOW),
            return_exceptions=True,
        )
        assert [type(result) for result in results] == [FencedError] * 4
        assert "delete the file node" in str(results[0])
        assert await made(now) == ["before"]
        await now.database.write(inserting("after"))
        assert told(tmp_path) == [(2, ["before"]), (4, ["after"])]

    async def test_the_former_one_cannot_say_that_it_ends(self, open_: Open) -> None:
        former, now = await open_("a-1"), await open_("a-2")
        with pytest.raises(FencedError):
            await former.writers.release()
        assert set(await now.writers.last_commits()) == {"a-2"}

    async def test_alone(self, open_: Open) -> None:
        """`alone` says that no other can be running: whoever is, all the same, writes nothing more."""
        a, b = await open_("a-1"), await open_("b-1")
        c = await open_("c-1", alone=True)
        for store in (a, b):
            with pytest.raises(FencedError):
                await store.writers.beat()
        assert set(await c.writers.last_commits()) == {"c-1"}

    async def test_a_name_comes_back_after_another_was_alone(self, open_: Open) -> None:
        await open_("a-1")
        await open_("b-1", alone=True)
        again = await open_("a-2")
        await again.writers.beat()
        assert set(await again.writers.last_commits()) == {"a-2", "b-1"}

    async def test_without_a_claim_nothing_is_written(self, open_: Open) -> None:
        a, stranger = await open_("a-1"), await open_("b-1")
        await a.database.write(lambda tx: tx.execute("DELETE FROM writers WHERE name = 'b'"))
        with pytest.raises(FencedError):
            await stranger.database.write(inserting("x"))


class TestOthers:
    async def test_whose_number_moves_lives(self, open_: Open) -> None:
        """Rule 3: judged "by whether its number moves, on the observer's own monotonic clock"."""
        a, b = await open_("a-1"), await open_("b-1")
        clock = Monotonic()
        others = others_of(a, clock)
        assert await others.living() == {"b-1"}  # never seen before: it is given its time
        clock.seconds += GONE_AFTER - 0.1
        assert await others.living() == {"b-1"}
        clock.seconds += 0.1
        assert await others.living() == frozenset()
        await b.writers.beat()
        assert await others.living() == {"b-1"}
        clock.seconds += GONE_AFTER
        assert await others.living() == frozenset()

    async def test_an_observer_that_stood_still_takes_nobody_for_gone(self, open_: Open) -> None:
        """It was stopped for an hour, and so looked last an hour ago. Whoever has moved since, lives."""
        a, b = await open_("a-1"), await open_("b-1")
        clock = Monotonic()
        others = others_of(a, clock)
        await others.look()
        await b.writers.beat()
        clock.seconds += 3600
        assert await others.living() == {"b-1"}

    async def test_one_that_has_just_begun_lives(self, open_: Open) -> None:
        a = await open_("a-1")
        clock = Monotonic()
        others = others_of(a, clock)
        await others.look()
        clock.seconds += 3600
        await open_("b-1")
        assert await others.living() == {"b-1"}

    async def test_who_ended_or_was_shut_out_is_gone_at_once(self, open_: Open) -> None:
        a, b, c = await open_("a-1"), await open_("b-1"), await open_("c-1")
        others = others_of(a, Monotonic())
        assert await others.living() == {"b-1", "c-1"}
        await b.writers.release()
        await open_("c-2")
        assert await others.living() == {"c-2"}
        with pytest.raises(FencedError):
            await c.writers.beat()

    async def test_oneself_is_no_other(self, open_: Open) -> None:
        a = await open_("a-1")
        assert await others_of(a, Monotonic()).living() == frozenset()

    async def test_the_end_gives_everything_back(self, open_: Open) -> None:
        a, b = await open_("a-1"), await open_("b-1")
        held = await a.leases.take("duties", over=None)
        kept = await b.leases.take("another", over=None)
        assert held is not None
        await a.writers.release()
        current = await b.leases.current("duties")
        assert current is not None
        assert (current.instance, current.fence) == ("", held.fence)
        assert await b.leases.current("another") == kept
