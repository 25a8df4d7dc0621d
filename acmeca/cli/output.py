"""How the command line prints: consoles are made here and nowhere else.

Rule 1: text is printed as it is. rich would turn `:CD:` in a fingerprint into an emoji, `[x]` in a name into a style, and
colour what looks like a number; all of that is off, and styles are given apart from the text (`Text`).
Rule 2: what a person copies (serials, fingerprints, URLs, commands) is never folded or cut by us. A terminal may wrap a line;
what is copied from it is whole all the same.
Rule 3: into a pipe or a file goes one row per line without colours; what programs read is `--json`.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

_GAP: Final = "  "
_LAST_COLUMN: Final = 16  # characters that the last column needs to be readable


def examples(*commands: str) -> str:
    """The end of a verb's help: commands to copy. click leaves what stands behind a backspace as it is."""
    return "\b\n" + "\n".join(("Examples:", *(f"  {command}" for command in commands)))


def make_console(*, stderr: bool = False) -> Console:
    """A console for this moment's stdout or stderr."""
    return Console(emoji=False, highlight=False, markup=False, soft_wrap=True, stderr=stderr)


def print_line(*parts: str | tuple[str, str] | Text, stderr: bool = False) -> None:
    """One line; a part is a text, or a text with its style."""
    safe = [part if isinstance(part, Text) else _safe(part) for part in parts]
    make_console(stderr=stderr).print(Text.assemble(*safe))


def print_failure(message: str) -> None:
    """What went wrong, on stderr."""
    print_line(("acmeca:", "bold red"), " ", message, stderr=True)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def print_pairs(pairs: Mapping[str, str | Text], *, indent: str = "", stderr: bool = False) -> None:
    """Names and values, the values below each other."""
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        print_line(indent, (f"{name:<{width}}", "bold"), _GAP, value, stderr=stderr)


def print_table(headings: Sequence[str], rows: Sequence[tuple[*tuple[Text, ...], Sequence[str]]]) -> None:
    """Rows below headings. The last cell of a row is a list of texts; the others are one text each.

    In a pipe a row is one line. On a terminal each text of the last cell has a line of its own; on one that is too narrow for
    that, the last cell stands below its row, and the serials still fit.
    """
    console = make_console()
    lines: list[tuple[tuple[Text, ...], list[Text]]] = []
    for *cells, last in rows:
        lines.append((tuple(cells), [_safe(text) for text in last]))
    widths = [
        max(len(heading), *(len(cells[column]) for cells, _ in lines)) if lines else len(heading)
        for column, heading in enumerate(headings[:-1])
    ]
    before = sum(widths) + len(_GAP) * len(widths)
    is_narrow = console.is_terminal and console.width < before + _LAST_COLUMN
    _print_row(console, [Text(heading, "bold") for heading in headings[:-1]], widths, Text(headings[-1], "bold"))
    for row_cells, texts in lines:
        if not console.is_terminal:
            _print_row(console, row_cells, widths, Text(", ").join(texts))
        elif is_narrow:
            _print_row(console, row_cells, widths, Text())
            for text in texts:
                console.print(Text.assemble(_GAP, text))
        else:
            _print_row(console, row_cells, widths, texts[0] if texts else Text())
            for text in texts[1:]:
                console.print(Text.assemble(" " * before, text))


@contextmanager
def shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """`on_progress(what, done, total)` draws a line on a terminal's stderr, and nothing anywhere else. It is gone at the end."""
    console = make_console(stderr=True)
    if not console.is_terminal:
        yield lambda what, done, total: None  # noqa: ARG005  (nobody looks)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total or None)

        yield show


def tell_steps() -> Callable[[str, int, int], None]:
    """`on_progress(what, done, total)` with a line for each step, on a terminal's stderr: for what may ask in between."""
    console = make_console(stderr=True)
    told = ""

    def tell(what: str, done: int, total: int) -> None:  # noqa: ARG001  (a line says only what)
        nonlocal told
        if console.is_terminal and what != told:
            console.print(Text(f"{what} …", "dim"))
        told = what

    return tell


def format_size(octets: int) -> str:
    """`812 B`, `4.1 KiB`, `1.2 GiB`."""
    size = float(octets)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


@contextmanager
def written_whole(path: Path) -> Iterator[IO[str]]:
    """A file for text that takes the place of `path` when all is written, for its owner alone; when it fails, nothing is there."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(fresh, "x", encoding="utf-8", newline="", opener=_open_private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _safe(part: str | tuple[str, str]) -> Text:
    """A text without the control characters that would steer a terminal; line breaks stay."""
    text, style = (part, "") if isinstance(part, str) else part
    return Text("".join(char if char.isprintable() or char == "\n" else "?" for char in text), style)


def _print_row(console: Console, cells: Sequence[Text], widths: Sequence[int], last: Text) -> None:
    line = Text()
    for cell, width in zip(cells, widths, strict=True):
        line.append_text(cell)
        line.append(" " * (width - len(cell)) + _GAP)
    line.append_text(last)
    line.rstrip()
    console.print(line)
