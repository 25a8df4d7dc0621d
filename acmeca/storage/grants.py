"""Grants: what external account bindings allow (RFC 8555 §7.3.4), whether they may be used, and what they were used for.

Rule 1: a grant that is disabled or over stops its accounts at once, in every process: `has_ended` stands in each statement by
which an account acts, so that no grant is asked about earlier than its account.
Rule 2: a grant for single use is used up by having an account, which is asked in the transaction that makes the next one.
Rule 3: MAC keys are not kept. A grant has the digest of its own, which tells a server with another key file from a client with a
wrong key (`service/bindings.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from acmeca import audit
from acmeca.acme.objects import format_time
from acmeca.acme.states import AccountStatus
from acmeca.policy.grants import Grant, GrantStatus, dump_terms, load_grant
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Entry, Reader, Row, Transaction, Value
from acmeca.storage.errors import GrantRefusedError, StaleError
from acmeca.storage.times import from_seconds, to_seconds


@dataclass(frozen=True, slots=True)
class StoredGrant:
    """A grant as it is kept: with the SHA-256 digest of its MAC key."""

    grant: Grant
    mac_sha256: bytes


@dataclass(frozen=True, slots=True)
class UsedGrant:
    """A grant, how many accounts it has, whatever became of them, and how many certificates were issued to them."""

    stored: StoredGrant
    accounts: int
    certificates: int


@dataclass(frozen=True, slots=True)
class GrantedAccount:
    """An account of a grant, and how many certificates were issued to it."""

    id: str
    status: AccountStatus
    created_at: datetime
    certificates: int


class Grants:
    """The table `grants`."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def create(
        self, stored: StoredGrant, *, actor: str, at: datetime, fits: Callable[[Sequence[StoredGrant]], bool]
    ) -> None:
        """Store a new grant, if it fits beside the newest ones that there are (`newest`): `StaleError` otherwise."""
        grant = stored.grant

        async def body(tx: Transaction) -> None:
            if not fits(await _newest(tx)):
                raise StaleError("another server made a grant meanwhile")
            values: dict[str, Value] = {
                "id": grant.id,
                "owner": grant.owner,
                "terms": dump_terms(grant),
                "mac_sha256": stored.mac_sha256,
                "single_use": int(grant.single_use),
                "status": grant.status.value,
                "created_at": to_seconds(grant.created_at),
                "expires_at": None if grant.expires_at is None else to_seconds(grant.expires_at),
            }
            await tx.execute(
                "INSERT INTO grants (id, owner, terms, mac_sha256, single_use, status, created_at, expires_at)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                *values.values(),
            )
            tx.journal(Entry("grant", values))
            event = audit.GrantCreated(
                actor=actor,
                grant_id=grant.id,
                owner=grant.owner,
                names=grant.names,
                networks=tuple(map(str, grant.networks)),
                profiles=grant.profiles,
                lifetime_seconds=None if grant.lifetime is None else int(grant.lifetime.total_seconds()),
                quota=None if grant.quota is None else str(grant.quota),
                single_use=grant.single_use,
                preauthorized=grant.preauthorized,
                expires_at=None if grant.expires_at is None else format_time(grant.expires_at),
            )
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)

    async def by_id(self, grant_id: str) -> StoredGrant | None:
        return await _by_id(self._database, grant_id)

    async def of_account(self, account_id: str) -> Grant | None:
        """The grant that an account is bound to; None when it is bound to none, or that one is not there."""
        row = await self._database.fetch_one(
            f"SELECT {_COLUMNS} FROM grants WHERE id = (SELECT grant_id FROM accounts WHERE id = $1)", account_id
        )
        return None if row is None else _stored(row).grant

    async def newest(self) -> list[StoredGrant]:
        """The grants that were made last, in the same second, whatever became of them; none when there is none."""
        return await _newest(self._database)

    async def active(self) -> list[StoredGrant]:
        """Every grant that is not disabled."""
        rows = await self._database.scan(
            f"SELECT {_COLUMNS} FROM grants WHERE status = 'active' ORDER BY created_at, id"
        )
        return [_stored(row) for row in rows]

    async def all_used(self, *, owner: str | None = None, limit: int) -> list[UsedGrant]:
        """Grants with what they were used for, the newest first, at most `limit`; those of one owner, if one is named."""
        where = "" if owner is None else " WHERE owner = $2"
        rows = await self._database.scan(
            f"SELECT {_COLUMNS}, {_USES} FROM grants{where} ORDER BY created_at DESC, id LIMIT $1",
            limit,
            *(() if owner is None else (owner,)),
        )
        return [_used(row) for row in rows]

    async def used(self, grant_id: str) -> UsedGrant | None:
        """A grant with what it was used for."""
        rows = await self._database.scan(f"SELECT {_COLUMNS}, {_USES} FROM grants WHERE id = $1", grant_id)
        return _used(rows[0]) if rows else None

    async def accounts(self, grant_id: str, *, limit: int) -> list[GrantedAccount]:
        """The accounts of a grant, the newest first, at most `limit`."""
        rows = await self._database.scan(
            "SELECT a.id, a.status, a.created_at, (SELECT COUNT(*) FROM certificates c WHERE c.account_id = a.id"
            " AND c.signature IS NOT NULL) AS certificates FROM accounts a WHERE a.grant_id = $1"
            " ORDER BY a.created_at DESC, a.id LIMIT $2",
            grant_id,
            limit,
        )
        return [
            GrantedAccount(
                id=row["id"],
                status=AccountStatus(row["status"]),
                created_at=from_seconds(row["created_at"]),
                certificates=row["certificates"],
            )
            for row in rows
        ]

    async def disable(self, grant_id: str, *, actor: str, at: datetime) -> None:
        """Stop a grant and all its accounts; `StaleError` when it is disabled already, or not there."""

        async def body(tx: Transaction) -> None:
            stored = await _by_id(tx, grant_id)
            if stored is None or stored.grant.status is not GrantStatus.ACTIVE:
                raise StaleError(f"grant {grant_id} is not active")
            await _set_standing(tx, replace(stored.grant, status=GrantStatus.DISABLED))
            event = audit.GrantDisabled(actor=actor, grant_id=grant_id, owner=stored.grant.owner)
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)

    async def enable(self, grant_id: str, *, expires_at: datetime | None, actor: str, at: datetime) -> None:
        """Let a grant and its accounts go on, until `expires_at`; `StaleError` when it is not there."""

        async def body(tx: Transaction) -> None:
            stored = await _by_id(tx, grant_id)
            if stored is None:
                raise StaleError(f"grant {grant_id} is not there")
            await _set_standing(tx, replace(stored.grant, status=GrantStatus.ACTIVE, expires_at=expires_at))
            event = audit.GrantEnabled(
                actor=actor,
                grant_id=grant_id,
                owner=stored.grant.owner,
                expires_at=None if expires_at is None else format_time(expires_at),
            )
            await append(tx, writer=self._writer, at=at, event=event)

        await self._database.write(body)


_COLUMNS = "id, owner, terms, mac_sha256, single_use, status, created_at, expires_at"
_USES = (
    "(SELECT COUNT(*) FROM accounts a WHERE a.grant_id = grants.id) AS accounts,"
    " (SELECT COUNT(*) FROM accounts a JOIN certificates c ON c.account_id = a.id WHERE a.grant_id = grants.id"
    " AND c.signature IS NOT NULL) AS certificates"
)


def has_ended(column: str, now: str) -> str:
    """SQL that is true when the grant in `column` is disabled, over at `now` (a `$n`) or not there, and false for NULL (rule 1)."""
    return (
        f"({column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM grants WHERE grants.id = {column} AND grants.status = 'active'"
        f" AND (grants.expires_at IS NULL OR grants.expires_at > {now})))"
    )


async def require_unused(tx: Transaction, grant_id: str, *, at: datetime) -> None:
    """Raise `GrantRefusedError`, with the reason, for a grant by which no account can be made now."""
    stored = await _by_id(tx, grant_id)
    if stored is None:
        raise GrantRefusedError("it is not there")
    obstacle = stored.grant.obstacle(at)
    if obstacle is not None:
        raise GrantRefusedError(obstacle)
    if stored.grant.single_use and await tx.fetch_one("SELECT 1 FROM accounts WHERE grant_id = $1 LIMIT 1", grant_id):
        raise GrantRefusedError(
            "it was for one account, which has been made; ask the administrators of this CA for another"
        )


async def _set_standing(tx: Transaction, grant: Grant) -> None:
    """Keep the status and the end of a grant that is there."""
    expires_at = None if grant.expires_at is None else to_seconds(grant.expires_at)
    await tx.execute(
        "UPDATE grants SET status = $1, expires_at = $2, changes = changes + 1 WHERE id = $3",
        grant.status.value,
        expires_at,
        grant.id,
    )
    row = await tx.fetch_one("SELECT changes FROM grants WHERE id = $1", grant.id)
    changes = 0 if row is None else row["changes"]
    values: dict[str, Value] = {
        "id": grant.id,
        "status": grant.status.value,
        "expires_at": expires_at,
        "changes": changes,
    }
    tx.journal(Entry("grant.standing", values))


async def _by_id(reader: Reader, grant_id: str) -> StoredGrant | None:
    row = await reader.fetch_one(f"SELECT {_COLUMNS} FROM grants WHERE id = $1", grant_id)
    return None if row is None else _stored(row)


async def _newest(reader: Reader) -> list[StoredGrant]:
    rows = await reader.fetch_all(
        f"SELECT {_COLUMNS} FROM grants WHERE created_at = (SELECT MAX(created_at) FROM grants) ORDER BY id"
    )
    return [_stored(row) for row in rows]


def _used(row: Row) -> UsedGrant:
    return UsedGrant(_stored(row), row["accounts"], row["certificates"])


def _stored(row: Row) -> StoredGrant:
    grant = load_grant(
        row["terms"],
        id_=row["id"],
        owner=row["owner"],
        single_use=bool(row["single_use"]),
        status=row["status"],
        created_at=from_seconds(row["created_at"]),
        expires_at=from_seconds(row["expires_at"]),
    )
    return StoredGrant(grant, row["mac_sha256"])
