"""Time and randomness, as parameters: tests give fixed ones, `app.py` gives the real ones."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from acmeca.acme import base64url

_ID_BYTES = 16  # 128 bits: an id cannot be guessed (DESIGN §4)


@dataclass(frozen=True, slots=True)
class Ambient:
    """`clock` gives the present moment, aware and in UTC; `entropy(n)` gives n bytes that nobody can predict."""

    clock: Callable[[], datetime]
    entropy: Callable[[int], bytes]

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
