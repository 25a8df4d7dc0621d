"""The database: its structure, its schema, its audit chain, and what the other checks need to know from it.

Rule 1: it is opened for reading only, beside a running server or without one (`storage/readonly.py`).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from acmeca import audit
from acmeca.app import config_sha256
from acmeca.cli.checks.finding import Finding, Level, error, format_span, ok, warning
from acmeca.config import Config
from acmeca.errors import AcmecaError
from acmeca.storage import audit as stored_audit
from acmeca.storage.crls import Crl, Crls
from acmeca.storage.database import Database
from acmeca.storage.issuers import Issuers, StoredIssuer
from acmeca.storage.postgres_readonly import open_read_only_postgres
from acmeca.storage.readonly import has_log, open_read_only
from acmeca.storage.schema import Standing, read_steps
from acmeca.storage.times import from_seconds

_FAULTS_TOLD: Final = 3


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """The audit's word on a server's start or end. `config_sha256` is empty for an end."""

    kind: str
    at: datetime
    config_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the database holds, as far as other checks need it."""

    issuers: tuple[StoredIssuer, ...] = ()
    crls: Mapping[str, Crl] = field(default_factory=dict)
    newest_record: datetime | None = None
    last_server: ServerEvent | None = None


async def check_database(config: Config) -> tuple[list[Finding], Kept]:
    """Look at the database. What a server that starts meanwhile may have disturbed is looked at again."""
    path = config.database_path
    if path is None:
        return await _look_at_server(config)
    about = f"database {path}"
    if not path.exists():
        return [error(about, "is not there", "Make a CA with: acmeca init")], Kept()
    had_log = has_log(path)
    findings, kept = await _look(about, path)
    if not had_log and has_log(path):
        findings, kept = await _look(about, path)
    return findings, kept


async def _look(about: str, path: Path) -> tuple[list[Finding], Kept]:
    with _told(about) as told, open_read_only(path) as database:
        faults = database.faults()
        if faults:
            return [error(about, f"is damaged: {faults[0]}", "Stop the server and restore a backup")], Kept()
        return await _look_into(about, database, await database.standing())
    return told


async def _look_at_server(config: Config) -> tuple[list[Finding], Kept]:
    """A database server looks after its files itself; what is in them is ours."""
    about = "database" if config.storage.postgres is None else f"database {config.storage.postgres.redacted}"
    with _told(about) as told:
        async with open_read_only_postgres(config.storage.url) as database:
            return await _look_into(about, database, await database.standing())
    return told


@contextmanager
def _told(about: str) -> Iterator[tuple[list[Finding], Kept]]:
    """What to say when the look is ended by a failure."""
    findings: list[Finding] = []
    try:
        yield findings, Kept()
    except AcmecaError as failure:
        findings.append(error(about, str(failure), "If it stays so, restore a backup"))
    except (ValueError, TypeError) as failure:  # a value of a kind that acmeca does not write
        findings.append(error(about, f"holds what acmeca never wrote: {failure}", "Restore a backup"))


async def _look_into(about: str, database: Database, standing: Standing) -> tuple[list[Finding], Kept]:
    finding = _judge_schema(about, standing)
    if finding.level is Level.ERROR:
        return [finding], Kept()
    findings = [finding, *await _check_audit(database)]
    kept = await _read(database)
    if not kept.issuers:
        findings.append(error("issuers", "there is none in the database", "Make a CA with: acmeca init"))
    return findings, kept


def _judge_schema(about: str, standing: Standing) -> Finding:
    version, known = standing.version, len(read_steps())
    if version == 0:
        return error(about, "has no tables of acmeca", "Make a CA with: acmeca init")
    if standing.minimum > known:
        return error(about, f"has schema {version}, this program knows {known}", "Run the newer version of acmeca")
    if version > known:
        return ok(
            about, f"is sound; its schema {version} is newer than this program's ({known}), which may work with it"
        )
    if version < known:
        return ok(about, f"is sound; its schema {version} is brought to {known} at the next start")
    return ok(about, f"is sound, with schema {version}")


async def _check_audit(database: Database) -> list[Finding]:
    # The verifier takes `Database`; records are read a page at a time.
    faults = await stored_audit.verify(database)
    if faults:
        told = "; ".join(map(str, faults[:_FAULTS_TOLD])) + ("; …" if len(faults) > _FAULTS_TOLD else "")
        return [
            error(
                "audit chain",
                f"{len(faults)} faults: {told}",
                "Records were changed or removed: keep a copy of the database, and find out who could write to it",
            )
        ]
    row = await database.fetch_one("SELECT COUNT(*) AS records FROM audit")
    return [ok("audit chain", f"{0 if row is None else row['records']} records, none changed or missing in between")]


async def _read(database: Database) -> Kept:
    issuers = tuple(await Issuers(database, writer="").all())
    for item in issuers:
        _ = item.issuer.certificate  # raises for what is no certificate, before anything rests on it
    crls = Crls(database, writer="")
    found = {item.issuer.id: await crls.latest(item.issuer.id) for item in issuers}
    newest = await database.fetch_one("SELECT MAX(at) AS at FROM audit")
    # Workers write under several names: the last word of the one that was started last.
    server = await database.fetch_one(
        "SELECT at, kind, event FROM audit WHERE kind IN ($1, $2) AND writer ="
        " (SELECT writer FROM audit WHERE kind = $1 ORDER BY at DESC, writer DESC LIMIT 1) ORDER BY sequence DESC LIMIT 1",
        audit.ServerStarted.kind,
        audit.ServerStopped.kind,
    )
    return Kept(
        issuers=issuers,
        crls={issuer_id: crl for issuer_id, crl in found.items() if crl is not None},
        newest_record=None if newest is None else from_seconds(newest["at"]),
        last_server=None
        if server is None
        else ServerEvent(
            server["kind"], from_seconds(server["at"]), json.loads(server["event"]).get("config_sha256", "")
        ),
    )


def check_last_server(config: Config, kept: Kept, *, is_running: bool) -> list[Finding]:
    """What the audit says of the server that runs, or ran last: its configuration, and how it ended."""
    last = kept.last_server
    if last is None:
        return []
    if is_running and last.kind == audit.ServerStarted.kind and last.config_sha256 != config_sha256(config):
        return [
            warning(
                "running server",
                f"was started {last.at:%Y-%m-%d %H:%M} UTC with other settings than this configuration (with the "
                "environment of this command) has",
                "Restart the server to have the changes take effect, or run doctor with the server's environment",
            )
        ]
    if not is_running and last.kind == audit.ServerStarted.kind:
        return [
            warning(
                "last server",
                f"started {last.at:%Y-%m-%d %H:%M} UTC and did not end in order: it was killed, or the machine went down",
                "Nothing is lost by it: the next start finishes what was under way. Find out why",
            )
        ]
    return []


def check_record_times(kept: Kept, now: datetime) -> list[Finding]:
    """A clock that leapt back: what is signed now would be older than what was signed before."""
    if kept.newest_record is None:
        return []
    behind = kept.newest_record - now
    if behind.total_seconds() > 1:
        return [
            error(
                "clock",
                f"stands {format_span(behind)} before the newest audit record ({kept.newest_record:%Y-%m-%d %H:%M:%S} UTC)",
                "It leaps, now or when that was written: set it by NTP before the server signs anything",
            )
        ]
    return [ok("clock", f"stands after the newest audit record, of {kept.newest_record:%Y-%m-%d %H:%M:%S} UTC")]
