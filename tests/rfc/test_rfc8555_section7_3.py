"""RFC 8555 §7.3: accounts, as a client sees them."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient, assert_alike, certificate_key
from tests.support.jose import KEY_KINDS, KeyKind, SigningKey, new_key, shared_key
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTACT = ["mailto:cert-admin@example.org", "mailto:admin@example.org"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


class TestSection73:
    async def test_created(self, ca: RunningCa) -> None:
        """§7.3: "The server returns this account object in a 201 (Created) response, with the account URL in a Location header
        field. The account URL is used as the "kid" value in the JWS authenticating subsequent requests by this account". "If
        the server validates contact URLs, it MUST support the "mailto" scheme."
        """
        client = await ca.client(register=False)
        answer = (await client.new_account(contact=CONTACT, termsOfServiceAgreed=True)).ok(201)
        assert answer.content_type == "application/json"
        assert answer.json["status"] == "valid"
        assert answer.json["contact"] == CONTACT
        assert (await client.post(answer.location, kid=answer.location)).ok().json == answer.json

    @pytest.mark.parametrize("kind", KEY_KINDS)
    async def test_keys(self, ca: RunningCa, kind: KeyKind) -> None:
        """§6.2: ES256 and EdDSA have to be there; RULES §1 adds ES384, ES512 and RS256."""
        client = await ca.client(shared_key(kind))
        (await client.post(client.account_url)).ok()
        assert (await client.new_order("k.localhost")).status == "pending"

    async def test_unknown_fields(self, ca: RunningCa) -> None:
        """§7.3: "The server MUST ignore any values provided in the "orders" fields in account objects sent by the client, as
        well as any other fields that it does not recognize." "The server MUST NOT reflect the "onlyReturnExisting" field or any
        unrecognized fields in the resulting account object."
        """
        client = await ca.client(register=False)
        answer = await client.new_account(
            orders="https://evil.example",
            status="revoked",
            initialIp="192.0.2.1",
            onlyReturnExisting=False,
            resource="new-reg",
        )
        answer.ok(201)
        assert set(answer.json) == {"status", "contact", "orders"}
        assert answer.json["status"] == "valid"
        assert answer.json["orders"].startswith(ca.urls.base)

    async def test_unsupported_contact(self, ca: RunningCa) -> None:
        """§7.3: "If the server rejects a contact URL for using an unsupported scheme, it MUST return an error of type
        "unsupportedContact", with a description of the error and what types of contact URLs the server considers acceptable."
        "The server SHOULD validate that the contact URLs in the "contact" field are valid and supported by the server."
        """
        client = await ca.client(register=False)
        answer = await client.new_account(contact=["mailto:a@example.org", "tel:+12025551212"])
        answer.refused("unsupportedContact", 400)
        assert "mailto" in answer.detail
        (await client.new_account(onlyReturnExisting=True)).refused("accountDoesNotExist", 400)

    @pytest.mark.parametrize(
        "contact", ["mailto:", "mailto:a", "mailto:a@b@c d", "mailto:a@example.org?subject=x", "mailto:a@b.c,d@e.f"]
    )
    async def test_invalid_contact(self, ca: RunningCa, contact: str) -> None:
        """§7.3: "If the server rejects a contact URL for using a supported scheme but an invalid value, then the server MUST
        return an error of type "invalidContact"." hfields and a second addr-spec are such values. "If a server encounters a
        "mailto" contact URL that does not meet these criteria, then it SHOULD reject it as invalid."
        """
        client = await ca.client(register=False)
        (await client.new_account(contact=[contact])).refused("invalidContact", 400)

    async def test_keys_that_are_refused(self, ca: RunningCa) -> None:
        """§6.2, §11: a key that anybody could break makes no account (RULES §1)."""
        client = await ca.client(register=False)
        key = shared_key("RSA-2048")
        weak = key.jwk | {"n": "A" * 341 + "Q"}  # 2048 bits are asked for
        (await client.post(client.directory["newAccount"], {}, key=key, header={"jwk": weak})).refused(
            "badPublicKey", 400
        )


class TestSection731:
    async def test_existing(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.1: "If the server receives a newAccount request signed with a key for which it already has an account registered
        with the provided account key, then it MUST return a response with status code 200 (OK) and provide the URL of that
        account in the Location header field." "The body of this response represents the account object as it existed on the
        server before this request; any fields in the request object MUST be ignored."
        """
        before = await ca.scalar("SELECT COUNT(*) AS n FROM accounts")
        for members in ({}, {"onlyReturnExisting": True}, {"contact": CONTACT}):
            answer = (await client.new_account(**members)).ok(200)
            assert answer.location == client.account_url
            assert answer.json["contact"] == []  # "… in this case, the fields of the request do not change the account"
        assert await ca.scalar("SELECT COUNT(*) AS n FROM accounts") == before

    async def test_only_return_existing(self, ca: RunningCa) -> None:
        """§7.3.1: "If a client sends such a request and an account does not exist, then the server MUST return an error
        response with status code 400 (Bad Request) and type "urn:ietf:params:acme:error:accountDoesNotExist"." §7.3: "If this
        field is present with the value "true", then the server MUST NOT create a new account if one does not already exist."
        """
        client = await ca.client(register=False)
        before = await ca.counts()
        (await client.new_account(onlyReturnExisting=True)).refused("accountDoesNotExist", 400)
        assert await ca.counts() == before


class TestSection732:
    async def test_update(self, client: AcmeClient) -> None:
        """§7.3.2: "If the server accepts the update, it MUST return a response with a 200 (OK) status code and the resulting
        account object."
        """
        answer = (await client.post(client.account_url, {"contact": CONTACT})).ok()
        assert answer.json["contact"] == CONTACT
        assert (await client.post(client.account_url)).json == answer.json
        assert (await client.post(client.account_url, {"contact": []})).ok().json["contact"] == []

    async def test_ignored(self, client: AcmeClient) -> None:
        """§7.3.2: "The server MUST ignore any updates to the "orders" field, "termsOfServiceAgreed" field (see Section 7.3.3),
        the "status" field (except as allowed by Section 7.3.6), or any other fields it does not recognize."
        """
        before = (await client.post(client.account_url)).json
        changes = {"orders": "https://evil.example", "termsOfServiceAgreed": False, "status": "revoked", "id": 1}
        assert (await client.post(client.account_url, changes)).ok().json == before
        assert (await client.post(client.account_url, before)).ok().json == before

    async def test_bad_contact(self, client: AcmeClient) -> None:
        (await client.post(client.account_url, {"contact": ["tel:1"]})).refused("unsupportedContact", 400)
        (await client.post(client.account_url, {"contact": ["mailto:x"]})).refused("invalidContact", 400)
        assert (await client.post(client.account_url)).json["contact"] == []

    async def test_another_account(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §2: "another account gets the same answer as for something that does not exist"."""
        other = await ca.client()
        missing = ca.urls.account("AAAAAAAAAAAAAAAAAAAAAA")
        for payload in (b"", {"contact": CONTACT}, {"status": "deactivated"}):
            assert_alike(await client.post(other.account_url, payload), await client.post(missing, payload))
        orders = [(await other.post(other.account_url)).json["orders"], missing + "/orders"]
        assert_alike(*[await client.post(url) for url in orders])
        assert (await other.post(other.account_url)).ok().json["contact"] == []


class TestSection736:
    async def test_deactivated(self, client: AcmeClient) -> None:
        """§7.3.6: "If the server accepts the deactivation request, it replies with a 200 (OK) status code and the current
        contents of the account object."
        """
        answer = (await client.deactivate_account()).ok()
        assert answer.json["status"] == "deactivated"

    async def test_by_the_account_key(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.6: "The server MUST verify that the request is signed by the account key."""
        payload = {"status": "deactivated"}
        (await client.post(client.account_url, payload, signer=new_key())).refused("malformed", 400)
        (await client.post(client.account_url, payload, key=new_key(), kid=None)).refused("malformed", 400)
        assert (await client.post(client.account_url)).json["status"] == "valid"

    async def test_nothing_works_any_more(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.6: "If a server receives a POST or POST-as-GET from a deactivated account, it MUST return an error response with
        status code 401 (Unauthorized) and type "urn:ietf:params:acme:error:unauthorized"." "Once an account is deactivated, the
        server MUST NOT accept further requests authorized by that account's key. The server SHOULD cancel any pending
        operations authorized by the account's key, such as certificate orders." RULES §2: "refused everywhere, including a new
        newAccount with its key".
        """
        issued = await client.issue("gone-1.localhost")
        ready = await client.ready_order("gone-2.localhost")
        pending = await client.new_order("gone-3.localhost")
        challenge = await client.challenge(pending.authorizations[0])
        orders = (await client.post(client.account_url)).json["orders"]
        (await client.deactivate_account()).ok()

        refused = [
            await client.post(client.account_url),
            await client.post(client.account_url, {"status": "valid"}),
            await client.deactivate_account(),
            await client.post(orders),
            await client.order_answer("gone-4.localhost"),
            await client.post(ready.url),
            await client.finalize(ready),
            await client.post(pending.authorizations[0]),
            await client.respond(challenge),
            await client.post(issued.order.certificate),
            await client.revoke(issued.der),
            await client.post(ca.directory_url),
            await client.post(client.directory["newNonce"]),
            await client.new_account(),
            await client.new_account(onlyReturnExisting=True),
        ]
        for answer in refused:
            answer.refused("unauthorized", 401)
        statuses = {row["status"] for row in await ca.rows("SELECT status FROM orders WHERE id = $1", last(ready.url))}
        assert statuses == {"invalid"}
        authorization = await ca.rows(
            "SELECT status FROM authorizations WHERE id = $1", last(pending.authorizations[0])
        )
        assert [row["status"] for row in authorization] == ["deactivated"]

    async def test_its_certificates_live_on(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.6: "Servers SHOULD NOT revoke certificates issued by the deactivated account, since this could cause operational
        disruption for servers using these certificates." Their own keys still revoke them (§7.6).
        """
        issued = await client.issue("lives-on.localhost")
        (await client.deactivate_account()).ok()
        (row,) = await ca.rows("SELECT revoked_at FROM certificates WHERE serial = $1", f"{issued.serial:034x}")
        assert row["revoked_at"] is None
        (await client.revoke(issued.der, key=certificate_key(issued))).ok()

    async def test_no_way_back(self, client: AcmeClient) -> None:
        """§7.3.6: "ACME does not provide a way to reactivate a deactivated account." """
        (await client.deactivate_account()).ok()
        (await client.post(client.account_url, {"status": "valid"})).refused("unauthorized", 401)


class TestSection111:
    async def test_a_certified_key(self, ca: RunningCa, client: AcmeClient) -> None:
        """§11.1: keys of certificates and of accounts are never the same, whichever came first. "For this reason, it is
        RECOMMENDED that each account key pair be used only for authentication of a single ACME account. For example, the public
        key of an account key pair MUST NOT be included in a certificate."
        """
        issued = await client.issue("certified.localhost")
        fresh = await ca.client(SigningKey(certificate_key(issued).private, "ES256"), register=False)
        (await fresh.new_account()).refused("badPublicKey", 400)
        assert fresh.key.thumbprint in (await ca.events("account.refused"))[-1]

    async def test_a_blocked_key_makes_no_account(self, client: AcmeClient, ca: RunningCa) -> None:
        issued = await client.issue("blocked-4.localhost")
        key = certificate_key(issued)
        (await client.revoke(issued.der, reason=1, key=key)).ok()
        fresh = await ca.client(SigningKey(key.private, "ES256"), register=False)
        (await fresh.new_account()).refused("badPublicKey", 400)


def last(url: str) -> str:
    return url.rpartition("/")[2]
