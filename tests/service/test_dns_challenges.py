"""dns-01, dns-account-01 and CAA through the whole server, with a DNS server on loopback for its resolver."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import dns.rcode
import pytest

from tests.support.acme_client import AcmeClient, ClientOrder
from tests.support.dns_peer import DnsPeer, dns_peer, patience, says, silence
from tests.support.server import RunningCa, ca_site, running_ca

ALL = ["http-01", "dns-01", "dns-account-01"]
WEB = "web.corp.internal"
OURS = "ca.corp.internal"
SERVFAIL = says(dns.rcode.SERVFAIL)


def sections(peer: DnsPeer, **changes: Mapping[str, object]) -> dict[str, dict[str, object]]:
    resolvers = [f"127.0.0.1:{peer.port}"]
    base: dict[str, dict[str, object]] = {
        "policy": {"allowed_names": ["*.corp.internal", "a.localhost"], "wildcards": True},
        "validation": {"challenges": ALL, "resolvers": resolvers, "hosts": {WEB: ["127.0.0.1"]}},
    }
    return {name: values | dict(changes.get(name, {})) for name, values in base.items()}


@asynccontextmanager
async def ca_with_dns(**changes: Mapping[str, object]) -> AsyncIterator[tuple[RunningCa, DnsPeer]]:
    async with dns_peer() as peer, running_ca(**sections(peer, **changes)) as ca:
        yield ca, peer


async def shown(client: AcmeClient, peer: DnsPeer, url: str, type_: str = "dns-01") -> dict[str, Any]:
    """The authorization after control was shown by a TXT record."""
    challenge = await client.challenge(url, type_)
    name, value = client.txt_record(challenge, (await client.authorization(url))["identifier"]["value"])
    peer.add(name, "TXT", f'"{value}"')
    (await client.respond(challenge)).ok()
    return await client.final(url)


async def ready(client: AcmeClient, peer: DnsPeer, *names: str, type_: str = "dns-01") -> ClientOrder:
    order = await client.new_order(*names)
    for url in order.authorizations:
        document = await shown(client, peer, url, type_)
        assert document["status"] == "valid", document
    return await client.order(order.url)


def failed(document: Mapping[str, Any], type_: str) -> str:
    """The detail of the error that made an authorization invalid."""
    assert document["status"] == "invalid", document
    (challenge,) = document["challenges"]
    assert challenge["error"]["type"] == f"urn:ietf:params:acme:error:{type_}", challenge
    assert "identifier" not in challenge["error"], "§6.7.1: never at the top level"
    return str(challenge["error"]["detail"])


class TestWildcards:
    async def test_by_dns_and_in_no_other_way(self) -> None:
        """RULES §3: "http-01 and tls-alpn-01 are never offered for, and never satisfy, a wildcard"."""
        async with ca_with_dns() as (ca, peer):
            client = await ca.client()
            order = await client.new_order("*.a.corp.internal")
            (url,) = order.authorizations
            document = await client.authorization(url)
            assert document["identifier"] == {"type": "dns", "value": "a.corp.internal"}
            assert document["wildcard"] is True
            assert [challenge["type"] for challenge in document["challenges"]] == ["dns-01", "dns-account-01"]
            assert all(challenge.keys() == {"type", "url", "status", "token"} for challenge in document["challenges"])
            by_http = document["challenges"][0]["url"].replace("dns-01", "http-01")
            (await client.post(by_http, {})).refused("malformed", 404)
            assert (await shown(client, peer, url))["status"] == "valid"
            answer = (await client.finalize(await client.order(order.url))).ok()
            (leaf, *_) = await client.download(ClientOrder(order.url, answer.json))
            assert "*.a.corp.internal" in str(leaf.extensions)
            assert ca.site.responder.requests == []

    async def test_its_record_is_beside_that_of_the_name_below_it(self) -> None:
        """§8.4: both challenges have the same name, and so two records at it."""
        async with ca_with_dns() as (ca, peer):
            client = await ca.client()
            order = await ready(client, peer, "a.corp.internal", "*.a.corp.internal")
            assert order.status == "ready"
            (await client.finalize(order)).ok()

    async def test_without_a_challenge_of_the_dns_family_it_is_refused(self) -> None:
        async with ca_with_dns(validation={"challenges": ["http-01"]}) as (ca, _):
            client = await ca.client()
            (await client.order_answer("*.a.corp.internal")).refused("rejectedIdentifier", 403)


class TestTypes:
    @pytest.mark.parametrize("type_", ["dns-01", "dns-account-01"])
    async def test_each_shows_control(self, type_: str) -> None:
        async with ca_with_dns() as (ca, peer):
            client = await ca.client()
            order = await ready(client, peer, "a.corp.internal", type_=type_)
            (await client.finalize(order)).ok()
            (event,) = await ca.events("authorization.validated")
            assert f"_acme-challenge.a.corp.internal at 127.0.0.1:{peer.port}" in event
            assert ca.site.responder.requests == []

    async def test_an_account_has_a_name_of_its_own(self) -> None:
        async with ca_with_dns() as (ca, peer):
            one, other = await ca.client(), await ca.client()
            challenge = await one.challenge(
                (await one.new_order("a.corp.internal")).authorizations[0], "dns-account-01"
            )
            name, value = other.txt_record(challenge, "a.corp.internal")
            peer.add(name, "TXT", f'"{value}"')
            (await one.respond(challenge)).ok()
            (question,) = [question for question in peer.questions if question.type == "TXT"]
            assert question.name == one.txt_record(challenge, "a.corp.internal")[0] != name

    async def test_an_address_by_http_alone(self) -> None:
        """RULES §3: "dns-01 never an IP"."""
        async with ca_with_dns() as (ca, _):
            client = await ca.client()
            order = await client.new_order(ips=("127.0.0.1",))
            document = await client.authorization(order.authorizations[0])
            assert [challenge["type"] for challenge in document["challenges"]] == ["http-01"]
        async with ca_with_dns(validation={"challenges": ["dns-01"]}) as (ca, _):
            client = await ca.client()
            (await client.order_answer(ips=("127.0.0.1",))).refused("rejectedIdentifier", 403)

    async def test_a_record_of_another_account_is_told(self) -> None:
        async with ca_with_dns() as (ca, peer):
            one, other = await ca.client(), await ca.client()
            (url,) = (await one.new_order("a.corp.internal")).authorizations
            challenge = await one.challenge(url, "dns-01")
            peer.add(*_as_txt(other.txt_record(challenge, "a.corp.internal")))
            (await one.respond(challenge)).ok()
            assert "by another account key" in failed(await one.final(url), "incorrectResponse")
            (event,) = await ca.events("authorization.failed")
            assert "by another account key" in event

    @pytest.mark.parametrize("type_", ["dns-01", "dns-account-01"])
    async def test_a_missing_record_is_told(self, type_: str) -> None:
        async with ca_with_dns() as (ca, _):
            client = await ca.client()
            (url,) = (await client.new_order("a.corp.internal")).authorizations
            (await client.respond(await client.challenge(url, type_))).ok()
            detail = failed(await client.final(url), "dns")
            assert "does not exist. Check that the ACME client published the record" in detail
            assert (client.account_url in detail) is (type_ == "dns-account-01")

    async def test_an_identifier_that_leaves_no_room_for_the_label_is_told(self) -> None:
        async with ca_with_dns() as (ca, peer):
            client = await ca.client()
            name = ".".join(["x" * 63] * 3 + ["y" * 40]) + ".corp.internal"
            (url,) = (await client.new_order(name)).authorizations
            (await client.respond(await client.challenge(url, "dns-01"))).ok()
            assert "at most 253 characters" in failed(await client.final(url), "dns")
            assert peer.questions == []


class TestAddresses:
    async def test_a_configured_host_needs_no_dns(self) -> None:
        async with ca_with_dns() as (ca, peer):
            client = await ca.client()
            await client.issue(WEB)
            assert peer.questions == []

    async def test_a_configured_host_has_to_be_allowed_all_the_same(self) -> None:
        """The addresses of `validation.hosts` are checked like all others."""
        async with ca_with_dns(validation={"hosts": {WEB: ["169.254.169.254"]}}) as (ca, _):
            client = await ca.client()
            (url,) = (await client.new_order(WEB)).authorizations
            (await client.respond(await client.challenge(url))).ok()
            assert "no address of web.corp.internal is allowed" in failed(await client.final(url), "connection")

    async def test_a_zones_own_resolver_is_asked(self) -> None:
        async with dns_peer() as inside, dns_peer() as outside:
            changed = sections(outside, validation={"zones": {"corp.internal": [f"127.0.0.1:{inside.port}"]}})
            async with running_ca(**changed) as ca:
                client = await ca.client()
                await ready(client, inside, "a.corp.internal")
                inside.add("b.corp.internal", "A", "127.0.0.1")
                await client.issue("b.corp.internal")
                assert outside.questions == []


class TestCaa:
    async def test_the_directory_names_us(self) -> None:
        """§7.1.1: caaIdentities: "The hostnames that the ACME server recognizes as referring to itself for the purposes of CAA
        record validation"."""
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, _):
            assert (await ca.client()).directory["meta"]["caaIdentities"] == [OURS]
        async with ca_with_dns() as (ca, _):
            assert "caaIdentities" not in (await ca.client()).directory["meta"]

    async def test_records_that_name_us(self) -> None:
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, peer):
            peer.add("corp.internal", "CAA", f'0 issue "{OURS}"', '128 iodef "mailto:pki@corp.internal"')
            client = await ca.client()
            await client.issue(WEB)
            asked = [question.name for question in peer.questions]
            assert asked == [WEB, "corp.internal"] * 2, "when control was shown, and again before the certificate"

    async def test_records_that_name_others_forbid(self) -> None:
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, peer):
            peer.add("corp.internal", "CAA", '0 issue "ca.example.net"')
            client = await ca.client()
            order = await client.new_order(WEB, "a.localhost")
            challenge = await client.challenge(order.authorizations[0])
            client.provision(challenge)
            (await client.respond(challenge)).ok()
            detail = failed(await client.final(order.authorizations[0]), "caa")
            assert f'To allow it, publish: corp.internal. CAA 0 issue "{OURS}"' in detail
            assert (await client.order(order.url)).status == "invalid"
            (event,) = await ca.events("authorization.failed")
            assert "CAA records forbid a certificate" in event

    async def test_records_that_changed_since_forbid_the_certificate(self) -> None:
        """RULES and RFC 8657 §5.5: asked again before issuance. The order stays ready, for when they have been mended."""
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, peer):
            client = await ca.client()
            order = await ready(client, peer, "a.corp.internal", "b.corp.internal", "*.b.corp.internal")
            peer.put("b.corp.internal", "CAA", '0 issuewild ";"')
            refused = (await client.finalize(order)).refused("caa", 403)
            (problem,) = refused.json["subproblems"]
            assert problem["identifier"] == {"type": "dns", "value": "*.b.corp.internal"}
            assert (await client.order(order.url)).status == "ready"
            assert "CAA records forbid a certificate" in (await ca.events("issuance.refused"))[0]
            peer.put("b.corp.internal", "CAA")
            (await client.finalize(order)).ok()

    async def test_several_names_that_are_refused_are_each_told(self) -> None:
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, peer):
            client = await ca.client()
            order = await ready(client, peer, "a.corp.internal", "b.corp.internal", "c.corp.internal")
            peer.put("a.corp.internal", "CAA", '0 issue ";"')
            peer.put("c.corp.internal", "CAA", '0 issue ";"')
            refused = (await client.finalize(order)).refused("caa", 403)
            told = [problem["identifier"]["value"] for problem in refused.json["subproblems"]]
            assert told == ["a.corp.internal", "c.corp.internal"]

    @pytest.mark.parametrize("lasting", [SERVFAIL, silence])
    async def test_no_answer_is_no_certificate(self, lasting: Any) -> None:
        """RULES §3: it fails closed."""
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, peer):
            client = await ca.client()
            order = await ready(client, peer, "a.corp.internal")
            asking = ca.services.challenges._further._observer._client  # type: ignore[union-attr]  # so that it is quick
            asking._attempt_timeout, asking._pause = patience(lasting), 0.001
            peer.always("corp.internal", lasting, "CAA")
            (await client.finalize(order)).refused("dns", 400)
            assert (await client.order(order.url)).status == "ready"
            (url,) = (await client.new_order("b.corp.internal")).authorizations
            assert "is not known, so there is none" in failed(await shown(client, peer, url), "dns")

    async def test_accounts_and_methods(self) -> None:
        """RFC 8657."""
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, peer):
            one, other = await ca.client(), await ca.client()
            peer.put(
                "corp.internal", "CAA", f'0 issue "{OURS}; accounturi={one.account_url}; validationmethods=dns-01"'
            )
            order = await ready(one, peer, "a.corp.internal")
            (await one.finalize(order)).ok()
            for client, type_, words in (
                (one, "dns-account-01", "does not allow it by dns-account-01 (validationmethods)"),
                (other, "dns-01", "is for another account than"),
            ):
                (url,) = (await client.new_order("b.corp.internal")).authorizations
                assert words in failed(await shown(client, peer, url, type_), "caa")

    async def test_zones(self) -> None:
        async with ca_with_dns(policy={"caa_identities": [OURS], "caa_zones": ["team.corp.internal"]}) as (ca, peer):
            client = await ca.client()
            peer.put("corp.internal", "CAA", '0 issue ";"')
            for name in ("a.corp.internal", "a.team.corp.internal"):
                (await client.finalize(await ready(client, peer, name))).ok()
            asked = {question.name for question in peer.questions if question.type == "CAA"}
            assert asked == {"a.team.corp.internal", "team.corp.internal"}

    async def test_addresses_have_none(self) -> None:
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, peer):
            client = await ca.client()
            await client.issue(ips=("127.0.0.1",))
            assert peer.questions == []

    async def test_without_an_identity_they_are_not_looked_at(self) -> None:
        async with ca_with_dns() as (ca, peer):
            peer.add("corp.internal", "CAA", '0 issue ";"')
            client = await ca.client()
            (await client.finalize(await ready(client, peer, "a.corp.internal"))).ok()
            assert not [question for question in peer.questions if question.type == "CAA"]

    async def test_switched_on_later_it_counts_for_orders_under_way(self) -> None:
        async with dns_peer() as peer, ca_site(**sections(peer)) as site:
            await site.init()
            async with site.running() as ca:
                client = await ca.client()
                order = await ready(client, peer, "a.corp.internal")
            peer.put("corp.internal", "CAA", '0 issue "ca.example.net"')
            site.reconfigure(policy={"caa_identities": [OURS]})
            async with site.running() as ca:
                again = await ca.client(client.key)
                (await again.finalize(order)).refused("caa", 403)

    async def test_fifty_finalizes_at_once_make_one_certificate(self) -> None:
        async with ca_with_dns(policy={"caa_identities": [OURS]}) as (ca, peer):
            client = await ca.client()
            order = await ready(client, peer, "a.corp.internal")
            answers = await asyncio.gather(*(client.finalize(order) for _ in range(50)))
            assert sorted({answer.status for answer in answers}) == [200, 403]
            assert len([answer for answer in answers if answer.status == 200]) == 1
            assert await ca.scalar("SELECT COUNT(*) AS n FROM certificates WHERE order_id IS NOT NULL") == 1


def _as_txt(record: tuple[str, str]) -> tuple[str, str, str]:
    name, value = record
    return name, "TXT", f'"{value}"'
