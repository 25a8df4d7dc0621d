"""`acmeca storage copy`: a CA's data from one database to another."""

import asyncio
from pathlib import Path

import click

from acmeca.cli.connection import load
from acmeca.cli.options import json_option
from acmeca.cli.output import examples, print_json, print_line, shown_progress
from acmeca.config.values import parse_storage_url
from acmeca.recovery import copy_storage
from acmeca.storage.transfer import Place

_EXAMPLE = (
    "acmeca storage copy --from sqlite:///acmeca.db --to postgresql://acmeca@db.corp.internal/acmeca",
    "acmeca storage copy --from postgresql://acmeca@db.corp.internal/acmeca --to sqlite:////srv/acmeca/acmeca.db",
)


@click.command("copy", short_help="Copy everything to a new or empty database.", epilog=examples(*_EXAMPLE))
@click.option("--from", "source_url", required=True, metavar="URL", help="Where the data is; it is not changed.")
@click.option(
    "--to", "target_url", required=True, metavar="URL", help="A file that is not there, or an empty database."
)
@click.option("--beside-servers", is_flag=True, help="Copy although servers write; what they write later is not in it.")
@json_option
@click.pass_obj
def copy(config_path: Path | None, *, source_url: str, target_url: str, beside_servers: bool, as_json: bool) -> None:
    """Copy a CA's data from one database to another, between SQLite and PostgreSQL or within either.

    URLs are those of [storage] url; a relative file is meant from data_dir. Everything is read from one snapshot, the target is
    whole or empty afterwards, and each table is read back and compared. Stop the servers first: what they write while the copy is
    made is not in it. Keys and the journal are files, and stay where they are.
    """
    base = load(config_path).server.data_dir
    source, target = _parse(source_url, "--from", base), _parse(target_url, "--to", base)
    with shown_progress() as on_progress:
        sums = asyncio.run(copy_storage(source, target, beside_writers=beside_servers, on_progress=on_progress))
    if as_json:
        print_json({name: {"rows": sum_.rows, "sha256": sum_.sha256} for name, sum_ in sums.items()})
        return
    for name, sum_ in sorted(sums.items()):
        print_line(f"{name:<22} {sum_.rows:>10} rows  {sum_.sha256}")
    print_line(f"\nCopied and compared. {source.shown} was not changed.")
    print_line("Now set this in the configuration, of every server, and start them:\n\n  [storage]")
    print_line(f'  url = "{target_url if target.path is not None else target.shown}"')
    if target.path is None:
        print_line("\n(with the password, unless PGPASSFILE or the server's own rules supply it)")


def _parse(url: str, option: str, base: Path) -> Place:
    try:
        return Place.parse(parse_storage_url(url), base=base)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
