"""Time and randomness, as parameters: tests give fixed ones, `app` gives the real ones."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from acmeca.acme import base64url

_ID_BYTES = 16  # 128 bits: an id cannot be guessed (DESIGN §4)


def uptime() -> float:
    """Seconds since some moment of the past, whatever is done to the clock. The time that a machine sleeps counts, on Linux."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Ambient:
    """`clock` gives the present moment, aware and in UTC; `entropy(n)` gives n bytes that nobody can predict.

    `uptime` gives seconds that only ever go on, to tell how long something took, and whether the clock leapt.
    """

    clock: Callable[[], datetime]
    entropy: Callable[[int], bytes]
    uptime: Callable[[], float] = uptime

    def now(self) -> datetime:
        """The present moment in whole seconds, the finest grain that ACME, X.509 and the store know."""
        moment = self.clock()
        if moment.tzinfo is not UTC:
            moment = moment.astimezone(UTC)
        return moment.replace(microsecond=0)

    def new_id(self) -> str:
        """An unguessable id of `[A-Za-z0-9_-]` that does not begin like a command-line option."""
        while True:
            id_ = base64url.encode(self.entropy(_ID_BYTES))
            if not id_.startswith("-"):
                return id_
