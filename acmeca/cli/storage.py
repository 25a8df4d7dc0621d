"""`acmeca storage`: the verbs about where everything is kept."""

import click

from acmeca.cli.output import examples
from acmeca.cli.storage_copy import copy
from acmeca.cli.storage_stats import stats


@click.group(
    short_help="The database: its size, its growth, and a move to another.",
    epilog=examples(
        "acmeca storage stats",
        "acmeca storage copy --from sqlite:///acmeca.db --to postgresql://acmeca@db.corp.internal/acmeca",
    ),
)
def storage() -> None:
    """The database as a whole. See also acmeca backup and acmeca restore."""


for _verb in (stats, copy):
    storage.add_command(_verb)
