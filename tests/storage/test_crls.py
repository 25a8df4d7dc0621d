"""CRLs in the store: numbers, contents, publication (RULES §5)."""

import asyncio
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acmeca.storage.certificates import Certificate
from acmeca.storage.crls import Crl, CrlDraft
from acmeca.storage.errors import StaleError
from acmeca.storage.store import Store
from tests.support.stored import NOW, issued_certificate, open_store, rows

HOUR = timedelta(hours=1)


async def begin(store: Store, at: datetime) -> CrlDraft:
    return await store.crls.begin("issuer", this_update=at, next_update=at + 24 * HOUR)


async def publish(store: Store, at: datetime) -> tuple[Crl, set[str]]:
    """A published CRL and the serials it lists."""
    draft = await begin(store, at)
    return await store.crls.publish(draft, b"%d" % draft.number, at=at), {serial for serial, _, _ in draft.revoked}


async def revoke(store: Store, kept: Certificate, *, at: datetime = NOW) -> None:
    await store.certificates.revoke(
        kept, reason=4, thumbprint="t", may_raise=True, actor="system", how="administrator", at=at
    )


async def test_none(store: Store) -> None:
    assert await store.crls.latest("issuer") is None
    assert await store.crls.latest("nobody") is None
    assert await store.crls.pending_revocations("issuer") == 0


async def test_what_is_published(store: Store) -> None:
    kept = await issued_certificate(store)
    await revoke(store, kept)
    draft = await begin(store, NOW)
    assert draft.number == int(NOW.timestamp())
    assert draft.revoked == ((kept.serial, NOW, 4),)
    assert await store.crls.latest("issuer") is None
    crl = await store.crls.publish(draft, b"der", at=NOW)
    assert await store.crls.latest("issuer") == crl
    assert (crl.entries, crl.through_sequence, crl.der) == (1, 1, b"der")
    assert (crl.this_update, crl.next_update) == (NOW, NOW + 24 * HOUR)


async def test_numbers(store: Store) -> None:
    """RULES §5: max(last + 1, clock); a number that was taken is never taken again, published or not."""
    numbers = [(await begin(store, NOW)).number for _ in range(3)]
    numbers.append((await publish(store, NOW - 100 * HOUR))[0].number)
    numbers.append((await begin(store, NOW + HOUR)).number)
    start = int(NOW.timestamp())
    assert numbers == [start, start + 1, start + 2, start + 3, start + 3600]


async def test_numbers_taken_at_once(store: Store) -> None:
    drafts = await asyncio.gather(*(begin(store, NOW) for _ in range(20)))
    assert len({draft.number for draft in drafts}) == 20


async def test_numbers_are_an_issuers_own(store: Store) -> None:
    root = await store.crls.latest("root")
    assert root is not None
    assert (await begin(store, NOW)).number == root.number


async def test_overtaken(store: Store) -> None:
    """Rule 3: published only if nothing with a higher number was published meanwhile."""
    first, second = await begin(store, NOW), await begin(store, NOW)
    crl = await store.crls.publish(second, b"second", at=NOW)
    with pytest.raises(StaleError, match="overtaken"):
        await store.crls.publish(first, b"first", at=NOW)
    with pytest.raises(StaleError):
        await store.crls.publish(second, b"again", at=NOW)
    assert await store.crls.latest("issuer") == crl
    assert await rows(store, "SELECT COUNT(*) FROM audit WHERE kind = 'crl.signed'") == [(2,)]  # with the root's


async def test_pending(store: Store) -> None:
    one, two = await issued_certificate(store), await issued_certificate(store)
    await publish(store, NOW)
    await revoke(store, one)
    assert await store.crls.pending_revocations("issuer") == 1
    draft = await begin(store, NOW)
    await revoke(store, two)
    assert await store.crls.pending_revocations("issuer") == 2  # begun is not published
    await store.crls.publish(draft, b"", at=NOW)
    assert await store.crls.pending_revocations("issuer") == 1
    await publish(store, NOW)
    assert await store.crls.pending_revocations("issuer") == 0
    assert await store.crls.pending_revocations("root") == 0


async def test_a_raised_reason_is_pending(store: Store) -> None:
    kept = await issued_certificate(store)
    await revoke(store, kept)
    await publish(store, NOW)
    await store.certificates.revoke(
        kept, reason=1, thumbprint="t", may_raise=True, actor="system", how="administrator", at=NOW
    )
    assert await store.crls.pending_revocations("issuer") == 1


async def test_another_issuers_revocations(store: Store) -> None:
    kept = await issued_certificate(store, issuer_id="root")
    await revoke(store, kept)
    assert await store.crls.pending_revocations("issuer") == 0
    assert (await publish(store, NOW))[1] == set()


async def test_entries_go_after_one_crl_beyond_their_certificates(store: Store) -> None:
    """RFC 5280 §3.3."""
    kept = await issued_certificate(store, not_after=NOW + 10 * HOUR)
    await revoke(store, kept)
    listed = [bool((await publish(store, NOW + hours * HOUR))[1]) for hours in (1, 9, 10, 11, 12, 13)]
    assert listed == [True, True, True, True, False, False]


async def test_a_draft_that_was_never_published_does_not_count(store: Store) -> None:
    kept = await issued_certificate(store, not_after=NOW + 10 * HOUR)
    await revoke(store, kept)
    for _ in range(3):
        assert (await begin(store, NOW + 11 * HOUR)).revoked
    assert (await publish(store, NOW + 12 * HOUR))[1] == {kept.serial}
    assert (await publish(store, NOW + 13 * HOUR))[1] == set()


async def test_a_clock_that_was_ahead(store: Store) -> None:
    """A CRL from the future takes nothing off the CRLs of today."""
    kept = await issued_certificate(store, not_after=NOW + 10 * HOUR)
    await revoke(store, kept)
    await publish(store, NOW)
    for years in (1, 2, 3):
        await publish(store, NOW + years * 8760 * HOUR)
    for hours in (1, 2, 3):
        assert (await publish(store, NOW + hours * HOUR))[1] == {kept.serial}


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.tuples(st.sampled_from(["publish", "revoke", "begin"]), st.integers(-5, 5)), min_size=3, max_size=14)
)
def test_never_missing(steps: list[tuple[str, int]]) -> None:
    """Whatever the clock does: a revoked certificate that has not expired is on the CRL, and numbers rise."""

    async def run() -> None:
        async with open_store() as store:
            revoked: dict[str, datetime] = {}
            last = 0
            now = NOW
            for step, days in steps:
                now = max(NOW, now + timedelta(days=days))
                if step == "revoke":
                    kept = await issued_certificate(store, not_after=now + timedelta(days=3))
                    await revoke(store, kept, at=now)
                    revoked[kept.serial] = kept.not_after
                elif step == "begin":
                    last = (await begin(store, now)).number
                else:
                    crl, listed = await publish(store, now)
                    assert {serial for serial, not_after in revoked.items() if not_after >= now} <= listed
                    assert crl.number > last
                    last = crl.number

    asyncio.run(run())


async def test_old_ones_are_dropped(store: Store) -> None:
    for hours in range(10):
        await publish(store, NOW + hours * HOUR)
    assert await rows(store, "SELECT COUNT(*) FROM crls WHERE issuer_id = 'issuer'") == [(4,)]
    assert await store.crls.latest("root") is not None


# --- drafts that are taken back later -----------------------------------------------------------------------------


async def test_a_draft_is_told_again(store: Store) -> None:
    """What was begun is what comes back, whatever was revoked since."""
    one, two = await issued_certificate(store), await issued_certificate(store)
    await revoke(store, one)
    draft = await begin(store, NOW)
    await revoke(store, two)
    assert await store.crls.begun("issuer", draft.number) == draft
    crl = await store.crls.publish(await store.crls.begun("issuer", draft.number), b"der", at=NOW)
    assert (crl.entries, crl.through_sequence) == (1, draft.through_sequence)
    assert await store.crls.pending_revocations("issuer") == 1


async def test_a_draft_is_told_again_after_an_older_one_was_published(store: Store) -> None:
    kept = await issued_certificate(store)
    await revoke(store, kept)
    first, second = await begin(store, NOW), await begin(store, NOW)
    await store.crls.publish(first, b"first", at=NOW)
    assert await store.crls.begun("issuer", second.number) == second


@pytest.mark.parametrize("distance", [-1, 1])
async def test_a_draft_that_was_never_begun(store: Store, distance: int) -> None:
    draft = await begin(store, NOW)
    with pytest.raises(StaleError, match="was never begun, or was overtaken"):
        await store.crls.begun("issuer", draft.number + distance)
    with pytest.raises(StaleError):
        await store.crls.begun("nobody", draft.number)


async def test_a_draft_that_was_overtaken_or_published(store: Store) -> None:
    first, second = await begin(store, NOW), await begin(store, NOW)
    await store.crls.publish(second, b"second", at=NOW)
    for draft in (first, second):
        with pytest.raises(StaleError, match="was overtaken"):
            await store.crls.begun("issuer", draft.number)


async def test_a_draft_whose_entry_was_changed(store: Store) -> None:
    """A raised reason makes a newer revocation of it: the draft's own entry is not known any more."""
    kept = await issued_certificate(store)
    await revoke(store, kept)
    draft = await begin(store, NOW)
    await store.certificates.revoke(
        kept, reason=1, may_raise=True, thumbprint="t", actor="system", how="administrator", at=NOW
    )
    with pytest.raises(StaleError, match="was changed since it was begun"):
        await store.crls.begun("issuer", draft.number)
