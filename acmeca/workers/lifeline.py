"""The worker's end of the pipe to its supervisor: signs of life go up, and its end says that the supervisor is gone.

Rule 1: the sign of life is the event loop's: a loop that stands still gives none.
Rule 2: a worker without a supervisor ends, in order if it can, at any rate within `END_SECONDS`: a new server waits for it.
"""

import asyncio
import logging
import os
import select
import signal
import threading
import time
from contextlib import suppress
from typing import Final

log = logging.getLogger(__name__)

ALIVE: Final = b"."
READY: Final = b"R"
BEAT_SECONDS: Final = 1.0
END_SECONDS: Final = 12.0  # a stop in order takes nine at the most

EXIT_FENCED: Final = 3
"""The exit code of a worker that may not write any more: a new one would not help."""
EXIT_ORPHANED: Final = 4
"""The exit code of one whose supervisor was gone, and that could not end in order."""


class Lifeline:
    """For one worker, from its first moment to its last. The descriptor stays open until the process is gone."""

    def __init__(self, file: int) -> None:
        self._file = file
        os.set_blocking(file, False)
        threading.Thread(target=self._watch, name="acmeca-lifeline", daemon=True).start()

    async def beat(self) -> None:
        """Give signs of life until cancelled."""
        while True:
            self._say(ALIVE)
            await asyncio.sleep(BEAT_SECONDS)

    def ready(self) -> None:
        """Say that this worker serves."""
        self._say(READY)

    def _say(self, word: bytes) -> None:
        with suppress(OSError):  # a supervisor that stands still reads nothing; one that is gone is rule 2's
            os.write(self._file, word)

    def _watch(self) -> None:
        """Rule 2. In a thread, so that a loop that stands still does not keep this process alive."""
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        is_held = True
        while is_held:
            poll.poll()
            try:
                is_held = bool(os.read(self._file, 64))
            except BlockingIOError:
                continue
            except OSError:  # a reset: it was killed before it had read everything
                is_held = False
        log.warning("the supervisor is gone: this worker ends")
        os.kill(os.getpid(), signal.SIGTERM)  # as if somebody had asked for it
        time.sleep(END_SECONDS)
        os._exit(EXIT_ORPHANED)
