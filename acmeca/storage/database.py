"""What the stores ask of a database. SQLite stands behind it (`sqlite.py`), PostgreSQL may.

Rule 1: SQL is plain text with `$1`, `$2` … for values, one statement and no semicolon, in the part of SQL that SQLite and
PostgreSQL share. A value is never put into the text. Tables are made by the schema's steps (`schema.py`), never here.
Rule 2: a change is made in a body given to `Database.write` and nowhere else. What one body does is kept whole or not at all.
Rule 3: no constraint of the schema is deferred: writes share a commit, and a check at the commit would fail them all.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

# What a parameter may be. Moments are Unix seconds, JSON is text; a `StrEnum` is a str, a bool goes in as 0 or 1.
Value: TypeAlias = str | int | bytes | None


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


class Database(Reader, Protocol):
    """A database that many tasks of one event loop share.

    Concurrency: bodies run one after another, never interleaved. Reads run beside them and see what is committed, the
    caller's own finished writes always among it; two reads in a row may see different states.
    """

    async def write(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `body` in a transaction and return its result once it is durable (it survives a loss of power).

        The body awaits its transaction and nothing else, and may run in another thread; it runs once, so it may set
        variables of its caller. When it raises, whatever it did is undone and the exception comes out here; other
        writes are not touched.

        A caller that is cancelled while waiting cannot know whether its write was kept; it is never kept in part.
        Raises `acmeca.errors.Busy` at once when too many writes wait, `StorageError` when the database cannot begin
        or commit, or is closed.
        """

    async def scan(self, sql: str, *args: Value) -> list[Row]:
        """All rows of a long read (a CRL's entries, an audit), from one snapshot, without holding the event loop up.

        Raises `StorageError`.
        """

    async def close(self) -> None:
        """Finish the writes that wait, then let go of the database. Later calls raise `StorageError`; closing twice is
        harmless.
        """
