"""What can go wrong in storage.

Rule 1: no exception of a database library leaves `storage/`; the driver turns each into one of these.
Rule 2: a text here names columns, files and processes, never the values of a row.
"""

from collections.abc import Sequence
from pathlib import Path

from acmeca.errors import AcmecaError


class StorageError(AcmecaError):
    """The database could not do what was asked: disk full, I/O error, locked, closed, a broken constraint.

    Raised from a write it means that the write is not there, with two exceptions: when the commit itself met an I/O error
    and the machine stops right after, it may be there after all; and where the text says that it may have been kept, the
    answer to a commit was lost, and nobody could say what became of it.
    """


class NotUniqueError(StorageError):
    """A row with these values exists already. `columns` are the columns of the constraint, as `table.column`."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        super().__init__(f"a row with the same {', '.join(columns)} exists already")
        self.columns = columns


class StaleError(StorageError):
    """A compare-and-swap lost: the row is no longer in the state it was read in. Raised by the stores, not the driver."""


class FencedError(StorageError):
    """This process may not write any more: another one took its place, or the schema moved on beyond it. It has to end."""


class AlreadyReplacedError(StorageError):
    """The certificate that an order was to replace is replaced by another order (RFC 9773 §5)."""


class KeyRefusedError(StorageError):
    """A key that must not be certified or have an account: it is in use as the other, or it was blocked. The text says which."""


class GrantRefusedError(StorageError):
    """A grant by which no account can be made. The text says why not, to the client."""


class KeyTakenError(StorageError):
    """A key that an account has, of whatever status. `account_id` says which."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"account {account_id} has this key")
        self.account_id = account_id


class LockedError(StorageError):
    """Another process works in the data directory. `pid` is what it wrote down, or None when that cannot be read."""

    def __init__(self, data_dir: Path, pid: int | None) -> None:
        holder = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"{data_dir} is in use by {holder}: stop it first, or let the running server do this over its admin socket"
        )
        self.pid = pid


class WorkersLeftError(LockedError):
    """The server of the data directory is gone, and workers of it are not. They end by themselves; one that hangs has to be killed."""

    def __init__(self, data_dir: Path, pids: Sequence[int]) -> None:
        super().__init__(data_dir, next(iter(pids), None))
        numbers = f" (processes {', '.join(map(str, pids))})" if pids else ""
        message = (
            f"{data_dir} is in use by workers of a server that was killed{numbers}: they end by themselves within seconds; one "
            "that does not has to be killed"
        )
        self.args = (message,)
