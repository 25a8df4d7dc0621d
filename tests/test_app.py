"""The composition root: who may open a data directory, and what a start does when the disk is full."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from acmeca.app import opened_store
from acmeca.errors import AcmecaError
from acmeca.storage.errors import StorageError
from acmeca.storage.store import Store
from tests.support.server import Site, ca_site

_IS_ROOT = os.geteuid() == 0


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with ca_site() as site:
        await site.init()
        yield site


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720, 0o702])
async def test_a_directory_that_others_can_write_to(site: Site, mode: int) -> None:
    """RULES §6: whoever can put a file in a key's place needs no key."""
    data_dir = site.config.server.data_dir
    data_dir.chmod(mode)
    with pytest.raises(AcmecaError, match=f"chmod 700 {data_dir}"):
        async with opened_store(site.config):
            pass
    data_dir.chmod(0o700)
    async with opened_store(site.config):
        pass


@pytest.mark.skipif(not _IS_ROOT, reason="only root can give a directory away")
async def test_a_directory_of_another_user(site: Site) -> None:
    os.chown(site.config.server.data_dir, 65534, -1)
    with pytest.raises(AcmecaError, match="belongs to another user"):
        async with opened_store(site.config):
            pass


async def test_what_a_kill_left_of_a_key_is_removed(site: Site) -> None:
    leftover: Path = site.config.server.data_dir / "keys" / ".x.key.pem.0123.tmp"
    leftover.write_bytes(b"half a key")
    async with opened_store(site.config):
        assert not leftover.exists()


async def test_status_is_served_when_the_disk_is_full(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be issued then, but what was issued can still be asked about."""
    async with site.running() as ca:
        client = await ca.client()
        issued = await client.issue("a.localhost")

    async def full(*_: object, **__: object) -> None:
        raise StorageError("database or disk is full")

    monkeypatch.setattr(Store, "note", full)
    async with site.running() as ca:
        assert await ca.relying_party().status(issued.serial) == "GOOD"
