"""Options that several verbs share."""

from datetime import UTC, datetime
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


def parse_moment(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """A moment as RFC 3339, as a date (its beginning, in UTC), or as a duration before now, in Unix seconds."""
    return None if value is None else _parse_moment(value, direction=-1, example="7d")


def parse_coming_moment(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    """The same with a duration from now on, or `now`."""
    if value is None:
        return None
    return _parse_moment("0s" if value == "now" else value, direction=1, example="now, 2h")


def _parse_moment(value: str, *, direction: int, example: str) -> int:
    try:
        return int((datetime.now(UTC) + direction * parse_duration(value)).timestamp())
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is none: write 2026-11-23T12:00:00Z, 2026-11-23, or {example}") from None
    if moment.tzinfo is None:
        if moment.time() != datetime.min.time() or len(value) > len("2026-11-23"):
            raise click.BadParameter(
                f"{value!r} has no time zone: write a Z behind it for UTC, or an offset like +02:00"
            )
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp())
