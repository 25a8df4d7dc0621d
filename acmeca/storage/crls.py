"""CRLs: a number is taken before it is signed and is never taken twice.

Rule 1: numbers rise strictly, also over a restart and a restored backup: the next is max(last + 1, Unix seconds), the
clock-derived floor of RULES §5.
Rule 2: `begin` fixes in one transaction what a CRL holds (every revocation so far) and its thisUpdate. Whatever is revoked
later gets a date that does not precede it (`Certificates.revoke`), so the CRL may be signed at leisure.
Rule 3: a CRL is published by compare-and-swap: only if nothing with a higher number was published meanwhile.
"""

from dataclasses import dataclass
from datetime import datetime

from acmeca import audit
from acmeca.storage.audit import append
from acmeca.storage.database import Database, Entry, Row, Transaction
from acmeca.storage.errors import StaleError
from acmeca.storage.leases import Lease, require_lease
from acmeca.storage.times import from_seconds, to_seconds

_KEPT = 4  # published CRLs kept per issuer, the newest included; an older one is of no use to anybody


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL that was signed. `through_sequence` is the last revocation it takes in, `entries` how many it lists."""

    issuer_id: str
    number: int
    this_update: datetime
    next_update: datetime
    through_sequence: int
    entries: int
    der: bytes


@dataclass(frozen=True, slots=True)
class CrlDraft:
    """A number taken, and the revoked certificates that the CRL has to list, as (serial hex, time, reason)."""

    issuer_id: str
    number: int
    this_update: datetime
    next_update: datetime
    through_sequence: int
    revoked: tuple[tuple[str, datetime, int | None], ...]


class Crls:
    """The table `crls`."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def latest(self, issuer_id: str) -> Crl | None:
        """The newest published CRL."""
        row = await self._database.fetch_one(
            "SELECT issuer_id, number, this_update, next_update, through_sequence, entries, der FROM crls"
            " WHERE issuer_id = $1 AND der IS NOT NULL ORDER BY number DESC LIMIT 1",
            issuer_id,
        )
        return None if row is None else _crl(row)

    async def latest_numbers(self) -> dict[str, int]:
        """The number of each issuer's newest published CRL."""
        rows = await self._database.fetch_all(
            "SELECT issuer_id, MAX(number) AS number FROM crls WHERE der IS NOT NULL GROUP BY issuer_id"
        )
        return {row["issuer_id"]: row["number"] for row in rows}

    async def has_unpublished(self, issuer_id: str) -> bool:
        """Whether a number was taken after the newest published CRL: by one that is being signed, or never was.

        Perhaps somebody has seen a CRL of that number (the database was restored): what is served must have a higher one.
        """
        row = await self._database.fetch_one(
            "SELECT 1 FROM crls WHERE issuer_id = $1 AND number > (SELECT COALESCE(MAX(number), -1) FROM crls"
            " WHERE issuer_id = $1 AND der IS NOT NULL) LIMIT 1",
            issuer_id,
        )
        return row is not None

    async def pending_revocations(self, issuer_id: str) -> int:
        """How many revocations the newest published CRL does not hold yet."""
        row = await self._database.fetch_one(
            "SELECT COUNT(*) AS pending FROM certificates WHERE issuer_id = $1 AND revoked_at IS NOT NULL"
            " AND revocation_sequence > (SELECT COALESCE(MAX(through_sequence), 0) FROM crls"
            " WHERE issuer_id = $1 AND der IS NOT NULL)",
            issuer_id,
        )
        return 0 if row is None else int(row["pending"])

    async def oldest_pending_revocation(self, issuer_id: str) -> datetime | None:
        """When the oldest revocation happened that the newest published CRL does not hold yet; None when it holds all."""
        row = await self._database.fetch_one(
            "SELECT MIN(revoked_at) AS oldest FROM certificates WHERE issuer_id = $1 AND revoked_at IS NOT NULL"
            " AND revocation_sequence > (SELECT COALESCE(MAX(through_sequence), 0) FROM crls"
            " WHERE issuer_id = $1 AND der IS NOT NULL)",
            issuer_id,
        )
        return None if row is None else from_seconds(row["oldest"])

    async def begin(
        self,
        issuer_id: str,
        *,
        this_update: datetime,
        next_update: datetime,
        actor: str = audit.SYSTEM,
        lease: Lease | None = None,
        lead: int = 0,
    ) -> CrlDraft:
        """Take the next number, fix the CRL's content, and write down that it will be signed; `actor` is who asked for it.

        What is done by duty comes with a `lease`: `StaleError` when that is another process's by now. The number is at least
        `lead` more than this moment's, for whoever knows that numbers were lost.

        RFC 5280 §3.3: "An entry MUST NOT be removed from the CRL until it appears on one regularly scheduled CRL issued
        beyond the revoked certificate's validity period." So an entry stays unless the newest published CRL was issued after
        its notAfter and took it in. A CRL whose thisUpdate lies in the future does not count: the clock was wrong then, and
        the certificate lives.
        """

        async def body(tx: Transaction) -> CrlDraft:
            await require_lease(tx, lease)
            started = to_seconds(this_update)
            row = await tx.fetch_one(
                "SELECT COALESCE(MAX(number), 0) AS number,"
                " (SELECT COALESCE(MAX(revocation_sequence), 0) FROM certificates) AS through"
                " FROM crls WHERE issuer_id = $1",
                issuer_id,
            )
            if row is None:
                raise StaleError("an aggregate without a row")
            number = max(row["number"] + 1, started + lead)
            revoked = await _revoked(tx, issuer_id, at=started, through_sequence=row["through"])
            await tx.execute(
                "INSERT INTO crls (issuer_id, number, this_update, next_update, through_sequence, entries)"
                " VALUES ($1, $2, $3, $4, $5, $6)",
                issuer_id,
                number,
                started,
                to_seconds(next_update),
                row["through"],
                len(revoked),
            )
            tx.journal(
                Entry(
                    "crl",
                    {
                        "issuer_id": issuer_id,
                        "number": number,
                        "this_update": started,
                        "next_update": to_seconds(next_update),
                        "through_sequence": row["through"],
                        "entries": len(revoked),
                    },
                )
            )
            event = audit.CrlRecorded(actor=actor, issuer_id=issuer_id, number=number, entries=len(revoked))
            await append(tx, writer=self._writer, at=this_update, event=event)
            return CrlDraft(
                issuer_id=issuer_id,
                number=number,
                this_update=from_seconds(started),
                next_update=from_seconds(to_seconds(next_update)),
                through_sequence=row["through"],
                revoked=revoked,
            )

        return await self._database.write(body)

    async def begun(self, issuer_id: str, number: int) -> CrlDraft:
        """A draft that `begin` made before, in another process perhaps; `StaleError` when it is of no use any more.

        That is so when it was never begun, when it or a newer one was published, and when its content cannot be told again,
        as a reason was raised since.
        """

        async def body(tx: Transaction) -> CrlDraft:
            row = await tx.fetch_one(
                "SELECT this_update, next_update, through_sequence, entries FROM crls WHERE issuer_id = $1 AND number = $2"
                " AND der IS NULL AND NOT EXISTS"
                " (SELECT 1 FROM crls n WHERE n.issuer_id = $1 AND n.number > $2 AND n.der IS NOT NULL)",
                issuer_id,
                number,
            )
            if row is None:
                raise StaleError(f"CRL {number} of issuer {issuer_id} was never begun, or was overtaken")
            through = row["through_sequence"]
            revoked = await _revoked(tx, issuer_id, at=row["this_update"], through_sequence=through)
            if len(revoked) != row["entries"]:
                raise StaleError(f"what CRL {number} of issuer {issuer_id} lists was changed since it was begun")
            return CrlDraft(
                issuer_id=issuer_id,
                number=number,
                this_update=from_seconds(row["this_update"]),
                next_update=from_seconds(row["next_update"]),
                through_sequence=through,
                revoked=revoked,
            )

        return await self._database.write(body)

    async def publish(
        self,
        draft: CrlDraft,
        der: bytes,
        *,
        at: datetime,
        actor: str = audit.SYSTEM,
        lease: Lease | None = None,
        is_root: bool = False,
    ) -> Crl:
        """Publish what was signed; `StaleError` when a higher number was published meanwhile, or the lease is lost.

        A root's CRL is journalled whole: the server cannot make it again.
        """

        async def body(tx: Transaction) -> Crl:
            await require_lease(tx, lease)
            changed = await tx.execute(
                "UPDATE crls SET der = $1 WHERE issuer_id = $2 AND number = $3 AND der IS NULL AND NOT EXISTS"
                " (SELECT 1 FROM crls n WHERE n.issuer_id = $2 AND n.number > $3 AND n.der IS NOT NULL)",
                der,
                draft.issuer_id,
                draft.number,
            )
            if changed != 1:
                raise StaleError(f"CRL {draft.number} of issuer {draft.issuer_id} was overtaken")
            if is_root:
                tx.journal(Entry("crl.published", {"issuer_id": draft.issuer_id, "number": draft.number, "der": der}))
            await tx.execute(
                "DELETE FROM crls WHERE issuer_id = $1 AND number < (SELECT MIN(number) FROM (SELECT number FROM crls"
                " WHERE issuer_id = $1 AND der IS NOT NULL ORDER BY number DESC LIMIT $2) AS kept)",
                draft.issuer_id,
                _KEPT,
            )
            event = audit.CrlSigned(
                actor=actor, issuer_id=draft.issuer_id, number=draft.number, entries=len(draft.revoked)
            )
            await append(tx, writer=self._writer, at=at, event=event)
            return Crl(
                issuer_id=draft.issuer_id,
                number=draft.number,
                this_update=draft.this_update,
                next_update=draft.next_update,
                through_sequence=draft.through_sequence,
                entries=len(draft.revoked),
                der=der,
            )

        return await self._database.write(body)


async def _revoked(
    tx: Transaction, issuer_id: str, *, at: int, through_sequence: int
) -> tuple[tuple[str, datetime, int | None], ...]:
    """What a CRL of this thisUpdate (Unix seconds) lists, of the revocations up to `through_sequence` (see `Crls.begin`)."""
    published = await tx.fetch_one(
        "SELECT this_update, through_sequence FROM crls WHERE issuer_id = $1 AND der IS NOT NULL"
        " AND this_update <= $2 ORDER BY number DESC LIMIT 1",
        issuer_id,
        at,
    )
    rows = await tx.fetch_all(
        "SELECT serial, revoked_at, revocation_reason FROM certificates WHERE issuer_id = $1"
        " AND revoked_at IS NOT NULL AND (not_after >= $2 OR revocation_sequence > $3) AND revocation_sequence <= $4"
        " ORDER BY revocation_sequence",
        issuer_id,
        0 if published is None else published["this_update"],
        0 if published is None else published["through_sequence"],
        through_sequence,
    )
    return tuple((row["serial"], from_seconds(row["revoked_at"]), row["revocation_reason"]) for row in rows)


async def insert_published(tx: Transaction, crl: Crl, *, writer: str, at: datetime) -> None:
    """Store a CRL that was signed elsewhere: a root's, made where the root's key is."""
    await tx.execute(
        "INSERT INTO crls (issuer_id, number, this_update, next_update, through_sequence, entries, der)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        crl.issuer_id,
        crl.number,
        to_seconds(crl.this_update),
        to_seconds(crl.next_update),
        crl.through_sequence,
        crl.entries,
        crl.der,
    )
    tx.journal(
        Entry(
            "crl",
            {
                "issuer_id": crl.issuer_id,
                "number": crl.number,
                "this_update": to_seconds(crl.this_update),
                "next_update": to_seconds(crl.next_update),
                "through_sequence": crl.through_sequence,
                "entries": crl.entries,
            },
        )
    )
    tx.journal(Entry("crl.published", {"issuer_id": crl.issuer_id, "number": crl.number, "der": crl.der}))
    event = audit.CrlSigned(actor=audit.SYSTEM, issuer_id=crl.issuer_id, number=crl.number, entries=crl.entries)
    await append(tx, writer=writer, at=at, event=event)


def _crl(row: Row) -> Crl:
    return Crl(
        issuer_id=row["issuer_id"],
        number=row["number"],
        this_update=from_seconds(row["this_update"]),
        next_update=from_seconds(row["next_update"]),
        through_sequence=row["through_sequence"],
        entries=row["entries"],
        der=row["der"],
    )
