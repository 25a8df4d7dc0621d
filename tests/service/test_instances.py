"""Two processes of one CA: who leads, what one sees of the other's doing, and who finishes what a dead one left."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from cryptography.x509 import ocsp

from acmeca.acme.objects import ChallengeType
from acmeca.app import Opened
from acmeca.service import jobs
from acmeca.service import status as status_module
from acmeca.storage.errors import StaleError
from acmeca.storage.orders import Orders
from acmeca.storage.writers import GONE_AFTER
from tests.support import ocsp_requests
from tests.support.acme_client import AcmeClient, Issued
from tests.support.databases import connect
from tests.support.instances import Monotonic, another_instance
from tests.support.server import GatedValidation, RunningCa, ca_site, http01, running_ca, until
from tests.support.status_client import crl_number, entries


@pytest.fixture
async def ca() -> AsyncIterator[RunningCa]:
    """The first instance, which leads. Nothing happens by itself, not even a sign of life."""
    async with running_ca(duties=False) as ca:
        yield ca


@pytest.fixture
async def second(ca: RunningCa) -> AsyncIterator[tuple[Opened, Monotonic]]:
    async with another_instance(ca) as second:
        yield second


@pytest.fixture
def other(second: tuple[Opened, Monotonic]) -> Opened:
    return second[0]


@pytest.fixture
def clock(second: tuple[Opened, Monotonic]) -> Monotonic:
    """The other instance's monotonic clock."""
    return second[1]


async def lose(other: Opened, clock: Monotonic) -> None:
    """Let the first instance's commits stand still for so long that it counts as gone to the other."""
    await other.jobs._leadership._others.look()
    clock.seconds += GONE_AFTER


async def status_at(opened: Opened, issued: Issued) -> str:
    """What an instance answers of a certificate by OCSP."""
    issuer = opened.services.issuers.active.issuer
    request = ocsp_requests.simple(issuer.certificate, issued.serial)
    answer = await opened.services.status.ocsp(issuer.id, request)
    return ocsp.load_der_ocsp_response(answer.body).certificate_status.name


class TestLeadership:
    async def test_the_first_leads_and_keeps_it(self, ca: RunningCa, other: Opened, clock: Monotonic) -> None:
        lease = ca.opened.jobs._leadership.lease
        assert lease is not None
        for _ in range(5):
            clock.seconds += GONE_AFTER - 1
            await ca.opened.jobs._beat()
            await other.jobs._beat()
            assert other.jobs._leadership.lease is None
        assert ca.opened.jobs._leadership.lease == lease

    async def test_it_is_taken_over_from_one_that_stands_still(
        self, ca: RunningCa, other: Opened, clock: Monotonic
    ) -> None:
        lease = ca.opened.jobs._leadership.lease
        assert lease is not None
        await other.jobs._beat()
        assert other.jobs._leadership.lease is None
        clock.seconds += GONE_AFTER
        await other.jobs._beat()
        taken = other.jobs._leadership.lease
        assert taken is not None
        assert (taken.instance, taken.fence) == ("other-1", lease.fence + 1)
        await ca.opened.jobs._beat()  # it wakes up, and finds that its duties are another's
        assert ca.opened.jobs._leadership.lease is None

    async def test_it_is_taken_over_at_once_from_one_that_ended(self, ca: RunningCa, other: Opened) -> None:
        await ca.store.writers.release()
        await other.jobs._beat()
        assert other.jobs._leadership.lease is not None

    async def test_a_new_leader_publishes_what_the_former_one_left(
        self, ca: RunningCa, other: Opened, clock: Monotonic
    ) -> None:
        """RULES §5: a revocation shows "in the CRL within a minute", also when the leader died in between."""
        client = await ca.client()
        issued = await client.issue("a.localhost")
        (await client.revoke(issued.der)).ok()
        await other.services.status.follow()
        await other.jobs._publish_due_crls()  # not ours to do
        assert not other.services.status.crl_due.is_set()
        await lose(other, clock)
        await other.jobs._beat()
        assert other.services.status.crl_due.is_set()
        await other.jobs._publish_due_crls()
        await ca.services.status.follow()
        assert issued.serial in entries(await ca.relying_party().crl())

    async def test_a_leader_that_was_stopped_publishes_nothing_when_it_wakes(
        self, ca: RunningCa, other: Opened, clock: Monotonic
    ) -> None:
        client = await ca.client()
        issued = await client.issue("a.localhost")
        (await client.revoke(issued.der)).ok()
        await lose(other, clock)
        await other.jobs._beat()
        before = await ca.rows("SELECT number FROM crls ORDER BY number")
        with pytest.raises(StaleError):
            await ca.opened.jobs._publish_due_crls()
        assert await ca.rows("SELECT number FROM crls ORDER BY number") == before
        assert ca.services.status.crl_due.is_set()  # still to be done, should the duties come back

    async def test_two_that_both_lead(self, ca: RunningCa, other: Opened) -> None:
        """RULES §6: "two replicas never publish the same CRL number", and none goes back, whoever believes to lead."""
        party, seen = ca.relying_party(), []
        issuer_id = ca.issuer.id
        for _ in range(5):
            await asyncio.gather(
                *(each.services.status.publish_crl(issuer_id) for each in (ca.opened, other) for _ in range(3))
            )
            await ca.services.status.follow()
            seen.append(crl_number(await party.crl()))
        events = await ca.rows("SELECT event FROM audit WHERE kind = 'crl.recorded' AND subject = $1", issuer_id)
        numbers = [json.loads(row["event"])["number"] for row in events]
        assert len(numbers) == len(set(numbers)) >= 30
        assert seen == sorted(set(seen))
        assert seen[-1] == max(numbers)


class TestFollowing:
    async def test_a_revocation_by_another_process(self, ca: RunningCa, other: Opened) -> None:
        """Rule 4 of service/status.py: what was signed before is dropped, and a CRL is asked for."""
        client = await ca.client()
        issued, kept = await client.issue("a.localhost"), await client.issue("b.localhost")
        assert [await status_at(other, each) for each in (issued, kept)] == ["GOOD", "GOOD"]
        await other.services.status.follow()
        other.services.status.crl_due.clear()
        before = dict(other.services.status._answers)
        (await client.revoke(issued.der, reason=4)).ok()
        assert await status_at(other, issued) == "GOOD"  # it was kept, and nobody has looked yet
        await other.services.status.follow()
        assert await status_at(other, issued) == "REVOKED"
        assert other.services.status.crl_due.is_set()
        key = ca.issuer.id, kept.serial
        assert other.services.status._answers[key] is before[key]  # one's revocation costs the others nothing

    async def test_many_at_once_drop_everything(
        self, ca: RunningCa, other: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status_module, "_FOLLOWED_ONE_BY_ONE", 1)
        client = await ca.client()
        issued = [await client.issue(f"n{number}.localhost") for number in range(3)]
        assert [await status_at(other, each) for each in issued] == ["GOOD"] * 3
        for each in issued[:2]:
            (await client.revoke(each.der)).ok()
        await other.services.status.follow()
        assert not other.services.status._answers
        assert [await status_at(other, each) for each in issued] == ["REVOKED", "REVOKED", "GOOD"]
        assert other.services.status.crl_due.is_set()

    async def test_what_was_kept_before_the_first_look_is_dropped(self, ca: RunningCa, other: Opened) -> None:
        """The look at the start may have failed, and answers are signed from the first request on."""
        status = other.services.status
        status._followed = None
        client = await ca.client()
        issued = await client.issue("a.localhost")
        assert await status_at(other, issued) == "GOOD"
        (await client.revoke(issued.der)).ok()
        await status.follow()
        assert await status_at(other, issued) == "REVOKED"

    async def test_a_number_that_fell(self, ca: RunningCa, other: Opened) -> None:
        """A standby took over that lacked two revocations, and the next one bears the number of one of them."""
        status = other.services.status
        client = await ca.client()
        issued = await client.issue("a.localhost")
        assert await status_at(other, issued) == "GOOD"
        assert status._followed is not None
        status._followed += 2
        (await client.revoke(issued.der)).ok()
        await status.follow()
        assert await status_at(other, issued) == "REVOKED"

    async def test_an_answer_that_is_signed_while_it_is_revoked_is_not_kept(self, ca: RunningCa, other: Opened) -> None:
        """What was read before `follow` and signed after it is given out, as it was true, and never again."""
        client = await ca.client()
        issued = await client.issue("a.localhost")
        status = other.services.status
        status_of = other.store.certificates.status_of

        async def revoked_meanwhile(issuer_id: str, serial: str) -> object:
            found = await status_of(issuer_id, serial)
            (await client.revoke(issued.der)).ok()
            await status.follow()
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(other.store.certificates, "status_of", revoked_meanwhile)
            assert await status_at(other, issued) == "GOOD"
        assert await status_at(other, issued) == "REVOKED"

    async def test_a_crl_of_another_process(self, ca: RunningCa, other: Opened) -> None:
        status, issuer_id = other.services.status, ca.issuer.id
        before = await status.crl(issuer_id)
        published = await ca.services.status.publish_crl(issuer_id)
        assert await status.crl(issuer_id) is before
        await status.follow()
        assert (await status.crl(issuer_id)).number == published.number > before.number


class TestUnfinishedWork:
    @pytest.fixture
    async def left(self, ca: RunningCa, other: Opened) -> str:
        """The URL of an order whose certificate the first instance has recorded and could not sign."""
        client = await ca.client()
        order = await client.ready_order("a.localhost")
        ca.site.issuer_key.broken = RuntimeError("the token is away")
        assert (await client.finalize(order)).ok().json["status"] == "processing"
        ca.site.issuer_key.broken = None
        return order.url

    async def issued(self, ca: RunningCa) -> int:
        return int(
            await ca.scalar(
                "SELECT COUNT(*) AS n FROM audit WHERE kind = 'certificate.issued' AND actor LIKE 'account:%'"
            )
        )

    async def test_of_one_that_lives_is_left_alone(
        self, ca: RunningCa, other: Opened, clock: Monotonic, left: str
    ) -> None:
        for _ in range(5):
            assert await other.services.issuance.finish_unfinished() == 0
            clock.seconds += GONE_AFTER - 1
            await ca.store.writers.beat()
        assert await self.issued(ca) == 0
        assert await ca.services.issuance.finish_unfinished(adopt=False) == 1  # its own
        assert await self.issued(ca) == 1

    async def test_of_one_that_is_gone_is_finished_once(
        self, ca: RunningCa, other: Opened, clock: Monotonic, left: str
    ) -> None:
        await lose(other, clock)
        assert await other.services.issuance.finish_unfinished(adopt=False) == 0  # who leads does that
        signatures = len(ca.site.issuer_key.signed)
        assert await other.services.issuance.finish_unfinished() == 1
        assert await other.services.issuance.finish_unfinished() == 0
        assert await ca.services.issuance.finish_unfinished() == 0  # it wakes up, and has nothing left to do
        assert len(ca.site.issuer_key.signed) == signatures + 1
        assert await self.issued(ca) == 1
        (row,) = await ca.rows("SELECT status FROM orders")
        assert row["status"] == "valid"

    async def test_of_one_that_wakes_up_at_that_moment(
        self, ca: RunningCa, other: Opened, clock: Monotonic, left: str
    ) -> None:
        """Both sign the same bytes; one signature is kept."""
        await lose(other, clock)
        moved = await asyncio.gather(
            *(each.services.issuance.finish_unfinished() for each in (ca.opened, other) for _ in range(3))
        )
        assert sum(moved) == 1
        assert await self.issued(ca) == 1

    async def test_of_one_whose_name_another_has_taken(self, ca: RunningCa, other: Opened, left: str) -> None:
        """After a restart nobody has to wait: the instance before it can write no more."""
        with connect(ca.config.database_path or ca.data_dir) as connection:
            connection.execute("UPDATE writers SET instance = 'a new one' WHERE name = ?", (ca.store.writer.name,))
        assert await other.services.issuance.finish_unfinished() == 1


class TestValidations:
    @staticmethod
    async def begun(client: AcmeClient) -> str:
        """The URL of an authorization whose validation is under way at the first instance."""
        order = await client.new_order("a.localhost")
        challenge = await client.challenge(order.authorizations[0])
        client.provision(challenge)
        (await client.respond(challenge)).ok()
        return order.authorizations[0]

    async def test_of_one_that_is_gone_is_taken_up_once(self) -> None:
        """Rule 1 of service/challenges.py; the first one wakes up later, and changes nothing."""
        async with ca_site() as site:
            await site.init()
            async with site.running(validations=http01(GatedValidation), duties=False) as ca:
                client = await ca.client()
                url = await self.begun(client)
                async with another_instance(ca) as (other, clock):
                    gated = ca.services.challenges._validations[ChallengeType.HTTP_01]
                    assert isinstance(gated, GatedValidation)
                    other.services.challenges._validations = {ChallengeType.HTTP_01: gated.inner}
                    assert await other.services.challenges.resume() == 0  # it lives
                    await lose(other, clock)
                    started = await asyncio.gather(*(other.services.challenges.resume() for _ in range(3)))
                    assert sum(started) >= 1
                    assert (await client.final(url))["status"] == "valid"
                    gated.gate.set()
                    await until(lambda: not ca.services.challenges._running, what="the end of the first one's")
                    assert len(await ca.events("authorization.validated")) == 1
                    assert (await client.final(url))["status"] == "valid"
                    assert await ca.scalar("SELECT COUNT(*) AS n FROM validation_jobs") == 0
                    assert await ca.services.challenges.resume() == 0

    async def test_one_of_twenty_takes_it_up(self) -> None:
        async with ca_site() as site:
            await site.init()
            async with site.running(validations=http01(GatedValidation), duties=False) as ca:
                await self.begun(await ca.client())
                (job,) = await ca.store.orders.validation_jobs()
                assert job.instance == ca.store.writer.instance
                adopters = [Orders(ca.store.database, writer="w", instance=f"i{number}") for number in range(20)]
                taken = await asyncio.gather(*(adopter.adopt_validation(job) for adopter in adopters))
                assert sum(taken) == 1
                (job,) = await ca.store.orders.validation_jobs()
                assert job.instance == f"i{taken.index(True)}"


async def test_one_whose_place_was_taken_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1 of storage/writers.py: it writes nothing more, and says so, so that `serve` stops it."""
    monkeypatch.setattr(jobs, "BEAT", 0.01)
    async with running_ca() as ca:
        with connect(ca.config.database_path or ca.data_dir) as connection:
            connection.execute("UPDATE writers SET instance = 'a new one' WHERE name = ?", (ca.store.writer.name,))
        async with asyncio.timeout(15):
            await ca.opened.jobs.fenced.wait()
