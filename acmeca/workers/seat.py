"""What a supervisor hands to a worker: its place, its listening sockets, its lifeline. Written into its command line as JSON.

Rule 1: descriptors are inherited under their own numbers. Whoever starts a worker passes `descriptors`, and no other.
Rule 2: the supervisor keeps every socket open as well, so that what waits in its queue is still there for the next worker.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

from acmeca.errors import AcmecaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One worker's share of the server.

    `slot` is 0 for the one that has the admin socket, `of` how many workers there are. `place` says which of the node's names
    it writes under: while one worker takes another one's seat, both write. `lifeline` is the descriptor of `lifeline.py`,
    `lock` one that is only to be kept open (`storage/lock.py`), `sockets` those of each listener, by its name.
    """

    slot: int
    of: int
    place: int
    lifeline: int
    lock: int
    sockets: Mapping[str, tuple[int, ...]]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Everything that the worker inherits."""
        return (self.lifeline, self.lock, *(file for files in self.sockets.values() for file in files))

    def writer(self, node: str) -> str:
        """The name to write under."""
        return f"{node}.{self.place}" if self.place else node

    def to_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises `AcmecaError` for what no supervisor wrote."""
        try:
            document = json.loads(text)
            sockets = {str(name): tuple(map(int, files)) for name, files in document.pop("sockets").items()}
            return cls(sockets=sockets, **{str(name): int(value) for name, value in document.items()})
        except (AttributeError, KeyError, TypeError, ValueError):
            raise AcmecaError("--worker is what a supervisor gives to its workers, not for people") from None

    def take(self) -> dict[str, list[socket.socket]]:
        """The sockets, by the name of their listener. What was inherited is passed on to nobody from here. Call it once."""
        for file in self.descriptors:
            os.set_inheritable(file, False)
        return {name: [_adopted(file) for file in files] for name, files in self.sockets.items()}


def _adopted(file: int) -> socket.socket:
    sock = socket.socket(fileno=file)
    sock.setblocking(False)
    return sock
