"""`acmeca storage`: the verbs about where everything is kept."""

import click

from acmeca.cli.output import examples
from acmeca.cli.storage_stats import stats


@click.group(short_help="The database: its size and its growth.", epilog=examples("acmeca storage stats"))
def storage() -> None:
    """The database: how large it is, how it grows, and what it will be in a year."""


for _verb in (stats,):
    storage.add_command(_verb)
