"""How large a database is: what every engine can say of its files and tables (`sqlite_sizes.py`), and how many rows are what.

Rule 1: nothing here takes long, however much there is. What would have to be read whole is estimated, and says so.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from acmeca.storage.database import Reader, Value
from acmeca.storage.times import to_seconds

_COUNTED: Final = 100_000  # of what retention would delete now; more is "more than"


@dataclass(frozen=True, slots=True)
class TableSize:
    """One table with its indexes. `is_estimate` says that both figures are about right, and no more."""

    name: str
    rows: int
    bytes: int
    is_estimate: bool


@dataclass(frozen=True, slots=True)
class FileSizes:
    """What the database takes on its disk, in bytes. `free` is the part of `database` that is used again before that grows."""

    database: int
    free: int
    log: int


class Sizes(Protocol):
    """An engine's word on its sizes. Only reads, beside a running server too. Raises `StorageError`."""

    async def files(self) -> FileSizes: ...

    async def tables(self) -> list[TableSize]:
        """Every table with its indexes, the largest first."""


@dataclass(frozen=True, slots=True)
class StatusCounts:
    """The certificates by what they are now; each counts once. `revoked` ones stay so after their expiry."""

    valid: int
    expired: int
    revoked: int
    unsigned: int

    @property
    def total(self) -> int:
        return self.valid + self.expired + self.revoked + self.unsigned


@dataclass(frozen=True, slots=True)
class Waiting:
    """What retention would delete now; `is_more` when that was not counted to its end."""

    orders: int
    certificates: int
    is_more: bool


class Counts:
    """Counts that an index answers: tens of milliseconds for a million certificates."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def by_status(self, now: datetime) -> StatusCounts:
        total = await self._count("SELECT COUNT(*) AS n FROM certificates")
        expired = await self._count("SELECT COUNT(*) AS n FROM certificates WHERE not_after < $1", to_seconds(now))
        revoked = await self._count("SELECT COUNT(*) AS n FROM certificates WHERE revoked_at IS NOT NULL")
        expired_revoked = await self._count(
            "SELECT COUNT(*) AS n FROM certificates WHERE revoked_at IS NOT NULL AND not_after < $1", to_seconds(now)
        )
        unsigned = await self._count(
            "SELECT COUNT(*) AS n FROM certificates WHERE signature IS NULL AND revoked_at IS NULL"
        )
        expired_unsigned = await self._count(
            "SELECT COUNT(*) AS n FROM certificates WHERE signature IS NULL AND revoked_at IS NULL AND not_after < $1",
            to_seconds(now),
        )
        only_expired = expired - expired_revoked - expired_unsigned
        return StatusCounts(
            valid=max(0, total - only_expired - revoked - unsigned),  # a server may have written in between
            expired=max(0, only_expired),
            revoked=revoked,
            unsigned=unsigned,
        )

    async def first_recorded(self) -> int | None:
        """When the first certificate that is still here was made, in Unix seconds."""
        row = await self._reader.fetch_one("SELECT MIN(recorded_at) AS first FROM certificates")
        return None if row is None or row["first"] is None else int(row["first"])

    async def recorded(self, *, since: datetime) -> int:
        return await self._count("SELECT COUNT(*) AS n FROM certificates WHERE recorded_at >= $1", to_seconds(since))

    async def waiting(self, now: datetime, *, orders: timedelta, certificates: timedelta | None) -> Waiting:
        """What was kept for longer than that. Of the certificates those are counted, too, that have a reason to stay."""
        found = await self._count(
            "SELECT COUNT(*) AS n FROM (SELECT 1 FROM orders WHERE status IN ('valid', 'invalid') AND expires_at < $1"
            " LIMIT $2) AS ended",
            to_seconds(now - orders),
            _COUNTED + 1,
        )
        forgotten = 0
        if certificates is not None:
            forgotten = await self._count(
                "SELECT COUNT(*) AS n FROM (SELECT 1 FROM certificates WHERE not_after < $1 LIMIT $2) AS expired",
                to_seconds(now - certificates),
                _COUNTED + 1,
            )
        return Waiting(min(found, _COUNTED), min(forgotten, _COUNTED), max(found, forgotten) > _COUNTED)

    async def _count(self, sql: str, *values: Value) -> int:
        row = await self._reader.fetch_one(sql, *values)
        return 0 if row is None else int(row["n"])
