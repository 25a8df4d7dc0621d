"""What the server does by itself: each duty alone, none taking another down, whatever the clock does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from acmeca.errors import AcmecaError
from acmeca.service import jobs
from acmeca.storage.errors import StorageError
from tests.support.jose import encode
from tests.support.server import GatedValidation, RunningCa, Site, ca_site, held_answers, http01, running_ca, until
from tests.support.status_client import crl_number, entries, response_status


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with ca_site() as site:
        await site.init()
        yield site


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Duties that come round every few milliseconds."""
    for name in (
        "BEAT",
        "_FOLLOW_SECONDS",
        "_SWEEP_SECONDS",
        "_EXPIRY_SECONDS",
        "_RENEWAL_SECONDS",
        "_CRL_PAUSE_SECONDS",
        "_CRL_RETRY_SECONDS",
        "_FAILED_SECONDS",
    ):
        monkeypatch.setattr(jobs, name, 0.01)
    monkeypatch.setattr(jobs, "_CRL_SECONDS", 0.02)


class UnforeseenError(Exception):
    """A failure that no duty names."""


@pytest.mark.parametrize("error", [StorageError("the disk is full"), OSError("no"), UnforeseenError("a bug")])
async def test_a_failing_duty_takes_no_other_down(
    site: Site, fast: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Rule 2 of service/jobs.py, for each duty in turn, and for what it asks before it begins."""
    async with site.running() as ca:
        client = await ca.client()
        duties = (
            (ca.services.status, "seconds_to_next_crl"),
            (ca.services.status, "publish_due_crls"),
            (ca.store.certificates, "last_revocation"),
            (ca.opened.jobs._leadership, "campaign"),
            (ca.store.orders, "expire"),
            (ca.opened.jobs._own_certificates, "_refresh_responder"),
            (ca.services.issuance, "finish_unfinished"),
        )

        async def fail(*_: object, **__: object) -> float:
            raise error

        for service, method in duties:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(service, method, fail)
                caplog.clear()
                await until(lambda: "failed, tried again" in caplog.text, what=f"a failure of {method}")
        # All of them still do their work: an order is closed, a CRL is published.
        order = await client.new_order("a.localhost")
        ca.clock.advance(days=2)

        async def is_closed() -> bool:
            return (await client.order(order.url)).status == "invalid"

        await until(is_closed, what="the order's end")
        issued = await client.issue("b.localhost")
        (await client.revoke(issued.der)).ok()
        party = ca.relying_party()

        async def is_listed() -> bool:
            return issued.serial in entries(await party.crl())

        await until(is_listed, what="the entry in the CRL")


async def test_a_duty_that_goes_on_failing_is_told_of_once(
    site: Site, fast: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full for a night fills no log: one traceback at the first failure, one line when it is over."""
    async with site.running() as ca:
        failures = 0

        async def fail() -> int:
            nonlocal failures
            failures += 1
            raise StorageError("the disk is full")

        caplog.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ca.store.certificates, "last_revocation", fail)
            await until(lambda: failures >= 5, what="five failures")
            told = [record for record in caplog.records if record.getMessage().startswith("following: ")]
            assert [(record.levelname, record.exc_info is not None) for record in told] == [("ERROR", True)]
        caplog.clear()
        await until(lambda: "following: done at last" in caplog.text, what="the end of the failures")
        assert caplog.text.count("following: ") == 1


async def test_the_sweep_finishes_what_failed(site: Site, fast: None) -> None:
    """A certificate whose signature failed is made valid without a restart, when the key is back."""
    async with site.running() as ca:
        client = await ca.client()
        order = await client.ready_order("a.localhost")
        site.issuer_key.broken = UnforeseenError("the token is away")
        assert (await client.finalize(order)).ok().json["status"] == "processing"
        site.issuer_key.broken = None

        async def is_valid() -> bool:
            return (await client.order(order.url)).status == "valid"

        await until(is_valid, what="the certificate")


class TestTheClock:
    @pytest.mark.parametrize(
        "jump",
        [
            timedelta(hours=-1),
            timedelta(days=10),
            timedelta(days=40),
            timedelta(days=3653),
            timedelta(days=-2000),
            timedelta(days=36500),
        ],
    )
    async def test_jumps_and_comes_back(self, fast: None, jump: timedelta) -> None:
        """A clock that jumps gives no 500 anywhere, and when it is right again all is as before."""
        async with running_ca() as ca:
            client, party = await ca.client(), ca.relying_party()
            issued, gone = await client.issue("a.localhost"), await client.issue("b.localhost")
            (await client.revoke(gone.der)).ok()
            order = await client.ready_order("c.localhost")
            ca.clock.advance(hours=2)
            for moment in (ca.clock() + jump, ca.clock()):
                ca.clock.moment = moment
                for _ in range(2):
                    await asyncio.sleep(0.03)  # the duties come round meanwhile
                    await self.assert_nothing_breaks(ca)
                    answers = [
                        await client.post(order.url),
                        await client.post(issued.order.certificate),
                        await client.order_answer("d.localhost"),
                        await client.post(client.account_url),
                    ]
                    assert max(answer.status for answer in answers) < 500

            async def recovered() -> bool:
                statuses = [response_status(await party.post(party.request(one.serial))) for one in (issued, gone)]
                crl = await party.crl()
                return statuses == ["SUCCESSFUL"] * 2 and crl.last_update_utc <= ca.clock() < crl.next_update_utc

            await until(recovered, what="OCSP and a CRL of now")
            assert await party.status(issued.serial) == "GOOD"
            assert await party.status(gone.serial) == "REVOKED"
            assert gone.serial in entries(await party.crl())
            await client.issue("e.localhost")
            (await client.revoke(issued.der)).ok()

    @staticmethod
    async def assert_nothing_breaks(ca: RunningCa) -> None:
        party = ca.relying_party()
        for url in (ca.issuer.crl_url, ca.root.crl_url, ca.issuer.issuer_url, ca.urls.bundle, ca.urls.roots):
            assert (await party.fetch(url)).status == 200
        assert response_status(await party.post(party.request(5))) in {"SUCCESSFUL", "TRY_LATER"}
        async with ca.session().get(ca.directory_url) as answer:
            assert answer.status == 200

    async def test_numbers_rise_all_the_way(self, fast: None) -> None:
        async with running_ca() as ca:
            party, numbers = ca.relying_party(), []
            for jump in (0.0, 3600.0, -7200.0, 86400 * 10.0, -86400 * 10.0, 60.0):
                ca.clock.advance(seconds=jump)
                with contextlib.suppress(AcmecaError):
                    await ca.services.status.publish_crl(ca.issuer.id)
                numbers.append(crl_number(await party.crl()))
            assert numbers == sorted(numbers)


class TestStop:
    async def test_a_request_in_flight_is_finished(self, site: Site) -> None:
        """Rule 2 of web/listener.py: a listener that is stopped "takes no new connection, finishes the requests it has"."""
        stack = contextlib.AsyncExitStack()
        ca = await stack.enter_async_context(site.running())
        client = await ca.client()
        order = await client.ready_order("a.localhost")
        body = await client.sign(order.finalize, {"csr": encode(order.csr())})
        released = asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:100]
            await released.wait()
            yield body[100:]

        ca._sessions.clear()  # the client outlives the server
        request = asyncio.create_task(client.send(order.finalize, slowly()))
        listener = ca.opened.endpoints.listeners[1]
        await until(listener._is_busy, what="the request's arrival")
        stop = asyncio.create_task(stack.aclose())
        await until(lambda: not list(listener.endpoints), what="closed sockets")
        assert not stop.done()
        released.set()
        answer = await request
        await stop
        await client.session.close()
        assert answer.ok().json["status"] == "valid"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", ca.acme_port)

    async def test_validations_are_left_to_the_next_start(self, site: Site) -> None:
        """A stop does not wait for hosts that do not answer, and forgets nothing."""
        async with site.running() as ca:
            client = await ca.client()
            order = await client.new_order("a.localhost")
            challenge = await client.challenge(order.authorizations[0])
            client.provision(challenge)
            with held_answers(ca):
                (await client.respond(challenge)).ok()
                async with asyncio.timeout(5):
                    await ca.services.challenges.stop()
            assert await ca.scalar("SELECT COUNT(*) AS n FROM validation_jobs") == 1
        async with site.running() as ca:
            again = await ca.client(client.key)
            assert (await again.final(order.authorizations[0]))["status"] == "valid"

    async def test_nothing_is_left_running(self, site: Site) -> None:
        """No task outlives the CA, and its socket is gone."""
        before = asyncio.all_tasks()
        async with site.running(validations=http01(GatedValidation)) as ca:
            client = await ca.client()
            order = await client.new_order("a.localhost")
            (await client.respond(await client.challenge(order.authorizations[0]))).ok()
            socket_path = ca.data_dir / "acmeca.sock"
            assert socket_path.exists()
        assert not socket_path.exists()
        await until(lambda: asyncio.all_tasks() <= before, what="the end of every task")

    async def test_started_and_stopped_are_written_down(self, site: Site) -> None:
        for _ in range(2):
            async with site.running():
                pass
        async with site.opened() as ca:
            kinds = [row["kind"] for row in await ca.rows("SELECT kind FROM audit WHERE kind LIKE 'server.%'")]
            assert kinds == ["server.started", "server.stopped"] * 2
