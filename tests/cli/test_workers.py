"""`acmeca serve --workers 2` (cli/workers.py), as processes: what holds across workers, and what a worker's end is worth.

Rule 1: a client is connected with a certain worker (`support/workers.py`), or with whichever the kernel picks. Nothing here knows
more than an outsider.
"""

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from acmeca import app
from acmeca.config import load_config
from acmeca.storage import audit as audit_storage
from acmeca.storage.issuers import Issuers, StoredIssuer
from acmeca.storage.readonly import open_read_only
from tests.cli.conftest import Acmeca, make_ca
from tests.support.acme_client import AcmeClient, ClientOrder, Provisioned
from tests.support.http_peer import http_peer, tokens
from tests.support.installations import READY, Installation, make_installation
from tests.support.load import load, more
from tests.support.persistent_client import PersistentClient
from tests.support.processes import Process, clean_environment, wait_until
from tests.support.status_client import StatusClient
from tests.support.workers import Connecting, PinnedClient, is_running, open_session, owner, session_with, worker_pids

SECONDS: Final = 240.0

Pair = tuple[Installation, Process]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A CA and its server of two workers, for the tests that end none of them."""
    installation = make_ca(tmp_path_factory.mktemp("workers") / "ca")
    with installation.serve("--workers", "2") as server:
        yield installation, server
        assert server.terminate() == 0, server.output
    assert not installation.socket_path.exists()


@dataclass
class Clients:
    """One account, connected with both workers: `one` and `other` differ in their connection and their nonces only."""

    installation: Installation
    one: AcmeClient
    other: AcmeClient
    statuses: list[StatusClient]  # with both, too
    pids: list[int]

    @property
    def root_pem(self) -> bytes:
        return self.installation.root_path.read_bytes()


@pytest.fixture
async def clients(pair: Pair) -> AsyncIterator[Clients]:
    installation, server = pair
    pids = list(worker_pids(server).values())
    root_pem = installation.root_path.read_bytes()
    provisioned: Provisioned = {}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(http_peer(tokens(provisioned), port=installation.http_port))

        async def session(pid: int, url: str) -> aiohttp.ClientSession:
            return await stack.enter_async_context(session_with(pid, pids, url, root_pem=root_pem))

        first, second = [await session(pid, installation.directory_url) for pid in pids]
        one = await PinnedClient.connect(first, installation.directory_url, provisioned=provisioned)
        await one.register()
        other = replace(one, session=second, _nonces=[])
        issuer = next(item.issuer for item in await stored_issuers(installation) if not item.is_root)
        statuses = [StatusClient(await session(pid, f"{installation.status_url}/"), issuer) for pid in pids]
        yield Clients(installation, one, other, statuses, pids)


async def stored_issuers(installation: Installation) -> tuple[StoredIssuer, ...]:
    """Read from the file, beside the server."""
    with open_read_only(installation.database_path) as database:
        return tuple(await Issuers(database, writer="").all())


# --- across workers -----------------------------------------------------------------------------------------------


async def test_a_nonce_is_good_everywhere_and_once(clients: Clients) -> None:
    """RFC 8555 §6.5: from one worker, used with the other, then replayed fifty times at once over many connections."""
    one, other = clients.one, clients.other
    nonce = await one.new_nonce()
    (await other.post(one.account_url, nonce=nonce)).ok()
    for client in (one, other):
        (await client.post(one.account_url, nonce=nonce)).refused("badNonce", 400)
    body = await other.sign(one.account_url, nonce=await one.new_nonce())
    connecting = Connecting()
    async with open_session(connecting, root_pem=clients.root_pem, limit=0) as session:
        everywhere = replace(one, session=session, _nonces=[])
        answers = await asyncio.gather(*(everywhere.send(one.account_url, body) for _ in range(50)))
        assert {owner(sock, clients.pids) for sock in connecting.sockets} == set(clients.pids)
    assert sorted(answer.status for answer in answers) == [200] + [400] * 49
    assert {answer.problem for answer in answers} == {None, "badNonce"}


async def test_a_deactivated_account_is_refused_at_once(clients: Clients) -> None:
    """RFC 8555 §7.3.6; RULES §2: "refused everywhere"."""
    (await clients.other.order_answer("known.localhost")).ok(201)  # so that the other worker knows the account
    (await clients.one.deactivate_account()).ok()
    (await clients.other.order_answer("refused.localhost")).refused("unauthorized", 401)


async def test_every_step_at_another_worker(clients: Clients) -> None:
    for one, other in ((clients.one, clients.other), (clients.other, clients.one)):
        order = await one.new_order("steps.localhost")
        for url in order.authorizations:
            challenge = await other.challenge(url)
            other.provision(challenge)
            (await other.respond(challenge)).ok()
            assert (await one.final(url))["status"] == "valid"
        await one.finalize(order)
        order = await settled(other, order)
        assert await one.download(order) == await other.download(order)


async def test_two_finalizes_at_once_issue_one_certificate(clients: Clients) -> None:
    """RULES §3: "two parallel finalizes of one order issue exactly one certificate"."""
    for number in range(5):
        order = await clients.one.ready_order(f"twice-{number}.localhost")
        answers = await asyncio.gather(*(client.finalize(order) for client in (clients.one, clients.other)))
        assert any(answer.status == 200 for answer in answers), answers
        for answer in answers:
            assert answer.status == 200 or answer.problem == "orderNotReady", answer
        order = await settled(clients.other, order)
        assert order.status == "valid"
        assert certificates_of(clients.installation, order) == 1


async def settled(client: AcmeClient, order: ClientOrder) -> ClientOrder:
    """The order when it is processing no longer."""
    while (order := await client.order(order.url)).status == "processing":  # noqa: ASYNC110  (polling is what a client does)
        await asyncio.sleep(0.01)
    return order


def certificates_of(installation: Installation, order: ClientOrder) -> int:
    with closing(sqlite3.connect(installation.database_path)) as connection:
        order_id = order.url.rpartition("/")[2]
        sql = "SELECT COUNT(*) FROM certificates WHERE order_id = ?"
        return int(connection.execute(sql, (order_id,)).fetchone()[0])


async def test_a_revocation_shows_everywhere_within_a_second(clients: Clients) -> None:
    """RULES §5: "A revocation shows in OCSP within a second on every worker and replica"."""
    for client in (clients.one, clients.other):
        issued = await client.issue("revoked.localhost")
        for status in clients.statuses:
            assert await status.status(issued.serial) == "GOOD"  # which each keeps from now on
        (await client.revoke(issued.der)).ok()
        began = time.monotonic()
        for status in clients.statuses:
            while await status.status(issued.serial) != "REVOKED":
                assert time.monotonic() - began < 1.0
                await asyncio.sleep(0.02)
        async with asyncio.timeout(60):  # RULES §5: within a minute
            for status in clients.statuses:
                while issued.serial not in {item.serial_number for item in await status.crl()}:  # noqa: ASYNC110  (as above)
                    await asyncio.sleep(0.05)


async def test_commands(clients: Clients, pair: Pair, acmeca: Acmeca) -> None:
    """They reach the CA through the one worker that has the socket, and see what any worker did."""
    installation, server = pair
    issued = await clients.other.issue("seen.localhost")
    said = await asyncio.to_thread(acmeca, installation, "list", "--name", "seen.localhost")
    assert said.code == 0
    assert f"{issued.serial:x}" in said.stdout
    findings = json.loads((await asyncio.to_thread(acmeca, installation, "doctor", "--json")).stdout)["findings"]
    assert [finding["detail"] for finding in findings if finding["about"] == "server"] == [
        f"process {server.pid} runs, and answers on its socket"
    ]
    assert not [finding for finding in findings if finding["about"] in {"running server", "last server"}]


async def test_lines_of_the_log_say_whose_they_are(pair: Pair) -> None:
    _, server = pair
    server.wait_for_line(r"INFO worker [01] acmeca\.service\.own_certificates: issued the listener certificate")
    assert len([line for line in server.output.splitlines() if line.startswith("Ready.")]) == 1


# --- ends ---------------------------------------------------------------------------------------------------------


async def check(installation: Installation, accounts: list[PersistentClient]) -> None:
    """No order failed, no serial came twice, every certificate is recorded, every chain of the audit is whole."""
    assert [account.failed_orders for account in accounts] == [[]] * len(accounts)
    obtained = [item.serial for account in accounts for item in account.obtained]
    assert len(obtained) == len(set(obtained))
    async with app.opened_store(load_config(installation.config_path, {})) as store:
        assert await audit_storage.verify(store.database) == []
        rows = await store.database.fetch_all("SELECT serial FROM certificates WHERE signature IS NOT NULL")
        assert set(obtained) <= {row["serial"] for row in rows}
        open_orders = await store.database.fetch_all("SELECT status FROM orders WHERE status = 'processing'")
        assert open_orders == []


async def in_thread(server: Process, pattern: str) -> None:
    await asyncio.to_thread(server.wait_for_line, pattern)


@pytest.mark.timeout(SECONDS)
async def test_workers_end_and_are_replaced_under_load(stopped: Installation) -> None:
    """A worker is killed, then all are replaced with a new configuration, while clients order. None of their orders fails."""
    with stopped.serve("--workers", "2") as server:
        async with load(stopped) as accounts:
            await more(accounts)
            # A kill
            before = worker_pids(server)
            os.kill(before[1], signal.SIGKILL)
            await in_thread(server, rf"worker 1 \(process {before[1]}\) was ended by SIGKILL; it is started again")
            await more(accounts)
            await asyncio.to_thread(wait_until, lambda: worker_pids(server)[1] != before[1], seconds=20, what="restart")
            # A configuration that is broken, one that takes a restart, one that is well
            good = stopped.config_path.read_text()
            stopped.config_path.write_text(good.replace("http_port", "htpp_port"))
            server.send(signal.SIGHUP)
            await in_thread(server, r"not reloaded, the workers go on as they are: .*")
            stopped.config_path.write_text(good.replace("[ca]", "workers = 3\n[ca]"))
            server.send(signal.SIGHUP)
            await in_thread(server, "go on as they are: server.workers cannot change while the server runs: restart it")
            stopped.config_path.write_text(f'{good}\n[status]\nocsp_lifetime = "1h"\n')
            server.send(signal.SIGHUP)
            await in_thread(server, "reloaded: all workers were replaced")
            assert set(worker_pids(server).values()).isdisjoint(before.values())
            await more(accounts)
        findings = json.loads((await asyncio.to_thread(stopped.cli, "doctor", "--json", code=None)).stdout)["findings"]
        assert not [finding for finding in findings if finding["about"] in {"running server", "last server"}]
        assert await asyncio.to_thread(server.terminate) == 0, server.output
        assert server.output.endswith("Stopped.\n")
    assert not (stopped.data_dir / "metrics").exists()
    await check(stopped, accounts)


_IMPATIENT: Final = """
from acmeca.cli import main, workers
from acmeca.workers.supervisor import Patience
workers.PATIENCE = Patience(silence=3.0)
main()
"""


@pytest.mark.timeout(SECONDS)
async def test_a_worker_that_stands_still_is_killed_under_load(stopped: Installation) -> None:
    """It may hold what the other one waits for. Nobody's order fails by it."""
    command = [sys.executable, "-P", "-c", _IMPATIENT, "--config", str(stopped.config_path), "serve", "--workers", "2"]
    with Process(command, env=clean_environment(), cwd=stopped.directory) as server:
        await in_thread(server, READY)
        async with load(stopped) as accounts:
            await more(accounts)
            still = worker_pids(server)[0]
            os.kill(still, signal.SIGSTOP)
            await in_thread(server, rf"worker 0 \(process {still}\) gave no sign of life for 3 s: it is killed")
            await more(accounts)
        assert await asyncio.to_thread(server.terminate) == 0, server.output
    await check(stopped, accounts)


@pytest.mark.timeout(SECONDS)
async def test_a_supervisor_is_killed_under_load(stopped: Installation) -> None:
    """Its workers end by themselves, and a new server, here of one process, begins when they have."""
    with ExitStack() as stack:
        server = stack.enter_context(stopped.serve("--workers", "2"))
        async with load(stopped) as accounts:
            await more(accounts)
            workers = worker_pids(server).values()
            server.send(signal.SIGKILL)
            next_server = stack.enter_context(await asyncio.to_thread(stopped.serve))
            assert not any(is_running(pid) for pid in workers)
            assert await asyncio.to_thread(server.wait) == -signal.SIGKILL
            await more(accounts)
        assert await asyncio.to_thread(next_server.terminate) == 0
    await check(stopped, accounts)


# --- starts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["0", "-1", "65", "1000", "many", "1.5", ""])
def test_numbers_of_workers_that_are_none(acmeca: Acmeca, stopped: Installation, number: str) -> None:
    said = acmeca(stopped, "serve", "--workers", number)
    assert said.code == 2
    assert f"Invalid value for '--workers': '{number}' is none. Write a whole number from 1 to 64" in said.stderr


def test_the_key_in_the_configuration(acmeca: Acmeca, tmp_path: Path) -> None:
    installation = make_installation(tmp_path / "ca")
    text = installation.config_path.read_text()
    installation.config_path.write_text(text.replace("[server]", "[server]\nworkers = 0"))
    said = acmeca(installation, "serve")
    assert said.code == 1
    assert "server.workers" in said.stderr
    assert "write a whole number from 1 to 64" in said.stderr


def test_a_port_that_another_server_shares_among_its_workers(pair: Pair, tmp_path: Path) -> None:
    """The kernel would let us in beside it, as the same user: half of each one's clients would come to the other."""
    running, _ = pair
    second = make_ca(tmp_path / "second")
    text = second.config_path.read_text()
    second.config_path.write_text(text.replace(str(second.acme_port), str(running.acme_port)))
    said = second.cli("serve", "--log-level", "error", "--workers", "2", code=1)
    assert said.stderr == (
        f"acmeca: localhost:{running.acme_port} cannot be bound: Address already in use; "
        "choose another port in the configuration, or stop what uses it\n"
    )


def test_a_start_that_fails_says_why_once(stopped: Installation) -> None:
    for key in stopped.data_dir.glob("keys/*.key.pem"):
        key.unlink()
    said = stopped.cli("serve", "--workers", "2", "--log-level", "error", code=1)
    assert said.stderr.splitlines()[-1] == (
        "acmeca: worker 0 ended with exit code 1 before it was ready (it says why above)"
    )
    assert "Traceback" not in said.stderr


def test_the_option_for_workers_is_not_for_people(acmeca: Acmeca, stopped: Installation) -> None:
    said = acmeca(stopped, "serve", "--worker", "1")
    assert said.code == 1
    assert said.stderr == "acmeca: --worker is what a supervisor gives to its workers, not for people\n"


def test_a_single_process_cannot_reload(stopped: Installation) -> None:
    """And does not die of being asked: a service manager asks by a signal that ends a process which does not know it."""
    with stopped.serve() as server:
        server.send(signal.SIGHUP)
        server.wait_for_line("a single process cannot reload: restart it, or run it with --workers 2 or more")
        assert server.terminate() == 0
