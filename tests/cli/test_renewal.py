"""renewal set, list, progress, show and clear, with a server that runs and with a store that nobody serves."""

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from acmeca.service import renewal_windows
from tests.cli.conftest import Acmeca, issue
from tests.support.installations import Installation
from tests.support.processes import clean_environment
from tests.support.terminal import on_terminal

WHY = "https://wiki.corp.internal/ca/42"


def change(ca: Installation, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(ca.database_path, timeout=10)) as database, database:
        database.execute(sql, values)


def give_to_an_account(ca: Installation, account_id: str | None) -> None:
    """What `issue` makes is the server's own; windows are about certificates of accounts."""
    change(
        ca,
        "INSERT INTO accounts (id, thumbprint, jwk, status, contact, created_at) VALUES"
        " ('owner', 'thumbprint', '{}', 'valid', '[]', 0) ON CONFLICT DO NOTHING",
    )
    change(ca, "UPDATE certificates SET account_id = ? WHERE profile = 'server'", account_id)


@pytest.fixture
def owned(ca: Installation) -> Iterator[Installation]:
    """A CA, served or not, with one certificate of an account: first.localhost."""
    give_to_an_account(ca, "owner")
    yield ca
    give_to_an_account(ca, None)
    change(ca, "UPDATE renewal_overrides SET cleared_at = 1 WHERE cleared_at IS NULL")


def answer(acmeca: Acmeca, ca: Installation, *arguments: str) -> dict[str, Any]:
    said = acmeca(ca, "renewal", *arguments, "--json")
    assert (said.code, said.stderr) == (0, ""), said
    document: dict[str, Any] = json.loads(said.stdout)
    return document


def pairs(text: str) -> dict[str, str]:
    told = dict(line.split("  ", 1) for line in text.splitlines())
    return {name.strip(): value.strip() for name, value in told.items()}


def test_from_the_word_to_its_end(owned: Installation, acmeca: Acmeca) -> None:
    said = acmeca(owned, "renewal", "set", "--name", "*.localhost", "--within", "4h", "--why", WHY, "--yes")
    assert (said.code, said.stderr) == (0, "")
    (item, *_) = answer(acmeca, owned, "list")["renewals"]
    id_ = item["id"]
    assert said.stdout.startswith(f"Set {id_}: 1 certificate, {item['from']} to {item['until']}.\n")
    assert f"acmeca renewal progress {id_}" in said.stdout
    begin, end = (datetime.fromisoformat(item[name]) for name in ("from", "until"))
    assert end - begin == timedelta(hours=4)
    assert abs(datetime.now(UTC) - begin) < timedelta(minutes=5)

    heading, row = acmeca(owned, "renewal", "list").stdout.splitlines()
    assert heading.split() == ["id", "from", "until", "certificates"]
    assert row.split() == [id_, item["from"], item["until"], "name", "*.localhost"]

    told = pairs(acmeca(owned, "renewal", "progress", id_).stdout)
    assert (told["certificates"], told["why"], told["in all"], told["left"]) == ("name *.localhost", WHY, "1", "1")
    said = acmeca(owned, "renewal", "progress", id_, "--serials", "left")
    assert (said.code, said.stderr) == (0, "")
    (serial,) = said.stdout.split()
    assert acmeca(owned, "renewal", "progress", id_, "--serials", "replaced").stdout == ""

    for verb in (("renewal", "show"), ("show",)):
        told = pairs(acmeca(owned, *verb, serial).stdout)
        assert told["renewal"] == f"{item['from']} to {item['until']} (set by {id_})"
        assert (told["why"], told["replaced by"]) == (WHY, "-")
    assert answer(acmeca, owned, "show", serial)["renew_why"] == WHY

    said = acmeca(owned, "renewal", "clear", id_)
    assert said.stdout == f"Cleared {id_}, which was about name *.localhost.\n"
    assert "set by" not in acmeca(owned, "renewal", "show", serial).stdout
    said = acmeca(owned, "renewal", "list")
    assert (said.code, said.stdout) == (0, "")
    assert said.stderr == "No window is set: every certificate has its own.\n"
    assert "(cleared 20" in acmeca(owned, "renewal", "list", "--all").stdout
    again = acmeca(owned, "renewal", "clear", id_)
    assert (again.code, again.stdout) == (1, "")
    assert again.stderr == f"acmeca: {id_} was cleared before\n"


def test_without_a_terminal_it_needs_yes(owned: Installation, acmeca: Acmeca) -> None:
    said = acmeca(owned, "renewal", "set", "--all")
    assert (said.code, said.stdout) == (2, "")
    assert "nobody is here to ask whether to set it: add --yes when you are sure" in said.stderr


@pytest.mark.parametrize(("typed", "code"), [("", 1), ("y", 0)])
def test_on_a_terminal_it_shows_how_many_there_are(
    stopped: Installation, acmeca: Acmeca, typed: str, code: int
) -> None:
    issue(stopped, "a.localhost")
    issue(stopped, "short.localhost", days=1)
    give_to_an_account(stopped, "owner")
    command = [sys.executable, "-P", "-m", "acmeca", "--config", str(stopped.config_path), "renewal", "set"]
    with on_terminal([*command, "--all", "--within", "2d"], env=clean_environment()) as terminal:
        shown = terminal.expect("Have their clients renew in it? [y/N]: ")
        assert "certificates  all" in shown
        assert "left          2, of which 1 end before the window does, and keep their own" in shown
        terminal.type(typed)
        assert terminal.wait() == code
    assert len(answer(acmeca, stopped, "list")["renewals"]) == 1 - code


def test_which_and_when(stopped: Installation, acmeca: Acmeca) -> None:
    serials = [issue(stopped, f"{name}.localhost") for name in "abcd"]
    give_to_an_account(stopped, "owner")
    made = answer(acmeca, stopped, "set", *serials, "--from", "2h", "--within", "1h", "--yes")
    assert made["selection"] == {"serials": sorted(serials)}
    assert made["certificates"] == 4
    begin = datetime.fromisoformat(made["from"])
    assert timedelta(minutes=115) < begin - datetime.now(UTC) < timedelta(minutes=125)
    assert f"{sorted(serials)[2]} and 1 more" in acmeca(stopped, "renewal", "list").stdout

    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%d")
    options = ("--account", "owner", "--profile", "server", "--issued-after", "1d", "--issued-before", tomorrow)
    made = answer(acmeca, stopped, "set", *options, "--expires-within", "100d", "--from", tomorrow, "--yes")
    assert made["from"] == f"{tomorrow}T00:00:00Z"
    assert made["selection"].keys() == {"account_id", "profile", "issued_after", "issued_before", "expires_before"}
    told = pairs(acmeca(stopped, "renewal", "progress", made["id"]).stdout)
    assert told["certificates"].startswith("profile server, account owner, issued after 20")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("set", "--yes"), 1, "say which certificates"),
        (("set", "--name", "nobody.localhost", "--yes"), 1, "nothing was set"),
        (("set", "--all", "--why", "x", "--yes"), 1, "why: 'x' is no URL"),
        (("set", "--all", "--within", "5", "--yes"), 2, "write a whole number and a unit"),
        (
            ("set", "--all", "--from", "soon", "--yes"),
            2,
            "'soon' is none: write 2026-11-23T12:00:00Z, 2026-11-23, or now, 2h",
        ),
        (("set", "00ff", "--yes"), 1, "no certificate with serial 00ff"),
        (("progress", "none"), 1, "there is no window none; acmeca renewal list shows which there are"),
        (("progress", "none", "--serials", "left"), 1, "there is no window none"),
        (("progress", "x", "--serials", "left", "--json"), 2, "choose one"),
        (("clear", "none"), 1, "there is no window none"),
        (("show", "00ff"), 1, "was ever issued here"),
    ],
)
def test_what_cannot_be_done(
    stopped: Installation, acmeca: Acmeca, arguments: tuple[str, ...], code: int, told: str
) -> None:
    said = acmeca(stopped, "renewal", *arguments)
    assert (said.code, said.stdout) == (code, "")
    assert told in said.stderr


def test_serials_come_whole(stopped: Installation, acmeca: Acmeca, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a page, and in a form that revoke takes."""
    monkeypatch.setattr(renewal_windows, "_PAGE", 2)
    serials = [issue(stopped, f"{name}.localhost") for name in "abcde"]
    give_to_an_account(stopped, "owner")
    made = answer(acmeca, stopped, "set", "--all", "--yes")
    assert acmeca(stopped, "renewal", "progress", made["id"], "--serials", "left").stdout.split() == sorted(serials)


def test_what_replaced_it_is_shown(stopped: Installation, acmeca: Acmeca) -> None:
    old, new = issue(stopped, "a.localhost"), issue(stopped, "a.localhost")
    change(
        stopped,
        "UPDATE certificates SET replaced_by = (SELECT id FROM certificates WHERE serial = ?) WHERE serial = ?",
        new,
        old,
    )
    assert pairs(acmeca(stopped, "show", old).stdout)["replaced by"] == new
    assert answer(acmeca, stopped, "show", old)["replaced_by"] == new
