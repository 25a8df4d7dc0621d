"""audit: verify it, export it, and show its signed heads for keeping elsewhere.

Rule 1: nothing is written but what was asked for: the database is opened for reading only, beside a server or without one.
Rule 2: what a verification needs from elsewhere (heads, public keys) is given by files; a file that cannot be used is told
before anything is verified, and is no fault of the audit.
"""

import asyncio
import csv
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Final

import click
from rich.text import Text

from acmeca.audit import (
    KINDS,
    ChainSummary,
    ChainVerifier,
    Fault,
    FoundHead,
    Record,
    Report,
    SignedHead,
    What,
    fingerprint,
    format_at,
    is_genuine,
)
from acmeca.cli.audit_files import dump_record, parse_heads, parse_key, read_export, to_row
from acmeca.cli.connection import load
from acmeca.cli.options import json_option, parse_moment
from acmeca.cli.output import examples, print_json, print_line, print_pairs, shown_progress, written_whole
from acmeca.cli.reading import is_at_rest, opened_for_reading
from acmeca.config import Config
from acmeca.errors import AcmecaError
from acmeca.service.audit_heads import PUBLIC_KEY_FILE
from acmeca.storage import audit as stored
from acmeca.storage.audit_examination import Evidence, Examination, examine
from acmeca.storage.audit_heads import HEADS_SCHEMA, HeadsFile, read_table

_ADVICE: Final = (
    "Stop nothing and change nothing yet: copy the database, its journal and the data directory first. What each fault means and"
    " what to do then is in docs/audit.md."
)
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.group(
    short_help="Verify, export and witness the audit.",
    epilog=examples(
        "acmeca audit verify                                 was a record changed or removed?",
        "acmeca audit export --since 7d --output week.jsonl  what happened",
        "acmeca audit heads                                  what to keep elsewhere",
    ),
)
def audit() -> None:
    """Everything that was done and refused stands in the audit, in chains of hashes whose ends the server signs.

    An edited, deleted or moved record breaks its chain. Records cut off at the end show against heads: the server keeps signed
    ones, and a copy on another machine holds even against who can write to this one.
    """


# --- verify -------------------------------------------------------------------------------------------------------


@audit.command(
    short_help="Find edited, deleted, reordered or truncated records.",
    epilog=examples(
        "acmeca audit verify",
        "acmeca audit verify --heads /mnt/elsewhere/heads.txt --public-key /mnt/elsewhere/audit.pub.pem",
        "acmeca audit verify --export audit.jsonl --heads heads.txt",
        "acmeca audit verify --json | jq '.faults[]'",
    ),
)
@click.option(
    "--heads",
    "heads_paths",
    multiple=True,
    type=_FILE,
    help="Heads that were kept elsewhere: what acmeca audit heads printed, or a copy of audit-heads.jsonl. Repeatable.",
)
@click.option(
    "--public-key",
    "key_paths",
    multiple=True,
    type=_FILE,
    help="A copy of audit.pub.pem that was kept elsewhere: heads by other keys are faults. Repeatable.",
)
@click.option(
    "--export", "export_path", type=_FILE, help="Verify what acmeca audit export wrote without filters; needs no CA."
)
@click.option("--no-journal", is_flag=True, help="Leave the journal out, which takes the longest.")
@json_option
@click.pass_obj
@click.pass_context
def verify(
    context: click.Context,
    config_path: Path | None,
    *,
    heads_paths: tuple[Path, ...],
    key_paths: tuple[Path, ...],
    export_path: Path | None,
    no_journal: bool,
    as_json: bool,
) -> None:
    """Verify every record of the audit: its hash, its place, the signed heads, and the journal as a second witness.

    Beside a running server or without one; nothing is changed. Each fault says which record of which writer it is, and what
    was done to it. The exit code is 1 when there are faults.

    What the data directory holds proves nothing against somebody who can write to all of it. Heads kept elsewhere do: give
    them by --heads, and the public key by --public-key.
    """
    kept = tuple(head for path in heads_paths for head in parse_heads(path))
    keys = frozenset(fingerprint(parse_key(path)) for path in key_paths)
    with shown_progress() as on_progress:
        if export_path is not None:
            examination = Examination(_verify_export(export_path, kept, keys, on_progress=on_progress), journalled={})
        else:
            examination = _verify_store(
                load(config_path), kept, keys, with_journal=not no_journal, on_progress=on_progress
            )
    report = examination.report
    if as_json:
        print_json(_to_json(examination))
    else:
        _print_report(examination)
    context.exit(1 if report.faults else 0)


def _verify_store(
    config: Config,
    kept: tuple[FoundHead, ...],
    keys: frozenset[str],
    *,
    with_journal: bool,
    on_progress: Callable[[str, int, int], object],
) -> Examination:
    """Examine the store; once more when a server started in the middle of it (`storage/readonly.py`)."""

    async def look() -> Examination:
        async with opened_for_reading(config) as database:
            evidence = Evidence(
                data_dir=config.server.data_dir,
                has_table=database.schema_version() >= HEADS_SCHEMA,
                journal_dir=config.journal_dir if with_journal else None,
                kept=kept,
                keys=keys or own_key(config),
                only_keys=bool(keys),
            )
            return await examine(database, evidence, on_progress=on_progress)

    was_at_rest = is_at_rest(config)
    examination = asyncio.run(look())
    return asyncio.run(look()) if was_at_rest and not is_at_rest(config) else examination


def own_key(config: Config) -> frozenset[str]:
    """The fingerprint of the data directory's own key, where there is one."""
    path = config.server.data_dir / PUBLIC_KEY_FILE
    return frozenset({fingerprint(parse_key(path))}) if path.exists() else frozenset()


def _verify_export(
    path: Path, kept: Sequence[FoundHead], keys: frozenset[str], *, on_progress: Callable[[str, int, int], object]
) -> Report:
    verifier = ChainVerifier(kept, trusted=keys, only_trusted=bool(keys))
    for record in read_export(path, on_progress=on_progress):
        if isinstance(record, str):
            verifier.add_fault(Fault(What.DAMAGED, "", None, record))
        else:
            verifier.add(record)
    return verifier.finish()


def _to_json(examination: Examination) -> dict[str, object]:
    report = examination.report
    return {
        "records": sum(chain.records for chain in report.chains),
        "heads": report.heads,
        "journal": sum(examination.journalled.values()),
        "writers": [
            {
                "writer": chain.writer,
                "verdict": "faulty" if chain.faults else "whole",
                "records": chain.records,
                "first_at": _moment(chain.first_at),
                "last_at": _moment(chain.last_at),
                "head": None
                if chain.head is None
                else {"sequence": chain.head.sequence, "hash": chain.head.hash.hex()},
                "kept_heads": chain.kept_heads,
                "heads": chain.heads,
                "newest_head": None if chain.newest_head is None else chain.newest_head.head.sequence,
                "journal": examination.journalled.get(chain.writer, 0),
                "faults": chain.faults,
            }
            for chain in report.chains
        ],
        "faults": [fault.to_json() for fault in report.faults],
        "faults_left_out": report.left_out,
    }


def _print_report(examination: Examination) -> None:
    report = examination.report
    for chain in report.chains:
        verdict = ("faulty", "bold red") if chain.faults else ("whole", "green")
        print_line((chain.writer, "bold"), "  ", verdict)
        pairs: dict[str, str | Text] = {
            "records": f"{chain.records}"
            + (f", {_moment(chain.first_at)} to {_moment(chain.last_at)}" if chain.records else ""),
            "head": "none" if chain.head is None else f"{chain.head.sequence} {chain.head.hash.hex()}",
            "kept heads": _heads(chain),
        }
        if chain.writer in examination.journalled:
            pairs["journal"] = f"{examination.journalled[chain.writer]} records compared"
        print_pairs(pairs, indent="  ")
    for fault in report.faults:
        print_line(("fault", "bold red"), f"  {fault}")
    count = len(report.faults) + report.left_out
    if report.left_out:
        print_line(f"… and {report.left_out} more faults")
    records = sum(chain.records for chain in report.chains)
    print_line(f"\n{records} records of {len(report.chains)} writers, {report.heads} heads, {count} faults")
    if count:
        print_line(_ADVICE, stderr=True)


def _heads(chain: ChainSummary) -> Text:
    if chain.newest_head is not None:
        return Text(f"{chain.heads} of {chain.kept_heads} fit, through record {chain.newest_head.head.sequence}")
    if chain.kept_heads:
        return Text(f"none of {chain.kept_heads} fits", "red")
    return Text("none: what was cut off its end does not show", "yellow")


# --- export -------------------------------------------------------------------------------------------------------


@audit.command(
    short_help="Write records as JSON lines or CSV.",
    epilog=examples(
        "acmeca audit export --output audit.jsonl",
        "acmeca audit export --since 7d --kind certificate.revoked",
        "acmeca audit export --subject 0139389270d3818df3300661cbf43fcee7 | jq .event",
        "acmeca audit export --since 2026-11-01 --until 2026-12-01 --format csv --output november.csv",
    ),
)
@click.option(
    "--since",
    callback=parse_moment,
    metavar="TIME",
    help="From this moment on: 2026-11-23T12:00:00Z, 2026-11-23 or 7d.",
)
@click.option("--until", callback=parse_moment, metavar="TIME", help="Before this moment.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    metavar="KIND",
    help="Like certificate.issued, or certificate for all of those. Repeatable.",
)
@click.option("--actor", help="Who did it: account:ID, admin:NAME, key:THUMBPRINT or system.")
@click.option("--subject", help="What it was done to: a serial (lower-case hex), an id, a digest.")
@click.option("--writer", help="One writer's records.")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--output", "-o", type=_FILE, help="Write to a file, whole or not at all.")
@click.pass_obj
def export(
    config_path: Path | None,
    *,
    since: int | None,
    until: int | None,
    kinds: tuple[str, ...],
    actor: str | None,
    subject: str | None,
    writer: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Write the audit's records, each writer's in their order, one to a line.

    Each has its number and its hash, so that acmeca audit verify --export FILE can verify it anywhere, when no filter but
    --until or --writer left records out. Filters are joined by "and".
    """
    selection = stored.Selection(
        since=since, until=until, kinds=_kinds(kinds), actor=actor, subject=subject, writer=writer
    )
    config = load(config_path)
    with nullcontext(sys.stdout) if output is None else written_whole(output) as file:
        was_at_rest = is_at_rest(config)
        count = asyncio.run(_export(config, selection, file, form=form))
        if was_at_rest and not is_at_rest(config):
            raise AcmecaError("a server started meanwhile, so this may be a mixture: export again")
    if output is not None:
        print_line(f"{output}: {count} records")


def _kinds(words: Sequence[str]) -> tuple[str, ...]:
    found: list[str] = []
    for word in words:
        fitting = [kind for kind in KINDS if kind == word or kind.startswith(f"{word}.")]
        if not fitting:
            raise click.BadParameter(f"{word!r} is none; there are {', '.join(KINDS)}", param_hint="--kind")
        found += fitting
    return tuple(found)


async def _export(config: Config, selection: stored.Selection, file: IO[str], *, form: str) -> int:
    async with opened_for_reading(config) as database:
        return await _write_records(stored.records(database, selection), file, form=form)


async def _write_records(records: AsyncIterator[Record], file: IO[str], *, form: str) -> int:
    rows = csv.writer(file, lineterminator="\n") if form == "csv" else None
    if rows is not None:
        rows.writerow(to_row(None))
    count = 0
    async for record in records:
        if rows is not None:
            rows.writerow(to_row(record))
        else:
            file.write(dump_record(record) + "\n")
        count += 1
    return count


# --- heads --------------------------------------------------------------------------------------------------------


@audit.command(
    short_help="Show the newest signed heads, for keeping elsewhere.",
    epilog=examples(
        "acmeca audit heads",
        "acmeca audit heads --json | ssh vault 'cat >> acmeca-heads.jsonl'",
        "acmeca audit heads | logger -t acmeca-audit",
    ),
)
@click.option("--json", "as_json", is_flag=True, help="JSON with the signatures, a head to a line.")
@click.pass_obj
def heads(config_path: Path | None, *, as_json: bool) -> None:
    """Show the newest signed head of each writer: the number and the hash of its last record at that moment.

    Where who can write to this machine cannot change it, a head proves that the records up to it are what they were: on
    paper, in another machine's log. acmeca audit verify --heads FILE takes what this prints, in both forms.
    """
    config = load(config_path)
    newest: dict[str, SignedHead] = {}
    for signed in _all_heads(config):
        known = newest.get(signed.head.writer)
        if known is None or (signed.signed_at, signed.head.sequence) > (known.signed_at, known.head.sequence):
            newest[signed.head.writer] = signed
    if not newest:
        raise AcmecaError("no head is signed yet: the server signs the first one when it starts")
    for _, signed in sorted(newest.items()):
        if as_json:
            click.echo(json.dumps(signed.to_json()))
        else:
            print_line(
                f"{signed.head.writer} {signed.head.sequence} {signed.head.hash.hex()} {_moment(signed.signed_at)}"
            )
    if not as_json and sys.stdout.isatty():
        for key in sorted({fingerprint(signed.public_key) for signed in newest.values()}):
            print_line(f"signed by the key {key}", stderr=True)


def _all_heads(config: Config) -> Iterator[SignedHead]:
    """Those of the file and of the database whose signature is good."""
    for _, signed in (*HeadsFile(config.server.data_dir).read().heads, *asyncio.run(_heads_in_table(config))):
        if is_genuine(signed):
            yield signed
        else:
            print_line(
                f"A head of {signed.head.writer} at {signed.head.sequence} is forged and left out; run: acmeca audit verify",
                stderr=True,
            )


async def _heads_in_table(config: Config) -> Sequence[tuple[int, SignedHead]]:
    async with opened_for_reading(config) as database:
        return (await read_table(database)).heads if database.schema_version() >= HEADS_SCHEMA else ()


# --- shared -------------------------------------------------------------------------------------------------------


def _moment(at: int | None) -> str | None:
    return None if at is None else format_at(at)
