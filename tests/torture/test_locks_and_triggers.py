"""The database does not take what is written: another process holds its lock, or a table of it refuses."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

import pytest

from acmeca.storage import sqlite as sqlite_storage
from tests.support.persistent_client import Obtained, PersistentClient
from tests.support.stages import (
    PATIENCE,
    TORTURE,
    Client,
    Stage,
    check,
    chosen,
    crl_listing,
    fetch_crl,
    identifiers,
    is_revoked,
    revocation,
    served,
    stopped,
    until,
)

# --- locked -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", chosen([1.0, 5.0, 30.0], tested=[1.0]))
async def test_another_process_holds_the_lock(stage: Stage, client: Client, seconds: float) -> None:
    """Somebody's sqlite3 has begun a transaction and forgot it, while eight clients order. Within the time a commit waits nobody
    notices; beyond it writes are refused with 503, OCSP and CRL are served; afterwards everybody gets a certificate."""
    accounts = [client.account(PATIENCE + 3 * seconds) for _ in range(8)]
    async with served(stage.plan()) as server:
        known = await accounts[0].obtain("known.localhost")
        await asyncio.gather(*(account.register() for account in accounts[1:]))
        with closing(sqlite3.connect(stage.installation.database_path, isolation_level=None, timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            ordering = [
                client.start(account.obtain(f"locked{number}.localhost")) for number, account in enumerate(accounts)
            ]
            async with asyncio.timeout(PATIENCE):
                assert not await is_revoked(client, known)
                await fetch_crl(client, known)
            audit = stage.number("SELECT COUNT(*) FROM audit")
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            assert not any(task.done() for task in ordering)
            assert stage.number("SELECT COUNT(*) FROM audit") == audit
            other.execute("ROLLBACK")
        obtained = await asyncio.gather(*ordering)
        await stopped(server)
    refused = sum(account.seen["503 serverInternal"] for account in accounts)
    if seconds < sqlite_storage._BUSY_TIMEOUT:
        assert refused == 0
    elif seconds > 2 * sqlite_storage._BUSY_TIMEOUT:
        assert refused >= len(accounts)
        assert "the database refused: database is locked" in server.log
    assert all(account.failed_orders == [] for account in accounts)
    await check(stage, [known, *obtained])


# --- a table that refuses -----------------------------------------------------------------------------------------

WRITTEN: Final = (
    ("accounts", "INSERT"),
    ("orders", "INSERT"),
    ("orders", "UPDATE"),
    ("authorizations", "INSERT"),
    ("authorizations", "UPDATE"),
    ("order_authorizations", "INSERT"),
    ("validation_jobs", "INSERT"),
    ("validation_jobs", "DELETE"),
    ("certificates", "INSERT"),
    ("certificates", "UPDATE"),
    ("certificate_names", "INSERT"),
    ("blocked_keys", "INSERT"),
    ("crls", "INSERT"),
    ("crls", "UPDATE"),
    ("crls", "DELETE"),
    ("audit", "INSERT"),
    ("limits", "INSERT"),
    ("writers", "UPDATE"),
)
"""What the life of a certificate writes, from the account to the CRL that lists it."""

NOT_WRITTEN: Final = (
    ("accounts", "UPDATE"),
    ("accounts", "DELETE"),
    ("orders", "DELETE"),
    ("authorizations", "DELETE"),
    ("order_authorizations", "UPDATE"),
    ("order_authorizations", "DELETE"),
    ("validation_jobs", "UPDATE"),
    ("certificates", "DELETE"),
    ("certificate_names", "UPDATE"),
    ("certificate_names", "DELETE"),
    ("blocked_keys", "UPDATE"),
    ("blocked_keys", "DELETE"),
    ("audit", "UPDATE"),
    ("audit", "DELETE"),
    ("limits", "UPDATE"),
    ("limits", "DELETE"),
    ("writers", "INSERT"),
    ("writers", "DELETE"),
    *(
        (table, verb)
        for table in (
            "audit_heads",
            "grants",
            "issuers",
            "leases",
            "profiles",
            "renewal_overrides",
            "retention",
            "schema_version",
        )
        for verb in ("INSERT", "UPDATE", "DELETE")
    ),
)
"""What it does not."""

BY_DUTY: Final = frozenset(
    {
        ("orders", "UPDATE"),  # the outcome of a validation
        ("validation_jobs", "DELETE"),
        ("certificates", "UPDATE"),  # the signature: the order stays "processing"
        ("crls", "INSERT"),
        ("crls", "UPDATE"),
        ("crls", "DELETE"),
    }
)
"""What is written beside the requests: the client hears nothing of a failure, and waits."""


TESTED: Final = (("orders", "UPDATE"), ("certificates", "INSERT"), ("crls", "UPDATE"))
OLDER_CRLS: Final = 4 if TORTURE else 0  # so that there are some to be deleted


@contextmanager
def refusing(stage: Stage, table: str, verb: str) -> Iterator[None]:
    """As long as this lasts, one kind of write to one table fails."""
    with closing(sqlite3.connect(stage.installation.database_path, isolation_level=None, timeout=30)) as other:
        other.execute(
            f"CREATE TRIGGER torture BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, '{told(table, verb)}'); END"
        )
        try:
            yield
        finally:
            other.execute("DROP TRIGGER torture")


def told(table: str, verb: str) -> str:
    return f"torture: no {verb} on {table}"


async def live(account: PersistentClient, name: str, client: Client) -> Obtained:
    """The life of a certificate."""
    obtained = await account.obtain(name)
    await account.revoke(obtained, reason=1)  # keyCompromise blocks the key
    await crl_listing(client, obtained)
    return obtained


@pytest.mark.timeout(600)
async def test_a_table_refuses(stage: Stage, client: Client) -> None:
    """One table after another refuses one kind of write: the client is told 503 or waits, and nobody is told of something that was
    not kept; whoever reads is served; once the table takes writes again, the same client has its certificate, its revocation
    and its CRL."""
    obtained = []
    async with served(stage.plan()) as server:
        known = await client.account().obtain("known.localhost")
        obtained.append(known)
        obtained += [await live(client.account(), f"before{number}.localhost", client) for number in range(OLDER_CRLS)]
        for number, (table, verb) in enumerate(chosen(WRITTEN, tested=TESTED)):
            account = client.account(2 * PATIENCE)
            with refusing(stage, table, verb):
                task = client.start(live(account, f"t{number}.localhost", client))
                await until(lambda t=table, v=verb: told(t, v) in server.log, what=f"{verb} on {table} was refused")
                if (table, verb) not in BY_DUTY:
                    await until(lambda a=account: a.seen["503 serverInternal"] >= 2, what=f"503 for {verb} on {table}")
                assert not await is_revoked(client, known)
                await fetch_crl(client, known)
                assert not task.done()
            async with asyncio.timeout(2 * PATIENCE):
                obtained.append(await task)
            assert account.failed_orders == []
        await stopped(server)
    await check(stage, obtained)


@pytest.mark.parametrize(
    "table",
    chosen(["orders", "authorizations", "order_authorizations", "audit", "writers"], tested=["order_authorizations"]),
)
async def test_nothing_is_left_of_what_failed(stage: Stage, client: Client, table: str) -> None:
    """The last of several writes of a transaction fails: nothing of the others stays, and others go on where they may."""
    account = client.account()
    verb = "UPDATE" if table == "writers" else "INSERT"
    refused_table = "audit" if table == "audit" else table
    async with served(stage.plan()) as server:
        known = await account.obtain("known.localhost")
        before = counts(stage)
        with refusing(stage, refused_table, verb):
            url, payload = account.directory["newOrder"], identifiers("refused.localhost")
            if table == "audit":
                url, payload = account.directory["revokeCert"], revocation(known)
            answer = await account.post(url, payload, once=True)
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert told(refused_table, verb) in server.log
            assert counts(stage) == before
            assert not await is_revoked(client, known)
            if table not in {"audit", "writers"}:
                other = client.account()
                await other.register()
        answer = await account.post(url, payload, once=True)
        assert answer.status < 300
        await stopped(server)
    await check(stage, [known])


def counts(stage: Stage) -> dict[str, int]:
    tables = [row["name"] for row in stage.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {table: stage.number(f"SELECT COUNT(*) FROM {table}") for table in tables}


async def test_what_a_life_does_not_write(stage: Stage, client: Client) -> None:
    """The other half of the table: with every one of these refusing, the life of a certificate is the same; and both halves together
    are every table of the schema with every verb."""
    tables = {row["name"] for row in stage.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert {table for table, _ in (*WRITTEN, *NOT_WRITTEN)} == tables
    assert len({*WRITTEN, *NOT_WRITTEN}) == 3 * len(tables) == len(WRITTEN) + len(NOT_WRITTEN)
    async with served(stage.plan()) as server:
        with closing(sqlite3.connect(stage.installation.database_path, isolation_level=None, timeout=30)) as other:
            for number, (table, verb) in enumerate(NOT_WRITTEN):
                other.execute(
                    f"CREATE TRIGGER torture{number} BEFORE {verb} ON {table}"
                    f" BEGIN SELECT RAISE(ABORT, '{told(table, verb)}'); END"
                )
            obtained = await live(client.account(), "life.localhost", client)
            for number in range(len(NOT_WRITTEN)):
                other.execute(f"DROP TRIGGER torture{number}")
        assert "torture:" not in server.log
        await stopped(server)
    await check(stage, [obtained])
