"""Orders and authorizations: every move by compare-and-swap, the illegal ones as thoroughly as the legal (§7.1.6)."""

import asyncio
import dataclasses
import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Authorization, Challenge, ChallengeType, Order
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus, IllegalMoveError, OrderStatus
from acmeca.storage import audit, authorizations
from acmeca.storage.errors import StaleError
from acmeca.storage.orders import close_order
from acmeca.storage.store import Store
from tests.support.stored import (
    NOW,
    authorization,
    change,
    kept_account,
    kept_order,
    order,
    ready_order,
    rows,
)

HTTP_01 = ChallengeType.HTTP_01
TLS_ALPN_01 = ChallengeType.TLS_ALPN_01
PROBLEM = Problem(ProblemType.CONNECTION, "nobody listens")
TABLES = ("orders", "authorizations", "order_authorizations", "validation_jobs", "audit")


async def everything(store: Store) -> list[list[tuple[object, ...]]]:
    return [await rows(store, f"SELECT * FROM {table}") for table in TABLES]


async def status_of(store: Store, item: Order | Authorization) -> str:
    table = "orders" if isinstance(item, Order) else "authorizations"
    ((status,),) = await rows(store, f"SELECT status FROM {table} WHERE id = $1", item.id)
    return str(status)


class TestReading:
    async def test_kept_as_they_were_given(self, store: Store) -> None:
        owner = await kept_account(store)
        parts = (
            authorization(owner, "b.example.org"),
            authorization(owner, "a.example.org", wildcard=True),
            dataclasses.replace(authorization(owner), identifier=Identifier(IdentifierType.IP, "fd00::1")),
        )
        made = order(owner, *parts)
        await store.orders.create(made, parts)
        assert await store.orders.by_id(owner.id, made.id) == made
        for part in parts:
            assert await store.orders.authorization(owner.id, part.id) == part

    async def test_another_account(self, store: Store) -> None:
        """Rule 3 of storage/orders.py: "what belongs to another account does not exist"."""
        owner, other = await kept_account(store), await kept_account(store)
        made, parts = await kept_order(store, owner)
        assert await store.orders.by_id(other.id, made.id) is None
        assert await store.orders.authorization(other.id, parts[0].id) is None
        assert await store.orders.by_id(owner.id, "nothing") is None
        assert await store.orders.authorization(owner.id, "nothing") is None

    async def test_pages(self, store: Store) -> None:
        """§7.1.2.1: oldest first, invalid ones left out, a cursor to the next page."""
        owner, other = await kept_account(store), await kept_account(store)
        made = []
        for number in range(7):
            one, _ = await kept_order(store, owner, created_at=NOW + timedelta(seconds=number // 3))
            made.append(one)
        theirs, _ = await kept_order(store, other)
        await change(store, "UPDATE orders SET status = 'invalid' WHERE id = $1", made[2].id)
        wanted = [
            item.id for item in sorted(made, key=lambda item: (item.created_at, item.id)) if item.id != made[2].id
        ]
        seen: list[str] = []
        cursor = None
        for _ in range(3):
            page = await store.orders.page(owner.id, cursor=cursor, limit=2)
            seen += page.order_ids
            cursor = page.cursor
        assert seen == wanted
        assert cursor is None
        for foreign in (theirs.id, "nothing", "'"):
            assert (await store.orders.page(owner.id, cursor=foreign, limit=2)).order_ids == ()


class TestCreating:
    @pytest.mark.parametrize("status", ["deactivated", "revoked"])
    async def test_for_a_valid_account_only(self, store: Store, status: str) -> None:
        owner = await kept_account(store)
        await change(store, "UPDATE accounts SET status = $1 WHERE id = $2", status, owner.id)
        before = await everything(store)
        with pytest.raises(StaleError):
            await kept_order(store, owner)
        assert await everything(store) == before

    async def test_whole_or_not_at_all(self, store: Store) -> None:
        owner = await kept_account(store)
        _, parts = await kept_order(store, owner)
        before = await everything(store)
        with pytest.raises(Exception, match="exists already"):
            await store.orders.create(order(owner, *parts), (authorization(owner), parts[0]))
        assert await everything(store) == before


class TestValidation:
    async def test_begun(self, store: Store) -> None:
        owner = await kept_account(store)
        made, (part,) = await kept_order(store, owner)
        begun = await store.orders.begin_validation(part, HTTP_01, at=NOW)
        assert begun.status is AuthorizationStatus.PENDING
        assert begun.challenges[0].status is ChallengeStatus.PROCESSING
        assert await store.orders.authorization(owner.id, part.id) == begun
        (job,) = await store.orders.validation_jobs()
        assert (job.authorization, job.challenge) == (begun, begun.challenges[0])
        assert await status_of(store, made) == "pending"

    async def test_begun_once(self, store: Store) -> None:
        """Of many who begin at once, one does."""
        owner = await kept_account(store)
        _, (part,) = await kept_order(store, owner)
        outcomes = await asyncio.gather(
            *(store.orders.begin_validation(part, HTTP_01, at=NOW) for _ in range(10)), return_exceptions=True
        )
        assert sum(isinstance(outcome, StaleError) for outcome in outcomes) == 9
        assert await rows(store, "SELECT COUNT(*) FROM validation_jobs") == [(1,)]

    async def test_one_challenge_of_several(self, store: Store) -> None:
        """Of fifty who begin one or the other challenge of an authorization, one does; nobody else's is begun behind it."""
        owner = await kept_account(store)
        two = tuple(Challenge(type_, f"token-{type_}", ChallengeStatus.PENDING) for type_ in (HTTP_01, TLS_ALPN_01))
        part = authorization(owner, challenges=two)
        await store.orders.create(order(owner, part), [part])
        outcomes = await asyncio.gather(
            *(
                store.orders.begin_validation(part, two[number % 2].type, at=NOW + timedelta(seconds=number))
                for number in range(50)
            ),
            return_exceptions=True,
        )
        (begun,) = [outcome for outcome in outcomes if isinstance(outcome, Authorization)]
        assert sum(isinstance(outcome, StaleError) for outcome in outcomes) == 49
        (job,) = await store.orders.validation_jobs()
        assert job.authorization == begun
        assert job.challenge.status is ChallengeStatus.PROCESSING
        (other,) = [challenge for challenge in begun.challenges if challenge.status is ChallengeStatus.PENDING]
        with pytest.raises(StaleError, match="another challenge"):
            await store.orders.begin_validation(begun, other.type, at=NOW)

    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(
            st.builds(
                Challenge,
                type=st.sampled_from(ChallengeType),
                token=st.from_regex(r"[A-Za-z0-9_-]{1,43}", fullmatch=True),
                status=st.sampled_from(ChallengeStatus),
                validated_at=st.sampled_from([None, NOW]),
                error=st.none() | st.dictionaries(st.text(), st.text()),
            )
        )
    )
    def test_challenges_are_kept_as_json(self, challenges: list[Challenge]) -> None:
        """What is put together by hand is what the library would write, and is read back as it was."""
        text = authorizations.dump_challenges(challenges)
        assert json.dumps(json.loads(text), separators=(",", ":")) == text
        assert authorizations._load_challenges(text) == tuple(challenges)

    async def test_valid(self, store: Store) -> None:
        owner = await kept_account(store)
        made, (one, two) = await kept_order(store, owner, "a.example.org", "b.example.org")
        for part, status in ((one, "pending"), (two, "ready")):
            begun = await store.orders.begin_validation(part, HTTP_01, at=NOW)
            valid = await store.orders.record_outcome(begun, HTTP_01, problem=None, evidence="seen", at=NOW)
            assert valid.status is AuthorizationStatus.VALID
            assert valid.challenges[0].validated_at == NOW
            assert await status_of(store, made) == status
        assert await store.orders.validation_jobs() == []
        assert await rows(store, "SELECT COUNT(*) FROM audit WHERE kind = 'authorization.validated'") == [(2,)]

    async def test_invalid(self, store: Store) -> None:
        owner = await kept_account(store)
        made, (one, two) = await kept_order(store, owner, "a.example.org", "b.example.org")
        begun = await store.orders.begin_validation(one, HTTP_01, at=NOW)
        invalid = await store.orders.record_outcome(begun, HTTP_01, problem=PROBLEM, evidence="no", at=NOW)
        assert invalid.status is AuthorizationStatus.INVALID
        assert invalid.challenges[0].error == PROBLEM.to_json()
        kept = await store.orders.by_id(owner.id, made.id)
        assert kept is not None
        assert (kept.status, kept.error) == (OrderStatus.INVALID, PROBLEM.to_json())
        assert await status_of(store, two) == "pending"

    @pytest.mark.parametrize("status", ["valid", "invalid", "deactivated", "expired", "revoked"])
    async def test_an_outcome_that_comes_too_late(self, store: Store, status: str) -> None:
        """The authorization moved meanwhile: nothing changes, whatever was found."""
        owner = await kept_account(store)
        _, (part,) = await kept_order(store, owner)
        begun = await store.orders.begin_validation(part, HTTP_01, at=NOW)
        await change(store, "UPDATE authorizations SET status = $1 WHERE id = $2", status, part.id)
        before = await everything(store)
        for problem in (None, PROBLEM):
            with pytest.raises(StaleError):
                await store.orders.record_outcome(begun, HTTP_01, problem=problem, evidence="", at=NOW)
        assert await everything(store) == before

    async def test_moves_that_no_diagram_draws(self, store: Store) -> None:
        """A bug cannot reach the database: the tables of acme/states.py are asked first."""
        owner = await kept_account(store)
        _, (part,) = await kept_order(store, owner)
        before = await everything(store)
        with pytest.raises(IllegalMoveError):  # pending → valid, without processing between
            await store.orders.record_outcome(part, HTTP_01, problem=None, evidence="", at=NOW)
        for status in AuthorizationStatus:
            moved = dataclasses.replace(part, status=status)
            if status in {AuthorizationStatus.PENDING, AuthorizationStatus.VALID}:
                continue
            with pytest.raises(IllegalMoveError):
                await store.orders.deactivate_authorization(moved, at=NOW)
        assert await everything(store) == before

    async def test_a_challenge_that_is_not_offered(self, store: Store) -> None:
        owner = await kept_account(store)
        _, (part,) = await kept_order(store, owner)
        bare = dataclasses.replace(part, challenges=())
        with pytest.raises(StaleError, match="no http-01"):
            await store.orders.begin_validation(bare, HTTP_01, at=NOW)

    async def test_jobs_in_order(self, store: Store) -> None:
        owner = await kept_account(store)
        parts = []
        for number in (3, 1, 2):
            _, (part,) = await kept_order(store, owner)
            parts.append((number, await store.orders.begin_validation(part, HTTP_01, at=NOW + timedelta(hours=number))))
        jobs = await store.orders.validation_jobs()
        assert [job.authorization for job in jobs] == [part for _, part in sorted(parts, key=lambda pair: pair[0])]
        await store.orders.drop_validation_job(jobs[0].authorization.id)
        assert len(await store.orders.validation_jobs()) == 2


class TestDeactivating:
    @pytest.mark.parametrize("validated", [True, False])
    async def test_orders_that_wait_for_it(self, store: Store, *, validated: bool) -> None:
        owner = await kept_account(store)
        make = ready_order if validated else kept_order
        made, parts = await make(store, owner, "a.example.org", "b.example.org")
        other, _ = await make(store, owner, "a.example.org")
        gone = await store.orders.deactivate_authorization(parts[1], at=NOW)
        assert gone.status is AuthorizationStatus.DEACTIVATED
        assert await status_of(store, made) == "invalid"
        assert await status_of(store, other) == ("ready" if validated else "pending")
        assert await status_of(store, parts[0]) == ("valid" if validated else "pending")

    @pytest.mark.parametrize("status", ["processing", "valid"])
    async def test_orders_beyond_it(self, store: Store, status: str) -> None:
        owner = await kept_account(store)
        made, parts = await ready_order(store, owner)
        await change(store, "UPDATE orders SET status = $1 WHERE id = $2", status, made.id)
        await store.orders.deactivate_authorization(parts[0], at=NOW)
        assert await status_of(store, made) == status

    async def test_stale(self, store: Store) -> None:
        owner = await kept_account(store)
        _, (part,) = await kept_order(store, owner)
        await store.orders.begin_validation(part, HTTP_01, at=NOW)
        with pytest.raises(StaleError):
            await store.orders.deactivate_authorization(part, at=NOW)
        assert await status_of(store, part) == "pending"


class TestExpiring:
    @pytest.mark.parametrize("status", list(OrderStatus))
    async def test_orders(self, store: Store, status: OrderStatus) -> None:
        """§7.1.6: pending and ready orders expire; processing, valid and invalid ones do not change by time."""
        owner = await kept_account(store)
        made, _ = await kept_order(store, owner)
        await change(store, "UPDATE orders SET status = $1 WHERE id = $2", status.value, made.id)
        assert await store.orders.expire(at=NOW + timedelta(days=1, seconds=-1)) == 0
        closed = await store.orders.expire(at=NOW + timedelta(days=1))
        is_open = status in {OrderStatus.PENDING, OrderStatus.READY}
        assert closed == (1 if is_open else 0)
        assert await status_of(store, made) == ("invalid" if is_open else status.value)

    @pytest.mark.parametrize("status", list(AuthorizationStatus))
    async def test_authorizations(self, store: Store, status: AuthorizationStatus) -> None:
        owner = await kept_account(store)
        _, (part,) = await kept_order(store, owner)
        await change(store, "UPDATE authorizations SET status = $1 WHERE id = $2", status.value, part.id)
        await store.orders.expire(at=NOW + timedelta(days=1))
        is_open = status in {AuthorizationStatus.PENDING, AuthorizationStatus.VALID}
        assert await status_of(store, part) == ("expired" if is_open else status.value)


@pytest.mark.parametrize("status", list(OrderStatus))
async def test_close_order(store: Store, status: OrderStatus) -> None:
    """An order is failed from the state it is believed to be in, or not at all."""
    owner = await kept_account(store)
    made, _ = await kept_order(store, owner)
    await change(store, "UPDATE orders SET status = $1 WHERE id = $2", status.value, made.id)

    async def close(old: OrderStatus) -> None:
        await store.database.write(lambda tx: close_order(tx, made.id, old, PROBLEM))

    if status is not OrderStatus.PROCESSING:
        with pytest.raises(StaleError):
            await close(OrderStatus.PROCESSING)
        assert await status_of(store, made) == status.value
    if status in {OrderStatus.VALID, OrderStatus.INVALID}:
        with pytest.raises(IllegalMoveError):
            await close(status)
    else:
        await close(status)
        assert await status_of(store, made) == "invalid"


async def test_a_refusal_is_written_down(store: Store) -> None:
    owner = await kept_account(store)
    await store.orders.record_refusal(owner.id, {"evil.example": "not allowed"}, at=NOW)
    ((event,),) = await rows(store, "SELECT event FROM audit WHERE kind = 'order.refused'")
    assert '"evil.example":"not allowed"' in event
    assert await audit.verify(store.database) == []


async def test_the_authorizations_of_an_order(store: Store) -> None:
    """In the order of its identifiers, whatever became of each; and of no other order."""
    owner = await kept_account(store)
    made, parts = await ready_order(store, owner, "c.example.org", "a.example.org", "b.example.org")
    await kept_order(store, owner, "a.example.org")
    assert await store.authorizations.of_order(made.id) == list(parts)
    assert await store.authorizations.of_order("no order") == []
