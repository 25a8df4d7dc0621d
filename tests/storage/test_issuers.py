"""The table `issuers`: a hierarchy is there whole or not at all."""

import pytest

from acmeca.storage import audit
from acmeca.storage.errors import NotUniqueError, StorageError
from acmeca.storage.store import Store
from tests.support.stored import NOW, root_crl, rows, stored_issuer, stored_root


async def test_kept_as_they_were_given(store: Store) -> None:
    assert await store.issuers.all() == [stored_root(), stored_issuer()]
    assert await store.crls.latest("root") == root_crl()


async def test_parents_stand_first(store: Store) -> None:
    await store.issuers.create(
        [stored_root("a-root"), stored_issuer("0-issuer", parent_id="a-root")], [], actor="admin:test", at=NOW
    )
    ids = [item.issuer.id for item in await store.issuers.all()]
    assert set(ids[:2]) == {"root", "a-root"}
    assert set(ids[2:]) == {"issuer", "0-issuer"}
    assert [item.is_root for item in await store.issuers.all()] == [True, True, False, False]


async def test_whole_or_not_at_all(store: Store) -> None:
    before = [await rows(store, f"SELECT * FROM {table}") for table in ("issuers", "crls", "audit")]
    with pytest.raises(NotUniqueError):
        await store.issuers.create([stored_root("new"), stored_issuer()], [root_crl("new")], actor="admin:test", at=NOW)
    with pytest.raises(NotUniqueError):
        await store.issuers.create([stored_root("new")], [root_crl("root")], actor="admin:test", at=NOW)
    with pytest.raises(StorageError):  # a parent that is not there
        await store.issuers.create([stored_issuer("new", parent_id="nobody")], [], actor="admin:test", at=NOW)
    assert [await rows(store, f"SELECT * FROM {table}") for table in ("issuers", "crls", "audit")] == before


async def test_audit(store: Store) -> None:
    kinds = await rows(store, "SELECT kind, actor, subject FROM audit ORDER BY sequence")
    assert kinds == [
        ("issuer.created", "admin:test", "root"),
        ("issuer.created", "admin:test", "issuer"),
        ("crl.signed", "system", "root"),
    ]
    assert await audit.verify(store.database) == []
