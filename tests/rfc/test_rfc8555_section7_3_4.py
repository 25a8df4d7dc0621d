"""RFC 8555 §7.3.4: external account binding, as a client sees it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from acmeca.acme.binding import MAC_ALGORITHMS
from tests.support.acme_client import AcmeClient, Answer, assert_alike
from tests.support.jose import KEY_KINDS, KeyKind, decode, encode, new_key
from tests.support.server import RunningCa, running_ca

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    """A CA that makes accounts without a binding too."""
    async with running_ca() as ca:
        yield ca


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict() -> AsyncIterator[RunningCa]:
    """A CA that makes accounts only with one."""
    async with running_ca(policy={"external_account_required": True}) as ca:
        yield ca


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grant(ca: RunningCa) -> dict[str, Any]:
    return await ca.grant()


@pytest_asyncio.fixture(loop_scope="module")
async def client(ca: RunningCa) -> AcmeClient:
    return await ca.client(register=False)


async def sent(client: AcmeClient, grant: dict[str, Any], **changes: Any) -> Answer:
    return await client.new_account(externalAccountBinding=client.binding(grant, **changes))


class TestRequired:
    async def test_directory(self, ca: RunningCa, strict: RunningCa) -> None:
        """§7.3.4: "If such a CA requires that newAccount requests contain an "externalAccountBinding" field, then it MUST
        provide the value "true" in the "externalAccountRequired" subfield of the "meta" field in the directory object."
        """
        for one, required in ((ca, False), (strict, True)):
            client = await one.client(register=False)
            assert client.directory["meta"]["externalAccountRequired"] is required

    @pytest.mark.parametrize("members", [{}, {"externalAccountBinding": None}])
    async def test_without(self, strict: RunningCa, members: dict[str, object]) -> None:
        """§7.3.4: "If the CA receives a newAccount request without an "externalAccountBinding" field, then it SHOULD reply with an
        error of type "externalAccountRequired"."
        """
        client = await strict.client(register=False)
        answer = (await client.new_account(**members)).refused("externalAccountRequired", 400)
        assert "administrators" in answer.detail
        assert client.key.thumbprint in (await strict.events("account.refused"))[-1]
        (await client.new_account(onlyReturnExisting=True)).refused("accountDoesNotExist", 400)

    async def test_with(self, strict: RunningCa) -> None:
        client = await strict.bound_client(await strict.grant())
        assert (await client.new_order("a.localhost")).status == "pending"

    async def test_an_account_that_there_is(self, strict: RunningCa) -> None:
        """§7.3.1: an existing account's key gets the account, whatever is required of new ones; uacme and dehydrated look it up
        so at each run.
        """
        client = await strict.bound_client(await strict.grant())
        for members in ({}, {"onlyReturnExisting": True}, {"externalAccountBinding": {"no": "JWS"}}):
            answer = (await client.new_account(**members)).ok(200)
            assert answer.location == client.account_url
            assert "externalAccountBinding" not in answer.json


class TestGood:
    @pytest.mark.parametrize("kind", KEY_KINDS)
    async def test_every_kind_of_account_key(self, ca: RunningCa, grant: dict[str, Any], kind: KeyKind) -> None:
        client = await ca.client(new_key(kind), register=False)
        (await sent(client, grant)).ok(201)

    @pytest.mark.parametrize("alg", MAC_ALGORITHMS)
    async def test_every_mac(self, ca: RunningCa, client: AcmeClient, grant: dict[str, Any], alg: str) -> None:
        """ "The "alg" field MUST indicate a MAC-based algorithm"; RFC 7518 §3.2: "A key of the same size as the hash output … or
        larger MUST be used with this algorithm", so that the key has room for each of them. §7.3.4: "The MAC key SHOULD be
        provided in base64url-encoded form".
        """
        assert len(decode(grant["hmac_key"])) == 64
        (await sent(client, grant, alg=alg)).ok(201)

    async def test_reflected(self, client: AcmeClient, grant: dict[str, Any]) -> None:
        """ "The account object the CA returns MUST include an "externalAccountBinding" field with the same value as the field in
        the request." """
        binding = client.binding(grant) | {"more": ["of", "it"]}
        answer = (await client.new_account(externalAccountBinding=binding)).ok(201)
        assert answer.json["externalAccountBinding"] == binding

    async def test_the_example(self, ca: RunningCa, client: AcmeClient, grant: dict[str, Any]) -> None:
        """The request of §7.3.4, with its members and no other. §7.3.4: "The key identifier MUST be an ASCII string." "The
        "kid" field MUST contain the key identifier provided by the CA".
        """
        binding = client.binding(grant)
        assert json.loads(decode(str(binding["protected"]))) == {
            "alg": "HS256",
            "kid": grant["kid"],
            "url": client.directory["newAccount"],
        }
        assert grant["kid"].isascii()
        assert json.loads(decode(str(binding["payload"]))) == client.key.jwk
        assert set(binding) == {"protected", "payload", "signature"}
        contact = ["mailto:cert-admin@example.org", "mailto:admin@example.org"]
        members = {"contact": contact, "termsOfServiceAgreed": True, "externalAccountBinding": binding}
        answer = (await client.new_account(**members)).ok(201)
        assert answer.json["contact"] == contact
        (row,) = await ca.rows("SELECT grant_id FROM accounts WHERE thumbprint = $1", client.key.thumbprint)
        assert row["grant_id"] == grant["kid"]

    async def test_bound_though_nothing_is_required(self, ca: RunningCa, client: AcmeClient) -> None:
        """ "When a CA receives a newAccount request containing an "externalAccountBinding" field, it decides whether or not to
        verify the binding": we always do, so that a grant's limits cannot be left behind by leaving it optional.
        """
        one = await ca.grant(names=["*.team-a.localhost"])
        (await client.register(externalAccountBinding=client.binding(one))).ok(201)
        (await client.order_answer("a.team-b.localhost")).refused("rejectedIdentifier", 403)
        (await client.order_answer("a.team-a.localhost")).ok(201)

    async def test_not_updateable(self, ca: RunningCa, client: AcmeClient, grant: dict[str, Any]) -> None:
        """§7.1.2: "This field is not updateable by the client"."""
        (await client.register(externalAccountBinding=client.binding(grant))).ok(201)
        other = await ca.grant()
        answer = await client.post(client.account_url, {"externalAccountBinding": client.binding(other)})
        assert "externalAccountBinding" not in answer.ok().json
        (row,) = await ca.rows("SELECT grant_id FROM accounts WHERE thumbprint = $1", client.key.thumbprint)
        assert row["grant_id"] == grant["kid"]


class TestRefused:
    """ "If any of these checks fail, then the CA MUST reject the newAccount request." The types are ours: rule 4 of acme/binding.py."""

    @pytest.mark.parametrize(
        ("changes", "type_"),
        [
            pytest.param({"members": {"payload": "=="}}, "malformed", id="no JWS"),
            pytest.param({"members": {"header": {}}}, "malformed", id="unprotected header"),
            pytest.param({"alg": "none"}, "malformed", id="none"),
            pytest.param({"alg": "ES256"}, "malformed", id="no MAC"),
            pytest.param({"without": ["kid"]}, "malformed", id="no kid"),
            pytest.param({"without": ["url"]}, "malformed", id="no url"),
            pytest.param({"header": {"nonce": "AAAA"}}, "malformed", id="nonce"),
            pytest.param({"url": "https://other.example/acme/new-account"}, "unauthorized", id="another url"),
            pytest.param({"kid": "AAAAAAAAAAAAAAAAAAAAAA"}, "unauthorized", id="unknown kid"),
            pytest.param({"hmac_key": encode(bytes(64))}, "unauthorized", id="another key"),
            pytest.param({"mac": b""}, "unauthorized", id="no MAC at all"),
            pytest.param({"payload": b"{}"}, "malformed", id="no key approved"),
            pytest.param(
                {"payload": json.dumps(new_key().jwk).encode()}, "unauthorized", id="another account key approved"
            ),
        ],
    )
    async def test_each_check(
        self,
        ca: RunningCa,
        client: AcmeClient,
        grant: dict[str, Any],
        changes: dict[str, Any],
        type_: str,
    ) -> None:
        """§7.3.4: "To verify the account binding, the CA MUST take the following steps", and what step 2 asks for: "The "alg"
        field MUST indicate a MAC-based algorithm", "The "kid" field MUST contain the key identifier provided by the CA", "The
        "nonce" field MUST NOT be present", "The "url" field MUST be set to the same value as the outer JWS".
        """
        status = 400 if type_ == "malformed" else 403
        accounts = await ca.scalar("SELECT COUNT(*) AS n FROM accounts")
        answer = (await sent(client, grant, **changes)).refused(type_, status)
        assert answer.detail.startswith("externalAccountBinding: ")
        assert await ca.scalar("SELECT COUNT(*) AS n FROM accounts") == accounts
        assert client.key.thumbprint in (await ca.events("account.refused"))[-1]

    async def test_unknown_and_wrong_are_one(self, ca: RunningCa, client: AcmeClient, grant: dict[str, Any]) -> None:
        """RULES §2: "Unknown kid and wrong MAC are indistinguishable, in text and in time"."""
        disabled = await ca.grant()
        await ca.opened.administration.call("eab_disable", {"kid": disabled["kid"]}, user="test")
        wrong = {"hmac_key": encode(bytes(64))}
        reference = await sent(client, grant, **wrong)
        for other in (
            await sent(client, grant, kid="AAAAAAAAAAAAAAAAAAAAAA"),
            await sent(client, grant, kid=""),
            await sent(client, grant, kid="A" * 20_000),
            await sent(client, disabled, **wrong),
            await sent(client, grant, mac=b"x"),
        ):
            assert_alike(reference, other)

    async def test_a_binding_that_was_overheard(self, ca: RunningCa, client: AcmeClient, grant: dict[str, Any]) -> None:
        """Step 5 is what binds the approval to one account key: whoever sees the request cannot use it for another."""
        overheard = client.binding(grant)
        thief = await ca.client(register=False)
        (await thief.new_account(externalAccountBinding=overheard)).refused("unauthorized", 403)
        (await client.new_account(externalAccountBinding=overheard)).ok(201)

    async def test_ended_and_used(self, ca: RunningCa, client: AcmeClient) -> None:
        """Who has shown the MAC key is told what is wrong with the grant."""
        disabled, over, used = await ca.grant(), await ca.grant(expires_in=60), await ca.grant(single_use=True)
        await ca.opened.administration.call("eab_disable", {"kid": disabled["kid"]}, user="test")
        await ca.bound_client(used)
        assert "disabled" in (await sent(client, disabled)).refused("unauthorized", 403).detail
        assert "one account" in (await sent(client, used)).refused("unauthorized", 403).detail
        ca.clock.advance(seconds=60)
        assert "ended" in (await sent(client, over)).refused("unauthorized", 403).detail

    @pytest.mark.parametrize("binding", [1, "x", [], True])
    async def test_no_object(self, client: AcmeClient, binding: object) -> None:
        (await client.new_account(externalAccountBinding=binding)).refused("malformed", 400)
