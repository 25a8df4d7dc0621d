"""Clients that order one certificate after another while a test does something to the server.

Rule 1: each has an account and connections of its own, and never gives up (`PersistentClient`).
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from tests.support.http_peer import http_peer
from tests.support.installations import Installation
from tests.support.persistent_client import Board, PersistentClient, client_session

PATIENCE: Final = 120.0  # seconds in which a client has to be done, with several starts meanwhile on a busy machine


@asynccontextmanager
async def load(installation: Installation, *, clients: int = 2) -> AsyncIterator[list[PersistentClient]]:
    """Clients that order one certificate after another until the block ends; then each finishes what it has begun."""
    board, stop = Board(), asyncio.Event()
    deadline = time.monotonic() + PATIENCE

    async def order(account: PersistentClient, prefix: str) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            await account.obtain(f"{prefix}-{number}.localhost")

    async with (
        http_peer(board.script, port=installation.http_port),
        AsyncExitStack() as stack,
    ):
        accounts = []
        for _ in range(clients):  # each with connections of its own
            session = await stack.enter_async_context(client_session(installation.root_path.read_bytes()))
            accounts.append(PersistentClient(session, installation.directory_url, board, deadline=deadline))
        async with asyncio.TaskGroup() as group:
            for number, account in enumerate(accounts):
                group.create_task(order(account, f"load{number}"))
            try:
                yield accounts
            finally:
                stop.set()


async def more(accounts: Sequence[PersistentClient], count: int = 3) -> None:
    """Wait until each has some more certificates."""
    wanted = [len(account.obtained) + count for account in accounts]
    deadline = time.monotonic() + PATIENCE
    while any(len(account.obtained) < goal for account, goal in zip(accounts, wanted, strict=True)):
        assert time.monotonic() < deadline, [account.seen for account in accounts]
        await asyncio.sleep(0.02)
