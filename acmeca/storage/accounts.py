"""Accounts: found by id or by key, made once per key, never deleted.

Rule 1: one key, one account (RFC 8555 §7.3.1), held by the UNIQUE thumbprint.
Rule 2: a deactivated account keeps its row and its key, so that the key is refused for ever (RULES §2).
Rule 3: whoever changes an account's key names the one that it has, and all that speaks against the new one is asked in the
same transaction. Nothing remembers the old one: it may make an account of its own.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from acmeca import audit
from acmeca.acme.jwk import PublicKey
from acmeca.acme.objects import Account
from acmeca.acme.states import ACCOUNT_MOVES, AccountStatus, require_move
from acmeca.policy.grants import GrantStatus, describe_end
from acmeca.policy.limits import Taking
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Entry, Reader, Row, Transaction
from acmeca.storage.errors import KeyRefusedError, KeyTakenError, StaleError
from acmeca.storage.grants import has_ended, require_unused
from acmeca.storage.keys import is_blocked
from acmeca.storage.limits import take
from acmeca.storage.times import from_seconds, to_seconds


@dataclass(frozen=True, slots=True)
class Standing:
    """An account, and what besides its own status may keep it from acting: its key was blocked, or its grant has ended."""

    account: Account
    is_blocked: bool
    grant_status: GrantStatus | None  # None: there is no grant of this id, or the account has none
    grant_expires_at: datetime | None

    def grant_obstacle(self, now: datetime) -> str | None:
        """Why its grant is of no use now, or None when it is, or it has none."""
        if self.account.grant_id is None:
            return None
        if self.grant_status is None:
            return "it was lost with a database; register with another one"
        return describe_end(self.grant_status, self.grant_expires_at, now)


class Accounts:
    """The table `accounts`. Reads see what is committed; each write is one transaction with its audit event."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def by_id(self, account_id: str) -> Account | None:
        return await _by_id(self._database, account_id)

    async def standing(self, account_id: str) -> Standing | None:
        """The account of this id, of whatever status."""
        row = await self._database.fetch_one(
            f"SELECT {_COLUMNS}, EXISTS (SELECT 1 FROM blocked_keys b WHERE b.thumbprint = a.thumbprint) AS is_blocked,"
            " g.status AS grant_status, g.expires_at AS grant_expires_at"
            " FROM accounts a LEFT JOIN grants g ON g.id = a.grant_id WHERE a.id = $1",
            account_id,
        )
        if row is None:
            return None
        return Standing(
            _account(row),
            bool(row["is_blocked"]),
            None if row["grant_status"] is None else GrantStatus(row["grant_status"]),
            from_seconds(row["grant_expires_at"]),
        )

    async def jwks(self) -> list[str]:
        """The keys of all accounts. Takes as long as there are many."""
        return [row["jwk"] for row in await self._database.scan("SELECT jwk FROM accounts")]

    async def by_thumbprint(self, thumbprint: str) -> Account | None:
        return await _by_thumbprint(self._database, thumbprint)

    async def create(self, account: Account, *, spki_sha256: bytes, takings: Sequence[Taking] = ()) -> Account:
        """Store a new account, or return the one that has its key already (§7.3.1), whoever came first.

        A key that was certified raises `KeyRefusedError`: certificate keys and account keys are never the same (RFC 8555
        §11.1); so does one that was blocked. `spki_sha256` is the digest of its SubjectPublicKeyInfo, as certificates are kept by. An
        account of a grant by which none can be made any more raises `GrantRefusedError`: of all that come for one single use, one is
        made. `takings` are the limits that a new account uses; `LimitReachedError` when one has no room.
        """

        async def body(tx: Transaction) -> Account:
            existing = await _by_thumbprint(tx, account.thumbprint)
            if existing is not None:
                return existing
            await _require_not_certified(tx, spki_sha256)
            await _require_not_blocked(tx, account.thumbprint, spki_sha256)
            if account.grant_id is not None:
                await require_unused(tx, account.grant_id, at=account.created_at)
            await take(tx, takings, at=account.created_at)
            await insert_account(tx, account)
            event = audit.AccountCreated(
                actor=audit.account_actor(account.id),
                account_id=account.id,
                thumbprint=account.thumbprint,
                contact=account.contact,
                grant_id=account.grant_id,
                terms_of_service=account.terms_of_service,
            )
            await append(tx, writer=self._writer, at=account.created_at, event=event)
            return account

        return await self._database.write(body)

    async def replace_contact(self, account_id: str, contact: tuple[str, ...], *, at: datetime) -> Account:
        """Set the contacts of a valid account (§7.3.2); `StaleError` when it is valid no longer."""

        async def body(tx: Transaction) -> Account:
            changed = await tx.execute(
                "UPDATE accounts SET contact = $1 WHERE id = $2 AND status = 'valid'", json.dumps(contact), account_id
            )
            if changed != 1:
                raise StaleError(f"account {account_id} is not valid")
            tx.journal(Entry("contact", {"id": account_id, "contact": json.dumps(contact)}))
            event = audit.AccountUpdated(actor=audit.account_actor(account_id), account_id=account_id, contact=contact)
            await append(tx, writer=self._writer, at=at, event=event)
            return await _existing(tx, account_id)

        return await self._database.write(body)

    async def replace_key(self, account: Account, key: PublicKey, *, spki_sha256: bytes, at: datetime) -> Account:
        """Give an account another key in the place of the one that it has in `account` (§7.3.5).

        `KeyTakenError` when an account has the new key, be it this one; `KeyRefusedError` when it was certified or blocked.
        `StaleError` when the account is valid no longer, has another key by now, or the key that it has was blocked.
        """

        async def body(tx: Transaction) -> Account:
            taken = await _by_thumbprint(tx, key.thumbprint)
            if taken is not None:
                raise KeyTakenError(taken.id)
            await _require_not_blocked(tx, key.thumbprint, spki_sha256)
            await _require_not_certified(tx, spki_sha256)
            changed = await tx.execute(
                "UPDATE accounts SET thumbprint = $1, jwk = $2 WHERE id = $3 AND thumbprint = $4 AND status = 'valid'"
                " AND NOT EXISTS (SELECT 1 FROM blocked_keys b WHERE b.thumbprint = accounts.thumbprint)",
                key.thumbprint,
                key.jwk,
                account.id,
                account.thumbprint,
            )
            if changed != 1:
                raise StaleError(f"account {account.id} is not valid, or its key is another one by now")
            tx.journal(
                Entry(
                    "account.key",
                    {
                        "id": account.id,
                        "old_thumbprint": account.thumbprint,
                        "thumbprint": key.thumbprint,
                        "jwk": key.jwk,
                    },
                )
            )
            event = audit.AccountKeyChanged(
                actor=audit.account_actor(account.id),
                account_id=account.id,
                old_thumbprint=account.thumbprint,
                thumbprint=key.thumbprint,
            )
            await append(tx, writer=self._writer, at=at, event=event)
            return await _existing(tx, account.id)

        return await self._database.write(body)

    async def agree(self, account_id: str, terms_of_service: str, *, at: datetime) -> Account:
        """Keep what a valid account's holder agreed to (§7.3.3); `StaleError` when it is valid no longer."""

        async def body(tx: Transaction) -> Account:
            changed = await tx.execute(
                "UPDATE accounts SET terms_of_service = $1 WHERE id = $2 AND status = 'valid'",
                terms_of_service,
                account_id,
            )
            if changed != 1:
                raise StaleError(f"account {account_id} is not valid")
            tx.journal(Entry("account.terms", {"id": account_id, "terms_of_service": terms_of_service}))
            event = audit.TermsAgreed(
                actor=audit.account_actor(account_id), account_id=account_id, terms_of_service=terms_of_service
            )
            await append(tx, writer=self._writer, at=at, event=event)
            return await _existing(tx, account_id)

        return await self._database.write(body)

    async def deactivate(self, account_id: str, *, at: datetime) -> Account:
        """End an account for good (§7.3.6); `StaleError` when it is valid no longer.

        "The server … SHOULD cancel any pending operations authorized by the account's key": its open orders become
        invalid and its open authorizations are deactivated in the same transaction.
        """
        require_move(ACCOUNT_MOVES, AccountStatus.VALID, AccountStatus.DEACTIVATED)

        async def body(tx: Transaction) -> Account:
            if not await shut_account(tx, account_id):
                raise StaleError(f"account {account_id} is not valid")
            event = audit.AccountDeactivated(actor=audit.account_actor(account_id), account_id=account_id)
            await append(tx, writer=self._writer, at=at, event=event)
            return await _existing(tx, account_id)

        return await self._database.write(body)


def may_act(now: str) -> str:
    """SQL that is true for a row of `accounts` that may act at `now` (a `$n`): it is valid, its grant is not over, its key is not blocked.

    It stands in the statements by which an account gets something, for all of that may change while a request is under way.
    """
    return (
        f"accounts.status = 'valid' AND NOT {has_ended('accounts.grant_id', now)}"
        " AND NOT EXISTS (SELECT 1 FROM blocked_keys WHERE blocked_keys.thumbprint = accounts.thumbprint)"
    )


_COLUMNS = "a.id, a.thumbprint, a.jwk, a.status, a.contact, a.created_at, a.grant_id, a.terms_of_service"


async def insert_account(tx: Transaction, account: Account) -> None:
    await tx.execute(
        "INSERT INTO accounts (id, thumbprint, jwk, status, contact, created_at, grant_id, terms_of_service)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        account.id,
        account.thumbprint,
        account.jwk,
        account.status.value,
        json.dumps(account.contact),
        to_seconds(account.created_at),
        account.grant_id,
        account.terms_of_service,
    )
    tx.journal(
        Entry(
            "account",
            {
                "id": account.id,
                "thumbprint": account.thumbprint,
                "jwk": account.jwk,
                "status": account.status.value,
                "contact": json.dumps(account.contact),
                "created_at": to_seconds(account.created_at),
            },
        )
    )
    # Entries of their own: what a kind consists of never changes, so that older journals can be replayed.
    if account.grant_id is not None:
        tx.journal(Entry("account.grant", {"id": account.id, "grant_id": account.grant_id}))
    if account.terms_of_service is not None:
        tx.journal(Entry("account.terms", {"id": account.id, "terms_of_service": account.terms_of_service}))


async def _require_not_blocked(tx: Transaction, thumbprint: str, spki_sha256: bytes) -> None:
    if await is_blocked(tx, thumbprint=thumbprint, spki_sha256=spki_sha256):
        raise KeyRefusedError("it was reported as compromised; make a new one")


async def shut_account(tx: Transaction, account_id: str) -> bool:
    """Deactivate a valid account and all that it has open; False when it is not valid."""
    changed = await tx.execute(
        "UPDATE accounts SET status = 'deactivated' WHERE id = $1 AND status = 'valid'", account_id
    )
    if changed != 1:
        return False
    await tx.execute(
        "UPDATE orders SET status = 'invalid' WHERE account_id = $1 AND status IN ('pending', 'ready')",
        account_id,
    )
    await tx.execute(
        "UPDATE authorizations SET status = 'deactivated' WHERE account_id = $1 AND status IN ('pending', 'valid')",
        account_id,
    )
    tx.journal(Entry("account.deactivated", {"id": account_id}))
    return True


async def _require_not_certified(tx: Transaction, spki_sha256: bytes) -> None:
    """RFC 8555 §11.1: certificate keys and account keys are never the same."""
    if await tx.fetch_one("SELECT 1 FROM certificates WHERE spki_sha256 = $1", spki_sha256) is not None:
        raise KeyRefusedError("it is the key of a certificate; make a new key for the account")


async def _by_id(reader: Reader, account_id: str) -> Account | None:
    row = await reader.fetch_one(f"SELECT {_COLUMNS} FROM accounts a WHERE a.id = $1", account_id)
    return None if row is None else _account(row)


async def _by_thumbprint(reader: Reader, thumbprint: str) -> Account | None:
    row = await reader.fetch_one(f"SELECT {_COLUMNS} FROM accounts a WHERE a.thumbprint = $1", thumbprint)
    return None if row is None else _account(row)


async def _existing(reader: Reader, account_id: str) -> Account:
    account = await _by_id(reader, account_id)
    if account is None:
        raise StaleError(f"account {account_id} is gone")
    return account


def _account(row: Row) -> Account:
    return Account(
        id=row["id"],
        thumbprint=row["thumbprint"],
        jwk=row["jwk"],
        status=AccountStatus(row["status"]),
        contact=tuple(json.loads(row["contact"])),
        created_at=from_seconds(row["created_at"]),
        grant_id=row["grant_id"],
        terms_of_service=row["terms_of_service"],
    )
