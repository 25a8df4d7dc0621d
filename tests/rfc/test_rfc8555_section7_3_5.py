"""RFC 8555 §7.3.5: a change of the account's key, as a client sees it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.acme_client import AcmeClient, certificate_key
from tests.support.jose import KeyKind, SigningKey, new_key, shared_key
from tests.support.server import RunningCa, held_answers, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client()


def url_of(client: AcmeClient) -> str:
    return str(client.directory["keyChange"])


class TestChange:
    async def test_the_new_key_takes_the_old_ones_place(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.5: "the server updates the corresponding account by replacing the old account key with the new public key and
        returns status code 200 (OK)."
        """
        before, old = (await client.post(client.account_url)).json, client.key
        answer = (await client.change_key(new_key())).ok()
        assert answer.json == before
        assert (await client.post(client.account_url)).ok().json == before
        assert (await client.new_account(onlyReturnExisting=True)).ok(200).location == client.account_url
        (event,) = [event for event in await ca.events("account.key_changed") if client.key.thumbprint in event]
        assert old.thumbprint in event

    @pytest.mark.parametrize(
        ("old", "new"), [("RSA-2048", "P-256"), ("P-256", "RSA-2048"), ("P-256", "P-384"), ("P-384", "Ed25519")]
    )
    async def test_between_kinds_of_keys(self, ca: RunningCa, old: KeyKind, new: KeyKind) -> None:
        """§7.3.5: the inner JWS has the algorithm of the new key, whatever the outer one has."""
        client = await ca.client(new_key(old))
        (await client.change_key(new_key(new))).ok()
        await client.issue("kinds.localhost")

    async def test_the_old_key_works_nowhere(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §2: "The old key stops working at once, everywhere"."""
        issued = await client.issue("old.localhost")
        pending = await client.new_order("old-2.localhost")
        challenge = await client.challenge(pending.authorizations[0])
        orders = (await client.post(client.account_url)).json["orders"]
        old = client.key
        (await client.change_key(new_key())).ok()
        requests: list[tuple[str, dict[str, object] | bytes]] = [
            (client.account_url, b""),
            (client.account_url, {"status": "deactivated"}),
            (orders, b""),
            (client.directory["newOrder"], {"identifiers": [{"type": "dns", "value": "old-3.localhost"}]}),
            (pending.url, b""),
            (pending.finalize, {"csr": "AAAA"}),
            (pending.authorizations[0], {"status": "deactivated"}),
            (challenge["url"], {}),
            (issued.order.certificate, b""),
            (url_of(client), client.key_change(new_key())),
            (ca.directory_url, b""),
        ]
        for url, payload in requests:
            (await client.post(url, payload, key=old)).refused("malformed", 400)
        (await client.revoke(issued.der, key=old)).refused("unauthorized", 403)
        assert (await client.order(pending.url)).status == "pending"

    async def test_the_old_key_belongs_to_nobody(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.5 replaces the key: the old one has no account any more, and §7.3 lets it make one."""
        old = client.key
        (await client.change_key(new_key())).ok()
        stranger = await ca.client(old, register=False)
        (await stranger.new_account(onlyReturnExisting=True)).refused("accountDoesNotExist", 400)
        made = (await stranger.new_account()).ok(201)
        assert made.location != client.account_url

    async def test_there_and_back_again(self, client: AcmeClient) -> None:
        old = client.key
        (await client.change_key(new_key())).ok()
        (await client.change_key(old)).ok()
        (await client.post(client.account_url)).ok()

    async def test_unknown_members(self, client: AcmeClient) -> None:
        """§7.3.5 names two members of the keyChange object; what else some client sends is ignored (`resource`, `newKey`)."""
        key = new_key()
        payload = {"account": client.kid, "oldKey": client.key.jwk, "newKey": key.jwk, "resource": "key-change"}
        (await client.post(url_of(client), client.key_change(key, payload=payload))).ok()


class TestNothingElseChanges:
    async def test_pending_orders_and_authorizations(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.5: "changing the account key for an account SHOULD NOT have any other impact on the account. For example, the server
        MUST NOT invalidate pending orders or authorization transactions based on a change of account key."
        """
        pending, ready = await client.new_order("p.localhost"), await client.ready_order("r.localhost")
        issued = await client.issue("i.localhost")
        (await client.change_key(new_key())).ok()
        assert (await client.order(pending.url)).document == pending.document
        assert (await client.order(ready.url)).document == ready.document
        (await client.finalize(ready)).ok()
        await client.authorize_one(pending.authorizations[0])  # with the new key's key authorization
        (await client.finalize(await client.order(pending.url))).ok()
        (await client.post(issued.order.certificate)).ok()
        (await client.revoke(issued.der)).ok()

    async def test_a_validation_under_way(self, ca: RunningCa, client: AcmeClient) -> None:
        """§8.3: "On receiving a response, the server constructs and stores the key authorization from the challenge "token" value and
        the current client account key": what was prepared for the old key is good for a validation begun before the change.
        """
        order = await client.new_order("under-way.localhost")
        challenge = await client.challenge(order.authorizations[0])
        client.provision(challenge)
        with held_answers(ca):
            (await client.respond(challenge)).ok()
            (await client.change_key(new_key())).ok()
        assert (await client.final(order.authorizations[0]))["status"] == "valid"

    async def test_what_was_prepared_for_the_old_key(self, client: AcmeClient) -> None:
        """§8.1: "keyAuthorization = token || '.' || base64url(Thumbprint(accountKey))", of the key that the account has now."""
        order = await client.new_order("prepared.localhost")
        challenge = await client.challenge(order.authorizations[0])
        client.provision(challenge)
        (await client.change_key(new_key())).ok()
        (await client.respond(challenge)).ok()
        assert (await client.final(order.authorizations[0]))["status"] == "invalid"


class TestRefused:
    async def test_by_an_active_account(self, client: AcmeClient) -> None:
        """§7.3.5, step 1: "Validate the POST request belongs to a currently active account". "The outer JWS MUST meet the
        normal requirements for an ACME JWS request body".
        """
        inner = client.key_change(new_key())
        (await client.post(url_of(client), inner, kid=None)).refused("malformed", 400)
        (await client.deactivate_account()).ok()
        (await client.post(url_of(client), inner)).refused("unauthorized", 401)

    @pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"x"])
    async def test_no_inner_jws(self, client: AcmeClient, payload: bytes) -> None:
        """§7.3.5, step 2: "the payload of the JWS is a well-formed JWS object"."""
        (await client.post(url_of(client), payload)).refused("malformed", 400)

    async def test_no_jwk(self, client: AcmeClient) -> None:
        """§7.3.5, step 3: "the JWS protected header of the inner JWS has a "jwk" field". "The inner JWS MUST have a "jwk"
        header parameter, containing the public key of the new key pair." "The inner JWS MUST omit the "nonce" header
        parameter."
        """
        for changes in ({"without": ["jwk"]}, {"kid": client.kid}, {"header": {"nonce": "AAAA"}}):
            (await client.post(url_of(client), client.key_change(new_key(), **changes))).refused("malformed", 400)

    async def test_not_signed_by_the_new_key(self, client: AcmeClient) -> None:
        """§7.3.5, step 4: "the inner JWS verifies using the key in its "jwk" field"."""
        inner = client.key_change(new_key(), signer=new_key())
        (await client.post(url_of(client), inner)).refused("malformed", 400)

    async def test_no_key_change_object(self, client: AcmeClient) -> None:
        """§7.3.5, step 5: "the payload of the inner JWS is a well-formed keyChange object"."""
        for payload in (b"", {}, {"account": client.kid}, {"oldKey": client.key.jwk}):
            inner = client.key_change(new_key(), payload=payload)
            (await client.post(url_of(client), inner)).refused("malformed", 400)

    async def test_another_url(self, client: AcmeClient) -> None:
        """§7.3.5, step 6: "the "url" parameters of the inner and outer JWSs are the same". "The inner JWS MUST have the same
        "url" header parameter as the outer JWS."
        """
        for changes in ({"url": client.directory["newAccount"]}, {"without": ["url"]}):
            (await client.post(url_of(client), client.key_change(new_key(), **changes))).refused("malformed", 400)

    async def test_another_account(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.5, step 7: "the "account" field … contains the URL for the account matching the old key (i.e., the "kid" field in the
        outer JWS)": what the holder of a new key asked for one account is of no use to another one.
        """
        other = await ca.client()
        (await client.post(url_of(client), other.key_change(new_key()))).refused("malformed", 400)
        payload = {"account": other.kid, "oldKey": client.key.jwk}
        (await client.post(url_of(client), client.key_change(new_key(), payload=payload))).refused("malformed", 400)
        for who in (client, other):
            (await who.post(who.account_url)).ok()

    async def test_the_account_to_the_letter(self, client: AcmeClient) -> None:
        """§7.3.5: "The content of this field MUST be the exact string provided in the Location header field in response to the
        newAccount request that created the account."
        """
        url = client.account_url
        for account in (
            url + "/",
            url.upper(),
            url.replace("https:", "http:"),
            url.rpartition("/")[2],
            "",
            1,
            None,
            [url],
        ):
            payload = {"account": account, "oldKey": client.key.jwk}
            inner = client.key_change(new_key(), payload=payload)
            (await client.post(url_of(client), inner)).refused("malformed", 400)

    async def test_another_old_key(self, client: AcmeClient) -> None:
        """§7.3.5, step 8: "the "oldKey" field … is the same as the account key for the account in question"."""
        payload = {"account": client.kid, "oldKey": new_key().jwk}
        (await client.post(url_of(client), client.key_change(new_key(), payload=payload))).refused("malformed", 400)

    async def test_a_key_that_has_an_account(self, ca: RunningCa, client: AcmeClient) -> None:
        """§7.3.5, step 9: "Check that no account exists whose account key is the same as the key in the "jwk" header parameter of the
        inner JWS." "If there is an existing account with the new key provided, then the server SHOULD use status code 409
        (Conflict) and provide the URL of that account in the Location header field."
        """
        other, shut = await ca.client(), await ca.client()
        (await shut.deactivate_account()).ok()
        for holder in (other, shut, client):
            answer = (await client.change_key(holder.key)).refused("malformed", 409)
            assert answer.location == holder.account_url
        (await client.post(client.account_url)).ok()
        (await other.post(other.account_url)).ok()

    async def test_whose_key_it_is_is_told_to_its_holder_only(self, ca: RunningCa, client: AcmeClient) -> None:
        """RULES §2: an account's URL is not given to whoever knows its public key: the inner signature comes first."""
        other = await ca.client()
        answer = await client.post(url_of(client), client.key_change(other.key, signer=new_key()))
        answer.refused("malformed", 400)
        assert "Location" not in answer.headers

    async def test_bad_keys(self, ca: RunningCa, client: AcmeClient) -> None:
        """§6.2: "badPublicKey", for a new key as for a new account's: of a kind that is not taken, certified, compromised
        (RULES §1). §7.3.5: "The inner JWS MUST meet the normal requirements".
        """
        issued, leaked = await client.issue("k1.localhost"), await client.issue("k2.localhost")
        (await client.revoke(leaked.der, reason=1, key=certificate_key(leaked))).ok()
        for key in (certificate_key(issued), certificate_key(leaked)):
            (await client.change_key(SigningKey(key.private, "ES256"))).refused("badPublicKey", 400)
            assert key.thumbprint in (await ca.events("account.refused"))[-1]
        jwk = shared_key("RSA-2048").jwk | {"n": "A" * 341 + "Q"}
        inner = client.key_change(shared_key("RSA-2048"), header={"jwk": jwk})
        (await client.post(url_of(client), inner)).refused("badPublicKey", 400)
        answer = await client.post(url_of(client), client.key_change(new_key(), alg="HS256"))
        assert answer.refused("badSignatureAlgorithm", 400).json["algorithms"]
        (await client.post(client.account_url)).ok()

    async def test_a_csr_with_the_new_key(self, client: AcmeClient) -> None:
        """§11.1: "it MUST verify that the public key in a CSR is not the same as the public key of the account key pair"."""
        key = new_key()
        (await client.change_key(key)).ok()
        order = await client.ready_order("csr.localhost")
        (await client.finalize(order, order.csr(key.private))).refused("badCSR", 400)


class TestRaces:
    async def test_fifty_changes_of_one_account_to_fifty_keys(self, ca: RunningCa, client: AcmeClient) -> None:
        """One is taken; the others were signed by a key that is the account's no longer."""
        keys = [new_key() for _ in range(50)]
        bodies = [await client.sign(url_of(client), client.key_change(key)) for key in keys]
        answers = await asyncio.gather(*(client.send(url_of(client), body) for body in bodies))
        (won,) = [number for number, answer in enumerate(answers) if answer.status == 200]
        for number, answer in enumerate(answers):
            if number != won:
                assert (answer.status, answer.problem) in {(400, "malformed"), (401, "unauthorized")}
        (await client.post(client.account_url, key=keys[won])).ok()
        (await client.post(client.account_url)).refused("malformed", 400)

    async def test_against_new_accounts_with_the_key(self, ca: RunningCa, client: AcmeClient) -> None:
        """§11.1: "the server MUST not allow account key pair reuse across multiple accounts", whoever comes first."""
        key = new_key()
        stranger = await ca.client(key, register=False)
        made, changed = await asyncio.gather(stranger.new_account(), client.change_key(key))
        assert (made.status, changed.status) in {(201, 409), (200, 200)}
        assert await ca.scalar("SELECT COUNT(*) AS n FROM accounts WHERE thumbprint = $1", key.thumbprint) == 1
