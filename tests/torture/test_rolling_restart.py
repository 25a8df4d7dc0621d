"""Servers that are restarted one after another, behind a balancer and under load. In `make torture` alone: see `conftest.py`."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from acmeca import app
from acmeca.config import load_config
from acmeca.storage import audit as audit_storage
from tests.support.load import load, more
from tests.support.postgres import make_database, require_programs, shared_server
from tests.support.replicas import make_replicas


@pytest.mark.timeout(240)
async def test_a_rolling_restart_under_load(tmp_path: Path) -> None:
    """PostgreSQL, one replica with two workers: each server in turn is stopped and started again, while clients behind the
    balancer go on. No order of a client that retries is lost, and nothing was issued twice."""
    require_programs()
    postgres = shared_server()
    made = await make_replicas(tmp_path, storage_url=postgres.url(await make_database(postgres)))
    with ExitStack() as stack:
        stack.enter_context(made.balanced())
        options: dict[int, tuple[str, ...]] = {0: ("--workers", "2"), 1: ()}
        running = [
            stack.enter_context(await asyncio.to_thread(server.serve, *options[number]))
            for number, server in enumerate(made.servers)
        ]
        async with load(made.front) as accounts:
            await more(accounts)
            for number, server in enumerate(made.servers):
                assert await asyncio.to_thread(running[number].terminate) == 0, running[number].output
                await more(accounts, 1)
                running[number] = stack.enter_context(await asyncio.to_thread(server.serve, *options[number]))
                await more(accounts, 1)
        assert [account.failed_orders for account in accounts] == [[]] * len(accounts)
        for process in running:
            assert await asyncio.to_thread(process.terminate) == 0, process.output
    async with app.opened_store(load_config(made.servers[0].config_path, {})) as store:
        assert await audit_storage.verify(store.database) == []
        rows = await store.database.fetch_all("SELECT serial FROM certificates WHERE signature IS NOT NULL")
    serials = [item.serial for account in accounts for item in account.obtained]
    assert len(set(serials)) == len(serials)
    assert set(serials) <= {row["serial"] for row in rows}
