"""Times in the database: Unix seconds, UTC, as integers; everywhere else they are aware datetimes of whole seconds."""

from datetime import UTC, datetime
from typing import overload


def to_seconds(moment: datetime) -> int:
    """Seconds since 1970-01-01T00:00:00Z; a fraction is dropped, for certificates and ACME know none."""
    return int(moment.timestamp())


@overload
def from_seconds(seconds: int) -> datetime: ...
@overload
def from_seconds(seconds: None) -> None: ...
def from_seconds(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
