"""Who writes: the processes that share a database, each with a name, an instance, and a place in one order of commits.

Rule 1: a name has one instance at a time. Whoever claims it shuts the former one out: its next commit fails (`FencedError`).
So does that of a program that is too old for the schema, wherever a newer one has brought it meanwhile.
Rule 2: every commit of any writer takes the next number of one sequence. By it journals are put in order and gaps in them are
seen, a lost answer to a COMMIT is cleared up, and others see that an instance lives.
Rule 3: whether another instance lives is judged by whether its number moves, on the observer's own monotonic clock. No two
machines' clocks are compared, and a wall clock that leaps decides nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from acmeca.storage.database import Database, Entry, Reader, Transaction
from acmeca.storage.errors import FencedError
from acmeca.storage.journal import Journal

GONE_AFTER: Final = 20.0  # seconds without a commit; a live instance makes one every `BEAT`
BEAT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Writer:
    """This process, as the database knows it. `instance` is new with every start."""

    name: str
    instance: str


class CommitSeal:
    """The `Seal` of one writer: numbers its commits and journals them. `schema` is the last step that the program knows."""

    def __init__(self, writer: Writer, journal: Journal, *, schema: int) -> None:
        self._writer = writer
        self._journal = journal
        self._schema = schema

    async def number(self, tx: Transaction) -> int:
        row = await tx.fetch_one(
            "UPDATE writers SET last_commit = (SELECT MAX(last_commit) FROM writers) + 1"
            " WHERE name = $1 AND instance = $2 AND NOT EXISTS (SELECT 1 FROM schema_version WHERE minimum > $3)"
            " RETURNING last_commit",
            self._writer.name,
            self._writer.instance,
            self._schema,
        )
        if row is None and await tx.fetch_one("SELECT 1 FROM schema_version WHERE minimum > $1", self._schema):
            raise FencedError(
                "the database's schema was brought beyond what this program can work with, so it has to stop: start the new "
                "version in its place"
            )
        if row is None:
            raise FencedError(
                f"another process writes as {self._writer.name} now, so this one has to stop; if both are meant to run, the "
                "data directory of one is a copy: delete the file node in it"
            )
        return int(row["last_commit"])

    async def has_number(self, reader: Reader, number: int) -> bool:
        row = await reader.fetch_one(
            "SELECT last_commit FROM writers WHERE name = $1 AND instance = $2",
            self._writer.name,
            self._writer.instance,
        )
        if row is None:  # the commit may have been kept before that
            raise FencedError(
                f"another process writes as {self._writer.name} now, and what became of commit {number} cannot be told any more"
            )
        return bool(row["last_commit"] >= number)

    def append(self, number: int, entries: Sequence[Entry]) -> None:
        self._journal.append(number, entries)

    def withdraw(self, number: int) -> None:
        self._journal.withdraw(number)


class Writers:
    """The table `writers`."""

    def __init__(self, database: Database, *, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def claim(self, *, alone: bool) -> None:
        """Take this writer's name; a former instance of it is shut out. `alone`: no other writer can be running."""

        async def body(tx: Transaction) -> None:
            if alone:
                await tx.execute("UPDATE writers SET instance = '' WHERE name <> $1", self._writer.name)
            await tx.execute(
                "INSERT INTO writers (name, instance, last_commit, ended) VALUES ($1, $2, 0, 0)"
                " ON CONFLICT (name) DO UPDATE SET instance = excluded.instance, ended = 0",
                self._writer.name,
                self._writer.instance,
            )

        await self._database.write(body)

    async def release(self) -> None:
        """Say that this instance stops: what it had in hand is free at once, and so are its leases."""

        async def body(tx: Transaction) -> None:
            await tx.execute("UPDATE leases SET instance = '' WHERE instance = $1", self._writer.instance)
            await tx.execute("UPDATE writers SET ended = 1 WHERE instance = $1", self._writer.instance)

        await self._database.write(body)

    async def beat(self) -> None:
        """A commit of nothing: a sign of life, and a proof that the database can be written. Raises `StorageError`."""

        async def body(_: Transaction) -> None:
            pass

        await self._database.write(body)

    async def last_commits(self) -> Mapping[str, int]:
        """The number of the last commit of each instance that has not ended."""
        rows = await self._database.fetch_all(
            "SELECT instance, last_commit FROM writers WHERE instance <> '' AND ended = 0"
        )
        return {row["instance"]: row["last_commit"] for row in rows}


class Others:
    """Which other instances live (rule 3). `clock` is monotonic, in seconds."""

    def __init__(self, writers: Writers, *, own: Writer, clock: Callable[[], float]) -> None:
        self._writers = writers
        self._own = own
        self._clock = clock
        self._moved: dict[str, tuple[int, float]] = {}  # instance → its number, and since when it has that

    async def look(self) -> None:
        """See whose number has moved."""
        found = await self._writers.last_commits()
        now = self._clock()
        self._moved = {
            instance: kept if (kept := self._moved.get(instance)) is not None and kept[0] == number else (number, now)
            for instance, number in found.items()
        }

    async def living(self) -> frozenset[str]:
        """The other instances that live, by a look just now.

        Whoever reads first what is in somebody's hand, and asks afterwards, never takes an instance for gone that has just
        begun: it was in the table before it took anything in hand.
        """
        await self.look()
        now = self._clock()
        return frozenset(
            instance
            for instance, (_, since) in self._moved.items()
            if instance != self._own.instance and now - since < GONE_AFTER
        )
