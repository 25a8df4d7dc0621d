"""A restored database takes the place of the one that was there, which is moved aside: whole, or not at all.

Rule 1: one rename decides. `NAME.restoring-STAMP` is a database that is being built and means nothing; as `NAME.restored-STAMP` it
is complete and durable, and whoever opens the database next (under the store's lock) brings it into its place.
Rule 2: a log (`-wal`) goes with the database that it belongs to. Left behind, SQLite would put its pages into the new one.
Rule 3: what was there is kept as `NAME.before-STAMP`, and never deleted by us.
"""

import re
from pathlib import Path
from typing import Final

from acmeca.storage.backup import sync_directory

_BESIDE: Final = ("-wal", "-shm", "-journal")
_STAMP: Final = r"\d{8}T\d{6}Z"


def building_path(database: Path, stamp: str) -> Path:
    """Where a database is built. `stamp` is a moment, as `20261125T220412Z`."""
    return database.with_name(f"{database.name}.restoring-{stamp}")


def aside_path(database: Path, stamp: str) -> Path:
    """Where the database that was there goes."""
    return database.with_name(f"{database.name}.before-{stamp}")


def remove_leftovers(database: Path) -> None:
    """Delete what was being built when its process was killed. For who holds the store's lock."""
    for path in _stamped(database, "restoring", beside=True):
        path.unlink(missing_ok=True)


def decide(database: Path, stamp: str) -> Path | None:
    """Put a complete and durable database into its place; returns where the former one is, None when there was none."""
    building = building_path(database, stamp)
    for suffix in (*_BESIDE, "-turns"):
        building.with_name(building.name + suffix).unlink(missing_ok=True)
    building.replace(_decided_path(database, stamp))  # Rule 1
    sync_directory(database.parent)
    return finish(database)


def is_decided(database: Path) -> bool:
    """Whether a restored database waits to be brought into its place."""
    return bool(_stamped(database, "restored"))


def finish(database: Path) -> Path | None:
    """Bring a restored database into its place, when one waits; harmless when none does. Returns where the former one is.

    It may be killed after each step, and is run again. For who holds the store's lock.
    """
    waiting = _stamped(database, "restored")
    if not waiting:
        return None
    restored = waiting[-1]
    aside = aside_path(database, restored.name.rpartition("-")[2])
    # Step 1: the former one steps aside.
    if database.exists() and not aside.exists():
        database.rename(aside)
    # Step 2: its log follows it. One that a mere reader has made since is of no use to anybody.
    for suffix in _BESIDE:
        log, target = (path.with_name(path.name + suffix) for path in (database, aside))
        if target.exists():
            log.unlink(missing_ok=True)
        elif log.exists():
            log.rename(target)
    sync_directory(database.parent)
    # Step 3: the new one.
    restored.replace(database)
    sync_directory(database.parent)
    return aside if aside.exists() else None


def _decided_path(database: Path, stamp: str) -> Path:
    return database.with_name(f"{database.name}.restored-{stamp}")


def _stamped(database: Path, what: str, *, beside: bool = False) -> list[Path]:
    """The files of a kind beside the database, the oldest first."""
    name = re.compile(rf"{re.escape(database.name)}\.{what}-{_STAMP}" + ("(-[a-z]+)?" if beside else ""))
    if not database.parent.is_dir():
        return []
    return sorted(path for path in database.parent.iterdir() if name.fullmatch(path.name))
