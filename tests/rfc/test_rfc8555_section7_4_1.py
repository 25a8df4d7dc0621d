"""RFC 8555 §7.4.1: pre-authorization, as a client sees it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient, Answer
from tests.support.server import RunningCa, ca_site, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


async def new_authz(client: AcmeClient, value: object, type_: object = "dns") -> Answer:
    return await client.post(client.directory["newAuthz"], {"identifier": {"type": type_, "value": value}})


class TestSection741:
    async def test_created(self, client: AcmeClient) -> None:
        """§7.4.1: "The server allocates a new URL for this authorization and returns a 201 (Created) response with the
        authorization URL in the Location header field and the JSON authorization object in the body." ""status" MUST be
        "pending" unless the server has out-of-band information about the client's authorization status".
        """
        answer = (await new_authz(client, "a.localhost")).ok(201)
        assert answer.content_type == "application/json"
        assert answer.json["identifier"] == {"type": "dns", "value": "a.localhost"}
        assert answer.json["status"] == "pending"  # "MUST be "pending" unless the server has out-of-band information"
        assert [item["type"] for item in answer.json["challenges"]]
        assert "wildcard" not in answer.json
        assert (await client.authorization(answer.location)) == answer.json

    async def test_completed_and_ordered(self, client: AcmeClient) -> None:
        """§7.1.3: "There are several reasons that the referenced authorizations may already be valid: … The client previously
        pre-authorized the identifier"; §7.4.1: "a client hosting virtual servers … might wish to obtain authorization before any
        virtual servers are created and only create a certificate when a virtual server starts up."
        """
        url = (await new_authz(client, "B.localhost")).ok(201).location
        await client.authorize_one(url)
        order = await client.new_order("b.localhost")
        assert (order.status, order.authorizations) == ("ready", [url])
        (await client.finalize(order)).ok()

    async def test_addresses(self, client: AcmeClient) -> None:
        url = (await new_authz(client, "127.0.0.1", "ip")).ok(201).location
        assert (await client.authorize_one(url))["status"] == "valid"
        assert (await client.new_order(ips=("127.0.0.1",))).status == "ready"

    async def test_wildcards(self, client: AcmeClient) -> None:
        """§7.4.1: "pre-authorization cannot be used to authorize issuance of certificates containing wildcard domain names."."""
        answer = (await new_authz(client, "*.localhost")).refused("malformed", 400)
        assert "*.localhost" in answer.detail

    @pytest.mark.parametrize(("type_", "value"), [("dns", "evil.example"), ("dns", "localhost"), ("ip", "10.0.0.1")])
    async def test_what_is_not_issued_for(self, ca: RunningCa, client: AcmeClient, type_: str, value: str) -> None:
        """§7.4.1: "If the server is unwilling to issue for the identifier, it SHOULD return an error with status code 403
        (Forbidden), with a problem document describing the reason for the rejection." "Before processing the authorization
        request, the server SHOULD determine whether it is willing to issue certificates for the identifier."
        """
        before = await ca.counts()
        answer = (await new_authz(client, value, type_)).refused("rejectedIdentifier", 403)
        assert value in answer.detail
        # §6.7.1: "The "identifier" field MUST NOT be present at the top level in ACME problem documents."
        assert "identifier" not in answer.json
        after = await ca.counts()
        assert after == before | {"audit": before["audit"] + 1, "limits": after["limits"]}
        assert value in (await ca.events("order.refused"))[-1]

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"[]",
            {},
            {"identifier": None},
            {"identifier": "a.localhost"},
            {"identifier": [{"type": "dns", "value": "a.localhost"}]},
            {"identifiers": [{"type": "dns", "value": "a.localhost"}]},
            {"identifier": {"type": "dns"}},
            {"identifier": {"value": "a.localhost"}},
            {"identifier": {"type": "dns", "value": 1}},
            {"identifier": {"type": "dns", "value": "127.1"}},
            {"identifier": {"type": "dns", "value": "a.localhost\n"}},
            {"identifier": {"type": "ip", "value": "127.1"}},
        ],
    )
    async def test_malformed(self, ca: RunningCa, client: AcmeClient, payload: dict[str, object] | bytes) -> None:
        before = await ca.counts()
        answer = (await client.post(client.directory["newAuthz"], payload)).refused("malformed", 400)
        assert "identifier" not in answer.json
        assert await ca.counts() == before

    async def test_another_type(self, client: AcmeClient) -> None:
        """§7.4.1: "the server should check that the identifier is of a supported type"."""
        (await new_authz(client, "a@b.example", "email")).refused("unsupportedIdentifier", 400)

    async def test_given_up(self, client: AcmeClient) -> None:
        """§7.5.2, for one that belongs to no order."""
        url = (await new_authz(client, "c.localhost")).ok(201).location
        await client.authorize_one(url)
        (await client.post(url, {"status": "deactivated"})).ok()
        order = await client.new_order("c.localhost")
        assert order.status == "pending"
        assert url not in order.authorizations

    async def test_another_account(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §3: control counts for the account that has shown it."""
        url = (await new_authz(client, "d.localhost")).ok(201).location
        await client.authorize_one(url)
        stranger = await ca.client()
        assert (await stranger.new_order("d.localhost")).status == "pending"
        (await stranger.post(url)).refused("malformed", 404)

    async def test_a_right_to_revoke(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.6: "an account that holds authorizations for all of the identifiers in the certificate"."""
        issued = await client.issue("e.localhost")
        other = await ca.client()
        (await other.revoke(issued.der)).refused("unauthorized", 403)
        await other.authorize_one((await new_authz(other, "e.localhost")).ok(201).location)
        (await other.revoke(issued.der)).ok()


async def test_where_control_is_not_kept() -> None:
    """§7.1.1: "If the ACME server does not implement pre-authorization (Section 7.4.1), it MUST omit the "newAuthz" field of the
    directory."
    """
    async with ca_site(policy={"authorization_lifetime": "0s"}) as site:
        await site.init()
        async with site.running() as ca:
            client = await ca.client()
            assert "newAuthz" not in client.directory
            (await client.post(ca.urls.new_authz, {})).refused("malformed", 404)
