"""Retention: what goes, what stays, and that nothing rests on what went (the rules of storage/retention.py, one by one)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.objects import Account, Authorization, Order
from acmeca.acme.problem import Problem, ProblemType
from acmeca.storage import audit
from acmeca.storage.certificates import Certificate
from acmeca.storage.crls import Crl
from acmeca.storage.errors import KeyRefusedError, StaleError
from acmeca.storage.keys import is_blocked
from acmeca.storage.leases import Lease
from acmeca.storage.retention import Position
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.store import Store
from acmeca.storage.times import to_seconds
from tests.support.databases import connect, open_database, start_python
from tests.support.stored import (
    NOW,
    WRITER,
    authorization,
    certificate,
    change,
    issued_certificate,
    kept_account,
    kept_order,
    open_store,
    order,
    ready_order,
    rows,
    stored_issuer,
    stored_root,
)

DAY = timedelta(days=1)
LATER = NOW + 2 * DAY  # every order of `stored` has ended
EXPIRY = NOW + timedelta(days=90, seconds=-1)
GONE = EXPIRY + 400 * DAY
START = Position()


async def ids(store: Store, table: str) -> set[str]:
    return {row[0] for row in await rows(store, f"SELECT id FROM {table}")}


async def drop(store: Store, before: datetime = LATER) -> None:
    """Everything that may go."""
    while await store.retention.drop_orders(ended_before=before, lease=None):
        pass
    position: Position | None = START
    while position is not None:
        position = (await store.retention.drop_authorizations(ended_before=before, after=position, lease=None)).position


async def forget(store: Store, before: datetime = GONE, *, at: datetime = GONE) -> int:
    position: Position | None = START
    count = 0
    while position is not None:
        step = await store.retention.forget_certificates(expired_before=before, after=position, at=at, lease=None)
        position, count = step.position, count + step.deleted
    return count


async def is_sound(store: Store) -> bool:
    """Every reference holds (PostgreSQL sees to that itself), and the audit's chain is whole."""
    if isinstance(store.database, SqliteDatabase):
        with connect(store.database._path) as connection:
            if connection.execute("PRAGMA foreign_key_check").fetchall():
                return False
    return not await audit.verify(store.database)


async def finished_order(store: Store, owner: Account, *names: str) -> tuple[Order, Certificate]:
    made, _ = await ready_order(store, owner, *names)
    kept = certificate(owner, made)
    await store.issuance.record(kept, thumbprint=kept.id, at=NOW)
    await store.issuance.complete(kept, b"signature", sha256="00", at=NOW)
    return made, kept


async def expired(store: Store, owner: Account, **changes: object) -> Certificate:
    """An account's certificate whose order is gone already."""
    kept = replace(certificate(owner), **changes)
    await store.issuance.record(kept, thumbprint=kept.id, at=NOW)
    await store.issuance.complete(kept, b"signature", sha256="00", at=NOW)
    return kept


async def revoke(store: Store, kept: Certificate, *, at: datetime = NOW, reason: int = 4) -> None:
    await store.certificates.revoke(
        kept, reason=reason, thumbprint=kept.id, may_raise=True, actor="system", how="administrator", at=at
    )


async def publish(store: Store, at: datetime) -> tuple[Crl, set[str]]:
    draft = await store.crls.begin("issuer", this_update=at, next_update=at + DAY)
    return await store.crls.publish(draft, b"%d" % draft.number, at=at), {serial for serial, _, _ in draft.revoked}


class TestOrders:
    async def test_what_ended_goes_with_its_authorizations(self, store: Store) -> None:
        owner = await kept_account(store)
        made, _ = await finished_order(store, owner, "a.example.org", "b.example.org")
        await store.orders.expire(at=LATER)
        await drop(store)
        assert await ids(store, "orders") == await ids(store, "authorizations") == set()
        assert await store.orders.by_id(owner.id, made.id) is None
        assert (await store.orders.page(owner.id, cursor=None, limit=5)).order_ids == ()
        assert await is_sound(store)

    async def test_the_certificate_stays_at_its_url(self, store: Store) -> None:
        owner = await kept_account(store)
        _, kept = await finished_order(store, owner)
        await drop(store)
        found = await store.certificates.by_id(owner.id, kept.id)
        assert found is not None
        assert (found.order_id, found.serial) == (None, kept.serial)

    async def test_the_moment(self, store: Store) -> None:
        """An order that ends in the very second is kept."""
        owner = await kept_account(store)
        made, _ = await finished_order(store, owner)
        await drop(store, made.expires_at)
        assert await ids(store, "orders") == {made.id}
        await drop(store, made.expires_at + timedelta(seconds=1))
        assert await ids(store, "orders") == set()

    async def test_open_orders_stay(self, store: Store) -> None:
        """Rule 2: pending, ready and processing ones, however old they are."""
        owner = await kept_account(store)
        pending, _ = await kept_order(store, owner)
        ready, _ = await ready_order(store, owner)
        processing, _ = await ready_order(store, owner)
        unsigned = certificate(owner, processing)
        await store.issuance.record(unsigned, thumbprint=unsigned.id, at=NOW)
        await drop(store, GONE)
        assert await ids(store, "orders") == {pending.id, ready.id, processing.id}
        await store.issuance.complete(unsigned, b"signature", sha256="00", at=NOW)

    async def test_expired_ones_go(self, store: Store) -> None:
        owner = await kept_account(store)
        await kept_order(store, owner)
        await store.orders.expire(at=LATER)
        await drop(store)
        assert await ids(store, "orders") == await ids(store, "authorizations") == set()

    async def test_a_record_that_was_never_signed_stays(self, store: Store) -> None:
        """RULES §4: what was recorded is known for ever, or until it has expired."""
        owner = await kept_account(store)
        made, _ = await ready_order(store, owner)
        unsigned = certificate(owner, made)
        await store.issuance.record(unsigned, thumbprint=unsigned.id, at=NOW)
        await store.issuance.abandon(unsigned, Problem(ProblemType.SERVER_INTERNAL, "no"), at=NOW)
        await drop(store)
        assert await ids(store, "orders") == set()
        assert await store.certificates.status_of("issuer", unsigned.serial) is not None

    async def test_one_certificate_an_order_still(self, store: Store) -> None:
        """Many certificates without an order stand beside each other."""
        owner = await kept_account(store)
        for _ in range(3):
            await finished_order(store, owner)
        await drop(store)
        assert len(await ids(store, "certificates")) == 3


class TestAuthorizations:
    async def shared(self, store: Store, owner: Account) -> tuple[Order, Authorization]:
        """One authorization of two orders, as one that is reused would be; the first order has ended."""
        old, (one,) = await kept_order(store, owner)
        new, (other,) = await kept_order(store, owner)
        await change(store, "UPDATE order_authorizations SET authorization_id = $1 WHERE order_id = $2", one.id, new.id)
        await change(store, "DELETE FROM authorizations WHERE id = $1", other.id)
        await change(store, "UPDATE orders SET status = 'invalid' WHERE id = $1", old.id)
        return new, one

    async def test_one_that_a_kept_order_refers_to_stays(self, store: Store) -> None:
        owner = await kept_account(store)
        new, one = await self.shared(store, owner)
        await change(store, "UPDATE authorizations SET status = 'expired' WHERE id = $1", one.id)
        await drop(store)
        assert await ids(store, "orders") == {new.id}
        assert await ids(store, "authorizations") == {one.id}
        await change(store, "UPDATE orders SET status = 'invalid' WHERE id = $1", new.id)
        await drop(store)
        assert await ids(store, "authorizations") == set()

    @pytest.mark.parametrize("status", ["valid", "pending"])
    async def test_one_that_is_not_final_stays(self, store: Store, status: str) -> None:
        owner = await kept_account(store)
        made, (one,) = await kept_order(store, owner)
        await change(store, "UPDATE orders SET status = 'invalid' WHERE id = $1", made.id)
        await change(store, "UPDATE authorizations SET status = $1 WHERE id = $2", status, one.id)
        await drop(store)
        assert await ids(store, "orders") == set()
        assert await ids(store, "authorizations") == {one.id}

    async def test_one_under_validation_stays(self, store: Store) -> None:
        owner = await kept_account(store)
        made, (one,) = await kept_order(store, owner)
        await change(store, "INSERT INTO validation_jobs VALUES ($1, 'http-01', 0, NULL, NULL)", one.id)
        await change(store, "UPDATE orders SET status = 'invalid' WHERE id = $1", made.id)
        await change(store, "UPDATE authorizations SET status = 'invalid' WHERE id = $1", one.id)
        await drop(store)
        assert await ids(store, "authorizations") == {one.id}

    async def test_those_that_stay_hide_no_others(self, store: Store) -> None:
        """A pass goes on behind what it may not delete, in steps of bounded size."""
        owner = await kept_account(store)
        made, _ = await kept_order(store, owner, *(f"n{number}.example.org" for number in range(100)))
        lone = [replace(authorization(owner), expires_at=made.expires_at) for _ in range(150)]
        for part in range(0, 150, 50):
            other = order(owner)
            await store.orders.create(other, lone[part : part + 50])
            await change(store, "UPDATE orders SET status = 'invalid' WHERE id = $1", other.id)
        await change(store, "UPDATE authorizations SET status = 'expired'")
        await drop(store)
        assert await ids(store, "orders") == {made.id}
        assert len(await ids(store, "authorizations")) == 100


class TestCertificates:
    async def test_after_its_time(self, store: Store) -> None:
        """Not before it has expired for longer than is kept, then whole: from then on OCSP finds no such serial."""
        kept = await expired(store, await kept_account(store))
        assert await forget(store, kept.not_after) == 0
        assert await forget(store, kept.not_after + timedelta(seconds=1)) == 1
        assert await store.certificates.status_of("issuer", kept.serial) is None
        assert await rows(store, "SELECT COUNT(*) FROM certificate_names") == [(0,)]
        assert await is_sound(store)

    async def test_not_before_its_order(self, store: Store) -> None:
        owner = await kept_account(store)
        await finished_order(store, owner)
        assert await forget(store) == 0
        await drop(store)
        assert await forget(store) == 1

    async def test_the_servers_own_stay(self, store: Store) -> None:
        """RULES §1: "the OCSP responder's key is never certified": that is known by the certificates it had."""
        own = await issued_certificate(store)
        assert await forget(store) == 0
        again = certificate(await kept_account(store), spki_sha256=own.spki_sha256)
        with pytest.raises(KeyRefusedError):
            await store.issuance.record(again, thumbprint="t", at=GONE)

    async def test_a_revoked_one_waits_for_a_crl_after_its_end(self, store: Store) -> None:
        """RFC 5280 §3.3: "until it appears on one regularly scheduled CRL issued beyond … [its] validity period"."""
        owner = await kept_account(store)
        kept, last = await expired(store, owner), await expired(store, owner)
        await revoke(store, kept)
        await revoke(store, last)
        assert await forget(store) == 0  # no CRL at all
        await publish(store, NOW + DAY)
        await publish(store, kept.not_after)  # in its last second
        assert await forget(store) == 0
        await store.crls.begin("issuer", this_update=EXPIRY + DAY, next_update=EXPIRY + 2 * DAY)  # never published
        assert await forget(store) == 0
        _, listed = await publish(store, EXPIRY + DAY)
        assert kept.serial in listed
        assert await forget(store) == 1
        assert await store.certificates.by_serial(kept.serial) is None

    async def test_a_crl_that_was_begun_before_the_revocation(self, store: Store) -> None:
        owner = await kept_account(store)
        kept, last = await expired(store, owner), await expired(store, owner)
        await publish(store, EXPIRY + DAY)
        await revoke(store, kept, at=EXPIRY + 2 * DAY)
        await revoke(store, last, at=EXPIRY + 2 * DAY)
        assert await forget(store) == 0
        _, listed = await publish(store, EXPIRY + 3 * DAY)
        assert kept.serial in listed
        assert await forget(store) == 1

    async def test_a_crl_from_the_future_does_not_count(self, store: Store) -> None:
        """The clock was wrong then: no client keeps that CRL, and the next one has to list the entry."""
        owner = await kept_account(store)
        kept, last = await expired(store, owner), await expired(store, owner)
        await revoke(store, kept)
        await revoke(store, last)
        await publish(store, GONE + 400 * DAY)
        assert await forget(store) == 0
        _, listed = await publish(store, GONE - DAY)
        assert kept.serial in listed
        assert await forget(store) == 1

    async def test_another_issuers_crl_does_not_count(self, store: Store) -> None:
        other = stored_issuer("other")
        await store.issuers.create([other], [], actor="admin:test", at=NOW)
        owner = await kept_account(store)
        kept, last = await expired(store, owner, issuer_id="other"), await expired(store, owner)
        await revoke(store, kept)
        await revoke(store, last)
        await publish(store, EXPIRY + DAY)
        assert await forget(store) == 0

    async def test_the_highest_sequence_stays(self, store: Store) -> None:
        """The next number is MAX + 1: without the row, numbers that a CRL and every process has seen would come again."""
        owner = await kept_account(store)
        first, last = await expired(store, owner), await expired(store, owner)
        await revoke(store, first)
        await revoke(store, last)
        crl, _ = await publish(store, EXPIRY + DAY)
        assert await forget(store) == 1
        assert await store.certificates.last_revocation() == 2 == crl.through_sequence
        new = await issued_certificate(store)
        await revoke(store, new, at=GONE)
        assert await store.certificates.last_revocation() == 3
        assert [item.serial for item in await store.certificates.revoked_since(2)] == [new.serial]
        await publish(store, GONE + DAY)
        assert await forget(store) == 1  # now it has a follower

    async def test_a_blocked_key_stays_blocked(self, store: Store) -> None:
        owner = await kept_account(store)
        bad, last = await expired(store, owner), await expired(store, owner)
        await revoke(store, bad, reason=1)
        await revoke(store, last)
        await publish(store, EXPIRY + DAY)
        assert await forget(store) == 1
        assert await is_blocked(store.database, thumbprint=bad.id, spki_sha256=b"")

    async def test_the_audit_tells_in_one_record_a_step(self, store: Store) -> None:
        owner = await kept_account(store)
        kept = [await expired(store, owner, not_after=EXPIRY + number * DAY) for number in range(3)]
        await revoke(store, kept[1])
        await revoke(store, kept[2])
        await publish(store, EXPIRY + 9 * DAY)
        before = len(await rows(store, "SELECT 1 FROM audit"))
        assert await forget(store) == 2
        records = await rows(store, "SELECT kind, actor, subject, event FROM audit ORDER BY sequence")
        assert len(records) == before + 1
        kind, actor, subject, event = records[-1]
        assert (kind, actor, subject) == ("certificates.forgotten", "system", "2027-01-31T11:59:59Z")
        assert '"count":2' in event
        assert '"revoked":1' in event
        assert '"first_not_after":"2027-01-30T11:59:59Z"' in event
        assert await forget(store) == 0
        assert len(await rows(store, "SELECT 1 FROM audit")) == before + 1

    async def test_what_stays_hides_nothing(self, store: Store) -> None:
        """A pass goes on behind certificates that stay."""
        await asyncio.gather(*(issued_certificate(store) for _ in range(120)))
        owner = await kept_account(store)
        await expired(store, owner, not_after=EXPIRY + DAY)
        assert await forget(store) == 1


class TestTheMark:
    """Rule 2 of service/retention.py: a clock that leapt is nowhere near what lives."""

    async def advance(self, store: Store, to: datetime) -> datetime | None:
        return await store.retention.advance(to=to, at_most=DAY, keep=30 * DAY, lease=None)

    async def test_it_goes_a_day_at_a_time(self, store: Store) -> None:
        await issued_certificate(store)
        start = NOW - 30 * DAY
        assert [await self.advance(store, GONE) for _ in range(3)] == [start + n * DAY for n in (1, 2, 3)]

    async def test_it_stops_where_it_should(self, store: Store) -> None:
        await issued_certificate(store)
        await self.advance(store, GONE)
        assert await self.advance(store, NOW - 29 * DAY + timedelta(hours=1)) == NOW - 29 * DAY + timedelta(hours=1)

    async def test_a_clock_that_came_back(self, store: Store) -> None:
        """What it was moved on by mistake counts for nothing."""
        await issued_certificate(store)
        for _ in range(10):
            await self.advance(store, GONE)
        right = NOW - 25 * DAY
        assert await self.advance(store, right) == right
        assert await self.advance(store, right + DAY) == right + DAY

    async def test_without_a_certificate(self, store: Store) -> None:
        assert await self.advance(store, GONE) is None


class TestSteps:
    async def test_bounded_by_orders(self, store: Store) -> None:
        owner = await kept_account(store)
        await asyncio.gather(*(kept_order(store, owner) for _ in range(120)))
        await store.orders.expire(at=LATER)
        assert [await store.retention.drop_orders(ended_before=LATER, lease=None) for _ in range(6)] == [25] * 4 + [
            20,
            0,
        ]
        step = await store.retention.drop_authorizations(ended_before=LATER, after=START, lease=None)
        assert step.deleted == 50
        await asyncio.gather(*(expired(store, owner) for _ in range(15)))
        step = await store.retention.forget_certificates(expired_before=GONE, after=START, at=GONE, lease=None)
        assert step.deleted == 10

    async def test_bounded_by_names(self, store: Store) -> None:
        """An order of a hundred names counts for as much as it is."""
        owner = await kept_account(store)
        for _ in range(5):
            await kept_order(store, owner, *(f"n{number}.example.org" for number in range(100)))
        await store.orders.expire(at=LATER)
        assert [await store.retention.drop_orders(ended_before=LATER, lease=None) for _ in range(6)] == [1] * 5 + [0]
        names = tuple(f"n{number}.example.org" for number in range(100))
        for _ in range(5):
            await expired(store, owner, names=names)
        step = await store.retention.forget_certificates(expired_before=GONE, after=START, at=GONE, lease=None)
        assert step.deleted == 1
        assert step.position is not None
        assert await forget(store) == 4

    async def test_expiry_is_bounded_too(self, store: Store) -> None:
        owner = await kept_account(store)
        await asyncio.gather(*(kept_order(store, owner) for _ in range(450)))
        assert await store.orders.expire(at=LATER) == 450
        assert await rows(store, "SELECT DISTINCT status FROM orders") == [("invalid",)]
        assert await rows(store, "SELECT DISTINCT status FROM authorizations") == [("expired",)]

    async def test_the_lease_is_asked_for(self, store: Store) -> None:
        """storage/leases.py, rule 2: who was stopped and woke up again finds that the duty is another's."""
        owner = await kept_account(store)
        await finished_order(store, owner)
        await expired(store, owner)
        lease = await store.leases.take("duties", over=None)
        assert lease is not None
        lost = Lease("duties", WRITER.instance, lease.fence - 1)
        with pytest.raises(StaleError):
            await store.retention.drop_orders(ended_before=LATER, lease=lost)
        with pytest.raises(StaleError):
            await store.retention.drop_authorizations(ended_before=LATER, after=START, lease=lost)
        with pytest.raises(StaleError):
            await store.retention.forget_certificates(expired_before=GONE, after=START, at=GONE, lease=lost)
        with pytest.raises(StaleError):
            await store.retention.advance(to=GONE, at_most=DAY, keep=DAY, lease=lost)
        assert await store.retention.drop_orders(ended_before=LATER, lease=lease) == 1


async def test_a_page_whose_cursor_went(store: Store) -> None:
    """A client that walks over its list goes on where it was, though the orders of the page before were deleted."""
    owner = await kept_account(store)
    made = [(await kept_order(store, owner, created_at=NOW + number * DAY))[0] for number in range(6)]
    first = await store.orders.page(owner.id, cursor=None, limit=3)
    for old in made[:3]:
        await change(store, "UPDATE orders SET status = 'invalid' WHERE id = $1", old.id)
    await drop(store)
    second = await store.orders.page(owner.id, cursor=first.cursor, limit=3)
    assert second.order_ids == tuple(item.id for item in made[3:])


async def test_beside_twenty_writers(store: Store) -> None:
    """Retention and requests at once: no request fails, nothing new goes, every reference holds."""
    owner = await kept_account(store)
    for _ in range(60):
        await kept_order(store, owner)
    old = to_seconds(NOW - DAY)
    await change(store, "UPDATE orders SET status = 'invalid', expires_at = $1", old)
    await change(store, "UPDATE authorizations SET status = 'expired', expires_at = $1", old)
    await asyncio.gather(*(expired(store, owner, not_after=NOW - number * DAY) for number in range(60)))
    fresh: list[Certificate] = []

    async def write() -> None:
        for _ in range(3):
            _, kept = await finished_order(store, owner)
            await revoke(store, kept)
            fresh.append(kept)

    async def prune() -> None:
        while not all(task.done() for task in writers):
            await drop(store, NOW)
            await forget(store, NOW + DAY)

    writers = [asyncio.create_task(write()) for _ in range(20)]
    await asyncio.gather(prune(), *writers)
    assert await rows(store, "SELECT status, COUNT(*) FROM orders GROUP BY status") == [("valid", 60)]
    assert await rows(store, "SELECT status, COUNT(*) FROM authorizations GROUP BY status") == [("valid", 60)]
    assert await ids(store, "certificates") == {item.id for item in fresh}
    assert {item.serial for item in await store.certificates.revoked_since(0)} == {item.serial for item in fresh}
    assert await store.certificates.last_revocation() == 60
    assert await is_sound(store)


_PRUNING = """
import asyncio, os, sys
from datetime import timedelta
from pathlib import Path
from acmeca.storage.retention import Position, Retention
from acmeca.storage.sqlite import SqliteDatabase
from tests.support.stored import NOW

async def prune():
    database = await SqliteDatabase.open(Path(sys.argv[1]))
    retention = Retention(database, writer="test")
    while True:
        deleted = await retention.drop_orders(ended_before=NOW + timedelta(days=9), lease=None)
        step = await retention.forget_certificates(
            expired_before=NOW + timedelta(days=900), after=Position(), at=NOW + timedelta(days=900), lease=None
        )
        os.write(1, f"{deleted} {step.deleted}\\n".encode())

asyncio.run(prune())
"""


async def test_killed_in_the_middle(tmp_path: Path) -> None:
    """Rule 1: a step is there whole or not at all, and the next process goes on."""
    path = tmp_path / "acmeca.db"
    async with open_database(path) as database:
        store = await filled(database)
    with start_python(_PRUNING, str(path)) as process:
        assert process.stdout is not None
        process.stdout.readline()  # somewhere in the second step
    async with open_database(path) as database:
        store = Store(database, writer=WRITER)
        ((left, whole),) = await rows(
            store,
            "SELECT COUNT(*), SUM((SELECT COUNT(*) FROM order_authorizations a WHERE a.order_id = orders.id)) FROM orders",
        )
        assert left in range(0, 200, 25)
        assert whole in {left, None}
        assert await is_sound(store)
        await drop(store, NOW + 9 * DAY)
        await forget(store, NOW + 900 * DAY, at=NOW + 900 * DAY)
        assert await ids(store, "orders") == await ids(store, "certificates") == set()
        assert await is_sound(store)


async def filled(database: SqliteDatabase) -> Store:
    """Two hundred orders with a certificate each, all over."""
    store = Store(database, writer=WRITER)
    await store.issuers.create([stored_root(), stored_issuer()], [], actor="admin:test", at=NOW)
    owner = await kept_account(store)

    async def fill() -> None:
        made, _ = await kept_order(store, owner)
        kept = certificate(owner)
        await store.issuance.record(kept, thumbprint=kept.id, at=NOW)
        await change(store, "UPDATE certificates SET order_id = $1 WHERE id = $2", made.id, kept.id)

    await asyncio.gather(*(fill() for _ in range(200)))
    await change(store, "UPDATE orders SET status = 'valid'")
    await change(store, "UPDATE authorizations SET status = 'expired'")
    return store


# --- whatever is deleted ------------------------------------------------------------------------------------------


class Twins:
    """Two stores to which the same happens, but that only in the first one anything is ever deleted."""

    def __init__(self, stores: tuple[Store, Store], owners: tuple[Account, Account]) -> None:
        self.stores = stores
        self.owners = owners
        self.now = NOW
        self.made: list[Certificate] = []
        self.number = self.highest = 0

    async def issue(self, days: int, *, is_own: bool = False) -> None:
        kept = certificate(not_after=self.now + days * DAY)
        for store, owner in zip(self.stores, self.owners, strict=True):
            its = replace(kept, account_id=None if is_own else owner.id)
            await store.issuance.record(its, thumbprint=kept.id, at=self.now)
            await store.issuance.complete(its, b"signature", sha256="00", at=self.now)
        self.made.append(kept)

    async def issue_own(self, days: int) -> None:
        await self.issue(days, is_own=True)

    async def revoke(self, which: int) -> None:
        if self.made:
            chosen = self.made[which % len(self.made)]
            known = await self.stores[0].certificates.by_serial(chosen.serial)
            if known is not None and known.revoked_at is None:
                for store in self.stores:
                    await revoke(store, chosen, at=self.now)

    async def publish(self, _: int) -> None:
        (crl, listed), (other, other_listed) = [await publish(store, self.now) for store in self.stores]
        assert listed == other_listed
        assert crl.number == other.number > self.number
        assert crl.through_sequence == other.through_sequence == self.highest
        self.number = crl.number

    async def prune(self, days: int) -> None:
        await forget(self.stores[0], self.now - days * DAY, at=self.now)

    async def wait(self, days: int) -> None:
        """Time goes by, and every other time retention comes round."""
        self.now += days * DAY
        if days % 2:
            await self.prune(0)

    async def revoke_all(self, _: int) -> None:
        for which in range(len(self.made)):
            await self.revoke(which)

    async def compare(self) -> None:
        sequences = [await store.certificates.last_revocation() for store in self.stores]
        assert sequences[0] == sequences[1] >= self.highest
        self.highest = sequences[0]
        for kept in self.made:
            seen, due = [await store.certificates.status_of("issuer", kept.serial) for store in self.stores]
            assert seen == due or (seen is None and kept.not_after < self.now)
        pending = [await store.crls.pending_revocations("issuer") for store in self.stores]
        assert pending[0] == pending[1]


_ACTIONS = st.one_of(
    st.tuples(st.just(Twins.issue), st.integers(1, 5)),
    st.tuples(st.just(Twins.issue_own), st.integers(1, 5)),
    st.tuples(st.just(Twins.revoke), st.integers(0, 9)),
    st.tuples(st.just(Twins.revoke_all), st.just(0)),
    st.tuples(st.just(Twins.publish), st.just(0)),
    st.tuples(st.just(Twins.prune), st.integers(0, 1)),
    st.tuples(st.just(Twins.wait), st.integers(1, 5)),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(_ACTIONS, min_size=15, max_size=30))
def test_nobody_sees_a_difference(actions: list[tuple[Callable[[Twins, int], Awaitable[None]], int]]) -> None:
    """Whatever is deleted, and when: OCSP and CRLs tell the same of every unexpired certificate, entries stay for as long as
    §3.3 asks, and numbers never go back."""

    async def run() -> None:
        async with open_store() as store, open_store() as whole:
            twins = Twins((store, whole), (await kept_account(store), await kept_account(whole)))
            for days in (1, 2, 3):
                await twins.issue(days)
            for act, value in actions:
                await act(twins, value)
                await twins.compare()
            assert await is_sound(store)

    asyncio.run(run())
