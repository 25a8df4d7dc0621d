"""Databases whose commits are journalled, and what of them a replay has to bring back.

Rule 1: the histories are made by the stores themselves, so what they journal is what is replayed.
Rule 2: what is compared is every column that is journalled, and nothing else: orders are not, nor who has something in hand, nor CRLs that were
followed by others.
"""

import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from acmeca.acme.jwk import PublicKey
from acmeca.acme.objects import Account
from acmeca.policy.grants import Grant, GrantStatus
from acmeca.storage.certificates import Certificate
from acmeca.storage.journal import Journal
from acmeca.storage.keys import BlockedKey
from acmeca.storage.schema import read_steps
from acmeca.storage.sqlite import SqliteDatabase
from acmeca.storage.store import Store
from acmeca.storage.writers import CommitSeal, Writer
from tests.support import stored
from tests.support.databases import connect
from tests.support.profiles import make_profile
from tests.support.stored import NOW

_ACTS: Final = (
    *("grant", "account", "contact", "agree", "key", "disable", "enable", "account"),
    *("order", "own", "own", "revoke", "raise", "crl"),
    *("replace", "window", "window", "window", "shut", "record", "block", "profile"),
)

_KEY: Final = ec.generate_private_key(ec.SECP256R1()).public_key()  # its text is what is kept

_instances = itertools.count(1)

JOURNALLED: Final = {
    "issuers": "SELECT * FROM issuers ORDER BY id",
    "grants": "SELECT * FROM grants ORDER BY id",
    "accounts": "SELECT * FROM accounts ORDER BY id",
    "profiles": "SELECT * FROM profiles ORDER BY id",
    "certificates": "SELECT id, serial, issuer_id, account_id, profile, profile_id, spki_sha256, not_before, not_after, tbs, signature,"
    " recorded_at, issued_at, revoked_at, revocation_reason, revocation_sequence, replaced_by, names_digest FROM certificates ORDER BY id",
    "names": "SELECT * FROM certificate_names ORDER BY certificate_id, name",
    "renewals": "SELECT * FROM renewal_overrides ORDER BY id",
    "blocked_keys": "SELECT * FROM blocked_keys ORDER BY spki_sha256",
    "crls": "SELECT issuer_id, MAX(number), this_update, next_update, through_sequence, entries,"
    " CASE issuer_id WHEN 'root' THEN der END FROM crls GROUP BY issuer_id",
    "audit": "SELECT * FROM audit ORDER BY writer, sequence",
}


def journalled_state(path: Path) -> dict[str, list[Any]]:
    """What a replay has to bring back, table by table."""
    with connect(path) as connection:
        return {name: connection.execute(sql).fetchall() for name, sql in JOURNALLED.items()}


@contextlib.asynccontextmanager
async def journalled_store(
    directory: Path, *, name: str = "test", segment_bytes: int = 1 << 20
) -> AsyncIterator[Store]:
    """A store in `acmeca.db`, journalled in `journal`, whose writer has just claimed its name. Instances are named in their order."""
    writer = Writer(name, f"instance-{next(_instances):06d}")
    ticks = itertools.count(int(NOW.timestamp()))
    journal = Journal(
        directory / "journal",
        writer=name,
        instance=writer.instance,
        clock=lambda: NOW + timedelta(seconds=next(ticks) - NOW.timestamp()),
        segment_bytes=segment_bytes,
    )
    seal = CommitSeal(writer, journal, schema=len(read_steps()))
    store = Store(await SqliteDatabase.open(directory / "acmeca.db", seal=seal), writer=writer)
    try:
        await store.writers.claim(alone=False)
        yield store
        await store.writers.release()
    finally:
        await store.close()
        journal.close()


async def make_hierarchy(store: Store) -> None:
    await store.issuers.create(
        [stored.stored_root(), stored.stored_issuer()], [stored.root_crl()], actor="admin:test", at=NOW
    )


async def revoke(store: Store, certificate: Certificate, reason: int | None = None) -> None:
    await store.certificates.revoke(
        certificate,
        reason=reason,
        may_raise=True,
        thumbprint=f"key of {certificate.id}",
        actor="admin:test",
        how="administrator",
        at=NOW,
    )


async def live(stores: Sequence[Store], steps: int, *, seed: int) -> None:
    """A history of `steps` acts by several writers, with everything in it that is journalled."""
    chance = random.Random(seed)
    grants: list[Grant] = []
    accounts: list[Account] = []
    certificates: list[Certificate] = []
    revoked: list[Certificate] = []
    for step in range(steps):
        store = chance.choice(stores)
        act = _ACTS[step] if step < len(_ACTS) else chance.choice(_ACTS)
        if act in {"grant", "disable", "enable"} or not grants:
            await _change_grants(store, act, grants, place=chance.randrange(len(grants) + 1), days=step + 1)
        elif act == "account" or not accounts:
            accounts.append(await _new_account(store, grants[-1], with_terms=step % 2 == 0))
        elif act in {"contact", "agree", "key", "shut"}:
            await _change_account(store, act, accounts, place=chance.randrange(len(accounts)), name=f"{seed}-{step}")
        elif act in _WITHOUT_AN_ACCOUNT:
            await _WITHOUT_AN_ACCOUNT[act](store)
        elif act == "raise" and revoked:
            await revoke(store, revoked.pop(), reason=1)
        elif act == "revoke" and certificates:
            revoked.append(certificates.pop(chance.randrange(len(certificates))))
            await revoke(store, revoked[-1], reason=4)
        else:
            owner = chance.choice(accounts)
            certificates += await _issue(store, act if await _may_order(store, owner) else "own", owner, step)


async def _may_order(store: Store, account: Account) -> bool:
    """Whether the grant that it is bound to, if any, was not disabled."""
    found = None if account.grant_id is None else await store.grants.by_id(account.grant_id)
    return found is None or found.grant.obstacle(NOW) is None


async def _issue(store: Store, act: str, owner: Account, step: int) -> list[Certificate]:
    if not await _may_order(store, owner):
        owner = await stored.kept_account(store)
    if act == "order":
        order, _ = await stored.ready_order(store, owner)
        return [await stored.issued_certificate(store, owner=owner, for_order=order)]
    if act == "profile":
        profile = make_profile(lifetime=timedelta(days=1 + step))
        await store.profiles.keep(profile, at=NOW)
        order, _ = await stored.ready_order(store, owner, profile_id=profile.id)
        return [await stored.issued_certificate(store, owner=owner, for_order=order, profile_id=profile.id)]
    if act == "replace":
        return await _replace(store, owner)
    return [await stored.issued_certificate(store, names=(f"n{step}.example.org", "*.example.org"))]


async def _may_order(store: Store, owner: Account) -> bool:
    found = None if owner.grant_id is None else await store.grants.by_id(owner.grant_id)
    return found is None or found.grant.obstacle(NOW) is None


async def _replace(store: Store, owner: Account) -> list[Certificate]:
    """Two certificates, one of which took the other's place."""
    old = await stored.issued_certificate(store, owner=owner)
    order, _ = await stored.ready_order(store, owner, replaces=stored.identifier(old))
    return [old, await stored.issued_certificate(store, owner=owner, for_order=order)]


async def _set_window(store: Store) -> None:
    """Set one, and take back the one before the last."""
    await store.renewals.set(stored.override(), certificates=1, actor="admin:test")
    for override in (await store.renewals.in_force())[2:]:
        await store.renewals.clear(override.id, actor="admin:test", at=NOW)


async def _block(store: Store) -> None:
    """A key by its digest alone, and then by its thumbprint too."""
    number = next(_instances)
    for thumbprint in ("", f"blocked-{number}"):
        key = BlockedKey(number.to_bytes(32), thumbprint, blocked_at=NOW, why="it leaked")
        await store.blocked_keys.block(key, actor="admin:test", at=NOW)


async def _record(store: Store) -> None:
    made = stored.certificate(names=("unsigned.example.org",))
    await store.issuance.record(made, thumbprint=made.id, at=NOW)


async def _new_account(store: Store, grant: Grant, *, with_terms: bool) -> Account:
    """An account, by the grant while that lets one be made."""
    found = await store.grants.by_id(grant.id)
    assert found is not None
    is_usable = found.grant.obstacle(NOW) is None
    return await stored.kept_account(
        store, grant_id=grant.id if is_usable else None, terms_of_service="https://t/1" if with_terms else None
    )


async def _change_grants(store: Store, act: str, grants: list[Grant], *, place: int, days: int) -> None:
    """Make another grant, or set the standing of one of them."""
    if act == "grant" or not grants:
        grants.append(await stored.kept_grant(store, names=(f"*.n{days}.example.org",)))
        return
    grant_id = grants[place % len(grants)].id
    found = await store.grants.by_id(grant_id)
    assert found is not None
    if act == "disable" and found.grant.status is GrantStatus.ACTIVE:
        await store.grants.disable(grant_id, actor="admin:test", at=NOW)
    else:
        await store.grants.enable(grant_id, expires_at=NOW + timedelta(days=days), actor="admin:test", at=NOW)


async def _change_account(store: Store, act: str, accounts: list[Account], *, place: int, name: str) -> None:
    """Change one of the accounts; one that is shut is among them no longer."""
    if act == "contact":
        await store.accounts.replace_contact(accounts[place].id, (f"mailto:{name}@example.org",), at=NOW)
    elif act == "agree":
        accounts[place] = await store.accounts.agree(accounts[place].id, f"https://t/{name}", at=NOW)
    elif act == "key":
        key = PublicKey(jwk=f'{{"kid":"{name}"}}', thumbprint=f"thumbprint-{name}", algorithms=(), key=_KEY)
        accounts[place] = await store.accounts.replace_key(accounts[place], key, spki_sha256=bytes(32), at=NOW)
    else:
        await store.accounts.deactivate(accounts.pop(place).id, at=NOW)


async def publish(store: Store) -> int:
    """A CRL of the issuer, begun and published; returns its number."""
    draft = await store.crls.begin("issuer", this_update=NOW, next_update=NOW + timedelta(days=1))
    await store.crls.publish(draft, b"crl", at=NOW)
    return draft.number


_WITHOUT_AN_ACCOUNT: Final[Mapping[str, Callable[[Store], Awaitable[object]]]] = {
    "crl": publish,
    "window": _set_window,
    "record": _record,
    "block": _block,
}
