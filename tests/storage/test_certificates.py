"""Certificates as they are kept: found, and revoked for good."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.storage import audit
from acmeca.storage.certificates import (
    KEY_COMPROMISE,
    Certificate,
    CertificateStatus,
    Search,
    SerialStatus,
    reverse_labels,
)
from acmeca.storage.errors import StaleError
from acmeca.storage.keys import is_blocked
from acmeca.storage.store import Store
from tests.support.stored import (
    NOW,
    account,
    certificate,
    change,
    issuance_tables,
    issued_certificate,
    recorded_certificate,
    rows,
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
        before = await issuance_tables(store)
        for reason in (None, 3, 4, 5, 9):
            with pytest.raises(StaleError):
                await self.revoke(store, kept, reason, hours=2)
        assert await issuance_tables(store) == before

    async def test_raised_to_key_compromise(self, store: Store) -> None:
        """Rule 2: the time stays, the sequence moves on, the key is blocked."""
        kept = await issued_certificate(store)
        first = await self.revoke(store, kept, None)
        raised = await self.revoke(store, kept, KEY_COMPROMISE, hours=5)
        assert (raised.revoked_at, raised.revocation_reason) == (first.revoked_at, KEY_COMPROMISE)
        assert await rows(store, "SELECT revocation_sequence FROM certificates WHERE id = $1", kept.id) == [(2,)]
        assert await is_blocked(store.database, thumbprint="t", spki_sha256=b"")
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
        assert not await is_blocked(store.database, thumbprint="t", spki_sha256=kept.spki_sha256)

    async def test_unsigned_ones_too(self, store: Store) -> None:
        _, _, kept = await recorded_certificate(store)
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
        assert not await is_blocked(store.database, thumbprint="another", spki_sha256=b"")

    async def test_gone(self, store: Store) -> None:
        with pytest.raises(StaleError):
            await self.revoke(store, certificate(), None)


class TestFinding:
    async def test_by_id_is_the_accounts(self, store: Store) -> None:
        """Another account's certificate does not exist."""
        owner, _, kept = await recorded_certificate(store)
        await store.issuance.complete(kept, b"s", sha256="", at=NOW)
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
        await store.issuance.record(made["unsigned"], thumbprint="t", at=NOW)
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
        await recorded_certificate(store)
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
    _, _, kept = await recorded_certificate(store)
    await store.issuance.complete(kept, b"s", sha256="ab", at=NOW)
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


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("a.localhost", IdentifierType.DNS),
        ("db1", IdentifierType.DNS),
        ("www.example1", IdentifierType.DNS),
        ("*.example2", IdentifierType.DNS),
        ("1.2.3.4.example", IdentifierType.DNS),
        ("127.0.0.1", IdentifierType.IP),
        ("fd00::1", IdentifierType.IP),
        ("::", IdentifierType.IP),
    ],
)
def test_kept_names_are_identifiers_again(name: str, type_: IdentifierType) -> None:
    """A host name may end in a digit, and is no address for that."""
    assert certificate(names=(name,)).identifiers == (Identifier(type_, name),)
