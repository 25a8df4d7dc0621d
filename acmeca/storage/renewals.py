"""What renewal information follows from: certificates as far as it is about them, and what operators set.

Rule 1: an operator's word on a set of certificates is one row, one record in the audit and one entry in the journal, however many
certificates there are (decision 0021). None of them is touched.
Rule 2: a row is never deleted: what was cleared says when. So a journal may be replayed in any portions.
Rule 3: the newest one that fits goes before the others.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from acmeca import audit
from acmeca.acme.objects import format_time
from acmeca.acme.renewal import Life, Window
from acmeca.errors import Conflict, NotFound
from acmeca.policy.renewals import Override, Renewable, Selection
from acmeca.storage.audit import append
from acmeca.storage.certificates import reverse_labels
from acmeca.storage.database import Database, Entry, Row, Transaction, Value
from acmeca.storage.times import from_seconds, to_seconds

MAX_IN_FORCE: Final = 1000  # each is looked at when a client asks


@dataclass(frozen=True, slots=True)
class StoredRenewable:
    """A signed certificate, as far as its renewal is concerned. `replaced_by` is the id of the one that took its place."""

    id: str
    facts: Renewable
    life: Life
    replaced_by: str | None


class Progress(StrEnum):
    """How far the renewal of a certificate has come that is neither expired nor revoked."""

    REPLACED = "replaced"  # its client said so (`replaces`)
    RENEWED = "renewed"  # there is a newer one of the same account for the same names, and nobody said what it replaces
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Census:
    """How many certificates a selection is about, expired ones left out. `ending` are those left that end before the window does."""

    certificates: int
    revoked: int
    replaced: int
    renewed: int
    ending: int

    @property
    def left(self) -> int:
        return self.certificates - self.revoked - self.replaced - self.renewed


class Renewals:
    """The table `renewal_overrides`, and certificates as they are to be renewed."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def by_serial(self, serial: str) -> StoredRenewable | None:
        """A signed certificate."""
        row = await self._database.fetch_one(
            "SELECT c.id, c.serial, c.issuer_id, c.account_id, c.profile, c.spki_sha256, c.not_before, c.not_after, c.recorded_at,"
            " c.issued_at, c.revoked_at, c.replaced_by, a.grant_id FROM certificates c LEFT JOIN accounts a ON a.id = c.account_id"
            " WHERE c.serial = $1 AND c.signature IS NOT NULL",
            serial,
        )
        return None if row is None else _renewable(row)

    async def names(self, certificate_id: str) -> tuple[str, ...]:
        """The names of a certificate."""
        rows = await self._database.fetch_all(
            "SELECT name FROM certificate_names WHERE certificate_id = $1 ORDER BY name", certificate_id
        )
        return tuple(row["name"] for row in rows)

    async def serial_of(self, certificate_id: str) -> str | None:
        """The serial of a certificate; None for one that was forgotten (`retention.py`)."""
        row = await self._database.fetch_one("SELECT serial FROM certificates WHERE id = $1", certificate_id)
        return None if row is None else str(row["serial"])

    # --- what operators set -----------------------------------------------------------------------------------------

    async def in_force(self) -> list[Override]:
        """The newest first."""
        rows = await self._database.fetch_all(
            f"SELECT {_COLUMNS} FROM renewal_overrides WHERE cleared_at IS NULL ORDER BY sequence DESC, id"
        )
        return [_override(row) for row in rows]

    async def all(self) -> list[Override]:
        """Those that were cleared too, the newest first."""
        rows = await self._database.scan(f"SELECT {_COLUMNS} FROM renewal_overrides ORDER BY sequence DESC, id")
        return [_override(row) for row in rows]

    async def by_id(self, override_id: str) -> Override:
        """Raises `NotFound`."""
        row = await self._database.fetch_one(f"SELECT {_COLUMNS} FROM renewal_overrides WHERE id = $1", override_id)
        if row is None:
            raise _no_such(override_id)
        return _override(row)

    async def set(self, override: Override, *, certificates: int, actor: str) -> None:
        """Put a window in force. `certificates` is how many it is about, for the audit. Raises `Conflict` when there are too many."""
        values: dict[str, Value] = {
            "id": override.id,
            "selection": json.dumps(override.selection.to_json(), sort_keys=True),
            "renew_from": to_seconds(override.window.start),
            "renew_until": to_seconds(override.window.end),
            "explanation_url": override.explanation_url,
            "set_at": to_seconds(override.set_at),
        }

        async def body(tx: Transaction) -> None:
            row = await tx.fetch_one(
                "SELECT COUNT(CASE WHEN cleared_at IS NULL THEN 1 END) AS in_force, COALESCE(MAX(sequence), 0) AS last"
                " FROM renewal_overrides"
            )
            if row is not None and row["in_force"] >= MAX_IN_FORCE:
                raise Conflict(
                    f"{MAX_IN_FORCE} windows are in force, which is the most: clear some (acmeca renewal list), and set one for many"
                    " certificates rather than one for each"
                )
            numbered = values | {"sequence": 1 if row is None else row["last"] + 1}
            await insert_override(tx, numbered)
            tx.journal(Entry("renewal", numbered))
            event = audit.RenewalSet(
                actor=actor,
                override_id=override.id,
                selection=override.selection.to_json(),
                certificates=certificates,
                renew_from=format_time(override.window.start),
                renew_until=format_time(override.window.end),
                explanation_url=override.explanation_url,
            )
            await append(tx, writer=self._writer, at=override.set_at, event=event)

        await self._database.write(body)

    async def clear(self, override_id: str, *, actor: str, at: datetime) -> None:
        """Put a window out of force: its certificates have their own again. Raises `NotFound`, or `Conflict` when it was before."""

        async def body(tx: Transaction) -> None:
            if not await clear_override(tx, override_id, to_seconds(at)):
                if await tx.fetch_one("SELECT 1 FROM renewal_overrides WHERE id = $1", override_id) is None:
                    raise _no_such(override_id)
                raise Conflict(f"{override_id} was cleared before")
            tx.journal(Entry("renewal.cleared", {"id": override_id, "cleared_at": to_seconds(at)}))
            await append(
                tx, writer=self._writer, at=at, event=audit.RenewalCleared(actor=actor, override_id=override_id)
            )

        await self._database.write(body)

    # --- how far it has come ----------------------------------------------------------------------------------------

    async def census(self, selection: Selection, *, set_at: datetime, until: datetime, now: datetime) -> Census:
        """How many certificates a window is about, and how many of them were replaced since."""
        value = _Values()
        rows = await self._database.scan(
            f"SELECT {_STATE} AS state, COUNT(*) AS certificates,"
            f" COUNT(CASE WHEN c.not_after < {value(to_seconds(until))} THEN 1 END) AS ending"
            f" FROM certificates c WHERE {_meant(selection, value, set_at=set_at, now=now)} GROUP BY 1",
            *value.given,
        )
        count = {row["state"]: row["certificates"] for row in rows}
        return Census(
            certificates=sum(count.values()),
            revoked=count.get(_REVOKED, 0),
            replaced=count.get(Progress.REPLACED, 0),
            renewed=count.get(Progress.RENEWED, 0),
            ending=next((row["ending"] for row in rows if row["state"] == Progress.LEFT), 0),
        )

    async def serials(
        self,
        selection: Selection,
        progress: Progress,
        *,
        set_at: datetime,
        now: datetime,
        after: str,
        limit: int,
    ) -> list[str]:
        """The serials of those that have come so far, in order, behind the serial `after` (`""`: from the first)."""
        value = _Values()
        where = _meant(selection, value, set_at=set_at, now=now)
        rows = await self._database.scan(
            f"SELECT c.serial FROM certificates c WHERE {where} AND c.serial > {value(after)}"
            f" AND {_STATE} = {value(progress.value)}"
            f" ORDER BY c.serial LIMIT {value(limit)}",
            *value.given,
        )
        return [row["serial"] for row in rows]


async def insert_override(tx: Transaction, values: Mapping[str, Value]) -> bool:
    """Insert a row, unless there is one with its id."""
    changed = await tx.execute(
        "INSERT INTO renewal_overrides (id, sequence, selection, renew_from, renew_until, explanation_url, set_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING",
        *(
            values[name]
            for name in ("id", "sequence", "selection", "renew_from", "renew_until", "explanation_url", "set_at")
        ),
    )
    return changed == 1


async def clear_override(tx: Transaction, override_id: str, cleared_at: int) -> bool:
    """Note when a row was put out of force; False when it is not there, or was before."""
    changed = await tx.execute(
        "UPDATE renewal_overrides SET cleared_at = $1 WHERE id = $2 AND cleared_at IS NULL", cleared_at, override_id
    )
    return changed == 1


_COLUMNS: Final = "id, selection, renew_from, renew_until, explanation_url, set_at, cleared_at"

# A newer certificate of the same account for exactly the same names.
_HAS_SUCCESSOR: Final = (
    "EXISTS (SELECT 1 FROM certificates d WHERE d.account_id = c.account_id AND d.names_digest = c.names_digest"
    " AND d.recorded_at > c.recorded_at AND d.signature IS NOT NULL AND d.revoked_at IS NULL)"
)

_REVOKED: Final = "revoked"
_STATE: Final = (
    f"CASE WHEN c.revoked_at IS NOT NULL THEN '{_REVOKED}' WHEN c.replaced_by IS NOT NULL THEN '{Progress.REPLACED}'"
    f" WHEN {_HAS_SUCCESSOR} THEN '{Progress.RENEWED}' ELSE '{Progress.LEFT}' END"
)


class _Values:
    """The values of a statement: each is kept, and its place is what stands in the text."""

    def __init__(self) -> None:
        self.given: list[Value] = []

    def __call__(self, value: Value) -> str:
        self.given.append(value)
        return f"${len(self.given)}"


def _meant(selection: Selection, value: Callable[[Value], str], *, set_at: datetime, now: datetime) -> str:
    """The condition for the certificates of accounts that a window is about and that have not expired."""
    return " AND ".join(
        (
            "c.signature IS NOT NULL AND c.account_id IS NOT NULL",
            f"c.recorded_at <= {value(to_seconds(set_at))}",
            f"c.not_after >= {value(to_seconds(now))}",
            *_conditions(selection, value),
        )
    )


def _conditions(selection: Selection, value: Callable[[Value], str]) -> list[str]:
    """`Selection.fits` and `fits_names`, in SQL."""
    key = selection.spki_sha256
    comparisons: tuple[tuple[str, Value], ...] = (
        ("c.issuer_id = {}", selection.issuer_id),
        ("c.profile = {}", selection.profile),
        ("c.account_id = {}", selection.account_id),
        ("c.account_id IN (SELECT id FROM accounts WHERE grant_id = {})", selection.grant_id),
        ("c.spki_sha256 = {}", None if key is None else bytes.fromhex(key)),
        ("c.recorded_at >= {}", _seconds(selection.issued_after)),
        ("c.recorded_at < {}", _seconds(selection.issued_before)),
        ("c.not_after < {}", _seconds(selection.expires_before)),
    )
    conditions = [text.format(value(given)) for text, given in comparisons if given is not None]
    if selection.serials:
        conditions.append(f"c.serial IN ({', '.join(value(serial) for serial in sorted(selection.serials))})")
    if selection.name is not None:
        conditions.append(
            f"c.id IN (SELECT certificate_id FROM certificate_names WHERE {_named(selection.name, value)})"
        )
    return conditions


def _named(name: str, value: Callable[[Value], str]) -> str:
    if not name.startswith("*."):
        return f"name = {value(name)}"
    prefix = reverse_labels(name[2:])
    return f"reversed_name > {value(prefix)} AND reversed_name < {value(prefix[:-1] + '/')}"  # "/" is the character after "."


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else to_seconds(moment)


def _no_such(override_id: str) -> NotFound:
    return NotFound(f"there is no window {override_id}; acmeca renewal list shows which there are")


def _renewable(row: Row) -> StoredRenewable:
    not_after, recorded_at = from_seconds(row["not_after"]), from_seconds(row["recorded_at"])
    return StoredRenewable(
        id=row["id"],
        facts=Renewable(
            serial=row["serial"],
            issuer_id=row["issuer_id"],
            profile=row["profile"],
            account_id=row["account_id"],
            grant_id=row["grant_id"],
            spki_sha256=row["spki_sha256"].hex(),
            recorded_at=recorded_at,
            not_after=not_after,
        ),
        life=Life(
            serial=row["serial"],
            not_before=from_seconds(row["not_before"]),
            not_after=not_after,
            issued_at=from_seconds(row["issued_at"]),
            revoked_at=from_seconds(row["revoked_at"]),
        ),
        replaced_by=row["replaced_by"],
    )


def _override(row: Row) -> Override:
    return Override(
        id=row["id"],
        selection=Selection.from_json(json.loads(row["selection"])),
        window=Window(from_seconds(row["renew_from"]), from_seconds(row["renew_until"])),
        explanation_url=row["explanation_url"],
        set_at=from_seconds(row["set_at"]),
        cleared_at=from_seconds(row["cleared_at"]),
    )
