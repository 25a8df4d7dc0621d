"""One line of the doctor's report."""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How bad it is. An error means that something does not work, or soon will not, or that somebody may get at it."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` is what was looked at, `detail` what was found, `advice` what to do (empty when all is well)."""

    level: Level
    about: str
    detail: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


def ok(about: str, detail: str) -> Finding:
    return Finding(Level.OK, about, detail)


def warning(about: str, detail: str, advice: str) -> Finding:
    return Finding(Level.WARNING, about, detail, advice)


def error(about: str, detail: str, advice: str) -> Finding:
    return Finding(Level.ERROR, about, detail, advice)


_FAR: Final = timedelta(days=90)
_NEAR: Final = timedelta(days=30)
_NOW: Final = timedelta(days=7)


def judge_end(about: str, end: datetime, now: datetime, *, advice: str) -> Finding:
    """Whether something that people renew ends soon: a warning 90 and 30 days before, an error 7 days before and after."""
    left = end - now
    if left <= timedelta(0):
        return error(about, f"ended {end:%Y-%m-%d %H:%M} UTC", f"Now: {advice}")
    detail = f"ends {end:%Y-%m-%d}, in {format_span(left)}"
    if left > _FAR:
        return ok(about, detail)
    if left > _NEAR:
        return warning(about, detail, f"Within {format_span(left)}: {advice}")
    return (warning if left > _NOW else error)(about, detail, f"Now: {advice}")


def format_span(span: timedelta) -> str:
    """A span of time in its two largest units, for people."""
    seconds = int(abs(span.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days > 2:
        return f"{days} days"
    if days or hours:
        return f"{days * 24 + hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
