"""The data directory and the store in it, opened for one process.

Rule 1: whoever works in a data directory holds its lock, or is a worker of who does.
Rule 2: a store is open for a writer: it has claimed its name when it comes out of here, and says that it ends when it goes.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from acmeca.config import Config
from acmeca.errors import AcmecaError
from acmeca.keystore import pem
from acmeca.service.ambient import Ambient
from acmeca.service.requests import Nonces
from acmeca.storage import placement
from acmeca.storage.database import Database, Seal
from acmeca.storage.journal import Journal
from acmeca.storage.lock import StoreLock
from acmeca.storage.node import node_name
from acmeca.storage.nonce_file import FileNonces
from acmeca.storage.observation import CommitObserver
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.postgres_nonces import PostgresNonces
from acmeca.storage.schema import read_steps
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.store import Store
from acmeca.storage.writers import CommitSeal, Writer
from acmeca.workers.seat import Seat

log = logging.getLogger(__name__)

NONCE_FILE = "nonces"


def real_ambient() -> Ambient:
    """The machine's clock and its random source."""
    return Ambient(clock=lambda: datetime.now(UTC), entropy=os.urandom)


@contextmanager
def locked(config: Config) -> Iterator[StoreLock]:
    """The data directory, ours alone. Raises `LockedError` while another process works in it."""
    data_dir = config.server.data_dir
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own(data_dir)
    with StoreLock(data_dir) as lock:
        pem.remove_leftovers(data_dir)
        if config.database_path is not None and placement.is_decided(config.database_path):
            aside = placement.finish(config.database_path)
            log.warning("a restore was interrupted and is finished now; the database that was there is %s", aside)
        yield lock


def is_database_there(config: Config) -> bool:
    """Whether there is something to open: the file, a restored one that waits to take its place (`opened_store` sees to that),
    or a server, which alone can say.
    """
    path = config.database_path
    return path is None or path.exists() or placement.is_decided(path)


async def holds_ca(config: Config) -> bool:
    """Whether there is a CA in the database. Nothing is made by looking at one that is a file and not there."""
    path = config.database_path
    if path is not None and not path.exists():
        return False
    async with opened_store(config) as store:
        return bool(await store.issuers.all())


@asynccontextmanager
async def opened_store(
    config: Config, *, ambient: Ambient | None = None, observer: CommitObserver | None = None
) -> AsyncIterator[Store]:
    """The store of a data directory, under its lock. Raises `LockedError` while another process works in it."""
    with locked(config):
        async with _only_store(config, ambient=ambient or real_ambient(), observer=observer) as store:
            yield store


@asynccontextmanager
async def _only_store(
    config: Config, *, ambient: Ambient, observer: CommitObserver | None = None
) -> AsyncIterator[Store]:
    """The store, for the only one who works in the data directory: its lock is held, and there are no workers."""
    writer = Writer(node_name(config.server.data_dir, entropy=ambient.entropy), ambient.new_id())
    alone = config.database_path is not None  # a database server has other hosts' processes too
    async with claimed_store(config, writer, ambient=ambient, observer=observer, alone=alone) as store:
        yield store


@asynccontextmanager
async def worker_store(
    config: Config, seat: Seat, *, ambient: Ambient, observer: CommitObserver
) -> AsyncIterator[Store]:
    """The store, for a worker: its supervisor holds the lock and has prepared it (`prepare`)."""
    writer = Writer(seat.writer(node_name(config.server.data_dir, entropy=ambient.entropy)), ambient.new_id())
    async with claimed_store(config, writer, ambient=ambient, observer=observer, alone=False) as store:
        yield store


async def prepare(config: Config) -> tuple[bytes, ...]:
    """Before the workers of a server start: bring the store up to date, and shut out whoever wrote to it before.

    The lock is held. Returns the roots' certificates (DER).
    """
    async with _only_store(config, ambient=real_ambient()) as store:
        return tuple(item.issuer.certificate_der for item in await store.issuers.all() if item.is_root)


@asynccontextmanager
async def claimed_store(
    config: Config,
    writer: Writer,
    *,
    ambient: Ambient,
    alone: bool,
    observer: CommitObserver | None = None,
    path: Path | None = None,
) -> AsyncIterator[Store]:
    """The store, open for `writer`. `alone` says that nobody else can be writing to it; `path` is an SQLite file in its place."""
    journal = Journal(config.journal_dir, writer=writer.name, instance=writer.instance, clock=ambient.now)
    seal = CommitSeal(writer, journal, schema=len(read_steps()))
    store = Store(
        await open_database(config, seal, observer=observer, path=path),
        writer=writer,
    )
    try:
        await store.writers.claim(alone=alone)
        yield store
        try:
            await store.writers.release()
        except AcmecaError as error:  # a full disk: others see that it is gone a little later
            log.warning("the end of this process is not written down: %s", error)
    finally:
        await store.close()
        journal.close()


async def open_database(
    config: Config, seal: Seal, *, observer: CommitObserver | None = None, path: Path | None = None
) -> Database:
    """The database of a configuration, or the SQLite file at `path`."""
    path = path or config.database_path
    if path is not None:
        return await SqliteDatabase.open(path, seal=seal, observer=observer)
    return await PostgresDatabase.open(config.storage.url, seal=seal, observer=observer)


@asynccontextmanager
async def opened_nonces(config: Config, ambient: Ambient) -> AsyncIterator[Nonces]:
    """Where the database is a file, all processes are on this machine, and share a file of nonces too."""
    if config.database_path is not None:
        file_nonces = FileNonces.open(config.server.data_dir / NONCE_FILE, entropy=ambient.entropy)
        try:
            yield file_nonces
        finally:
            file_nonces.close()
    else:
        nonces = await PostgresNonces.open(config.storage.url, entropy=ambient.entropy)
        try:
            yield nonces
        finally:
            await nonces.close()


def require_own(data_dir: Path) -> None:
    """RULES §6: whoever can write to the data directory can take its keys' place, so that is the owner alone."""
    found = data_dir.stat()
    if found.st_uid != os.geteuid():
        raise AcmecaError(f"{data_dir} belongs to another user; run this as that user (uid {found.st_uid})")
    if found.st_mode & 0o022:
        raise AcmecaError(f"others can write to {data_dir}, and to the keys in it; run: chmod 700 {data_dir}")
