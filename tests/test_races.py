"""What fifty clients do at once has one outcome: on SQLite, on PostgreSQL, across two workers and across two replicas.

Rule 1: each race is run by clients that know nothing of where they are; the stages are what an administrator can have.
Rule 2: who was answered what is counted exactly. What the CA has in the end is asked of the CA.
"""

import asyncio
import shutil
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import aiohttp
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from acmeca.cli.connection import connected
from acmeca.config import load_config
from acmeca.service.bindings import KEY_PATH as EAB_KEY
from tests.support.acme_client import AcmeClient, Answer, Provisioned
from tests.support.http_peer import http_peer, tokens
from tests.support.installations import Installation, make_installation, short_directory
from tests.support.jose import new_key
from tests.support.postgres import make_database, require_programs, shared_server
from tests.support.replicas import make_replicas
from tests.support.server import running_ca

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

Administer: TypeAlias = Callable[[str, dict[str, object]], Awaitable[dict[str, Any]]]

AT_ONCE: Final = 50
ORDERS: Final = 30  # of one account in an hour
STAGES: Final = ("sqlite", "postgresql", "workers", "replicas")


@dataclass
class Stage:
    """A CA and the way to it. `sessions` are of connections of their own, so that each may end at another process."""

    directory_url: str
    tls: ssl.SSLContext
    provisioned: Provisioned
    administer: Administer
    sessions: list[aiohttp.ClientSession] = field(default_factory=list)

    def session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.tls, limit=0), timeout=aiohttp.ClientTimeout(total=60)
        )
        self.sessions.append(session)
        return session

    async def client(self) -> AcmeClient:
        """A client with a key of its own and no account yet."""
        return await AcmeClient.connect(self.session(), self.directory_url, provisioned=self.provisioned)

    async def bound(self, grant: dict[str, Any], count: int) -> list[AcmeClient]:
        """Clients with accounts of one grant, each with a key of its own."""
        clients = [await self.client() for _ in range(count)]
        for client in clients:
            (await client.register(externalAccountBinding=client.binding(grant))).ok(201)
        return clients

    async def copies(self, client: AcmeClient) -> list[AcmeClient]:
        """The same account on four sets of connections, again and again, each with its own nonces."""
        sessions = [self.session() for _ in range(4)]
        return [
            AcmeClient(sessions[number % 4], client.directory, client.key, client.provisioned, client.kid)
            for number in range(AT_ONCE)
        ]


async def in_process(stack: AsyncExitStack, **sections: dict[str, object]) -> Stage:
    limits = {"new_orders_per_account": f"{ORDERS}/1h"}
    ca = await stack.enter_async_context(running_ca(limits=limits, **sections))
    call = ca.opened.administration.call
    return Stage(
        ca.directory_url, ca.tls(check_time=False), ca.provisioned, lambda name, given: call(name, given, user="test")
    )


async def in_processes(
    stack: AsyncExitStack, front: Installation, servers: Sequence[Installation], *options: str
) -> Stage:
    provisioned: Provisioned = {}
    await stack.enter_async_context(http_peer(tokens(provisioned), port=front.http_port))
    roots = ""
    for server in servers:
        environment = {"ACMECA_LIMITS__NEW_ORDERS_PER_ACCOUNT": f"{ORDERS}/1h"}
        process = await asyncio.to_thread(server.serve, *options, env=environment)
        stack.callback(process.close)
        roots = server.root_path.read_text()

    async def administer(operation: str, arguments: dict[str, object]) -> dict[str, Any]:
        """At the first server. What it made there beside the database, an administrator carries to the others."""
        async with connected(load_config(servers[0].config_path, {})) as connection:
            result = await connection.call(operation, arguments)
        for server in servers[1:]:
            shutil.copy(servers[0].data_dir / EAB_KEY, server.data_dir / EAB_KEY)
        return result

    return Stage(front.directory_url, ssl.create_default_context(cadata=roots), provisioned, administer)


async def open_stage(name: str, stack: AsyncExitStack) -> Stage:
    directory = stack.enter_context(short_directory(in_memory=True))
    if name == "sqlite":
        return await in_process(stack)
    if name == "workers":
        installation = make_installation(directory)
        return await in_processes(stack, installation, [installation], "--init", "--workers", "2")
    require_programs()
    server = shared_server()
    url = server.url(await make_database(server))
    if name == "postgresql":
        return await in_process(stack, storage={"url": url})
    made = await make_replicas(directory, storage_url=url)
    stack.enter_context(made.balanced())
    return await in_processes(stack, made.front, made.servers)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=STAGES)
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        stage = await open_stage(request.param, stack)
        try:
            yield stage
        finally:
            for session in stage.sessions:
                await session.close()


def told(answers: Iterable[Answer]) -> Counter[str]:
    """How often each answer was given: its status, or its problem's type."""
    return Counter(str(answer.status) if answer.status < 400 else str(answer.problem) for answer in answers)


async def test_new_account_with_one_key(stage: Stage) -> None:
    """§7.3.1: "If the server already has an account registered with the provided account key, then it MUST return a response
    with a 200 (OK) status code and provide the URL of that account": one is made, whoever comes first.
    """
    copies = await stage.copies(await stage.client())
    answers = await asyncio.gather(*(copy.new_account() for copy in copies))
    assert told(answers) == {"201": 1, "200": AT_ONCE - 1}
    assert len({answer.location for answer in answers}) == 1


async def test_single_use(stage: Stage) -> None:
    """RULES §2: "Single-use credentials are spent in the same transaction that inserts the account": of fifty keys one has it."""
    grant = await stage.administer("eab_create", {"owner": "race", "single_use": True})
    clients = [await stage.client() for _ in range(AT_ONCE)]
    answers = await asyncio.gather(
        *(client.new_account(externalAccountBinding=client.binding(grant)) for client in clients)
    )
    assert told(answers) == {"201": 1, "unauthorized": AT_ONCE - 1}
    assert (await stage.administer("eab_show", {"kid": grant["kid"]}))["accounts"] == 1


async def test_the_end_of_a_quota(stage: Stage) -> None:
    """A grant's accounts make as many orders together as its quota has, whichever process each of them asks."""
    grant = await stage.administer("eab_create", {"owner": "race", "quota": "20/hour"})
    clients = await stage.bound(grant, 5)
    answers = await asyncio.gather(
        *(clients[number % 5].order_answer(f"quota-{number}.localhost") for number in range(AT_ONCE))
    )
    assert told(answers) == {"201": 20, "rateLimited": AT_ONCE - 20}


async def test_a_grant_that_is_disabled(stage: Stage) -> None:
    """From the answer on, its accounts are refused at every process; what was answered before is all that they have."""
    grant = await stage.administer("eab_create", {"owner": "race", "names": ["*.localhost"], "preauthorized": True})
    (client,) = await stage.bound(grant, 1)
    orders = [await client.new_order(f"grant-{number}.localhost") for number in range(10)]
    copies = await stage.copies(client)

    async def disable() -> dict[str, Any]:
        return await stage.administer("eab_disable", {"kid": grant["kid"]})

    _, *answers = await asyncio.gather(
        disable(), *(copy.finalize(orders[number % 10]) for number, copy in enumerate(copies))
    )
    counted = told(answers)
    assert set(counted) <= {"200", "orderNotReady", "unauthorized"}
    after = await asyncio.gather(*(copy.finalize(orders[number % 10]) for number, copy in enumerate(copies)))
    assert told(after) == {"unauthorized": AT_ONCE}
    assert (await stage.administer("eab_show", {"kid": grant["kid"]}))["certificates"] == counted["200"]


async def test_key_change_to_one_key(stage: Stage) -> None:
    """§7.3.5, step 9: of two accounts one has the key afterwards; whoever comes later is told whose it is, or signed with a key that
    is the account's no longer.
    """
    one, other = await stage.client(), await stage.client()
    key = new_key()
    copies = []
    for client in (one, other):
        await client.register()
        copies.append(await stage.copies(client))
    answers = await asyncio.gather(*(copies[number % 2][number].change_key(key) for number in range(AT_ONCE)))
    counted = told(answers)
    assert counted["200"] == 1
    assert counted["200"] + counted["malformed"] == AT_ONCE
    (number,) = [number for number, answer in enumerate(answers) if answer.status == 200]
    winner, loser = (one, other) if number % 2 == 0 else (other, one)
    assert all(answer.status == 409 for answer in answers[1 - number % 2 :: 2])
    assert {answer.location for answer in answers if answer.status == 409} == {winner.account_url}
    after = await asyncio.gather(*(copy.post(copy.account_url) for copy in copies[number % 2]))
    assert set(told(after)) <= {"200", "malformed"}  # a copy that was answered 200 signs with the new key
    (await loser.post(loser.account_url)).ok()
    (await winner.post(winner.account_url, key=key)).ok()
    (await winner.post(winner.account_url)).refused("malformed", 400)


async def test_one_challenge(stage: Stage) -> None:
    """RULES §3: "One validation per challenge at a time": whatever is answered, the authorization is valid once."""
    client = await stage.client()
    await client.register()
    order = await client.new_order("challenge.localhost")
    challenge = await client.challenge(order.authorizations[0])
    client.provision(challenge)
    copies = await stage.copies(client)
    answers = await asyncio.gather(*(copy.respond(challenge) for copy in copies))
    assert told(answers) == {"200": AT_ONCE}
    assert (await client.final(order.authorizations[0]))["status"] == "valid"
    assert (await client.order(order.url)).status == "ready"


async def test_finalize(stage: Stage) -> None:
    """RULES §3: "two parallel finalizes of one order issue exactly one certificate"; §7.4: the others are `orderNotReady`."""
    client = await stage.client()
    await client.register()
    order = await client.ready_order("finalize.localhost")
    copies = await stage.copies(client)
    csrs = [order.csr(ec.generate_private_key(ec.SECP256R1())) for _ in copies]
    answers = await asyncio.gather(*(copy.finalize(order, csr_der) for copy, csr_der in zip(copies, csrs, strict=True)))
    assert told(answers) == {"200": 1, "orderNotReady": AT_ONCE - 1}
    valid = await client.order(order.url)
    (answer,) = [answer for answer in answers if answer.status == 200]
    assert (await client.download(valid))[0] == (await client.download(valid))[0]
    assert answer.json["certificate"] == valid.certificate


async def test_revocation(stage: Stage) -> None:
    """§7.6: "If the certificate has already been revoked, the server MUST return an error response with … alreadyRevoked"."""
    client = await stage.client()
    await client.register()
    issued = await client.issue("revoked.localhost")
    copies = await stage.copies(client)
    answers = await asyncio.gather(*(copy.revoke(issued.der, reason=4) for copy in copies))
    assert told(answers) == {"200": 1, "alreadyRevoked": AT_ONCE - 1}


async def test_giving_up_and_finalizing(stage: Stage) -> None:
    """RULES §3: an authorization that is given up while the order is finalized either came too late or kept it from issuing."""
    client = await stage.client()
    await client.register()
    order = await client.ready_order("given-up.localhost")
    copies = await stage.copies(client)
    url = order.authorizations[0]
    answers = await asyncio.gather(
        *(
            copy.post(url, {"status": "deactivated"}) if number % 2 else copy.finalize(order)
            for number, copy in enumerate(copies)
        )
    )
    finalized, given_up = told(answers[::2]), told(answers[1::2])
    assert given_up["200"] == 1
    assert finalized["200"] + finalized["orderNotReady"] == AT_ONCE / 2
    assert finalized["200"] <= 1
    status = (await client.order(order.url)).status
    assert status == ("valid" if finalized["200"] else "invalid")


async def test_a_rate_limit(stage: Stage) -> None:
    """§6.6: "N orders in an hour" are N orders in an hour, whichever processes they come to."""
    client = await stage.client()
    await client.register()
    copies = await stage.copies(client)
    answers = await asyncio.gather(*(copy.order_answer("limited.localhost") for copy in copies))
    assert told(answers) == {"201": ORDERS, "rateLimited": AT_ONCE - ORDERS}
    assert len((await client.post((await client.post(client.account_url)).json["orders"])).json["orders"]) == ORDERS


async def test_an_account_that_ends(stage: Stage) -> None:
    """§7.3.6: whoever comes after the deactivation is refused, at every process."""
    client = await stage.client()
    await client.register()
    copies = await stage.copies(client)
    answers = await asyncio.gather(
        *(
            copy.deactivate_account() if number == AT_ONCE // 2 else copy.order_answer("ended.localhost")
            for number, copy in enumerate(copies)
        )
    )
    assert set(told(answers)) <= {"200", "201", "unauthorized", "rateLimited"}
    after = await asyncio.gather(*(copy.order_answer("ended.localhost") for copy in copies))
    assert told(after) == {"unauthorized": AT_ONCE}
