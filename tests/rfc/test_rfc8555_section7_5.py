"""RFC 8555 §7.5: authorizations and challenges, as a client sees them."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient, assert_alike
from tests.support.jose import new_key
from tests.support.server import RunningCa, held_answers, running_ca, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNKNOWN = "AAAAAAAAAAAAAAAAAAAAAA"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


class TestSection75:
    async def test_another_account(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §2: an authorization and its challenges are not there for another account. §7.5.2: "The server MUST verify that
        the request is signed by the account key corresponding to the account that owns the authorization."
        """
        order = await (await ca.client()).new_order("theirs.localhost")
        theirs, missing = order.authorizations[0], ca.urls.authorization(UNKNOWN)
        for payload in (b"", {}, {"status": "deactivated"}, {"status": "valid"}):
            assert_alike(await client.post(theirs, payload), await client.post(missing, payload))
        challenge = theirs.replace("/authorization/", "/challenge/") + "/http-01"
        for payload in (b"", {}):
            answers = [await client.post(url, payload) for url in (challenge, ca.urls.challenge(UNKNOWN, "http-01"))]
            assert_alike(*answers)
        assert (
            await ca.scalar("SELECT status FROM authorizations WHERE id = $1", theirs.rpartition("/")[2]) == "pending"
        )

    async def test_a_challenge_that_is_not_offered(self, ca: RunningCa, client: AcmeClient) -> None:
        order = await client.new_order("types.localhost")
        url = order.authorizations[0].replace("/authorization/", "/challenge/")
        for type_ in ("dns-persist-01", "tls-alpn-02", "HTTP-01", "http-01%20", "none"):
            (await client.post(f"{url}/{type_}", {})).refused(
                "malformed" if "%" not in type_ else "unauthorized", 404 if "%" not in type_ else 403
            )
        assert (await client.authorization(order.authorizations[0]))["status"] == "pending"


class TestSection751:
    async def test_respond(self, client: AcmeClient) -> None:
        """§7.5.1: "The server updates the authorization document by updating its representation of the challenge with the
        response object provided by the client. … The server provides a 200 (OK) response with the updated challenge object as
        its body."
        """
        order = await client.new_order("r.localhost")
        challenge = await client.challenge(order.authorizations[0])
        client.provision(challenge)
        answer = (await client.respond(challenge)).ok()
        assert answer.content_type == "application/json"
        assert {"type", "url", "token", "status"} <= set(answer.json)
        assert answer.json["url"] == challenge["url"]

    async def test_unknown_members(self, client: AcmeClient) -> None:
        """§7.5.1: "The server MUST ignore any fields in the response object that are not specified as response fields for this
        type of challenge." A client cannot talk itself valid.
        """
        order = await client.new_order("fields.localhost")
        challenge = await client.challenge(order.authorizations[0])
        lies = {"status": "valid", "keyAuthorization": "x.y", "type": "http-01", "token": "x", "resource": "challenge"}
        (await client.post(challenge["url"], lies)).ok()
        assert (await client.final(order.authorizations[0]))["status"] == "invalid"

    @pytest.mark.parametrize("payload", [b"[]", b"null", b'"x"', b"{", b"\xff"])
    async def test_malformed(self, client: AcmeClient, payload: bytes) -> None:
        """§7.5.1: "If the client's response is invalid for any reason or does not provide the server with appropriate information
        to validate the challenge, then the server MUST return an HTTP error." Nothing was begun.
        """
        order = await client.new_order("m.localhost")
        challenge = await client.challenge(order.authorizations[0])
        (await client.post(challenge["url"], payload)).refused("malformed", 400)
        assert (await client.post(challenge["url"])).json["status"] == "pending"

    async def test_looking_does_not_begin(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.3: a POST-as-GET of the challenge fetches it; only a response begins the validation."""
        order = await client.new_order("look.localhost")
        challenge = await client.challenge(order.authorizations[0])
        requests = len(ca.site.responder.requests)
        assert (await client.post(challenge["url"])).json["status"] == "pending"
        assert len(ca.site.responder.requests) == requests

    async def test_retry_after(self, client: AcmeClient) -> None:
        """§7.5.1: "In responding to poll requests while the validation is still in progress, the server MUST return a 200 (OK)
        response and MAY include a Retry-After header field to suggest a polling interval to the client."
        """
        order = await client.new_order("ra.localhost")
        answer = (await client.post(order.authorizations[0])).ok()
        assert answer.headers["Retry-After"] == "1"
        valid = await client.authorize_one(order.authorizations[0])
        assert valid["status"] == "valid"
        assert "Retry-After" not in (await client.post(order.authorizations[0])).headers

    @pytest.mark.parametrize("outcome", ["valid", "invalid", "deactivated"])
    async def test_a_finished_one_is_not_begun_again(self, ca: RunningCa, client: AcmeClient, outcome: str) -> None:
        """§7.1.6: no arrow leads out of "valid", "invalid" or "deactivated" back to "processing"."""
        order = await client.new_order("finished.localhost")
        url = order.authorizations[0]
        challenge = await client.challenge(url)
        if outcome == "deactivated":
            (await client.post(url, {"status": "deactivated"})).ok()
        elif outcome == "valid":
            await client.authorize_one(url)
        else:
            (await client.respond(challenge)).ok()
            await client.final(url)
        asked = len(ca.site.responder.requests)
        before = await client.authorization(url)
        client.provision(challenge)
        answer = (await client.respond(challenge)).ok()
        assert answer.json["status"] == {"deactivated": "pending"}.get(outcome, outcome)
        assert await client.authorization(url) == before
        assert len(ca.site.responder.requests) == asked

    async def test_somebody_elses_key_authorization(self, ca: RunningCa, client: AcmeClient) -> None:
        """§8.1: the key authorization binds the answer to the account's key."""
        order = await client.new_order("bound.localhost")
        challenge = await client.challenge(order.authorizations[0])
        ca.provisioned[challenge["token"]] = f"{challenge['token']}.{new_key().thumbprint}"
        (await client.respond(challenge)).ok()
        failed = await client.final(order.authorizations[0])
        assert failed["status"] == "invalid"
        assert "account" in failed["challenges"][0]["error"]["detail"]

    async def test_one_validation_at_a_time(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §3: "One validation per challenge at a time"."""
        order = await client.new_order("single.localhost")
        challenge = await client.challenge(order.authorizations[0])
        client.provision(challenge)
        connections = ca.site.responder.connections
        with held_answers(ca):
            for _ in range(5):
                assert (await client.respond(challenge)).ok().json["status"] == "processing"
        await client.final(order.authorizations[0])
        assert ca.site.responder.connections == connections + 1


class TestSection752:
    async def test_deactivate(self, client: AcmeClient) -> None:
        """§7.5.2: "If the server accepts the deactivation, it should reply with a 200 (OK) status code and the updated contents of
        the authorization object."
        """
        order = await client.new_order("d.localhost")
        answer = (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
        assert answer.json["status"] == "deactivated"
        assert (await client.authorization(order.authorizations[0])) == answer.json

    async def test_not_sufficient(self, client: AcmeClient) -> None:
        """§7.5.2: "The server MUST NOT treat deactivated authorization objects as sufficient for issuing certificates." """
        order = await client.ready_order("d1.localhost", "d2.localhost")
        (await client.post(order.authorizations[1], {"status": "deactivated"})).ok()
        assert (await client.order(order.url)).status == "invalid"
        (await client.finalize(order)).refused("orderNotReady", 403)

    async def test_a_pending_one(self, client: AcmeClient) -> None:
        order = await client.new_order("d3.localhost", "d4.localhost")
        (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
        assert (await client.order(order.url)).status == "invalid"
        await client.authorize_one(order.authorizations[1])
        assert (await client.order(order.url)).status == "invalid"

    async def test_while_it_is_validated(self, ca: RunningCa, client: AcmeClient) -> None:
        """What was given up stays given up, whatever the validation then finds."""
        order = await client.new_order("d5.localhost")
        challenge = await client.challenge(order.authorizations[0])
        client.provision(challenge)
        with held_answers(ca):
            (await client.respond(challenge)).ok()
            (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
        running = ca.services.challenges._running
        await until(lambda: not running, what="the end of the validation")
        assert (await client.authorization(order.authorizations[0]))["status"] == "deactivated"
        assert (await client.order(order.url)).status == "invalid"
        assert await ca.scalar("SELECT COUNT(*) AS n FROM validation_jobs") == 0

    async def test_not_twice(self, client: AcmeClient) -> None:
        """§7.1.6: "deactivated" is final, as "invalid" is."""
        order = await client.new_order("d6.localhost", "d7.localhost")
        (await client.post(order.authorizations[0], {"status": "deactivated"})).ok()
        (await client.post(order.authorizations[0], {"status": "deactivated"})).refused("malformed", 400)
        (await client.respond(await client.challenge(order.authorizations[1]))).ok()
        await client.final(order.authorizations[1])
        (await client.post(order.authorizations[1], {"status": "deactivated"})).refused("malformed", 400)

    async def test_issued_certificates_stay(self, client: AcmeClient) -> None:
        """An order that is valid is final: its authorizations matter to it no longer (§7.1.6)."""
        issued = await client.issue("d8.localhost")
        (await client.post(issued.order.authorizations[0], {"status": "deactivated"})).ok()
        assert (await client.order(issued.order.url)).status == "valid"
        (await client.post(issued.order.certificate)).ok()

    @pytest.mark.parametrize("status", ["valid", "invalid", "revoked", "expired", "pending", 1, ["deactivated"]])
    async def test_other_statuses(self, client: AcmeClient, status: object) -> None:
        """§7.5.2 has "deactivated" and nothing else."""
        order = await client.new_order("d9.localhost")
        (await client.post(order.authorizations[0], {"status": status})).refused("malformed", 400)
        assert (await client.authorization(order.authorizations[0]))["status"] == "pending"

    @pytest.mark.parametrize("payload", [{}, {"resource": "authz"}, {"status": None}])
    async def test_nothing_asked(self, client: AcmeClient, payload: dict[str, object]) -> None:
        """A POST that asks for no change changes nothing: in drafts of the RFC such a POST was a way to read."""
        order = await client.new_order("d10.localhost")
        assert (await client.post(order.authorizations[0], payload)).ok().json["status"] == "pending"
        assert (await client.authorization(order.authorizations[0]))["status"] == "pending"
        assert (await client.order(order.url)).status == "pending"
