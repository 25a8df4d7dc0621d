"""RFC 8555 §7.1 and §7.2: the resources, the directory, and nonces, as a client sees them."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient
from tests.support.server import RunningCa, held_answers, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


class TestSection71:
    async def test_index(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.1: "The "index" link relation is present on all resources other than the directory and indicates the URL of the
        directory."
        """
        issued = await client.issue("index.localhost")
        order = await client.new_order("index.localhost")
        account = (await client.post(client.account_url)).json
        challenge = await client.challenge(order.authorizations[0])
        answers = [
            await client.get(client.directory["newNonce"]),
            await client.new_account(),
            await client.post(account["orders"]),
            await client.post(order.url),
            await client.post(order.authorizations[0]),
            await client.post(challenge["url"]),
            await client.post(issued.order.certificate),
            await client.post(client.directory["revokeCert"], {}),
            await client.get(ca.urls.base + "/nowhere"),
        ]
        for answer in answers:
            assert answer.links("index") == [ca.directory_url], answer
        assert (await client.get(ca.directory_url)).links("index") == []

    async def test_up(self, client: AcmeClient) -> None:
        """§7.1: "The "up" link relation is used with challenge resources to indicate the authorization resource to which a
        challenge belongs."
        """
        order = await client.new_order("up.localhost")
        challenge = await client.challenge(order.authorizations[0])
        assert (await client.post(challenge["url"])).links("up") == order.authorizations
        assert (await client.respond(challenge)).links("up") == order.authorizations

    async def test_the_walk(self, client: AcmeClient) -> None:
        """§7.1, the table of a typical sequence of requests, with the status of each answer."""
        assert (await client.get(client.directory["newNonce"], method="HEAD")).status == 200
        order_answer = (await client.order_answer("walk.localhost")).ok(201)
        authorization_url = order_answer.json["authorizations"][0]
        challenge = await client.challenge(authorization_url)
        client.provision(challenge)
        (await client.respond(challenge)).ok()
        await client.final(authorization_url)
        order = await client.order(order_answer.location)
        finalized = (await client.finalize(order)).ok()
        assert finalized.location == order.url
        (await client.post(finalized.json["certificate"])).ok()


class TestDirectory:
    async def test_fields(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.1.1: "It is a JSON object, whose field names are drawn from the resource registry … and whose values are the
        corresponding URLs." §7.1: "The server MUST provide "directory" and "newNonce" resources."
        """
        answer = (await client.get(ca.directory_url)).ok()
        assert answer.content_type == "application/json"
        registry = {"newNonce", "newAccount", "newOrder", "newAuthz", "revokeCert", "keyChange", "renewalInfo", "meta"}
        assert set(answer.json) <= registry
        assert {"newNonce", "newAccount", "newOrder", "newAuthz", "revokeCert", "keyChange"} <= set(answer.json)
        urls = [url for name, url in answer.json.items() if name != "meta"]
        assert len(set(urls)) == len(urls)
        assert all(url.startswith(ca.urls.base + "/acme/") for url in urls)

    async def test_meta(self, client: AcmeClient) -> None:
        """§7.1.1: "The object MAY additionally contain a "meta" field. If present, it MUST be a JSON object"."""
        meta = client.directory["meta"]
        assert isinstance(meta, dict)
        assert meta["externalAccountRequired"] is False
        assert meta["website"].startswith("https://")


class TestAccountObjects:
    async def test_fields(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.1.2: "status" and "orders" are required; "contact" is an array of URLs."""
        account = (await client.post(client.account_url)).json
        assert account["status"] == "valid"
        assert account["orders"].startswith(ca.urls.base)
        assert account["contact"] == []

    async def test_orders_list(self, client: AcmeClient) -> None:
        """§7.1.2.1: "The result of the request MUST be a JSON object whose "orders" field is an array of URLs, each identifying
        an order belonging to the account. The server SHOULD include pending orders and SHOULD NOT include orders that are
        invalid in the array of URLs."
        """
        url = (await client.post(client.account_url)).json["orders"]
        assert (await client.post(url)).ok().json == {"orders": []}
        pending = await client.new_order("list-1.localhost")
        valid = (await client.issue("list-2.localhost")).order
        failed = await client.new_order("list-3.localhost")
        (await client.post(failed.authorizations[0], {"status": "deactivated"})).ok()
        assert set((await client.post(url)).ok().json["orders"]) == {pending.url, valid.url}

    async def test_orders_list_in_pages(self, client: AcmeClient) -> None:
        """§7.1.2.1: "The server MAY return an incomplete list, along with a Link header field with a "next" link relation
        indicating where further entries can be acquired."
        """
        made = {(await client.new_order(f"page-{number}.localhost")).url for number in range(103)}
        url: str | None = (await client.post(client.account_url)).json["orders"]
        seen: list[str] = []
        pages = 0
        while url is not None:
            answer = (await client.post(url)).ok()
            seen += answer.json["orders"]
            pages += 1
            url = next(iter(answer.links("next")), None)
        assert pages == 2
        assert len(seen) == len(set(seen))
        assert set(seen) == made


class TestOrderObjects:
    async def test_fields(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.1.3: "status", "identifiers", "authorizations" and "finalize" are required; "expires" is "REQUIRED for objects
        with "pending" or "valid" in the status field", in the format of RFC 3339.
        """
        order = await client.new_order("b.localhost", "a.localhost", ips=("127.0.0.9",))
        assert set(order.document) == {"status", "expires", "identifiers", "authorizations", "finalize", "profile"}
        assert order.status == "pending"
        assert RFC3339.match(order.document["expires"])
        assert datetime.fromisoformat(order.document["expires"]) > ca.clock() + timedelta(hours=1)
        assert order.document["identifiers"] == [
            {"type": "dns", "value": "b.localhost"},
            {"type": "dns", "value": "a.localhost"},
            {"type": "ip", "value": "127.0.0.9"},
        ]
        assert len(order.authorizations) == 3

    async def test_arrays_are_immutable(self, client: AcmeClient) -> None:
        """§7.1.3: "The elements of the "authorizations" and "identifiers" arrays are immutable once set. The server MUST NOT
        change the contents of either array after they are created."
        """
        first = await client.new_order("x.localhost", "y.localhost")
        for url in first.authorizations:
            await client.authorize_one(url)
        ready = await client.order(first.url)
        (await client.finalize(ready)).ok()
        valid = await client.order(first.url)
        for order in (ready, valid):
            assert order.authorizations == first.authorizations
            assert order.document["identifiers"] == first.document["identifiers"]
        assert [ready.status, valid.status] == ["ready", "valid"]
        assert "certificate" not in ready.document
        assert RFC3339.match(valid.document["expires"])

    async def test_an_error_in_an_invalid_order(self, client: AcmeClient) -> None:
        """§7.1.3: "error (optional, object): The error that occurred while processing the order, if any." """
        order = await client.new_order("unprovisioned.localhost")
        (await client.respond(await client.challenge(order.authorizations[0]))).ok()
        await client.final(order.authorizations[0])
        failed = await client.order(order.url)
        assert failed.status == "invalid"
        assert failed.document["error"]["type"].startswith("urn:ietf:params:acme:error:")


class TestAuthorizationObjects:
    async def test_fields(self, client: AcmeClient) -> None:
        """§7.1.4: "identifier", "status" and "challenges" are required; "expires" is "REQUIRED for objects with "valid" in the
        "status" field". "wildcard": "For other authorizations, it MUST be absent."
        """
        order = await client.new_order("z.localhost")
        pending = await client.authorization(order.authorizations[0])
        assert pending["identifier"] == {"type": "dns", "value": "z.localhost"}
        assert pending["status"] == "pending"
        assert [challenge["type"] for challenge in pending["challenges"]][:2] == ["http-01", "tls-alpn-01"]
        assert "wildcard" not in pending
        valid = await client.authorize_one(order.authorizations[0])
        assert RFC3339.match(valid["expires"])

    async def test_the_challenge_that_was_validated(self, client: AcmeClient) -> None:
        """§7.1.4: "For valid authorizations, the challenge that was validated. For invalid authorizations, the challenge that
        was attempted and failed." §7.5.1: "The server SHOULD NOT remove challenges with status "invalid"."
        """
        order = await client.new_order("good-1.localhost")
        valid = await client.authorize_one(order.authorizations[0])
        assert [challenge["status"] for challenge in valid["challenges"]] == ["valid"]
        order = await client.new_order("bad-1.localhost")
        (await client.respond(await client.challenge(order.authorizations[0]))).ok()
        invalid = await client.final(order.authorizations[0])
        assert [challenge["status"] for challenge in invalid["challenges"]] == ["invalid"]

    async def test_a_wildcard(self) -> None:
        """§7.1.3: "An authorization returned by the server for a wildcard domain name identifier MUST NOT include the asterisk and
        full stop ("*.") prefix in the authorization identifier value. The returned authorization MUST include the optional
        "wildcard" field, with a value of true." §7.1.4: "This field MUST be present and true for authorizations created as a
        result of a newOrder request containing a DNS identifier with a value that was a wildcard domain name." "Wildcard domain
        names (with "*" as the first label) MUST NOT be included in authorization objects. If an authorization object conveys
        authorization for the base domain of a newOrder DNS identifier containing a wildcard domain name, then the optional
        authorizations "wildcard" field MUST be present with a value of true."
        """
        async with running_ca(policy={"wildcards": True}, validation={"challenges": ["http-01", "dns-01"]}) as ca:
            client = await ca.client()
            order = await client.new_order("*.a.localhost", "a.localhost")
            wild, plain = [await client.authorization(url) for url in order.authorizations]
            assert wild["identifier"] == plain["identifier"] == {"type": "dns", "value": "a.localhost"}
            assert wild["wildcard"] is True
            assert "wildcard" not in plain
            assert [challenge["type"] for challenge in wild["challenges"]] == ["dns-01"]

    async def test_a_wildcard_is_not_offered_what_cannot_show_it(self, client: AcmeClient) -> None:
        """RULES §3: http-01 is "never offered for, and never satisfy, a wildcard"; the answer says what to do instead."""
        answer = (await client.order_answer("*.localhost")).refused("rejectedIdentifier", 403)
        assert "policy.wildcards" in answer.detail

    async def test_no_type_is_left(self) -> None:
        """RULES §3, with wildcards allowed: an identifier for which no challenge is left is refused, and not half made."""
        async with running_ca(policy={"wildcards": True}, validation={"challenges": ["http-01"]}) as ca:
            client = await ca.client()
            before = await ca.scalar("SELECT COUNT(*) AS n FROM authorizations")
            answer = (await client.order_answer("a.localhost", "*.localhost")).refused("rejectedIdentifier", 403)
            (problem,) = answer.json["subproblems"]
            assert problem["identifier"] == {"type": "dns", "value": "*.localhost"}
            assert "validation.challenges" in problem["detail"]
            assert "dns-01" in problem["detail"]
            assert await ca.scalar("SELECT COUNT(*) AS n FROM authorizations") == before


class TestChallengeObjects:
    async def test_fields(self, client: AcmeClient) -> None:
        """§8: "type", "url" and "status" are required; "validated" is "REQUIRED if the "status" field is "valid"."""
        order = await client.new_order("v.localhost")
        challenge = await client.challenge(order.authorizations[0])
        assert set(challenge) == {"type", "url", "status", "token"}
        assert challenge["status"] == "pending"
        valid = await client.authorize_one(order.authorizations[0])
        assert RFC3339.match(valid["challenges"][0]["validated"])
        assert (await client.post(challenge["url"])).json == valid["challenges"][0]

    async def test_the_error_of_an_invalid_one(self, client: AcmeClient) -> None:
        """§8: "If the server sets a challenge's "status" to "invalid", it SHOULD also include the "error" field to help the
        client diagnose why the challenge failed." §8: "A challenge object with an error MUST have status equal to "invalid"."
        §8.2: "The server MUST add an entry to the "error" field in the challenge after each failed validation query": the first
        one ends it.
        """
        order = await client.new_order("w.localhost")
        challenge = await client.challenge(order.authorizations[0])
        (await client.respond(challenge)).ok()
        await client.final(order.authorizations[0])
        error = (await client.post(challenge["url"])).json["error"]
        assert error["type"] == "urn:ietf:params:acme:error:incorrectResponse"
        assert "404" in error["detail"]

    async def test_every_token(self, client: AcmeClient) -> None:
        """§8.4: "This value MUST have at least 128 bits of entropy. It MUST NOT contain any characters outside the base64url
        alphabet, including padding characters ("=")." RFC 8737 §3: "This value MUST have at least 128 bits of entropy. It MUST
        NOT contain any characters outside the base64url alphabet". draft-ietf-acme-dns-account-label-03 §3.1: "This value MUST
        have at least 128 bits of entropy. It MUST NOT contain any characters outside the base64url alphabet".
        """
        order = await client.new_order("every.localhost")
        challenges = (await client.authorization(order.authorizations[0]))["challenges"]
        assert {item["type"] for item in challenges} == {"http-01", "tls-alpn-01", "dns-01", "dns-account-01"}
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{22,}", item["token"]) for item in challenges)

    async def test_a_token_of_its_own(self, client: AcmeClient) -> None:
        """§8.3: "This value MUST have at least 128 bits of entropy. It MUST NOT contain any characters outside the base64url
        alphabet and MUST NOT include base64 padding characters ("=")."
        """
        order = await client.new_order(*(f"t{number}.localhost" for number in range(20)))
        seen = {(await client.challenge(url))["token"] for url in order.authorizations}
        assert len(seen) == 20
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{22,}", token) for token in seen)


class TestSection716:
    async def test_challenge_processing(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.1.6: "They transition to the "processing" state when the client responds to the challenge". §8.2: "The server MUST
        provide information about its retry state to the client via … the Retry-After HTTP header field in response to requests
        to the challenge resource."
        """
        order = await client.new_order("slow.localhost")
        challenge = await client.challenge(order.authorizations[0])
        client.provision(challenge)
        with held_answers(ca):
            answer = (await client.respond(challenge)).ok()
            assert answer.json["status"] == "processing"
            assert answer.headers["Retry-After"] == "1"
            assert (await client.authorization(order.authorizations[0]))["status"] == "pending"
            assert (await client.order(order.url)).status == "pending"
        assert (await client.final(order.authorizations[0]))["status"] == "valid"
        assert (await client.order(order.url)).status == "ready"

    async def test_ready_when_all_are_valid(self, client: AcmeClient) -> None:
        """§7.1.6: "Order objects are created in the "pending" state. Once all of the authorizations listed in the order object
        are in the "valid" state, the order transitions to the "ready" state."
        """
        order = await client.new_order("one.localhost", "two.localhost", "three.localhost")
        statuses = []
        for url in order.authorizations:
            await client.authorize_one(url)
            statuses.append((await client.order(order.url)).status)
        assert statuses == ["pending", "pending", "ready"]

    async def test_invalid_when_one_fails(self, client: AcmeClient) -> None:
        """§7.1.6: "If an error occurs at any of these stages, the order moves to the "invalid" state. The order also moves to
        the "invalid" state if it expires or one of its authorizations enters a final state other than "valid"."
        """
        order = await client.new_order("ok.localhost", "fails.localhost")
        await client.authorize_one(order.authorizations[0])
        (await client.respond(await client.challenge(order.authorizations[1]))).ok()
        assert (await client.final(order.authorizations[1]))["status"] == "invalid"
        assert (await client.order(order.url)).status == "invalid"
        assert (await client.authorization(order.authorizations[0]))["status"] == "valid"


class TestUrls:
    async def test_they_cannot_be_guessed(self, client: AcmeClient) -> None:
        """§10.5: "To avoid leaking these correlations, CAs SHOULD assign URLs with an unpredictable component." """
        issued = [(await client.issue("urls.localhost")).order for _ in range(2)]
        urls = [client.account_url]
        for order in issued:
            urls += [order.url, *order.authorizations, order.certificate]
        parts = {url.rpartition("/")[2] for url in urls}
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", part) for part in parts)
        assert not [url for url in urls if "urls" in url]
        # The second order rests on the authorization of the first.
        assert len(parts) == len(urls) - 1


class TestSection72:
    async def test_head_and_get(self, client: AcmeClient) -> None:
        """§7.2: "The server's response MUST include a Replay-Nonce header field containing a fresh nonce and SHOULD have status
        code 200 (OK). The server MUST also respond to GET requests for this resource, returning an empty body (while still
        providing a Replay-Nonce header) with a status code of 204 (No Content)."
        """
        head = (await client.get(client.directory["newNonce"], method="HEAD")).ok(200)
        get = (await client.get(client.directory["newNonce"])).ok(204)
        assert head.body == get.body == b""
        assert len({head.nonce, get.nonce, None}) == 3
        for nonce in (head.nonce, get.nonce):
            (await client.post(client.account_url, nonce=nonce)).ok()

    async def test_no_store(self, client: AcmeClient) -> None:
        """§7.2: "The server MUST include a Cache-Control header field with the "no-store" directive in responses for the
        newNonce resource, in order to prevent caching of this resource."
        """
        for method in ("HEAD", "GET"):
            answer = await client.get(client.directory["newNonce"], method=method)
            assert answer.headers.getall("Cache-Control") == ["no-store"]
