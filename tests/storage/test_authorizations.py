"""Authorizations as the ground of orders: never another account's, another identifier's, one that ended, or one that ends too soon."""

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Account, Authorization, ChallengeType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.states import AuthorizationStatus, OrderStatus
from acmeca.storage.errors import StaleError
from acmeca.storage.retention import Position
from acmeca.storage.store import Store
from tests.support.stored import (
    NOW,
    authorization,
    certificate,
    change,
    kept_account,
    kept_order,
    open_store,
    order,
    ready_order,
    rows,
)

HTTP_01 = ChallengeType.HTTP_01
VALID = AuthorizationStatus.VALID
PROBLEM = Problem(ProblemType.CONNECTION, "nobody listens")


def name(text: str) -> Identifier:
    return Identifier(IdentifierType.DNS, text)


async def valid_one(store: Store, owner: Account, text: str = "a.example.org", **changes: Any) -> Authorization:
    made = authorization(owner, text, status=VALID, **changes)
    await store.authorizations.create(made, at=NOW)
    return made


async def rest_on(store: Store, owner: Account, *grounds: Authorization, **changes: Any) -> None:
    """A new order with these authorizations, none of them new."""
    await store.orders.create(order(owner, *grounds, **changes), ())


class TestValid:
    async def test_of_the_account_and_the_names(self, store: Store) -> None:
        owner, other = await kept_account(store), await kept_account(store)
        wanted = [
            await valid_one(store, owner, "a.example.org"),
            await valid_one(store, owner, "a.example.org", wildcard=True),
            await valid_one(store, owner, "b.example.org", expires_at=NOW + timedelta(seconds=1)),
        ]
        await valid_one(store, owner, "b.example.org", wildcard=True)
        await valid_one(store, owner, "c.example.org", wildcard=True)
        await valid_one(store, other, "a.example.org")
        await valid_one(store, owner, "c.example.org")
        await valid_one(store, owner, "a.example.org", expires_at=NOW)
        for status in set(AuthorizationStatus) - {VALID}:
            await store.authorizations.create(authorization(owner, "a.example.org", status=status), at=NOW)
        asked = [name("a.example.org"), name("b.example.org"), name("*.a.example.org"), name("d.example.org")]
        found = await store.authorizations.valid(owner.id, asked, at=NOW)
        assert sorted(item.id for item in found) == sorted(item.id for item in wanted)
        assert all(item in wanted for item in found)

    async def test_a_hundred_names(self, store: Store) -> None:
        owner = await kept_account(store)
        made = [await valid_one(store, owner, f"n{number}.example.org") for number in range(0, 100, 10)]
        asked = [name(f"n{number}.example.org") for number in range(100)]
        found = await store.authorizations.valid(owner.id, asked, at=NOW)
        assert sorted(item.id for item in found) == sorted(item.id for item in made)

    async def test_some_of_very_many_for_one_name(self, store: Store) -> None:
        """Each order reads them, and the process does nothing else meanwhile: thousands would take seconds."""
        owner = await kept_account(store)
        ends = [NOW + timedelta(minutes=minutes) for minutes in range(1, 21)]
        for expires_at in ends[::2] + ends[1::2]:
            await valid_one(store, owner, "a.example.org", expires_at=expires_at)
        other = await valid_one(store, owner, "b.example.org", expires_at=ends[0])
        found = await store.authorizations.valid(owner.id, [name("a.example.org")], at=NOW)
        assert sorted(item.expires_at for item in found) == ends[-4:]
        found = await store.authorizations.valid(owner.id, [name("a.example.org"), name("b.example.org")], at=NOW)
        assert sorted(item.expires_at for item in found) == sorted([*ends[-4:], other.expires_at])

    async def test_for_a_valid_account_only(self, store: Store) -> None:
        owner = await kept_account(store)
        await store.accounts.deactivate(owner.id, at=NOW)
        with pytest.raises(StaleError):
            await valid_one(store, owner)
        assert await rows(store, "SELECT COUNT(*) FROM authorizations") == [(0,)]


class TestGrounds:
    async def test_one_for_several_orders(self, store: Store) -> None:
        owner = await kept_account(store)
        ground = await valid_one(store, owner)
        for _ in range(3):
            await rest_on(store, owner, ground, status=OrderStatus.READY)
        assert await rows(
            store, "SELECT COUNT(*) FROM order_authorizations WHERE authorization_id = $1", ground.id
        ) == [(3,)]

    async def test_beside_new_ones(self, store: Store) -> None:
        owner = await kept_account(store)
        old, new = await valid_one(store, owner, "b.example.org"), authorization(owner, "a.example.org")
        made = order(owner, new, old)
        await store.orders.create(made, (new,))
        assert await store.orders.by_id(owner.id, made.id) == made
        begun = await store.orders.begin_validation(new, HTTP_01, at=NOW)
        await store.orders.record_outcome(begun, HTTP_01, problem=None, evidence="seen", at=NOW)
        kept = await store.orders.by_id(owner.id, made.id)
        assert kept is not None
        assert kept.status is OrderStatus.READY

    @pytest.mark.parametrize(
        "changes",
        [
            {"identifiers": (name("b.example.org"),)},
            {"identifiers": (name("*.a.example.org"),)},
            {"identifiers": (name("x.a.example.org"),)},
            {"identifiers": (Identifier(IdentifierType.IP, "a.example.org"),)},
            {"expires_at": NOW + timedelta(days=1, seconds=1)},
            {"authorization_ids": ("nothing",)},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    async def test_no_ground(self, store: Store, changes: dict[str, Any]) -> None:
        """RULES §3: "only for the same account and identifier"; and no order outlives what it rests on."""
        owner = await kept_account(store)
        ground = await valid_one(store, owner)
        with pytest.raises(StaleError):
            await rest_on(store, owner, ground, **changes)
        assert await rows(store, "SELECT COUNT(*) FROM orders") == [(0,)]
        await rest_on(store, owner, ground)

    async def test_a_base_name_is_no_wildcards_ground(self, store: Store) -> None:
        owner = await kept_account(store)
        ground = await valid_one(store, owner, wildcard=True)
        with pytest.raises(StaleError):
            await rest_on(store, owner, ground)  # an order for the base name
        await rest_on(store, owner, ground, identifiers=(name("*.a.example.org"),))

    @pytest.mark.parametrize("status", sorted(set(AuthorizationStatus) - {VALID}))
    async def test_not_valid(self, store: Store, status: AuthorizationStatus) -> None:
        owner = await kept_account(store)
        ground = await valid_one(store, owner)
        await change(store, "UPDATE authorizations SET status = $1 WHERE id = $2", status.value, ground.id)
        with pytest.raises(StaleError):
            await rest_on(store, owner, ground)

    async def test_another_accounts(self, store: Store) -> None:
        owner, other = await kept_account(store), await kept_account(store)
        ground = await valid_one(store, other)
        with pytest.raises(StaleError):
            await rest_on(store, owner, dataclasses.replace(ground, account_id=owner.id))

    async def test_whole_or_not_at_all(self, store: Store) -> None:
        """The last of its grounds is none: nothing of the order stays, its new authorizations neither."""
        owner = await kept_account(store)
        good, gone = await valid_one(store, owner, "a.example.org"), authorization(owner, "b.example.org")
        new = authorization(owner, "c.example.org")
        with pytest.raises(StaleError):
            await store.orders.create(order(owner, new, good, gone), (new,))
        assert await rows(store, "SELECT COUNT(*) FROM orders") == [(0,)]
        assert await rows(store, "SELECT id FROM authorizations") == [(good.id,)]


class TestMoves:
    async def test_the_expiry_of_what_becomes_valid(self, store: Store) -> None:
        """§7.5.1: the server "may modify the "expires" field" then; what fails keeps it."""
        owner = await kept_account(store)
        _, parts = await kept_order(store, owner, "a.example.org", "b.example.org")
        later = NOW + timedelta(days=30)
        for part, problem, expires_at in zip(parts, (None, PROBLEM), (later, NOW + timedelta(days=1)), strict=True):
            begun = await store.orders.begin_validation(part, HTTP_01, at=NOW)
            judged = await store.orders.record_outcome(
                begun, HTTP_01, problem=problem, evidence="", at=NOW, expires_at=later
            )
            assert judged.expires_at == expires_at
            assert await store.orders.authorization(owner.id, part.id) == judged

    async def test_given_up(self, store: Store) -> None:
        """Every open order that rests on it is invalid, no other one, and none that is finished."""
        owner = await kept_account(store)
        first, (ground,) = await ready_order(store, owner)
        second, beside = order(owner, ground), order(owner, ground)
        other, _ = await ready_order(store, owner)
        for made in (second, beside):
            await store.orders.create(dataclasses.replace(made, status=OrderStatus.READY), ())
        await store.issuance.record(certificate(owner, first), thumbprint="key", at=NOW)
        await store.orders.deactivate_authorization(ground, at=NOW)
        found = dict(await rows(store, "SELECT id, status FROM orders"))
        assert found == {first.id: "processing", second.id: "invalid", beside.id: "invalid", other.id: "ready"}

    async def test_given_up_while_orders_are_made(self, store: Store) -> None:
        """An order was there before and is invalid, or it was not made."""
        owner = await kept_account(store)
        _, (ground,) = await ready_order(store, owner)
        results = await asyncio.gather(
            *(rest_on(store, owner, ground, status=OrderStatus.READY) for _ in range(20)),
            store.orders.deactivate_authorization(ground, at=NOW),
            *(rest_on(store, owner, ground, status=OrderStatus.READY) for _ in range(20)),
            return_exceptions=True,
        )
        refused = sum(isinstance(result, StaleError) for result in results)
        assert await rows(store, "SELECT status, COUNT(*) FROM orders GROUP BY status") == [("invalid", 41 - refused)]

    async def test_retention(self, store: Store) -> None:
        """Rule 3 of storage/retention.py: it goes when the last order that refers to it is gone."""
        owner = await kept_account(store)
        _, (ground,) = await ready_order(store, owner)
        await rest_on(store, owner, ground, status=OrderStatus.READY, expires_at=NOW + timedelta(hours=12))
        end = NOW + timedelta(days=2)
        await store.orders.expire(at=end)
        await change(
            store,
            "UPDATE orders SET expires_at = $1 WHERE expires_at = $2",
            *(int((NOW + timedelta(hours=hours)).timestamp()) for hours in (60, 24)),
        )
        for ended_before, left in ((NOW + timedelta(hours=13), 1), (NOW + timedelta(hours=61), 0)):
            assert await store.retention.drop_orders(ended_before=ended_before, lease=None) == 1
            await store.retention.drop_authorizations(ended_before=end, after=Position(), lease=None)
            assert await rows(store, "SELECT COUNT(*) FROM authorizations") == [(left,)]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int, bool]]:
    acts = st.sampled_from(["order", "order", "show", "give up", "expire"])
    return draw(st.lists(st.tuples(acts, st.integers(0, 1), st.integers(0, 2), st.booleans()), max_size=25))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories())
def test_whatever_is_tried(history: list[tuple[str, int, int, bool]]) -> None:
    """Orders that try every authorization there is for every place: what is kept is always the owner's, for that identifier."""

    async def work() -> None:
        async with open_store() as store:
            owners = [await kept_account(store) for _ in range(2)]
            made: list[Authorization] = []
            for act, who, which, wildcard in history:
                identifier = name(f"{'*.' if wildcard else ''}n{which}.example.org")
                if act == "show":
                    made.append(await valid_one(store, owners[who], identifier.base.value, wildcard=wildcard))
                elif act == "order":
                    for ground in made:
                        tried = order(owners[who], ground, identifiers=(identifier,), status=OrderStatus.READY)
                        try:
                            await store.orders.create(tried, ())
                        except StaleError:
                            continue
                elif made:
                    ground = made.pop(which % len(made))
                    if act == "give up":
                        await store.orders.deactivate_authorization(ground, at=NOW)
                    else:
                        await change(store, "UPDATE authorizations SET status = 'expired' WHERE id = $1", ground.id)
            wrong = await rows(
                store,
                "SELECT o.id FROM orders o LEFT JOIN order_authorizations oa ON oa.order_id = o.id"
                " LEFT JOIN authorizations a ON a.id = oa.authorization_id AND a.account_id = o.account_id"
                " AND o.identifiers = '[[\"dns\", \"' || CASE a.wildcard WHEN 1 THEN '*.' ELSE '' END || a.identifier_value || '\"]]'"
                " WHERE a.id IS NULL",
            )
            assert wrong == []
            untrue = await rows(
                store,
                "SELECT o.id FROM orders o JOIN order_authorizations oa ON oa.order_id = o.id"
                " JOIN authorizations a ON a.id = oa.authorization_id WHERE o.status = 'ready' AND a.status = 'deactivated'",
            )
            assert untrue == []

    asyncio.run(work())
