"""RFC 8555 §7.3 and §7.3.3: terms of service, asked for and changed, as a client sees them."""

from collections.abc import AsyncIterator

import pytest

from tests.support.acme_client import AcmeClient, Answer
from tests.support.server import RunningCa, Site, ca_site, running_ca

OLD, NEW = "https://pki.corp.internal/terms/2025", "https://pki.corp.internal/terms/2026"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with ca_site() as site:
        await site.init()
        yield site


def asked(answer: Answer, url: str) -> Answer:
    """A `userActionRequired` with all that belongs to it."""
    answer.refused("userActionRequired", 403)
    assert answer.links("terms-of-service") == [url]
    assert answer.json["instance"] == url
    assert url in answer.detail
    return answer


def configure(site: Site, url: str, *, again: bool = False) -> None:
    site.reconfigure(server={"terms_of_service": url, "terms_must_be_agreed_again": again})


class TestSection73:
    async def test_none(self) -> None:
        """Without terms the directory names none, and what a client says of them is ignored."""
        async with running_ca() as ca:
            client = await ca.client(register=False)
            assert "termsOfService" not in client.directory["meta"]
            answer = (await client.new_account(termsOfServiceAgreed=True)).ok(201)
            assert "termsOfServiceAgreed" not in answer.json

    async def test_asked_for(self) -> None:
        """§7.3: "If the server wishes to require the client to agree to terms under which the ACME service is to be used, it MUST
        indicate the URL where such terms can be accessed in the "termsOfService" subfield of the "meta" field in the directory
        object, and the server MUST reject newAccount requests that do not have the "termsOfServiceAgreed" field set to "true"."
        """
        async with running_ca(server={"terms_of_service": NEW}) as ca:
            client = await ca.client(register=False)
            assert client.directory["meta"]["termsOfService"] == NEW
            for members in ({}, {"termsOfServiceAgreed": False}, {"termsOfServiceAgreed": None}):
                asked(await client.new_account(**members), NEW)
            (await client.new_account(termsOfServiceAgreed="true")).refused("malformed", 400)
            (await client.new_account(onlyReturnExisting=True)).refused("accountDoesNotExist", 400)
            assert await ca.scalar("SELECT COUNT(*) AS n FROM accounts") == 0
            answer = (await client.register(termsOfServiceAgreed=True)).ok(201)
            assert answer.json["termsOfServiceAgreed"] is True
            assert (await client.post(client.account_url)).json["termsOfServiceAgreed"] is True
            assert (await client.new_order("a.localhost")).status == "pending"
            assert NEW in (await ca.events("account.created"))[-1]
            assert client.key.thumbprint in (await ca.events("account.refused"))[-1]


class TestSection733:
    @pytest.fixture
    async def client(self, site: Site) -> AcmeClient:
        """An account that agreed to the terms before they changed."""
        configure(site, OLD)
        async with site.running() as ca:
            client = await ca.client(register=False)
            (await client.register(termsOfServiceAgreed=True)).ok(201)
        return client

    async def returned(self, ca: RunningCa, client: AcmeClient) -> AcmeClient:
        again = await ca.client(client.key, register=False)
        again.kid = client.kid
        return again

    async def test_willing(self, site: Site, client: AcmeClient) -> None:
        """A server that is willing to go on does, which is the default: few clients can be told to agree again."""
        configure(site, NEW)
        async with site.running() as ca:
            again = await self.returned(ca, client)
            assert again.directory["meta"]["termsOfService"] == NEW
            assert (await again.new_order("a.localhost")).status == "pending"
            asked(await (await ca.client(register=False)).new_account(), NEW)

    async def test_unwilling(self, site: Site, client: AcmeClient) -> None:
        """ "If the server has changed its terms of service since a client initially agreed, and the server is unwilling to process
        a request without explicit agreement to the new terms, then it MUST return an error response with status code 403
        (Forbidden) and type "urn:ietf:params:acme:error:userActionRequired". This response MUST include a Link header field with
        link relation "terms-of-service" and the latest terms-of-service URL. The problem document returned with the error MUST
        also include an "instance" field, indicating a URL that the client should direct a human user to visit in order for
        instructions on how to agree to the terms."
        """
        configure(site, NEW, again=True)
        async with site.running() as ca:
            again = await self.returned(ca, client)
            asked(await again.order_answer("a.localhost"), NEW)
            assert await ca.scalar("SELECT COUNT(*) AS n FROM orders") == 0
            assert NEW in (await ca.events("order.refused"))[-1]
            # What is there can be read, and a certificate be revoked.
            (await again.post(again.account_url)).ok()
            (await again.new_account(onlyReturnExisting=True)).ok(200)

    async def test_who_never_agreed(self, site: Site) -> None:
        """An account from before there were terms has not agreed to any."""
        async with site.running() as ca:
            client = await ca.client()
        configure(site, NEW, again=True)
        async with site.running() as ca:
            asked(await (await self.returned(ca, client)).order_answer("a.localhost"), NEW)

    @pytest.mark.parametrize("way", ["newAccount", "update"])
    async def test_agreed_again(self, site: Site, client: AcmeClient, way: str) -> None:
        """ "a client can indicate its agreement with the CA's terms of service by setting the "termsOfServiceAgreed" field in its
        account object to "true"": by an update, or by registering again with its key, which is what clients can be told.
        """
        configure(site, NEW, again=True)
        async with site.running() as ca:
            again = await self.returned(ca, client)
            for agreed in (False, None, True):
                if way == "update":
                    (await again.post(again.account_url, {"termsOfServiceAgreed": agreed})).ok()
                else:
                    (await again.new_account(termsOfServiceAgreed=agreed)).ok(200)
                answer = await again.order_answer("a.localhost")
                if agreed:
                    answer.ok(201)
                else:
                    asked(answer, NEW)
            (event,) = await ca.events("account.terms_agreed")
            assert NEW in event

    async def test_asking_alone_agrees_to_nothing(self, site: Site, client: AcmeClient) -> None:
        """§7.3.1: a lookup changes nothing, whatever else is in it; nor does what cannot be read."""
        configure(site, NEW, again=True)
        async with site.running() as ca:
            again = await self.returned(ca, client)
            for members in ({"onlyReturnExisting": True}, {"contact": 1}):
                (await again.new_account(**members, termsOfServiceAgreed=True)).ok(200)
                asked(await again.order_answer("a.localhost"), NEW)
