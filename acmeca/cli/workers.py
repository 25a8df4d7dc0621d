"""`acmeca serve` with several workers: what the supervisor prepares for them, and what a worker does.

Rule 1: the supervisor holds the data directory's lock and the listening sockets, and serves nothing itself.
Rule 2: it reads the configuration, and hands what it read to every worker it starts: a worker that is started again in the night
does not take up a file that somebody is just editing. Only SIGHUP has it read afresh.
Rule 3: what workers cannot change among themselves (where they listen, where the data is) takes a restart, and is told so.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import uvloop

import acmeca
from acmeca import app
from acmeca.config import Config, parse_config, read_config
from acmeca.errors import AcmecaError
from acmeca.storage.lock import StoreLock
from acmeca.web.control import SOCKET_NAME
from acmeca.web.metrics import DIRECTORY_VARIABLE, forget_process
from acmeca.workers.lifeline import Lifeline
from acmeca.workers.seat import Seat
from acmeca.workers.supervisor import Launch, Patience, Supervisor

PATIENCE: Final = Patience()

_METRICS: Final = "metrics"  # prometheus_client keeps each worker's figures in files there
_FIXED: Final = ("data_dir", "workers")  # of `[server]`, and every `…_listen`

Announce = Callable[[Config, Sequence[bytes]], None]


async def supervise(
    config: Config, path: Path, text: str, *, workers: int, options: Sequence[str], announce: Announce
) -> None:
    """Run until SIGINT or SIGTERM. `options` are those of `serve` for the workers. Raises `LockedError`.

    `config` is what was read from `path` as `text`. `announce` is called with the roots' certificates (DER) once all workers are ready.
    """
    with app.locked(config) as lock, _metrics_directory(config) as metrics:
        roots = await app.prepare(config)
        shares = app.bind_sockets(config, workers=workers)
        try:
            launching = _Launching(path, options, lock, shares, {DIRECTORY_VARIABLE: str(metrics)})
            running: set[int] = set()

            def started(pid: int) -> None:
                running.add(pid)
                lock.note_workers(running)

            def ended(pid: int) -> None:
                running.discard(pid)
                lock.note_workers(running)
                forget_process(pid, metrics)

            supervisor = Supervisor(
                slots=workers,
                launch=launching.with_configuration(text),
                reload=lambda: launching.with_configuration(_reread(config, path)),
                on_start=started,
                on_end=ended,
                patience=PATIENCE,
            )
            await supervisor.run(on_ready=lambda: announce(config, roots))
        finally:
            (config.server.data_dir / SOCKET_NAME).unlink(missing_ok=True)
            for share in shares:
                for sockets in share.values():
                    for sock in sockets:
                        sock.close()


class _Launching:
    """Everything that workers are started with."""

    def __init__(
        self,
        path: Path,
        options: Sequence[str],
        lock: StoreLock,
        shares: Sequence[Mapping[str, Sequence[socket.socket]]],
        environment: Mapping[str, str],
    ) -> None:
        self._path = path
        self._options = options
        self._lock = lock
        self._shares = shares
        self._environment = environment

    def with_configuration(self, text: str) -> Launch:
        """What starts workers with this configuration."""

        def launch(slot: int, place: int, lifeline: int) -> "subprocess.Popen[bytes]":
            seat = Seat(
                slot=slot,
                of=len(self._shares),
                place=place,
                lifeline=lifeline,
                lock=self._lock.workers_file,
                sockets={name: tuple(sock.fileno() for sock in own) for name, own in self._shares[slot].items()},
            )
            serve = [*_python(), "-m", "acmeca", "--config", str(self._path), "serve", *self._options]
            process = subprocess.Popen(  # noqa: S603  (ourselves, with what we were given)
                [*serve, "--worker", seat.to_json()],
                stdin=subprocess.PIPE,
                pass_fds=seat.descriptors,
                env={**os.environ, **self._environment},
            )
            stdin = process.stdin
            if stdin is not None:
                with suppress(BrokenPipeError), stdin:  # it ended already, which is noticed elsewhere
                    stdin.write(text.encode())
            return process

        return launch


def _python() -> list[str]:
    """This interpreter, finding acmeca where this process found it: a directory that is worked in is not searched unless it is that."""
    package_root = Path(acmeca.__file__).parents[1]
    is_here = not sys.flags.safe_path and Path(sys.path[0]).resolve() == package_root.resolve()
    return [sys.executable] if is_here else [sys.executable, "-P"]


def _reread(running: Config, path: Path) -> str:
    """The configuration's text as it is now. Raises `AcmecaError` when it is wrong, or rule 3 forbids it."""
    text = read_config(path)
    fresh = parse_config(text, path)
    keys = [key for key in type(fresh.server).model_fields if key in _FIXED or key.endswith("_listen")]
    changed = [f"server.{key}" for key in keys if getattr(fresh.server, key) != getattr(running.server, key)]
    changed += ["storage.url"] if fresh.storage.url != running.storage.url else []
    if changed:
        raise AcmecaError(f"{', '.join(changed)} cannot change while the server runs: restart it")
    return text


@contextmanager
def _metrics_directory(config: Config) -> Iterator[Path]:
    """An empty one; what a killed server left in it is gone. The lock is held."""
    path = config.server.data_dir / _METRICS
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# --- in a worker --------------------------------------------------------------------------------------------------


def work(path: Path, seat: Seat) -> None:
    """Serve in a seat until the supervisor says so, or is gone. Raises `FencedError` when it may not write any more."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all its processes; the supervisor decides
        signal.signal(number, signal.SIG_IGN)
    lifeline = Lifeline(seat.lifeline)
    config = parse_config(sys.stdin.buffer.read().decode(), path)

    async def run() -> None:
        beating = asyncio.create_task(lifeline.beat())
        try:
            await app.serve(config, seat=seat, on_ready=lambda _: lifeline.ready())
        finally:
            beating.cancel()

    uvloop.run(run())
