"""Several instances on one database, as several processes would be: each with its seal, its journal and its claim."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from acmeca.app import Opened, composition
from acmeca.service.probes import WriteWatch
from acmeca.storage.journal import Commit, Journal, read_segment, segments
from acmeca.storage.schema import Step, read_steps
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.store import Store
from acmeca.storage.writers import CommitSeal, Others, Writer
from tests.support.server import RunningCa
from tests.support.stored import NOW


@dataclass
class Monotonic:
    """A clock in seconds that stands until a test moves it."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@contextlib.asynccontextmanager
async def open_instance(
    directory: Path,
    instance: str = "a-1",
    *,
    database_path: Path | None = None,
    alone: bool = False,
    steps: Sequence[Step] | None = None,
) -> AsyncIterator[Store]:
    """The store of an instance, claimed. Its writer is called by what is before the `-`.

    The database is `acmeca.db` in `directory` unless another is named. At the end it is as if it had been killed.
    """
    writer = Writer(instance.partition("-")[0], instance)
    journal = Journal(directory / "journal", writer=writer.name, instance=instance, clock=lambda: NOW)
    known = read_steps() if steps is None else steps
    database = await SqliteDatabase.open(
        database_path or directory / "acmeca.db", seal=CommitSeal(writer, journal, schema=len(known)), steps=known
    )
    store = Store(database, writer=writer)
    try:
        await store.writers.claim(alone=alone)
        yield store
    finally:
        await database.close()
        journal.close()


def others_of(store: Store, clock: Monotonic) -> Others:
    """The other instances, as this one sees them."""
    return Others(store.writers, own=store.writer, clock=clock)


def journalled(directory: Path) -> list[Commit]:
    """What stands in the journals of all instances, each writer's in order."""
    return [commit for segment in segments(directory / "journal") for commit in read_segment(segment)]


@contextlib.asynccontextmanager
async def another_instance(ca: RunningCa, instance: str = "other-1") -> AsyncIterator[tuple[Opened, Monotonic]]:
    """A second process of a running CA, without listeners: prepared as at a start. The clock is its own, for `Others`."""
    async with open_instance(ca.data_dir, instance, database_path=ca.config.database_path) as store:
        first = ca.opened
        other = await composition._compose(
            ca.config,
            store,
            nonces=ca.services.nonces,
            metrics=first.metrics,
            writes=WriteWatch(ambient=ca.site.ambient, then=first.metrics),
            ambient=ca.site.ambient,
            open_key=ca.site.open_key,
        )
        clock = Monotonic()
        other.jobs._leadership._others._clock = clock
        other.services.challenges._validations = first.services.challenges._validations
        await other.jobs.prepare()
        try:
            yield other, clock
        finally:
            await other.services.challenges.stop()
            await other.condition.stop()
            await other.services.readiness.stop()
