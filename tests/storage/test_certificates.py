"""Certificates: recorded, completed once, found, revoked for good."""

import asyncio
import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.objects import Account, Order
from acmeca.acme.problem import Problem, ProblemType
from acmeca.storage import audit
from acmeca.storage.certificates import (
    KEY_COMPROMISE,
    Certificate,
    CertificateStatus,
    KeyRefusedError,
    Search,
    SerialStatus,
    reverse_labels,
)
from acmeca.storage.errors import NotUniqueError, StaleError
from acmeca.storage.store import Store
from tests.support.stored import (
    NOW,
    account,
    certificate,
    change,
    issued_certificate,
    kept_account,
    ready_order,
    rows,
)

PROBLEM = Problem(ProblemType.SERVER_INTERNAL, "order again")
TABLES = ("orders", "certificates", "certificate_names", "blocked_keys", "audit")


async def everything(store: Store) -> list[list[tuple[object, ...]]]:
    return [await rows(store, f"SELECT * FROM {table}") for table in TABLES]


async def recorded(store: Store, **changes: object) -> tuple[Account, Order, Certificate]:
    """An order that is processing, with its certificate."""
    owner = await kept_account(store)
    made, _ = await ready_order(store, owner)
    kept = certificate(owner, made, **changes)
    await store.certificates.record(kept, thumbprint="certificate key", at=NOW)
    return owner, made, dataclasses.replace(kept, recorded_by=store.writer.instance)


async def order_status(store: Store, order_id: str) -> str:
    ((status,),) = await rows(store, "SELECT status FROM orders WHERE id = $1", order_id)
    return str(status)


class TestRecord:
    async def test_claims_the_order(self, store: Store) -> None:
        _, made, kept = await recorded(store)
        assert await order_status(store, made.id) == "processing"
        assert await store.certificates.by_serial(kept.serial) == kept
        assert await store.certificates.unfinished() == [kept]

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
        before = await everything(store)
        with pytest.raises(StaleError):
            await store.certificates.record(certificate(owner, made), thumbprint="key", at=NOW)
        assert await everything(store) == before, what

    async def test_one_order_one_certificate(self, store: Store) -> None:
        owner = await kept_account(store)
        made, _ = await ready_order(store, owner)
        outcomes = await asyncio.gather(
            *(store.certificates.record(certificate(owner, made), thumbprint="key", at=NOW) for _ in range(20)),
            return_exceptions=True,
        )
        assert sum(outcome is None for outcome in outcomes) == 1
        assert sum(isinstance(outcome, StaleError) for outcome in outcomes) == 19
        assert await rows(store, "SELECT COUNT(*) FROM certificates") == [(1,)]

    async def test_one_serial_one_certificate(self, store: Store) -> None:
        """RULES §4: a serial is "unique in the database"."""
        _, _, kept = await recorded(store)
        owner = await kept_account(store)
        made, _ = await ready_order(store, owner)
        with pytest.raises(NotUniqueError, match="serial"):
            await store.certificates.record(certificate(owner, made, serial=kept.serial), thumbprint="key", at=NOW)
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
                await store.certificates.record(kept, thumbprint=thumbprint, at=NOW)
            assert await order_status(store, made.id) == "ready"

    async def test_the_same_key_twice(self, store: Store) -> None:
        """A renewal may keep its key."""
        owner = await kept_account(store)
        for _ in range(2):
            made, _ = await ready_order(store, owner)
            await store.certificates.record(certificate(owner, made, spki_sha256=bytes(32)), thumbprint="k", at=NOW)


class TestComplete:
    async def test_makes_the_order_valid(self, store: Store) -> None:
        owner, made, kept = await recorded(store)
        await store.certificates.complete(kept, b"signature", sha256="ab", at=NOW + timedelta(seconds=1))
        signed = await store.certificates.by_id(owner.id, kept.id)
        assert signed == dataclasses.replace(kept, signature=b"signature", issued_at=NOW + timedelta(seconds=1))
        order = await store.orders.by_id(owner.id, made.id)
        assert order is not None
        assert (order.status.value, order.certificate_id) == ("valid", kept.id)
        assert await store.certificates.unfinished() == []

    async def test_once(self, store: Store) -> None:
        _, _, kept = await recorded(store)
        await store.certificates.complete(kept, b"one", sha256="", at=NOW)
        before = await everything(store)
        with pytest.raises(StaleError):
            await store.certificates.complete(kept, b"two", sha256="", at=NOW)
        assert await everything(store) == before

    @pytest.mark.parametrize("status", ["pending", "ready", "valid", "invalid"])
    async def test_from_processing_only(self, store: Store, status: str) -> None:
        _, made, kept = await recorded(store)
        await change(store, "UPDATE orders SET status = $1 WHERE id = $2", status, made.id)
        before = await everything(store)
        with pytest.raises(StaleError):
            await store.certificates.complete(kept, b"s", sha256="", at=NOW)
        assert await everything(store) == before

    async def test_abandoned(self, store: Store) -> None:
        owner, made, kept = await recorded(store)
        await store.certificates.abandon(kept, PROBLEM, at=NOW)
        order = await store.orders.by_id(owner.id, made.id)
        assert order is not None
        assert (order.status.value, order.error) == ("invalid", PROBLEM.to_json())
        assert await store.certificates.by_serial(kept.serial) == kept
        assert await store.certificates.unfinished() == []
        with pytest.raises(StaleError):
            await store.certificates.abandon(kept, PROBLEM, at=NOW)

    async def test_unsigned_is_not_served(self, store: Store) -> None:
        owner, _, kept = await recorded(store)
        assert await store.certificates.by_id(owner.id, kept.id) is None
        with pytest.raises(StaleError, match="never signed"):
            _ = kept.der
        assert await store.certificates.status_of("issuer", kept.serial) == SerialStatus(
            is_signed=False, revoked_at=None, reason=None
        )


class TestRevoke:
    async def revoke(
        self, store: Store, kept: Certificate, reason: int | None, *, hours: int = 1, may_raise: bool = True
    ) -> Certificate:
        return await store.certificates.revoke(
            kept,
            reason=reason,
            may_raise=may_raise,
            thumbprint="t",
            actor="system",
            how="administrator",
            at=NOW + timedelta(hours=hours),
        )

    async def test_once(self, store: Store) -> None:
        kept = await issued_certificate(store)
        revoked = await self.revoke(store, kept, 4)
        assert (revoked.revoked_at, revoked.revocation_reason) == (NOW + timedelta(hours=1), 4)
        before = await everything(store)
        for reason in (None, 3, 4, 5, 9):
            with pytest.raises(StaleError):
                await self.revoke(store, kept, reason, hours=2)
        assert await everything(store) == before

    async def test_raised_to_key_compromise(self, store: Store) -> None:
        """Rule 2: the time stays, the sequence moves on, the key is blocked."""
        kept = await issued_certificate(store)
        first = await self.revoke(store, kept, None)
        raised = await self.revoke(store, kept, KEY_COMPROMISE, hours=5)
        assert (raised.revoked_at, raised.revocation_reason) == (first.revoked_at, KEY_COMPROMISE)
        assert await rows(store, "SELECT revocation_sequence FROM certificates WHERE id = $1", kept.id) == [(2,)]
        assert await store.certificates.is_blocked("t")
        with pytest.raises(StaleError):
            await self.revoke(store, kept, KEY_COMPROMISE, hours=6)

    async def test_sequence(self, store: Store) -> None:
        """Rule 3: "each revocation takes the next number of one sequence"."""
        kept = [await issued_certificate(store) for _ in range(5)]
        await asyncio.gather(*(self.revoke(store, one, None) for one in kept))
        numbers = await rows(store, "SELECT revocation_sequence FROM certificates ORDER BY 1")
        assert numbers == [(1,), (2,), (3,), (4,), (5,)]

    async def test_not_before_the_newest_crl(self, store: Store) -> None:
        """RULES §5: "A new entry's revocationDate does not precede the previous CRL's thisUpdate"."""
        kept = await issued_certificate(store)
        later = NOW + timedelta(hours=1, seconds=30)
        await store.crls.begin("issuer", this_update=later, next_update=later + timedelta(hours=1))
        assert (await self.revoke(store, kept, None)).revoked_at == later

    async def test_a_crl_from_the_future_does_not_count(self, store: Store) -> None:
        """The clock leapt and came back: a revocation dated in the future is none to Java."""
        kept = await issued_certificate(store)
        future = NOW + timedelta(days=700)
        await store.crls.begin("issuer", this_update=future, next_update=future + timedelta(hours=1))
        assert (await self.revoke(store, kept, None)).revoked_at == NOW + timedelta(hours=1)

    async def test_only_who_may_raises_a_reason(self, store: Store) -> None:
        """RULES §5: "only an upgrade to keyCompromise, proven by the certificate's key or made by an administrator"."""
        kept = await issued_certificate(store)
        await self.revoke(store, kept, 4)
        with pytest.raises(StaleError):
            await self.revoke(store, kept, KEY_COMPROMISE, may_raise=False)
        assert not await store.certificates.is_blocked("t")

    async def test_unsigned_ones_too(self, store: Store) -> None:
        _, _, kept = await recorded(store)
        assert (await self.revoke(store, kept, 1)).revoked_at is not None

    async def test_blocked_once(self, store: Store) -> None:
        """Two certificates of one key: both revocations count, the key is blocked once."""
        one = await issued_certificate(store)
        two = await issued_certificate(store)
        await change(store, "UPDATE certificates SET spki_sha256 = $1", bytes(32))
        for kept in (one, two):
            fresh = await store.certificates.by_serial(kept.serial)
            assert fresh is not None
            await self.revoke(store, fresh, KEY_COMPROMISE)
        assert await rows(store, "SELECT COUNT(*) FROM blocked_keys") == [(1,)]
        assert not await store.certificates.is_blocked("another")

    async def test_gone(self, store: Store) -> None:
        with pytest.raises(StaleError):
            await self.revoke(store, certificate(), None)


class TestFinding:
    async def test_by_id_is_the_accounts(self, store: Store) -> None:
        """Another account's certificate does not exist."""
        owner, _, kept = await recorded(store)
        await store.certificates.complete(kept, b"s", sha256="", at=NOW)
        assert await store.certificates.by_id(owner.id, kept.id) is not None
        assert await store.certificates.by_id(account().id, kept.id) is None
        own = await issued_certificate(store)
        assert await store.certificates.by_id(owner.id, own.id) is None

    async def test_status_is_the_issuers(self, store: Store) -> None:
        kept = await issued_certificate(store)
        assert await store.certificates.status_of("issuer", kept.serial) == SerialStatus(
            is_signed=True, revoked_at=None, reason=None
        )
        assert await store.certificates.status_of("root", kept.serial) is None
        assert await store.certificates.status_of("issuer", "00") is None

    async def test_search(self, store: Store) -> None:
        """What `acmeca list` filters by, alone and together."""
        now = NOW + timedelta(days=50)
        made = {
            "valid": await issued_certificate(store, names=("db.corp.example",)),
            "expired": await issued_certificate(
                store, names=("a.db.corp.example", "x.example"), not_after=now - timedelta(seconds=1)
            ),
            "revoked": await issued_certificate(store, names=("corp.example", "10.0.0.1")),
            "unsigned": certificate(names=("dbcorp.example",), recorded_at=NOW + timedelta(seconds=1)),
        }
        await store.certificates.record(made["unsigned"], thumbprint="t", at=NOW)
        await store.certificates.revoke(
            made["revoked"], reason=None, thumbprint="t", may_raise=True, actor="system", how="administrator", at=NOW
        )

        async def found(**filters: object) -> set[str]:
            kept = await store.certificates.search(Search(**filters), now=now)  # type: ignore[arg-type]
            return {name for name, one in made.items() if one.serial in {item.serial for item in kept}}

        assert await found() == set(made)
        for name in ("valid", "expired", "revoked", "unsigned"):
            assert await found(status=CertificateStatus(name)) == {name}
        assert await found(name="db.corp.example") == {"valid"}
        assert await found(name="*.corp.example") == {"valid", "expired"}
        assert await found(name="*.example") == set(made)
        assert await found(name="*.db.corp.example") == {"expired"}
        assert await found(name="10.0.0.1") == {"revoked"}
        assert await found(name="%") == await found(name="*.%") == await found(name="") == set()
        assert await found(expires_before=now) == {"expired"}
        assert await found(name="*.corp.example", status=CertificateStatus.VALID) == {"valid"}
        assert len(await store.certificates.search(Search(limit=2), now=now)) == 2
        newest, *_ = await store.certificates.search(Search(), now=now)
        assert newest.serial == made["unsigned"].serial

    @pytest.mark.parametrize("status", list(CertificateStatus))
    async def test_status_and_search_agree(self, store: Store, status: CertificateStatus) -> None:
        """At every moment around a certificate's end, `Certificate.status` and `Search.status` say the same."""
        kept = await issued_certificate(store)
        await recorded(store)
        for now in (kept.not_after - timedelta(seconds=1), kept.not_after, kept.not_after + timedelta(seconds=1)):
            found = {item.serial for item in await store.certificates.search(Search(status=status), now=now)}
            everything_ = await store.certificates.search(Search(), now=now)
            assert found == {item.serial for item in everything_ if item.status(now) is status}

    @settings(deadline=None, max_examples=60)
    @given(
        st.lists(st.from_regex(r"[a-c]{1,2}(\.[a-c-]{1,2}){0,3}", fullmatch=True), min_size=1, max_size=8),
        st.from_regex(r"[a-c]{1,2}(\.[a-c]{1,2}){0,2}", fullmatch=True),
    )
    def test_suffixes(self, names: list[str], suffix: str) -> None:
        """Prefix search on reversed labels finds exactly what lies below the suffix."""
        prefix = reverse_labels(suffix)
        for name in names:
            is_below = prefix < reverse_labels(name) < prefix[:-1] + "/"
            assert is_below == name.endswith("." + suffix)


async def test_audit(store: Store) -> None:
    """RULES §6: issuance and revocation stand in the audit, in the transactions they tell of."""
    _, _, kept = await recorded(store)
    await store.certificates.complete(kept, b"s", sha256="ab", at=NOW)
    await store.certificates.revoke(
        kept, reason=1, thumbprint="t", may_raise=True, actor="key:x", how="certificate key", at=NOW
    )
    kinds = await rows(
        store, "SELECT kind FROM audit WHERE subject IN ($1, $2) ORDER BY sequence", kept.serial, kept.spki_sha256.hex()
    )
    assert [kind for (kind,) in kinds] == [
        "certificate.recorded",
        "certificate.issued",
        "key.blocked",
        "certificate.revoked",
    ]
    assert await audit.verify(store.database) == []
