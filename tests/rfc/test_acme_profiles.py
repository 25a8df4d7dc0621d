"""draft-ietf-acme-profiles-00: what a server MUST and SHOULD, and each shipped profile from newOrder to the certificate."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.acme_client import Issued
from tests.support.csrs import shared_key
from tests.support.server import RunningCa, Site, ca_site, running_ca

DAY: Final = timedelta(days=1)
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH

# What the site in this file has beside the shipped profiles.
PROFILES: Final[dict[str, dict[str, Any]]] = {
    "staple": {"must_staple": True, "description": "https://wiki.localhost/ca#staple"},
    "team": {"allowed_names": ["*.team.localhost"], "organization": "Example GmbH", "organizational_unit": "Köln"},
    "hosts": {"allowed_networks": ["127.0.0.0/16"]},
}


# What a refused order must not leave behind.
MADE: Final = ("orders", "authorizations", "order_authorizations", "profiles", "certificates")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ca() -> AsyncIterator[RunningCa]:
    async with running_ca(profiles=PROFILES) as ca:
        yield ca


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    async with ca_site(profiles=PROFILES) as site:
        await site.init()
        yield site


def usages(issued: Issued) -> list[x509.ObjectIdentifier]:
    return list(issued.leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def subject(issued: Issued) -> list[tuple[x509.ObjectIdentifier, str | bytes]]:
    return [(attribute.oid, attribute.value) for attribute in issued.leaf.subject]


# --- §3: the directory ---------------------------------------------------------------------------------------------------


class TestDirectory:
    async def test_profiles_are_in_meta(self, ca: RunningCa) -> None:
        """§3: "An ACME Server which wishes to allow Clients to select profiles MUST include a new field, `profiles`, in the `meta`
        field of its Directory object." "A map of profile names to human-readable descriptions of those profiles."
        """
        client = await ca.client()
        profiles = client.directory["meta"]["profiles"]
        assert list(profiles) == ["server", "short", "client", "kubernetes", *PROFILES]
        assert all(isinstance(description, str) and description for description in profiles.values())

    async def test_a_description_may_be_a_url(self, ca: RunningCa) -> None:
        """§3: "they might be prose descriptions of the properties of the profile, or they might be URLs"."""
        profiles = (await ca.client()).directory["meta"]["profiles"]
        assert profiles["staple"] == PROFILES["staple"]["description"]
        assert profiles["short"] == "TLS server, 1d"

    async def test_one_that_is_switched_off_is_not_in_it(self, site: Site) -> None:
        site.reconfigure(profiles={"kubernetes": {"enabled": False}})
        async with site.running() as ca:
            client = await ca.client()
            assert "kubernetes" not in client.directory["meta"]["profiles"]
            (await client.order_answer("a.localhost", profile="kubernetes")).refused("invalidProfile", 400)


# --- §4: orders ------------------------------------------------------------------------------------------------------------


class TestNewOrder:
    async def test_the_order_says_which(self, ca: RunningCa) -> None:
        """§4: "If it accepts the request, the server responds with an Order object including the selected profile." """
        client = await ca.client()
        for profile in client.directory["meta"]["profiles"]:
            name = "a.team.localhost" if profile != "hosts" else None
            names, ips = ((name,), ()) if name else ((), ("127.0.0.7",))
            order = await client.new_order(*names, ips=ips, profile=profile)
            assert order.document["profile"] == profile
            assert (await client.order(order.url)).document["profile"] == profile

    async def test_without_a_wish_the_server_selects_one(self, ca: RunningCa) -> None:
        """§4: "If the server is advertizing profiles and receives a newOrder request which does not identify a specific profile, it is
        RECOMMENDED that the server select a profile and associate it with the new Order object."
        """
        client = await ca.client()
        assert (await client.new_order("a.localhost")).document["profile"] == "server"
        assert (await client.new_order("a.localhost", profile=None)).document["profile"] == "server"

    async def test_the_default_is_configured(self, site: Site) -> None:
        site.reconfigure(policy={"default_profile": "short"})
        async with site.running() as ca:
            client = await ca.client()
            issued = await client.issue("a.localhost")
            assert issued.order.document["profile"] == "short"
            assert issued.leaf.not_valid_after_utc - issued.leaf.not_valid_before_utc < DAY

    @pytest.mark.parametrize(
        "profile", ["web", "Server", "SERVER", "server ", "\u017ferver", "listener", "ocsp-responder", "\x00"]
    )
    async def test_one_that_is_not_advertised(self, ca: RunningCa, profile: str) -> None:
        """§4: "If the server receives a newOrder request specifying a profile that it is not advertising … it MUST reject the request
        with a problem document of type "invalidProfile"". Names are keys of a JSON object: their case counts.
        """
        client = await ca.client()
        before = await ca.counts()
        answer = (await client.order_answer("a.localhost", profile=profile)).refused("invalidProfile", 400)
        assert "use server or short or client or kubernetes" in answer.detail
        after = await ca.counts()
        assert after["audit"] == before["audit"] + 1  # RULES §6: every refusal is written down
        assert [after[table] for table in MADE] == [before[table] for table in MADE]

    @pytest.mark.parametrize("profile", [1, True, [], {}, ["server"], "", "x" * 257])
    async def test_what_is_no_name_at_all(self, ca: RunningCa, profile: object) -> None:
        """§4: "`profile` (string, optional)"."""
        client = await ca.client()
        assert "profile" in (await client.order_answer("a.localhost", profile=profile)).refused("malformed", 400).detail

    async def test_one_that_does_not_go_with_the_names(self, ca: RunningCa) -> None:
        """§4: "or specifying a profile which is incompatible with the rest of the contents of the request … it MUST reject the request
        with a problem document of type "invalidProfile""; each name at fault has its subproblem, and there is no other.
        """
        client = await ca.client()
        answer = await client.order_answer(
            "a.team.localhost", "b.localhost", "team.localhost", ips=("127.0.0.1",), profile="team"
        )
        answer.refused("invalidProfile", 400)
        told = [item["identifier"]["value"] for item in answer.json["subproblems"]]
        assert told == ["b.localhost", "team.localhost", "127.0.0.1"]
        assert "profiles.team.allowed_names, which allows *.team.localhost" in answer.json["subproblems"][0]["detail"]
        assert "identifier" not in answer.json, "RFC 8555 §6.7.1"
        assert "b.localhost" in (await ca.events("order.refused"))[-1]
        hosts = (await client.order_answer("a.localhost", ips=("127.0.0.1", "127.1.0.1"), profile="hosts")).json
        assert [item["identifier"]["value"] for item in hosts["subproblems"]] == ["a.localhost", "127.1.0.1"]

    async def test_a_name_that_nobody_gets(self, ca: RunningCa) -> None:
        """It is not the profile that is wrong then."""
        client = await ca.client()
        answer = await client.order_answer("a.team.localhost", "evil.example", "b.localhost", profile="team")
        answer.refused("rejectedIdentifier", 403)
        told = [item["identifier"]["value"] for item in answer.json["subproblems"]]
        assert told == ["evil.example", "b.localhost"]

    async def test_a_narrow_default(self, site: Site) -> None:
        """Who asked for no profile is told of the names."""
        site.reconfigure(policy={"default_profile": "team"})
        async with site.running() as ca:
            answer = await (await ca.client()).order_answer("a.localhost", "b.localhost")
            answer.refused("rejectedIdentifier", 403)
            assert len(answer.json["subproblems"]) == 2

    async def test_never_wider(self, site: Site) -> None:
        """A profile narrows: what policy forbids meanwhile, its names allow in vain."""
        async with site.running() as ca:
            client = await ca.client()
        site.reconfigure(
            policy={"allowed_names": ["a.team.localhost"]}, profiles={"team": {"allowed_names": ["a.team.localhost"]}}
        )
        async with site.running() as ca:
            again = await ca.client(client.key)
            (await again.order_answer("b.team.localhost", profile="team")).refused("rejectedIdentifier", 403)

    async def test_the_challenges_are_the_profiles(self, site: Site) -> None:
        """Only what the profile names is offered; a name for which nothing of it suits is not compatible with it."""
        site.reconfigure(
            validation={"challenges": ["http-01", "tls-alpn-01", "dns-01"]},
            profiles={"alpn": {"challenges": ["tls-alpn-01"]}, "dns": {"challenges": ["dns-01"]}},
        )
        async with site.running() as ca:
            client = await ca.client()
            for profile, types in (
                ("server", ["http-01", "tls-alpn-01", "dns-01"]),
                ("alpn", ["tls-alpn-01"]),
                ("dns", ["dns-01"]),
            ):
                order = await client.new_order("a.localhost", profile=profile)
                authorization = await client.authorization(order.authorizations[0])
                assert [challenge["type"] for challenge in authorization["challenges"]] == types
            answer = await client.order_answer("a.localhost", ips=("127.0.0.1",), profile="dns")
            answer.refused("invalidProfile", 400)
            (told,) = answer.json["subproblems"]
            assert told["identifier"] == {"type": "ip", "value": "127.0.0.1"}
            assert "profiles.dns.challenges has no type that suits IP addresses" in told["detail"]


class TestFinalize:
    async def test_of_a_profile_that_is_gone(self, site: Site) -> None:
        """§4: "If a server receives a request to finalize an Order whose profile the CA is no longer willing to issue under, it MUST
        respond with a problem document of type "invalidProfile"."
        """
        async with site.running() as ca:
            client = await ca.client()
            order = await client.ready_order("a.localhost", profile="staple")
        site.reconfigure(profiles={"staple": {"enabled": False}})
        async with site.running() as ca:
            again = await ca.client(client.key)
            answer = (await again.finalize(order)).refused("invalidProfile", 400)
            assert "make a new order with server or short" in answer.detail
            assert (await again.order(order.url)).document["profile"] == "staple"

    async def test_nothing_of_the_csr_counts(self, ca: RunningCa) -> None:
        """§5: "making the contents of the CSR (beyond the Subject Alternative Names and Subject Public Key) irrelevant"; a common name
        there may be any of the order's, and is not the one that is taken.
        """
        client = await ca.client()
        order = await client.ready_order("a.localhost", "b.localhost", profile="client")
        (await client.finalize(order, order.csr(common_name="b.localhost"))).ok()
        leaf, *_ = await client.download(await client.order(order.url))
        assert leaf.subject.rfc4514_string() == "CN=a.localhost"


# --- what comes out --------------------------------------------------------------------------------------------------------


class TestShipped:
    """Each profile that is there without configuration, over the real server."""

    @pytest.mark.parametrize(
        ("profile", "lifetime", "purposes", "has_common_name"),
        [
            ("server", 90 * DAY, [SERVER], False),
            ("short", DAY, [SERVER], False),
            ("client", 90 * DAY, [CLIENT], True),
            ("kubernetes", 90 * DAY, [SERVER, CLIENT], True),
        ],
    )
    async def test_the_certificate(
        self,
        ca: RunningCa,
        profile: str,
        lifetime: timedelta,
        purposes: list[x509.ObjectIdentifier],
        has_common_name: bool,  # noqa: FBT001  (a column of the table)
    ) -> None:
        client = await ca.client()
        issued = await client.issue("b.localhost", "a.localhost", members={"profile": profile})
        leaf = issued.leaf
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == lifetime - timedelta(seconds=1)
        assert usages(issued) == purposes
        # The first name of the order, which is not the first of the alphabet; without a subject the names are critical.
        assert subject(issued) == ([(NameOID.COMMON_NAME, "b.localhost")] if has_common_name else [])
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        assert san.critical is not has_common_name
        assert san.value.get_values_for_type(x509.DNSName) == ["b.localhost", "a.localhost"]
        assert issued.order.document["profile"] == profile
        shown = await ca.services.certificates.by_serial(f"{issued.serial:034x}")
        assert shown.profile == profile

    @pytest.mark.parametrize(("profile", "enciphers"), [("server", True), ("client", False), ("kubernetes", True)])
    async def test_an_rsa_key(self, ca: RunningCa, profile: str, enciphers: bool) -> None:  # noqa: FBT001  (as above)
        """keyEncipherment is for a TLS server's RSA key."""
        client = await ca.client()
        issued = await client.issue("a.localhost", key=shared_key("RSA"), members={"profile": profile})
        usage = issued.leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.digital_signature, usage.key_encipherment) == (True, enciphers)

    async def test_openssl_takes_each_for_its_purpose_alone(self, ca: RunningCa, tmp_path: Any) -> None:
        """`openssl verify -purpose`: a server's certificate is none for a client, and the other way round."""
        client = await ca.client()
        root = tmp_path / "root.pem"
        root.write_bytes(ca.root.certificate.public_bytes(Encoding.PEM))
        good = {
            "server": {"sslserver"},
            "short": {"sslserver"},
            "client": {"sslclient"},
            "kubernetes": {"sslserver", "sslclient"},
        }
        for profile, purposes in good.items():
            issued = await client.issue("a.localhost", members={"profile": profile})
            chain = tmp_path / f"{profile}.pem"
            chain.write_bytes(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in issued.chain))
            for purpose in ("sslserver", "sslclient"):
                done = await asyncio.to_thread(
                    subprocess.run,
                    ["openssl", "verify", "-purpose", purpose, "-CAfile", root, "-untrusted", chain, chain],
                    capture_output=True,
                    check=False,
                )
                assert (done.returncode == 0) is (purpose in purposes), (profile, purpose, done)


class TestSubject:
    async def test_fixed_parts(self, ca: RunningCa) -> None:
        """O and OU stand in every subject, in front of a common name; with them the names are not critical (RFC 5280 §4.1.2.6)."""
        client = await ca.client()
        issued = await client.issue("a.team.localhost", members={"profile": "team"})
        assert subject(issued) == [
            (NameOID.ORGANIZATION_NAME, "Example GmbH"),
            (NameOID.ORGANIZATIONAL_UNIT_NAME, "Köln"),
        ]
        assert not issued.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical

    async def test_a_name_that_is_too_long(self, ca: RunningCa) -> None:
        """RFC 5280 appendix A.1: ub-common-name is 64: the first name that fits, or none, and the names are critical then."""
        client = await ca.client()
        long = "x" * 60 + ".localhost"
        issued = await client.issue(long, "b.localhost", members={"profile": "client"})
        assert subject(issued) == [(NameOID.COMMON_NAME, "b.localhost")]
        issued = await client.issue(long, members={"profile": "client"})
        assert subject(issued) == []
        assert issued.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical

    async def test_an_address_is_none(self, ca: RunningCa) -> None:
        client = await ca.client()
        issued = await client.issue(ips=("127.0.0.1",), members={"profile": "client"})
        assert subject(issued) == []


class TestMustStaple:
    """RFC 7633."""

    async def test_in_the_certificate(self, ca: RunningCa, tmp_path: Any) -> None:
        """The TLS feature status_request alone, not critical; read by cryptography, by openssl, and octet by octet."""
        client = await ca.client()
        issued = await client.issue("a.localhost", members={"profile": "staple"})
        extension = issued.leaf.extensions.get_extension_for_class(x509.TLSFeature)
        assert list(extension.value) == [x509.TLSFeatureType.status_request]
        assert not extension.critical
        assert bytes.fromhex("06082b0601050507011804053003020105") in issued.der
        path = tmp_path / "leaf.pem"
        path.write_bytes(issued.leaf.public_bytes(Encoding.PEM))
        done = await asyncio.to_thread(
            subprocess.run,
            ["openssl", "x509", "-in", path, "-noout", "-text"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "TLS Feature: \n                status_request" in done.stdout

    async def test_nowhere_else(self, ca: RunningCa) -> None:
        client = await ca.client()
        issued = await client.issue("a.localhost")
        with pytest.raises(x509.ExtensionNotFound):
            issued.leaf.extensions.get_extension_for_class(x509.TLSFeature)

    async def test_it_can_be_stapled(self, ca: RunningCa) -> None:
        """What a certificate obliges its server to, this CA makes possible: there is an answer to staple."""
        issued = await (await ca.client()).issue("a.localhost", members={"profile": "staple"})
        assert await ca.relying_party().status(issued.serial) == "GOOD"


# --- races -------------------------------------------------------------------------------------------------------------------


async def test_fifty_orders_of_every_profile_at_once(ca: RunningCa) -> None:
    """None gets another one's certificate."""
    client = await ca.client()
    names = ["server", "short", "client", "kubernetes", "staple"]
    issued = await asyncio.gather(
        *(client.issue(f"n{number}.localhost", members={"profile": names[number % 5]}) for number in range(50))
    )
    for number, one in enumerate(issued):
        profile = names[number % 5]
        assert one.order.document["profile"] == profile
        assert usages(one) == {"client": [CLIENT], "kubernetes": [SERVER, CLIENT]}.get(profile, [SERVER])
        assert (profile == "staple") is any(
            item.oid.dotted_string == "1.3.6.1.5.5.7.1.24" for item in one.leaf.extensions
        )
    serials = {f"{one.serial:034x}" for one in issued}
    rows = await ca.rows(
        "SELECT c.serial, c.profile, p.document FROM certificates c JOIN profiles p ON p.id = c.profile_id AND p.name = c.profile"
    )
    assert serials <= {row["serial"] for row in rows}
    assert all(json.loads(row["document"])["name"] == row["profile"] for row in rows)
