"""The table `grants`: what is kept, that a grant which has ended stops its accounts in every statement, single use."""

import asyncio
import dataclasses
import ipaddress
from datetime import datetime, timedelta
from typing import Any

import pytest

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Account, Challenge, ChallengeType
from acmeca.acme.states import AccountStatus, AuthorizationStatus, ChallengeStatus, OrderStatus
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.grants import Grant, GrantStatus
from acmeca.policy.limits import parse_rate
from acmeca.storage import audit
from acmeca.storage.certificates import Search
from acmeca.storage.errors import GrantRefusedError, NotUniqueError, StaleError
from acmeca.storage.store import Store
from tests.support.stored import (
    NOW,
    account,
    authorization,
    certificate,
    change,
    issued_certificate,
    kept_account,
    kept_grant,
    kept_order,
    order,
    ready_order,
    rows,
    stored_grant,
)

LATER = NOW + timedelta(days=1)
SPKI = bytes(32)


async def standing(store: Store, owner: Account, now: datetime = NOW) -> str | None:
    found = await store.accounts.standing(owner.id)
    assert found is not None
    return found.grant_obstacle(now)


class TestKept:
    async def test_as_it_was_given(self, store: Store) -> None:
        made = stored_grant(
            names=("*.a.internal",),
            networks=(ipaddress.ip_network("10.1.0.0/16"),),
            profiles=("short",),
            lifetime=timedelta(days=30),
            quota=parse_rate("500/week"),
            single_use=True,
            preauthorized=True,
            expires_at=LATER,
        )
        await store.grants.create(made, actor="admin:test", at=NOW, fits=lambda newest: not newest)
        assert await store.grants.by_id(made.grant.id) == made
        assert await store.grants.newest() == [made]
        with pytest.raises(NotUniqueError):
            await store.grants.create(made, actor="admin:test", at=NOW, fits=bool)

    async def test_absent(self, store: Store) -> None:
        assert await store.grants.by_id("nobody") is None
        assert await store.grants.newest() == []
        assert await store.grants.used("nobody") is None
        assert await store.grants.all_used(limit=9) == []
        assert await store.grants.active() == []

    async def test_only_beside_one_that_fits(self, store: Store) -> None:
        """Of two servers with secrets of their own one makes the first grant."""
        first, second = stored_grant(mac_sha256=b"1" * 32), stored_grant(mac_sha256=b"2" * 32)
        outcomes = await asyncio.gather(
            *(
                store.grants.create(
                    item,
                    actor="admin:test",
                    at=NOW,
                    fits=lambda newest, own=item: all(other.mac_sha256 == own.mac_sha256 for other in newest),
                )
                for item in (first, second)
            ),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), StaleError]
        assert [item.grant.id for item in await store.grants.active()] == [first.grant.id]

    async def test_listed_with_what_it_was_used_for(self, store: Store) -> None:
        older = await kept_grant(store, created_at=NOW - timedelta(days=1))
        newer = await kept_grant(store, owner="team-b")
        assert [item.grant for item in await store.grants.newest()] == [newer]
        one, two = await kept_account(store, grant_id=older.id), await kept_account(store, grant_id=older.id)
        await kept_account(store)
        made, _ = await ready_order(store, one)
        issued = await issued_certificate(store, owner=one, for_order=made)
        await store.issuance.record(certificate(two), thumbprint="unsigned", at=NOW)
        listed = await store.grants.all_used(limit=9)
        assert [(item.stored.grant.id, item.accounts, item.certificates) for item in listed] == [
            (newer.id, 0, 0),
            (older.id, 2, 1),
        ]
        assert await store.grants.all_used(limit=1) == listed[:1]
        assert await store.grants.all_used(owner="team-a", limit=9) == listed[1:]
        assert await store.grants.used(older.id) == listed[1]
        accounts = await store.grants.accounts(older.id, limit=9)
        assert {item.id: (item.status, item.certificates) for item in accounts} == {
            one.id: (AccountStatus.VALID, 1),
            two.id: (AccountStatus.VALID, 0),
        }
        found = await store.certificates.search(Search(grant_id=older.id), now=NOW)
        assert issued.id in {item.id for item in found}
        assert {item.account_id for item in found} == {one.id, two.id}
        assert await store.certificates.search(Search(grant_id=newer.id), now=NOW) == []

    async def test_of_an_account(self, store: Store) -> None:
        grant = await kept_grant(store)
        assert await store.grants.of_account((await kept_account(store, grant_id=grant.id)).id) == grant
        assert await store.grants.of_account((await kept_account(store)).id) is None
        assert await store.grants.of_account("nobody") is None

    async def test_audit(self, store: Store) -> None:
        """Every change has its record, with what a person asks about: whose it is, what it allows, until when."""
        grant = await kept_grant(store, names=("*.a.internal",), quota=parse_rate("500/week"))
        await store.grants.disable(grant.id, actor="admin:eve", at=NOW)
        await store.grants.enable(grant.id, expires_at=LATER, actor="admin:eve", at=NOW)
        found = await rows(store, "SELECT kind, actor, event FROM audit WHERE subject = $1 ORDER BY sequence", grant.id)
        assert [row[:2] for row in found] == [
            ("grant.created", "admin:test"),
            ("grant.disabled", "admin:eve"),
            ("grant.enabled", "admin:eve"),
        ]
        assert '"names":["*.a.internal"]' in found[0][2]
        assert '"quota":"500/7d"' in found[0][2]
        assert await audit.verify(store.database) == []


class TestAccounts:
    async def test_bound_for_good(self, store: Store) -> None:
        grant = await kept_grant(store)
        made = await kept_account(store, grant_id=grant.id, terms_of_service="https://t")
        assert (await store.accounts.by_id(made.id)) == made
        assert (made.grant_id, made.terms_of_service) == (grant.id, "https://t")

    async def test_fifty_for_one_single_use(self, store: Store) -> None:
        """RULES §2: "Single-use credentials are spent in the same transaction that inserts the account"."""
        grant = await kept_grant(store, single_use=True)
        outcomes = await asyncio.gather(
            *(store.accounts.create(account(grant_id=grant.id), spki_sha256=SPKI) for _ in range(50)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, Account) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, GrantRefusedError) for outcome in outcomes) == 49
        assert await rows(store, "SELECT COUNT(*) FROM accounts") == [(1,)]

    async def test_fifty_with_one_key_for_one_single_use(self, store: Store) -> None:
        """All have the account: it is theirs."""
        grant = await kept_grant(store, single_use=True)
        kept = await asyncio.gather(
            *(store.accounts.create(account(grant_id=grant.id, thumbprint="same"), spki_sha256=SPKI) for _ in range(50))
        )
        assert len({item.id for item in kept}) == 1

    async def test_used_up_for_good(self, store: Store) -> None:
        """Its account's end gives the use not back."""
        grant = await kept_grant(store, single_use=True)
        made = await kept_account(store, grant_id=grant.id)
        await store.accounts.deactivate(made.id, at=NOW)
        with pytest.raises(GrantRefusedError, match="for one account"):
            await kept_account(store, grant_id=grant.id)

    async def test_a_grant_that_has_ended_makes_none(self, store: Store) -> None:
        grant = await kept_grant(store, expires_at=LATER)
        await kept_account(store, grant_id=grant.id, created_at=LATER - timedelta(seconds=1))
        with pytest.raises(GrantRefusedError, match="ended"):
            await kept_account(store, grant_id=grant.id, created_at=LATER)
        await store.grants.disable(grant.id, actor="admin:test", at=NOW)
        with pytest.raises(GrantRefusedError, match="disabled"):
            await kept_account(store, grant_id=grant.id)
        with pytest.raises(GrantRefusedError):
            await kept_account(store, grant_id="nothing")

    async def test_disabling_races_with_new_accounts(self, store: Store) -> None:
        """Whoever comes first: nobody has an account that was made after the answer to the disabling."""
        grant = await kept_grant(store)
        tasks = [store.accounts.create(account(grant_id=grant.id), spki_sha256=SPKI) for _ in range(10)]
        await asyncio.gather(*tasks, store.grants.disable(grant.id, actor="admin:test", at=NOW), return_exceptions=True)
        with pytest.raises(GrantRefusedError):
            await kept_account(store, grant_id=grant.id)


class TestStanding:
    async def test_disabled_and_enabled(self, store: Store) -> None:
        grant = await kept_grant(store)
        mine, other = await kept_account(store, grant_id=grant.id), await kept_account(store)
        assert await standing(store, mine) is None
        await store.grants.disable(grant.id, actor="admin:test", at=NOW)
        assert "disabled" in str(await standing(store, mine))
        assert await standing(store, other) is None
        with pytest.raises(StaleError):
            await store.grants.disable(grant.id, actor="admin:test", at=NOW)
        await store.grants.enable(grant.id, expires_at=None, actor="admin:test", at=NOW)
        assert await standing(store, mine) is None
        for nothing in (
            store.grants.disable("nothing", actor="admin:test", at=NOW),
            store.grants.enable("nothing", expires_at=None, actor="admin:test", at=NOW),
        ):
            with pytest.raises(StaleError):
                await nothing

    async def test_over_and_prolonged(self, store: Store) -> None:
        grant = await kept_grant(store, expires_at=LATER)
        mine = await kept_account(store, grant_id=grant.id)
        assert await standing(store, mine, LATER - timedelta(seconds=1)) is None
        assert "ended" in str(await standing(store, mine, LATER))
        await store.grants.enable(grant.id, expires_at=LATER + timedelta(days=1), actor="admin:test", at=NOW)
        assert await standing(store, mine, LATER) is None

    async def test_lost(self, store: Store) -> None:
        """Fail closed: a restore may bring an account back without its grant."""
        mine = await kept_account(store)
        await change(store, "UPDATE accounts SET grant_id = 'gone' WHERE id = $1", mine.id)
        assert "lost" in str(await standing(store, mine))


class TestWhatAccountsDo:
    """Rule 1, statement by statement."""

    @pytest.fixture
    async def grant(self, store: Store) -> Grant:
        return await kept_grant(store, expires_at=LATER)

    @pytest.fixture
    async def mine(self, store: Store, grant: Grant) -> Account:
        return await kept_account(store, grant_id=grant.id)

    @pytest.fixture(params=["disabled", "over", "lost"])
    async def end(self, request: pytest.FixtureRequest, grant: Grant, mine: Account) -> Any:
        """Ends the grant; returns the moment that it is."""

        async def end(store: Store) -> datetime:
            match request.param:
                case "disabled":
                    await store.grants.disable(grant.id, actor="admin:test", at=NOW)
                case "lost":
                    await change(store, "UPDATE accounts SET grant_id = 'gone' WHERE id = $1", mine.id)
                case _:
                    return LATER
            return NOW

        return end

    async def test_no_order(self, store: Store, mine: Account, end: Any) -> None:
        await kept_order(store, mine, created_at=NOW)
        at = await end(store)
        before = await rows(store, "SELECT COUNT(*) FROM orders")
        with pytest.raises(StaleError):
            await kept_order(store, mine, created_at=at)
        assert await rows(store, "SELECT COUNT(*) FROM orders") == before

    async def test_no_authorization(self, store: Store, mine: Account, end: Any) -> None:
        await store.authorizations.create(authorization(mine), at=NOW)
        at = await end(store)
        with pytest.raises(StaleError):
            await store.authorizations.create(authorization(mine), at=at)

    async def test_no_certificate(self, store: Store, mine: Account, end: Any) -> None:
        made, _ = await ready_order(store, mine, expires_at=LATER + timedelta(days=9))
        await change(store, "UPDATE authorizations SET expires_at = expires_at + 999999")
        at = await end(store)
        with pytest.raises(StaleError):
            await store.issuance.record(certificate(mine, made), thumbprint="t", at=at)
        assert await rows(store, "SELECT status FROM orders") == [("ready",)]

    async def test_no_signature(self, store: Store, mine: Account, end: Any) -> None:
        """What was recorded before the end is not signed after it, when it is finished by another process."""
        made, _ = await ready_order(store, mine, expires_at=LATER + timedelta(days=9))
        await change(store, "UPDATE authorizations SET expires_at = expires_at + 999999")
        recorded = certificate(mine, made)
        await store.issuance.record(recorded, thumbprint="t", at=NOW)
        assert await store.issuance.obstacle(recorded, thumbprint="t", at=NOW) is None
        at = await end(store)
        assert "grant has ended" in str(await store.issuance.obstacle(recorded, thumbprint="t", at=at))


class TestGrantedAuthorizations:
    async def test_kept_and_audited(self, store: Store) -> None:
        """Recorded as what it is: valid by a grant, for this account, and by which."""
        grant = await kept_grant(store, names=("*.a.internal",), preauthorized=True)
        owner = await kept_account(store, grant_id=grant.id)
        granted = [
            authorization(
                owner,
                "x.a.internal",
                wildcard=wildcard,
                status=AuthorizationStatus.VALID,
                challenges=(Challenge(ChallengeType.HTTP_01, "token", ChallengeStatus.VALID, validated_at=NOW),),
                grant_id=grant.id,
            )
            for wildcard in (False, True)
        ]
        made = order(owner, *granted, status=OrderStatus.READY)
        await store.orders.create(made, granted)
        for item in granted:
            assert await store.orders.authorization(owner.id, item.id) == item
        found = await rows(
            store, "SELECT actor, event FROM audit WHERE kind = 'authorization.granted' ORDER BY sequence"
        )
        assert {row[0] for row in found} == {f"account:{owner.id}"}
        assert all(f'"grant_id":"{grant.id}"' in row[1] for row in found)
        assert '"identifier":"x.a.internal"' in found[0][1]
        assert '"identifier":"*.x.a.internal"' in found[1][1]
        await store.issuance.record(certificate(owner, made), thumbprint="t", at=NOW)

    async def test_useless_once_the_grant_is_disabled(self, store: Store) -> None:
        grant = await kept_grant(store, names=("*.a.internal",), preauthorized=True)
        owner = await kept_account(store, grant_id=grant.id)
        granted = authorization(owner, "x.a.internal", status=AuthorizationStatus.VALID, grant_id=grant.id)
        made = order(owner, granted, status=OrderStatus.READY)
        await store.orders.create(made, [granted])
        await store.grants.disable(grant.id, actor="admin:test", at=NOW)
        with pytest.raises(StaleError):
            await store.issuance.record(certificate(owner, made), thumbprint="t", at=NOW)

    async def test_they_count_for_a_revocation(self, store: Store) -> None:
        """§7.6: "authorizations for all of the identifiers in the certificate"; how they became valid does not matter."""
        grant = await kept_grant(store, names=("*.a.internal",), preauthorized=True)
        owner = await kept_account(store, grant_id=grant.id)
        granted = authorization(owner, "x.a.internal", status=AuthorizationStatus.VALID, grant_id=grant.id)
        await store.orders.create(order(owner, granted, status=OrderStatus.READY), [granted])
        found = await store.authorizations.valid(owner.id, [Identifier(IdentifierType.DNS, "x.a.internal")], at=NOW)
        assert found == [granted]
        assert ChallengePolicy((ChallengeType.DNS_01,)).counts(granted)


class TestTermsOfService:
    async def test_agreed(self, store: Store) -> None:
        made = await kept_account(store)
        agreed = await store.accounts.agree(made.id, "https://t/2", at=NOW)
        assert agreed == dataclasses.replace(made, terms_of_service="https://t/2")
        assert await store.accounts.by_id(made.id) == agreed
        (event,) = await rows(store, "SELECT event FROM audit WHERE kind = 'account.terms_agreed'")
        assert "https://t/2" in event[0]

    async def test_only_a_valid_account_agrees(self, store: Store) -> None:
        made = await kept_account(store)
        await store.accounts.deactivate(made.id, at=NOW)
        with pytest.raises(StaleError):
            await store.accounts.agree(made.id, "https://t/2", at=NOW)


async def test_a_disabled_grant_loses_nothing(store: Store) -> None:
    """Orders and authorizations stay as they are, so that a grant that was disabled by mistake goes on where it was."""
    grant = await kept_grant(store)
    owner = await kept_account(store, grant_id=grant.id)
    made, _ = await ready_order(store, owner)
    await store.grants.disable(grant.id, actor="admin:test", at=NOW)
    found = await store.grants.by_id(grant.id)
    assert found is not None
    assert found.grant.status is GrantStatus.DISABLED
    await store.grants.enable(grant.id, expires_at=None, actor="admin:test", at=NOW)
    await store.issuance.record(certificate(owner, made), thumbprint="t", at=NOW)
