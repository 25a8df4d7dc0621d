"""How each kind of entry is placed in a database that was restored: one function for each, True when it changed something.

The rules that are named here are those of `replay.py`.
"""

import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from acmeca.audit import AuthorizationDeactivated
from acmeca.storage.accounts import shut_account
from acmeca.storage.certificates import KEY_COMPROMISE, names_digest
from acmeca.storage.database import Transaction
from acmeca.storage.issuance import insert_names
from acmeca.storage.journal import JournalError
from acmeca.storage.journals import AUDIT
from acmeca.storage.renewals import clear_override, insert_override
from acmeca.storage.replacements import place_replacement
from acmeca.storage.times import from_seconds

_TOLD: Final = 1000  # what could not be placed is named up to here, and counted beyond


@dataclass(slots=True)
class Tally:
    """What a replay came to: entries that changed something, by kind, and what could not be placed."""

    commits: int = 0  # that changed something
    changed: dict[str, int] = field(default_factory=dict)
    unplaced: list[str] = field(default_factory=list)
    unplaced_count: int = 0
    newest_at: int | None = None

    def add(self, other: "Tally") -> None:
        self.commits += other.commits
        for kind, count in other.changed.items():
            self.changed[kind] = self.changed.get(kind, 0) + count
        self.unplaced += other.unplaced[: max(0, _TOLD - len(self.unplaced))]
        self.unplaced_count += other.unplaced_count
        self.newest_at = max((at for at in (self.newest_at, other.newest_at) if at is not None), default=None)

    def note(self, kind: str) -> None:
        self.changed[kind] = self.changed.get(kind, 0) + 1

    def give_up(self, what: str) -> None:
        self.unplaced_count += 1
        if len(self.unplaced) < _TOLD:
            self.unplaced.append(what)


@dataclass(frozen=True, slots=True)
class Placing:
    """One entry on its way: `is_late` says that its writer has gone further already, so that it is not the last word."""

    tx: Transaction
    values: Mapping[str, Any]
    tally: Tally
    is_late: bool


async def _place_issuer(entry: Placing) -> bool:
    """Rule 6."""
    values = entry.values
    parent = values["parent_id"]
    if parent is None and await entry.tx.fetch_one(
        "SELECT 1 FROM issuers WHERE parent_id IS NULL AND NOT EXISTS (SELECT 1 FROM issuers WHERE id = $1) LIMIT 1",
        values["id"],
    ):
        raise JournalError(
            f"a journal is of another CA: it holds the root {values['id']}, made at {from_seconds(values['created_at'])}, which is "
            "not in the backup. Leave out its directory (--journal), or move its segments away from those of this CA"
        )
    if parent is not None and await entry.tx.fetch_one("SELECT 1 FROM issuers WHERE id = $1", parent) is None:
        entry.tally.give_up(f"issuer {values['id']}: its issuer {parent} is not there")
        return False
    return bool(
        await entry.tx.execute(
            "INSERT INTO issuers (id, parent_id, state, certificate, key_reference, ocsp_url, crl_url, issuer_url, created_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING",
            values["id"],
            parent,
            values["state"],
            values["certificate"],
            values["key_reference"],
            values["ocsp_url"],
            values["crl_url"],
            values["issuer_url"],
            values["created_at"],
        )
    )


async def _place_account(entry: Placing) -> bool:
    values = entry.values
    found = await entry.tx.fetch_one(
        "SELECT id, status FROM accounts WHERE id = $1 OR thumbprint = $2 ORDER BY id = $1 DESC",
        values["id"],
        values["thumbprint"],
    )
    if found is not None and found["id"] == values["id"]:
        return False
    if found is not None and not await _give_way(entry.tx, found["id"], found["status"]):
        entry.tally.give_up(f"account {values['id']}: its key has another account, {found['id']}")
        return False
    await entry.tx.execute(
        "INSERT INTO accounts (id, thumbprint, jwk, status, contact, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        values["id"],
        values["thumbprint"],
        values["jwk"],
        values["status"],
        values["contact"],
        values["created_at"],
    )
    return True


async def _give_way(tx: Transaction, account_id: str, status: str) -> bool:
    """Remove an account that was never used: its commit did not happen, for its key has another account later."""
    used = await tx.fetch_one(
        "SELECT 1 FROM (SELECT account_id FROM orders UNION ALL SELECT account_id FROM authorizations"
        " UNION ALL SELECT account_id FROM certificates) AS uses WHERE account_id = $1 LIMIT 1",
        account_id,
    )
    if used is not None or status != "valid":
        return False
    return bool(await tx.execute("DELETE FROM accounts WHERE id = $1", account_id))


async def _place_account_grant(entry: Placing) -> bool:
    """Where the grant is not there, the account is bound all the same, and can do nothing until it is (rule 1)."""
    tx, values = entry.tx, entry.values
    if await _is_missing(tx, "grants", values["grant_id"]):
        entry.tally.give_up(f"the grant {values['grant_id']} of account {values['id']}, which can do nothing without")
    return bool(
        await tx.execute(
            "UPDATE accounts SET grant_id = $1 WHERE id = $2 AND grant_id IS NULL", values["grant_id"], values["id"]
        )
    )


async def _place_account_terms(entry: Placing) -> bool:
    """What is late is not the last word, but better than none."""
    known = "terms_of_service IS NULL" if entry.is_late else "COALESCE(terms_of_service, '') <> $1"
    return bool(
        await entry.tx.execute(
            f"UPDATE accounts SET terms_of_service = $1 WHERE id = $2 AND {known}",
            entry.values["terms_of_service"],
            entry.values["id"],
        )
    )


async def _place_grant(entry: Placing) -> bool:
    values = entry.values
    return bool(
        await entry.tx.execute(
            "INSERT INTO grants (id, owner, terms, mac_sha256, single_use, status, created_at, expires_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING",
            values["id"],
            values["owner"],
            values["terms"],
            values["mac_sha256"],
            values["single_use"],
            values["status"],
            values["created_at"],
            values["expires_at"],
        )
    )


async def _place_grant_standing(entry: Placing) -> bool:
    """What was set last holds, in whatever order it comes: changes are counted."""
    tx, values = entry.tx, entry.values
    changed = await tx.execute(
        "UPDATE grants SET status = $1, expires_at = $2, changes = $3 WHERE id = $4 AND changes < $3",
        values["status"],
        values["expires_at"],
        values["changes"],
        values["id"],
    )
    if not changed and await _is_missing(tx, "grants", values["id"]):
        entry.tally.give_up(f"that grant {values['id']} is {values['status']}: it is not there")
    return bool(changed)


async def _place_contact(entry: Placing) -> bool:
    if entry.is_late:
        return False
    changed = await entry.tx.execute(
        "UPDATE accounts SET contact = $1 WHERE id = $2 AND contact <> $1", entry.values["contact"], entry.values["id"]
    )
    if not changed and await _is_missing(entry.tx, "accounts", entry.values["id"]):
        entry.tally.give_up(f"contacts of account {entry.values['id']}, which is not there")
    return bool(changed)


async def _place_key(entry: Placing) -> bool:
    """The last word counts, or what continues from the key that the account has: so the old key works nowhere again.

    A client that was told nothing, because the process died between journal and commit, may have tried again with a third key:
    that change comes later, and from the same old key.
    """
    tx, values = entry.tx, entry.values
    owner = await tx.fetch_one("SELECT thumbprint FROM accounts WHERE id = $1", values["id"])
    if owner is None:
        entry.tally.give_up(f"the new key of account {values['id']}, which is not there")
        return False
    if owner["thumbprint"] == values["thumbprint"] or (
        entry.is_late and owner["thumbprint"] != values["old_thumbprint"]
    ):
        return False
    found = await tx.fetch_one("SELECT id, status FROM accounts WHERE thumbprint = $1", values["thumbprint"])
    if found is not None and not await _give_way(tx, found["id"], found["status"]):
        entry.tally.give_up(f"the new key of account {values['id']}: it has another account, {found['id']}")
        return False
    await tx.execute(
        "UPDATE accounts SET thumbprint = $1, jwk = $2 WHERE id = $3",
        values["thumbprint"],
        values["jwk"],
        values["id"],
    )
    return True


async def _place_deactivation(entry: Placing) -> bool:
    if await shut_account(entry.tx, entry.values["id"]):
        return True
    if await _is_missing(entry.tx, "accounts", entry.values["id"]):
        entry.tally.give_up(f"the end of account {entry.values['id']}, which is not there")
    return False


async def _place_profile(entry: Placing) -> bool:
    values = entry.values
    if hashlib.sha256(values["document"].encode()).hexdigest() != values["id"]:
        raise JournalError(
            "a journal holds a profile that acmeca never wrote: it is named by another document's digest"
        )
    return bool(
        await entry.tx.execute(
            "INSERT INTO profiles (id, name, document) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
            values["id"],
            values["name"],
            values["document"],
        )
    )


async def _place_certificate(entry: Placing) -> bool:
    """Rule 4. Who has it in hand is nobody: the process is gone."""
    tx, values = entry.tx, entry.values
    if not await _is_missing(tx, "certificates", values["id"]):
        # It may have been placed before its account or its profile was.
        changed = [
            await tx.execute(
                f"UPDATE certificates SET {column} = $1 WHERE id = $2 AND {column} IS NULL"
                f" AND EXISTS (SELECT 1 FROM {table} WHERE id = $1)",
                values[column],
                values["id"],
            )
            for column, table in (("account_id", "accounts"), ("profile_id", "profiles"))
        ]
        return any(changed)
    if await _is_missing(tx, "issuers", values["issuer_id"]):
        entry.tally.give_up(f"certificate {values['serial']}: its issuer {values['issuer_id']} is not there")
        return False
    names = _names(values["names"])
    inserted = await tx.execute(
        "INSERT INTO certificates (id, serial, issuer_id, account_id, order_id, profile, spki_sha256, not_before, not_after, tbs,"
        " recorded_at, names_digest, profile_id) VALUES ($1, $2, $3, (SELECT id FROM accounts WHERE id = $4), (SELECT o.id FROM orders o"
        " WHERE o.id = $5 AND NOT EXISTS (SELECT 1 FROM certificates c WHERE c.order_id = o.id)), $6, $7, $8, $9, $10, $11, $12,"
        " (SELECT id FROM profiles WHERE id = $13)) ON CONFLICT DO NOTHING",
        values["id"],
        values["serial"],
        values["issuer_id"],
        values["account_id"],
        values["order_id"],
        values["profile"],
        values["spki_sha256"],
        values["not_before"],
        values["not_after"],
        values["tbs"],
        values["recorded_at"],
        names_digest(names),
        values["profile_id"],
    )
    if not inserted:
        entry.tally.give_up(f"certificate {values['serial']}: its serial is another certificate's")
        return False
    if values["account_id"] is not None and await _is_missing(tx, "accounts", values["account_id"]):
        entry.tally.give_up(
            f"the account {values['account_id']} of certificate {values['serial']}, which is there without"
        )
    if values["profile_id"] is not None and await _is_missing(tx, "profiles", values["profile_id"]):
        entry.tally.give_up(
            f"the profile {values['profile_id']} of certificate {values['serial']}, which is there without"
        )
    await insert_names(tx, values["id"], names)
    await tx.execute(
        "UPDATE orders SET status = 'processing' WHERE status IN ('pending', 'ready')"
        " AND id = (SELECT order_id FROM certificates WHERE id = $1)",
        values["id"],
    )
    return True


def _names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise JournalError("a journal holds a certificate with names that acmeca never wrote")
    return list(dict.fromkeys(names))


async def _place_signature(entry: Placing) -> bool:
    tx, values = entry.tx, entry.values
    changed = await tx.execute(
        "UPDATE certificates SET signature = $1, issued_at = $2 WHERE id = $3 AND signature IS NULL",
        values["signature"],
        values["issued_at"],
        values["id"],
    )
    if not changed:
        if await _is_missing(tx, "certificates", values["id"]):
            entry.tally.give_up(f"the signature of certificate {values['id']}, which is not there")
        return False
    await tx.execute(
        "UPDATE orders SET status = 'valid', certificate_id = $1 WHERE status = 'processing'"
        " AND id = (SELECT order_id FROM certificates WHERE id = $1)",
        values["id"],
    )
    return True


async def _place_revocation(entry: Placing) -> bool:
    """Rule 1. The sequence is kept, or is the next one where it is taken: it has to be nobody else's, and to rise."""
    tx, values = entry.tx, entry.values
    found = await tx.fetch_one("SELECT revoked_at, revocation_reason FROM certificates WHERE id = $1", values["id"])
    if found is None:
        entry.tally.give_up(f"the revocation of certificate {values['id']}, which is not there")
        return False
    reason = values["revocation_reason"]
    is_raised = reason == KEY_COMPROMISE and found["revocation_reason"] != KEY_COMPROMISE
    if found["revoked_at"] is not None and not is_raised:
        return False
    sequence = values["revocation_sequence"]
    if await tx.fetch_one(
        "SELECT 1 FROM certificates WHERE revocation_sequence = $1 AND id <> $2", sequence, values["id"]
    ):
        row = await tx.fetch_one("SELECT MAX(revocation_sequence) AS last FROM certificates")
        sequence = sequence if row is None else row["last"] + 1
    await tx.execute(
        "UPDATE certificates SET revoked_at = COALESCE(revoked_at, $1), revocation_reason = $2, revocation_sequence = $3"
        " WHERE id = $4",
        values["revoked_at"],
        reason,
        sequence,
        values["id"],
    )
    return True


async def _place_replacement(entry: Placing) -> bool:
    values = entry.values
    if await place_replacement(entry.tx, values["serial"], values["replaced_by"]):
        return True
    if await entry.tx.fetch_one("SELECT 1 FROM certificates WHERE serial = $1", values["serial"]) is None:
        entry.tally.give_up(f"what replaced certificate {values['serial']}, which is not there")
    return False


async def _place_renewal(entry: Placing) -> bool:
    return await insert_override(entry.tx, entry.values)


async def _place_cleared_renewal(entry: Placing) -> bool:
    if await clear_override(entry.tx, entry.values["id"], entry.values["cleared_at"]):
        return True
    if await _is_missing(entry.tx, "renewal_overrides", entry.values["id"]):
        entry.tally.give_up(f"the end of the window for renewals {entry.values['id']}, which is not there")
    return False


async def _place_blocked_key(entry: Placing) -> bool:
    values = entry.values
    return bool(
        await entry.tx.execute(
            "INSERT INTO blocked_keys (spki_sha256, thumbprint, blocked_at, serial) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT (spki_sha256) DO UPDATE SET thumbprint = excluded.thumbprint"
            " WHERE blocked_keys.thumbprint = '' AND excluded.thumbprint <> ''",
            values["spki_sha256"],
            values["thumbprint"],
            values["blocked_at"],
            values["serial"],
        )
    )


async def _place_blocked_key_why(entry: Placing) -> bool:
    return bool(
        await entry.tx.execute(
            "UPDATE blocked_keys SET why = $1 WHERE spki_sha256 = $2 AND why IS NULL AND serial IS NULL",
            entry.values["why"],
            entry.values["spki_sha256"],
        )
    )


async def _place_crl(entry: Placing) -> bool:
    values = entry.values
    if await _is_missing(entry.tx, "issuers", values["issuer_id"]):
        entry.tally.give_up(f"CRL {values['number']} of issuer {values['issuer_id']}, which is not there")
        return False
    return bool(
        await entry.tx.execute(
            "INSERT INTO crls (issuer_id, number, this_update, next_update, through_sequence, entries)"
            " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (issuer_id, number) DO NOTHING",
            values["issuer_id"],
            values["number"],
            values["this_update"],
            values["next_update"],
            values["through_sequence"],
            values["entries"],
        )
    )


async def _place_published_crl(entry: Placing) -> bool:
    values = entry.values
    changed = await entry.tx.execute(
        "UPDATE crls SET der = $1 WHERE issuer_id = $2 AND number = $3 AND der IS NULL",
        values["der"],
        values["issuer_id"],
        values["number"],
    )
    if not changed and not await entry.tx.fetch_one(
        "SELECT 1 FROM crls WHERE issuer_id = $1 AND number = $2", values["issuer_id"], values["number"]
    ):
        entry.tally.give_up(f"CRL {values['number']} of issuer {values['issuer_id']}, which was never begun")
    return bool(changed)


async def _place_record(entry: Placing) -> bool:
    """Rule 3. What stands there already stays: two different records for one place are two histories."""
    values = entry.values
    found = await entry.tx.fetch_one(
        "SELECT hash FROM audit WHERE writer = $1 AND sequence = $2", values["writer"], values["sequence"]
    )
    if found is not None:
        if found["hash"] != values["hash"]:
            entry.tally.give_up(f"audit record {values['sequence']} of {values['writer']}: another one stands there")
        return False
    kind, actor, subject = _columns_of(values["event"])
    await entry.tx.execute(
        "INSERT INTO audit (writer, sequence, at, kind, actor, subject, event, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        values["writer"],
        values["sequence"],
        values["at"],
        kind,
        actor,
        subject,
        values["event"],
        values["hash"],
    )
    if kind == AuthorizationDeactivated.kind:
        await _shut_authorization(entry.tx, subject)
    return True


async def _shut_authorization(tx: Transaction, authorization_id: str) -> None:
    """Rule 4 is for what a client can make again. What it gave up after the backup (RFC 8555 §7.5.2) must not be valid again."""
    changed = await tx.execute(
        "UPDATE authorizations SET status = 'deactivated' WHERE id = $1 AND status IN ('pending', 'valid')",
        authorization_id,
    )
    if changed:
        await tx.execute(
            "UPDATE orders SET status = 'invalid' WHERE status IN ('pending', 'ready')"
            " AND id IN (SELECT order_id FROM order_authorizations WHERE authorization_id = $1)",
            authorization_id,
        )


def _columns_of(event: str) -> tuple[str, str, str]:
    """What the record's columns repeat of its event."""
    try:
        members = json.loads(event)
        found = members["kind"], members["actor"], members["subject"]
    except (KeyError, TypeError, ValueError):
        found = (None, None, None)
    if not all(isinstance(item, str) for item in found):
        raise JournalError("a journal holds an audit record that acmeca never wrote")
    return found


async def _is_missing(tx: Transaction, table: str, id_: str) -> bool:
    return await tx.fetch_one(f"SELECT 1 FROM {table} WHERE id = $1", id_) is None


_Place: TypeAlias = Callable[[Placing], Coroutine[Any, Any, bool]]

PLACES: Final[Mapping[str, _Place]] = MappingProxyType(
    {
        "issuer": _place_issuer,
        "account": _place_account,
        "account.grant": _place_account_grant,
        "account.terms": _place_account_terms,
        "contact": _place_contact,
        "account.key": _place_key,
        "account.deactivated": _place_deactivation,
        "profile": _place_profile,
        "certificate": _place_certificate,
        "grant": _place_grant,
        "grant.standing": _place_grant_standing,
        "signature": _place_signature,
        "revocation": _place_revocation,
        "replacement": _place_replacement,
        "renewal": _place_renewal,
        "renewal.cleared": _place_cleared_renewal,
        "blocked_key": _place_blocked_key,
        "blocked_key.why": _place_blocked_key_why,
        "crl": _place_crl,
        "crl.published": _place_published_crl,
        AUDIT: _place_record,
    }
)
"""By kind, for each of `journal_kinds.KINDS`."""
