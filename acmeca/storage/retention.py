"""What has ended is deleted: orders and authorizations some time after their end, certificates when nobody can ask any more.

Rule 1: a step is one write of bounded size (`_SCANNED` rows looked at, some dozens deleted, a few milliseconds of the writer), and
decides everything in its own transaction: it may be killed anywhere, raced by anybody and run anew.
Rule 2: an order goes when it is valid or invalid and its end is long over. One that is processing never goes. An account's list
becomes shorter by it, which RFC 8555 §7.1.2.1 allows (what it asks for there are the pending orders). Its certificate stays, and
stays at its URL: it only forgets which order it came from (the audit knows).
Rule 3: an authorization goes when it is final and no order is left that refers to it.
Rule 4: a certificate goes when it expired long ago and its order is gone; one that was revoked only after a published CRL that was
made after its end took it in (RFC 5280 §3.3: "An entry MUST NOT be removed from the CRL until it appears on one regularly
scheduled CRL issued beyond the revoked certificate's validity period").
Rule 5: never the server's own certificates (RULES §1: their keys are certified for nobody), never the one with the highest revocation
sequence (the next number is counted from it), and never a blocked key.
Rule 6: each step that forgets certificates is in the audit, with how many and which (one record a step). The audit itself, with a
record of each certificate, is never cut.
Rule 7: a rate limit goes when nothing of it is used up any more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from acmeca import audit
from acmeca.acme.objects import format_time
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Row, Transaction
from acmeca.storage.errors import StaleError
from acmeca.storage.leases import Lease, require_lease
from acmeca.storage.times import from_seconds, to_seconds

_SCANNED: Final = 100  # rows that a step looks at
_ORDERS: Final = 25  # that it deletes
_AUTHORIZATIONS: Final = 50
_CERTIFICATES_AT_ONCE: Final = 10  # each stands in a dozen indexes at places that nobody has read for a year
_LIMITS: Final = 100
_CHILDREN: Final = 100  # rows that go with them; an order or a certificate has up to a hundred names
_CERTIFICATES: Final = "certificates"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a pass over a table has come to: the moment by which it is ordered, in Unix seconds, and an id."""

    at: int = -1
    id: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step has done: how many rows of the table it deleted, and where the next one goes on; None at the end."""

    deleted: int
    position: Position | None


class Retention:
    """Deletes from `orders`, `authorizations`, `certificates` and what belongs to them, and from `limits`.

    Every step takes the `lease` of whoever has the duty: `StaleError` when that is another process's by now.
    """

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def drop_orders(self, *, ended_before: datetime, lease: Lease | None) -> int:
        """Delete some orders that ended before that moment, the oldest first; 0 when there is none left (rule 2)."""

        async def body(tx: Transaction) -> int:
            await require_lease(tx, lease)
            rows = await tx.fetch_all(
                "SELECT id, expires_at, 1 AS may_go,"
                " (SELECT COUNT(*) FROM order_authorizations a WHERE a.order_id = orders.id) AS children"
                " FROM orders WHERE status IN ('valid', 'invalid') AND expires_at < $1 ORDER BY expires_at LIMIT $2",
                to_seconds(ended_before),
                _ORDERS,
            )
            ids = [row["id"] for row in _bounded(rows, _ORDERS)]
            if not ids:
                return 0
            places = _places(ids)
            await tx.execute(f"UPDATE certificates SET order_id = NULL WHERE order_id IN {places}", *ids)
            await tx.execute(f"DELETE FROM order_authorizations WHERE order_id IN {places}", *ids)
            return await tx.execute(f"DELETE FROM orders WHERE id IN {places}", *ids)

        return await self._database.write(body)

    async def drop_authorizations(self, *, ended_before: datetime, after: Position, lease: Lease | None) -> Step:
        """Look at the next authorizations that ended before that moment and delete those that nothing needs (rule 3)."""

        async def body(tx: Transaction) -> Step:
            await require_lease(tx, lease)
            rows = await tx.fetch_all(
                "SELECT id, expires_at, 0 AS children,"
                " NOT EXISTS (SELECT 1 FROM order_authorizations o WHERE o.authorization_id = authorizations.id)"
                " AND NOT EXISTS (SELECT 1 FROM validation_jobs j WHERE j.authorization_id = authorizations.id) AS may_go"
                " FROM authorizations WHERE status IN ('invalid', 'deactivated', 'expired', 'revoked')"
                " AND expires_at < $1 AND (expires_at, id) > ($2, $3) ORDER BY expires_at, id LIMIT $4",
                to_seconds(ended_before),
                after.at,
                after.id,
                _SCANNED,
            )
            seen = _bounded(rows, _AUTHORIZATIONS)
            ids = [row["id"] for row in seen if row["may_go"]]
            if ids:
                await tx.execute(f"DELETE FROM authorizations WHERE id IN {_places(ids)}", *ids)
            is_end = len(seen) == len(rows) < _SCANNED
            return Step(len(ids), None if is_end else Position(seen[-1]["expires_at"], seen[-1]["id"]))

        return await self._database.write(body)

    async def drop_limits(self, *, at: datetime, lease: Lease | None) -> int:
        """Delete some rate limits that are whole again (rule 7); 0 when there is none left."""

        async def body(tx: Transaction) -> int:
            await require_lease(tx, lease)
            return await tx.execute(
                "DELETE FROM limits WHERE name IN (SELECT name FROM limits WHERE whole_at <= $1 ORDER BY whole_at LIMIT $2)",
                to_seconds(at),
                _LIMITS,
            )

        return await self._database.write(body)

    async def advance(
        self, *, to: datetime, at_most: timedelta, keep: timedelta, lease: Lease | None
    ) -> datetime | None:
        """Move the mark up to which expired certificates may be forgotten towards `to`, by no more than `at_most`.

        Returns the moment before which a certificate must have expired; None before there is any certificate. The mark starts
        `keep` before the first certificate was made, and never goes back; what it was moved on by too much (the clock was
        wrong) counts for nothing once `to` is right again.
        """

        async def body(tx: Transaction) -> datetime | None:
            await require_lease(tx, lease)
            row = await tx.fetch_one("SELECT through FROM retention WHERE name = $1", _CERTIFICATES)
            if row is None:
                first = await tx.fetch_one("SELECT MIN(recorded_at) AS first FROM certificates")
                if first is None or first["first"] is None:
                    return None
                mark: int = first["first"] - int(keep.total_seconds())
            else:
                mark = row["through"]
            moved: int = min(to_seconds(to), mark + int(at_most.total_seconds()))
            await tx.execute(
                "INSERT INTO retention (name, through) VALUES ($1, $2)"
                " ON CONFLICT (name) DO UPDATE SET through = excluded.through WHERE excluded.through > retention.through",
                _CERTIFICATES,
                moved,
            )
            return from_seconds(moved)

        return await self._database.write(body)

    async def forget_certificates(
        self, *, expired_before: datetime, after: Position, at: datetime, lease: Lease | None
    ) -> Step:
        """Look at the next certificates that expired before that moment and delete those that nobody needs (rules 4 to 6).

        `at` is the present: a CRL from the future was made with a wrong clock, and proves nothing.
        """

        async def body(tx: Transaction) -> Step:
            await require_lease(tx, lease)
            rows = await tx.fetch_all(
                "SELECT c.id, c.not_after, c.revoked_at,"
                " (SELECT COUNT(*) FROM certificate_names n WHERE n.certificate_id = c.id) AS children,"
                f" {_MAY_GO} AS may_go FROM certificates c"
                " WHERE c.not_after < $1 AND (c.not_after, c.id) > ($2, $3) ORDER BY c.not_after, c.id LIMIT $4",
                to_seconds(expired_before),
                after.at,
                after.id,
                _SCANNED,
                to_seconds(at),
            )
            seen = _bounded(rows, _CERTIFICATES_AT_ONCE)
            gone = [row for row in seen if row["may_go"]]
            if gone:
                await self._delete(tx, gone, at=at)
            is_end = len(seen) == len(rows) < _SCANNED
            return Step(len(gone), None if is_end else Position(seen[-1]["not_after"], seen[-1]["id"]))

        return await self._database.write(body)

    async def _delete(self, tx: Transaction, gone: Sequence[Row], *, at: datetime) -> None:
        ids = [row["id"] for row in gone]
        await tx.execute(f"DELETE FROM certificate_names WHERE certificate_id IN {_places(ids)}", *ids)
        if await tx.execute(f"DELETE FROM certificates WHERE id IN {_places(ids)}", *ids) != len(ids):
            raise StaleError("a certificate was deleted meanwhile")
        event = audit.CertificatesForgotten(
            actor=audit.SYSTEM,
            count=len(gone),
            revoked=sum(row["revoked_at"] is not None for row in gone),
            first_not_after=format_time(from_seconds(gone[0]["not_after"])),
            last_not_after=format_time(from_seconds(gone[-1]["not_after"])),
        )
        await append(tx, writer=self._writer, at=at, event=event)


# Rules 4 and 5. The CRL is looked for among the few that are kept of an issuer: once one has taken the entry in after the
# certificate's end, all later ones are of later times and hold more revocations.
_MAY_GO: Final = (
    "(c.account_id IS NOT NULL AND c.order_id IS NULL AND (c.revocation_sequence IS NULL OR"
    " (c.revocation_sequence < (SELECT MAX(m.revocation_sequence) FROM certificates m)"
    " AND EXISTS (SELECT 1 FROM crls k WHERE k.issuer_id = c.issuer_id AND k.der IS NOT NULL"
    " AND k.this_update > c.not_after AND k.this_update <= $5 AND k.through_sequence >= c.revocation_sequence))))"
)


def _bounded(rows: Sequence[Row], at_once: int) -> list[Row]:
    """The first rows, of which `at_once` may go at the most, and no more than `_CHILDREN` with them; but one at least."""
    taken: list[Row] = []
    gone = children = 0
    for row in rows:
        if row["may_go"]:
            gone += 1
            children += row["children"]
            if gone > at_once or (gone > 1 and children > _CHILDREN):
                break
        taken.append(row)
    return taken


def _places(ids: Sequence[str]) -> str:
    """`($1, $2, …)` for as many values."""
    return f"({', '.join(f'${number}' for number in range(1, len(ids) + 1))})"
