"""RFC 8555 §6, "Message Transport", as a client on the other side of HTTPS sees it. The envelope itself is asked in
test_rfc8555_section6.py.
"""

import json
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.acme_client import JOSE_JSON, AcmeClient, Answer
from tests.support.jose import encode, new_key, shared_key
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


async def post_resources(ca: RunningCa, client: AcmeClient) -> dict[str, str]:
    """Every kind of resource that takes a POST, by the name of what it is."""
    issued = await client.issue("resources.localhost")
    order = await client.new_order("open.localhost")
    challenge = await client.challenge(order.authorizations[0])
    account = (await client.post(client.account_url)).json
    return {
        "newAccount": client.directory["newAccount"],
        "newOrder": client.directory["newOrder"],
        "revokeCert": client.directory["revokeCert"],
        "keyChange": client.directory["keyChange"],
        "newAuthz": client.directory["newAuthz"],
        "account": client.account_url,
        "orders": account["orders"],
        "order": order.url,
        "finalize": order.finalize,
        "authorization": order.authorizations[0],
        "challenge": challenge["url"],
        "certificate": issued.order.certificate,
    }


class TestSection61:
    async def test_https(self, ca: RunningCa) -> None:
        """§6.1: "Communications between an ACME client and an ACME server are done over HTTPS". "Use of HTTPS is REQUIRED." """
        assert all(url.startswith("https://") for url in (ca.directory_url, ca.urls.new_nonce, ca.urls.new_account))
        answer = await ca.session().get(ca.directory_url)
        assert answer.status == 200
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(ca.directory_url.replace("https://", "http://"))

    async def test_its_certificate_is_good(self, ca: RunningCa) -> None:
        """§6.1: ACME servers are authenticated as RFC 2818 has it: by a certificate for their name."""
        async with ca.session(check_time=True).get(ca.directory_url) as answer:
            assert answer.status == 200
        async with aiohttp.ClientSession() as session:  # trusts the system's roots and not ours
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(ca.directory_url)


class TestSection62:
    @pytest.mark.parametrize(
        "content_type",
        ["application/json", "application/jose", "text/plain", "application/jose+json; charset=utf-8", "", None],
    )
    async def test_content_type(self, client: AcmeClient, content_type: str | None) -> None:
        """§6.2: "Because client requests in ACME carry JWS objects in the Flattened JSON Serialization, they must have the
        Content-Type header field set to "application/jose+json". If a request does not meet this requirement, then the
        server MUST return a response with status code 415 (Unsupported Media Type)."
        """
        url = client.directory["newOrder"]
        body = await client.sign(url, {"identifiers": [{"type": "dns", "value": "a.localhost"}]})
        answer = await client.send(url, body, content_type=content_type)
        answer.refused("malformed", 415)
        assert answer.nonce is not None

    async def test_the_type_is_compared_without_case(self, client: AcmeClient) -> None:
        """RFC 9110 §8.3.1: the type and subtype tokens of a media type are case-insensitive."""
        body = await client.sign(client.account_url)
        (await client.send(client.account_url, body, content_type="Application/JOSE+JSON")).ok()

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity"])
    async def test_content_encoding(self, client: AcmeClient, encoding: str) -> None:
        """RULES §1, step 1: a Content-Encoding is refused: nothing is decompressed before a signature was checked."""
        body = await client.sign(client.account_url)
        answer = await client.send(client.account_url, body, headers={"Content-Encoding": encoding})
        answer.refused("malformed", 415)

    async def test_nothing_changed_before_the_signature(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.2: "The server MUST verify the JWS before processing the request."; one that does not verify changes nothing."""
        before = await ca.counts()
        url = client.directory["newOrder"]
        payload = {"identifiers": [{"type": "dns", "value": "a.localhost"}]}
        (await client.post(url, payload, signer=new_key())).refused("malformed", 400)
        (await client.post(client.account_url, {"status": "deactivated"}, signer=new_key())).refused("malformed", 400)
        assert await ca.counts() == before
        (await client.post(client.account_url)).ok()

    @pytest.mark.parametrize(
        "resource",
        [
            "newOrder",
            "newAuthz",
            "keyChange",
            "account",
            "orders",
            "order",
            "finalize",
            "authorization",
            "challenge",
            "certificate",
        ],
    )
    async def test_kid_and_not_jwk(self, ca: RunningCa, client: AcmeClient, resource: str) -> None:
        """§6.2: "For all other requests, the request is signed using an existing account, and there MUST be a "kid" field."""
        url = (await post_resources(ca, client))[resource]
        (await client.post(url, kid=None)).refused("malformed", 400)

    async def test_jwk_and_not_kid(self, client: AcmeClient) -> None:
        """§6.2: "For newAccount requests … there MUST be a "jwk" field."""
        (await client.post(client.directory["newAccount"], {})).refused("malformed", 400)

    async def test_not_both(self, client: AcmeClient) -> None:
        """§6.2: "The "jwk" and "kid" fields are mutually exclusive. Servers MUST reject requests that contain both."""
        answer = await client.post(client.account_url, header={"jwk": client.key.jwk})
        answer.refused("malformed", 400)
        answer = await client.post(client.directory["newAccount"], {}, kid=None, header={"kid": client.account_url})
        answer.refused("malformed", 400)

    async def test_the_kid_is_the_account_url(self, client: AcmeClient) -> None:
        """§6.2: "This field MUST contain the account URL received by POSTing to the newAccount resource."

        RULES §1, step 5: character for character.
        """
        kid = client.account_url
        wrong = [kid + "/", kid.upper(), kid.rpartition("/")[2], kid[:-1], kid + "?", kid.replace("https", "http"), ""]
        for changed in [*wrong, kid.replace("localhost", "LOCALHOST"), kid.replace("localhost", "127.0.0.1")]:
            (await client.post(client.account_url, kid=changed)).refused("accountDoesNotExist", 400)
        (await client.post(client.account_url)).ok()

    async def test_no_mac(self, client: AcmeClient) -> None:
        """§6.2: "alg": "This field MUST NOT contain "none" or a Message Authentication Code (MAC) algorithm". "the server MUST
        return an error with status code 400 (Bad Request) and type "badSignatureAlgorithm". The problem document returned with
        the error MUST include an "algorithms" field with an array of supported "alg" values."
        """
        for algorithm in ("none", "HS256", "HS512", "ES256K", "PS256"):
            answer = await client.post(client.account_url, alg=algorithm)
            answer.refused("badSignatureAlgorithm", 400)
            assert set(answer.json["algorithms"]) >= {"ES256", "RS256", "EdDSA"}
            assert not [name for name in answer.json["algorithms"] if name.startswith(("HS", "none"))]

    async def test_another_algorithm_than_the_keys(self, client: AcmeClient) -> None:
        """RFC 8725 §3.1: a key is used with one algorithm; the account's key says with which."""
        answer = await client.post(client.account_url, alg="ES384", signer=shared_key("P-384"))
        answer.refused("badSignatureAlgorithm", 400)
        assert answer.json["algorithms"] == ["ES256"]

    async def test_a_key_that_is_refused(self, client: AcmeClient) -> None:
        """§6.2: "If the server supports the signature algorithm "alg" but either does not support or chooses to reject the
        public key "jwk", then the server MUST return an error with status code 400 (Bad Request) and type "badPublicKey"."
        """
        url = client.directory["newAccount"]
        for jwk in ({"kty": "OKP", "crv": "Ed448", "x": "A" * 76}, client.key.jwk | {"d": encode(bytes(32))}):
            answer = await client.post(url, {}, kid=None, header={"jwk": jwk})
            answer.refused("badPublicKey", 400)
            assert answer.detail


class TestSection63:
    async def test_get_is_405(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.3: "Except for the cases described in this section, if the server receives a GET request, it MUST return an error
        with status code 405 (Method Not Allowed) and type "malformed"."
        """
        for name, url in (await post_resources(ca, client)).items():
            for method in ("GET", "PUT", "DELETE", "PATCH"):
                answer = await client.get(url, method=method)
                answer.refused("malformed", 405)
                assert answer.headers["Allow"] == "POST", (
                    name
                )  # RFC 9110 §15.5.6: "MUST generate an Allow header field"

    async def test_head_of_a_post_resource(self, client: AcmeClient) -> None:
        answer = await client.get(client.account_url, method="HEAD")
        assert (answer.status, answer.headers["Allow"], answer.body) == (405, "POST", b"")

    @pytest.mark.parametrize("payload", [{}, {"a": 1}, b" ", b"null", b'""'])
    @pytest.mark.parametrize("resource", ["orders", "order", "certificate"])
    async def test_a_payload_where_none_belongs(
        self, ca: RunningCa, client: AcmeClient, resource: str, payload: dict[str, object] | bytes
    ) -> None:
        """§6.3: "In other words, the "payload" field of the JWS object MUST be present and set to the empty string ("")";
        nothing else is a POST-as-GET.
        """
        url = (await post_resources(ca, client))[resource]
        (await client.post(url, payload)).refused("malformed", 400)
        (await client.post(url)).ok()

    async def test_post_as_get_where_a_payload_belongs(self, ca: RunningCa, client: AcmeClient) -> None:
        resources = await post_resources(ca, client)
        for name in ("newOrder", "newAuthz", "finalize", "revokeCert", "keyChange"):
            (await client.post(resources[name])).refused("malformed", 400)
        fresh = await ca.client(register=False)
        (await fresh.post(resources["newAccount"], kid=None)).refused("malformed", 400)

    async def test_post_as_get_of_all_that_is_read(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.3: "Otherwise, the server MUST treat this request as having the same semantics as a GET request for the same
        resource", for whoever is authorized.
        """
        resources = await post_resources(ca, client)
        for name in ("account", "orders", "order", "authorization", "challenge", "certificate"):
            (await client.post(resources[name])).ok()

    async def test_directory_and_new_nonce_both_ways(self, client: AcmeClient, ca: RunningCa) -> None:
        """§6.3: "The server MUST allow GET requests for the directory and newNonce resources (see Sections 7.1.1 and 7.2), in
        addition to POST-as-GET requests for these resources."
        """
        by_get = (await client.get(ca.directory_url)).ok()
        by_post = (await client.post(ca.directory_url)).ok()
        assert by_get.json == by_post.json
        assert by_post.nonce is not None
        nonce = (await client.post(client.directory["newNonce"])).ok(204)
        assert nonce.nonce is not None
        assert nonce.headers["Cache-Control"] == "no-store"
        (await client.post(ca.directory_url, {})).refused("malformed", 400)
        (await client.post(client.directory["newNonce"], {})).refused("malformed", 400)


class TestSection64:
    async def test_url_of_another_resource(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.4: "the server MUST compare the "url" … If the two do not match, then the server MUST reject the request as
        unauthorized." "The server SHOULD perform the corresponding string equality check"
        """
        before = await ca.counts()
        for url in (ca.directory_url, client.account_url + "/", client.account_url.upper(), "", "/acme"):
            answer = await client.post(client.account_url, {"status": "deactivated"}, header={"url": url})
            answer.refused("unauthorized", 403)
        assert await ca.counts() == before

    async def test_a_request_for_another_resource_is_not_taken(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.4: the "url" parameter protects the request's destination: a signed body is of use at its own URL only."""
        body = await client.sign(client.directory["newOrder"], {"identifiers": []})
        for url in (client.account_url, client.directory["revokeCert"], ca.urls.account_orders("x", None)):
            (await client.send(url, body)).refused("unauthorized", 403)

    async def test_no_url(self, client: AcmeClient) -> None:
        """§6.4.1: "The "url" header parameter MUST be carried in the protected header of the JWS." """
        (await client.post(client.account_url, without=["url"])).refused("malformed", 400)

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "evil.example"},
            {"Host": "evil.example:1"},
            {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"},
            {"Forwarded": "host=evil.example;proto=http"},
            {"X-Forwarded-Prefix": "/evil", "X-Original-URL": "/evil", "X-Rewrite-URL": "/evil"},
            {"X-HTTP-Method-Override": "GET"},
        ],
    )
    async def test_headers_never_change_urls(self, ca: RunningCa, client: AcmeClient, headers: dict[str, str]) -> None:
        """RULES §1, step 6: URLs are built from the configured base, "never from Host or X-Forwarded-*"."""
        directory = (await client.get(ca.directory_url, headers=headers)).ok()
        assert directory.json == client.directory
        url = client.directory["newOrder"]
        body = await client.sign(url, {"identifiers": [{"type": "dns", "value": "h.localhost"}]})
        answer = (await client.send(url, body, headers=headers)).ok(201)
        seen = json.dumps(answer.json) + str(dict(answer.headers))
        assert "evil" not in seen
        assert answer.location.startswith(ca.urls.base + "/")

    async def test_a_signature_for_the_claimed_host_is_refused(self, ca: RunningCa, client: AcmeClient) -> None:
        """A client that was led to another host signs that host's URL, and we are not it."""
        url = client.account_url
        evil = url.replace(ca.urls.base, "https://evil.example")
        body = await client.sign(url, header={"url": evil})
        (await client.send(url, body, headers={"Host": "evil.example"})).refused("unauthorized", 403)

    async def test_absolute_form(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §1, step 6: "aiohttp lets an absolute-form request target override Host" (RFC 9112 §3.2.2); it changes
        neither what we print nor what we ask to be signed.
        """
        raw = await ca.raw(
            b"GET https://evil.example/acme/directory HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        head, _, document = raw.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert json.loads(document) == client.directory
        path = client.account_url.removeprefix(ca.urls.base)
        for signed, status in ((client.account_url, b"200"), (f"https://evil.example{path}", b"403")):
            body = await client.sign(client.account_url, header={"url": signed})
            raw = await ca.raw(
                f"POST https://evil.example{path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"
                f"Content-Type: {JOSE_JSON}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            assert raw.split(b" ")[1] == status
            assert b"evil" not in raw.partition(b"\r\n\r\n")[0]


class TestSection65:
    async def test_a_nonce_in_each_answer_to_a_post(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.5: "An ACME server provides nonces to clients using the HTTP Replay-Nonce header field … The server MUST include a
        Replay-Nonce header field in every successful response to a POST request and SHOULD provide it in error responses as
        well." §6.5.1: "The server MUST generate the values provided in Replay-Nonce header fields in such a way that they are
        unique to each message, with high probability, and unpredictable to anyone besides the server."
        """
        answers: list[Answer] = [await client.post(url) for url in (await post_resources(ca, client)).values()]
        answers.append(await client.send(ca.urls.base + "/acme/nowhere", b"x"))
        answers.append(await client.send(client.account_url, b"x" * 70_000))
        answers.append(await client.send(client.account_url, b"junk"))
        statuses = {answer.status for answer in answers}
        assert statuses == {200, 400, 404, 413}
        nonces = [answer.nonce for answer in answers]
        assert None not in nonces
        # §6.5.1: "The server MUST generate the values provided in Replay-Nonce header fields in such a way that they are
        # unique to each message, with high probability, and unpredictable to anyone besides the server."
        assert len(set(nonces)) == len(nonces)

    async def test_base64url(self, client: AcmeClient) -> None:
        """§6.5.1: "The value of the Replay-Nonce header field MUST be an octet string encoded according to the base64url
        encoding described in Section 2 of [RFC7515]." §6.1: "Trailing '=' characters MUST be stripped."
        """
        for _ in range(20):
            assert re.fullmatch(r"[A-Za-z0-9_-]{22}", await client.new_nonce())

    async def test_once(self, client: AcmeClient) -> None:
        """§6.5: "Once a nonce value has appeared in an ACME request, the server MUST consider it invalid, in the same way as a
        value it had never issued." "When a server rejects a request because its nonce value was unacceptable (or not
        present), it MUST provide HTTP status code 400 (Bad Request), and indicate the ACME error type "badNonce". An error
        response with the "badNonce" error type MUST include a Replay-Nonce header field with a fresh nonce that the server
        will accept in a retry of the original query".
        """
        body = await client.sign(client.account_url)
        (await client.send(client.account_url, body)).ok()
        answer = await client.send(client.account_url, body)
        answer.refused("badNonce", 400)
        assert answer.nonce is not None
        (await client.post(client.account_url, nonce=answer.nonce)).ok()
        client._nonces.clear()

    async def test_never_issued(self, client: AcmeClient) -> None:
        for nonce in (encode(bytes(16)), encode(b"x" * 16), "", "AAAA", encode(bytes(15)), encode(bytes(200))):
            (await client.post(client.account_url, nonce=nonce)).refused("badNonce", 400)

    async def test_not_present(self, client: AcmeClient) -> None:
        """§6.5: "Every JWS sent by an ACME client MUST include, in its protected header, the "nonce" header parameter"."""
        (await client.post(client.account_url, nonce=None)).refused("badNonce", 400)

    async def test_not_base64url(self, client: AcmeClient) -> None:
        """§6.5.2: "The value of the "nonce" header parameter MUST be an octet string, encoded according to the base64url
        encoding described in Section 2 of [RFC7515]." §6.5.2: "If the value of a "nonce" header parameter is not valid
        according to this encoding, then the verifier MUST reject the JWS as malformed."
        """
        for nonce in ("AAAA=", "not a nonce", "AAAA+", "A"):
            (await client.post(client.account_url, nonce=nonce)).refused("malformed", 400)

    async def test_spent_by_a_request_that_is_refused_later(self, client: AcmeClient) -> None:
        """§6.5: a nonce that "has appeared in an ACME request" is spent, whatever became of the request."""
        nonce = await client.new_nonce()
        (await client.post(client.directory["newOrder"], {"identifiers": []}, nonce=nonce)).refused("malformed", 400)
        (await client.post(client.account_url, nonce=nonce)).refused("badNonce", 400)

    async def test_not_spent_by_somebody_who_cannot_sign(self, client: AcmeClient) -> None:
        """RULES §1, step 7: the nonce "is spent after the signature check": nobody can spend another client's nonces."""
        nonce = await client.new_nonce()
        (await client.post(client.account_url, nonce=nonce, signer=new_key())).refused("malformed", 400)
        (await client.post(client.account_url, nonce=nonce)).ok()


class TestSection66:
    async def test_rate_limits(self) -> None:
        """§6.6: "Once the rate limit is exceeded, the server MUST respond with an error with the type
        "urn:ietf:params:acme:error:rateLimited"." "Additionally, the server SHOULD send a Retry-After header field indicating when
        the current request may succeed again."
        """
        async with running_ca(limits={"new_orders_per_account": "1/1m"}) as ca:
            client = await ca.client()
            await client.new_order("a.localhost")
            answer = (await client.order_answer("b.localhost")).refused("rateLimited", 429)
            seconds = int(answer.headers["Retry-After"])
            assert answer.headers["Retry-After"] == str(seconds)
            ca.clock.advance(seconds=seconds)
            await client.new_order("b.localhost")

    async def test_help(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.6: "the server MAY send one or multiple link relations in the Link header field [RFC8288] pointing to documentation
        about the specific rate limit that was hit, using the "help" link relation type": each problem has one, which leads
        somewhere, in a line of its own (CLIENTS 8).
        """
        answer = (await client.order_answer("a.example.com")).refused("rejectedIdentifier", 403)
        lines = answer.headers.getall("Link")
        assert len(lines) == 2
        assert not [line for line in lines if "," in line]
        (target,) = answer.links("help")
        page, _, anchor = target.partition("#")
        async with ca.session().get(page) as shown:
            assert shown.status == 200
            assert f'id="{anchor}"' in await shown.text()

    async def test_help_before_any_handler(self, ca: RunningCa) -> None:
        """What is refused for its framing is told with the same link."""
        raw = await ca.raw(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        assert b'/problems#malformed>;rel="help"' in raw


class TestSection67:
    async def test_problem_documents(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.7: "When the server responds with an error status, it SHOULD provide additional information using a problem
        document". RFC 9457 §3: of the type application/problem+json, and "status" is the HTTP status code.
        """
        refusals = [
            await client.get(ca.urls.base + "/acme/nowhere"),
            await client.post(client.directory["newOrder"], {}),
            await client.get(client.directory["newOrder"]),
            await client.send(client.account_url, b"x" * 70_000),
            await client.send(client.account_url, b"x", content_type="text/plain"),
            await client.order_answer("not-allowed.example"),
        ]
        for answer in refusals:
            assert answer.content_type == "application/problem+json"
            assert answer.json["status"] == answer.status
            assert answer.json["type"].startswith("urn:ietf:params:acme:error:")
            assert answer.detail

    async def test_subproblems(self, client: AcmeClient) -> None:
        """§6.7.1: "an ACME problem document MAY contain the "subproblems" field, containing a JSON array of problem documents,
        each of which MAY contain an "identifier" field. … The "identifier" field MUST NOT be present at the top level in ACME
        problem documents." "If present, the "identifier" field MUST contain an ACME identifier".
        """
        answer = await client.order_answer("a.example", "good.localhost", "b.example", ips=("192.0.2.1",))
        answer.refused("rejectedIdentifier", 403)
        assert "identifier" not in answer.json
        assert [item["identifier"] for item in answer.json["subproblems"]] == [
            {"type": "dns", "value": "a.example"},
            {"type": "dns", "value": "b.example"},
            {"type": "ip", "value": "192.0.2.1"},
        ]
        assert {item["type"] for item in answer.json["subproblems"]} == {
            "urn:ietf:params:acme:error:rejectedIdentifier"
        }
        single = (await client.order_answer("a.example")).refused("rejectedIdentifier", 403)
        assert "identifier" not in single.json
        assert [item["identifier"]["value"] for item in single.json["subproblems"]] == ["a.example"]

    async def test_several_types(self, client: AcmeClient) -> None:
        """§6.7.1: "Subproblems need not all have the same type, and they do not need to match the top-level type." """
        identifiers = [{"type": "email", "value": "a@b.example"}, {"type": "dns", "value": "_x.localhost"}]
        answer = await client.post(client.directory["newOrder"], {"identifiers": identifiers})
        answer.refused("compound", 400)
        assert [item["type"].rpartition(":")[2] for item in answer.json["subproblems"]] == [
            "unsupportedIdentifier",
            "malformed",
        ]
