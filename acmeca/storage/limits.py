"""Rate limits as they are kept: one row for each limit and whose it is (`policy/limits.py`).

Rule 1: a limit is taken in the body that does what is limited. Bodies run one after another in all processes (rule 4 of
`database.py`), so it is exact whatever races; and what was not done took nothing.
Rule 2: of several limits all have room or none is taken.
Rule 3: nothing here is journalled: after a restore from a backup limits are as full as they were then.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import Final, NamedTuple

from acmeca import audit
from acmeca.acme.renewal import CertificateId
from acmeca.policy import limits
from acmeca.policy.limits import Limit, Rate, Taking, Uses
from acmeca.storage.audit import append
from acmeca.storage.certificates import names_digest
from acmeca.storage.database import Database, Reader, Row, Transaction
from acmeca.storage.errors import StorageError
from acmeca.storage.times import from_seconds, to_seconds

_ENCODE: Final = json.JSONEncoder(separators=(",", ":")).encode  # made once: it costs more than what it does here
_SOON: Final = 10  # seconds: what is under way has an end by then, one way or the other


@dataclass(frozen=True, slots=True)
class Reached:
    """A limit that has no room, and when it has."""

    taking: Taking
    free_at: datetime


class LimitReachedError(StorageError):
    """One limit or several have no room, and nothing was done."""

    def __init__(self, reached: Sequence[Reached]) -> None:
        super().__init__(f"there is no room in {', '.join(item.taking.key for item in reached)}")
        self.reached = tuple(reached)


async def take(tx: Transaction, takings: Sequence[Taking], *, at: datetime) -> None:
    """Use all of these limits at `at`, or raise `LimitReachedError` with those that have no room, and use none (rule 2)."""
    if not takings:
        return
    now = to_seconds(at)
    keyed = [(taking.key, taking) for taking in takings]
    kept = await _all_kept(tx, keyed, now)
    uses = {key: row.uses for key, row in kept.items()}
    reached = []
    for key, taking in keyed:
        free = limits.free_at(uses[key], taking.rate, max(1, taking.count), now)
        if free is not None:
            reached.append(Reached(taking, from_seconds(free)))
        elif taking.count:
            uses[key] = limits.used(uses[key], taking.rate, taking.count, now)
    if reached:
        raise LimitReachedError(reached)
    for key, taking in dict(keyed).items():
        if uses[key] is not kept[key].uses:
            await _keep(tx, key, taking.rate, uses[key], before=kept[key])


async def count(tx: Transaction, taking: Taking, *, at: datetime) -> None:
    """Use a limit whether or not it has room: what it counts has happened."""
    now = to_seconds(at)
    kept = await _kept(tx, taking, now)
    uses = limits.used(kept.uses, taking.rate, taking.count, now)
    await _keep(tx, taking.key, taking.rate, uses, before=kept)


async def require_room(tx: Transaction, taking: Taking, *, besides: int, at: datetime) -> None:
    """Raise `LimitReachedError` when a limit has no room for what `taking` wants, with `besides` more that may be used any moment."""
    now = to_seconds(at)
    uses = (await _kept(tx, taking, now)).uses
    free = limits.free_at(uses, taking.rate, taking.count, now)
    if free is None and limits.free_at(uses, taking.rate, taking.count + besides, now) is not None:
        free = now + _SOON
    if free is not None:
        raise LimitReachedError([Reached(taking, from_seconds(free))])


async def without_renewals(
    tx: Transaction, takings: Sequence[Taking], *, account_id: str, names: Sequence[str], replaces: str | None
) -> list[Taking]:
    """The takings without the limits per name that a renewal does not use.

    It is one for all its names when the account has a certificate for exactly these, and for the names of the certificate that it
    `replaces` (an identifier, RFC 9773 §4.1; §5 of it speaks of orders that bypass rate limits).
    """
    limited = {str(taking.identifier) for taking in takings if taking.limit is Limit.CERTIFICATES_PER_NAME}
    if not limited:
        return list(takings)
    renewed: set[str] = set()
    if await tx.fetch_one(
        "SELECT 1 FROM certificates WHERE account_id = $1 AND names_digest = $2 AND signature IS NOT NULL LIMIT 1",
        account_id,
        names_digest(names),
    ):
        renewed = limited
    elif replaces is not None:
        rows = await tx.fetch_all(
            "SELECT n.name FROM certificates c JOIN certificate_names n ON n.certificate_id = c.id"
            " WHERE c.serial = $1 AND c.account_id = $2",
            CertificateId.parse(replaces).serial_hex,
            account_id,
        )
        renewed = {row["name"] for row in rows}
    return [
        taking
        for taking in takings
        if taking.limit is not Limit.CERTIFICATES_PER_NAME or str(taking.identifier) not in renewed
    ]


@dataclass(frozen=True, slots=True)
class Usage:
    """How far a limit is used up. `name` is the `Taking.key`, `rate` what the limit was when it was used last.

    `free_at` is None while there is room for one more; nothing is used up any more at `whole_at`.
    """

    name: str
    rate: Rate
    used: int
    free_at: datetime | None
    whole_at: datetime


class Limits:
    """The table `limits`, for administrators. Whoever is limited takes by `take`, in a body of their own."""

    def __init__(self, database: Database, *, writer: str) -> None:
        self._database = database
        self._writer = writer

    async def used(self, taking: Taking, *, at: datetime) -> int:
        """How much of a limit is used up."""
        return sum(count for _, count in (await _kept(self._database, taking, to_seconds(at))).uses)

    async def usages(self, *, at: datetime) -> list[Usage]:
        """Every limit that something of is used up, the fullest first."""
        rows = await self._database.scan("SELECT name, rate, uses FROM limits ORDER BY name")
        found = [usage for row in rows if (usage := _usage(row, to_seconds(at))) is not None]
        return sorted(found, key=lambda usage: (-usage.used / usage.rate.count, usage.name))

    async def reset(self, name: str, *, actor: str, at: datetime) -> bool:
        """Make a limit whole again; False when there is nothing to do."""

        async def body(tx: Transaction) -> bool:
            if not await tx.execute("DELETE FROM limits WHERE name = $1", name):
                return False
            await append(tx, writer=self._writer, at=at, event=audit.LimitReset(actor=actor, limit=name))
            return True

        return await self._database.write(body)


class _Kept(NamedTuple):
    """What of a limit still counts, and the row's column; None where there is no row."""

    uses: Uses = ()
    whole_at: int | None = None


async def _all_kept(reader: Reader, keyed: Sequence[tuple[str, Taking]], now: int) -> dict[str, _Kept]:
    rates = {key: taking.rate for key, taking in keyed}
    found = dict.fromkeys(rates, _Kept())
    for row in await reader.fetch_all(_select(len(rates)), *rates):
        found[row["name"]] = _read(row, rates[row["name"]], now)
    return found


@cache
def _select(keys: int) -> str:
    places = ", ".join(f"${number}" for number in range(1, keys + 1))
    return f"SELECT name, uses, whole_at FROM limits WHERE name IN ({places})"


async def _kept(reader: Reader, taking: Taking, now: int) -> _Kept:
    row = await reader.fetch_one("SELECT uses, whole_at FROM limits WHERE name = $1", taking.key)
    return _Kept() if row is None else _read(row, taking.rate, now)


def _read(row: Row, rate: Rate, now: int) -> _Kept:
    return _Kept(limits.counted(_parse(row["uses"]), rate, now), row["whole_at"])


async def _keep(tx: Transaction, key: str, rate: Rate, uses: Uses, *, before: _Kept) -> None:
    text, whole_at = _ENCODE(uses), limits.whole_at(uses, rate)
    if whole_at == before.whole_at:  # within a grain, as nearly always under load: no index moves
        await tx.execute("UPDATE limits SET rate = $1, uses = $2 WHERE name = $3", _show(rate), text, key)
        return
    await tx.execute(
        "INSERT INTO limits (name, rate, uses, whole_at) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE"
        " SET rate = excluded.rate, uses = excluded.uses, whole_at = excluded.whole_at",
        key,
        _show(rate),
        text,
        whole_at,
    )


_show = lru_cache(maxsize=1024)(str)  # a few, and each stands in many rows


def _parse(text: str) -> Uses:
    return tuple(map(tuple, json.loads(text)))


def _usage(row: Row, now: int) -> Usage | None:
    rate = limits.parse_rate(row["rate"])
    uses = limits.counted(_parse(row["uses"]), rate, now)
    if not uses:
        return None
    return Usage(
        name=row["name"],
        rate=rate,
        used=sum(count for _, count in uses),
        free_at=from_seconds(limits.free_at(uses, rate, 1, now)),
        whole_at=from_seconds(limits.whole_at(uses, rate)),
    )
