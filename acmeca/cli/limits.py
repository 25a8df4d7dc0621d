"""limits: who has used up how much of a rate limit, and to make one whole again."""

from pathlib import Path

import click
from rich.text import Text

from acmeca.cli.connection import run_operation
from acmeca.cli.options import json_option
from acmeca.cli.output import examples, print_json, print_line, print_table


@click.group(
    short_help="Rate limits: who has reached one.",
    epilog=examples(
        "acmeca limits list",
        "acmeca limits reset new_orders_per_account:0F7cJrM9iZ0nGvWb2h6xkA",
    ),
)
def limits() -> None:
    """Rate limits, as [limits] in the configuration and grants set them. See docs/limits.md."""


@limits.command(
    "list",
    short_help="Show what is used up.",
    epilog=examples(
        "acmeca limits list",
        "acmeca limits list new_orders_per_account",
        "acmeca limits list db1.corp.internal",
    ),
)
@click.argument("about", required=False)
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
@json_option
@click.pass_obj
def list_limits(config_path: Path | None, *, about: str | None, limit: int, as_json: bool) -> None:
    """Show the limits of which something is used up, the fullest first; with ABOUT those that have it in their names.

    A limit's name is its key in [limits] and whose it is: an account, a name, an address, a grant.
    """
    result = run_operation(config_path, "limit_list", {"about": about, "limit": limit})
    if as_json:
        print_json(result)
        return
    if not result["limits"]:
        print_line("Nothing of any limit is used up.", stderr=True)
        return
    print_table(
        ("used", "in", "room", "limit"),
        [
            (
                Text(f"{item['used']} of {item['of']}", "" if item["free_at"] is None else "red"),
                Text(item["period"]),
                Text("yes" if item["free_at"] is None else f"at {item['free_at']}"),
                [item["name"]],
            )
            for item in result["limits"]
        ],
    )
    if result["is_cut"]:
        print_line(f"There are more than {limit}; say what they are about, or raise --limit.", stderr=True)


@limits.command(
    "reset",
    short_help="Make a limit whole again.",
    epilog=examples("acmeca limits reset new_orders_per_account:0F7cJrM9iZ0nGvWb2h6xkA"),
)
@click.argument("name")
@json_option
@click.pass_obj
def reset(config_path: Path | None, *, name: str, as_json: bool) -> None:
    """Make a limit whole again before its time. NAME is as acmeca limits list prints it.

    It is used up again as before. To have another limit, change [limits].
    """
    result = run_operation(config_path, "limit_reset", {"name": name})
    if as_json:
        print_json(result)
    else:
        print_line(f"Nothing of {result['name']} is used up any more.")
