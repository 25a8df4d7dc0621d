"""What operators set, which certificates it is about, and what has replaced them (storage/renewals.py, storage/replacements.py)."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest

from acmeca.acme.objects import Account
from acmeca.acme.problem import Problem, ProblemType
from acmeca.acme.renewal import CertificateId
from acmeca.acme.states import OrderStatus
from acmeca.errors import Conflict, NotFound
from acmeca.policy.renewals import Override, Selection
from acmeca.storage import audit, renewals
from acmeca.storage.certificates import Certificate
from acmeca.storage.errors import AlreadyReplacedError, StaleError
from acmeca.storage.orders import close_order
from acmeca.storage.renewals import Census, Progress
from acmeca.storage.replacements import is_replaced
from acmeca.storage.store import Store
from tests.support.databases import UnreliableDatabase
from tests.support.stored import (
    NOW,
    change,
    identifier,
    issued_certificate,
    kept_account,
    kept_order,
    override,
    ready_order,
    rows,
)

LATER = NOW + timedelta(hours=1)
DAY = timedelta(days=1)


async def replaced_by(store: Store, made: Certificate) -> str | None:
    found = await store.renewals.by_serial(made.serial)
    assert found is not None
    return found.replaced_by


async def replace(store: Store, owner: Account, old: Certificate, *names: str, **changes: Any) -> Certificate:
    """The whole way of a replacement."""
    order, _ = await ready_order(store, owner, *(names or old.names), replaces=identifier(old), **changes)
    return await issued_certificate(store, owner=owner, for_order=order, names=names or old.names, recorded_at=LATER)


class TestReplacement:
    async def test_the_certificate_says_what_took_its_place(self, store: Store) -> None:
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        new = await replace(store, owner, old)
        assert await replaced_by(store, old) == new.id
        assert await replaced_by(store, new) is None
        assert await store.renewals.serial_of(new.id) == new.serial
        assert await store.renewals.serial_of("nothing") is None

    async def test_it_outlives_the_order(self, store: Store) -> None:
        """Rule 3: retention deletes orders, and that must not make it replaceable again."""
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        await replace(store, owner, old)
        assert await store.retention.drop_orders(ended_before=NOW + 100 * DAY, lease=None) == 1
        assert await rows(store, "SELECT id FROM orders") == []
        with pytest.raises(AlreadyReplacedError):
            await kept_order(store, owner, replaces=identifier(old))

    async def test_one_order_at_a_time(self, store: Store) -> None:
        """RFC 9773 §5: not "already … marked as replaced by a different order". Nothing is kept of the second one."""
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        await kept_order(store, owner, replaces=identifier(old))
        before = await rows(store, "SELECT id FROM authorizations")
        with pytest.raises(AlreadyReplacedError):
            await kept_order(store, owner, replaces=identifier(old))
        assert await rows(store, "SELECT id FROM authorizations") == before

    async def test_fifty_at_once(self, store: Store) -> None:
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        outcomes = await asyncio.gather(
            *(kept_order(store, owner, replaces=identifier(old)) for _ in range(50)), return_exceptions=True
        )
        assert sum(isinstance(outcome, AlreadyReplacedError) for outcome in outcomes) == 49
        assert sum(isinstance(outcome, tuple) for outcome in outcomes) == 1
        assert await rows(store, "SELECT COUNT(*) FROM orders") == [(1,)]

    @pytest.mark.parametrize("status", ["pending", "ready", "processing"])
    async def test_an_order_that_fails_frees_it(self, store: Store, status: str) -> None:
        """§5: "by a different order that is not "invalid""."""
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        made, _ = await kept_order(store, owner, replaces=identifier(old))
        await change(store, "UPDATE orders SET status = $1", status)
        with pytest.raises(AlreadyReplacedError):
            await kept_order(store, owner, replaces=identifier(old))
        problem = Problem(ProblemType.SERVER_INTERNAL, "failed")
        await store.database.write(lambda tx: close_order(tx, made.id, OrderStatus(status), problem))
        await kept_order(store, owner, replaces=identifier(old))

    async def test_an_order_that_nobody_finished_frees_it(self, store: Store) -> None:
        """As soon as it is over, whether `expire` has written it down or not; one that is being signed does not."""
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        made, _ = await kept_order(store, owner, replaces=identifier(old))
        found = CertificateId.parse(identifier(old))
        assert await is_replaced(store.database, found, at=made.expires_at - timedelta(seconds=1))
        assert not await is_replaced(store.database, found, at=made.expires_at)
        await change(store, "UPDATE orders SET status = 'processing'")
        assert await is_replaced(store.database, found, at=made.expires_at)

    async def test_what_nobody_finished_is_invalid_from_then_on(self, store: Store) -> None:
        """Another process, whose clock is behind, cannot go on with it."""
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        made, _ = await ready_order(store, owner, replaces=identifier(old))
        told: list[int] = []
        store.orders.on_invalid = told.append
        await kept_order(store, owner, replaces=identifier(old), created_at=made.expires_at)
        assert await rows(store, "SELECT status FROM orders WHERE id = $1", made.id) == [("invalid",)]
        assert told == [1]
        with pytest.raises(StaleError):
            await issued_certificate(store, owner=owner, for_order=made)

    async def test_the_new_one_may_be_replaced_in_its_turn(self, store: Store) -> None:
        owner = await kept_account(store)
        first = await issued_certificate(store, owner=owner)
        second = await replace(store, owner, first)
        third = await replace(store, owner, second)
        assert await replaced_by(store, second) == third.id
        assert await replaced_by(store, first) == second.id

    async def test_a_record_that_is_signed_later(self, store: Store) -> None:
        """A process died between record and signature, and another one finishes: it is marked all the same."""
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        order, _ = await ready_order(store, owner, replaces=identifier(old))
        made = await issued_certificate(store, owner=owner, for_order=order)
        await change(store, "UPDATE certificates SET signature = NULL, replaced_by = NULL")
        await change(store, "UPDATE orders SET status = 'processing', certificate_id = NULL")
        (unfinished,) = await store.issuance.unfinished()
        await store.issuance.complete(unfinished.certificate, b"signature", sha256="00", at=NOW)
        assert await rows(store, "SELECT status, certificate_id FROM orders") == [("valid", made.id)]
        assert await rows(store, "SELECT replaced_by FROM certificates WHERE id = $1", old.id) == [(made.id,)]

    async def test_a_completion_that_comes_too_late_marks_nothing(self, store: Store) -> None:
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        order, _ = await ready_order(store, owner, replaces=identifier(old))
        made = await issued_certificate(store, owner=owner, for_order=order)
        await change(store, "UPDATE certificates SET signature = NULL, replaced_by = NULL WHERE id = $1", made.id)
        await change(store, "UPDATE certificates SET replaced_by = NULL")
        await change(store, "UPDATE orders SET status = 'invalid'")
        with pytest.raises(StaleError, match="processing no longer"):
            await store.issuance.complete(made, b"signature", sha256="00", at=NOW)
        assert await replaced_by(store, old) is None

    async def test_an_order_without_replaces_marks_nothing(self, store: Store) -> None:
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        order, _ = await ready_order(store, owner)
        await issued_certificate(store, owner=owner, for_order=order)
        assert await replaced_by(store, old) is None


class TestOverrides:
    async def test_kept_as_it_was_given(self, store: Store) -> None:
        made = override(selection=Selection(serials=frozenset({"02", "01"}), issued_before=NOW), explanation_url=None)
        await store.renewals.set(made, certificates=2, actor="admin:jo")
        assert await store.renewals.in_force() == [made]
        assert await store.renewals.by_id(made.id) == made
        ((actor, event),) = await rows(store, "SELECT actor, event FROM audit WHERE kind = 'renewal.set'")
        assert actor == "admin:jo"
        assert '"certificates":2' in event
        assert '"selection":{"issued_before":"2026-11-01T12:00:00Z","serials":["01","02"]}' in event
        assert await audit.verify(store.database) == []

    async def test_the_newest_first(self, store: Store) -> None:
        """Rule 3, also of those that were set in one second."""
        made = [override() for _ in range(5)]
        random.Random(1).shuffle(made)
        for item in made:
            await store.renewals.set(item, certificates=1, actor="admin:jo")
        assert await store.renewals.in_force() == made[::-1]

    async def test_what_is_cleared_is_in_force_no_longer(self, store: Store) -> None:
        one, other = override(), override()
        for item in (one, other):
            await store.renewals.set(item, certificates=1, actor="admin:jo")
        await store.renewals.clear(other.id, actor="admin:al", at=LATER)
        assert await store.renewals.in_force() == [one]
        assert [item.cleared_at for item in await store.renewals.all()] == [LATER, None]
        assert await rows(store, "SELECT actor, subject FROM audit WHERE kind = 'renewal.cleared'") == [
            ("admin:al", other.id)
        ]
        with pytest.raises(Conflict, match="was cleared before"):
            await store.renewals.clear(other.id, actor="admin:al", at=LATER)
        for lookup in (store.renewals.by_id("none"), store.renewals.clear("none", actor="admin:al", at=LATER)):
            with pytest.raises(NotFound, match="there is no window none"):
                await lookup

    async def test_no_more_than_can_be_looked_at(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(renewals, "MAX_IN_FORCE", 2)
        made = [override() for _ in range(3)]
        for item in made[:2]:
            await store.renewals.set(item, certificates=1, actor="admin:jo")
        with pytest.raises(Conflict, match="2 windows are in force, which is the most"):
            await store.renewals.set(made[2], certificates=1, actor="admin:jo")
        await store.renewals.clear(made[0].id, actor="admin:jo", at=NOW)
        await store.renewals.set(made[2], certificates=1, actor="admin:jo")

    @pytest.mark.parametrize("kept", [False, True])
    async def test_a_write_that_fails(self, store: Store, kept: bool) -> None:  # noqa: FBT001  (a test's parameter)
        unreliable = UnreliableDatabase(store.database)
        unreliable.fail_next(kept=kept)
        with pytest.raises(Exception, match="failed on demand"):
            await renewals.Renewals(unreliable, writer="test").set(override(), certificates=1, actor="admin:jo")
        assert len(await store.renewals.in_force()) == int(kept)
        assert len(await rows(store, "SELECT 1 FROM audit WHERE kind = 'renewal.set'")) == int(kept)


def found_by(item: Override, made: Certificate, grant_id: str | None) -> bool:
    """What `service/renewals.py` decides for one certificate."""
    facts = renewals.Renewable(
        serial=made.serial,
        issuer_id=made.issuer_id,
        profile=made.profile,
        account_id=made.account_id,
        grant_id=grant_id,
        spki_sha256=made.spki_sha256.hex(),
        recorded_at=made.recorded_at,
        not_after=made.not_after,
    )
    return item.fits(facts, now=NOW + DAY) and item.selection.fits_names(made.names)


class TestCensus:
    async def census(self, store: Store, selection: Selection, **changes: Any) -> Census:
        moments: dict[str, Any] = {"set_at": LATER, "until": LATER, "now": LATER}
        return await store.renewals.census(selection, **(moments | changes))

    async def test_both_readings_of_a_selection_agree(self, store: Store) -> None:
        """Rule 2 of policy/renewals.py: in SQL for all, and in Python for one."""
        chance = random.Random(9773)
        await change(
            store,
            "INSERT INTO grants (id, owner, terms, mac_sha256, single_use, status, created_at) VALUES"
            " ('grant', 'team', $1, $2, 0, 'active', 0)",
            '{"names":["*.test"],"networks":[],"profiles":[],"lifetime":null,"quota":null,"preauthorized":false}',
            bytes(32),
        )
        owners = [await kept_account(store, grant_id=grant_id) for grant_id in ("grant", None, None)]
        names = ["a.test", "b.a.test", "*.a.test", "xa.test", "c.b.a.test", "10.0.0.1"]
        keys = [bytes([number]) * 32 for number in range(3)]
        made: list[tuple[Certificate, str | None]] = []
        for _ in range(60):
            owner = chance.choice(owners)
            kept = await issued_certificate(
                store,
                owner=owner,
                names=tuple(sorted(chance.sample(names, chance.randint(1, 3)))),
                profile=chance.choice(["server", "client"]),
                spki_sha256=chance.choice(keys),
                recorded_at=NOW + timedelta(minutes=chance.randint(0, 60)),
                not_after=NOW + timedelta(days=chance.randint(1, 5)),
            )
            made.append((kept, owner.grant_id))

        def sometimes(*values: Any) -> Any:
            return chance.choice([None, None, None, *values])

        sizes = set()
        for _ in range(150):
            some = frozenset(item.serial for item, _ in chance.sample(made, 30))
            selection = Selection(
                serials=chance.choice([frozenset(), frozenset(), some]),
                name=sometimes("a.test", "*.a.test", "*.b.a.test", "10.0.0.1", "*.test"),
                issuer_id=sometimes("issuer"),
                profile=sometimes("server"),
                account_id=sometimes(owners[1].id),
                grant_id=sometimes("grant"),
                spki_sha256=sometimes(keys[0].hex()),
                issued_after=sometimes(NOW + timedelta(minutes=20)),
                issued_before=sometimes(NOW + timedelta(minutes=40)),
                expires_before=sometimes(NOW + timedelta(days=3)),
            )
            set_at = NOW + timedelta(minutes=chance.randint(0, 60))
            item = override(selection=selection, set_at=set_at)
            expected = sorted(kept.serial for kept, grant_id in made if found_by(item, kept, grant_id))
            census = await self.census(store, selection, set_at=set_at, now=NOW)
            assert census.certificates == len(expected), selection
            found = [
                serial
                for state in Progress
                for serial in await store.renewals.serials(
                    selection, state, set_at=set_at, now=NOW, after="", limit=100
                )
            ]
            assert sorted(found) == expected, selection
            sizes.add(len(expected))
        assert len(sizes) > 10

    async def test_how_far_it_has_come(self, store: Store) -> None:
        owner, other = await kept_account(store), await kept_account(store)
        made = [await issued_certificate(store, owner=owner, names=(f"{n}.test", "shared.test")) for n in range(5)]
        await issued_certificate(store)  # the server's own
        await issued_certificate(store, owner=owner, not_after=NOW)  # expired
        everything = Selection()
        assert await self.census(store, everything) == Census(
            certificates=5, revoked=0, replaced=0, renewed=0, ending=0
        )

        new = await replace(store, owner, made[0])
        await issued_certificate(store, owner=owner, names=made[1].names, recorded_at=LATER)
        # Neither of these says anything of made[2]: other names, fewer, more, another account.
        for names, account in (
            (("2.test", "other.test"), owner),
            (("2.test",), owner),
            (("2.test", "shared.test", "x.test"), owner),
            (made[2].names, other),
        ):
            await issued_certificate(store, owner=account, names=names, recorded_at=LATER)
        await store.certificates.revoke(
            made[3], reason=4, may_raise=False, thumbprint="t", actor="admin:jo", how="administrator", at=NOW
        )
        assert await self.census(store, everything, set_at=NOW) == Census(
            certificates=5, revoked=1, replaced=1, renewed=1, ending=0
        )
        shown = {
            state: await store.renewals.serials(everything, state, set_at=NOW, now=LATER, after="", limit=10)
            for state in Progress
        }
        assert shown == {
            Progress.REPLACED: [made[0].serial],
            Progress.RENEWED: [made[1].serial],
            Progress.LEFT: sorted([made[2].serial, made[4].serial]),
        }
        assert all(new.serial not in serials for serials in shown.values()), "what replaces is not to be replaced"

    async def test_a_newer_one_that_was_revoked_is_no_renewal(self, store: Store) -> None:
        owner = await kept_account(store)
        old = await issued_certificate(store, owner=owner)
        new = await issued_certificate(store, owner=owner, recorded_at=LATER)
        assert (await self.census(store, Selection(serials=frozenset({old.serial})))).renewed == 1
        await store.certificates.revoke(
            new, reason=4, may_raise=False, thumbprint="t", actor="admin:jo", how="administrator", at=NOW
        )
        assert (await self.census(store, Selection(serials=frozenset({old.serial})))).renewed == 0

    async def test_those_that_end_before_the_window_does(self, store: Store) -> None:
        owner = await kept_account(store)
        for days in (1, 2, 90):
            await issued_certificate(store, owner=owner, names=(f"{days}.test",), not_after=NOW + days * DAY)
        census = await self.census(store, Selection(), until=NOW + 2 * DAY)
        assert (census.left, census.ending) == (3, 1)

    async def test_a_page_at_a_time(self, store: Store) -> None:
        owner = await kept_account(store)
        made = sorted([(await issued_certificate(store, owner=owner, names=(f"{n}.test",))).serial for n in range(5)])
        after, found = "", []
        while page := await store.renewals.serials(
            Selection(), Progress.LEFT, set_at=LATER, now=LATER, after=after, limit=2
        ):
            found += page
            after = page[-1]
        assert found == made

    async def test_an_unsigned_one_is_no_certificate(self, store: Store) -> None:
        owner = await kept_account(store)
        made = await issued_certificate(store, owner=owner)
        await change(store, "UPDATE certificates SET signature = NULL")
        assert await store.renewals.by_serial(made.serial) is None
        assert (await self.census(store, Selection())).certificates == 0
