"""Retention as a duty: in pauses, under its lease, never faster than a clock that leapt can be noticed."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from acmeca.policy.limits import Limit, Rate, Taking
from acmeca.service import jobs
from acmeca.service import retention as duty
from acmeca.service.ambient import Ambient
from acmeca.service.retention import Retention
from acmeca.storage.leases import Lease
from acmeca.storage.limits import take
from acmeca.storage.store import Store
from tests.support.server import Clock, running_ca, until
from tests.support.status_client import response_status
from tests.support.stored import NOW, certificate, change, kept_account, kept_order, open_store, rows

DAY = timedelta(days=1)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store() as store:
        yield store


class Pauses(list[float]):
    """Notes every pause, and waits for none."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


def retention(store: Store, clock: Clock, pauses: Pauses, *, certificates: timedelta | None = None) -> Retention:
    ambient = Ambient(clock=clock, entropy=bytes)
    return Retention(store, orders=30 * DAY, certificates=certificates, ambient=ambient, pause=pauses)


async def count(store: Store, table: str) -> int:
    return int((await rows(store, f"SELECT COUNT(*) FROM {table}"))[0][0])


async def ended_orders(store: Store, number: int) -> None:
    owner = await kept_account(store)
    await asyncio.gather(*(kept_order(store, owner) for _ in range(number)))
    await store.orders.expire(at=NOW + DAY)


async def certificates(store: Store, number: int) -> None:
    """One a day, the first one just expired."""
    owner = await kept_account(store)
    for day in range(number):
        kept = certificate(owner, not_after=NOW + day * DAY)
        await store.issuance.record(kept, thumbprint=kept.id, at=NOW)


async def test_orders_stay_for_as_long_as_configured(store: Store) -> None:
    await ended_orders(store, 250)
    clock, pauses = Clock(NOW + 31 * DAY), Pauses()
    kept = retention(store, clock, pauses)
    assert await kept.drop_orders(lease=None) == 0
    clock.advance(seconds=1)
    assert await kept.drop_orders(lease=None) == 250
    assert (await count(store, "orders"), await count(store, "authorizations")) == (0, 0)


async def test_limits_that_are_whole_go(store: Store) -> None:
    clock, pauses = Clock(NOW), Pauses()
    taking = Taking(Limit.NEW_ORDERS_PER_ACCOUNT, "a", Rate(10, 60))
    takings = [replace(taking, subject=str(number)) for number in range(120)]
    await store.database.write(lambda tx: take(tx, takings, at=NOW))
    await retention(store, clock, pauses).drop_limits(lease=None)
    assert (await count(store, "limits"), len(pauses)) == (120, 1)
    clock.advance(minutes=2)
    await retention(store, clock, pauses).drop_limits(lease=Lease("duties", "another", 1))
    assert await count(store, "limits") == 120
    await retention(store, clock, pauses).drop_limits(lease=None)
    assert (await count(store, "limits"), len(pauses)) == (0, 1 + 3)


async def test_a_pause_after_every_step(store: Store) -> None:
    await ended_orders(store, 250)
    pauses = Pauses()
    await retention(store, Clock(NOW + 40 * DAY), pauses).drop_orders(lease=None)
    assert len(pauses) == 11 + 5  # steps of 25 orders and 50 authorizations; that there are no more is a step, too
    assert min(pauses) >= 0.02


async def test_the_pause_is_nine_times_the_step(store: Store) -> None:
    """Rule 1: the writer is free for nine tenths of the time, however slow the disk is."""
    pauses = Pauses()
    await retention(store, Clock(NOW), pauses)._step(asyncio.sleep(0.03))
    assert pauses[0] >= 9 * 0.029


async def test_certificates_are_kept_for_ever_unless_configured(store: Store) -> None:
    await certificates(store, 1)
    assert await retention(store, Clock(NOW + 5000 * DAY), Pauses()).forget_certificates(lease=None) == 0
    assert await count(store, "certificates") == 1


async def test_a_day_of_expiries_a_call(store: Store) -> None:
    """Rule 2: in a day's steps, oldest first, also where there is much to catch up with."""
    await certificates(store, 4)
    clock = Clock(NOW + 100 * DAY)
    kept = retention(store, clock, Pauses(), certificates=30 * DAY)
    gone = [await kept.forget_certificates(lease=None) for _ in range(36)]
    assert gone == [0] * 30 + [1] * 4 + [0] * 2


async def test_a_clock_that_leaps(store: Store) -> None:
    """Rule 2: as many calls as days are kept go by before anything is lost that would not have been."""
    await certificates(store, 4)
    clock = Clock(NOW + 20 * DAY)
    kept = retention(store, clock, Pauses(), certificates=30 * DAY)
    await kept.forget_certificates(lease=None)
    clock.advance(days=36500)
    for _ in range(24):
        assert await kept.forget_certificates(lease=None) == 0
    clock.advance(days=-36500)
    assert await kept.forget_certificates(lease=None) == 0
    assert await count(store, "certificates") == 4


async def test_a_lost_lease_ends_it_quietly(store: Store) -> None:
    await ended_orders(store, 3)
    await certificates(store, 1)
    lost = Lease("duties", "somebody", 7)
    kept = retention(store, Clock(NOW + 400 * DAY), Pauses(), certificates=30 * DAY)
    assert await kept.drop_orders(lease=lost) == await kept.forget_certificates(lease=lost) == 0
    assert (await count(store, "orders"), await count(store, "certificates")) == (3, 1)


async def test_the_server_does_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """From order to unknown serial on a real CA: the order goes, its certificate stays at its URL, and goes when it is over."""
    for name in ("_RETENTION_SECONDS", "_FORGETTING_SECONDS", "_RENEWAL_SECONDS"):
        monkeypatch.setattr(jobs, name, 0.01)
    monkeypatch.setattr(duty, "_AT_ONCE", 200 * DAY)
    async with running_ca(retention={"certificates": "30d"}) as ca:
        client, party = await ca.client(), ca.relying_party()
        issued = await client.issue("a.localhost")

        async def is_gone(table: str) -> bool:
            return await ca.scalar(f"SELECT COUNT(*) AS n FROM {table} WHERE account_id IS NOT NULL") == 0

        async def is_answering() -> bool:
            return response_status(await party.post(party.request(issued.serial))) == "SUCCESSFUL"

        ca.clock.advance(days=32)
        await until(lambda: is_gone("orders"), what="the end of the order")
        assert (await client.post(issued.order.url)).status == 404
        assert (await client.post(issued.order.certificate)).ok()
        await until(is_answering, what="a new responder")
        assert await party.status(issued.serial) == "GOOD"
        ca.clock.advance(days=90)
        await until(lambda: is_gone("certificates"), what="the end of the certificate")
        assert (await client.post(issued.order.certificate)).status == 404
        await until(is_answering, what="a new responder")
        assert await party.status(issued.serial) == "UNKNOWN"
        assert await ca.scalar("SELECT COUNT(*) AS n FROM audit WHERE kind = 'certificates.forgotten'") == 1


async def test_only_who_leads_does_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_RETENTION_SECONDS", 0.01)
    async with running_ca() as ca:
        client = await ca.client()
        await client.issue("a.localhost")
        ca.opened.jobs._leadership._lease = None
        ca.clock.advance(days=40)
        await asyncio.sleep(0.1)
        assert await ca.scalar("SELECT COUNT(*) AS n FROM orders") == 1


async def test_what_points_to_nothing_new(store: Store) -> None:
    """An order in the middle of its end is left alone: a processing one has no end."""
    await ended_orders(store, 1)
    await change(store, "UPDATE orders SET status = 'processing'")
    assert await retention(store, Clock(NOW + 400 * DAY), Pauses()).drop_orders(lease=None) == 0
