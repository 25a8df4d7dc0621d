"""Accounts: one for a key whatever races, what is kept of them, and what a change does at once."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from acmeca.service import accounts
from acmeca.storage.accounts import Accounts
from tests.support.acme_client import AcmeClient, certificate_key
from tests.support.databases import open_database
from tests.support.jose import new_key
from tests.support.server import RunningCa, ca_site, running_ca


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


async def test_fifty_new_accounts_with_one_key(ca: RunningCa) -> None:
    """RFC 8555 §7.3.1: one key, one account, also when fifty requests come at once."""
    key = new_key()
    clients = [await ca.client(key, register=False) for _ in range(5)]
    answers = await asyncio.gather(*(clients[number % 5].new_account() for number in range(50)))
    assert sorted(answer.status for answer in answers) == [200] * 49 + [201]
    assert len({answer.location for answer in answers}) == 1
    assert await ca.scalar("SELECT COUNT(*) AS n FROM accounts") == 1
    assert len(await ca.events("account.created")) == 1


async def test_audit(ca: RunningCa) -> None:
    """RULES §6: every change of an account stands in the audit, with who did it."""
    client = await ca.client()
    (await client.post(client.account_url, {"contact": ["mailto:a@example.org"]})).ok()
    (await client.deactivate_account()).ok()
    kinds = [row["kind"] for row in await ca.rows("SELECT kind, actor FROM audit WHERE actor LIKE 'account:%'")]
    assert kinds == ["account.created", "account.updated", "account.deactivated"]


async def test_two_deactivations_at_once(ca: RunningCa) -> None:
    """Either of two says that it is deactivated; it happens once."""
    client = await ca.client()
    answers = await asyncio.gather(*(client.deactivate_account() for _ in range(10)))
    assert {answer.status for answer in answers} <= {200, 401}
    assert sum(answer.status == 200 for answer in answers) == 1
    assert len(await ca.events("account.deactivated")) == 1


async def test_orders_race_with_the_deactivation(ca: RunningCa) -> None:
    """No order is made for, and no certificate issued to, an account that was deactivated in between."""
    client = await ca.client()
    ready = [await client.ready_order(f"race-{number}.localhost") for number in range(5)]
    answers = await asyncio.gather(
        *(client.order_answer("late.localhost") for _ in range(5)),
        client.deactivate_account(),
        *(client.finalize(order) for order in ready),
    )
    assert answers[5].status == 200
    assert {answer.status for answer in answers} <= {200, 201, 401, 403}
    open_ = await ca.scalar("SELECT COUNT(*) AS n FROM orders WHERE status IN ('pending', 'ready', 'processing')")
    assert open_ == 0


async def test_a_key_is_parsed_once(ca: RunningCa) -> None:
    """Of an account only the parsed key is kept; parsing it costs more than the rest of the look."""
    client = await ca.client()
    for _ in range(5):
        (await client.post(client.account_url)).ok()
    found = ca.services.accounts._load_key.cache_info()
    assert (found.misses, found.hits) == (1, 4)


async def test_the_keys_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_KEPT_KEYS", 3)
    async with running_ca() as ca:
        clients = [await ca.client() for _ in range(6)]
        for client in (*clients, *clients):
            (await client.post(client.account_url)).ok()
        assert ca.services.accounts._load_key.cache_info().currsize == 3


async def test_what_another_process_changed_holds_in_the_next_request(ca: RunningCa) -> None:
    """RULES §2: a deactivated account "is refused everywhere", whoever deactivated it."""
    client = await ca.client()
    (await client.post(client.account_url)).ok()
    async with open_database(ca.config.database_path) as database:
        other = Accounts(database, writer="another")
        await other.deactivate(client.kid.rpartition("/")[2], at=ca.clock())
    (await client.post(client.account_url)).refused("unauthorized", 401)


async def test_a_change_holds_in_the_next_request(ca: RunningCa) -> None:
    """RULES §2: a deactivated account "is refused everywhere", in the next request."""
    client = await ca.client()
    (await client.post(client.account_url)).ok()
    (await client.post(client.account_url, {"contact": ["mailto:a@example.org"]})).ok()
    assert (await client.post(client.account_url)).json["contact"] == ["mailto:a@example.org"]
    (await client.deactivate_account()).ok()
    (await client.post(client.account_url)).refused("unauthorized", 401)


async def test_a_key_that_was_blocked_is_refused_in_the_next_request(ca: RunningCa) -> None:
    client = await ca.client()
    issued = await client.issue("a.localhost")
    owner: AcmeClient = await ca.client()
    (await owner.post(owner.account_url)).ok()
    # No key is an account's and a certificate's, so only a block list from elsewhere can name this one.
    await ca.execute(
        "UPDATE accounts SET thumbprint = $1 WHERE id = $2",
        certificate_key(issued).thumbprint,
        owner.kid.rpartition("/")[2],
    )
    (await client.revoke(issued.der, reason=1)).ok()
    (await owner.post(owner.account_url)).refused("unauthorized", 403)
    (await client.post(client.account_url)).ok()


async def test_after_a_restart() -> None:
    """Accounts, and the refusal of deactivated and blocked ones, outlive the process."""
    async with ca_site() as site:
        await site.init()
        keys = [new_key() for _ in range(2)]
        async with site.running() as ca:
            alive, dead = [await ca.client(key) for key in keys]
            issued = await alive.issue("a.localhost")
            (await alive.revoke(issued.der, reason=1)).ok()
            (await dead.deactivate_account()).ok()
        async with site.running() as ca:
            again = await ca.client(keys[0])
            assert again.kid == alive.kid
            stranger = await ca.client(keys[1], register=False)
            (await stranger.new_account()).refused("unauthorized", 401)
            blocked = await ca.client(certificate_key(issued), register=False)
            (await blocked.new_account()).refused("badPublicKey", 400)
