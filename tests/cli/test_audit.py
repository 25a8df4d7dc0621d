"""audit: verify, export, heads; beside a server that runs, and over what a stopped one left."""

import csv
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from acmeca.audit import parse_signed_head, sign_head
from acmeca.cli.connection import run_operation
from acmeca.errors import AcmecaError
from acmeca.keystore.pem import load_key
from tests.cli.conftest import Acmeca, Said, issue
from tests.support.installations import Installation
from tests.support.terminal import on_terminal


def change(installation: Installation, *statements: str) -> None:
    with closing(sqlite3.connect(installation.database_path)) as database, database:
        for statement in statements:
            assert database.execute(statement).rowcount != 0, statement


def verified(acmeca: Acmeca, installation: Installation, *options: str) -> dict[str, Any]:
    """What `verify --json` says; its exit code says the same."""
    said = acmeca(installation, "audit", "verify", "--json", *options)
    document: dict[str, Any] = json.loads(said.stdout)
    assert said.code == (1 if document["faults"] else 0)
    return document


def faults(document: dict[str, Any]) -> list[tuple[str, int | None, int | None]]:
    return [(fault["what"], fault["sequence"], fault["through"]) for fault in document["faults"]]


def exported(installation: Installation, acmeca: Acmeca, *options: str) -> list[dict[str, Any]]:
    said = acmeca(installation, "audit", "export", *options)
    assert (said.code, said.stderr) == (0, "")
    return [json.loads(line) for line in said.stdout.splitlines()]


# --- verify -------------------------------------------------------------------------------------------------------


def test_an_audit_that_nobody_touched(used: Installation, acmeca: Acmeca) -> None:
    said = acmeca(used, "audit", "verify")
    assert (said.code, said.stderr) == (0, "")
    first, *lines, _, last = said.stdout.splitlines()
    assert first.endswith("  whole")
    assert [line.split()[0] for line in lines] == ["records", "head", "kept", "journal"]
    assert "2 of 2 fit, through record 16" in said.stdout
    assert last == "16 records of 1 writers, 2 heads, 0 faults"


def test_an_audit_beside_its_server(running: Installation, acmeca: Acmeca) -> None:
    document = verified(acmeca, running)
    (writer,) = document["writers"]
    assert (writer["verdict"], writer["heads"] >= 1, writer["journal"] > 0) == ("whole", True, True)


def test_an_audit_of_a_ca_that_was_never_served(stopped: Installation, acmeca: Acmeca) -> None:
    said = acmeca(stopped, "audit", "verify")
    assert said.code == 0
    assert "none: what was cut off its end does not show" in said.stdout
    told = acmeca(stopped, "audit", "heads")
    assert (told.code, told.stdout) == (1, "")
    assert "no head is signed yet: the server signs the first one when it starts" in told.stderr


def test_no_false_alarm_beside_a_server_that_writes(stopped: Installation, acmeca: Acmeca) -> None:
    """Each refused revocation is a record; the audit is verified all the while."""
    with stopped.serve() as server:
        done = threading.Event()

        def write() -> None:
            try:
                for number in range(20):
                    with suppress(AcmecaError):
                        run_operation(stopped.config_path, "revoke", {"serial": f"0x{number:032x}"})
            finally:
                done.set()

        writer = threading.Thread(target=write)
        writer.start()
        looks = 0
        while not done.is_set() or not looks:
            assert verified(acmeca, stopped)["faults"] == []
            looks += 1
        writer.join()
        server.kill()
    document = verified(acmeca, stopped)
    assert (document["faults"], document["records"] > 20) == ([], True)


CASES: list[tuple[str, list[str], list[tuple[str, int | None, int | None]]]] = [
    (
        "edited",
        ["UPDATE audit SET event = replace(event, 'system', 'admin:x') WHERE sequence = 5"],
        [("edited", 5, None)],
    ),
    ("deleted", ["DELETE FROM audit WHERE sequence = 7"], [("missing", 7, None)]),
    (
        "swapped",
        [
            "UPDATE audit SET sequence = 100 WHERE sequence = 4",
            "UPDATE audit SET sequence = 4 WHERE sequence = 6",
            "UPDATE audit SET sequence = 6 WHERE sequence = 100",
        ],
        [("out of order", 4, None), ("out of order", 6, None)],
    ),
    ("truncated", ["DELETE FROM audit WHERE sequence > 9"], [("cut off", 10, 16)]),
    ("truncated with its heads", ["DELETE FROM audit WHERE sequence > 9", "DELETE FROM audit_heads"], [("cut off", 10, 16)]),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_was_done_to_it(
    used: Installation,
    acmeca: Acmeca,
    statements: list[str],
    expected: list[tuple[str, int | None, int | None]],
) -> None:
    """RULES §6: "an edited, deleted, reordered or truncated record is found by `acmeca audit verify`"."""
    change(used, *statements)
    document = verified(acmeca, used)
    assert faults(document) == expected
    said = acmeca(used, "audit", "verify")
    assert said.code == 1
    writer = document["writers"][0]["writer"]
    assert f"\nfault  {writer} {expected[0][1]}" in said.stdout
    assert said.stdout.startswith(f"{writer}  faulty\n")
    assert "copy the database, its journal and the data directory first" in said.stderr
    assert "docs/audit.md" in said.stderr
    doctor = json.loads(acmeca(used, "doctor", "--json").stdout)
    (found,) = [finding for finding in doctor["findings"] if finding["about"] == "audit chain"]
    assert found["level"] == "error"
    assert f"{writer} {expected[0][1]}" in found["detail"]


def test_an_older_database_in_its_place(used: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    """The server tells of it in its log when it starts, and goes on."""
    shutil.copy(used.database_path, tmp_path / "older.db")
    issue(used, "a.localhost")  # a command signs what it wrote, too
    shutil.copy(tmp_path / "older.db", used.database_path)
    assert faults(verified(acmeca, used)) == [("cut off", 17, 18)]
    with used.serve() as server:
        server.wait_for_line("the audit does not have record 18 of .* as it was signed.*acmeca audit verify")
        assert server.terminate() == 0, server.output
    assert "rewritten" in {what for what, _, _ in faults(verified(acmeca, used, "--no-journal"))}


def test_heads_and_keys_from_elsewhere(used: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    """Who can write to the whole data directory can forge all of it; what was kept elsewhere still tells."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    key = Path(shutil.copy(used.data_dir / "audit.pub.pem", elsewhere))
    written, signed = elsewhere / "heads.txt", elsewhere / "heads.jsonl"
    written.write_text(acmeca(used, "audit", "heads").stdout)
    signed.write_text(f"Nov 23 12:00:00 ca acmeca[7]: {acmeca(used, 'audit', 'heads', '--json').stdout}")
    for path in (written, signed, used.data_dir / "audit-heads.jsonl"):
        assert verified(acmeca, used, "--heads", str(path), "--public-key", str(key))["faults"] == []

    # Cut at record 9, and a head of that, signed by the key on this machine.
    change(used, "DELETE FROM audit WHERE sequence > 9", "DELETE FROM audit_heads")
    shutil.rmtree(used.data_dir / "journal")
    (used.data_dir / "audit-heads.jsonl").unlink()
    assert verified(acmeca, used)["faults"] == []
    for path in (written, signed):
        document = verified(acmeca, used, "--heads", str(path))
        assert faults(document) == [("cut off", 10, 16)]
        assert str(path) in document["faults"][0]["detail"]

    # Another key in the old one's place, and a head by it.
    head = parse_signed_head(json.loads(signed.read_text().partition("{")[1] + signed.read_text().partition("{")[2]))
    other = ed25519.Ed25519PrivateKey.generate()
    forged = sign_head(head.head, other, at=datetime.now(UTC))
    (used.data_dir / "audit-heads.jsonl").write_text(json.dumps(forged.to_json()) + "\n")
    (used.data_dir / "audit.pub.pem").write_bytes(
        other.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert ("forged", 16, None) not in faults(verified(acmeca, used))
    assert ("forged", 16, None) in faults(verified(acmeca, used, "--public-key", str(key)))


BAD_FILES: list[tuple[str, str, str]] = [
    ("--heads", "", "holds no heads; acmeca audit heads prints them"),
    ("--heads", "hello\n", "line 1 is no head: write WRITER NUMBER HASH"),
    ("--heads", '{"writer": "w"}\n', "line 1 is no head"),
    ("--heads", "w x " + "0" * 64, "line 1 is no head"),
    ("--public-key", "hello", "is no public key of an audit"),
    ("--export", "hello\n", "is no export"),
]


@pytest.mark.parametrize(("option", "text", "told"), BAD_FILES)
def test_a_file_that_cannot_be_used(  # noqa: PLR0917  (fixtures, and a row of the table)
    used: Installation, acmeca: Acmeca, tmp_path: Path, option: str, text: str, told: str
) -> None:
    path = tmp_path / "file"
    for _ in range(2):
        said = acmeca(used, "audit", "verify", option, str(path))
        assert (said.code, said.stdout, said.stderr.count("\n")) == (1, "", 1)
        assert said.stderr.startswith(f"acmeca: {path}")
        assert (told if path.exists() else "cannot be read: No such file") in said.stderr
        path.write_text(text)


def test_a_kept_head_that_was_mistyped(used: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    path = tmp_path / "heads.jsonl"
    path.write_text(acmeca(used, "audit", "heads", "--json").stdout.replace('"sequence": 16', '"sequence": 17'))
    said = acmeca(used, "audit", "verify", "--heads", str(path))
    assert (said.code, "the signature does not fit; was the file changed" in said.stderr) == (1, True)


def test_a_person_sees_how_far_it_is(used: Installation) -> None:
    with on_terminal(used._command("audit", "verify"), env={}, cwd=used.directory) as terminal:
        assert terminal.wait() == 0
    assert "records" in terminal.output
    assert "0 faults" in terminal.output


def test_no_ca(acmeca: Acmeca, used: Installation) -> None:
    used.database_path.unlink()
    for verb in ("verify", "export", "heads"):
        said = acmeca(used, "audit", verb)
        assert (said.code, "there is no CA in" in said.stderr) == (1, True)


def test_a_database_of_another_version(acmeca: Acmeca, used: Installation) -> None:
    with closing(sqlite3.connect(used.database_path)) as database:
        database.execute("PRAGMA user_version = 999")
        database.execute("UPDATE schema_version SET version = 999, minimum = 999")
        database.commit()
    said = acmeca(used, "audit", "verify")
    assert (said.code, "has schema 999" in said.stderr) == (1, True)


def test_a_database_from_before_the_heads(acmeca: Acmeca, stopped: Installation) -> None:
    with closing(sqlite3.connect(stopped.database_path)) as database:
        database.execute("DROP TABLE audit_heads")
        database.execute("PRAGMA user_version = 2")
    assert verified(acmeca, stopped)["faults"] == []
    assert acmeca(stopped, "audit", "heads").code == 1
    assert acmeca(stopped, "doctor").code == 0


# --- export -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_an_export_is_verified_without_the_ca(used: Installation, acmeca: Acmeca, tmp_path: Path, form: str) -> None:
    path, heads = tmp_path / f"audit.{form}", used.data_dir / "audit-heads.jsonl"
    said = acmeca(used, "audit", "export", "--format", form, "--output", str(path))
    assert (said.code, said.stdout) == (0, f"{path}: 16 records\n")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []

    def look() -> Said:
        arguments = ("--heads", str(heads), "--public-key", str(used.data_dir / "audit.pub.pem"), "--json")
        return acmeca(None, "audit", "verify", "--export", str(path), *arguments)

    assert json.loads(look().stdout)["faults"] == []
    text = path.read_text()
    whole = text.splitlines(keepends=True)
    offset = 4 if form == "jsonl" else 5  # the headings
    tampered: list[tuple[str, list[tuple[str, int | None, int | None]]]] = [
        (text.replace("CN=Example CA Intermediate", "CN=Mallory"), [("edited", 2, None)]),
        ("".join([*whole[:offset], *whole[offset + 1 :]]), [("missing", 5, None)]),
        ("".join(whole[:-2]), [("cut off", 15, 16)]),
        ("".join([*whole[:offset], whole[offset + 1], whole[offset], *whole[offset + 2 :]]), [("missing", 5, None), ("out of order", 5, None)]),
    ]  # fmt: skip
    for changed, expected in tampered:
        path.write_text(changed)
        said = look()
        assert said.code == 1
        assert faults(json.loads(said.stdout)) == expected


def test_what_is_no_record_in_an_export(used: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    acmeca(used, "audit", "export", "--output", str(path))
    path.write_text(path.read_text()[:-10])
    said = acmeca(None, "audit", "verify", "--export", str(path))
    assert (said.code, f"line 16 of {path} is no record (its end is cut off)" in said.stdout) == (1, True)
    path.write_bytes(b"{\xff\n")
    assert "no text in UTF-8" in acmeca(None, "audit", "verify", "--export", str(path)).stderr


def test_an_export_loses_nothing_of_what_was_changed(used: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    """A text that is not the canonical one goes out as it is, so that the copy shows what the database shows."""
    change(used, "UPDATE audit SET event = event || ' ' WHERE sequence = 4", "UPDATE audit SET event = '[' WHERE sequence = 6",
           "UPDATE audit SET at = 9000000000000 WHERE sequence = 8")  # fmt: skip
    path = tmp_path / "audit.jsonl"
    acmeca(used, "audit", "export", "--output", str(path))
    said = acmeca(None, "audit", "verify", "--export", str(path), "--json")
    here = faults(verified(acmeca, used))
    assert faults(json.loads(said.stdout)) == here
    assert {sequence for _, sequence, _ in here} == {4, 6, 8}


def test_filters(used: Installation, acmeca: Acmeca) -> None:
    records = exported(used, acmeca)
    assert [record["sequence"] for record in records] == list(range(1, 17))
    kinds = {record["kind"] for record in exported(used, acmeca, "--kind", "server", "--kind", "audit.key_created")}
    assert kinds == {"server.started", "server.stopped", "audit.key_created"}
    assert {record["actor"] for record in exported(used, acmeca, "--actor", "admin:test")} == {"admin:test"}
    (created,) = exported(used, acmeca, "--kind", "audit", "--actor", "system", "--subject", records[14]["subject"])
    assert created["event"]["sha256"] == created["subject"]
    writer = records[0]["writer"]
    assert exported(used, acmeca, "--writer", writer) == records
    assert exported(used, acmeca, "--writer", "another") == []
    moments = sorted({record["at"] for record in records})
    assert exported(used, acmeca, "--since", moments[0]) == records
    assert exported(used, acmeca, "--until", moments[0]) == []
    later = exported(used, acmeca, "--since", moments[-1])
    assert later == [record for record in records if record["at"] == moments[-1]]
    day = f"{datetime.fromisoformat(moments[0]):%Y-%m-%d}"
    assert exported(used, acmeca, "--since", day) == records
    assert exported(used, acmeca, "--until", day) == []
    offset = datetime.fromisoformat(moments[0]) + timedelta(hours=2)
    assert exported(used, acmeca, "--until", f"{offset:%Y-%m-%dT%H:%M:%S}+02:00") == []
    assert exported(used, acmeca, "--since", "1d") == records
    assert exported(used, acmeca, "--until", "1d") == []


def test_an_export_beside_the_server(running: Installation, acmeca: Acmeca) -> None:
    records = exported(running, acmeca, "--kind", "certificate")
    assert {record["kind"] for record in records} >= {"certificate.recorded", "certificate.issued"}
    said = acmeca(running, "audit", "export", "--format", "csv", "--kind", "certificate.issued")
    rows = list(csv.DictReader(said.stdout.splitlines()))
    assert len(rows) >= 1
    assert json.loads(rows[0]["event"])["kind"] == rows[0]["kind"] == "certificate.issued"


def test_an_export_that_fails_leaves_the_old_file(used: Installation, acmeca: Acmeca, tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("old")
    change(used, "UPDATE audit SET actor = x'00' WHERE sequence = 4")
    said = acmeca(used, "audit", "export", "--output", str(path))
    assert (said.code, "acmeca audit verify says more" in said.stderr) == (1, True)
    assert path.read_text() == "old"
    assert list(tmp_path.glob(".audit*")) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "soon"),
        ("--since", "2026-11-23T12:00:00"),
        ("--until", "2026-13-01"),
        ("--kind", "nothing"),
        ("--kind", "cert"),
        ("--format", "xml"),
    ],
)
def test_wrong_use(used: Installation, acmeca: Acmeca, options: tuple[str, ...]) -> None:
    said = acmeca(used, "audit", "export", *options)
    assert (said.code, said.stdout) == (2, "")


# --- heads --------------------------------------------------------------------------------------------------------


def test_heads(used: Installation, acmeca: Acmeca) -> None:
    (line,) = acmeca(used, "audit", "heads").stdout.splitlines()
    writer, sequence, hash_, moment = line.split()
    (last,) = [record for record in exported(used, acmeca) if record["sequence"] == int(sequence)]
    assert (last["writer"], last["hash"], last["kind"]) == (writer, hash_, "server.stopped")
    assert datetime.fromisoformat(moment) - datetime.fromisoformat(last["at"]) < timedelta(seconds=30)
    signed = parse_signed_head(json.loads(acmeca(used, "audit", "heads", "--json").stdout))
    assert signed.head.hash.hex() == hash_


def test_a_forged_head_is_not_shown(used: Installation, acmeca: Acmeca) -> None:
    path = used.data_dir / "audit-heads.jsonl"
    path.write_text(path.read_text().replace('"sequence":16', '"sequence":99'))
    said = acmeca(used, "audit", "heads")
    assert said.stdout.split()[1] == "16", "the database has the good one"
    assert "at 99 is forged and left out; run: acmeca audit verify" in said.stderr


def test_the_key(used: Installation) -> None:
    """Ed25519, mode 0600, made at the first start, its fingerprint in the audit; no issuer has it."""
    path = used.data_dir / "keys" / "audit.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    key = load_key(path)
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    with closing(sqlite3.connect(f"{used.database_path.as_uri()}?mode=ro", uri=True)) as database:
        assert database.execute("SELECT COUNT(*) FROM audit WHERE kind = 'audit.key_created'").fetchone() == (1,)
        assert database.execute("SELECT COUNT(*) FROM issuers WHERE key_reference LIKE '%audit.pem'").fetchone() == (0,)


KEY_FAULTS: list[tuple[str, Callable[[Path], None], str]] = [
    ("gone", lambda data_dir: (data_dir / "keys" / "audit.pem").unlink(), "audit.pem is missing"),
    ("open", lambda data_dir: (data_dir / "keys" / "audit.pem").chmod(0o644), "mode 0644"),
    ("no key", lambda data_dir: (data_dir / "audit.pub.pem").unlink() or None, "is not the public half"),
]


@pytest.mark.parametrize(("spoil", "told"), [item[1:] for item in KEY_FAULTS], ids=[item[0] for item in KEY_FAULTS])
def test_the_doctor_looks_at_the_key(
    used: Installation, acmeca: Acmeca, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(used.data_dir)
    findings = json.loads(acmeca(used, "doctor", "--json").stdout)["findings"]
    assert [finding for finding in findings if finding["about"] == "audit key" and told in finding["detail"]]


def test_the_doctor_knows_when_no_heads_are_signed(used: Installation, acmeca: Acmeca) -> None:
    change(used, "DELETE FROM audit_heads WHERE sequence > 15")
    path = used.data_dir / "audit-heads.jsonl"
    first, _ = path.read_text().splitlines(keepends=True)
    signed = parse_signed_head(json.loads(first))
    key = load_key(used.data_dir / "keys" / "audit.pem")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    old = sign_head(signed.head, key, at=datetime.now(UTC) - timedelta(hours=1))
    path.write_text(json.dumps(old.to_json()) + "\n")
    change(used, "DELETE FROM audit_heads")
    findings = json.loads(acmeca(used, "doctor", "--json").stdout)["findings"]
    (found,) = [finding for finding in findings if finding["about"] == "audit heads"]
    assert (found["level"], "1 records came after it" in found["detail"]) == ("warning", True)
