"""How the command line prints (cli/output.py)."""

import re
from pathlib import Path

import pytest
from rich.text import Text

import acmeca.cli
from acmeca.cli.output import print_failure, print_json, print_line, print_pairs, print_table

SERIALS = ("0139389270d3818df3300661cbf43fcee7", "01ec577a249945c549b7e877e660ea2f6f")
LONG = f"{'a' * 60}.{'b' * 60}.corp.internal"
ROWS = [
    (
        Text(SERIALS[0]),
        Text("valid", "green"),
        Text("2026-12-07"),
        Text("  13"),
        ["db1.corp.internal", "www.corp.internal"],
    ),
    (Text(SERIALS[1]), Text("revoked", "red"), Text("2026-12-23"), Text("  29"), [LONG]),
]
HEADINGS = ("serial", "status", "expires", "days", "names")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("text", ["AB:CD:EF:ID:OK:M:ON:UP:V:X", "[red]x[/]", "[x]", ":smile:", "100%", "\\[x]"])
def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Rule 1: no emoji, no markup. A fingerprint with `:CD:` in it once lost three of its characters."""
    print_line(text)
    print_pairs({"name": text})
    print_failure(text)
    out, err = capsys.readouterr()
    assert out == f"{text}\nname  {text}\n"
    assert err == f"acmeca: {text}\n"


@pytest.mark.parametrize("text", ["\x1b[2J", "a\x07", "\x9b31m", "\r"])
def test_no_text_steers_the_terminal(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_line(text)
    print_json({"text": text})
    assert not set(capsys.readouterr().out) & set("\x1b\x07\x9b\r")


def test_consoles_are_made_in_one_place() -> None:
    """Rule 1 holds only where `make_console` makes them."""
    package = Path(acmeca.cli.__file__).parent
    found = [path.name for path in package.rglob("*.py") if re.search(r"\bConsole\(|rich\.print", path.read_text())]
    assert found == ["output.py"]


@pytest.mark.parametrize("columns", ["20", "80", "400"])
def test_a_row_is_one_line_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """Rule 3, whatever width the environment claims."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", columns)
    print_table(HEADINGS, ROWS)
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == list(HEADINGS)
    assert [row.split()[0] for row in rows] == list(SERIALS)
    assert rows[0].endswith("  db1.corp.internal, www.corp.internal")
    assert rows[1].endswith(f"  {LONG}")


def test_a_name_has_a_line_of_its_own_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_terminal(monkeypatch, 100)
    print_table(HEADINGS, ROWS)
    _, first, second, third = lines(capsys)
    assert first.endswith("db1.corp.internal")
    assert second.strip() == "www.corp.internal"
    assert second.index("www") == first.index("db1")
    assert third.endswith(LONG)


@pytest.mark.parametrize("columns", [20, 40, 70])
def test_serials_are_whole_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Rule 2: what a person copies is never folded or cut by us."""
    on_a_terminal(monkeypatch, columns)
    print_table(HEADINGS, ROWS)
    printed = lines(capsys)
    assert [line.split()[0] for line in printed[1:] if not line.startswith(" ")] == list(SERIALS)
    assert printed[2:4] == ["  db1.corp.internal", "  www.corp.internal"]
    assert f"  {LONG}" in printed


def test_long_values_are_not_folded(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_terminal(monkeypatch, 30)
    print_pairs({"SHA-256": "AB:" * 31 + "CD", "names": LONG})
    assert lines(capsys) == [f"SHA-256  {'AB:' * 31}CD", f"names    {LONG}"]


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("serial", "names"), [])
    assert capsys.readouterr().out.split() == ["serial", "names"]
