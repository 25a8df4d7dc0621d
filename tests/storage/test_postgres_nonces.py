"""acmeca.storage.postgres_nonces: one window of nonces for all replicas, which forgets itself whole or not at all."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from acmeca.acme.nonces import CAPACITY
from acmeca.storage.postgres_nonces import _BLOCK, _PRUNED_EVERY, _SPEND, PostgresNonces
from tests.support.postgres import (
    administer,
    lend_database,
    make_database,
    make_server,
    require_programs,
    shared_server,
)


@asynccontextmanager
async def open_nonces(url: str) -> AsyncIterator[PostgresNonces]:
    nonces = await PostgresNonces.open(url, entropy=os.urandom)
    try:
        yield nonces
    finally:
        await nonces.close()


async def test_once_at_whatever_replica() -> None:
    async with lend_database() as name:
        url = shared_server().url(name)
        async with open_nonces(url) as a, open_nonces(url) as b:
            nonce = await a.mint()
            assert [await each.redeem(nonce) for each in (b, a, b)] == [True, False, False]


async def test_a_statement_that_began_before_the_window_moved_spends_nothing_twice() -> None:
    """Rule 3: what it takes for a part of the window is out of it by now, and was spent."""
    end = CAPACITY + _BLOCK * _PRUNED_EVERY  # where a block is pruned after
    async with lend_database() as name:
        url = shared_server().url(name)
        async with open_nonces(url) as nonces:
            epoch = nonces._epoch
            assert epoch is not None
            floor = end - _BLOCK - CAPACITY
            await administer(
                shared_server(),
                f"UPDATE nonce_epoch SET next = {end - _BLOCK}, floor = {floor}",
                "SELECT 1",
                database=name,
            )
            assert await nonces.redeem(epoch.cipher.seal(floor))
            slow = await asyncpg.connect(url)
            try:
                async with slow.transaction(isolation="repeatable_read"):
                    await slow.fetch("SELECT floor FROM nonce_epoch")
                    await nonces.mint()
                    assert nonces._block_end == end
                    assert await slow.execute(_SPEND, floor, epoch.number) == "INSERT 0 0"
            finally:
                await slow.close()
            assert not await nonces.redeem(epoch.cipher.seal(floor))


async def test_a_server_that_crashed_begins_another_epoch_at_once() -> None:
    """Rules 1 and 4: what was spent is not fresh again, and what is minted from now on is good."""
    require_programs()
    with make_server() as server:
        url = server.url(await make_database(server))
        async with open_nonces(url) as a, open_nonces(url) as b:
            spent, unspent = await a.mint(), await a.mint()
            assert await b.redeem(spent)
            server.stop()
            server.start()
            assert [await each.redeem(spent) for each in (a, b, a, b)] == [False] * 4
            assert not await a.redeem(unspent)
            assert await b.redeem(await a.mint())
            assert await a.redeem(await b.mint())
