"""RFC 8738, IP identifiers: clause by clause, and from the order to the certificate for both families and both challenges."""

import contextlib
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
import pytest_asyncio
from cryptography import x509

from acmeca.acme.challenges import key_authorization
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.tlsalpn01 import server_name
from acmeca.policy.challenges import ChallengePolicy
from acmeca.validation.networks import IPAddress
from acmeca.validation.targets import build_target
from tests.support.acme_client import AcmeClient
from tests.support.http_peer import HttpPeer, has_ipv6_loopback, http_peer, tokens
from tests.support.server import RunningCa, ca_site
from tests.support.tls_peer import TlsPeer, acme_identifier, certificate_der, general_name, san, showing, tls_peer

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
pytestmark = pytest.mark.asyncio(loop_scope="module")

FAMILIES = [
    pytest.param("127.0.0.1", id="IPv4"),
    pytest.param("::1", id="IPv6", marks=pytest.mark.skipif(not has_ipv6_loopback(), reason="no ::1 here")),
]


class Place:
    """A CA that issues for loopback addresses, and the servers that answer there: on 127.0.0.1 and ::1, at the same ports."""

    def __init__(self, ca: RunningCa, web: dict[str, HttpPeer], tls: dict[str, TlsPeer]) -> None:
        self.ca = ca
        self.web = web
        self.tls = tls


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    networks = ["127.0.0.0/8", "::1/128"]
    async with ca_site(policy={"allowed_networks": networks}) as site, contextlib.AsyncExitStack() as peers:
        web = {"127.0.0.1": await peers.enter_async_context(http_peer(tokens(site.provisioned)))}
        tls = {"127.0.0.1": await peers.enter_async_context(tls_peer())}
        ports = web["127.0.0.1"].port, tls["127.0.0.1"].port
        if has_ipv6_loopback():
            web["::1"] = await peers.enter_async_context(http_peer(tokens(site.provisioned), host="::1", port=ports[0]))
            tls["::1"] = await peers.enter_async_context(tls_peer(host="::1", port=ports[1]))
        site.reconfigure(validation={"allowed_networks": networks, "http_port": ports[0], "tls_alpn_port": ports[1]})
        await site.init()
        async with site.running() as ca:
            yield Place(ca, web, tls)


@pytest_asyncio.fixture(loop_scope="module")
async def client(place: Place) -> AcmeClient:
    return await place.ca.client()


@pytest.fixture(autouse=True)
def nobody_was_seen(place: Place) -> None:
    for web in place.web.values():
        web.requests.clear()
    for tls in place.tls.values():
        tls.server_names.clear()
        tls.shown.clear()


def ip(address: str) -> Identifier:
    return Identifier(IdentifierType.IP, address)


def require_address(leaf: x509.Certificate, address: str) -> None:
    """The certificate is for the address, as an iPAddress, and for nothing else."""
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.IPAddress(ip_address(address))]


class TestSection3:
    @pytest.mark.parametrize(
        "value", ["127.000.0.1", "127.1", "0:0:0:0:0:0:0:1", "::0001", "::1%1", "::ffff:127.0.0.1", "[::1]"]
    )
    async def test_another_spelling(self, client: AcmeClient, value: str) -> None:
        """§3: "The value field of the identifier MUST contain the textual form of the address as defined in Section 2.1 of
        [RFC1123] for IPv4 and in Section 4 of [RFC5952] for IPv6."
        """
        (await client.order_answer(ips=(value,))).refused("malformed", 400)

    @pytest.mark.parametrize("address", FAMILIES)
    async def test_the_authorization(self, client: AcmeClient, address: str) -> None:
        """§3: the server "MUST create an authorization with the identifier type "ip"."""
        order = await client.new_order(ips=(address,))
        authorization = await client.authorization(order.authorizations[0])
        assert authorization["identifier"] == {"type": "ip", "value": address}

    async def test_an_address_is_no_name(self, client: AcmeClient) -> None:
        """An address in an identifier of type "dns" is refused, whatever the policy."""
        (await client.order_answer("127.0.0.1")).refused("malformed", 400)


class TestSection4:
    @pytest.mark.parametrize("address", FAMILIES)
    async def test_what_is_offered(self, client: AcmeClient, address: str) -> None:
        """§4: "IP identifiers MAY be used with the existing "http-01" … and "tls-alpn-01"." §7: "The existing "dns-01" challenge
        MUST NOT be used to validate IP identifiers."
        """
        order = await client.new_order(ips=(address,))
        pending = await client.authorization(order.authorizations[0])
        assert [challenge["type"] for challenge in pending["challenges"]] == ["http-01", "tls-alpn-01"]
        base = order.authorizations[0].replace("/authorization/", "/challenge/")
        (await client.post(f"{base}/dns-01", {})).refused("malformed", 404)

    @pytest.mark.parametrize("address", FAMILIES)
    async def test_http_01_end_to_end(self, place: Place, client: AcmeClient, address: str) -> None:
        """§4: "their initial DNS resolution step MUST be skipped, and the IP address used for validation MUST be the value of the
        identifier". §5: "the Host header field MUST be set to the IP address being used for validation per [RFC7230]".
        """
        issued = await client.issue(ips=(address,))
        (request,) = place.web[address].requests
        shown = f"[{address}]" if ":" in address else address
        assert request.header("Host") == f"{shown}:{place.web[address].port}"
        require_address(issued.chain[0], address)

    @pytest.mark.parametrize("address", FAMILIES)
    async def test_tls_alpn_01_end_to_end(self, place: Place, client: AcmeClient, address: str) -> None:
        """§6: "the subjectAltName extension in the validation certificate MUST contain a single iPAddress that matches the
        address being validated. … the server MUST instead use the IN-ADDR.ARPA [RFC1034] or IP6.ARPA [RFC3596] reverse mapping
        of the IP address as the HostName field value".
        """
        order = await client.new_order(ips=(address,))
        challenge = await client.challenge(order.authorizations[0], "tls-alpn-01")
        place.tls[address].provision(ip(address), key_authorization(challenge["token"], client.key.thumbprint))
        assert (await client.respond(challenge)).json["status"] == "valid"
        assert place.tls[address].server_names == [ip_address(address).reverse_pointer]
        done = (await client.finalize(await client.order(order.url))).ok()
        assert done.json["status"] == "valid"
        chain = await client.download(await client.order(order.url))
        require_address(chain[0], address)
        assert not place.web[address].requests

    async def test_a_name_and_both_addresses_in_one_order(self, place: Place, client: AcmeClient) -> None:
        if not has_ipv6_loopback():
            pytest.skip("no ::1 here")
        issued = await client.issue("a.localhost", ips=("127.0.0.1", "::1"))
        names = issued.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["a.localhost"]
        assert set(map(str, names.get_values_for_type(x509.IPAddress))) == {"127.0.0.1", "::1"}


class TestSection5:
    @pytest.mark.parametrize(
        ("address", "host"), [(IPv4Address("192.0.2.1"), "192.0.2.1"), (IPv6Address("2001:db8::1"), "[2001:db8::1]")]
    )
    async def test_the_host_header(self, address: IPAddress, host: str) -> None:
        """§5: "The textual form of this address MUST be as defined in Section 2.1 of [RFC1123] for IPv4 and in Section 4 of
        [RFC5952] for IPv6."
        """
        target = build_target(Identifier(IdentifierType.IP, str(address)), TOKEN, port=80)
        assert target.authority == host


class TestSection6:
    async def test_the_example(self) -> None:
        """§6: for 2001:db8::1 the SNI HostName field holds its reverse mapping; RFC 6066 §3 has it "without a trailing dot"."""
        identifier = Identifier(IdentifierType.IP, "2001:db8::1")
        assert server_name(identifier) == ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa")
        assert server_name(Identifier(IdentifierType.IP, "192.0.2.1")) == "1.2.0.192.in-addr.arpa"

    @pytest.mark.parametrize("address", FAMILIES)
    async def test_a_name_is_no_address(self, place: Place, client: AcmeClient, address: str) -> None:
        """§6: "MUST contain a single iPAddress": neither the reverse name nor the text of the address will do."""
        for written in (server_name(ip(address)), address):
            order = await client.new_order(ips=(address,))
            challenge = await client.challenge(order.authorizations[0], "tls-alpn-01")
            name = general_name(Identifier(IdentifierType.DNS, written))
            authorized = key_authorization(challenge["token"], client.key.thumbprint)
            shown = certificate_der(san(name), acme_identifier(authorized))
            place.tls[address].shown[server_name(ip(address))] = showing(shown)
            (await client.respond(challenge)).ok()
            invalid = await client.final(order.authorizations[0])
            assert invalid["status"] == "invalid"
            assert "subjectAltName" in invalid["challenges"][0]["error"]["detail"]


class TestPolicy:
    async def test_an_address_that_is_not_allowed(self, client: AcmeClient) -> None:
        """§9.1 leaves it to the CA which addresses it issues for; here a network has to be configured."""
        (await client.order_answer(ips=("10.0.0.1",))).refused("rejectedIdentifier", 403)

    async def test_no_type_is_left(self, place: Place, client: AcmeClient) -> None:
        """§4 knows two challenges: without them an address cannot be validated, and the answer says so."""
        orders = place.ca.services.orders
        policy, orders._challenges = orders._challenges, ChallengePolicy(())
        try:
            answer = (await client.order_answer(ips=("127.0.0.1",))).refused("rejectedIdentifier", 403)
        finally:
            orders._challenges = policy
        assert "http-01 or tls-alpn-01" in answer.body.decode()
