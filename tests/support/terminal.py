"""A command on a terminal of its own: what a person sees and types.

Rule 1: nothing sleeps: one waits for what is printed, or for the end.
"""

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

_PATIENCE: Final = 30.0  # seconds
_NEXT_KEY: Final = 1.0  # seconds until Ctrl-C is pressed again
_CONTROLS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """The person's side of it. Made by `on_terminal`."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self._process = process
        self._master = master
        self._seen = 0
        self.output = ""

    def expect(self, text: str) -> str:
        """Wait until `text` is printed, behind what was waited for before; returns what came until then."""
        deadline = time.monotonic() + _PATIENCE
        while text not in self.output[self._seen :]:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} was not printed; this was:\n{self.output}")
        end = self.output.index(text, self._seen) + len(text)
        found, self._seen = self.output[self._seen : end], end
        return found

    def type(self, text: str) -> None:
        """Type a line, Enter included."""
        os.write(self._master, f"{text}\n".encode())

    def interrupt(self) -> int:
        """Ctrl-C, until the command goes to the next line; returns its exit code.

        One that is pressed between a prompt and its reading is seen only at the next key, by any program that reads a line.
        """
        deadline = time.monotonic() + _PATIENCE
        while "\n" not in self.output[self._seen :]:
            if time.monotonic() > deadline:
                raise AssertionError(f"Ctrl-C was not seen; this was printed:\n{self.output}")
            os.write(self._master, b"\x03")
            next_key = time.monotonic() + _NEXT_KEY
            with contextlib.suppress(AssertionError):
                while "\n" not in self.output[self._seen :] and self._read(next_key):
                    pass
        return self.wait()

    def wait(self) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + _PATIENCE
        while self._read(deadline):
            pass
        return self._process.wait(_PATIENCE)

    def _read(self, deadline: float) -> bool:
        poll = select.poll()  # `select.select` takes no descriptor above 1023
        poll.register(self._master, select.POLLIN)
        if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            raise AssertionError(f"nothing came for {_PATIENCE:g} s; this was before:\n{self.output}")
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.output += _CONTROLS.sub("", data.decode(errors="replace"))
        return bool(data)


@contextlib.contextmanager
def on_terminal(
    command: Sequence[str], *, env: Mapping[str, str], columns: int = 100, cwd: Path | None = None
) -> Iterator[Terminal]:
    """Run a command on a terminal of this width; it is killed, by its PID, when it is still there at the end."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
    kept = {name: value for name, value in env.items() if name not in {"COLUMNS", "LINES"}} | {"TERM": "xterm"}
    try:
        process = subprocess.Popen(
            command,
            env=kept,
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: os.login_tty(slave),  # noqa: PLW1509  (no thread of ours is in a lock that the child needs)
        )
    finally:
        os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait(_PATIENCE)
        os.close(master)
