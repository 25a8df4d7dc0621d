"""`acmeca backup` and `acmeca restore`."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from acmeca.app import real_ambient
from acmeca.audit import admin_actor
from acmeca.cli.connection import load
from acmeca.cli.options import json_option
from acmeca.cli.output import examples, format_size, print_json, print_line, print_pairs, shown_progress, tell_steps
from acmeca.errors import AcmecaError
from acmeca.recovery import Made, Placed, make_backup, read_key_files, restore
from acmeca.storage.restore import Restored, format_moment
from acmeca.web.control import user_name

_LISTED = 20  # losses that are printed one by one


@click.command(
    short_help="Write everything that the CA knows into one file.",
    epilog=examples(
        "acmeca backup /mnt/backup/acmeca-$(date +%F).backup",
        "acmeca backup --force /mnt/backup/acmeca.backup",
        "acmeca backup --with-keys /media/safe/acmeca.backup      whoever has that file is this CA",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--with-keys", is_flag=True, help="Take the private keys as well. Whoever can read the file can issue.")
@click.option("--force", is_flag=True, help="Replace FILE when it exists; it stays until the new one is complete.")
@json_option
@click.pass_obj
def backup(config_path: Path | None, *, file: Path, with_keys: bool, force: bool, as_json: bool) -> None:
    """Write a backup: the whole database of one moment, in one file that acmeca restore can prove whole.

    It works beside a running server, which is not held up, and without one. The file is an SQLite database of mode 0600; it is
    read back before it gets its name, and a backup that fails leaves nothing. What is done after it stands in the journal, which
    acmeca restore reads too: keep the journal on another disk than the database, and copy it away more often than this.

    The keys are not in it unless you say --with-keys: they hardly ever change, and want a safer place than a database.
    """
    config = load(config_path)
    with shown_progress() as on_progress:
        made = make_backup(
            config, file, with_keys=with_keys, may_replace=force, now=datetime.now(UTC), on_progress=on_progress
        )
    if as_json:
        print_json(
            made.manifest.to_json()
            | {
                "file": str(file),
                "bytes": made.length,
                "superfluous_segments": [segment.path.name for segment in made.superfluous],
            }
        )
        return
    _report_backup(made, file, key_files=[item.path for item in read_key_files(config.server.data_dir)])


def _report_backup(made: Made, file: Path, *, key_files: list[str]) -> None:
    manifest = made.manifest
    rows = {name: table.sum.rows for name, table in manifest.tables.items()}
    print_pairs(
        {
            "Backup": f"{file}, {format_size(made.length)}",
            "Of": f"{format_moment(manifest.created_at)}, schema {manifest.schema}",
            "Holds": f"{rows['certificates']} certificates, {rows['accounts']} accounts, {rows['audit']} audit records",
            "Newest record": format_moment(manifest.newest_record),
        }
    )
    if manifest.has_keys:
        print_line(
            ("The private keys are in it:", "bold yellow"), " whoever can read this file can issue certificates."
        )
    else:
        print_line(
            ("The private keys are not in it.", "bold"),
            " Keep a copy of these elsewhere, once, and after each change (or use --with-keys):",
        )
        print_line(f"  {', '.join(key_files) or 'none is there'}")
    count = len(made.superfluous)
    if count:
        print_line(
            f"{count} {'segment' if count == 1 else 'segments'} of the journal older than this backup, and of no use with it; remove with:\n"
            f"  acmeca journal prune --before-backup {file}"
        )


@click.command(
    "restore",
    short_help="Put a backup, and what was done since, in the database's place.",
    epilog=examples(
        "acmeca restore /mnt/backup/acmeca-2026-11-25.backup",
        "acmeca restore --trial /mnt/backup/acmeca-2026-11-25.backup        the drill: changes nothing",
        "acmeca restore FILE --journal /mnt/backup/journal-of-ca2           with the journals of the other servers",
        "acmeca restore FILE --without-journals --accept-loss               forget what was done since",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--journal",
    "journals",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="A directory with journals, besides storage.journal: a copy, or another server's. Repeatable.",
)
@click.option("--without-journals", is_flag=True, help="Restore the backup alone, and forget what was done since.")
@click.option("--accept-loss", is_flag=True, help="Restore although something is missing; without it you are asked.")
@click.option("--trial", is_flag=True, help="Do everything but the last step, in a temporary directory, and report.")
@json_option
@click.pass_obj
def restore_command(
    config_path: Path | None,
    *,
    file: Path,
    journals: tuple[Path, ...],
    without_journals: bool,
    accept_loss: bool,
    trial: bool,
    as_json: bool,
) -> None:
    """Restore a backup and replay the journals, so that nothing that was signed or revoked since is forgotten.

    The backup is proven whole first. The database is built anew beside the one that is there, which is moved aside and never
    deleted. Damaged or missing journals are told before anything is changed, with what would be forgotten; then you are asked.
    Killed at any moment, this leaves the former database or the restored one, and may be run again. Stop the server before.
    """
    if without_journals and journals:
        raise click.UsageError("--without-journals and --journal contradict each other")
    config = load(config_path)
    placed = asyncio.run(
        restore(
            config,
            file,
            journal_dirs=journals,
            without_journals=without_journals,
            is_trial=trial,
            may_lose=lambda restored: _may_lose(restored, accept_loss=accept_loss),
            actor=admin_actor(user_name(os.getuid())),
            ambient=real_ambient(),
            on_progress=tell_steps(),
        )
    )
    if as_json:
        print_json(_to_json(placed))
    else:
        _report_restore(placed)


def _may_lose(restored: Restored, *, accept_loss: bool) -> bool:
    """Tell what will be forgotten, and have an operator decide."""
    _print_losses(restored)
    if accept_loss:
        return True
    if not sys.stdin.isatty():
        raise AcmecaError(
            "nobody is here to decide; nothing was changed. Find what is missing (--journal DIR), or say --accept-loss"
        )
    return click.confirm("Restore all the same, and forget that?", default=False, err=True)


def _print_losses(restored: Restored) -> None:
    print_line(
        ("This backup and these journals do not hold everything.", "bold red"), " Forgotten would be:", stderr=True
    )
    for loss in restored.losses[:_LISTED]:
        print_line(f"  - {loss}", stderr=True)
    if len(restored.losses) > _LISTED:
        print_line(f"  … and {len(restored.losses) - _LISTED} more", stderr=True)
    print_line(
        "A forgotten certificate is unknown to OCSP, and a forgotten revocation makes it good again.", stderr=True
    )


def _to_json(placed: Placed) -> dict[str, object]:
    restored = placed.restored
    return {
        "is_trial": placed.is_trial,
        "complete": restored.is_complete,
        "losses": list(restored.losses),
        "backup_at": restored.manifest.created_at,
        "replayed_commits": restored.tally.commits,
        "replayed": restored.tally.changed,
        "left_out_commits": restored.left_out,
        "newest_record": restored.newest_record,
        "counts": dict(restored.counts),
        "former_database": None if placed.aside is None else str(placed.aside),
        "missing_keys": list(placed.missing_keys),
        "restored_keys": list(placed.keys),
        "differing_keys": list(placed.kept_keys),
    }


def _report_restore(placed: Placed) -> None:
    restored = placed.restored
    changed, counts = restored.tally.changed, restored.counts
    if placed.is_trial and restored.losses:
        _print_losses(restored)
    print_pairs(
        {
            "Backup of": format_moment(restored.manifest.created_at),
            "Replayed": f"{restored.tally.commits} commits: {changed.get('certificate', 0)} certificates, "
            f"{changed.get('revocation', 0)} revocations, {changed.get('account', 0)} accounts",
            "Newest record": format_moment(restored.newest_record),
            "Holds": f"{counts['certificates']} certificates, {counts['revoked']} of them revoked, {counts['accounts']} accounts",
            "Complete": "nothing is known to be missing" if restored.is_complete else "no, see above",
        }
    )
    if placed.is_trial:
        print_line("This was a trial: nothing was changed.")
        return
    if placed.aside is not None:
        print_line(f"The database that was there is {placed.aside}; delete it when all is well.")
    if placed.keys:
        print_line(f"Put back from the backup: {', '.join(placed.keys)}")
    if placed.kept_keys:
        print_line(("Not replaced,", "yellow"), f" though the backup has others: {', '.join(placed.kept_keys)}")
    if placed.missing_keys:
        print_line(
            ("These keys are not there:", "bold red"),
            f" {', '.join(placed.missing_keys)}. Put them back before the server starts.",
        )
    if not restored.is_complete:
        print_line(
            "If a root's CRL was renewed since the backup was made, renew it again: acmeca crl --root-key FILE. This server's "
            "audit goes on under a new name."
        )
    print_line("Next: acmeca serve, which publishes new CRLs at its start; then acmeca doctor.")
