"""The database: its structure, its schema, its audit, and what the other checks need to know from it.

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
from acmeca.cli.audit import own_key
from acmeca.cli.checks.finding import Finding, Level, error, format_span, ok, warning
from acmeca.config import Config
from acmeca.errors import AcmecaError
from acmeca.storage.audit_examination import Evidence, examine
from acmeca.storage.audit_heads import HEADS_SCHEMA
from acmeca.storage.crls import Crl, Crls
from acmeca.storage.database import Database
from acmeca.storage.grants import Grants, StoredGrant
from acmeca.storage.issuers import Issuers, StoredIssuer
from acmeca.storage.node import read_node
from acmeca.storage.postgres_readonly import open_read_only_postgres
from acmeca.storage.readonly import has_log, open_read_only
from acmeca.storage.schema import Standing, read_steps
from acmeca.storage.times import from_seconds

_FAULTS_TOLD: Final = 3
_UNSIGNED_SECONDS: Final = 600
_NEVER: Final = 1 << 40  # Unix seconds
_GRANTS_SCHEMA: Final = 5  # the one that made the table of grants
_WRITERS_SCHEMA: Final = 2  # the schema step that made the table of writers


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """The audit's last word on a server process: its start or its end. `config_sha256` is empty for an end."""

    writer: str
    kind: str
    at: datetime
    config_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the database holds, as far as other checks need it. `servers` are the processes of this data directory."""

    issuers: tuple[StoredIssuer, ...] = ()
    grants: tuple[StoredGrant, ...] = ()  # those by which accounts can be made
    crls: Mapping[str, Crl] = field(default_factory=dict)
    newest_record: datetime | None = None
    servers: tuple[ServerEvent, ...] = ()


async def check_database(config: Config) -> tuple[list[Finding], Kept]:
    """Look at the database. What a server that starts meanwhile may have disturbed is looked at again."""
    path = config.database_path
    if path is None:
        return await _look_at_server(config)
    about = f"database {path}"
    if not path.exists():
        return [error(about, "is not there", "Make a CA with: acmeca init")], Kept()
    had_log = has_log(path)
    findings, kept = await _look(about, path, config)
    if not had_log and has_log(path):
        findings, kept = await _look(about, path, config)
    return findings, kept


async def _look(about: str, path: Path, config: Config) -> tuple[list[Finding], Kept]:
    with _told(about) as told, open_read_only(path) as database:
        faults = database.faults()
        if faults:
            return [error(about, f"is damaged: {faults[0]}", "Stop the server and restore a backup")], Kept()
        return await _look_into(about, database, config, await database.standing())
    return told


async def _look_at_server(config: Config) -> tuple[list[Finding], Kept]:
    """A database server looks after its files itself; what is in them is ours."""
    about = "database" if config.storage.postgres is None else f"database {config.storage.postgres.redacted}"
    with _told(about) as told:
        async with open_read_only_postgres(config.storage.url) as database:
            return await _look_into(about, database, config, await database.standing())
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


async def _look_into(about: str, database: Database, config: Config, standing: Standing) -> tuple[list[Finding], Kept]:
    finding = _judge_schema(about, standing)
    if finding.level is Level.ERROR:
        return [finding], Kept()
    findings = [finding, *await _check_audit(config, database, standing)]
    kept = await _read(config, database, standing)
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


async def _check_audit(config: Config, database: Database, standing: Standing) -> list[Finding]:
    """As `acmeca audit verify` does, but for the journal, which takes long."""
    examination = await examine(
        database,
        Evidence(
            data_dir=config.server.data_dir,
            has_table=standing.version >= HEADS_SCHEMA,
            keys=own_key(config),
        ),
    )
    report = examination.report
    count = len(report.faults) + report.left_out
    if count:
        told = "; ".join(map(str, report.faults[:_FAULTS_TOLD])) + ("; …" if count > _FAULTS_TOLD else "")
        return [
            error(
                "audit chain",
                f"{count} {'fault' if count == 1 else 'faults'}: {told}",
                "Records were changed or removed: keep a copy of the data directory, run acmeca audit verify, and see docs/audit.md",
            )
        ]
    records = sum(chain.records for chain in report.chains)
    findings = [
        ok("audit chain", f"{records} records, none changed or missing in between; {report.heads} signed heads fit")
    ]
    findings += [finding for chain in report.chains if (finding := _judge_heads(chain)) is not None]
    return findings


def _judge_heads(chain: audit.ChainSummary) -> Finding | None:
    """A server signs the head of its chain each minute. Whether one that never did should have, is not known."""
    newest, head = chain.newest_head, chain.head
    if newest is None or newest.signed is None or head is None or chain.last_at is None:
        return None
    if newest.head.sequence >= head.sequence or chain.last_at - newest.signed.signed_at < _UNSIGNED_SECONDS:
        return None
    return warning(
        "audit heads",
        f"{newest} is the newest of {chain.writer}; {head.sequence - newest.head.sequence} records came after it",
        "The server's log says why it signs none (a full disk, the key in keys/audit.pem); acmeca serve signs the next one",
    )


async def _read(config: Config, database: Database, standing: Standing) -> Kept:
    issuers = tuple(await Issuers(database, writer="").all())
    for item in issuers:
        _ = item.issuer.certificate  # raises for what is no certificate, before anything rests on it
    crls = Crls(database, writer="")
    found = {item.issuer.id: await crls.latest(item.issuer.id) for item in issuers}
    # A text, which somebody put there, is more than any number to SQLite; the audit's own check tells of it.
    newest = await database.fetch_one("SELECT MAX(at) AS at FROM audit WHERE at < $1", _NEVER)
    return Kept(
        issuers=issuers,
        crls={issuer_id: crl for issuer_id, crl in found.items() if crl is not None},
        newest_record=None if newest is None else from_seconds(newest["at"]),
        servers=await _read_servers(config, database, standing),
        grants=await _read_grants(database, standing),
    )


async def _read_grants(database: Database, standing: Standing) -> tuple[StoredGrant, ...]:
    if standing.version < _GRANTS_SCHEMA:
        return ()
    return tuple(await Grants(database, writer="").active())


async def _read_servers(config: Config, database: Database, standing: Standing) -> tuple[ServerEvent, ...]:
    """The last start or end of each process of this data directory, but of those that a later start found gone.

    Other data directories' servers (on other hosts) are for the doctor there.
    """
    node = read_node(config.server.data_dir)
    if node is None or standing.version < _WRITERS_SCHEMA:
        return ()
    events = []
    for row in await database.fetch_all("SELECT name FROM writers WHERE instance <> '' ORDER BY name"):
        writer = row["name"]
        if writer != node and not writer.startswith(f"{node}."):
            continue
        event = await database.fetch_one(
            "SELECT at, kind, event FROM audit WHERE writer = $1 AND kind IN ($2, $3) ORDER BY sequence DESC LIMIT 1",
            writer,
            audit.ServerStarted.kind,
            audit.ServerStopped.kind,
        )
        if event is not None:
            digest = json.loads(event["event"]).get("config_sha256", "")
            events.append(ServerEvent(writer, event["kind"], from_seconds(event["at"]), digest))
    return tuple(events)


def check_last_server(config: Config, kept: Kept, *, is_running: bool) -> Iterator[Finding]:
    """What the audit says of the processes that run, or ran last: their configuration, and how they ended."""
    started = [event for event in kept.servers if event.kind == audit.ServerStarted.kind]
    if is_running:
        for event in started:
            if event.config_sha256 != config_sha256(config):
                yield warning(
                    "running server",
                    f"{event.writer} was started {event.at:%Y-%m-%d %H:%M} UTC with other settings than this configuration (with "
                    "the environment of this command) has",
                    "Restart the server to have the changes take effect, or run doctor with the server's environment",
                )
        return
    if started:
        newest = max(started, key=lambda event: event.at)
        which = newest.writer if len(started) == 1 else f"{len(started)} processes, {newest.writer} among them,"
        yield warning(
            "last server",
            f"{which} started {newest.at:%Y-%m-%d %H:%M} UTC and did not end in order: it was killed, or the machine went down",
            "Nothing is lost by it: the next start finishes what was under way. Find out why",
        )


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
