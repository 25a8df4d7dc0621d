"""Options that several verbs share."""

from typing import Final

import click

from acmeca.config import parse_duration

json_option: Final = click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")


def parse_seconds(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A duration like `30d` or `12h`, in seconds: a callback for `click.option`."""
    if value is None:
        return None
    try:
        return int(parse_duration(value).total_seconds())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
