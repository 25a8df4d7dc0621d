"""The documents of profiles: kept once, journalled, told to the audit, read back as they were."""

import asyncio
import json

import pytest

from acmeca.storage import audit
from acmeca.storage.errors import StorageError
from acmeca.storage.store import Store
from tests.support.profiles import DAY, make_profile
from tests.support.stored import NOW, change, kept_account, kept_order, rows

PROFILE = make_profile(name="web", description="Köln")


async def test_read_back(store: Store) -> None:
    await store.profiles.keep(PROFILE, at=NOW)
    assert await store.profiles.by_id(PROFILE.id) == PROFILE
    assert await store.profiles.by_id("0" * 64) is None
    assert await store.profiles.ids() == {PROFILE.id}


async def test_kept_once(store: Store) -> None:
    """Several workers start at once: one row, one record in the audit."""
    others = [make_profile(lifetime=days * DAY) for days in (1, 2)]
    await asyncio.gather(*(store.profiles.keep(profile, at=NOW) for profile in (PROFILE, *others) for _ in range(10)))
    assert await store.profiles.ids() == {PROFILE.id, *(profile.id for profile in others)}
    events = await rows(store, "SELECT event FROM audit WHERE kind = 'profile.recorded'")
    told = {json.loads(event)["subject"]: json.loads(event) for (event,) in events}
    assert len(events) == len(told) == 3
    assert (told[PROFILE.id]["name"], told[PROFILE.id]["document"]) == ("web", PROFILE.document)
    assert await audit.verify(store.database) == []


async def test_one_that_a_newer_program_wrote(store: Store) -> None:
    await store.profiles.keep(PROFILE, at=NOW)
    await change(store, "UPDATE profiles SET document = $1", PROFILE.document.replace("{", '{"also":1,', 1))
    with pytest.raises(StorageError, match=f"the profile {PROFILE.id}: .* a newer acmeca wrote it"):
        await store.profiles.by_id(PROFILE.id)


async def test_an_order_names_one_that_is_kept(store: Store) -> None:
    """Rule 1 of service/profiles.py, held by the database."""
    owner = await kept_account(store)
    with pytest.raises(StorageError):
        await kept_order(store, owner, profile="web", profile_id=PROFILE.id)
    await store.profiles.keep(PROFILE, at=NOW)
    made, _ = await kept_order(store, owner, profile="web", profile_id=PROFILE.id)
    found = await store.orders.by_id(owner.id, made.id)
    assert found is not None
    assert (found.profile, found.profile_id) == ("web", PROFILE.id)
