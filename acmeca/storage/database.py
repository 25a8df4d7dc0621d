"""What the stores ask of a database. SQLite (`sqlite.py`) or PostgreSQL (`postgres.py`) stands behind it.

Rule 1: SQL is plain text with `$1`, `$2` … for values, one statement and no semicolon, in the part of SQL that SQLite and
PostgreSQL share. A value is never put into the text. Tables are made by the schema's steps (`schema.py`), never here.
Rule 2: a change is made in a body given to `Database.write` and nowhere else. What one body does is kept whole or not at all.
Rule 3: no constraint of the schema is deferred: writes share a commit, and a check at the commit would fail them all.
Rule 4: bodies run one after another, never interleaved: in one process, and in all processes that share the database.
Rule 5: what must survive the loss of the database itself is journalled before it is committed (`Seal`, `journal.py`).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

# What a parameter may be. Moments are Unix seconds, JSON is text; a `StrEnum` is a str, a bool goes in as 0 or 1.
Value: TypeAlias = str | int | bytes | None


@dataclass(frozen=True, slots=True)
class Entry:
    """Something to be journalled: what was done (`kind`, see `journal_kinds.py`), and the columns that it set."""

    kind: str
    values: Mapping[str, Value]


class Row(Protocol):
    """One row of a result: `row["id"]`. A missing column is an IndexError or a KeyError, always a bug."""

    def __getitem__(self, column: str, /) -> Any: ...

    def keys(self) -> Iterable[str]:
        """The columns' names, in the statement's order."""


class Reader(Protocol):
    """Reads that are quick: one row or a few, by an index."""

    async def fetch_one(self, sql: str, *args: Value) -> Row | None:
        """The first row, or None when there is none. Raises `StorageError`."""

    async def fetch_all(self, sql: str, *args: Value) -> list[Row]:
        """All rows, an empty list when there is none. Raises `StorageError`."""


class Transaction(Reader, Protocol):
    """A write in progress, good only inside the body it was given to.

    Its reads see what this body did, and what bodies before it in the same commit did.
    """

    async def execute(self, sql: str, *args: Value) -> int:
        """Change rows (INSERT, UPDATE, DELETE) and say how many, so that `UPDATE … WHERE status = $2` is a compare-and-swap.

        Raises `NotUniqueError` when a row like it exists, `StorageError` for any other refusal. A body may catch
        `NotUniqueError` and go on: the failed statement alone is undone.
        """

    def journal(self, entry: Entry) -> None:
        """Have `entry` journalled with this body: durable before the commit, left out when the body fails."""


class Seal(Protocol):
    """What stands between the bodies of a commit and its COMMIT, given to a database when it is opened.

    A driver calls `number` as the last statement of each commit's transaction, then `append` (which blocks, so beside the
    event loop) when some body journalled something, then COMMIT. When either raises, the transaction is rolled back and every
    caller is told. When the COMMIT fails for sure after `append`, `withdraw` is called with the same number.
    """

    async def number(self, tx: Transaction) -> int:
        """The number of this commit, one more than that of any writer before. Raises `FencedError`, a `StorageError`."""

    async def has_number(self, reader: Reader, number: int) -> bool:
        """Whether the commit of that number by this writer was kept: asked when the answer to a COMMIT was lost.

        Raises `StorageError` when it cannot tell: what may have been kept is not withdrawn.
        """

    def append(self, number: int, entries: Sequence[Entry]) -> None:
        """Make the entries of this commit durable. Raises `StorageError`, and then nothing of them is there."""

    def withdraw(self, number: int) -> None:
        """Take note that the commit was not kept. Never raises."""


class Database(Reader, Protocol):
    """A database that many tasks of one event loop share, and other processes too.

    Concurrency: rule 4. Reads run beside the bodies and see what is committed, the caller's own finished writes always among
    it, and other processes' as soon as they were answered; two reads in a row may see different states.
    """

    @property
    def waiting_writes(self) -> int:
        """How many writes wait for the commit after this one."""

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `body` in a transaction and return its result once it is durable (it survives a loss of power).

        The body awaits its transaction and nothing else, and may run in another thread. It may run again from its
        beginning when the connection was lost before the commit, and then only the last run counts: what it says to its
        caller it returns. When it raises, whatever it did is undone and the exception comes out here; other writes are not
        touched.

        A caller that is cancelled while waiting cannot know whether its write was kept; it is never kept in part.
        Raises `acmeca.errors.Busy` at once when too many writes wait, `StorageError` when the database cannot begin
        or commit, or is closed.
        """

    async def scan(self, sql: str, *args: Value) -> list[Row]:
        """All rows of a long read (a CRL's entries, an audit), from one snapshot, without holding the event loop up.

        Raises `StorageError`.
        """

    def snapshot(self) -> AbstractAsyncContextManager[Reader]:
        """Reads of one moment, whatever is written meanwhile and however long they take (`async with`).

        For a copy of everything: what a commit did is seen whole or not at all. Writers do not wait for it. Raises `StorageError`.
        """

    async def close(self) -> None:
        """Finish the writes that wait, then let go of the database. Later calls raise `StorageError`; closing twice is
        harmless.
        """
