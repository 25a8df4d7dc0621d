"""How large, how many: measured where it is quick, estimated where it is not, and never far off."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from acmeca.storage import sqlite_sizes
from acmeca.storage.readonly import open_read_only
from acmeca.storage.sizes import Counts, StatusCounts, TableSize, Waiting
from acmeca.storage.sqlite_sizes import SqliteSizes
from acmeca.storage.store import Store
from tests.support.databases import connect
from tests.support.stored import (
    NOW,
    certificate,
    change,
    issued_certificate,
    kept_account,
    kept_order,
    open_store,
    rows,
)

DAY = timedelta(days=1)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store() as store:
        yield store


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some thousand rows count as many."""
    monkeypatch.setattr(sqlite_sizes, "_COUNTED_ROWS", 1000)


def path_of(store: Store) -> Path:
    return store.database._path


async def tables(path: Path, **options: int) -> dict[str, TableSize]:
    with open_read_only(path) as database:
        return {table.name: table for table in await SqliteSizes(database, path, **options).tables()}


class TestTables:
    async def test_measured(self, store: Store) -> None:
        """Rule 1: a small database is read whole, to the byte."""
        await asyncio.gather(*(issued_certificate(store) for _ in range(50)))
        found = await tables(path_of(store))
        assert found["certificates"].rows == found["certificate_names"].rows == 50
        assert not any(table.is_estimate for table in found.values())
        with connect(path_of(store)) as connection:
            used = (
                connection.execute("PRAGMA page_count").fetchone()[0]
                - connection.execute("PRAGMA freelist_count").fetchone()[0]
            )
        schema = 4096 * 8  # sqlite_schema is nobody's table
        assert 4096 * used - schema <= sum(table.bytes for table in found.values()) < 4096 * used

    async def test_the_largest_first(self, store: Store) -> None:
        await asyncio.gather(*(issued_certificate(store) for _ in range(50)))
        sizes = [table.bytes for table in (await tables(path_of(store))).values()]
        assert sizes == sorted(sizes, reverse=True)

    async def test_estimated(self, store: Store, few: None) -> None:
        """Estimated sizes are near the measured ones, and their sum is what is in use."""
        fill(path_of(store), 5000)
        measured = await tables(path_of(store))
        estimated = await tables(path_of(store), measured_bytes=0)
        for name in ("certificates", "certificate_names"):
            assert estimated[name].is_estimate
            assert estimated[name].rows == pytest.approx(measured[name].rows, rel=0.02)
            assert estimated[name].bytes == pytest.approx(measured[name].bytes, rel=0.3)
        assert sum(table.bytes for table in estimated.values()) == pytest.approx(
            sum(table.bytes for table in measured.values()), rel=0.02
        )

    async def test_rows_that_went_are_not_counted(self, store: Store, few: None) -> None:
        """The oldest went, as retention has it, and holes stay where some did not."""
        fill(path_of(store), 5000)
        await change(store, "DELETE FROM certificate_names")
        await change(store, "DELETE FROM certificates WHERE not_after < 1000 OR not_after % 3 = 0")
        ((left,),) = await rows(store, "SELECT COUNT(*) FROM certificates")
        found = await tables(path_of(store), measured_bytes=0)
        assert found["certificates"].rows == pytest.approx(left, rel=0.1)
        assert found["certificate_names"] == TableSize("certificate_names", 0, 0, is_estimate=True)


async def test_files(store: Store) -> None:
    path = path_of(store)
    with open_read_only(path) as database:
        files = await SqliteSizes(database, path).files()
    assert files.log == path.with_name(path.name + "-wal").stat().st_size > 0
    assert files.database >= 40 * 4096
    assert files.free == 0


async def test_what_was_deleted_is_free(tmp_path: Path) -> None:
    """Freed pages are in the file still, and used again."""
    path = tmp_path / "acmeca.db"
    with connect(path) as connection:
        connection.execute("CREATE TABLE t (b BLOB)")
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
        connection.execute("DELETE FROM t")
    with open_read_only(path) as database:
        files = await SqliteSizes(database, path).files()
        assert await SqliteSizes(database, path).tables() == [TableSize("t", 0, 4096, is_estimate=False)]
    assert files.log == 0
    assert files.free >= 90_000
    assert files.database == path.stat().st_size


class TestCounts:
    async def test_by_status(self, store: Store) -> None:
        """Each certificate is one thing: revoked before anything else, then unsigned, expired, valid."""
        kept = [await issued_certificate(store) for _ in range(3)]
        await issued_certificate(store, not_after=NOW - DAY)
        gone = await issued_certificate(store, not_after=NOW - DAY)
        for one in (kept[0], gone):
            await store.certificates.revoke(
                one, reason=None, thumbprint="t", may_raise=False, actor="system", how="account", at=NOW
            )
        for changes in ({}, {"not_after": NOW - DAY}):
            unsigned = certificate(**changes)
            await store.issuance.record(unsigned, thumbprint=unsigned.id, at=NOW)
        found = await Counts(store.database).by_status(NOW)
        assert found == StatusCounts(valid=2, expired=1, revoked=2, unsigned=2)
        assert found.total == 7

    async def test_recorded(self, store: Store) -> None:
        counts = Counts(store.database)
        assert await counts.first_recorded() is None
        for age in (0, 6, 8, 40):
            await issued_certificate(store, recorded_at=NOW - age * DAY)
        assert [await counts.recorded(since=NOW - days * DAY) for days in (7, 30, 365)] == [2, 3, 4]
        assert await counts.first_recorded() == int((NOW - 40 * DAY).timestamp())

    async def test_waiting(self, store: Store) -> None:
        owner = await kept_account(store)
        await kept_order(store, owner)
        await kept_order(store, owner)
        await store.orders.expire(at=NOW + DAY)
        await kept_order(store, owner)
        await issued_certificate(store, not_after=NOW)
        counts = Counts(store.database)
        later = NOW + 40 * DAY
        assert await counts.waiting(later, orders=30 * DAY, certificates=None) == Waiting(2, 0, is_more=False)
        assert await counts.waiting(later, orders=39 * DAY, certificates=30 * DAY) == Waiting(0, 1, is_more=False)

    async def test_waiting_is_not_counted_for_ever(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("acmeca.storage.sizes._COUNTED", 3)
        fill(path_of(store), 10)
        found = await Counts(store.database).waiting(NOW, orders=DAY, certificates=30 * DAY)
        assert found == Waiting(0, 3, is_more=True)

    async def test_by_indexes(self, store: Store) -> None:
        """Rule 1: none of the counts reads the certificates themselves."""
        with connect(path_of(store)) as connection:
            for condition in (
                "not_after < 1",
                "revoked_at IS NOT NULL",
                "recorded_at >= 1",
                "signature IS NULL AND revoked_at IS NULL",
            ):
                plan = connection.execute(
                    f"EXPLAIN QUERY PLAN SELECT COUNT(*) FROM certificates WHERE {condition}"
                ).fetchall()
                assert "INDEX certificates_" in plan[0][3], condition


def fill(path: Path, count: int) -> None:
    """Certificates as they are when nobody looks closely; their end in seconds is their number."""
    with connect(path) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO certificates (id, serial, issuer_id, profile, spki_sha256, not_before, not_after, tbs, signature,"
            " recorded_at) VALUES (?1, ?2, 'issuer', 'server', randomblob(32), 0, ?3, randomblob(600), randomblob(70), ?3)",
            (
                (f"id-{number * 7919 % 104729:018d}", f"{number * 104729 % 1299709:034x}", number)
                for number in range(count)
            ),
        )
        connection.execute(
            "INSERT INTO certificate_names SELECT id, 'host.' || id || '.internal', 'internal.' || id || '.host.' FROM certificates"
        )
        connection.execute("COMMIT")
