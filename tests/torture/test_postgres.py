"""Two replicas on one PostgreSQL, eight clients at work, and the database is stopped, restarted and failed over.

Each replica has its own data directory with the same issuer's keys and its own listeners; the clients are spread over both.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from acmeca import app
from tests.support.crash_server import CrashServer
from tests.support.installations import Installation, make_installation, short_directory
from tests.support.postgres import administer, make_database, make_server, make_standby, wait_for
from tests.support.stages import (
    PATIENCE,
    TORTURE,
    Client,
    Load,
    Stage,
    check,
    chosen,
    clients_of,
    served,
    start_load,
    stopped,
    until,
)

CLIENTS: Final = 8
SYNCHRONOUS: Final = "synchronous_standby_names = 'standby'\n"


@dataclass
class Replicas:
    """Two servers under load."""

    stages: list[Stage]
    servers: list[CrashServer]
    load: Load

    async def progress(self, certificates: int = CLIENTS) -> None:
        """Wait until the clients have got so many more."""
        target = len(self.load.obtained) + certificates
        await until(
            lambda: len(self.load.obtained) >= target or any(task.done() for task in self.load.tasks),
            what=f"{certificates} more certificates",
            seconds=2 * PATIENCE,
        )
        for task in self.load.tasks:
            assert not task.done(), task.exception()

    async def finish(self) -> None:
        """Every client gets what it waits for, the servers end in good order, and everything holds."""
        async with asyncio.timeout(3 * PATIENCE):
            await self.load.finish()
        assert self.load.failed_orders == []
        for server in self.servers:
            await stopped(server)
        first, *others = self.stages
        evidence = await first.evidence()
        writers = {row["writer"] for row in evidence.tables["audit"] if row["kind"] == "certificate.issued"}
        assert len(writers) >= 2, "both replicas were to issue"
        await check(first, self.load.obtained, others=others)


@asynccontextmanager
async def replicas(url: str, **options: Any) -> AsyncIterator[Replicas]:
    """A new CA in a database, two servers of it, and their clients."""
    async with AsyncExitStack() as stack:
        directories = [stack.enter_context(short_directory(in_memory=True)) for _ in range(2)]
        storage = f'\n[storage]\nurl = "{url}"\n'
        stages = [Stage(make_installation(directory, more=storage)) for directory in directories]
        await app.init(stages[0].config, actor="system")
        give_keys(stages[0].installation, stages[1].installation)
        servers = [await stack.enter_async_context(served(stage.plan(**options))) for stage in stages]
        clients = [await stack.enter_async_context(clients_of(stage.installation)) for stage in stages]
        share_answers(clients)
        load = start_load(clients[0], CLIENTS, seconds=6 * PATIENCE, others=clients[1:])
        yield Replicas(stages, servers, load)


def give_keys(source: Installation, target: Installation) -> None:
    """What an administrator copies to a second host."""
    target.data_dir.mkdir(mode=0o700)
    shutil.copytree(source.data_dir / "keys", target.data_dir / "keys")
    shutil.copy(source.root_path, target.root_path)


def share_answers(clients: list[Client]) -> None:
    """A validation may be done by either replica, each asks at its own port."""
    for client in clients[1:]:
        client.board.key_authorizations = clients[0].board.key_authorizations


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", chosen([signal.SIGINT, signal.SIGTERM, signal.SIGQUIT], tested=[signal.SIGQUIT]))
async def test_the_database_is_restarted(how: signal.Signals) -> None:
    """Stopped (fast, smart, immediate), away for a while, started again: the clients wait, and everybody gets a certificate; what
    they hold is in the database."""
    with make_server() as server:
        name = await make_database(server)
        async with replicas(server.url(name)) as running:
            for _ in range(2 if TORTURE else 1):
                await running.progress()
                if how is signal.SIGTERM:  # smart: it waits for its clients to go, and ours stay
                    os.kill(server.pid, how)
                    await asyncio.sleep(1)
                await asyncio.to_thread(server.stop, signal.SIGINT if how is signal.SIGTERM else how)
                with pytest.raises(OSError):
                    await administer(server, "SELECT 1")
                await asyncio.sleep(1)
                await asyncio.to_thread(server.start)
            await running.progress()
            await running.finish()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", chosen([signal.SIGQUIT, signal.SIGINT], tested=[signal.SIGQUIT]))
async def test_the_database_fails_over(how: signal.Signals) -> None:
    """The primary dies under load and its synchronous standby is promoted, with a URL that names both: nothing that was
    acknowledged is lost, and the replicas go on by themselves."""
    with make_server() as primary:
        name = await make_database(primary)
        with make_standby(primary) as standby:
            primary.configure(SYNCHRONOUS)
            await administer(primary, "SELECT pg_reload_conf()")
            await wait_for(primary, "SELECT sync_state = 'sync' FROM pg_stat_replication")
            async with replicas(primary.tcp_url(name, standby)) as running:
                await running.progress()
                await asyncio.to_thread(primary.stop, how)
                held = list(running.load.obtained)
                await administer(standby, "SELECT pg_promote(true, 60)")
                await wait_for(standby, "SELECT NOT pg_is_in_recovery()")
                await running.progress()
                assert set(held) <= set(running.load.obtained)
                await running.finish()
