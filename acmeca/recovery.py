"""Backup and restore: what is done to a CA's storage as a whole, composed like `app`.

Rule 1: a backup changes nothing and waits for nobody; it works beside a server and without one.
Rule 2: a restore works under the store's lock, so that no server runs meanwhile. Until it is decided (`storage/placement.py`)
nothing that was there is touched, but for the journal, which may hold that the restore was to begin.
Rule 3: what is known to be missing is told before anything is decided, and somebody has to say that it may be forgotten.
"""

import asyncio
import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from acmeca import __version__, audit
from acmeca.acme.objects import format_time
from acmeca.app import NONCE_FILE, claimed_store, require_own
from acmeca.audit import is_genuine
from acmeca.config import Config
from acmeca.errors import AcmecaError, Conflict
from acmeca.keystore import pem
from acmeca.service.ambient import Ambient
from acmeca.service.bindings import KEY_PATH as EAB_KEY
from acmeca.service.own_certificates import LISTENER_FILE
from acmeca.storage import placement
from acmeca.storage.audit import fetch_heads
from acmeca.storage.audit_heads import HEADS_FILE, read_heads
from acmeca.storage.backup import (
    Backup,
    Circumstances,
    KeyFile,
    Manifest,
    OnProgress,
    opened_backup,
    sync_directory,
    write_backup,
)
from acmeca.storage.errors import StorageError
from acmeca.storage.grants import Grants
from acmeca.storage.issuers import Issuers
from acmeca.storage.journal import Segment, segments
from acmeca.storage.journals import Journals, gather
from acmeca.storage.lock import StoreLock
from acmeca.storage.node import NODE_FILE, node_name
from acmeca.storage.pruning import superfluous
from acmeca.storage.readonly import open_read_only
from acmeca.storage.restore import KnownHead, Restored, build
from acmeca.storage.tables import Sum
from acmeca.storage.transfer import Place, copy_to_server, copy_whole, fill_from, read_place, require_empty_server
from acmeca.storage.writers import BEAT, Writer

_KEY_DIRECTORIES: Final = ("keys", "root")
_NOTED_LOSSES: Final = 10  # in the audit's event
_STAMP: Final = "%Y%m%dT%H%M%SZ"


# --- backup -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A backup that was made: its manifest, its length, and the segments of the journal that it makes superfluous."""

    manifest: Manifest
    length: int
    superfluous: tuple[Segment, ...]


def make_backup(
    config: Config, target: Path, *, with_keys: bool, may_replace: bool, now: datetime, on_progress: OnProgress
) -> Made:
    """Write a backup of the CA. Raises `AcmecaError`."""
    place = place_of(config)
    _require_elsewhere(config, target)
    require_database(config)
    circumstances = Circumstances(
        created_at=int(now.timestamp()),
        acmeca=__version__,
        source=place.shown,
        journal_dir=config.journal_dir,
        journals=_journal_lengths(config),
        files=read_key_files(config.server.data_dir) if with_keys else None,
    )
    manifest = write_backup(target, fill_from(place), circumstances, may_replace=may_replace, on_progress=on_progress)
    on_progress("looking at the journal", 0, 0)
    with closing(sqlite3.connect(f"{target.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as backup:
        found = segments(config.journal_dir)
        gone = tuple(superfluous(found, backup, running=asyncio.run(running_instances(place))))
    return Made(manifest=manifest, length=target.stat().st_size, superfluous=gone)


def place_of(config: Config) -> Place:
    """Where the data of a configuration is."""
    return Place.parse(config.storage.url, base=config.server.data_dir)


def require_database(config: Config) -> None:
    """Raise `AcmecaError` when there is no file to look into. What is in a server, is seen when it is asked."""
    path = config.database_path
    if path is not None and placement.is_decided(path):
        raise AcmecaError("a restore was interrupted; the next start of the server finishes it (acmeca serve)")
    if path is not None and not path.exists():
        raise AcmecaError(
            f"there is no CA in {config.server.data_dir}; make one with acmeca init, or restore one with acmeca restore"
        )


async def running_instances(place: Place) -> frozenset[str]:
    """The instances that write to a database, or were killed and have not been followed by another."""
    async with read_place(place) as reader:
        rows = await reader.fetch_all("SELECT instance FROM writers WHERE ended = 0 AND instance <> ''")
    return frozenset(row["instance"] for row in rows)


def read_key_files(data_dir: Path) -> list[KeyFile]:
    """The keys of issuers and roots, the responders' and the listener's credentials, as they are."""
    paths = [data_dir / LISTENER_FILE]
    for name in _KEY_DIRECTORIES:
        paths += sorted((data_dir / name).rglob("*"))
    return [
        KeyFile(str(path.relative_to(data_dir)), stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        for path in paths
        if path.is_file() and not path.name.endswith(".tmp")
    ]


def _require_elsewhere(config: Config, target: Path) -> None:
    """A backup among what it is a backup of would be lost with it, or be taken for something else."""
    folder = target.absolute().parent.resolve()
    if not folder.is_dir():
        raise AcmecaError(f"there is no directory {folder} to write the backup to")
    for taken in (
        config.journal_dir.resolve(),
        *((config.server.data_dir / name).resolve() for name in _KEY_DIRECTORIES),
    ):
        if folder == taken or taken in folder.parents:
            raise AcmecaError(f"{folder} holds what the CA works with; write the backup to another directory")
    own = {config.server.data_dir.resolve()}
    if config.database_path is not None:
        own.add(config.database_path.resolve().parent)
    if folder in own:
        raise AcmecaError(
            f"{folder} is the CA's own directory, and a backup in it is lost with it; write it to another disk"
        )


def _journal_lengths(config: Config) -> dict[str, int]:
    lengths = {}
    for segment in segments(config.journal_dir):
        with suppress(FileNotFoundError):  # pruned meanwhile
            lengths[segment.path.name] = segment.path.stat().st_size
    return lengths


def prune_journal(config: Config, backup: Path, *, is_trial: bool, on_progress: OnProgress) -> list[tuple[Path, int]]:
    """Remove what a backup makes superfluous (`storage/pruning.py`); returns the files with their lengths.

    The backup is this CA's, and whole. Raises `AcmecaError`.
    """
    require_database(config)
    found = segments(config.journal_dir)
    running = asyncio.run(running_instances(place_of(config)))
    with opened_backup(backup, on_progress=on_progress) as opened:
        gone = list(superfluous(found, opened.connection, running=running))
    lengths = [(segment.path, segment.path.stat().st_size) for segment in gone]
    if not is_trial:
        for segment in gone:
            segment.path.unlink()
        sync_directory(config.journal_dir)
    return lengths


# --- restore ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A restore that was done, or tried (`is_trial`).

    `aside` is where the former database is; `missing_keys` are the files that issuers and grants rest on and that are not there;
    `keys` are those that were put there, `kept_keys` those of the backup that differ from what is there, which stayed.
    """

    restored: Restored
    aside: Path | None
    missing_keys: tuple[str, ...]
    keys: tuple[str, ...]
    kept_keys: tuple[str, ...]
    is_trial: bool


async def restore(
    config: Config,
    file: Path,
    *,
    journal_dirs: Sequence[Path],
    without_journals: bool,
    is_trial: bool,
    may_lose: Callable[[Restored], bool],
    actor: str,
    ambient: Ambient,
    on_progress: OnProgress = lambda what, done, total: None,  # noqa: ARG005  (nobody looks)
) -> Placed:
    """Put the CA of a backup, with what journals say was done since, into the place of the one that is there.

    `may_lose` is asked when something is known to be missing. A trial builds and looks, beside a running server, and changes
    nothing. Raises `AcmecaError`; then what was there is there still.
    """
    data_dir, database = config.server.data_dir, config.database_path
    if is_trial:
        return await _try(config, file, journal_dirs, without_journals, now=ambient.now(), on_progress=on_progress)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_own(data_dir)
    with StoreLock(data_dir):
        if database is not None and placement.is_decided(database):
            aside = placement.finish(database)
            raise Conflict(
                "an earlier restore was interrupted and is finished now"
                + (f" (the database before it is {aside})" if aside else "")
                + "; run acmeca doctor and acmeca serve, or this command again to restore once more"
            )
        # What is put into a server is built in a file too, of the name that the server's would have.
        place = database or data_dir / "acmeca.db"
        if database is None:
            await require_empty_server(place_of(config))
        placement.remove_leftovers(place)
        stamp = f"{ambient.now():{_STAMP}}"
        building = placement.building_path(place, stamp)
        with opened_backup(file, on_progress=on_progress) as backup, _removed_on_failure(building):
            known = await _known_heads(config)
            journals = None if without_journals else _gather(config, journal_dirs)
            on_progress("replaying", 0, 0)
            restored = await build(backup, building, journals, known_heads=known)
            if restored.losses and not may_lose(restored):
                raise AcmecaError(
                    "the restore is incomplete and was not done; nothing was changed. Find the journals that are missing, or say "
                    "--accept-loss"
                )
            keys, kept_keys = _put_keys(data_dir, backup)
            if not restored.is_complete:
                # What is found again one day must not meet records of the same places: the chains go on under another name.
                (data_dir / NODE_FILE).unlink(missing_ok=True)
            await _finish(config, building, restored, actor=actor, ambient=ambient)
            missing = await _missing_keys(config, building)
            aside = None
            if database is not None:
                _sync(building)
                aside = placement.decide(database, stamp)
                (data_dir / NONCE_FILE).unlink(missing_ok=True)
            else:
                await _put_into_server(config, building, on_progress)
    return Placed(
        restored=restored,
        aside=aside,
        missing_keys=missing,
        keys=keys,
        kept_keys=kept_keys,
        is_trial=False,
    )


async def _put_into_server(config: Config, building: Path, on_progress: OnProgress) -> None:
    """Fill the server's database, which has to be empty; it is whole afterwards, or still empty."""
    built = Place(building, "", str(building))
    async with read_place(built) as source:
        await copy_to_server(source, place_of(config), on_progress=on_progress)
    placement.remove_leftovers(config.server.data_dir / "acmeca.db")


async def _try(
    config: Config,
    file: Path,
    journal_dirs: Sequence[Path],
    without_journals: bool,  # noqa: FBT001  (handed on)
    *,
    now: datetime,
    on_progress: OnProgress,
) -> Placed:
    """In a temporary directory, which wants as much room as the database (TMPDIR)."""
    with tempfile.TemporaryDirectory(prefix="acmeca-restore-") as folder:
        with opened_backup(file, on_progress=on_progress) as backup:
            known = await _known_heads(config)  # before the journals, which grow while a server runs
            journals = None if without_journals else _gather(config, journal_dirs)
            on_progress("replaying", 0, 0)
            restored = await build(backup, Path(folder) / f"{now:{_STAMP}}.db", journals, known_heads=known)
        return Placed(restored=restored, aside=None, missing_keys=(), keys=(), kept_keys=(), is_trial=True)


def _gather(config: Config, journal_dirs: Sequence[Path]) -> Journals:
    for directory in journal_dirs:
        if not directory.is_dir():
            raise AcmecaError(f"--journal {directory}: there is no such directory")
    return gather([config.journal_dir, *journal_dirs])


# Revocations one by one make two CRLs a second, and each takes a number: so numbers that were lost may lie ahead of the clock.
_LEAD: Final = 86_400


async def _finish(config: Config, building: Path, restored: Restored, *, actor: str, ambient: Ambient) -> None:
    """What the restored CA itself has to say and to do: the audit's record, and a CRL number that nobody has seen.

    A CRL that is begun and not published makes the next start publish one, whatever its schedule (`Status.publish_if_due`).
    """
    writer = Writer(node_name(config.server.data_dir, entropy=ambient.entropy), ambient.new_id())
    async with claimed_store(config, writer, ambient=ambient, alone=True, path=building) as store:
        event = audit.StoreRestored(
            actor=actor,
            backup_sha256=restored.sha256,
            backup_at=format_time(datetime.fromtimestamp(restored.manifest.created_at, UTC)),
            complete="yes" if restored.is_complete else "no",
            replayed=restored.tally.commits,
            losses=restored.losses[:_NOTED_LOSSES],
        )
        await store.note(event, at=ambient.now())
        for stored in await store.issuers.all():
            if not stored.is_root:
                now = ambient.now()
                await store.crls.begin(
                    stored.issuer.id,
                    this_update=now,
                    next_update=now + timedelta(seconds=1),
                    actor=actor,
                    lead=0 if restored.is_complete else _LEAD,
                )


def _put_keys(data_dir: Path, backup: Backup) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write the key files that are not there; what is there is never replaced."""
    written, differing = [], []
    for file in backup.files():
        path = data_dir / file.path
        is_ours = file.path == LISTENER_FILE or file.path.partition("/")[0] in _KEY_DIRECTORIES
        if not is_ours or data_dir.resolve() not in path.resolve().parents:
            raise AcmecaError(f"the backup has a file {file.path!r} that belongs elsewhere; it was not made by acmeca")
        if path.exists():
            if path.read_bytes() != file.content:
                differing.append(file.path)
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem.write_durably(path, file.content, mode=file.mode & 0o700)
        written.append(file.path)
    return tuple(written), tuple(differing)


async def _missing_keys(config: Config, path: Path) -> tuple[str, ...]:
    """The keys that the issuers and grants of a database rest on, and that are not there."""
    with open_read_only(path) as database:
        stored = await Issuers(database, writer="").all()
        grants = await Grants(database, writer="").active()
    wanted = [item.key_reference for item in stored if item.key_reference is not None]
    wanted += [EAB_KEY] if grants else []
    return tuple(reference for reference in wanted if not (config.server.data_dir / reference).exists())


async def _known_heads(config: Config) -> list[KnownHead]:
    """Ends of chains that are known beside the journals: signed ones in their file, and those of the database that is there."""
    path, database_path = config.server.data_dir / HEADS_FILE, config.database_path
    known = [
        KnownHead(signed.head, path.name, signed.signed_at)
        for _, signed in read_heads(path).heads
        if is_genuine(signed)
    ]
    if database_path is not None and database_path.exists():
        present = f"the database that is there ({database_path.name})"
        # It may be damaged: that is why it is replaced.
        with suppress(StorageError), open_read_only(database_path) as database:
            known += [KnownHead(head, present) for head in await fetch_heads(database)]
    return known


@contextmanager
def _removed_on_failure(building: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for suffix in ("", "-wal", "-shm", "-turns", "-journal"):
            building.with_name(building.name + suffix).unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# --- copy ---------------------------------------------------------------------------------------------------------


async def copy_storage(
    source: Place, target: Place, *, beside_writers: bool, on_progress: OnProgress
) -> Mapping[str, Sum]:
    """Copy a CA's whole storage to another place, which is new or empty; returns what each table came to.

    `beside_writers` allows it while a server writes to the source: the copy is of one moment, and does not have what is written
    later. Raises `AcmecaError`.
    """
    if source == target:
        raise AcmecaError("source and target are the same database")
    if source.path is not None and not source.path.exists():
        raise AcmecaError(f"there is no database {source.path}")
    if not beside_writers:
        on_progress("looking who writes", 0, 0)
        await _require_quiet(source)
    sums = await copy_whole(source, target, on_progress=on_progress)
    if not beside_writers and await _last_commits(source) != await _last_commits(target):
        raise AcmecaError(
            f"something was written to {source.shown} while it was copied; the copy in {target.shown} does not have it: stop all "
            "servers, remove the copy and make it again"
        )
    return sums


async def _require_quiet(source: Place) -> None:
    """Raise `Conflict` when somebody writes: a server commits something every few seconds, if only a sign of life."""
    if not await running_instances(source):
        return
    before = await _last_commits(source)
    await asyncio.sleep(2 * BEAT)
    if await _last_commits(source) != before:
        raise Conflict(
            f"a server writes to {source.shown}: stop it first, or copy what is there now with --beside-servers (what they write "
            "later is not in the copy)"
        )


async def _last_commits(place: Place) -> dict[str, int]:
    async with read_place(place) as reader:
        rows = await reader.fetch_all("SELECT name, last_commit FROM writers")
    return {row["name"]: row["last_commit"] for row in rows}
