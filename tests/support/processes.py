"""Processes of the tests: started, waited for by what they say, ended by their own PID.

Rule 1: nothing sleeps for luck. A start is over when a line was read, an end when the process was reaped; both have a limit.
Rule 2: what was started is ended and reaped, whatever the test did. Nothing is ever looked for by name.
Rule 3: a port that was handed out stays ours until this process ends, also against other test runs on the machine.
No file tells of it.
"""

import atexit
import errno
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

START_SECONDS: Final = 60.0  # a start takes two seconds; a busy machine may take long
STOP_SECONDS: Final = 30.0
RUN_SECONDS: Final = 90.0
_PORTS: Final = range(12_000, 32_000)  # below those that the kernel hands out by itself


class ProcessError(Exception):
    """A process did not do what was waited for. The text has its command and everything that it said."""


# --- what a process is given --------------------------------------------------------------------------------------


def clean_environment(**added: str) -> dict[str, str]:
    """This process's environment without what would change a client or a server: proxies, trust stores, our own keys."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy")
        and not name.startswith(("ACMECA_", "SSL_CERT_", "OPENSSL_", "JAVA_", "JDK_", "COV_", "COVERAGE_"))
        and name
        not in {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PYTHONPATH", "PYTHONHOME", "FORCE_COLOR", "_JAVA_OPTIONS"}
    }
    return kept | {"LC_ALL": "C.UTF-8", "TZ": "UTC", "NO_PROXY": "*", "NO_COLOR": "1", "COLUMNS": "200"} | added


_held: list[socket.socket] = []  # what keeps the ports of this process; the kernel lets go of them when it ends


def reserve_ports(count: int) -> tuple[int, ...]:
    """TCP ports of 127.0.0.1 and ::1 that are free for servers started from here, and for nobody else who asks here.

    A port is claimed by binding it, which one process can do. Afterwards the claim is marked as reusable, so that a server
    which reuses addresses (all do) may listen there beside it.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        claim = _claim(port)
        if claim:
            _held.extend(claim)
            found.append(port)
        if len(found) == count:
            return tuple(found)
    raise ProcessError(f"{count} free ports between {_PORTS.start} and {_PORTS.stop} were not found")


def _claim(port: int) -> list[socket.socket]:
    """Sockets bound to a port; none when somebody else has it."""
    claim: list[socket.socket] = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.bind((address, port))
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRNOTAVAIL:  # a machine without IPv6 has no ::1
                continue
            while claim:
                claim.pop().close()
            return []
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claim.append(sock)
    return claim


@atexit.register
def _let_go() -> None:
    while _held:
        _held.pop().close()


# --- a process that runs for a while ------------------------------------------------------------------------------


class Process:
    """A child with its own process group, its output (both streams) read as it comes."""

    def __init__(self, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.command = shlex.join(map(str, command))
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._is_silent = False
        self._popen = subprocess.Popen(
            [str(part) for part in command],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        """Everything that it has said so far."""
        with self._changed:
            return "".join(self._lines)

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_for_line(self, pattern: str, *, seconds: float = START_SECONDS) -> re.Match[str]:
        """The first line, said before or yet to come, in which the pattern is found. `ProcessError` if it ends before."""
        deadline = time.monotonic() + seconds
        looked_at = 0
        with self._changed:
            while True:
                for line in self._lines[looked_at:]:
                    match = re.search(pattern, line)
                    if match is not None:
                        return match
                looked_at = len(self._lines)
                left = deadline - time.monotonic()
                if self._is_silent or left <= 0:
                    break
                self._changed.wait(left)
        raise self._failure(f"said nothing like {pattern!r}" + ("" if self._is_silent else f" in {seconds:g} s"))

    def send(self, number: signal.Signals) -> None:
        """A signal to this one process; harmless when it has ended."""
        self._popen.send_signal(number)

    def wait(self, *, seconds: float = STOP_SECONDS) -> int:
        """Its exit code, minus the number of the signal that ended it."""
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self._failure(f"did not end in {seconds:g} s") from None
        self._reader.join(STOP_SECONDS)
        return code

    def terminate(self, *, seconds: float = STOP_SECONDS) -> int:
        """Ask it to stop, as an operating system does, and wait. Returns its exit code."""
        self.send(signal.SIGTERM)
        return self.wait(seconds=seconds)

    def kill(self) -> int:
        """End it without asking (SIGKILL) and reap it."""
        self.send(signal.SIGKILL)
        return self.wait()

    def close(self) -> None:
        """End whatever is left of its group, and reap it."""
        if self._popen.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
            self._popen.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is not None:
            error.add_note(f"{self.command} said:\n{self.output}")

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            with self._changed:
                self._lines.append(line.decode(errors="replace"))
                self._changed.notify_all()
        with self._changed:
            self._is_silent = True
            self._changed.notify_all()

    def _failure(self, what: str) -> ProcessError:
        return ProcessError(f"{self.command} (process {self.pid}) {what}; it said:\n{''.join(self._lines)}")


# --- a command that ends by itself --------------------------------------------------------------------------------


class Finished:
    """A command that has ended: its exit code, and what it said on each stream."""

    def __init__(self, command: str, code: int, stdout: str, stderr: str) -> None:
        self.command = command
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def said(self) -> str:
        """Both streams, with every run of white space as one blank: where a line broke does not matter."""
        return " ".join(f"{self.stdout}\n{self.stderr}".split())

    def __repr__(self) -> str:
        return f"$ {self.command}\n{self.stdout}{self.stderr}[exit {self.code}]"


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    code: int | None = 0,
    seconds: float = RUN_SECONDS,
    stdin: bytes = b"",
) -> Finished:
    """Run a command to its end. `ProcessError` for another exit code than `code` (None: any), or when it takes too long."""
    words = [str(part) for part in command]
    try:
        done = subprocess.run(
            words,
            env=clean_environment() if env is None else dict(env),
            cwd=cwd,
            input=stdin,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = b"".join(part for part in (error.stdout, error.stderr) if part).decode(errors="replace")
        raise ProcessError(f"{shlex.join(words)} did not end in {seconds:g} s; it said:\n{said}") from None
    finished = Finished(
        shlex.join(words), done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    if code is not None and finished.code != code:
        raise ProcessError(f"exit code {code} was expected:\n{finished!r}")
    return finished


def open_descriptors() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Look again and again, every hundredth of a second, until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ProcessError(f"{what}: not so after {seconds:g} s")
        time.sleep(0.01)
