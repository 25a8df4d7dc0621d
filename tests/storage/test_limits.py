"""The table `limits`: exact whatever races, in the transaction of what is limited (the rules of storage/limits.py)."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.policy.limits import Limit, Rate, Taking
from acmeca.storage import audit
from acmeca.storage.database import Transaction
from acmeca.storage.errors import StaleError
from acmeca.storage.leases import Lease
from acmeca.storage.limits import LimitReachedError, count, require_room, take
from acmeca.storage.store import Store
from tests.support.stored import NOW, change, rows

RATE = Rate(10, 3600)
HOUR = timedelta(hours=1)
LIMIT = Taking(Limit.NEW_ORDERS_PER_ACCOUNT, "a", RATE)
OTHER = Taking(Limit.NEW_ORDERS_PER_ACCOUNT, "b", RATE)


def named(name: str, **changes: int) -> Taking:
    identifier = Identifier(IdentifierType.DNS, name)
    return replace(Taking(Limit.CERTIFICATES_PER_NAME, "", RATE, identifier=identifier), **changes)


async def taken(store: Store, *takings: Taking, at: datetime = NOW) -> None:
    await store.database.write(lambda tx: take(tx, takings, at=at))


async def used(store: Store, taking: Taking, at: datetime = NOW) -> int:
    return await store.limits.used(taking, at=at)


async def test_fifty_at_once(store: Store) -> None:
    """Rule 1: exactly ten of fifty, and each of the others is told when there is room."""
    outcomes = await asyncio.gather(*(taken(store, LIMIT) for _ in range(50)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert len(refused) == 40
    for error in refused:
        assert isinstance(error, LimitReachedError)
        (reached,) = error.reached
        assert reached.taking == LIMIT
        assert NOW + HOUR < reached.free_at <= NOW + HOUR + timedelta(minutes=1)
    assert await used(store, LIMIT) == 10
    assert await used(store, OTHER) == 0


async def test_what_was_not_done_took_nothing(store: Store) -> None:
    """Rule 1: the body fails after it took."""

    async def body(tx: Transaction) -> None:
        await take(tx, [LIMIT], at=NOW)
        raise StaleError("something else was in the way")

    with pytest.raises(StaleError):
        await store.database.write(body)
    assert await used(store, LIMIT) == 0


async def test_all_or_none(store: Store) -> None:
    """Rule 2, and §6.6: the wait is told for each, so that the caller can name the longest."""
    await taken(store, named("full.internal", count=10))
    await taken(store, named("fuller.internal", count=10), at=NOW + HOUR / 2)
    wanted = (LIMIT, named("full.internal"), named("fuller.internal"), named("free.internal"))
    with pytest.raises(LimitReachedError) as caught:
        await taken(store, *wanted, at=NOW + HOUR / 2)
    assert [str(item.taking.identifier) for item in caught.value.reached] == ["full.internal", "fuller.internal"]
    assert caught.value.reached[0].free_at < caught.value.reached[1].free_at
    for taking in (LIMIT, named("free.internal")):
        assert await used(store, taking) == 0
    await taken(store, *wanted, at=NOW + 2 * HOUR)
    assert await used(store, LIMIT, NOW + 2 * HOUR) == 1


async def test_one_limit_twice(store: Store) -> None:
    """An order for a name and its wildcard may ask for one limit twice."""
    await taken(store, *[LIMIT] * 6)
    assert await used(store, LIMIT) == 6
    with pytest.raises(LimitReachedError):
        await taken(store, *[LIMIT] * 5)
    assert await used(store, LIMIT) == 6


async def test_only_asked(store: Store) -> None:
    asked = replace(LIMIT, count=0)
    await taken(store, asked)
    assert await rows(store, "SELECT * FROM limits") == []
    await taken(store, replace(LIMIT, count=9))
    await taken(store, asked)
    await taken(store, LIMIT)
    with pytest.raises(LimitReachedError):
        await taken(store, asked)


async def test_nothing_asked_costs_nothing(store: Store) -> None:
    await taken(store)
    assert await rows(store, "SELECT * FROM limits") == []


async def test_what_has_happened_counts_in_any_case(store: Store) -> None:
    for _ in range(12):
        await store.database.write(lambda tx: count(tx, LIMIT, at=NOW))
    assert await used(store, LIMIT) == 12
    with pytest.raises(LimitReachedError):
        await taken(store, LIMIT)


async def test_room_besides_what_is_under_way(store: Store) -> None:
    await taken(store, replace(LIMIT, count=7))
    await store.database.write(lambda tx: require_room(tx, LIMIT, besides=2, at=NOW))
    with pytest.raises(LimitReachedError) as caught:
        await store.database.write(lambda tx: require_room(tx, LIMIT, besides=3, at=NOW))
    assert caught.value.reached[0].free_at <= NOW + timedelta(seconds=10), "what is under way may end well"
    await taken(store, replace(LIMIT, count=3))
    with pytest.raises(LimitReachedError) as caught:
        await store.database.write(lambda tx: require_room(tx, LIMIT, besides=3, at=NOW))
    assert caught.value.reached[0].free_at > NOW + HOUR
    assert await used(store, LIMIT) == 10, "it takes nothing"


async def test_what_is_used_up(store: Store) -> None:
    await taken(store, replace(LIMIT, count=10), replace(OTHER, count=2))
    await taken(store, replace(named("x.internal"), rate=Rate(3, 60)))
    full, third, fifth = await store.limits.usages(at=NOW)
    assert (full.name, full.used, full.rate) == (LIMIT.key, 10, RATE)
    assert full.free_at is not None
    assert full.whole_at == full.free_at
    assert (third.name, third.used, third.free_at) == ("certificates_per_name:x.internal", 1, None)
    assert (fifth.name, fifth.used) == (OTHER.key, 2)
    assert [usage.name for usage in await store.limits.usages(at=NOW + HOUR / 2)] == [LIMIT.key, OTHER.key]
    assert await store.limits.usages(at=NOW + 2 * HOUR) == []


async def test_reset(store: Store) -> None:
    await taken(store, replace(LIMIT, count=10), OTHER)
    assert await store.limits.reset(LIMIT.key, actor="admin:root", at=NOW)
    assert await used(store, LIMIT) == 0
    assert await used(store, OTHER) == 1
    assert not await store.limits.reset(LIMIT.key, actor="admin:root", at=NOW)
    assert await rows(store, "SELECT kind, actor, subject FROM audit WHERE kind LIKE 'limit.%'") == [
        ("limit.reset", "admin:root", LIMIT.key)
    ]
    assert await audit.verify(store.database) == []


async def test_whole_limits_are_deleted_a_few_at_a_time(store: Store) -> None:
    """Rule 7 of storage/retention.py: what is whole goes, what is not stays."""
    await taken(store, *(named(f"{number}.internal") for number in range(150)))
    await taken(store, LIMIT, at=NOW + HOUR / 2)
    later = NOW + HOUR + timedelta(minutes=1)
    assert await store.retention.drop_limits(at=NOW + HOUR / 2, lease=None) == 0
    assert await store.retention.drop_limits(at=later, lease=None) == 100
    assert await store.retention.drop_limits(at=later, lease=None) == 50
    assert await store.retention.drop_limits(at=later, lease=None) == 0
    assert await rows(store, "SELECT name FROM limits") == [(LIMIT.key,)]
    with pytest.raises(StaleError):
        await store.retention.drop_limits(at=later, lease=Lease("duties", "another", 1))


async def test_a_row_is_bounded(store: Store) -> None:
    wide = replace(LIMIT, rate=Rate(20_000, 3600))
    for second in range(0, 4000, 7):
        await taken(store, wide, at=NOW + timedelta(seconds=second))
    ((length,),) = await rows(store, "SELECT LENGTH(uses) FROM limits")
    assert length < 1100


async def test_a_changed_rate_counts_what_was_used(store: Store) -> None:
    await taken(store, replace(LIMIT, count=10))
    await change(store, "UPDATE limits SET rate = '3/1d'")  # nothing is read from it to decide
    with pytest.raises(LimitReachedError):
        await taken(store, LIMIT)
    await taken(store, replace(LIMIT, rate=Rate(11, 3600)))
    with pytest.raises(LimitReachedError):
        await taken(store, replace(LIMIT, rate=Rate(11, 86_400)), at=NOW + 3 * HOUR)
