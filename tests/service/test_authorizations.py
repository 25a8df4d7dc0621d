"""What an order rests on: which of an account's authorizations are taken, and which are not, whatever the database holds."""

import dataclasses
import os
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import Account, Authorization, Challenge, ChallengeType
from acmeca.acme.states import AuthorizationStatus, ChallengeStatus
from acmeca.policy.challenges import ChallengePolicy
from acmeca.policy.lifetimes import Lifetimes
from acmeca.service.ambient import Ambient
from acmeca.service.authorizations import Authorizations, Basis
from acmeca.storage.store import Store
from tests.support.stored import NOW, authorization, change, kept_account, open_store

HTTP_01, DNS_01, TLS = ChallengeType.HTTP_01, ChallengeType.DNS_01, ChallengeType.TLS_ALPN_01
DAY = timedelta(days=1)


def name(text: str) -> Identifier:
    return Identifier(IdentifierType.DNS, text)


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with open_store() as store:
        yield store


@pytest.fixture
async def owner(store: Store) -> Account:
    return await kept_account(store)


def service(store: Store, *, control: timedelta = DAY) -> Authorizations:
    ambient = Ambient(clock=lambda: NOW, entropy=os.urandom, uptime=lambda: 0.0)
    return Authorizations(store, lifetimes=Lifetimes(control), ambient=ambient)


async def shown(
    store: Store, owner: Account, text: str, *, by: ChallengeType = HTTP_01, **changes: Any
) -> Authorization:
    """A valid authorization, shown just now by one of the challenges it had."""
    challenges = tuple(
        Challenge(type_, "token", ChallengeStatus.PENDING)
        if type_ is not by
        else Challenge(type_, "token", ChallengeStatus.VALID, validated_at=NOW)
        for type_ in (HTTP_01, DNS_01, TLS)
    )
    made = authorization(owner, text, **({"status": AuthorizationStatus.VALID, "challenges": challenges} | changes))
    await store.authorizations.create(made, at=NOW)
    return made


async def basis(
    service: Authorizations, owner: Account, *names: str, types: Sequence[ChallengeType] = (HTTP_01, DNS_01)
) -> Basis:
    """For an order whose profile takes these challenge types."""
    identifiers = [name(text) for text in names]
    return await service.for_order(owner.id, identifiers, challenges=ChallengePolicy(tuple(types)), grant=None, now=NOW)


def ids(items: Sequence[Authorization]) -> list[str]:
    return [item.id for item in items]


async def test_in_the_order_of_the_identifiers(store: Store, owner: Account) -> None:
    b, d = await shown(store, owner, "b.example.org"), await shown(store, owner, "d.example.org")
    found = await basis(service(store), owner, "d.example.org", "a.example.org", "b.example.org")
    assert ids(found.authorizations) == [d.id, found.new[0].id, b.id]
    assert ids(found.new) == [found.authorizations[1].id]
    assert found.new[0].identifier == name("a.example.org")
    assert not found.is_complete
    assert (await basis(service(store), owner, "d.example.org")).is_complete


async def test_wildcards_and_base_names(store: Store, owner: Account) -> None:
    """RULES §3: http-01 "never satisf[ies] a wildcard", and control of all below a name is not control of the name."""
    base = await shown(store, owner, "a.example.org", by=DNS_01)
    found = await basis(service(store), owner, "*.a.example.org", "a.example.org")
    assert ids(found.authorizations) == [found.new[0].id, base.id]
    assert (found.new[0].wildcard, found.new[0].identifier) == (True, name("a.example.org"))
    wild = await shown(store, owner, "a.example.org", by=DNS_01, wildcard=True)
    found = await basis(service(store), owner, "*.a.example.org", "a.example.org")
    assert ids(found.authorizations) == [wild.id, base.id]
    # One that some earlier version let http-01 satisfy is none.
    await shown(store, owner, "b.example.org", by=HTTP_01, wildcard=True)
    assert not (await basis(service(store), owner, "*.b.example.org")).is_complete


@pytest.mark.parametrize(("types", "is_taken"), [((HTTP_01,), False), ((DNS_01,), True), ((TLS, DNS_01), True)])
async def test_only_if_its_challenge_type_is_still_allowed(
    store: Store, owner: Account, types: tuple[ChallengeType, ...], *, is_taken: bool
) -> None:
    """RULES §3, last line: it is the type by which control was shown that counts, not one that was offered beside it."""
    await shown(store, owner, "a.example.org", by=DNS_01)
    found = await basis(service(store), owner, "a.example.org", types=types)
    assert found.is_complete == is_taken


async def test_the_one_that_counts_longest(store: Store, owner: Account) -> None:
    await shown(store, owner, "a.example.org", expires_at=NOW + timedelta(hours=5))
    longest = await shown(store, owner, "a.example.org", expires_at=NOW + timedelta(hours=9))
    await shown(store, owner, "a.example.org", expires_at=NOW + timedelta(hours=7))
    found = await basis(service(store), owner, "a.example.org")
    assert ids(found.authorizations) == [longest.id]
    assert found.expires_at == NOW + timedelta(hours=9)


async def test_the_order_ends_with_the_first_of_them(store: Store, owner: Account) -> None:
    await shown(store, owner, "a.example.org", expires_at=NOW + timedelta(hours=5))
    await shown(store, owner, "b.example.org", expires_at=NOW + timedelta(hours=9))
    found = await basis(service(store), owner, "b.example.org", "a.example.org", "c.example.org")
    assert found.expires_at == NOW + timedelta(hours=5)
    assert found.new[0].expires_at >= found.expires_at


@pytest.mark.parametrize(("minutes", "is_taken"), [(59, False), (60, True)])
async def test_an_hour_is_left(store: Store, owner: Account, minutes: int, *, is_taken: bool) -> None:
    await shown(store, owner, "a.example.org", expires_at=NOW + timedelta(minutes=minutes))
    assert (await basis(service(store), owner, "a.example.org")).is_complete == is_taken


async def test_what_a_grant_gave(store: Store, owner: Account) -> None:
    """Rule 3 of authorizations.py: the grant is asked anew for each order."""
    made = await shown(store, owner, "a.example.org")
    await change(
        store,
        "INSERT INTO grants (id, owner, terms, mac_sha256, single_use, status, created_at)"
        " VALUES ('g', 'team', '{}', $1, 0, 'active', 1)",
        bytes(32),
    )
    await change(store, "UPDATE authorizations SET grant_id = 'g' WHERE id = $1", made.id)
    assert not (await basis(service(store), owner, "a.example.org")).is_complete


async def test_control_that_is_not_kept(store: Store, owner: Account) -> None:
    await shown(store, owner, "a.example.org")
    for_none = service(store, control=timedelta())
    assert not for_none.count_beforehand
    assert not (await basis(for_none, owner, "a.example.org")).is_complete


async def test_anew(store: Store, owner: Account) -> None:
    """What is left when an authorization was given up between the look and the order."""
    made = await shown(store, owner, "a.example.org")
    policy = ChallengePolicy((HTTP_01, DNS_01))
    found = service(store).anew(owner.id, [name("a.example.org")], challenges=policy, grant=None, now=NOW)
    assert ids(found.authorizations) == ids(found.new) != [made.id]
    assert dataclasses.replace(found.new[0], id="", challenges=()) == authorization(
        owner, id="", challenges=(), expires_at=NOW + DAY
    )
