"""Leases: a duty that is enough to be done once is one instance's at a time.

Rule 1: a lease has no end in time. It is taken over from an instance that has ended, or whose commits have stood still for so
long that it counts as gone (`writers.Others`).
Rule 2: the fence rises with each change of hands. What is done under a lease asks for it in its own transaction
(`require_lease`): an instance that was stopped and woke up again finds that its lease is another's.
"""

from dataclasses import dataclass

from acmeca.storage.database import Database, Row, Transaction
from acmeca.storage.errors import StaleError


@dataclass(frozen=True, slots=True)
class Lease:
    """A duty in the hand of an instance. `instance` is empty for one that was given back."""

    name: str
    instance: str
    fence: int


class Leases:
    """The table `leases`."""

    def __init__(self, database: Database, *, instance: str) -> None:
        self._database = database
        self._instance = instance

    async def current(self, name: str) -> Lease | None:
        """Who has the duty; None when nobody ever had."""
        row = await self._database.fetch_one("SELECT name, instance, fence FROM leases WHERE name = $1", name)
        return None if row is None else _lease(row)

    async def take(self, name: str, *, over: Lease | None) -> Lease | None:
        """Take a duty, provided that it still is as it was seen (`over`); None when somebody else was faster."""

        async def body(tx: Transaction) -> Lease | None:
            if over is None:
                changed = await tx.execute(
                    "INSERT INTO leases (name, instance, fence) VALUES ($1, $2, 1) ON CONFLICT (name) DO NOTHING",
                    name,
                    self._instance,
                )
            else:
                changed = await tx.execute(
                    "UPDATE leases SET instance = $1, fence = fence + 1 WHERE name = $2 AND instance = $3 AND fence = $4",
                    self._instance,
                    name,
                    over.instance,
                    over.fence,
                )
            if changed != 1:
                return None
            return Lease(name, self._instance, 1 if over is None else over.fence + 1)

        return await self._database.write(body)


async def require_lease(tx: Transaction, lease: Lease | None) -> None:
    """Raise `StaleError` unless the lease is still held; what is done without a lease (None) may always be done."""
    if lease is None:
        return
    held = await tx.fetch_one(
        "SELECT 1 FROM leases WHERE name = $1 AND instance = $2 AND fence = $3", lease.name, lease.instance, lease.fence
    )
    if held is None:
        raise StaleError(f"the duty {lease.name} is another process's now")


def _lease(row: Row) -> Lease:
    return Lease(row["name"], row["instance"], row["fence"])
