"""Validations: one at a time, bounded, resumed, and never begun twice."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from acmeca.acme.challenges import Http01Observation
from acmeca.acme.identifiers import Identifier
from acmeca.service import challenges
from acmeca.service.challenges import Validator, _Turns
from acmeca.storage.errors import StorageError
from tests.support.acme_client import AcmeClient
from tests.support.server import GatedValidator, RunningCa, ca_site, running_ca, until


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


async def begun(client: AcmeClient, *names: str) -> list[str]:
    """The authorizations of an order whose challenges were all answered."""
    order = await client.new_order(*names)
    for url in order.authorizations:
        challenge = await client.challenge(url)
        client.provision(challenge)
        (await client.respond(challenge)).ok()
    return order.authorizations


async def test_parallel_answers_begin_one_validation(ca: RunningCa) -> None:
    """RULES §3: "One validation per challenge at a time"; a finished one is not begun again (§7.1.6)."""
    client = await ca.client()
    order = await client.new_order("a.localhost")
    challenge = await client.challenge(order.authorizations[0])
    client.provision(challenge)
    answers = await asyncio.gather(*(client.respond(challenge) for _ in range(30)))
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["status"] for answer in answers} <= {"processing", "valid"}
    assert (await client.final(order.authorizations[0]))["status"] == "valid"
    assert len(ca.site.responder.requests) == 1
    assert len(await ca.events("authorization.validated")) == 1


async def test_a_quick_outcome_needs_no_poll(ca: RunningCa) -> None:
    """DESIGN §3: "A fast validation may be awaited briefly, so that the first poll finds the result"."""
    client = await ca.client()
    order = await client.new_order("a.localhost")
    challenge = await client.challenge(order.authorizations[0])
    client.provision(challenge)
    assert (await client.respond(challenge)).json["status"] == "valid"


async def test_evidence(ca: RunningCa) -> None:
    """The audit says where control was shown, and why it was not."""
    client = await ca.client()
    await client.ready_order("a.localhost")
    order = await client.new_order("b.localhost")
    (await client.respond(await client.challenge(order.authorizations[0]))).ok()
    await client.final(order.authorizations[0])
    (validated,) = await ca.events("authorization.validated")
    assert f"from 127.0.0.1:{ca.site.responder.port}" in validated
    (failed,) = await ca.events("authorization.failed")
    assert "404" in failed


async def test_taken_up_after_a_restart() -> None:
    """Rule 1 of service/challenges.py: "a validation is a durable job before it is work"."""
    async with ca_site() as site:
        await site.init()
        async with site.running(validator=GatedValidator) as ca:
            client = await ca.client()
            urls = await begun(client, "a.localhost", "b.localhost")
            given_up = await begun(client, "c.localhost")
            (await client.post(given_up[0], {"status": "deactivated"})).ok()
        assert site.responder.requests == []
        async with site.running() as ca:
            again = await ca.client(client.key)
            for url in urls:
                assert (await again.final(url))["status"] == "valid"
            assert len(site.responder.requests) == 2
            assert await ca.scalar("SELECT COUNT(*) AS n FROM validation_jobs") == 0


async def test_a_failure_of_ours_is_tried_again(
    ca: RunningCa, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no doing of the peer's decides nothing: the job stays, and the sweep takes it up."""
    client = await ca.client()

    async def fail(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(ca.store.orders, "record_outcome", fail)
    (url,) = await begun(client, "a.localhost")
    running = ca.services.challenges._running
    await until(lambda: not running, what="the end of the validation")
    assert (await client.authorization(url))["status"] == "pending"
    assert await ca.scalar("SELECT COUNT(*) AS n FROM validation_jobs") == 1
    monkeypatch.undo()
    assert await ca.services.challenges.resume() == 1
    assert (await client.final(url))["status"] == "valid"
    assert "cannot be finished now" in caplog.text


async def test_a_bug_in_the_validator_is_tried_again(ca: RunningCa, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody foresaw ends this attempt only, and stands in the log."""
    client = await ca.client()
    right = ca.services.challenges._validator

    class Wrong:
        async def observe(self, identifier: Identifier, token: str) -> Http01Observation:
            raise ZeroDivisionError

    ca.services.challenges._validator = Wrong()
    (url,) = await begun(client, "a.localhost")
    running = ca.services.challenges._running
    await until(lambda: not running, what="the end of the validation")
    assert "cannot be finished now" in caplog.text
    ca.services.challenges._validator = right
    assert await ca.services.challenges.resume() == 1
    assert (await client.final(url))["status"] == "valid"


async def test_resume_leaves_alone_what_is_running() -> None:
    gates: list[GatedValidator] = []

    def gated(inner: Validator) -> Validator:
        gates.append(GatedValidator(inner))
        return gates[0]

    async with running_ca(validator=gated) as ca:
        client = await ca.client()
        (url,) = await begun(client, "a.localhost")
        assert await ca.services.challenges.resume() == 0
        gates[0].gate.set()
        assert (await client.final(url))["status"] == "valid"
        assert gates[0].begun == 1


async def test_none_longer_than_its_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """RULES §3: "the whole takes ≤ 30 s": one that hangs is ended, and its turn is free again."""
    monkeypatch.setattr(challenges, "_SECONDS", 0.02)
    async with running_ca(validator=GatedValidator, duties=False) as ca:
        client = await ca.client()
        await begun(client, "a.localhost")
        running = ca.services.challenges._running
        await until(lambda: not running, what="the end of the validation")
        assert "cannot be finished now" in caplog.text
        assert ca.services.challenges._turns._all == 0


async def test_bounded_by_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """RULES §3: "per-account and per-target limits"."""
    gates: list[GatedValidator] = []

    def gated(inner: Validator) -> Validator:
        gates.append(GatedValidator(inner))
        return gates[0]

    monkeypatch.setattr(challenges, "_AWAITED_SECONDS", 0.0)
    async with running_ca(validator=gated) as ca:
        clients = [await ca.client() for _ in range(7)]
        urls = [(client, (await begun(client, "a.localhost"))[0]) for client in clients]
        await until(lambda: gates[0].begun == 4, what="four validations of one target")
        for _ in range(50):
            await asyncio.sleep(0)
        assert gates[0].begun == 4
        gates[0].gate.set()
        for client, url in urls:
            assert (await client.final(url))["status"] == "valid"
        assert gates[0].begun == 7


class TestTurns:
    async def test_limits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(challenges, "_AT_ONCE", 3)
        monkeypatch.setattr(challenges, "_PER_ACCOUNT", 2)
        monkeypatch.setattr(challenges, "_PER_TARGET", 2)
        turns = _Turns()
        running: list[tuple[str, str]] = []
        most: list[int] = []
        leave = asyncio.Event()

        async def work(account: str, target: str) -> None:
            async with turns.turn(account=account, target=target):
                running.append((account, target))
                most.append(len(running))
                for member, limit in ((0, 2), (1, 2)):
                    values = [item[member] for item in running]
                    assert max(values.count(value) for value in values) <= limit
                await leave.wait()
                await asyncio.sleep(0)
                running.remove((account, target))

        tasks = [asyncio.create_task(work(account, target)) for account in "abc" for target in "xyz" for _ in range(3)]
        await until(lambda: len(running) == 3, what="three at once")
        leave.set()
        await asyncio.gather(*tasks)
        assert max(most) == 3
        assert (turns._all, turns._accounts, turns._targets) == (0, {}, {})

    async def test_a_turn_is_given_back_by_a_failure_and_a_cancellation(self) -> None:
        turns = _Turns()
        with pytest.raises(ZeroDivisionError):
            async with turns.turn(account="a", target="x"):
                raise ZeroDivisionError

        async def wait() -> None:
            async with turns.turn(account="a", target="x"):
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(wait()) for _ in range(6)]
        await until(lambda: turns._targets["x"] == 4, what="four turns")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (turns._all, turns._accounts, turns._targets) == (0, {}, {})


async def test_own_listeners_are_never_asked(ca: RunningCa) -> None:
    """RULES §3: never "our own listeners": a redirect to them is not followed either."""
    endpoints = ca.opened.endpoints()
    assert {port for _, port in endpoints} == {ca.acme_port, ca.status_port}
