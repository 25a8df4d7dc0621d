"""Validations: one at a time, bounded, resumed, and never begun twice."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from acmeca.acme.objects import ChallengeType
from acmeca.acme.problem import Problem, ProblemType
from acmeca.service import challenges
from acmeca.service.validations import Outcome, Target, Validation
from acmeca.storage.errors import StorageError
from tests.support.acme_client import AcmeClient
from tests.support.profiles import offer_challenges
from tests.support.server import GatedValidation, RunningCa, ca_site, http01, running_ca, until


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
        async with site.running(validations=http01(GatedValidation)) as ca:
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


async def test_a_bug_in_a_validation_is_tried_again(ca: RunningCa, caplog: pytest.LogCaptureFixture) -> None:
    """An exception that nobody foresaw ends this attempt only, and stands in the log."""
    client = await ca.client()
    right = ca.services.challenges._validations

    class Wrong:
        async def validate(self, target: Target) -> Outcome:
            raise ZeroDivisionError

    ca.services.challenges._validations = http01(lambda _: Wrong())(right)
    (url,) = await begun(client, "a.localhost")
    running = ca.services.challenges._running
    await until(lambda: not running, what="the end of the validation")
    assert "cannot be finished now" in caplog.text
    ca.services.challenges._validations = right
    assert await ca.services.challenges.resume() == 1
    assert (await client.final(url))["status"] == "valid"


async def test_resume_leaves_alone_what_is_running() -> None:
    gates: list[GatedValidation] = []

    def gated(inner: Validation) -> Validation:
        gates.append(GatedValidation(inner))
        return gates[0]

    async with running_ca(validations=http01(gated)) as ca:
        client = await ca.client()
        (url,) = await begun(client, "a.localhost")
        assert await ca.services.challenges.resume() == 0
        gates[0].gate.set()
        assert (await client.final(url))["status"] == "valid"
        assert gates[0].begun == 1


async def test_none_longer_than_its_time(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """RULES §3: "the whole takes ≤ 30 s": one that hangs is ended, and its turn is free again."""
    monkeypatch.setattr(challenges, "_SECONDS", 0.02)
    async with running_ca(validations=http01(GatedValidation), duties=False) as ca:
        client = await ca.client()
        await begun(client, "a.localhost")
        running = ca.services.challenges._running
        await until(lambda: not running, what="the end of the validation")
        assert "cannot be finished now" in caplog.text
        assert not ca.services.challenges._turns._taken


async def test_bounded_by_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """RULES §3: "per-account … limits": so many at once, so many waiting, and `rateLimited` for what is beyond."""
    gates: list[GatedValidation] = []

    def gated(inner: Validation) -> Validation:
        gates.append(GatedValidation(inner))
        return gates[0]

    monkeypatch.setattr(challenges, "_AWAITED_SECONDS", 0.0)
    monkeypatch.setattr(challenges, "_PER_ACCOUNT", 2)
    monkeypatch.setattr(challenges, "_UNFINISHED_PER_ACCOUNT", 5)
    async with running_ca(validations=http01(gated)) as ca:
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


class Shown:
    """A validation that succeeds, when it is let."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def validate(self, target: Target) -> Outcome:
        self.targets.append(target)
        await self.gate.wait()
        return Outcome(f"shown by {target.type.value}")


TYPES = (ChallengeType.HTTP_01, ChallengeType.TLS_ALPN_01, ChallengeType.DNS_01)


def offer(ca: RunningCa, *types: ChallengeType) -> Shown:
    """From now on these types are offered, and validated by what is returned."""
    shown = Shown()
    offer_challenges(ca.services, *types)
    ca.services.challenges._validations = dict.fromkeys(ChallengeType, shown)
    return shown


class TestSeveralTypes:
    async def test_all_are_offered_in_the_order_of_the_configuration(self, ca: RunningCa) -> None:
        offer(ca, *TYPES)
        client = await ca.client()
        order = await client.new_order("a.localhost")
        pending = await client.authorization(order.authorizations[0])
        assert [challenge["type"] for challenge in pending["challenges"]] == [*TYPES]
        tokens = {challenge["token"] for challenge in pending["challenges"]}
        assert len(tokens) == len(TYPES)  # §8.3: a token "uniquely identifies the challenge"

    @pytest.mark.parametrize("type_", TYPES)
    async def test_any_of_them_is_enough(self, ca: RunningCa, type_: ChallengeType) -> None:
        """§7.1.4: "the server should consider any one of the challenges sufficient to make the authorization valid"."""
        shown = offer(ca, *TYPES)
        client = await ca.client()
        order = await client.new_order("a.localhost")
        challenge = await client.challenge(order.authorizations[0], type_)
        assert (await client.respond(challenge)).json["status"] == "valid"
        valid = await client.authorization(order.authorizations[0])
        assert [item["type"] for item in valid["challenges"]] == [type_]
        (target,) = shown.targets
        assert target.account_url == client.account_url
        assert target.key_authorization == f"{challenge['token']}.{client.key.thumbprint}"
        (event,) = await ca.events("authorization.validated")
        assert f"shown by {type_.value}" in event

    async def test_a_second_one_begins_nothing_while_the_first_is_under_way(self, ca: RunningCa) -> None:
        """Rule 4 of service/challenges.py."""
        shown = offer(ca, *TYPES)
        shown.gate.clear()
        client = await ca.client()
        order = await client.new_order("a.localhost")
        first, second, _ = (await client.authorization(order.authorizations[0]))["challenges"]
        assert (await client.respond(first)).ok().json["status"] == "processing"
        assert (await client.respond(second)).ok().json["status"] == "pending"
        assert await ca.scalar("SELECT COUNT(*) AS n FROM validation_jobs") == 1
        shown.gate.set()
        assert (await client.final(order.authorizations[0]))["status"] == "valid"
        assert (await client.respond(second)).ok().json["status"] == "pending"  # nothing restarts
        assert [target.type for target in shown.targets] == [ChallengeType.HTTP_01]

    async def test_one_of_fifty_begins(self, ca: RunningCa) -> None:
        """RULES §3: one validation at a time, of whichever challenge; every other answer is a 200 without effect."""
        shown = offer(ca, *TYPES)
        shown.gate.clear()
        client = await ca.client()
        order = await client.new_order("a.localhost")
        offered = (await client.authorization(order.authorizations[0]))["challenges"]
        answers = await asyncio.gather(*(client.respond(offered[number % len(offered)]) for number in range(50)))
        assert {answer.status for answer in answers} == {200}
        assert len(shown.targets) == 1
        (begun,) = {answer.json["type"] for answer in answers if answer.json["status"] == "processing"}
        assert begun == shown.targets[0].type
        (job,) = await ca.rows("SELECT challenge_type FROM validation_jobs")
        assert job["challenge_type"] == begun
        shown.gate.set()
        assert (await client.final(order.authorizations[0]))["status"] == "valid"
        assert len(await ca.events("authorization.validated")) == 1
        assert await ca.scalar("SELECT COUNT(*) AS n FROM validation_jobs") == 0

    async def test_a_failed_one_ends_the_authorization(self, ca: RunningCa) -> None:
        """§7.1.6: "If the client attempts to fulfill a challenge and fails … then the authorization transitions to the "invalid"
        state": another type needs another order.
        """
        offer(ca, *TYPES)
        client = await ca.client()
        order = await client.new_order("a.localhost")
        first, second, _ = (await client.authorization(order.authorizations[0]))["challenges"]

        class Refusing:
            async def validate(self, target: Target) -> Outcome:
                return Outcome.refused(Problem(ProblemType.CONNECTION, "nobody is there"))

        table = ca.services.challenges._validations
        ca.services.challenges._validations = http01(lambda _: Refusing())(table)
        assert (await client.respond(first)).json["status"] == "invalid"
        invalid = await client.authorization(order.authorizations[0])
        assert [item["type"] for item in invalid["challenges"]] == ["http-01"]
        assert (await client.respond(second)).ok().json["status"] == "pending"
        assert (await client.authorization(order.authorizations[0]))["status"] == "invalid"

    async def test_a_type_that_is_offered_no_longer(self, ca: RunningCa) -> None:
        """Rule 5 of service/challenges.py: the type is refused, the others of the authorization stay as they were."""
        offer(ca, *TYPES)
        client = await ca.client()
        order = await client.new_order("a.localhost")
        first, second, _ = (await client.authorization(order.authorizations[0]))["challenges"]
        offer(ca, ChallengeType.TLS_ALPN_01)
        refused = (await client.respond(first)).refused("unauthorized", 403)
        assert "offered no longer" in refused.detail
        assert (await client.respond(second)).json["status"] == "valid"

    async def test_a_validation_begun_under_another_configuration_shows_nothing(self) -> None:
        async with ca_site() as site:
            await site.init()
            async with site.running(validations=http01(GatedValidation)) as ca:
                client = await ca.client()
                await begun(client, "a.localhost")
            async with site.opened() as ca:
                shown = offer(ca, ChallengeType.DNS_01)
                assert await ca.services.challenges.resume() == 1
                running = ca.services.challenges._running
                await until(lambda: not running, what="the end of the validation")
                assert not shown.targets
                (failed,) = await ca.events("authorization.failed")
                assert "offered no longer" in failed

    async def test_what_is_checked_further_may_refuse(self, ca: RunningCa) -> None:
        """A check behind the validation turns its success into a failure; after a failure it is not asked."""
        asked: list[Target] = []

        class Forbidding:
            async def refusal(self, target: Target) -> Problem | None:
                asked.append(target)
                return (
                    Problem(ProblemType.UNAUTHORIZED, "not this CA")
                    if target.identifier.value == "no.localhost"
                    else None
                )

        ca.services.challenges._further = Forbidding()
        client = await ca.client()
        (no,) = await begun(client, "no.localhost")
        invalid = await client.final(no)
        assert invalid["status"] == "invalid"
        assert invalid["challenges"][0]["error"]["type"].endswith(":unauthorized")
        (yes,) = await begun(client, "yes.localhost")
        assert (await client.final(yes))["status"] == "valid"
        order = await client.new_order("absent.localhost")
        (await client.respond(await client.challenge(order.authorizations[0]))).ok()
        assert (await client.final(order.authorizations[0]))["status"] == "invalid"
        assert [target.identifier.value for target in asked] == ["no.localhost", "yes.localhost"]
