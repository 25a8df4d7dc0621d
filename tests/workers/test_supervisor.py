"""Supervision (workers/supervisor.py), of workers that are nothing but a few lines of Python."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest

from acmeca.errors import AcmecaError
from acmeca.workers.lifeline import EXIT_FENCED
from acmeca.workers.supervisor import _TWICE, Launch, Patience, SupervisionError, Supervisor

PATIENCE: Final = Patience(starting=20, silence=0.5, stopping=2, quick=60, pauses=(0, 0, 0, 0))
SECONDS: Final = 20.0

# What a worker does; `say` writes to the lifeline.
GOOD: Final = """
say(b'R')
while True: say(b'.'); time.sleep(0.05)
"""
FAILS: Final = "sys.exit(1)"
FENCED: Final = f"say(b'R'); time.sleep(0.05); sys.exit({EXIT_FENCED})"
SHORT: Final = "say(b'R'); sys.exit(7)"
HANGS: Final = "say(b'R'); time.sleep(1000)"
DEAF: Final = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{GOOD}"
STARTS_NEVER: Final = "time.sleep(1000)"

_PROLOGUE: Final = """
import os, signal, sys, time
def say(word): os.write(int(sys.argv[1]), word)
"""


def run(script: str, lifeline: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-SEc", _PROLOGUE + script, str(lifeline)], pass_fds=[lifeline])


@dataclass
class Stage:
    """A supervisor of two workers. `scripts` are what the next starts of each slot run, the last one again and again."""

    scripts: dict[int, list[str]]
    fresh: str | AcmecaError = GOOD  # what a reload gives
    starts: list[tuple[int, int]] = field(default_factory=list)  # slot and place
    pids: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    was_ready: asyncio.Event = field(default_factory=asyncio.Event)
    patience: Patience = PATIENCE

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(
            slots=2,
            launch=self.launch,
            reload=self.reload,
            on_start=self.pids.append,
            on_end=self.ended.append,
            patience=self.patience,
        )

    def launch(self, slot: int, place: int, lifeline: int) -> "subprocess.Popen[bytes]":
        self.starts.append((slot, place))
        scripts = self.scripts[slot]
        return run(scripts.pop(0) if len(scripts) > 1 else scripts[0], lifeline)

    def reload(self) -> Launch:
        if isinstance(self.fresh, AcmecaError):
            raise self.fresh
        script = self.fresh

        def launch(slot: int, place: int, lifeline: int) -> "subprocess.Popen[bytes]":
            self.starts.append((slot, place))
            return run(script, lifeline)

        return launch

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The supervisor, ready; stopped at the end as by SIGTERM."""
        task = asyncio.create_task(self.supervisor.run(on_ready=self.was_ready.set))
        try:
            async with asyncio.timeout(SECONDS):
                await self.was_ready.wait()
                yield
        finally:
            self.supervisor._asked_to_stop()
            async with asyncio.timeout(SECONDS):
                await task
            assert sorted(self.ended) == sorted(self.pids)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():  # noqa: ASYNC110  (a log line tells nobody)
            await asyncio.sleep(0.01)

    async def fails(self) -> str:
        """Run to an end that nobody asked for; the reason."""
        async with asyncio.timeout(SECONDS):
            with pytest.raises(SupervisionError) as failure:
                await self.supervisor.run(on_ready=self.was_ready.set)
        assert sorted(self.ended) == sorted(self.pids)
        return str(failure.value)


async def test_start_and_stop(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage({0: [GOOD], 1: [GOOD]})
    async with stage.running():
        assert stage.starts == [(0, 0), (1, 1)]
        assert stage.ended == []
    assert "killed" not in caplog.text


async def test_a_start_that_fails_is_not_repeated() -> None:
    """Rule 5."""
    stage = Stage({0: [GOOD], 1: [FAILS]})
    assert await stage.fails() == "worker 1 ended with exit code 1 before it was ready (it says why above)"
    assert stage.starts == [(0, 0), (1, 1)]
    assert not stage.was_ready.is_set()


async def test_a_program_that_cannot_be_started() -> None:
    def launch(slot: int, place: int, lifeline: int) -> "subprocess.Popen[bytes]":
        raise OSError("no more processes")

    supervisor = Supervisor(slots=2, launch=launch, reload=lambda: launch, patience=PATIENCE)
    with pytest.raises(SupervisionError, match="the workers cannot be started: no more processes"):
        await supervisor.run(on_ready=lambda: None)


async def test_a_stop_before_all_are_ready() -> None:
    stage = Stage({0: [STARTS_NEVER], 1: [GOOD]})
    task = asyncio.create_task(stage.supervisor.run(on_ready=stage.was_ready.set))
    async with asyncio.timeout(SECONDS):
        await stage.until(lambda: len(stage.pids) == 2)
        stage.supervisor._asked_to_stop()
        await task
    assert not stage.was_ready.is_set()
    assert len(stage.ended) == 2


async def test_who_dies_is_started_again_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    """Rule 1."""
    stage = Stage({0: [GOOD], 1: [GOOD]})
    async with stage.running():
        os.kill(stage.pids[0], 9)
        await stage.until(lambda: len(stage.starts) == 3)
        assert stage.starts[2] == (0, 0)
        await stage.until(stage.supervisor._current[0].ready.is_set)
    assert f"worker 0 (process {stage.pids[0]}) was ended by SIGKILL; it is started again" in caplog.text


async def test_five_quick_ends_are_enough() -> None:
    """Rule 1."""
    stage = Stage({0: [GOOD], 1: [SHORT]})
    reason = await stage.fails()
    assert "ended with exit code 7, the 5th time in a row soon after its start: all is stopped" in reason
    assert [slot for slot, _ in stage.starts] == [0, 1, 1, 1, 1, 1]


async def test_ends_far_apart_are_borne() -> None:
    """Rule 1: nobody counts what did not happen in a row."""
    stage = Stage({0: [GOOD], 1: [*[SHORT] * 8, GOOD]}, patience=Patience(silence=5, quick=0.0, pauses=(0,)))
    async with stage.running():
        await stage.until(lambda: len(stage.starts) == 10)


async def test_who_may_not_write_stops_all() -> None:
    """A new one would take the name back from the process that has it by right."""
    stage = Stage({0: [GOOD], 1: [FENCED]})
    assert await stage.fails() == "worker 1 may not write any more (it says why above), so all of them stop"
    assert len(stage.starts) == 2


async def test_who_gives_no_sign_of_life_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    """Rule 2."""
    stage = Stage({0: [GOOD], 1: [HANGS, GOOD]})
    async with stage.running():
        await stage.until(lambda: len(stage.starts) == 3)
        assert stage.ended == [stage.pids[1]]
    assert "gave no sign of life for 0.5 s: it is killed" in caplog.text


async def test_who_never_begins_is_killed() -> None:
    """Rule 2, before the first sign of life."""
    stage = Stage({0: [GOOD], 1: [STARTS_NEVER]}, patience=Patience(starting=0.5, silence=0.5, stopping=2, pauses=(0,)))
    assert await stage.fails() == "worker 1 was ended by SIGKILL before it was ready (it says why above)"


async def test_replacing(caplog: pytest.LogCaptureFixture) -> None:
    """Rules 3 and 4: one after another, each at a place that nobody has."""
    caplog.set_level("INFO")
    stage = Stage({0: [GOOD], 1: [GOOD]})
    async with stage.running():
        stage.supervisor._asked_to_reload.set()
        await stage.until(lambda: "all workers were replaced" in caplog.text)
        assert stage.starts == [(0, 0), (1, 1), (0, 2), (1, 0)]
        assert stage.ended == stage.pids[:2]
        assert [worker.process.pid for worker in stage.supervisor._current] == stage.pids[2:]


async def test_a_replaced_one_that_does_not_stop_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stage = Stage({0: [DEAF], 1: [GOOD]}, patience=Patience(silence=5, stopping=0.3, pauses=(0,)))
    async with stage.running():
        stage.supervisor._asked_to_reload.set()
        await stage.until(lambda: "all workers were replaced" in caplog.text)
    assert f"worker 0 (process {stage.pids[0]}) did not stop in 0.3 s: it is killed" in caplog.text


@pytest.mark.parametrize("fresh", [AcmecaError("policy.lifetime: got 'x'"), FAILS])
async def test_a_reload_that_fails_changes_nothing(fresh: str | AcmecaError, caplog: pytest.LogCaptureFixture) -> None:
    """Rule 3, and the next one may succeed."""
    caplog.set_level("INFO")
    stage = Stage({0: [GOOD], 1: [GOOD]}, fresh=fresh)
    async with stage.running():
        stage.supervisor._asked_to_reload.set()
        text = (
            "not reloaded, the workers go on as they are: policy.lifetime" if fresh != FAILS else "the old one goes on"
        )
        await stage.until(lambda: text in caplog.text)
        assert [worker.process.pid for worker in stage.supervisor._current] == stage.pids[:2]
        stage.fresh = GOOD
        stage.supervisor._asked_to_reload.set()
        await stage.until(lambda: "all workers were replaced" in caplog.text)


async def test_a_second_signal_kills(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage({0: [DEAF], 1: [GOOD]}, patience=Patience(stopping=SECONDS * 2))
    async with stage.running():
        stage.supervisor._asked_to_stop()
        stage.supervisor._asked_to_stop()  # at once: the same one, sent to the process and to its group
        await stage.until(lambda: stage.ended == [stage.pids[1]])
        await asyncio.sleep(_TWICE)
        assert stage.ended == [stage.pids[1]]
    assert f"worker 0 (process {stage.pids[0]}) is killed" in caplog.text
