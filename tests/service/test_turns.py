"""Taking turns: bounded, fair, and given back whatever happens."""

import asyncio

import pytest

from acmeca.service.turns import Turns
from tests.support.server import until


class Work:
    """Pieces of work that wait for a turn and hold it until they are told to leave."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.running: list[str] = []
        self.served: list[str] = []
        self.leave = asyncio.Event()

    async def do(self, owner: str) -> None:
        async with self.turns.turn(owner):
            self.served.append(owner)
            self.running.append(owner)
            await self.leave.wait()
            self.running.remove(owner)


async def test_bounded_in_all_and_per_owner() -> None:
    work = Work(Turns(at_once=3, per_owner=2))
    tasks = [asyncio.create_task(work.do(owner)) for owner in "aaaabbbb"]
    await until(lambda: len(work.running) == 3, what="three at once")
    for _ in range(5):
        await asyncio.sleep(0)
    assert sorted(work.running) == ["a", "a", "b"]
    work.leave.set()
    await asyncio.gather(*tasks)
    assert sorted(work.served) == list("aaaabbbb")
    assert not work.turns._taken
    assert not work.turns._waiting


async def test_one_owner_does_not_hold_up_another() -> None:
    """Rule 1: ten thousand waiting pieces of one owner delay another owner's first piece by one turn."""
    work = Work(Turns(at_once=1, per_owner=1))
    many = [asyncio.create_task(work.do("many")) for _ in range(10_000)]
    await until(lambda: work.running == ["many"], what="the first")
    one = asyncio.create_task(work.do("one"))
    await asyncio.sleep(0)
    work.leave.set()
    await one
    assert work.served.index("one") <= 2
    for task in many:
        task.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    assert not work.turns._taken


async def test_given_back_by_a_failure_and_a_cancellation() -> None:
    turns = Turns(at_once=2, per_owner=2)
    with pytest.raises(ZeroDivisionError):
        async with turns.turn("a"):
            raise ZeroDivisionError
    work = Work(turns)
    tasks = [asyncio.create_task(work.do("a")) for _ in range(6)]
    await until(lambda: len(work.running) == 2, what="two at once")
    for task in tasks:  # those that run and those that wait
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not turns._taken
    work.leave.set()
    await work.do("b")
    assert work.served[-1] == "b"


async def test_cancelled_in_the_moment_it_is_served() -> None:
    turns = Turns(at_once=1, per_owner=1)
    work = Work(turns)
    first = asyncio.create_task(work.do("a"))
    await until(lambda: work.running == ["a"], what="the first")
    second = asyncio.create_task(work.do("b"))
    await asyncio.sleep(0)
    work.leave.set()
    await first  # its end gives the place to the second, which has not run yet
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    async with asyncio.timeout(1):
        await work.do("c")
    assert not turns._taken
