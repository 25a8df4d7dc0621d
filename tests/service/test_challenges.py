"""Validations: one at a time, bounded, resumed, and never begun twice."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from acmeca.acme.challenges import Http01Observation
from acmeca.acme.identifiers import Identifier
from acmeca.service import challenges
from acmeca.service.challenges import Validator
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
        assert not ca.services.challenges._turns._taken


async def test_bounded_by_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """RULES §3: "per-account … limits": so many at once, so many waiting, and `rateLimited` for what is beyond."""
    gates: list[GatedValidator] = []

    def gated(inner: Validator) -> Validator:
        gates.append(GatedValidator(inner))
        return gates[0]

    monkeypatch.setattr(challenges, "_AWAITED_SECONDS", 0.0)
    monkeypatch.setattr(challenges, "_PER_ACCOUNT", 2)
    monkeypatch.setattr(challenges, "_UNFINISHED_PER_ACCOUNT", 5)
    async with running_ca(validator=gated) as ca:
        client, other = await ca.client(), await ca.client()
        urls = [(client, (await begun(client, f"a{number}.localhost"))[0]) for number in range(5)]
        order = await client.new_order("beyond.localhost")
        challenge = await client.challenge(order.authorizations[0])
        client.provision(challenge)
        refused = (await client.respond(challenge)).refused("rateLimited", 429)
        assert int(refused.headers["Retry-After"]) > 0
        urls.append((other, (await begun(other, "b.localhost"))[0]))  # somebody else is not held up
        await until(lambda: gates[0].begun == 3, what="two of one account and one of the other")
        gates[0].gate.set()
        for owner, url in urls:
            assert (await owner.final(url))["status"] == "valid"
        (await client.respond(challenge)).ok()
        assert (await client.final(order.authorizations[0]))["status"] == "valid"


async def test_one_validation_however_it_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """RULES §3: "One validation per challenge at a time", also when the sweep finds the job before its request goes on."""
    async with running_ca(duties=False) as ca:
        client = await ca.client()
        begin = ca.store.orders.begin_validation

        async def begin_and_sweep(*args: object, **kwargs: object) -> object:
            moved = await begin(*args, **kwargs)  # type: ignore[arg-type]
            assert await ca.services.challenges.resume() == 1
            return moved

        monkeypatch.setattr(ca.store.orders, "begin_validation", begin_and_sweep)
        (url,) = await begun(client, "a.localhost")
        assert (await client.final(url))["status"] == "valid"
        assert len(ca.site.responder.requests) == 1


async def test_own_listeners_are_never_asked(ca: RunningCa) -> None:
    """RULES §3: never "our own listeners": a redirect to them is not followed either."""
    endpoints = ca.opened.endpoints()
    assert {port for _, port in endpoints} == {ca.acme_port, ca.status_port, ca.config.server.admin_listen.port}
