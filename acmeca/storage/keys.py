"""Blocked keys: keys that somebody else may have. Nothing that they sign counts, and nothing is certified for them (RULES §1).

Rule 1: a key is blocked for good. Nothing here takes one off the list.
Rule 2: a key is known by the digest of its SubjectPublicKeyInfo, as certificates are kept by, and by its thumbprint, as accounts
are. Of a key that was blocked by its digest alone the thumbprint is empty until an account is found that has it; whoever has the
key itself at hand asks for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from acmeca import audit
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Entry, Reader, Row, Transaction
from acmeca.storage.times import from_seconds, to_seconds


@dataclass(frozen=True, slots=True)
class BlockedKey:
    """`serial` is that of the certificate by which it was blocked, `why` an administrator's reason."""

    spki_sha256: bytes
    thumbprint: str
    blocked_at: datetime
    serial: str | None = None
    why: str | None = None


async def is_blocked(reader: Reader, *, thumbprint: str, spki_sha256: bytes) -> bool:
    """Whether this key was blocked, by whatever it was known (rule 2)."""
    return (
        await reader.fetch_one(
            "SELECT 1 FROM blocked_keys WHERE thumbprint = $1 OR spki_sha256 = $2 LIMIT 1", thumbprint, spki_sha256
        )
        is not None
    )


async def block(tx: Transaction, key: BlockedKey, *, actor: str, writer: str, at: datetime) -> bool:
    """Block a key, or learn the thumbprint of one that is blocked; False when nothing was new."""
    changed = await tx.execute(
        "INSERT INTO blocked_keys (spki_sha256, thumbprint, blocked_at, serial, why) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (spki_sha256) DO UPDATE SET thumbprint = excluded.thumbprint"
        " WHERE blocked_keys.thumbprint = '' AND excluded.thumbprint <> ''",
        key.spki_sha256,
        key.thumbprint,
        to_seconds(key.blocked_at),
        key.serial,
        key.why,
    )
    if not changed:
        return False
    tx.journal(
        Entry(
            "blocked_key",
            {
                "spki_sha256": key.spki_sha256,
                "thumbprint": key.thumbprint,
                "blocked_at": to_seconds(key.blocked_at),
                "serial": key.serial,
            },
        )
    )
    if key.why is not None:
        tx.journal(Entry("blocked_key.why", {"spki_sha256": key.spki_sha256, "why": key.why}))
    event = audit.KeyBlocked(actor=actor, spki_sha256=key.spki_sha256.hex(), serial_hex=key.serial, why=key.why)
    await append(tx, writer=writer, at=at, event=event)
    return True


class BlockedKeys:
    """The table `blocked_keys`, for administrators."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def find(self, spki_sha256: bytes) -> BlockedKey | None:
        row = await self._database.fetch_one(f"SELECT {_COLUMNS} FROM blocked_keys WHERE spki_sha256 = $1", spki_sha256)
        return None if row is None else _blocked_key(row)

    async def newest(self, *, limit: int) -> Sequence[BlockedKey]:
        """What was blocked last, at most `limit`."""
        rows = await self._database.scan(
            f"SELECT {_COLUMNS} FROM blocked_keys ORDER BY blocked_at DESC, spki_sha256 LIMIT $1", limit
        )
        return [_blocked_key(row) for row in rows]

    async def block(self, key: BlockedKey, *, actor: str, at: datetime) -> bool:
        """Block a key, or learn the thumbprint of one that is blocked; False when nothing was new."""
        return await self._database.write(lambda tx: block(tx, key, actor=actor, writer=self._writer, at=at))


_COLUMNS = "spki_sha256, thumbprint, blocked_at, serial, why"


def _blocked_key(row: Row) -> BlockedKey:
    return BlockedKey(
        spki_sha256=row["spki_sha256"],
        thumbprint=row["thumbprint"],
        blocked_at=from_seconds(row["blocked_at"]),
        serial=row["serial"],
        why=row["why"],
    )
