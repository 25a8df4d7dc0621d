"""Files of the audit that people carry about: exports, heads and keys.

Rule 1: an export loses nothing that a hash covers: `event` is the JSON that was hashed, and where its text is not the canonical
one (somebody changed it), the text itself.
Rule 2: a file is read line by line: an export may be larger than memory.
"""

import csv
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from acmeca.audit import FoundHead, Head, Record, is_genuine, parse_public_key, parse_signed_head
from acmeca.errors import AcmecaError

_COLUMNS: Final = ("writer", "sequence", "at", "kind", "actor", "subject", "event", "hash")
_TELL_EVERY: Final = 1000
_BAR: Final = 1 << 31  # octets of a field of a CSV file: an event is far below
_HASH_DIGITS: Final = 64


# --- exports ------------------------------------------------------------------------------------------------------


def dump_record(record: Record) -> str:
    """A record as a line of JSON, without the line's end."""
    try:
        members: Any = json.loads(record.event)
        is_canonical = _dump(members) == record.event
    except (ValueError, RecursionError):
        members, is_canonical = None, False
    return json.dumps(
        {
            "writer": record.writer,
            "sequence": record.sequence,
            "at": _format(record.at),
            "kind": record.kind,
            "actor": record.actor,
            "subject": record.subject,
            "event": members if is_canonical and isinstance(members, dict) else record.event,
            "hash": record.hash.hex(),
        },
        separators=(",", ":"),
    )


def to_row(record: Record | None) -> tuple[object, ...]:
    """A record as a row of a CSV file; None gives the headings."""
    if record is None:
        return _COLUMNS
    return (
        record.writer,
        record.sequence,
        _format(record.at),
        record.kind,
        record.actor,
        record.subject,
        record.event,
        record.hash.hex(),
    )


def read_export(path: Path, *, on_progress: Callable[[str, int, int], object]) -> Iterator[Record | str]:
    """The records of an export, JSON lines or CSV; for a line that is none, a text that says so.

    Raises `AcmecaError` for a file that cannot be read or is no export at all.
    """
    try:
        total = path.stat().st_size
        with path.open(encoding="utf-8", newline="") as file:
            done = 0

            def lines() -> Iterator[str]:
                nonlocal done
                for line in file:
                    done += len(line)
                    yield line

            source = lines()
            first = next(source, "")
            if first.startswith("writer,"):
                rows = _csv_records(source, path)
            elif first.startswith("{") or not first:
                rows = _json_records(source, first, path)
            else:
                raise AcmecaError(f"{path} is no export: its first line is neither JSON nor the headings of a CSV file")
            for number, row in enumerate(rows):
                if number % _TELL_EVERY == 0:
                    on_progress("export", done, total)
                yield row
    except OSError as error:
        raise AcmecaError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise AcmecaError(f"{path} is no export: it is no text in UTF-8") from None


def _json_records(lines: Iterator[str], first: str, path: Path) -> Iterator[Record | str]:
    for number, line in enumerate(_chain(first, lines), start=1):
        try:
            document = json.loads(line)
            yield _record({column: document[column] for column in _COLUMNS})
        except (KeyError, TypeError, ValueError, RecursionError):
            yield f"line {number} of {path} is no record" + (" (its end is cut off)" if line[-1:] != "\n" else "")


def _csv_records(lines: Iterator[str], path: Path) -> Iterator[Record | str]:
    csv.field_size_limit(_BAR)
    reader = csv.reader(lines)
    for row in reader:
        try:
            values: dict[str, Any] = dict(zip(_COLUMNS, row, strict=True))
            values["sequence"] = int(values["sequence"])
            yield _record(values)
        except (TypeError, ValueError):
            yield f"line {reader.line_num + 1} of {path} is no record"


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines


def _record(values: dict[str, Any]) -> Record:
    """Raises `ValueError` or TypeError for what is no record."""
    event = values["event"]
    sequence = values["sequence"]
    if not isinstance(sequence, int):
        raise TypeError("the number of a record is one")
    return Record(
        writer=str(values["writer"]),
        sequence=sequence,
        at=_parse(values["at"]),
        kind=str(values["kind"]),
        actor=str(values["actor"]),
        subject=str(values["subject"]),
        event=event if isinstance(event, str) else _dump(event),
        hash=bytes.fromhex(values["hash"]),
    )


def _dump(members: object) -> str:
    """As `acmeca.audit.dump_event` does."""
    return json.dumps(members, sort_keys=True, separators=(",", ":"))


def _format(at: int) -> str | int:
    """A moment in RFC 3339, or the number where no calendar has it."""
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return at


def _parse(value: str | int) -> int:
    if isinstance(value, int) or value.lstrip("-").isdigit():
        return int(value)
    return int(datetime.fromisoformat(value).timestamp())


# --- heads and keys -----------------------------------------------------------------------------------------------


def parse_heads(path: Path) -> list[FoundHead]:
    """Heads that were kept: JSON lines, or lines of writer, number and hash, as somebody wrote them down.

    A prefix that a log adds to a line is passed over. Raises `AcmecaError` for a file in which there are none, or with a line
    that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise AcmecaError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise AcmecaError(f"{path} holds no heads: it is no text in UTF-8") from None
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            found.append(_parse_head(line, f"{path}, line {number}"))
    if not found:
        raise AcmecaError(f"{path} holds no heads; acmeca audit heads prints them")
    return found


def _parse_head(line: str, source: str) -> FoundHead:
    start = line.find("{")
    try:
        if start >= 0:
            signed = parse_signed_head(json.loads(line[start:]))
            if not is_genuine(signed):
                raise AcmecaError(f"{source}: the signature does not fit; was the file changed, or mistyped?")
            return FoundHead(signed.head, source, signed)
        words = line.split()
        place = next(place for place, word in enumerate(words) if len(word) == _HASH_DIGITS and place >= 2)
        return FoundHead(Head(words[place - 2], int(words[place - 1]), bytes.fromhex(words[place])), source)
    except (ValueError, StopIteration):
        raise AcmecaError(f"{source} is no head: write WRITER NUMBER HASH, or the line of JSON") from None


def parse_key(path: Path) -> bytes:
    """A raw public key from a PEM file. Raises `AcmecaError`."""
    try:
        return parse_public_key(path.read_bytes())
    except OSError as error:
        raise AcmecaError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        raise AcmecaError(f"{path} is no public key of an audit: it is an Ed25519 key in PEM form") from None
