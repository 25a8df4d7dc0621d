"""Issuance as it is kept: recorded once, completed once, or given up."""

import asyncio
import dataclasses
from datetime import timedelta

import pytest

from acmeca.acme.problem import Problem, ProblemType
from acmeca.storage.certificates import KEY_COMPROMISE, SerialStatus
from acmeca.storage.errors import KeyRefusedError, NotUniqueError, StaleError
from acmeca.storage.issuance import Unfinished
from acmeca.storage.store import Store
from tests.support.profiles import make_profile
from tests.support.stored import (
    NOW,
    certificate,
    change,
    issuance_tables,
    issued_certificate,
    kept_account,
    ready_order,
    recorded_certificate,
    rows,
)

PROBLEM = Problem(ProblemType.SERVER_INTERNAL, "order again")


async def order_status(store: Store, order_id: str) -> str:
    ((status,),) = await rows(store, "SELECT status FROM orders WHERE id = $1", order_id)
    return str(status)


class TestRecord:
    async def test_claims_the_order(self, store: Store) -> None:
        _, made, kept = await recorded_certificate(store)
        assert await order_status(store, made.id) == "processing"
        assert await store.certificates.by_serial(kept.serial) == kept
        assert await store.issuance.unfinished() == [Unfinished(kept, made.identifiers, not_after=None)]

    @pytest.mark.parametrize(
        ("what", "sql"),
        [
            ("the order is pending", "UPDATE orders SET status = 'pending'"),
            ("the order is processing", "UPDATE orders SET status = 'processing'"),
            ("the order is valid", "UPDATE orders SET status = 'valid'"),
            ("the order is invalid", "UPDATE orders SET status = 'invalid'"),
            ("the order has expired", f"UPDATE orders SET expires_at = {int(NOW.timestamp())}"),
            ("the account is deactivated", "UPDATE accounts SET status = 'deactivated'"),
            ("the account is revoked", "UPDATE accounts SET status = 'revoked'"),
            ("an authorization is pending", "UPDATE authorizations SET status = 'pending'"),
            ("an authorization is invalid", "UPDATE authorizations SET status = 'invalid'"),
            ("an authorization is deactivated", "UPDATE authorizations SET status = 'deactivated'"),
            ("an authorization is expired", "UPDATE authorizations SET status = 'expired'"),
            ("an authorization is revoked", "UPDATE authorizations SET status = 'revoked'"),
            ("an authorization's time is over", f"UPDATE authorizations SET expires_at = {int(NOW.timestamp())}"),
        ],
    )
    async def test_looks_once_more(self, store: Store, what: str, sql: str) -> None:
        """The claim rests on everything that the issuance rests on, in one transaction."""
        owner = await kept_account(store)
        made, parts = await ready_order(store, owner, "a.example.org", "b.example.org", "c.example.org")
        where = " WHERE id = $1" if "authorizations" in sql else ""
        await change(store, sql + where, *([parts[1].id] if where else []))
        before = await issuance_tables(store)
        with pytest.raises(StaleError):
            await store.issuance.record(certificate(owner, made), thumbprint="key", at=NOW)
        assert await issuance_tables(store) == before, what

    async def test_with_what_its_order_asks_for(self, store: Store) -> None:
        """What `unfinished` brings back is the order's: names in the order in which they were asked for, and the notAfter."""
        owner, profile = await kept_account(store), make_profile()
        await store.profiles.keep(profile, at=NOW)
        until = NOW + timedelta(days=3)
        made, _ = await ready_order(
            store, owner, "b.example.org", "a.example.org", profile_id=profile.id, not_before=NOW, not_after=until
        )
        kept = certificate(owner, made, names=("a.example.org", "b.example.org"), profile_id=profile.id)
        await store.issuance.record(kept, thumbprint="key", at=NOW)
        (found,) = await store.issuance.unfinished()
        assert found.certificate.profile_id == profile.id
        assert [identifier.value for identifier in found.identifiers] == ["b.example.org", "a.example.org"]
        assert found.not_after == until

    async def test_one_order_one_certificate(self, store: Store) -> None:
        owner = await kept_account(store)
        made, _ = await ready_order(store, owner)
        outcomes = await asyncio.gather(
            *(store.issuance.record(certificate(owner, made), thumbprint="key", at=NOW) for _ in range(20)),
            return_exceptions=True,
        )
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, StaleError) for outcome in outcomes) == 19
        assert await rows(store, "SELECT COUNT(*) FROM certificates") == [(1,)]

    async def test_one_serial_one_certificate(self, store: Store) -> None:
        """RULES §4: a serial is "unique in the database"."""
        _, _, kept = await recorded_certificate(store)
        owner = await kept_account(store)
        made, _ = await ready_order(store, owner)
        with pytest.raises(NotUniqueError, match="serial"):
            await store.issuance.record(certificate(owner, made, serial=kept.serial), thumbprint="key", at=NOW)
        assert await order_status(store, made.id) == "ready"

    async def test_keys_that_are_never_certified(self, store: Store) -> None:
        """RFC 8555 §11.1, RULES §1: an account's, the server's own, a blocked one; the order stays ready."""
        owner, deactivated = await kept_account(store), await kept_account(store)
        await store.accounts.deactivate(deactivated.id, at=NOW)
        own = await issued_certificate(store)
        bad = await issued_certificate(store)
        await store.certificates.revoke(
            bad,
            reason=KEY_COMPROMISE,
            thumbprint="blocked",
            may_raise=True,
            actor="system",
            how="administrator",
            at=NOW,
        )
        made, _ = await ready_order(store, owner)
        for kept, thumbprint, why in (
            (certificate(owner, made), owner.thumbprint, "ACME account"),
            (certificate(owner, made), deactivated.thumbprint, "ACME account"),
            (certificate(owner, made, spki_sha256=own.spki_sha256), "own", "CA's own"),
            (certificate(owner, made, spki_sha256=bad.spki_sha256), "blocked", "CA's own|compromised"),
        ):
            with pytest.raises(KeyRefusedError, match=why):
                await store.issuance.record(kept, thumbprint=thumbprint, at=NOW)
            assert await order_status(store, made.id) == "ready"

    async def test_the_same_key_twice(self, store: Store) -> None:
        """A renewal may keep its key."""
        owner = await kept_account(store)
        for _ in range(2):
            made, _ = await ready_order(store, owner)
            await store.issuance.record(certificate(owner, made, spki_sha256=bytes(32)), thumbprint="k", at=NOW)


class TestComplete:
    async def test_makes_the_order_valid(self, store: Store) -> None:
        owner, made, kept = await recorded_certificate(store)
        await store.issuance.complete(kept, b"signature", sha256="ab", at=NOW + timedelta(seconds=1))
        signed = await store.certificates.by_id(owner.id, kept.id)
        assert signed == dataclasses.replace(kept, signature=b"signature", issued_at=NOW + timedelta(seconds=1))
        order = await store.orders.by_id(owner.id, made.id)
        assert order is not None
        assert (order.status.value, order.certificate_id) == ("valid", kept.id)
        assert await store.issuance.unfinished() == []

    async def test_once(self, store: Store) -> None:
        _, _, kept = await recorded_certificate(store)
        await store.issuance.complete(kept, b"one", sha256="", at=NOW)
        before = await issuance_tables(store)
        with pytest.raises(StaleError):
            await store.issuance.complete(kept, b"two", sha256="", at=NOW)
        assert await issuance_tables(store) == before

    @pytest.mark.parametrize("status", ["pending", "ready", "valid", "invalid"])
    async def test_from_processing_only(self, store: Store, status: str) -> None:
        _, made, kept = await recorded_certificate(store)
        await change(store, "UPDATE orders SET status = $1 WHERE id = $2", status, made.id)
        before = await issuance_tables(store)
        with pytest.raises(StaleError):
            await store.issuance.complete(kept, b"s", sha256="", at=NOW)
        assert await issuance_tables(store) == before

    async def test_abandoned(self, store: Store) -> None:
        owner, made, kept = await recorded_certificate(store)
        await store.issuance.abandon(kept, PROBLEM, at=NOW)
        order = await store.orders.by_id(owner.id, made.id)
        assert order is not None
        assert (order.status.value, order.error) == ("invalid", PROBLEM.to_json())
        assert await store.certificates.by_serial(kept.serial) == kept
        assert await store.issuance.unfinished() == []
        with pytest.raises(StaleError):
            await store.issuance.abandon(kept, PROBLEM, at=NOW)

    async def test_unsigned_is_not_served(self, store: Store) -> None:
        owner, _, kept = await recorded_certificate(store)
        assert await store.certificates.by_id(owner.id, kept.id) is None
        with pytest.raises(StaleError, match="never signed"):
            _ = kept.der
        assert await store.certificates.status_of("issuer", kept.serial) == SerialStatus(
            is_signed=False, revoked_at=None, reason=None
        )
