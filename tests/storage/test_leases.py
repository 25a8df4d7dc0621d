"""acmeca.storage.leases: one holder, a fence that rises, and nothing done under a lease that was lost."""

import asyncio
from datetime import timedelta

import pytest

from acmeca.storage.crls import CrlDraft
from acmeca.storage.errors import StaleError
from acmeca.storage.leases import Lease, Leases, require_lease
from acmeca.storage.store import Store
from tests.support.stored import NOW, rows

DUTY = "duties"


@pytest.fixture
async def held(store: Store) -> Lease:
    lease = await store.leases.take(DUTY, over=None)
    assert lease is not None
    return lease


async def begin(store: Store, lease: Lease | None) -> CrlDraft:
    return await store.crls.begin("issuer", this_update=NOW, next_update=NOW + timedelta(days=1), lease=lease)


async def take_over(store: Store, lease: Lease, instance: str = "another") -> Lease:
    taken = await Leases(store.database, instance=instance).take(lease.name, over=lease)
    assert taken is not None
    return taken


async def test_a_duty_that_nobody_had(store: Store) -> None:
    assert await store.leases.current(DUTY) is None


async def test_one_of_twenty_gets_it(store: Store) -> None:
    takers = [Leases(store.database, instance=f"i{number}") for number in range(20)]
    taken = [lease for lease in await asyncio.gather(*(taker.take(DUTY, over=None) for taker in takers)) if lease]
    assert len(taken) == 1
    assert taken[0].fence == 1
    assert await store.leases.current(DUTY) == taken[0]


async def test_one_of_twenty_takes_it_over(store: Store, held: Lease) -> None:
    takers = [Leases(store.database, instance=f"i{number}") for number in range(20)]
    taken = [lease for lease in await asyncio.gather(*(taker.take(DUTY, over=held) for taker in takers)) if lease]
    assert len(taken) == 1
    assert taken[0].fence == held.fence + 1
    assert await store.leases.current(DUTY) == taken[0]


async def test_the_fence_rises_with_each_change_of_hands(store: Store, held: Lease) -> None:
    """Rule 2; also when it comes back to who had it before."""
    lease = held
    for instance in ("b", "a", "b", held.instance):
        lease = await take_over(store, lease, instance)
    assert (lease.instance, lease.fence) == (held.instance, held.fence + 4)
    with pytest.raises(StaleError):  # the same instance, but another time
        await store.database.write(lambda tx: require_lease(tx, held))
    await store.database.write(lambda tx: require_lease(tx, lease))


@pytest.mark.parametrize("over", [None, Lease(DUTY, "nobody", 1), Lease(DUTY, "instance", 7)])
async def test_it_is_taken_only_as_it_was_seen(store: Store, held: Lease, over: Lease | None) -> None:
    assert await store.leases.take(DUTY, over=over) is None
    assert await store.leases.current(DUTY) == held


async def test_duties_do_not_meet(store: Store, held: Lease) -> None:
    other = await store.leases.take("another", over=None)
    assert other is not None
    await take_over(store, other)
    await store.database.write(lambda tx: require_lease(tx, held))


async def test_what_needs_no_lease_may_always_be_done(store: Store) -> None:
    await store.database.write(lambda tx: require_lease(tx, None))


class TestCrls:
    async def test_under_the_lease(self, store: Store, held: Lease) -> None:
        draft = await begin(store, held)
        assert (await store.crls.publish(draft, b"der", at=NOW, lease=held)).number == draft.number

    async def test_none_is_begun_under_a_lost_one(self, store: Store, held: Lease) -> None:
        """No number is taken, and nothing is in the audit."""
        taken = await take_over(store, held)
        before = await rows(store, "SELECT * FROM crls"), await rows(store, "SELECT * FROM audit")
        with pytest.raises(StaleError, match="another process's now"):
            await begin(store, held)
        assert (await rows(store, "SELECT * FROM crls"), await rows(store, "SELECT * FROM audit")) == before
        await begin(store, taken)

    async def test_none_is_published_under_a_lost_one(self, store: Store, held: Lease) -> None:
        """A leader that was stopped while it signed, and wakes up: what it signed is seen by nobody."""
        draft = await begin(store, held)
        taken = await take_over(store, held)
        with pytest.raises(StaleError):
            await store.crls.publish(draft, b"late", at=NOW, lease=held)
        assert await store.crls.latest("issuer") is None
        newer = await begin(store, taken)
        assert newer.number > draft.number
        await store.crls.publish(newer, b"der", at=NOW, lease=taken)
        with pytest.raises(StaleError):
            await store.crls.publish(draft, b"late", at=NOW, lease=held)
        latest = await store.crls.latest("issuer")
        assert latest is not None
        assert (latest.number, latest.der) == (newer.number, b"der")
