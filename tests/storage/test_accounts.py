"""The table `accounts`: one key, one account; nothing comes back; a key is replaced once."""

import asyncio
import dataclasses

import pytest

from acmeca.acme.jwk import PublicKey, parse_jwk
from acmeca.acme.objects import ChallengeType
from acmeca.acme.states import AccountStatus, AuthorizationStatus, OrderStatus
from acmeca.storage import audit
from acmeca.storage.errors import KeyRefusedError, KeyTakenError, StaleError
from acmeca.storage.keys import BlockedKey
from acmeca.storage.store import Store
from tests.support.jose import new_key
from tests.support.journalled import revoke
from tests.support.stored import (
    NOW,
    account,
    authorization,
    certificate,
    change,
    issued_certificate,
    kept_account,
    kept_order,
    ready_order,
    rows,
)

SPKI = bytes(32)  # the digest of a key that no certificate has


async def test_kept_as_it_was_given(store: Store) -> None:
    made = account(contact=("mailto:a@example.org", "mailto:\u00fc@example.org"), jwk='{"kty":"EC"}')
    assert await store.accounts.create(made, spki_sha256=SPKI) == made
    assert await store.accounts.by_id(made.id) == made
    assert await store.accounts.by_thumbprint(made.thumbprint) == made


async def test_absent(store: Store) -> None:
    assert await store.accounts.by_id("nobody") is None
    assert await store.accounts.by_thumbprint("nobody") is None


async def test_one_key_one_account(store: Store) -> None:
    """RFC 8555 §7.3.1, also when many come at once: whoever came first is what all get."""
    made = [account(thumbprint="the same") for _ in range(20)]
    kept = await asyncio.gather(*(store.accounts.create(item, spki_sha256=SPKI) for item in made))
    assert len({item.id for item in kept}) == 1
    assert await rows(store, "SELECT COUNT(*) FROM accounts") == [(1,)]
    assert await rows(store, "SELECT COUNT(*) FROM audit WHERE kind = 'account.created'") == [(1,)]


async def test_contact(store: Store) -> None:
    made = await kept_account(store)
    changed = await store.accounts.replace_contact(made.id, (), at=NOW)
    assert changed == dataclasses.replace(made, contact=())
    assert await store.accounts.by_id(made.id) == changed


async def test_deactivated_for_good(store: Store) -> None:
    made = await kept_account(store)
    gone = await store.accounts.deactivate(made.id, at=NOW)
    assert gone == dataclasses.replace(made, status=AccountStatus.DEACTIVATED)
    assert await store.accounts.by_thumbprint(made.thumbprint) == gone
    for again in (store.accounts.deactivate(made.id, at=NOW), store.accounts.replace_contact(made.id, (), at=NOW)):
        with pytest.raises(StaleError):
            await again
    assert await store.accounts.create(account(thumbprint=made.thumbprint), spki_sha256=SPKI) == gone


@pytest.mark.parametrize("status", ["deactivated", "revoked"])
async def test_only_a_valid_one_is_changed(store: Store, status: str) -> None:
    made = await kept_account(store)
    await change(store, "UPDATE accounts SET status = $1 WHERE id = $2", status, made.id)
    before = await rows(store, "SELECT * FROM accounts")
    for write in (store.accounts.deactivate(made.id, at=NOW), store.accounts.replace_contact(made.id, (), at=NOW)):
        with pytest.raises(StaleError):
            await write
    assert await rows(store, "SELECT * FROM accounts") == before


async def test_what_is_open_ends_with_the_account(store: Store) -> None:
    """§7.3.6: "The server SHOULD cancel any pending operations authorized by the account's key"; other accounts' stay."""
    mine, other = await kept_account(store), await kept_account(store)
    pending, _ = await kept_order(store, mine)
    ready, validated = await ready_order(store, mine)
    theirs, their_authorizations = await kept_order(store, other)
    begun = await store.orders.begin_validation(their_authorizations[0], ChallengeType.HTTP_01, at=NOW)
    await store.accounts.deactivate(mine.id, at=NOW)
    for one in (pending, ready):
        kept = await store.orders.by_id(mine.id, one.id)
        assert kept is not None
        assert kept.status is OrderStatus.INVALID
    gone = await store.orders.authorization(mine.id, validated[0].id)
    assert gone is not None
    assert gone.status is AuthorizationStatus.DEACTIVATED
    kept = await store.orders.by_id(other.id, theirs.id)
    assert kept is not None
    assert kept.status is OrderStatus.PENDING
    assert await store.orders.authorization(other.id, begun.id) == begun


async def test_finished_orders_stay(store: Store) -> None:
    mine = await kept_account(store)
    made, _ = await ready_order(store, mine)
    for status in ("valid", "invalid", "processing"):
        await change(store, "UPDATE orders SET status = $1 WHERE id = $2", status, made.id)
        await change(store, "UPDATE accounts SET status = 'valid' WHERE id = $1", mine.id)
        await store.accounts.deactivate(mine.id, at=NOW)
        assert await rows(store, "SELECT status FROM orders WHERE id = $1", made.id) == [(status,)]


async def test_audit(store: Store) -> None:
    """Each write has its record, and the chain holds."""
    made = await kept_account(store)
    await store.accounts.replace_contact(made.id, (), at=NOW)
    await store.accounts.deactivate(made.id, at=NOW)
    kinds = await rows(store, "SELECT kind FROM audit WHERE subject = $1 ORDER BY sequence", made.id)
    assert kinds == [("account.created",), ("account.updated",), ("account.deactivated",)]
    assert await audit.verify(store.database) == []


async def test_a_certified_key_gets_no_account(store: Store) -> None:
    """RFC 8555 §11.1, RULES §1: no key is an account's and a certificate's, whichever came first."""
    kept = await issued_certificate(store)
    with pytest.raises(KeyRefusedError, match="key of a certificate"):
        await store.accounts.create(account(), spki_sha256=kept.spki_sha256)
    assert await rows(store, "SELECT COUNT(*) FROM accounts WHERE thumbprint = $1", account().thumbprint) == [(0,)]


def public_key() -> PublicKey:
    return parse_jwk(new_key().jwk)


async def test_nothing_more_once_its_key_is_blocked(store: Store) -> None:
    """RULES §1: "A blocked key … is refused everywhere", also what it had asked for before: statement by statement."""
    mine, other = await kept_account(store), await kept_account(store)
    made, _ = await ready_order(store, mine)
    key = BlockedKey(SPKI, mine.thumbprint, blocked_at=NOW, why="it leaked")
    await store.blocked_keys.block(key, actor="admin:test", at=NOW)
    with pytest.raises(StaleError):
        await kept_order(store, mine)
    with pytest.raises(StaleError):
        await store.authorizations.create(authorization(mine), at=NOW)
    with pytest.raises(StaleError):
        await store.issuance.record(certificate(mine, made), thumbprint="t", at=NOW)
    assert await rows(store, "SELECT status FROM orders") == [("ready",)]
    made, _ = await ready_order(store, other)
    await store.issuance.record(certificate(other, made), thumbprint="t", at=NOW)


class TestKeys:
    async def test_replaced(self, store: Store) -> None:
        """RFC 8555 §7.3.5: the new key in the old one's place, and nothing else."""
        made, key = await kept_account(store), public_key()
        changed = await store.accounts.replace_key(made, key, spki_sha256=SPKI, at=NOW)
        assert changed == dataclasses.replace(made, thumbprint=key.thumbprint, jwk=key.jwk)
        assert await store.accounts.by_id(made.id) == changed
        assert await store.accounts.by_thumbprint(made.thumbprint) is None
        assert await rows(store, "SELECT kind FROM audit WHERE subject = $1 ORDER BY sequence", made.id) == [
            ("account.created",),
            ("account.key_changed",),
        ]
        assert await audit.verify(store.database) == []

    async def test_fifty_changes_of_two_accounts_to_one_key(self, store: Store) -> None:
        """§7.3.5, step 9: exactly one is kept; everybody else is told whose key it is."""
        made, key = [await kept_account(store) for _ in range(2)], public_key()
        results = await asyncio.gather(
            *(store.accounts.replace_key(made[number % 2], key, spki_sha256=SPKI, at=NOW) for number in range(50)),
            return_exceptions=True,
        )
        (winner,) = [result for result in results if not isinstance(result, BaseException)]
        others = [result for result in results if result is not winner]
        assert all(isinstance(result, KeyTakenError) and result.account_id == winner.id for result in others)
        (loser,) = [item for item in made if item.id != winner.id]
        assert await store.accounts.by_id(loser.id) == loser
        assert await store.accounts.by_thumbprint(key.thumbprint) == winner
        assert await rows(store, "SELECT COUNT(*) FROM audit WHERE kind = 'account.key_changed'") == [(1,)]

    async def test_fifty_changes_of_one_account(self, store: Store) -> None:
        """Each names the key that it saw; the first change makes that another one."""
        made = await kept_account(store)
        keys = [public_key() for _ in range(50)]
        results = await asyncio.gather(
            *(store.accounts.replace_key(made, key, spki_sha256=SPKI, at=NOW) for key in keys), return_exceptions=True
        )
        assert [type(result) for result in results].count(StaleError) == 49
        kept = await store.accounts.by_id(made.id)
        assert kept in results

    async def test_its_own_key(self, store: Store) -> None:
        made = await kept_account(store, thumbprint=(key := public_key()).thumbprint, jwk=key.jwk)
        with pytest.raises(KeyTakenError) as caught:
            await store.accounts.replace_key(made, key, spki_sha256=SPKI, at=NOW)
        assert caught.value.account_id == made.id

    @pytest.mark.parametrize("status", ["deactivated", "revoked"])
    async def test_of_a_valid_account_only(self, store: Store, status: str) -> None:
        made = await kept_account(store)
        await change(store, "UPDATE accounts SET status = $1 WHERE id = $2", status, made.id)
        before = await rows(store, "SELECT * FROM accounts")
        with pytest.raises(StaleError):
            await store.accounts.replace_key(made, public_key(), spki_sha256=SPKI, at=NOW)
        assert await rows(store, "SELECT * FROM accounts") == before

    async def test_not_to_a_certified_key(self, store: Store) -> None:
        """RFC 8555 §11.1, whichever came first; asked in the transaction that changes."""
        made, kept = await kept_account(store), await issued_certificate(store)
        with pytest.raises(KeyRefusedError, match="key of a certificate"):
            await store.accounts.replace_key(made, public_key(), spki_sha256=kept.spki_sha256, at=NOW)
        assert await store.accounts.by_id(made.id) == made

    async def test_a_key_that_became_an_accounts_is_not_certified(self, store: Store) -> None:
        made, key = await kept_account(store), public_key()
        await store.accounts.replace_key(made, key, spki_sha256=SPKI, at=NOW)
        with pytest.raises(KeyRefusedError, match="key of an ACME account"):
            await store.issuance.record(certificate(), thumbprint=key.thumbprint, at=NOW)
        await store.issuance.record(certificate(), thumbprint=made.thumbprint, at=NOW)  # the old one is nobody's

    async def test_neither_to_nor_from_a_blocked_key(self, store: Store) -> None:
        """RULES §1: a blocked key "is refused everywhere", also when it was blocked since the request was verified."""
        made, key, leaked = await kept_account(store), public_key(), await issued_certificate(store)
        await revoke(store, leaked, reason=1)
        for thumbprint, error in ((key.thumbprint, KeyRefusedError), (made.thumbprint, StaleError)):
            await change(store, "UPDATE blocked_keys SET thumbprint = $1", thumbprint)
            with pytest.raises(error):
                await store.accounts.replace_key(made, key, spki_sha256=SPKI, at=NOW)
        assert await store.accounts.by_id(made.id) == made
