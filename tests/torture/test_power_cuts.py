"""The power fails: a database whose log was cut at each frame's boundary and inside of frames, and journals with torn tails.

A CA works for a while, and each promise it makes (an answer to a client, a signature of its key) is noted with how long the
database's log was at that moment. Then its files are copied as a loss of power could leave them, and opened by the real code:

Rule 1: SQLite is in order, each chain of the audit verifies, and whatever was promised by then is there.
Rule 2: the journal is at least as long as it was synced before the newest commit that is left, torn anywhere behind that; it
can be read, and holds whatever the database holds.
Rule 3: between a promise and the end of the log at that moment there is a sync (`synchronous = FULL`), so nothing is promised of
what lies behind. What does lie there may be written in part, or in another order: zeros, holes, an older log's frames.

ACMECA_POWER_CUTS says how many cuts (10, and 200 in `make torture`), ACMECA_POWER_SEED which ones; the seed is printed.
"""

import asyncio
import os
import random
import sqlite3
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from acmeca import app
from acmeca.config import Config
from acmeca.keystore.pem import load_key
from acmeca.pki.signing import PrivateKey
from acmeca.storage import audit as audit_storage
from acmeca.storage import sqlite as sqlite_storage
from acmeca.storage.journal import segments
from acmeca.storage.node import NODE_FILE
from acmeca.storage.writers import CommitSeal
from tests.support.acme_client import AcmeClient
from tests.support.server import CountingKey, RunningCa, ca_site, temporary_directory
from tests.support.stages import Evidence, check_journal, count, der_of

CUTS: Final = count("ACMECA_POWER_CUTS", tested=10, tortured=200)
SEED: Final = int(os.environ.get("ACMECA_POWER_SEED", "6960"))

_WAL_HEADER: Final = 32  # https://www.sqlite.org/fileformat2.html#the_write_ahead_log
_FRAME_HEADER: Final = 24
_TABLES: Final = ("certificates", "audit", "orders", "crls", "issuers", "accounts")


# --- a CA at work -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Promise:
    """Something that must not be lost once the log had this length. `kept` looks for it in what is left."""

    what: str
    length: int
    kept: Callable[[Evidence], bool]


@dataclass
class Work:
    """The files of a CA that worked, and what it promised meanwhile. `database` is as it was before the first frame."""

    config: Config
    node: str
    database: bytes
    log: bytes = b""
    index: bytes = b""
    journals: dict[str, bytes] = field(default_factory=dict)
    promises: list[Promise] = field(default_factory=list)
    synced: list[tuple[int, str, int]] = field(default_factory=list)  # commit, segment, its length once that was synced

    @property
    def frame(self) -> int:
        """The octets of one frame."""
        (page,) = struct.unpack_from(">I", self.log, 8)
        return _FRAME_HEADER + (65536 if page == 1 else page)

    @property
    def boundaries(self) -> list[int]:
        return list(range(_WAL_HEADER, len(self.log) + 1, self.frame))


@asynccontextmanager
async def at_work(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[RunningCa, Work]]:
    """A CA that has done nothing yet, with an empty log and no checkpoint to come."""
    # The log is emptied by the tests themselves, when they want it: what a checkpoint leaves is a subject of its own.
    pragmas = [pragma for pragma in sqlite_storage._WRITER_PRAGMAS if "autocheckpoint" not in pragma]
    monkeypatch.setattr(sqlite_storage, "_WRITER_PRAGMAS", (*pragmas, "PRAGMA wal_autocheckpoint = 0"))
    async with ca_site() as site:
        await site.init()
        database = site.config.database_path
        assert database is not None
        work = Work(site.config, (site.config.server.data_dir / NODE_FILE).read_text(), database.read_bytes())

        def length() -> int:
            path = Path(f"{database}-wal")
            return path.stat().st_size if path.exists() else 0

        class NotedSeal(CommitSeal):
            def append(self, number: int, entries: Any) -> None:
                super().append(number, entries)
                newest = max(segments(site.config.journal_dir), key=lambda segment: segment.path.stat().st_mtime_ns)
                work.synced.append((number, newest.path.name, newest.path.stat().st_size))

        class NotedKey(CountingKey):
            def sign(self, data: Any, signature_algorithm: Any) -> bytes:
                signature = super().sign(data, signature_algorithm)
                tbs = bytes(data)
                if tbs in self.signed and tbs[4] == 0xA0:  # a TBSCertificate: its [0] version
                    work.promises.append(Promise("a signature's record", length(), lambda left: tbs in recorded(left)))
                return signature

        def open_key(path: Path) -> PrivateKey:
            return NotedKey(load_key(path))  # type: ignore[arg-type]  # an EC key

        monkeypatch.setattr(app.stores, "CommitSeal", NotedSeal)
        monkeypatch.setattr(site, "open_key", open_key)
        async with site.running() as ca:
            vars(ca)["log_length"] = length
            yield ca, work


def recorded(left: Evidence) -> set[bytes]:
    return {row["tbs"] for row in left.tables["certificates"]}


def copy_files(work: Work) -> None:
    """The files of this moment, beside a server that is idle."""
    database = work.config.database_path
    work.log = Path(f"{database}-wal").read_bytes()
    work.index = Path(f"{database}-shm").read_bytes()
    work.journals = {path.name: path.read_bytes() for path in work.config.journal_dir.iterdir()}


async def issue_and_revoke(ca: RunningCa, work: Work, *, clients: int, turns: int) -> None:
    """Some clients at once; each answer is noted as a promise."""
    length: Callable[[], int] = vars(ca)["log_length"]

    def note(what: str, kept: Callable[[Evidence], bool]) -> None:
        work.promises.append(Promise(what, length(), kept))

    async def run(client: AcmeClient, number: int) -> None:
        await client.register()
        account_id = client.account_url.rpartition("/")[2]
        note("an account", lambda left: account_id in {row["id"] for row in left.tables["accounts"]})
        for turn in range(turns):
            issued = await client.issue(f"p{number}-{turn}.localhost")
            der = issued.chain[0].public_bytes(Encoding.DER)
            note(
                "a certificate",
                lambda left, der=der: (
                    der in {der_of(row) for row in left.tables["certificates"] if row["signature"] is not None}
                ),
            )
            if turn % 2:
                (await client.revoke(der)).ok()
                note(
                    "a revocation",
                    lambda left, der=der: (
                        der in {der_of(row) for row in left.tables["certificates"] if row["revoked_at"] is not None}
                    ),
                )

    accounts = [await ca.client(register=False) for _ in range(clients)]
    await asyncio.gather(*(run(client, number) for number, client in enumerate(accounts)))


@pytest.fixture
async def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    async with at_work(monkeypatch) as (ca, work):
        await issue_and_revoke(ca, work, clients=4, turns=4)
        await asyncio.sleep(0)
        copy_files(work)
        database = work.config.database_path
        assert database is not None
        assert database.read_bytes() == work.database, "there was a checkpoint"
    return work


# --- what a cut leaves --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Left:
    """The files after a cut. `durable` is the length of the log that was synced for sure."""

    database: bytes
    log: bytes
    durable: int
    index: bytes | None = None


async def require_whole(work: Work, left: Left, *, chance: random.Random) -> int:
    """Put the files in a directory, open them by the real code, and look (rules 1 and 2). Returns how many promises were due."""
    with temporary_directory() as directory:
        config = work.config.model_copy(
            update={"server": work.config.server.model_copy(update={"data_dir": directory})}
        )
        path = config.database_path
        assert path is not None
        for suffix, content in (("", left.database), ("-wal", left.log), ("-shm", left.index)):
            if content is not None:
                file = path.with_name(path.name + suffix)
                file.touch(mode=0o600)
                file.write_bytes(content)
        (directory / NODE_FILE).write_text(work.node)
        # What SQLite makes of it, before anything is written: this is the newest commit that is left.
        evidence, last_commit = await asyncio.to_thread(_look, path)
        cut_journals(work, config.journal_dir, last_commit, chance)
        async with app.opened_store(config) as store:
            assert await audit_storage.verify(store.database) == []
        check_journal(evidence, [config.journal_dir])
        due = [promise for promise in work.promises if promise.length <= left.durable]
        for promise in due:
            assert promise.kept(evidence), f"{promise.what} of a log of {promise.length} octets is lost"
        return len(due)


def _look(path: Path) -> tuple[Evidence, int]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.row_factory = sqlite3.Row
        tables = {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}").fetchall()] for table in _TABLES
        }
        (last,) = connection.execute("SELECT MAX(last_commit) FROM writers").fetchone()
    return Evidence(tables), last


def cut_journals(work: Work, directory: Path, last_commit: int, chance: random.Random) -> None:
    """Rule 2: what was synced before the newest commit that is left is there, and some more, torn."""
    directory.mkdir(mode=0o700)
    segments_of_work = {segment for _, segment, _ in work.synced}
    lengths = {segment: length for number, segment, length in work.synced if number <= last_commit}
    for name, content in work.journals.items():
        if name not in segments_of_work:
            (directory / name).write_bytes(content)  # of `init`
        else:
            least = lengths.get(name, 0)
            (directory / name).write_bytes(content[: chance.randint(least, min(len(content), least + 3000))])


# --- the log is cut -----------------------------------------------------------------------------------------------


def cuts_of(work: Work, chance: random.Random) -> Iterator[tuple[int, str]]:
    """Each boundary, and for each a place inside of the frame behind it, with how its rest looks."""
    for boundary in work.boundaries:
        yield boundary, "cut"
        inside = boundary + chance.choice((1, 8, _FRAME_HEADER, _FRAME_HEADER + 1, work.frame // 2, work.frame - 1))
        yield min(inside, len(work.log)), "cut"
        yield boundary, "zeros"
        yield boundary, "hole"


def damaged(work: Work, at: int, how: str) -> bytes:
    """What lies behind `at` was not synced: it is not there, or all zeros, or there but for one sector."""
    match how:
        case "zeros":
            return work.log[:at] + bytes(len(work.log) - at)
        case "hole":
            return work.log[:at] + bytes(min(512, len(work.log) - at)) + work.log[at + 512 :]
        case _:
            return work.log[:at]


async def test_the_log_is_cut(work: Work) -> None:
    """At frames' boundaries and inside of frames, the tail gone, zeroed, or holed: nothing that was promised is lost."""
    print(f"ACMECA_POWER_CUTS={CUTS} ACMECA_POWER_SEED={SEED}")  # noqa: T201  (how to repeat it)
    chance = random.Random(SEED)
    cuts = list(cuts_of(work, chance))
    chosen = sorted(chance.sample(cuts, k=min(CUTS, len(cuts))))
    assert len(work.boundaries) > 100
    due = []
    for at, how in chosen:
        index = chance.choice((None, work.index))  # after a loss of power it may be there, and is of no worth
        due.append(await require_whole(work, Left(work.database, damaged(work, at, how), at, index), chance=chance))
    assert due == sorted(due)
    assert await require_whole(work, Left(work.database, work.log, len(work.log)), chance=chance) == len(work.promises)
    assert len(work.promises) >= 4 * (1 + 4 + 2) + 16


# --- a checkpoint -------------------------------------------------------------------------------------------------


async def test_the_power_fails_in_a_checkpoint(work: Work) -> None:
    """SQLite syncs the log, writes its pages to the database, and syncs that: in between the database has some of the new pages,
    some old ones, and torn ones, and the log is whole."""
    chance = random.Random(SEED)
    page = work.frame - _FRAME_HEADER
    with temporary_directory() as directory:
        new = await asyncio.to_thread(_emptied, directory / "whole.db", work)
    old = work.database
    for _ in range(max(2, CUTS // 10)):
        mixed = bytearray(old + bytes(max(0, len(new) - len(old))))
        written = chance.random()
        for start in range(0, len(new), page):
            if chance.random() < written:
                end = start + chance.choice((page, page, 512, page // 2))
                mixed[start:end] = new[start:end]
        length = chance.choice((len(old), len(new))) if chance.random() < 0.2 else len(mixed)
        left = Left(bytes(mixed[: max(length, len(old))]), work.log, len(work.log))
        assert await require_whole(work, left, chance=chance) == len(work.promises)
    # The database is synced, and the log is not begun anew yet, or gone.
    for log in (work.log, b""):
        assert await require_whole(work, Left(new, log, len(work.log)), chance=chance) == len(work.promises)


def _emptied(path: Path, work: Work) -> bytes:
    """The database once all of the log is in it."""
    path.write_bytes(work.database)
    Path(f"{path}-wal").write_bytes(work.log)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    return path.read_bytes()


async def test_the_power_fails_in_a_log_that_was_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a checkpoint SQLite writes the log from its beginning, over the older frames: a cut leaves new frames, then old ones,
    whose salt tells them."""
    chance = random.Random(SEED + 1)
    async with at_work(monkeypatch) as (ca, work):
        await issue_and_revoke(ca, work, clients=2, turns=2)
        database = work.config.database_path
        assert database is not None
        old_promises = len(work.promises)
        with closing(sqlite3.connect(database)) as connection:
            busy, in_log, done = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            assert (busy, in_log) == (0, done)
        old_log = Path(f"{database}-wal").read_bytes()
        work.database = database.read_bytes()
        # From here on a promise tells how far the new log had come, which is not its file's length.
        work.promises = [Promise(item.what, 0, item.kept) for item in work.promises]
        vars(ca)["log_length"] = lambda: len(old_log) + 1
        await issue_and_revoke(ca, work, clients=1, turns=1)
        copy_files(work)
        assert database.read_bytes() == work.database
    new_log = work.log
    assert new_log[:_WAL_HEADER] != old_log[:_WAL_HEADER], "the log was not begun anew"
    same = next(at for at in range(len(old_log), 0, -work.frame) if new_log[at - 8 : at] != old_log[at - 8 : at])
    ats = [0, 1, 24, *range(_WAL_HEADER, same + 1, work.frame)]
    for at in ats if len(ats) <= CUTS else chance.sample(ats, k=max(3, CUTS // 5)):
        left = Left(work.database, new_log[:at] + old_log[at:], 0)
        assert await require_whole(work, left, chance=chance) >= old_promises
    whole = Left(work.database, new_log, len(old_log) + 1)
    assert await require_whole(work, whole, chance=chance) == len(work.promises)
