"""The admin listener: what it gives, what it does not, and that nobody else gives it."""

import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from acmeca import app
from acmeca.config import Config
from acmeca.web.listener import Listener, ListenerError
from tests.support.acme_client import certificate_key
from tests.support.metrics import Samples, parse_samples, value
from tests.support.server import RunningCa, reserved_port, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


async def scrape(ca: RunningCa) -> Samples:
    async with ca.session().get(f"{ca.admin_url}/metrics") as answer:
        assert answer.status == 200
        return parse_samples(await answer.text())


class TestListener:
    async def test_what_there_is(self, ca: RunningCa) -> None:
        session = ca.session()
        for path, text in (("/health/live", "live\n"), ("/health/ready", "ready\n")):
            async with session.get(ca.admin_url + path) as answer:
                assert (answer.status, await answer.text()) == (200, text)
                assert answer.headers["Cache-Control"] == "no-store"

    async def test_content_types(self, ca: RunningCa) -> None:
        """Prometheus' text format, and OpenMetrics for who asks for it."""
        session = ca.session()
        async with session.get(f"{ca.admin_url}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert answer.headers["Cache-Control"] == "no-store"
        accept = {"Accept": "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        async with session.get(f"{ca.admin_url}/metrics", headers=accept) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
            assert (await answer.text()).endswith("# EOF\n")

    @pytest.mark.parametrize(
        "path",
        ["/", "/metrics/", "/metrics/x", "/acme/directory", "/bundle.pem", "/roots.pem", "/style.css", "/ocsp/x"],
    )
    async def test_there_is_nothing_else(self, ca: RunningCa, path: str) -> None:
        async with ca.session().get(ca.admin_url + path) as answer:
            assert answer.status == 404

    @pytest.mark.parametrize("path", ["/metrics", "/health/live", "/health/ready"])
    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    async def test_nothing_can_be_changed(self, ca: RunningCa, path: str, method: str) -> None:
        async with ca.session().request(method, ca.admin_url + path) as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "GET,HEAD"

    async def test_no_other_listener_gives_metrics(self, ca: RunningCa) -> None:
        for base in (ca.urls.base, ca.urls.status):
            async with ca.session().get(f"{base}/metrics") as answer:
                assert answer.status == 404

    async def test_validation_never_asks_it(self, ca: RunningCa) -> None:
        assert ca.config.server.admin_listen.port in {port for _, port in ca.opened.endpoints()}


class TestPort:
    """A CA is not down for want of its metrics, unless somebody said where they have to be."""

    @staticmethod
    def config(ca: RunningCa, **server: object) -> Config:
        document = {
            "server": {"base_url": ca.urls.base, "status_url": ca.urls.status, "data_dir": ca.data_dir} | server,
            "policy": {"allowed_names": ["*.localhost"]},
        }
        return Config.model_validate(document)

    async def test_a_default_that_is_taken(self, ca: RunningCa, caplog: pytest.LogCaptureFixture) -> None:
        port = ca.config.server.admin_listen.port
        taken = Listener(web.Application(), host="127.0.0.1", port=port)
        with caplog.at_level(logging.WARNING):
            await app.listeners._start_admin(taken, self.config(ca))
        await taken.stop()
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"no metrics are served: 127.0.0.1:{port} cannot be bound: Address already in use" in record.message
        assert "server.admin_listen" in record.message

    async def test_what_was_written_and_is_taken(self, ca: RunningCa) -> None:
        port = ca.config.server.admin_listen.port
        taken = Listener(web.Application(), host="127.0.0.1", port=port)
        with pytest.raises(ListenerError, match="cannot be bound"):
            await app.listeners._start_admin(taken, self.config(ca, admin_listen=f"127.0.0.1:{port}"))
        await taken.stop()

    async def test_a_default_that_is_free(self, ca: RunningCa, caplog: pytest.LogCaptureFixture) -> None:
        with reserved_port() as port:
            free = Listener(web.Application(), host="127.0.0.1", port=port)
            await app.listeners._start_admin(free, self.config(ca))
            assert list(free.endpoints) == [("127.0.0.1", port)]
            await free.stop()
        assert not caplog.records


class TestScrape:
    async def test_a_walk_moves_what_it_should(self, ca: RunningCa) -> None:
        """An order, OCSP twice, a revocation, a mistake: each is seen, and nothing else."""
        client, party = await ca.client(), ca.relying_party()
        before = await scrape(ca)
        issued = await client.issue("walk.localhost")
        for _ in range(2):
            assert (await party.said(issued.serial)).status == "GOOD"
        (await client.revoke(issued.der, key=certificate_key(issued), reason=4)).ok()
        assert (await party.said(issued.serial)).status == "REVOKED"
        assert (await party.said(1 << 100)).status == "UNKNOWN"
        await party.post(b"no request")
        (await client.revoke(issued.der, reason=4)).refused("alreadyRevoked", 400)
        async with ca.session().get(f"{ca.urls.base}/nowhere") as answer:
            assert answer.status == 404
        after = await scrape(ca)

        def moved(name: str, **labels: str) -> float:
            return value(after, name, **labels) - value(before, name, **labels)

        requests = "acmeca_acme_request_duration_seconds_count"
        assert moved(requests, resource="newOrder", status="2xx") == 1
        assert moved(requests, resource="finalize", status="2xx") == 1
        assert moved(requests, resource="certificate", status="2xx") == 1
        assert moved(requests, resource="revokeCert", status="2xx") == 1
        assert moved(requests, resource="revokeCert", status="4xx") == 1
        assert moved(requests, resource="other", status="4xx") == 1
        assert moved("acmeca_acme_request_duration_seconds_sum", resource="finalize", status="2xx") > 0
        assert moved("acmeca_acme_problems_total", type="alreadyRevoked") == 1
        assert moved("acmeca_acme_problems_total", type="malformed") == 1
        assert moved("acmeca_orders_closed_total", status="valid") == 1
        assert moved("acmeca_orders_closed_total", status="invalid") == 0
        assert moved("acmeca_validation_duration_seconds_count", type="http-01", outcome="valid") == 1
        assert moved("acmeca_certificates_issued_total", profile="server") == 1
        assert moved("acmeca_certificates_issued_total", profile="listener") == 0
        assert moved("acmeca_issuance_duration_seconds_count") == 1
        assert moved("acmeca_certificates_revoked_total", reason="superseded") == 1
        assert moved("acmeca_ocsp_answers_total", status="good", source="signed") == 1
        assert moved("acmeca_ocsp_answers_total", status="good", source="kept") == 1
        assert moved("acmeca_ocsp_answers_total", status="revoked", source="signed") == 1
        assert moved("acmeca_ocsp_answers_total", status="unknown", source="signed") == 1
        assert moved("acmeca_ocsp_answers_total", status="malformedRequest", source="kept") == 1

    async def test_a_validation_that_fails(self, ca: RunningCa) -> None:
        """Two names of one order fail: two validations, and one order."""
        client = await ca.client()
        before = await scrape(ca)
        order = await client.new_order("one.localhost", "two.localhost")
        for url in order.authorizations:  # nothing is provisioned
            await client.respond(await client.challenge(url))
            assert (await client.final(url))["status"] == "invalid"
        after = await scrape(ca)
        outcome = {"type": "http-01", "outcome": "incorrectResponse"}
        name = "acmeca_validation_duration_seconds_count"
        assert value(after, name, **outcome) - value(before, name, **outcome) == 2
        assert value(after, "acmeca_orders_closed_total", status="invalid") == 1

    async def test_what_simply_is(self, ca: RunningCa) -> None:
        await ca.services.status.publish_due_crls()
        samples = await scrape(ca)
        crl = await ca.services.status.crl(ca.issuer.id)
        root_crl = await ca.services.status.crl(ca.root.id)
        for each in (crl, root_crl):
            labels = {"issuer": each.issuer_id}
            assert value(samples, "acmeca_crl_number", **labels) == each.number
            assert value(samples, "acmeca_crl_entries", **labels) == each.entries
            this_update = value(samples, "acmeca_crl_this_update_timestamp_seconds", **labels)
            assert this_update == each.this_update.timestamp()
            next_update = value(samples, "acmeca_crl_next_update_timestamp_seconds", **labels)
            assert next_update == each.next_update.timestamp()
            assert value(samples, "acmeca_crl_revocations_waiting", **labels) == 0
        responder = ca.services.status.responder_not_after(ca.issuer.id)
        assert responder is not None
        listener = (await ca.served_certificate()).not_valid_after_utc
        for purpose, issuer, not_after in (
            ("root", ca.root, ca.root.not_after),
            ("issuer", ca.issuer, ca.issuer.not_after),
            ("responder", ca.issuer, responder),
            ("listener", ca.issuer, listener),
        ):
            name = "acmeca_certificate_not_after_timestamp_seconds"
            assert value(samples, name, purpose=purpose, issuer=issuer.id) == not_after.timestamp()
        assert value(samples, "acmeca_database_size_bytes") > 4096
        assert value(samples, "acmeca_connections", listener="admin") >= 1
        assert value(samples, "acmeca_connections_limit", listener="admin") >= 1
        assert value(samples, "process_resident_memory_bytes") > 1 << 20
        assert value(samples, "process_cpu_seconds_total") > 0
        assert all(number == 0 for (name, _), number in samples.items() if name == "acmeca_readiness_faults")

    async def test_nobody_is_named(self, ca: RunningCa) -> None:
        """Rule 1 of web/metrics.py: no identifier, no serial, no account; and each metric explains itself."""
        client = await ca.client()
        issued = await client.issue("named.localhost")
        async with ca.session().get(f"{ca.admin_url}/metrics") as answer:
            text = await answer.text()
        account_id = str(client.account_url).rpartition("/")[2]
        for secret in ("named.localhost", f"{issued.serial:x}", str(issued.serial), account_id):
            assert secret not in text
        helped = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP ") and len(line.split()) > 4}
        typed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
        assert helped == typed
        assert len(text.splitlines()) < 1000
