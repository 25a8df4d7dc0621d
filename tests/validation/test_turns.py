"""Turns at an address: at most so many at once, in order, given back however they end."""

import asyncio
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.errors import Busy
from acmeca.validation.turns import CONNECTIONS_PER_ADDRESS, Patience, Turns

HERE = IPv4Address("10.0.0.5")
THERE = IPv6Address("fd00::5")


async def take(turns: Turns, until: asyncio.Event, *, order: list[int], number: int, seconds: float = 5.0) -> None:
    async with asyncio.timeout(None) as forever, turns.turn(HERE, Patience(forever, seconds)):
        order.append(number)
        await until.wait()


async def step() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_sixteen_by_default() -> None:
    assert CONNECTIONS_PER_ADDRESS == 16
    until, order = asyncio.Event(), list[int]()
    turns = Turns()
    tasks = [asyncio.create_task(take(turns, until, order=order, number=number)) for number in range(20)]
    await step()
    assert order == list(range(16))
    until.set()
    await asyncio.gather(*tasks)
    assert order == list(range(20)), "in the order of asking"
    assert turns._addresses == {}


async def test_addresses_do_not_know_each_other() -> None:
    turns = Turns(1)
    async with asyncio.timeout(None) as forever:
        patience = Patience(forever, 0.01)
        async with turns.turn(HERE, patience), turns.turn(THERE, patience):
            assert set(turns._addresses) == {HERE, THERE}
            with pytest.raises(Busy, match=r"1 connections to 10[.]0[.]0[.]5"):
                async with turns.turn(HERE, patience):
                    pytest.fail("a second turn")
        assert turns._addresses == {}


async def test_a_block_that_raises_gives_its_turn_back() -> None:
    turns = Turns(1)
    async with asyncio.timeout(None) as forever:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with turns.turn(HERE, Patience(forever, 0.01)):
                    raise ZeroDivisionError
    assert turns._addresses == {}


async def test_who_gives_up_waiting_leaves_the_turn_to_the_next() -> None:
    turns, until, order = Turns(1), asyncio.Event(), list[int]()
    first, second, third = (asyncio.create_task(take(turns, until, order=order, number=number)) for number in range(3))
    await step()
    second.cancel()
    until.set()
    await asyncio.gather(first, third)
    assert order == [0, 2]
    assert turns._addresses == {}


async def test_a_turn_given_to_who_is_cancelled_in_that_moment_is_not_lost() -> None:
    turns, until, order = Turns(1), asyncio.Event(), list[int]()
    first, second, third = (asyncio.create_task(take(turns, until, order=order, number=number)) for number in range(3))
    await step()
    until.set()
    await first  # its turn is the second's now, which has not run yet
    second.cancel()
    await third
    assert third.exception() is None
    assert turns._addresses == {}


async def test_patience_is_for_all_waiting_together() -> None:
    """Rule 3: bounded, however many turns an observation needs."""
    turns, until = Turns(1), asyncio.Event()
    holder = asyncio.create_task(take(turns, until, order=[], number=0))
    await step()
    async with asyncio.timeout(None) as forever:
        patience = Patience(forever, 0.05)
        began = asyncio.get_running_loop().time()
        for _ in range(50):
            with pytest.raises(Busy):
                async with turns.turn(HERE, patience):
                    pytest.fail("a second turn")
        assert asyncio.get_running_loop().time() - began < 1.0, "fifty times 0.05 s are more"
    until.set()
    await holder


async def test_the_peers_clock_stands_still() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60) as peer_time:
        end = peer_time.when()
        assert end is not None
        began = loop.time()
        async with Patience(peer_time, 5).waiting():
            assert peer_time.when() is None
            await asyncio.sleep(0.02)
        after = peer_time.when()
        assert after is not None
        assert 0.02 <= after - end <= loop.time() - began


class Play:
    """Users of one address who ask, end, raise and are cancelled as told."""

    def __init__(self, at_once: int) -> None:
        self.turns = Turns(at_once)
        self._at_once = at_once
        self._inside: set[int] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Event] = []
        self._broken: set[int] = set()

    async def _use(self, number: int) -> None:
        async with asyncio.timeout(None) as forever, self.turns.turn(HERE, Patience(forever, 5)):
            self._inside.add(number)
            assert len(self._inside) <= self._at_once
            try:
                await self._ends[number].wait()
                if number in self._broken:
                    raise KeyError(number)
            finally:
                self._inside.discard(number)

    def act(self, action: str, number: int) -> None:
        if action == "ask":
            self._ends.append(asyncio.Event())
            self._tasks.append(asyncio.create_task(self._use(len(self._tasks))))
        elif number < len(self._tasks):
            if action == "cancel":
                self._tasks[number].cancel()
            elif action == "raise":
                self._broken.add(number)
            self._ends[number].set()

    async def look(self) -> None:
        await step()
        waiting = sum(not task.done() for task in self._tasks) - len(self._inside)
        assert waiting == 0 or len(self._inside) == self._at_once, "nobody waits beside a free turn"

    async def end(self) -> None:
        for each in self._ends:
            each.set()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(result, KeyError | asyncio.CancelledError | None) for result in results)
        assert self.turns._addresses == {}


@settings(deadline=None, max_examples=60)
@given(
    at_once=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "end", "cancel", "raise"]), st.integers(0, 9), st.booleans()),
        max_size=40,
    ),
)
def test_never_more_than_allowed_and_nothing_is_kept(at_once: int, steps: list[tuple[str, int, bool]]) -> None:
    async def main() -> None:
        play = Play(at_once)
        for action, number, looks in steps:
            play.act(action, number)
            if looks:
                await play.look()
        await play.end()

    asyncio.run(main())
