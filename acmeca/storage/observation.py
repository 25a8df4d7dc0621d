"""What a database driver tells of its commits, to whoever counts and judges them. Nothing here counts.

Rule 1: a call is cheap, never blocks and never raises. It is made on the event loop's thread, once for each commit, when the
callers are answered, and never for each row or statement.
"""

from typing import Protocol

from acmeca.storage.errors import StorageError


class CommitObserver(Protocol):
    """Given to a driver when it is opened."""

    def committed(self, *, writes: int, seconds: float) -> None:
        """A commit was made durable: `writes` bodies shared it, and `seconds` went by from its first statement to its last."""

    def failed(self, error: StorageError, *, writes: int) -> None:
        """A commit could not be made, so that `writes` callers are told `error`. A body that raises is no such failure."""
