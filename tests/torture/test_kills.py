"""kill -9 at random moments, under twenty clients (labelled steps are in `test_steps.py`).

ACMECA_CRASHES says how many (25, and 500 in `make torture`), in parts of 25 with a CA of its own each; ACMECA_CRASH_SEED is the
seed of the first part, printed with each, so that a part can be repeated: ACMECA_CRASHES=25 ACMECA_CRASH_SEED=….
"""

import asyncio
import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from acmeca import app
from acmeca.recovery import make_backup, restore
from acmeca.storage.restore import Restored
from tests.support.persistent_client import PersistentClient
from tests.support.stages import (
    KILLED,
    UNFINISHED,
    Client,
    Journalled,
    Load,
    Stage,
    check,
    count,
    served,
    start_load,
    stopped,
    until,
)

CRASHES: Final = count("ACMECA_CRASHES", tested=25, tortured=500)
SEED: Final = int(os.environ.get("ACMECA_CRASH_SEED", "8555"))
CLIENTS: Final = 20
LONGEST_LIFE: Final = 10.0  # seconds, on a machine that is very busy
_PART: Final = 25

PARTS: Final = [(SEED + first // _PART, min(_PART, CRASHES - first)) for first in range(0, CRASHES, _PART)]


@pytest.mark.timeout(120 + 20 * _PART)
@pytest.mark.parametrize(("seed", "crashes"), PARTS)
async def test_killed_at_random_moments(stage: Stage, client: Client, seed: int, crashes: int) -> None:
    """kill -9 again and again under twenty clients, at moments drawn from a seed. Nobody's order fails, nothing is lost, nothing
    is made twice, every rule of `check` holds; after each kill the journal has whatever the database has, and a nonce that
    was spent before it is refused after it."""
    backup = stage.installation.directory / "backups" / "before.backup"
    await backed_up(stage, backup)
    print(f"ACMECA_CRASHES={crashes} ACMECA_CRASH_SEED={seed}")  # noqa: T201  (how to repeat it)
    moments = random.Random(seed)
    journalled = Journalled()
    audited = 0
    load = start_load(client, CLIENTS, seconds=100 + 18 * crashes)
    spent: list[tuple[PersistentClient, str]] = []
    replayed = 0
    for _ in range(crashes):
        async with served(stage.plan()) as server:
            if spent and moments.random() < 0.5:
                replayed += await replay(moments.sample(spent, k=min(3, len(spent))))
            await live_for_a_while(load, moments)
            assert await asyncio.to_thread(server.kill) == KILLED
        spent = [(account, account.spent[-1]) for account in load.accounts if account.spent]
        audited = await asyncio.to_thread(look_at_journal, stage, journalled, audited)
    async with served(stage.plan()) as server:
        replayed += await replay(spent)
        await load.finish()
        await until(lambda: not stage.rows(UNFINISHED), what="all work is finished")
        await stopped(server)
    assert load.failed_orders == []
    assert len(load.obtained) >= CLIENTS
    assert replayed >= CLIENTS // 2
    assert stage.number("SELECT COUNT(*) FROM certificates WHERE revocation_sequence IS NOT NULL") == load.revoked
    await check(stage, load.obtained)
    # From the backup of before and the journals alone, everything comes back.
    restored = await tried_restore(stage, backup)
    assert restored.is_complete, restored.losses
    assert restored.tally.changed["signature"] >= len(load.obtained)
    assert restored.tally.changed.get("revocation", 0) == load.revoked


async def backed_up(stage: Stage, path: Path) -> None:
    path.parent.mkdir()
    await asyncio.to_thread(
        lambda: make_backup(
            stage.config,
            path,
            with_keys=False,
            may_replace=False,
            now=datetime.now(UTC),
            on_progress=lambda _what, _done, _total: None,
        )
    )


async def tried_restore(stage: Stage, path: Path) -> Restored:
    """What `acmeca restore --trial` comes to: it compares with the ends of the chains in the database that is there."""
    placed = await restore(
        stage.config,
        path,
        journal_dirs=[],
        without_journals=False,
        is_trial=True,
        may_lose=lambda _: False,
        actor="system",
        ambient=app.real_ambient(),
    )
    return placed.restored


async def live_for_a_while(load: Load, moments: random.Random) -> None:
    """From dying with the first request to working for a while. It is counted in answers, so that a slow machine gets as far as a
    quick one; the last moment is one of time, to be in the middle of something."""
    answers = answered(load) + int(moments.choice((1, 10, 80)) * moments.random())
    end = time.monotonic() + LONGEST_LIFE
    while answered(load) < answers and time.monotonic() < end:  # noqa: ASYNC110  (the clients tell nobody)
        await asyncio.sleep(0.005)
    done, _pending = await asyncio.wait(load.tasks, timeout=0.03 * moments.random())
    assert not done, [task.exception() for task in done]


def answered(load: Load) -> int:
    """How many requests of the clients were answered well."""
    return sum(len(account.spent) for account in load.accounts)


async def replay(spent: list[tuple[PersistentClient, str]]) -> int:
    """RFC 8555 §6.5: nonces that were accepted once are refused for ever, also by a server that was not there then."""
    for account, nonce in spent:
        assert await account.is_refused(nonce), f"{nonce} was accepted twice"
    return len(spent)


def look_at_journal(stage: Stage, journalled: Journalled, audited: int) -> int:
    """Whatever is committed stands in the journal; returns how many records of the audit there are, of which the older ones were
    looked at before."""
    tables = {table: stage.rows(f"SELECT * FROM {table}") for table in ("accounts", "certificates", "crls")}
    tables["audit"] = stage.rows("SELECT * FROM audit WHERE sequence >= ?", audited)
    journalled.read_new(stage.config.journal_dir)
    journalled.check(tables)
    return max([audited, *(row["sequence"] + 1 for row in tables["audit"])])
