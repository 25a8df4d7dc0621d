"""`acmeca storage stats`: how large the database is, how it grows, and what retention does about it.

Rule 1: the database is opened for reading only, beside a running server or without one; the server is not asked, and not slowed.
Rule 2: it is quick however much there is: what would take long is estimated, and printed with "about".
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from acmeca.cli.connection import load
from acmeca.cli.options import json_option
from acmeca.cli.output import examples, print_json, print_line, print_pairs
from acmeca.cli.reading import opened_for_reading
from acmeca.config import Config, format_duration
from acmeca.errors import AcmecaError
from acmeca.service.growth import Database, Kept
from acmeca.storage.postgres_readonly import ReadOnlyPostgres
from acmeca.storage.schema import read_steps
from acmeca.storage.sizes import Counts, Sizes, Waiting
from acmeca.storage.sqlite_sizes import SqliteSizes

_GOAL: Final = 10_000  # certificates a day: what the forecast is made for beside the present rate
_WINDOWS: Final = (7, 30)  # days
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A database that can be asked for its sizes and counts."""

    sizes: Sizes
    counts: Counts


@click.command(
    short_help="Sizes, growth, and a forecast.",
    epilog=examples("acmeca storage stats", "acmeca storage stats --json | jq '.forecast'"),
)
@json_option
@click.pass_obj
def stats(config_path: Path | None, *, as_json: bool) -> None:
    """How large the database is, by table, how it grows, what it will be in a year, and what retention would free now.

    Sizes are exact up to a quarter of a gigabyte; above, rows and sizes of tables are estimated from samples ("about"). Run it
    as the server's user, with the server running or stopped.
    """
    config = load(config_path)
    document = asyncio.run(_examine(config, datetime.now(UTC)))
    if as_json:
        print_json(document)
    else:
        _print(document, config)


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[_Opened]:
    async with opened_for_reading(config) as database:
        version, known = database.schema_version(), len(read_steps())
        if version < known:
            raise AcmecaError(
                f"the database has schema {version}, and this program counts in schema {known}: start the server once"
            )
        if isinstance(database, ReadOnlyPostgres):
            yield _Opened(database, Counts(database))
        elif config.database_path is not None:
            yield _Opened(SqliteSizes(database, config.database_path), Counts(database))


async def _examine(config: Config, now: datetime) -> dict[str, Any]:
    path = config.database_path
    async with _opened(config) as database:
        files = await database.sizes.files()
        tables = await database.sizes.tables()
        statuses = await database.counts.by_status(now)
        recorded = {days: await database.counts.recorded(since=now - days * _DAY) for days in _WINDOWS}
        first = await database.counts.first_recorded()
        waiting = await database.counts.waiting(
            now, orders=config.retention.orders, certificates=config.retention.certificates
        )
    present = Database.of(tables, used=files.database - files.free)
    cost = present.cost
    kept = Kept(
        lifetime=config.policy.lifetime,
        orders=config.retention.orders,
        certificates=config.retention.certificates,
    )
    age = timedelta() if first is None else now - datetime.fromtimestamp(first, UTC)
    rates = {days: recorded[days] / min(float(days), max(1.0, age / _DAY)) for days in _WINDOWS}
    rate = rates[max(_WINDOWS)]
    return {
        "database": str(config.database_path) if config.storage.postgres is None else config.storage.postgres.redacted,
        "database_bytes": files.database,
        "free_bytes": files.free,
        "log_bytes": files.log,
        "journal": str(config.journal_dir),
        "journal_bytes": _directory_bytes(config.journal_dir),
        "disk_free_bytes": None if path is None else shutil.disk_usage(path.parent).free,
        "tables": [
            {"name": table.name, "rows": table.rows, "bytes": table.bytes, "is_estimate": table.is_estimate}
            for table in tables
        ],
        "certificates": {
            "valid": statuses.valid,
            "expired": statuses.expired,
            "revoked": statuses.revoked,
            "unsigned": statuses.unsigned,
            "total": statuses.total,
        },
        "growth": [
            {
                "days": days,
                "certificates": recorded[days],
                "certificates_a_day": round(rates[days], 1),
                "bytes_a_day": round(rates[days] * cost.total),
            }
            for days in _WINDOWS
        ],
        "bytes_per_certificate": {
            "certificate": cost.certificate,
            "order": cost.order,
            "audit": cost.audit,
            "total": cost.total,
            "is_measured": cost.is_measured,
        },
        "forecast": [
            {"certificates_a_day": round(daily, 1), "bytes_after_a_year": present.after_a_year(daily, kept)}
            for daily in (rate, float(_GOAL))
        ],
        "retention": {
            "orders": format_duration(config.retention.orders),
            "certificates": _duration_or_never(config.retention.certificates),
            "due_orders": waiting.orders,
            "due_certificates": waiting.certificates,
            "is_more": waiting.is_more,
            "due_bytes": _due_bytes(waiting, present),
        },
    }


def _due_bytes(waiting: Waiting, present: Database) -> int:
    """What retention would free, for what is used again; the file keeps its size."""
    return min(waiting.orders * present.cost.order, present.orders) + min(
        waiting.certificates * present.cost.certificate, present.certificates
    )


def _directory_bytes(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*") if directory.is_dir() else ():
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # a backup took it away just now
            continue
    return total


def _duration_or_never(duration: timedelta | None) -> str:
    return "never" if duration is None else format_duration(duration)


# --- printing -----------------------------------------------------------------------------------------------------


def _print(document: dict[str, Any], config: Config) -> None:
    print_line((document["database"], "bold"))
    free = (
        f", of which {format_bytes(document['free_bytes'])} are free for what comes next"
        if document["free_bytes"]
        else ""
    )
    print_pairs(
        {
            "file": f"{format_bytes(document['database_bytes'])}{free}",
            "log": format_bytes(document["log_bytes"]),
            "journal": f"{format_bytes(document['journal_bytes'])} in {document['journal']}",
            "left on disk": "the database server knows"
            if document["disk_free_bytes"] is None
            else format_bytes(document["disk_free_bytes"]),
        },
        indent="  ",
    )
    _print_tables(document["tables"])
    counts = document["certificates"]
    print_line(("\nCertificates", "bold"), f"  {counts['total']:,} in all")
    print_pairs({name: f"{counts[name]:,}" for name in ("valid", "expired", "revoked", "unsigned")}, indent="  ")
    print_line(("\nGrowth", "bold"))
    print_pairs(
        {
            f"last {item['days']} days": f"{item['certificates_a_day']:,.0f} certificates a day, about "
            f"{format_bytes(item['bytes_a_day'])} a day"
            for item in document["growth"]
        },
        indent="  ",
    )
    _print_forecast(document, config)
    _print_retention(document["retention"])


def _print_tables(tables: list[dict[str, Any]]) -> None:
    shown = [table for table in tables if table["rows"]]
    print_line((f"\n{'Table':<22}{'rows':>16}{'with indexes':>18}", "bold"))
    for table in shown:
        about = "about " if table["is_estimate"] else ""
        rows, size = f"{about}{table['rows']:,}", f"{about}{format_bytes(table['bytes'])}"
        print_line(f"  {table['name']:<20}{rows:>16}{size:>18}")


def _print_forecast(document: dict[str, Any], config: Config) -> None:
    cost = document["bytes_per_certificate"]
    source = "measured here" if cost["is_measured"] else "as measured elsewhere: there are too few here to say"
    print_line(("\nForecast", "bold"))
    pairs: dict[str, str | Text] = {
        "a certificate takes": f"about {format_bytes(cost['total'])}: {format_bytes(cost['certificate'])} itself, "
        f"{format_bytes(cost['order'])} its order, {format_bytes(cost['audit'])} its audit records ({source})"
    }
    for item, name in zip(document["forecast"], ("the present rate", f"{_GOAL:,} a day"), strict=True):
        needed = item["bytes_after_a_year"]
        left = document["disk_free_bytes"]
        is_short = left is not None and needed - document["database_bytes"] > left
        text = f"about {format_bytes(needed)}"
        pairs[f"in a year at {name}"] = Text(f"{text}: more than this disk has", "yellow") if is_short else text
    print_pairs(pairs, indent="  ")
    print_line(f"  (certificates live for {format_duration(config.policy.lifetime)}; the journal is not counted)")


def _print_retention(retention: Mapping[str, Any]) -> None:
    more = "more than " if retention["is_more"] else ""
    print_line(("\nRetention", "bold"))
    print_pairs(
        {
            "orders": f"{retention['orders']} after their end",
            "certificates": "for ever"
            if retention["certificates"] == "never"
            else f"{retention['certificates']} after their expiry",
            "would free now": f"{more}about {format_bytes(retention['due_bytes'])}: {retention['due_orders']:,} orders, "
            f"{retention['due_certificates']:,} certificates",
        },
        indent="  ",
    )


def format_bytes(count: float) -> str:
    """For people: three digits at the most, in powers of 1000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.5 else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
