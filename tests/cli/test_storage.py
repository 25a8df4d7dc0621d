"""`acmeca storage stats`, with a running server and a stopped one."""

import json
import shutil
from pathlib import Path

import pytest

from acmeca.cli.storage_stats import format_bytes
from tests.cli.conftest import Acmeca
from tests.support.databases import connect
from tests.support.installations import Installation, make_installation


def test_what_it_shows(ca: Installation, acmeca: Acmeca) -> None:
    said = acmeca(ca, "storage", "stats")
    assert (said.code, said.stderr) == (0, "")
    for text in ("acmeca.db", "left on disk", "audit", "valid", "a certificate takes", "in a year at 10,000 a day"):
        assert text in said.stdout
    assert "orders          30d after their end" in said.stdout
    assert "certificates    for ever" in said.stdout


def test_json(ca: Installation, acmeca: Acmeca) -> None:
    found = json.loads(acmeca(ca, "storage", "stats", "--json").stdout)
    assert found["database"] == str(ca.database_path)
    assert found["database_bytes"] >= sum(table["bytes"] for table in found["tables"]) > 100_000
    assert found["journal_bytes"] > 0
    assert found["disk_free_bytes"] > 0
    assert {"audit", "certificates", "orders"} <= {table["name"] for table in found["tables"]}
    counts = found["certificates"]
    assert counts["valid"] >= 1
    assert counts["total"] == sum(counts[name] for name in ("valid", "expired", "revoked", "unsigned"))
    assert [item["days"] for item in found["growth"]] == [7, 30]
    assert found["growth"][0]["certificates"] == counts["total"]
    assert found["growth"][0]["certificates_a_day"] == counts["total"]  # it is not a day old
    assert [item["certificates_a_day"] for item in found["forecast"]] == [counts["total"], 10_000]
    assert not found["bytes_per_certificate"]["is_measured"]
    assert found["retention"] == {
        "orders": "30d",
        "certificates": "never",
        "due_orders": 0,
        "due_certificates": 0,
        "is_more": False,
        "due_bytes": 0,
    }


def test_what_retention_would_free(stopped: Installation, acmeca: Acmeca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACMECA_RETENTION__CERTIFICATES", "30d")
    with connect(stopped.database_path) as connection:
        connection.execute("INSERT INTO accounts VALUES ('a', 't', '{}', 'valid', '[]', 0, NULL, NULL)")
        connection.executemany(
            "INSERT INTO orders (id, account_id, status, identifiers, created_at, expires_at) VALUES (?, 'a', ?, '[]', 0, 1)",
            [("1", "valid"), ("2", "invalid"), ("3", "processing")],
        )
        (issuer,) = connection.execute("SELECT id FROM issuers LIMIT 1").fetchone()
        connection.execute(
            "INSERT INTO certificates (id, serial, issuer_id, profile, spki_sha256, not_before, not_after, tbs, recorded_at)"
            " VALUES ('c', '01', ?, 'server', x'00', 0, 1, x'00', 0)",
            (issuer,),
        )
    found = json.loads(acmeca(stopped, "storage", "stats", "--json").stdout)["retention"]
    assert (found["due_orders"], found["due_certificates"], found["certificates"]) == (2, 1, "30d")
    assert found["due_bytes"] > 0
    assert "2 orders, 1 certificates" in acmeca(stopped, "storage", "stats").stdout


def test_nothing_is_changed(stopped: Installation, acmeca: Acmeca) -> None:
    """Rule 1: a look leaves no trace."""
    before = {path: path.read_bytes() for path in stopped.data_dir.rglob("*") if path.is_file()}
    acmeca(stopped, "storage", "stats")
    assert {path: path.read_bytes() for path in stopped.data_dir.rglob("*") if path.is_file()} == before


def test_no_ca(tmp_path: Path, acmeca: Acmeca) -> None:
    said = acmeca(make_installation(tmp_path), "storage", "stats")
    assert (said.code, said.stdout) == (1, "")
    assert "make one with: acmeca init" in said.stderr
    assert said.stderr.count("\n") == 1


def test_an_older_schema(stopped: Installation, acmeca: Acmeca) -> None:
    with connect(stopped.database_path) as connection:
        connection.execute("PRAGMA user_version = 2")
    said = acmeca(stopped, "storage", "stats")
    assert said.code == 1
    assert "start the server once" in said.stderr


def test_a_damaged_file(stopped: Installation, acmeca: Acmeca) -> None:
    stopped.database_path.write_bytes(b"no database" * 1000)
    said = acmeca(stopped, "storage", "stats")
    assert said.code == 1
    assert said.stderr.count("\n") == 1


def test_a_disk_that_is_too_small_is_told(
    stopped: Installation, acmeca: Acmeca, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(stopped.data_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    assert "at 10,000 a day" in (said := acmeca(stopped, "storage", "stats").stdout)
    assert said.count("more than this disk has") == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (8192, "8.19 kB"),
        (123456, "123 kB"),
        (999700, "1 MB"),
        (2310000000, "2.31 GB"),
        (99960000, "100 MB"),
        (5000000000000.0, "5 TB"),
    ],
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert format_bytes(count) == text
