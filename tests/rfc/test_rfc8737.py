"""RFC 8737, the tls-alpn-01 challenge, clause by clause."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509

from acmeca.acme.challenges import key_authorization
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.objects import ChallengeType
from acmeca.acme.tlsalpn01 import authorization_digest
from acmeca.config import Config
from acmeca.policy.challenges import ChallengePolicy
from acmeca.validation.dialler import Dialler
from acmeca.validation.tlsalpn01 import TlsAlpn01Validator
from tests.support.acme_client import AcmeClient
from tests.support.hosts import Hosts
from tests.support.server import RunningCa, running_ca
from tests.support.tls_peer import (
    ACME_IDENTIFIER,
    Extension,
    TlsPeer,
    acme_identifier,
    certificate_der,
    challenge_der,
    general_name,
    san,
    showing,
    tls_peer,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = Identifier(IdentifierType.DNS, "a.localhost")
OTHER = Identifier(IdentifierType.DNS, "b.localhost")

# §3, the example of a challenge.
CHALLENGE = json.loads("""
{
  "type": "tls-alpn-01",
  "url": "https://example.com/acme/chall/prV_B7yEyA4",
  "status": "pending",
  "token": "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
}
""")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[TlsPeer]:
    async with tls_peer() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca(server: TlsPeer) -> AsyncIterator[RunningCa]:
    async with running_ca(policy={"wildcards": True}, validation={"tls_alpn_port": server.port}) as ca:
        yield ca


@pytest.fixture
def peer(server: TlsPeer) -> TlsPeer:
    """The server, with nothing provisioned yet and nobody seen."""
    server.shown.clear()
    server.server_names.clear()
    return server


class Story:
    """An order whose tls-alpn-01 challenge is about to be answered."""

    def __init__(self, client: AcmeClient, url: str, challenge: Mapping[str, Any]) -> None:
        self.client = client
        self.url = url
        self.challenge = challenge
        self.key_authorization = key_authorization(challenge["token"], client.key.thumbprint)

    @classmethod
    async def of(cls, ca: RunningCa, identifier: Identifier = NAME) -> "Story":
        client = await ca.client()
        order = await client.new_order(identifier.value)
        (url,) = order.authorizations
        return cls(client, url, await client.challenge(url, "tls-alpn-01"))

    async def outcome(self) -> dict[str, Any]:
        """Answer the challenge; the authorization when it is final."""
        (await self.client.respond(self.challenge)).ok()
        return dict(await self.client.final(self.url))

    async def refused(self, error: str, said: str) -> None:
        document = await self.outcome()
        assert document["status"] == "invalid"
        (challenge,) = document["challenges"]
        assert challenge["error"]["type"] == f"urn:ietf:params:acme:error:{error}"
        assert said in challenge["error"]["detail"]


class TestSection3:
    async def test_the_challenge_object(self, ca: RunningCa) -> None:
        """type (required, string): The string "tls-alpn-01". token (required, string): A random value that uniquely identifies
        the challenge. This value MUST have at least 128 bits of entropy. It MUST NOT contain any characters outside the
        base64url alphabet as described in Section 5 of [RFC4648]. Trailing '=' padding characters MUST be stripped.
        """
        challenge = (await Story.of(ca)).challenge
        assert set(challenge) == set(CHALLENGE)
        assert challenge["type"] == CHALLENGE["type"]
        token = challenge["token"]
        decoded = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        assert base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() == token
        assert len(decoded) >= 16

    async def test_control_is_shown(self, ca: RunningCa, peer: TlsPeer) -> None:
        """If all of the above steps succeed, then the validation is successful."""
        client = await ca.client()
        order = await client.new_order(NAME.value)
        challenge = await client.challenge(order.authorizations[0], "tls-alpn-01")
        peer.provision(NAME, key_authorization(challenge["token"], client.key.thumbprint))
        assert (await client.respond(challenge)).ok().json["status"] == "valid"
        valid = await client.authorization(order.authorizations[0])
        assert [item["type"] for item in valid["challenges"]] == ["tls-alpn-01"]
        *_, event = await ca.events("authorization.validated")
        assert f"acme-tls/1 with SNI a.localhost from 127.0.0.1:{peer.port}" in event
        assert (await client.finalize(await client.order(order.url))).ok().json["status"] == "valid"

    async def test_no_other_entries(self, ca: RunningCa, peer: TlsPeer) -> None:
        """The subjectAlternativeName extension MUST contain a single dNSName entry where the value is the domain name being
        validated.
        """
        story = await Story.of(ca)
        names = (general_name(NAME), general_name(OTHER))
        peer.shown[NAME.value] = showing(certificate_der(san(*names), acme_identifier(story.key_authorization)))
        await story.refused("incorrectResponse", '"a.localhost" and 1 more')

    async def test_the_name_in_the_subject_is_none(self, ca: RunningCa, peer: TlsPeer) -> None:
        """MUST contain an acmeIdentifier extension and a subjectAlternativeName extension [RFC5280]."""
        story = await Story.of(ca)
        peer.shown[NAME.value] = showing(certificate_der(acme_identifier(story.key_authorization)))
        await story.refused("incorrectResponse", "no subjectAltName")

    async def test_without_an_acme_identifier(self, ca: RunningCa, peer: TlsPeer) -> None:
        """As above: any server has a certificate with its name."""
        story = await Story.of(ca)
        peer.shown[NAME.value] = showing(certificate_der(san(general_name(NAME))))
        await story.refused("incorrectResponse", "no acmeIdentifier")

    async def test_the_digest(self, ca: RunningCa, peer: TlsPeer) -> None:
        """The acmeIdentifier extension MUST contain the SHA-256 digest [FIPS180-4] of the key authorization [RFC8555] for the
        challenge.
        """
        story = await Story.of(ca)
        assert authorization_digest("a.b") == hashlib.sha256(b"a.b").digest()
        others = (await ca.client()).key.thumbprint
        peer.provision(NAME, key_authorization(story.challenge["token"], others))
        await story.refused("incorrectResponse", "another digest")

    async def test_critical(self, ca: RunningCa, peer: TlsPeer) -> None:
        """The acmeIdentifier extension MUST be critical so that the certificate isn't inadvertently used by non-ACME software."""
        story = await Story.of(ca)
        extensions = (san(general_name(NAME)), acme_identifier(story.key_authorization, critical=False))
        peer.shown[NAME.value] = showing(certificate_der(*extensions))
        await story.refused("incorrectResponse", "not critical")

    async def test_the_der_of_an_octet_string(self, ca: RunningCa, peer: TlsPeer) -> None:
        """The extnValue of the id-pe-acmeIdentifier extension is the ASN.1 DER encoding [X.690] of the Authorization structure,
        which contains the SHA-256 digest of the key authorization for the challenge.
        """
        story = await Story.of(ca)
        bare = Extension(ACME_IDENTIFIER, critical=True, value=authorization_digest(story.key_authorization))
        peer.shown[NAME.value] = showing(certificate_der(san(general_name(NAME)), bare))
        await story.refused("incorrectResponse", "OCTET STRING of 32 bytes")

    async def test_the_extensions_oid(self) -> None:
        """id-pe-acmeIdentifier OBJECT IDENTIFIER ::= { id-pe 31 }"""
        id_pe = "1.3.6.1.5.5.7.1"  # RFC 5280 §4.2.2
        assert x509.ObjectIdentifier(f"{id_pe}.31") == ACME_IDENTIFIER

    async def test_step_2_the_name_is_resolved(self) -> None:
        """The ACME server resolves the domain name being validated and chooses one of the IP addresses returned for validation."""
        resolver = Hosts(a_localhost=[["127.0.0.1"]])
        async with tls_peer(showing(challenge_der(NAME, "t.t"))) as peer:
            validator = TlsAlpn01Validator(_dialler(resolver), port=peer.port)
            assert (await validator.observe(NAME)).failure is None
        assert resolver.asked == ["a.localhost"]

    async def test_step_3_port(self) -> None:
        """This connection MUST use TCP port 443."""
        assert TlsAlpn01Validator(_dialler(Hosts()))._port == 443
        assert Config.model_fields["validation"].default.tls_alpn_port == 443

    async def test_step_3_alpn_and_sni(self, ca: RunningCa, peer: TlsPeer) -> None:
        """The ACME server MUST provide an ALPN extension with the single protocol name "acme-tls/1" and an SNI extension
        containing only the domain name being validated during the TLS handshake. (Byte by byte: tests/validation.)
        """
        story = await Story.of(ca)
        peer.provision(NAME, story.key_authorization)
        assert (await story.outcome())["status"] == "valid"
        assert peer.server_names == ["a.localhost"]

    @pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("h2", "http/1.1")])
    async def test_step_4_the_protocol(self, ca: RunningCa, peer: TlsPeer, protocols: tuple[str, ...]) -> None:
        """The ACME server verifies that during the TLS handshake the application-layer protocol "acme-tls/1" was successfully
        negotiated (and that the ALPN extension contained only the value "acme-tls/1").
        """
        story = await Story.of(ca)
        peer.shown[NAME.value] = showing(challenge_der(NAME, story.key_authorization), protocols=protocols)
        await story.refused("incorrectResponse", "did not select the protocol")

    async def test_step_5_case(self, ca: RunningCa, peer: TlsPeer) -> None:
        """The comparison of dNSNames MUST be case insensitive [RFC4343]."""
        story = await Story.of(ca)
        written = Identifier(IdentifierType.DNS, "A.LocalHost")
        peer.shown[NAME.value] = showing(challenge_der(written, story.key_authorization))
        assert (await story.outcome())["status"] == "valid"

    async def test_otherwise_it_fails(self, ca: RunningCa, peer: TlsPeer) -> None:
        """Otherwise, it fails: what the server shows to others counts for nothing."""
        story = await Story.of(ca)
        peer.provision(OTHER, story.key_authorization)
        await story.refused("incorrectResponse", "no subjectAltName")

    async def test_another_challenges_answer(self, ca: RunningCa, peer: TlsPeer) -> None:
        """§5: the key authorization binds the answer to this challenge: an earlier certificate shows nothing."""
        earlier = await Story.of(ca)
        peer.provision(NAME, earlier.key_authorization)
        await (await Story.of(ca)).refused("incorrectResponse", "another digest")
        assert (await earlier.outcome())["status"] == "valid"

    async def test_never_a_wildcard(self, ca: RunningCa) -> None:
        """§3: what is shown is "control over a domain name": of one server. RULES §3: never a wildcard."""
        policy = ca.services.orders._challenges
        ca.services.orders._challenges = ChallengePolicy((ChallengeType.HTTP_01, ChallengeType.TLS_ALPN_01))
        try:
            client = await ca.client()
            answer = (await client.order_answer("*.localhost")).refused("rejectedIdentifier", 403)
            assert "no type that suits wildcard names" in answer.body.decode()
        finally:
            ca.services.orders._challenges = policy


class TestSection4:
    async def test_nothing_follows_the_handshake(self, peer: TlsPeer) -> None:
        """Once the handshake is completed, the client MUST NOT exchange any further data with the server and MUST immediately
        close the connection. §3: "Once the TLS handshake has been completed, the connection MUST be immediately closed".
        """
        peer.provision(NAME, "t.t")
        validator = TlsAlpn01Validator(_dialler(Hosts(a_localhost=[["127.0.0.1"]])), port=peer.port)
        assert (await validator.observe(NAME)).failure is None
        if peer._tasks:
            await asyncio.wait(peer._tasks, timeout=5)  # the server has read to the end
        assert not peer._tasks
        assert peer.received == b""

    async def test_no_valid_certificate_is_asked_for(self, ca: RunningCa, peer: TlsPeer) -> None:
        """It does not use the authentication method described in [RFC5280]. (Ours is self-signed, for another name, and over.)"""
        story = await Story.of(ca)
        peer.provision(NAME, story.key_authorization)
        assert (await story.outcome())["status"] == "valid"


def _dialler(resolver: Hosts) -> Dialler:
    networks = Config.model_validate(
        {
            "server": {"base_url": "https://ca.internal", "status_url": "http://ca.internal"},
            "policy": {"allowed_names": ["*.localhost"]},
            "validation": {"allowed_networks": ["127.0.0.0/8"]},
        }
    ).validation.allowed_networks
    return Dialler(resolver=resolver, allowed_networks=networks, own_endpoints=tuple, own_urls=())
