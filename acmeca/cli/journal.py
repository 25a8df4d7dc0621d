"""`acmeca journal`: what the journal holds, and the removal of what a backup makes superfluous."""

from pathlib import Path

import click
from rich.text import Text

from acmeca.cli.connection import load
from acmeca.cli.options import json_option
from acmeca.cli.output import examples, format_size, print_json, print_line, print_table, shown_progress
from acmeca.recovery import prune_journal
from acmeca.storage.journal import segments
from acmeca.storage.pruning import Summary, summarize
from acmeca.storage.restore import format_moment


@click.group(
    short_help="Show the journal, or remove what a backup makes superfluous.",
    epilog=examples("acmeca journal list", "acmeca journal prune --before-backup /mnt/backup/acmeca.backup"),
)
def journal() -> None:
    """The journal holds what was signed, revoked, blocked and shut, written down before the database has it.

    acmeca restore reads it, so that a backup of yesterday forgets nothing. Each process writes segments of its own, and nothing
    but acmeca journal prune removes one.
    """


@journal.command("list", short_help="Show its segments.", epilog=examples("acmeca journal list --json"))
@json_option
@click.pass_obj
def list_segments(config_path: Path | None, *, as_json: bool) -> None:
    """Show each segment: whose it is, how many commits it holds and of which time, and what is damaged in it."""
    directory = load(config_path).journal_dir
    found = [summarize(segment) for segment in segments(directory)]
    if as_json:
        print_json({"directory": str(directory), "segments": [_to_json(summary) for summary in found]})
        return
    print_table(
        ("Writer", "Commits", "From", "To", "Size", "Segment"),
        [
            (
                Text(summary.segment.writer),
                Text(str(summary.commits)),
                Text(format_moment(summary.first_at)),
                Text(format_moment(summary.last_at)),
                Text(format_size(summary.length)),
                [summary.segment.path.name, *summary.damages],
            )
            for summary in found
        ],
    )
    print_line(f"\n{len(found)} segments, {format_size(sum(summary.length for summary in found))} in {directory}")


@journal.command(
    "prune",
    short_help="Remove the segments that a backup makes superfluous.",
    epilog=examples(
        "acmeca journal prune --before-backup /mnt/backup/acmeca.backup --dry-run",
        "acmeca journal prune --before-backup /mnt/backup/acmeca.backup",
    ),
)
@click.option(
    "--before-backup",
    "backup",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The backup that holds what is removed. It is proven whole first.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@json_option
@click.pass_obj
def prune(config_path: Path | None, *, backup: Path, dry_run: bool, as_json: bool) -> None:
    """Remove closed segments of which a backup holds everything; with an older backup they are of use still.

    What a process may be writing to stays, and so does the newest segment of each writer. Look into the backup's copy on the
    other machine, not into the one that is about to be copied.
    """
    with shown_progress() as on_progress:
        removed = prune_journal(load(config_path), backup, is_trial=dry_run, on_progress=on_progress)
    if as_json:
        print_json({"removed": [path.name for path, _ in removed], "dry_run": dry_run})
        return
    for path, length in removed:
        print_line(f"{path.name}  {format_size(length)}")
    print_line(
        f"{len(removed)} segments {'would be' if dry_run else 'were'} removed, {format_size(sum(length for _, length in removed))}"
    )


def _to_json(summary: Summary) -> dict[str, object]:
    segment = summary.segment
    return {
        "name": segment.path.name,
        "writer": segment.writer,
        "instance": segment.instance,
        "part": segment.part,
        "bytes": summary.length,
        "commits": summary.commits,
        "first_number": summary.first_number,
        "last_number": summary.last_number,
        "first_at": summary.first_at,
        "last_at": summary.last_at,
        "damages": list(summary.damages),
    }
