"""The whole audit against what was kept of it: heads, the journal; beside a server that writes; in bounded memory."""

import asyncio
import contextlib
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from acmeca.audit import (
    SYSTEM,
    CrlSigned,
    Fault,
    FoundHead,
    Head,
    Record,
    What,
    build_record,
    fingerprint,
    raw_public_key,
    sign_head,
)
from acmeca.storage.audit import fetch_head
from acmeca.storage.audit_examination import Evidence, Examination, examine
from acmeca.storage.audit_heads import HEADS_FILE, HeadsFile
from acmeca.storage.database import Entry
from acmeca.storage.journal import Journal
from acmeca.storage.readonly import open_read_only
from acmeca.storage.schema import read_steps
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.store import Store
from acmeca.storage.writers import CommitSeal, Writer
from tests.support.databases import start_python

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY_ID = fingerprint(raw_public_key(KEY.public_key()))


@dataclass
class Place:
    """A data directory, with a database and a journal in it."""

    directory: Path

    @property
    def path(self) -> Path:
        return self.directory / "acmeca.db"

    @contextlib.asynccontextmanager
    async def store(self, instance: str = "i1") -> AsyncIterator[Store]:
        writer = Writer("w", instance)
        journal = Journal(self.directory / "journal", writer="w", instance=instance, clock=lambda: AT)
        database = await SqliteDatabase.open(self.path, seal=CommitSeal(writer, journal, schema=len(read_steps())))
        store = Store(database, writer=writer)
        try:
            await store.writers.claim(alone=True)
            yield store
        finally:
            await database.close()
            journal.close()

    async def write(self, *numbers: int, instance: str = "i1", signed: bool = True) -> None:
        """Append a record for each number, one commit each, and sign the head."""
        async with self.store(instance) as store:
            for number in numbers:
                await note(store, number)
            if signed:
                await sign(store, self.directory)

    def examine(self, *, journal: bool = True, kept: tuple[FoundHead, ...] = ()) -> Examination:
        evidence = Evidence(
            data_dir=self.directory,
            has_table=True,
            journal_dir=self.directory / "journal" if journal else None,
            kept=kept,
            keys=frozenset({KEY_ID}),
        )
        with open_read_only(self.path) as database:
            return asyncio.run(examine(database, evidence))

    def told(self, *, journal: bool = True) -> list[tuple[What, int | None, int | None]]:
        return [(fault.what, fault.sequence, fault.through) for fault in self.examine(journal=journal).report.faults]

    def change(self, sql: str, *values: object) -> None:
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(sql, values)


async def note(store: Store, number: int) -> None:
    await store.note(CrlSigned(actor=SYSTEM, issuer_id="r", number=number, entries=0), at=AT)


async def sign(store: Store, directory: Path) -> None:
    head = await fetch_head(store.database, "w")
    assert head is not None
    signed = sign_head(head, KEY, at=AT)
    await HeadsFile(directory).append(signed)
    await store.audit_heads.add(signed)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records: six by one process, six by the next, a head after each six."""
    place = Place(tmp_path_factory.mktemp("template"))
    asyncio.run(place.write(*range(1, 7)))
    asyncio.run(place.write(*range(7, 13), instance="i2"))
    return place.directory


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Place:
    return Place(shutil.copytree(template, tmp_path / "data"))


def rewrite(place: Place, first: int, *, through: int = 12) -> None:
    """Write the chain anew from a record on, as somebody does who knows how."""
    with contextlib.closing(sqlite3.connect(place.path)) as connection, connection:
        row = connection.execute("SELECT hash FROM audit WHERE sequence = ?", (first - 1,)).fetchone()
        head = None if row is None else Head("w", first - 1, row[0])
        for sequence in range(first, through + 1):
            event = CrlSigned(actor="admin:mallory", issuer_id="r", number=sequence, entries=0)
            record = build_record(head, writer="w", at=AT, event=event)
            connection.execute(
                "INSERT OR REPLACE INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                tuple(getattr(record, name) for name in Record.__dataclass_fields__),
            )
            head = Head("w", sequence, record.hash)


# --- all is well --------------------------------------------------------------------------------------------------


def test_what_nobody_touched_is_whole(place: Place) -> None:
    examination = place.examine()
    assert examination.report.faults == ()
    assert examination.report.heads == 2
    assert examination.journalled == {"w": 11}  # the last one: nothing was built on it yet
    (chain,) = examination.report.chains
    assert (chain.records, chain.kept_heads, chain.heads) == (12, 2, 2)


def test_without_the_file_of_heads_the_table_is_there(place: Place) -> None:
    (place.directory / HEADS_FILE).unlink()
    assert place.examine().report.heads == 2
    place.change("DELETE FROM audit_heads")
    assert place.examine().report.heads == 0
    assert place.told() == []


async def test_a_process_that_died_between_journal_and_commit(place: Place) -> None:
    """Its last record is in the journal alone, and the next process gives its number to another one: no fault."""
    async with place.store("i3") as store:
        await note(store, 13)
        head = await fetch_head(store.database, "w")
    record = build_record(head, writer="w", at=AT, event=CrlSigned(actor=SYSTEM, issuer_id="r", number=14, entries=0))
    journal = Journal(
        place.directory / "journal", writer="w", instance="i3-died", clock=lambda: AT + timedelta(seconds=1)
    )
    journal.append(
        999,
        [
            Entry(
                "audit",
                {
                    "writer": "w",
                    "sequence": 14,
                    "at": record.at,
                    "event": record.event,
                    "hash": record.hash,
                },
            )
        ],
    )
    journal.close()
    assert await asyncio.to_thread(place.told) == []
    await place.write(15, 16, instance="i4")
    assert await asyncio.to_thread(place.told) == []


async def test_a_commit_that_was_withdrawn(place: Place) -> None:
    async with place.store("i3") as store:
        await note(store, 13)
        head = await fetch_head(store.database, "w")
        record = build_record(
            head, writer="w", at=AT, event=CrlSigned(actor=SYSTEM, issuer_id="r", number=7, entries=0)
        )
        values = {"writer": "w", "sequence": 14, "at": record.at, "event": record.event, "hash": record.hash}
        seal = store.database._writer._committer.seal  # type: ignore[attr-defined]
        seal.append(1000, [Entry("audit", values)])
        seal.withdraw(1000)
        await note(store, 14)
        await note(store, 15)
    assert await asyncio.to_thread(place.told) == []


async def test_beside_a_process_that_writes(tmp_path: Path) -> None:
    """Records and heads come in while the audit is examined: never a false alarm."""
    place = Place(tmp_path)
    done = asyncio.Event()

    async def write() -> None:
        async with place.store() as store:
            for number in range(150):
                await note(store, number)
                if number % 10 == 0:
                    await sign(store, tmp_path)
                done.set() if number == 20 else None
        done.clear()

    writing = asyncio.create_task(write())
    await done.wait()
    looks = 0
    while not writing.done():
        report = (await asyncio.to_thread(place.examine)).report
        assert report.faults == (), report.faults
        looks += 1
    await writing
    assert looks > 0
    assert place.path.exists()


# --- what was done ------------------------------------------------------------------------------------------------

Change = Callable[[Place], None]
CASES: dict[str, tuple[Change, list[tuple[What, int | None, int | None]]]] = {
    "edited": (
        lambda place: place.change("UPDATE audit SET event = replace(event, '4', '5') WHERE sequence = 4"),
        [(What.EDITED, 4, None)],
    ),
    "another type": (
        lambda place: place.change("UPDATE audit SET at = 'x' WHERE sequence = 4"),
        [(What.EDITED, 4, None)],
    ),
    "edited, hash and all: the journal knows which": (
        lambda place: rewrite(place, 4, through=4),
        [(What.REWRITTEN, 4, None), (What.EDITED, 5, None)],
    ),
    "deleted": (
        lambda place: place.change("DELETE FROM audit WHERE sequence IN (4, 5)"),
        [(What.MISSING, 4, 5)],
    ),
    "cut": (lambda place: place.change("DELETE FROM audit WHERE sequence > 8"), [(What.CUT, 9, 12)]),
    "emptied": (lambda place: place.change("DELETE FROM audit"), [(What.CUT, 1, 12)]),
    "cut, with the heads": (
        lambda place: (
            place.change("DELETE FROM audit WHERE sequence > 8"),
            place.change("DELETE FROM audit_heads"),
            (place.directory / HEADS_FILE).unlink(),
        )[0],
        [(What.CUT, 9, 11)],
    ),
    "cut, with the journal": (
        lambda place: (
            place.change("DELETE FROM audit WHERE sequence > 8"),
            shutil.rmtree(place.directory / "journal"),
        )[0],
        [(What.CUT, 9, 12)],
    ),
    "one more, by no server": (lambda place: rewrite(place, 13, through=14), [(What.ADDED, 13, 14)]),
    "written anew": (
        lambda place: rewrite(place, 9),
        [(What.REWRITTEN, 9, 11), (What.REWRITTEN, 12, None)],
    ),
    "another writer's": (
        lambda place: place.change("UPDATE audit SET writer = 'x' WHERE sequence = 12"),
        [(What.CUT, 12, 12), (What.MISSING, 1, 11)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_done_is_told(place: Place, case: str) -> None:
    change, expected = CASES[case]
    change(place)
    assert place.told() == expected


def test_what_the_heads_alone_tell(place: Place) -> None:
    rewrite(place, 9)
    (fault,) = place.examine(journal=False).report.faults
    assert (fault.what, fault.sequence) == (What.REWRITTEN, 12)
    assert "somewhere after 6, which fits the head of 2026-11-23T12:00:00Z in audit-heads.jsonl, line 1" in fault.detail


async def test_an_older_copy_in_the_databases_place(place: Place, tmp_path: Path) -> None:
    """It shows at once, and for ever: also when the server has gone on from there."""
    shutil.copy(place.path, tmp_path / "older.db")
    await place.write(*range(13, 17), instance="i3")
    shutil.copy(tmp_path / "older.db", place.path)
    assert await asyncio.to_thread(place.told) == [(What.CUT, 13, 16)]
    assert await asyncio.to_thread(lambda: place.told(journal=False)) == [(What.CUT, 13, 16)]
    await place.write(*range(20, 28), instance="i4")
    assert {what for what, _, _ in await asyncio.to_thread(place.told)} == {What.REWRITTEN}
    assert await asyncio.to_thread(lambda: place.told(journal=False)) == [(What.REWRITTEN, 16, None)]


async def test_all_of_it_made_anew_shows_against_what_was_kept(place: Place, tmp_path: Path) -> None:
    """Database, heads, journal, by somebody who has the key: only a head from elsewhere tells."""
    kept = tuple(
        FoundHead(signed.head, f"kept, line {line}", signed) for line, signed in HeadsFile(place.directory).read().heads
    )
    anew = Place(tmp_path / "anew")
    anew.directory.mkdir()
    await anew.write(*range(100, 112))
    assert await asyncio.to_thread(anew.told) == []
    report = (await asyncio.to_thread(lambda: anew.examine(kept=kept))).report
    assert [(fault.what, fault.sequence) for fault in report.faults] == [(What.REWRITTEN, 6)]
    assert "from its beginning" in report.faults[0].detail


def test_a_forged_line_in_the_file_of_heads(place: Place) -> None:
    path = place.directory / HEADS_FILE
    text = path.read_text()
    path.write_text(text.replace('"sequence":12', '"sequence":11') + "nothing\n")
    faults = place.examine().report.faults
    assert [(fault.what, fault.sequence) for fault in faults] == [(What.DAMAGED, None), (What.FORGED, 11)]
    assert "line 2" in faults[1].detail


def test_a_damaged_journal_is_told_and_the_rest_compared(place: Place) -> None:
    first, second = sorted((place.directory / "journal").iterdir())
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(bytes(data))
    examination = place.examine()
    (fault,) = examination.report.faults
    assert (fault.what, fault.writer) == (What.DAMAGED, "w")
    assert f"of {first} is damaged" in fault.detail
    assert examination.journalled["w"] >= 5
    second.unlink()
    assert [fault.what for fault in place.examine().report.faults] == [What.DAMAGED]


def test_a_fault_says_when_and_what_it_was(place: Place) -> None:
    place.change("UPDATE audit SET subject = 'x' WHERE sequence = 4")
    (fault,) = place.examine().report.faults
    assert replace(fault, detail="") == Fault(What.EDITED, "w", 4, "", at=int(AT.timestamp()), kind="crl.signed")


# --- long chains --------------------------------------------------------------------------------------------------


LONG = """
import asyncio, contextlib, resource, sqlite3, sys
from pathlib import Path
from acmeca.audit import SYSTEM, CrlSigned, Head, build_record
from acmeca.storage.audit_examination import Evidence, examine
from acmeca.storage.readonly import open_read_only
from acmeca.storage.schema import migrate, read_steps
from tests.storage.test_audit_examination import AT

path = Path(sys.argv[1])
event = CrlSigned(actor=SYSTEM, issuer_id="r" * 100, number=1, entries=0)
with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
    migrate(connection, read_steps())
    connection.execute("BEGIN")
    head = None
    for _ in range(50_000):
        record = build_record(head, writer="w", at=AT, event=event)
        head = Head("w", record.sequence, record.hash)
        row = ("w", record.sequence, record.at, record.kind, record.actor, record.subject, record.event, record.hash)
        connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("COMMIT")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen = []
with open_read_only(path) as database:
    evidence = Evidence(data_dir=path.parent, has_table=True)
    report = asyncio.run(examine(database, evidence, on_progress=lambda *step: seen.append(step))).report
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(report.faults, report.chains[0].records, seen[-1], after - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_a_long_chain_takes_bounded_memory(tmp_path: Path) -> None:
    """50,000 records are 25 MB of rows; what is held at a time is a page of them."""
    with start_python(LONG, str(tmp_path / "acmeca.db")) as process:
        said, _ = process.communicate(timeout=100)
    what, _, kibibytes = said.strip().rpartition(" ")
    assert what == "() 50000 ('records', 50000, 50000)"
    assert int(kibibytes) < 8 << 10
