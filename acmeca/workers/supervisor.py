"""The supervisor: starts workers, watches over them, replaces them, stops them. What they do it does not know.

Rule 1: a worker that ends is started again, after longer and longer pauses. One that ends soon after its start several times in
a row will not get better by it: the whole server stops, and says why.
Rule 2: a worker whose event loop gives no sign of life is killed. It may hold a lock that all the others wait for.
Rule 3: who is replaced goes on until the new one is ready. A new one that does not get there changes nothing.
Rule 4: a place (`Seat.place`) belongs to one process at a time; it is free again when that was reaped.
Rule 5: at the first start nothing is tried twice: what is wrong there is for a person to mend.
"""

import asyncio
import itertools
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from acmeca.errors import AcmecaError
from acmeca.workers.lifeline import EXIT_FENCED, READY

log = logging.getLogger(__name__)

_LOOK: Final = 1.0  # seconds between two looks for signs of life
_STOOD_STILL: Final = 5.0  # seconds between two looks that say that this process, or the machine, was halted itself
_TWICE: Final = 0.3  # seconds within which a second signal is the first one: some send it to a process and to its group
_REAPING: Final = 5.0  # seconds for a killed process to be gone; one that the disk holds up is left behind

Launch: TypeAlias = "Callable[[int, int, int], subprocess.Popen[bytes]]"
"""Starts a worker for a slot, at a place, with a lifeline. Raises OSError."""


class SupervisionError(AcmecaError):
    """The workers cannot be kept running; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a worker may take; in seconds."""

    starting: float = 60.0  # until the first sign of life: a program has to be read from a disk
    silence: float = 30.0  # between two signs of life
    stopping: float = 20.0  # from the order to stop to the end
    quick: float = 30.0  # who ends within this after its start counts as failing
    pauses: tuple[float, ...] = (
        0.0,
        0.5,
        1.0,
        2.0,
    )  # before a restart, by failures in a row; after one more all is given up


@dataclass(eq=False, slots=True)
class _Worker:
    """A running worker, or one that has ended: then `code` is its exit code, minus the signal's number if one killed it."""

    slot: int
    place: int
    launch: Launch
    process: "subprocess.Popen[bytes]"
    link: socket.socket
    started_at: float
    heard_at: float
    has_spoken: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    code: int = 0

    def __str__(self) -> str:
        return f"worker {self.slot} (process {self.process.pid})"

    @property
    def end(self) -> str:
        """How it ended, for a sentence."""
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"was ended by signal {-self.code}"


class Supervisor:
    """Keeps `slots` workers. `launch` starts one; `reload` gives what starts them from now on, or raises `AcmecaError`.

    `on_start` and `on_end` are told of each process by its PID.
    """

    def __init__(
        self,
        *,
        slots: int,
        launch: Launch,
        reload: Callable[[], Launch],
        on_start: Callable[[int], None] = lambda _: None,
        on_end: Callable[[int], None] = lambda _: None,
        patience: Patience,
    ) -> None:
        self._slots = slots
        self._launch = launch
        self._reload = reload
        self._on_start = on_start
        self._on_end = on_end
        self._patience = patience
        self._workers: set[_Worker] = set()  # those that run
        self._current: list[_Worker] = []  # by slot: the one that counts
        self._stop = asyncio.Event()
        self._kill = asyncio.Event()
        self._asked_to_reload = asyncio.Event()
        self._stopped_at = 0.0
        self._failure: str | None = None

    async def run(self, *, on_ready: Callable[[], None]) -> None:
        """From the first worker's start to the last one's end. Raises `SupervisionError` when nobody asked for the end.

        SIGTERM and SIGINT stop all, a second one kills. SIGHUP replaces the workers one after another.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._asked_to_reload.set)
        tasks = [asyncio.create_task(self._watch())]
        try:
            if await self._start():
                on_ready()
                tasks += [asyncio.create_task(self._keep(slot)) for slot in range(self._slots)]
                tasks.append(asyncio.create_task(self._reload_when_asked()))
                stop = asyncio.create_task(self._stop.wait())
                done, _ = await asyncio.wait({stop, *tasks}, return_when=asyncio.FIRST_COMPLETED)
                stop.cancel()
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop_all()
        if self._failure is not None:
            raise SupervisionError(self._failure)

    def _asked_to_stop(self) -> None:
        now = time.monotonic()
        if self._stop.is_set() and now - self._stopped_at > _TWICE:
            self._kill.set()
        elif not self._stop.is_set():
            self._stopped_at = now
            self._stop.set()

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._stop.set()

    # --- starts and ends ----------------------------------------------------------------------------------------

    async def _start(self) -> bool:
        """Rule 5. Whether all workers are ready."""
        try:
            self._current = [self._spawn(slot, self._launch) for slot in range(self._slots)]
        except OSError as error:
            raise SupervisionError(f"the workers cannot be started: {error}") from error
        for worker in self._current:
            await _first(worker.ready, worker.ended, self._stop)
            if worker.ended.is_set() and not worker.ready.is_set() and not self._stop.is_set():
                self._fail(f"worker {worker.slot} {worker.end} before it was ready (it says why above)")
            if self._stop.is_set():
                return False
        return True

    def _spawn(self, slot: int, launch: Launch, *, after: _Worker | None = None) -> _Worker:
        """Start a worker; `after` one that ended, in its place if that is free: what was in its hand is taken up at once.

        Raises OSError.
        """
        taken = {worker.place for worker in self._workers}
        places = itertools.chain([] if after is None else [after.place], itertools.count())
        place = next(place for place in places if place not in taken)  # Rule 4
        ours, theirs = socket.socketpair()
        try:
            process = launch(slot, place, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        now = time.monotonic()
        worker = _Worker(slot, place, launch, process, ours, started_at=now, heard_at=now)
        self._workers.add(worker)
        self._on_start(process.pid)
        asyncio.get_running_loop().add_reader(ours, self._listen, worker)
        log.info("worker %d is process %d", slot, process.pid)
        return worker

    def _listen(self, worker: _Worker) -> None:
        """Its lifeline has something to say, or ended, which it does with the process."""
        try:
            said = worker.link.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        worker.heard_at, worker.has_spoken = time.monotonic(), True
        if READY in said:
            worker.ready.set()
        if said:
            return
        asyncio.get_running_loop().remove_reader(worker.link)
        worker.link.close()
        try:
            worker.code = worker.process.wait(_REAPING)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.code = worker.process.wait()
        self._workers.discard(worker)
        self._on_end(worker.process.pid)
        worker.ended.set()

    async def _keep(self, slot: int) -> None:
        """Rule 1."""
        failures = 0
        while True:
            worker = self._current[slot]
            await worker.ended.wait()
            if self._current[slot] is not worker:  # it was replaced
                continue
            failures = failures + 1 if time.monotonic() - worker.started_at < self._patience.quick else 0
            if worker.code == EXIT_FENCED:
                self._fail(f"worker {slot} may not write any more (it says why above), so all of them stop")
                return
            if failures > len(self._patience.pauses):
                self._fail(
                    f"{worker} {worker.end}, the {failures}th time in a row soon after its start: all is stopped"
                )
                return
            pause = self._patience.pauses[max(0, failures - 1)]
            log.error("%s %s; it is started again%s", worker, worker.end, f" in {pause:g} s" if pause else "")
            await asyncio.sleep(pause)
            if self._current[slot] is not worker:
                continue
            try:
                self._current[slot] = self._spawn(slot, worker.launch, after=worker)
            except OSError as error:
                self._fail(f"worker {slot} cannot be started again: {error}")
                return

    async def _watch(self) -> None:
        """Rule 2."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(min(_LOOK, self._patience.silence / 4))
            now = time.monotonic()
            for worker in self._workers:
                if now - looked_at > _STOOD_STILL:
                    worker.heard_at = now
                    continue
                patience = self._patience.silence if worker.has_spoken else self._patience.starting
                if now - worker.heard_at > patience:
                    log.error("%s gave no sign of life for %g s: it is killed", worker, patience)
                    worker.process.kill()
            looked_at = now

    # --- replacing ----------------------------------------------------------------------------------------------

    async def _reload_when_asked(self) -> None:
        while True:
            await self._asked_to_reload.wait()
            self._asked_to_reload.clear()
            try:
                launch = self._reload()
            except AcmecaError as error:
                log.error("not reloaded, the workers go on as they are: %s", error)  # noqa: TRY400  (the message is all)
                continue
            if await self._replace_all(launch):
                log.info("reloaded: all workers were replaced")

    async def _replace_all(self, launch: Launch) -> bool:
        """Rule 3. Whether all were replaced."""
        for slot in range(self._slots):
            try:
                new = self._spawn(slot, launch)
            except OSError as error:
                log.error("reloading stopped: worker %d cannot be started: %s", slot, error)  # noqa: TRY400  (as above)
                return False
            await _first(new.ready, new.ended)
            if not new.ready.is_set() or new.ended.is_set():
                log.error("reloading stopped: the new %s %s before it was ready; the old one goes on", new, new.end)
                return False
            old, self._current[slot] = self._current[slot], new
            _send(old, signal.SIGTERM)
            if not await _within(self._patience.stopping, old.ended):
                log.error("%s did not stop in %g s: it is killed", old, self._patience.stopping)
                _send(old, signal.SIGKILL)
                await _within(_REAPING, old.ended)
        return True

    # --- the end ------------------------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        """All at once. Who does not stop in time, or at a second signal, is killed."""
        workers = list(self._workers)
        for worker in workers:
            _send(worker, signal.SIGTERM)
        all_ended = asyncio.create_task(_all([worker.ended for worker in workers]))
        killed = asyncio.create_task(self._kill.wait())
        await asyncio.wait({all_ended, killed}, timeout=self._patience.stopping, return_when=asyncio.FIRST_COMPLETED)
        killed.cancel()
        for worker in list(self._workers):
            log.error("%s is killed", worker)
            _send(worker, signal.SIGKILL)
        await asyncio.wait({all_ended}, timeout=_REAPING)
        all_ended.cancel()


def _send(worker: _Worker, number: signal.Signals) -> None:
    if not worker.ended.is_set():  # reaped: the PID may be somebody else's
        worker.process.send_signal(number)


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _all(events: Iterable[asyncio.Event]) -> None:
    """Wait until each of them is set."""
    for event in events:
        await event.wait()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it is set in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
