"""http-01 against peers on loopback: good ones, broken ones, and hostile ones."""

import asyncio
import contextlib
import gzip
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable, Collection
from ipaddress import IPv4Address, ip_network

import dns.rcode
import pytest
import uvloop

from acmeca.acme.http01 import Http01Observation, judge_http01
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.observations import FailureKind
from acmeca.acme.problem import ProblemType
from acmeca.errors import Busy
from acmeca.validation.dialler import Dialler, Limits
from acmeca.validation.http01 import Http01Validator
from acmeca.validation.networks import EXHAUSTED, Endpoint, IPAddress
from acmeca.validation.resolver import LoopbackNames, Resolver
from acmeca.validation.turns import Patience
from tests.support.dns_peer import Behaviour, dns_peer, holds, patience, resolver_of, says, silence
from tests.support.hosts import Hosts
from tests.support.http_peer import (
    Answer,
    Connection,
    HttpPeer,
    hanging_port,
    has_ipv6_loopback,
    http_peer,
    ok,
    open_sockets,
    redirect,
    refusing_port,
    self_signed_tls,
    tokens,
    twin_peers,
)

TOKEN = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
EXPECTED = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
GOOD = tokens({TOKEN: EXPECTED})
NAME = Identifier(IdentifierType.DNS, "www.corp.internal")
LOOPBACK = ("127.0.0.0/8", "::1/128")
needs_ipv6 = pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no ::1")


def at(*addresses: str) -> Hosts:
    return Hosts(www_corp_internal=[list(addresses)])


def validator(
    port: int,
    resolver: Resolver | None = None,
    *,
    https_port: int = 443,
    networks: tuple[str, ...] = LOOPBACK,
    own: Callable[[], Collection[Endpoint]] = tuple,
    own_urls: tuple[str, ...] = (),
    total_timeout: float = 5.0,
    connect_timeout: float = 2.0,
    wait_timeout: float = 5.0,
) -> Http01Validator:
    dialler = Dialler(
        resolver=resolver or at("127.0.0.1"),
        allowed_networks=tuple(map(ip_network, networks)),
        own_endpoints=own,
        own_urls=own_urls,
        limits=Limits(total=total_timeout, connect=connect_timeout, wait=wait_timeout),
    )
    return Http01Validator(dialler, user_agent="acmeca/test", http_port=port, https_port=https_port)


def kind(observation: Http01Observation) -> FailureKind | None:
    return None if observation.failure is None else observation.failure.kind


def valid(observation: Http01Observation) -> bool:
    problem = judge_http01(observation, expected=EXPECTED)
    assert problem is None or (problem.detail.isascii() and problem.detail.isprintable())
    return problem is None


def detail(observation: Http01Observation, type_: ProblemType) -> str:
    problem = judge_http01(observation, expected=EXPECTED)
    assert problem is not None
    assert problem.type is type_
    return problem.detail


@contextlib.asynccontextmanager
async def asked_of(*answers: Answer) -> AsyncIterator[tuple[Http01Observation, HttpPeer]]:
    """What a validation sees of a peer that gives these answers."""
    async with http_peer(*answers) as peer:
        yield await validator(peer.port).observe(NAME, TOKEN), peer


class TestRequests:
    async def test_the_request_of_the_challenge(self) -> None:
        async with asked_of(GOOD) as (observation, peer):
            assert valid(observation)
            (request,) = peer.requests
            assert request.method == "GET"
            assert request.path == f"/.well-known/acme-challenge/{TOKEN}"
            assert request.header("Host") == f"www.corp.internal:{peer.port}"
            assert request.header("User-Agent") == "acmeca/test"
            assert request.header("Accept-Encoding") == "identity"
            assert request.header("Connection") == "close"
            for absent in ("Cookie", "Authorization", "Referer", "Proxy-Connection", "Via"):
                assert request.header(absent) is None
            assert observation.endpoints_tried == (f"127.0.0.1:{peer.port}",)
            assert observation.url == f"http://www.corp.internal:{peer.port}/.well-known/acme-challenge/{TOKEN}"

    @pytest.mark.parametrize("value", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
    async def test_an_address_is_asked_itself_and_nobody_is_asked_for_it(self, value: str) -> None:
        """RFC 8738 §4: the connection goes to the address, and Host is the address."""
        resolver = Hosts()
        async with http_peer(GOOD, host=value) as peer:
            observation = await validator(peer.port, resolver).observe(Identifier(IdentifierType.IP, value), TOKEN)
            assert valid(observation)
            host = f"[{value}]" if ":" in value else value
            assert peer.requests[0].header("Host") == f"{host}:{peer.port}"
            assert resolver.asked == []

    async def test_a_name_below_localhost_works(self) -> None:
        async with http_peer(GOOD) as peer:
            observation = await validator(peer.port, LoopbackNames(Hosts())).observe(
                Identifier(IdentifierType.DNS, "a.localhost"), TOKEN
            )
            assert valid(observation)

    async def test_the_environments_proxy_is_not_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with http_peer(ok(EXPECTED.encode())) as proxy, http_peer(GOOD) as peer:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url())
            assert valid(await validator(peer.port).observe(NAME, TOKEN))
            assert (proxy.connections, peer.connections) == (0, 1)

    async def test_mistakes_of_the_caller_are_raised(self) -> None:
        with pytest.raises(ValueError, match="wildcard"):
            await validator(80).observe(Identifier(IdentifierType.DNS, "*.corp.internal"), TOKEN)
        with pytest.raises(ValueError, match="base64url"):
            await validator(80).observe(NAME, "../x")


class TestAnswers:
    @pytest.mark.parametrize(
        "answer",
        [
            ok(EXPECTED.encode() + b"\r\n \t\n"),
            ok(EXPECTED.encode(), status="206 Partial"),
            b"HTTP/1.0 200 OK\r\n\r\n" + EXPECTED.encode(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
            % (len(EXPECTED), EXPECTED.encode()),
            b"HTTP/1.1 103 Early Hints\r\n\r\n" + ok(EXPECTED.encode()),
            ok(EXPECTED.encode(), headers=[("Set-Cookie", "a=b")] * 20),
            ok(EXPECTED.encode() + b" " * (1024 - len(EXPECTED))),
        ],
    )
    async def test_valid(self, answer: bytes) -> None:
        async with asked_of(answer) as (observation, _):
            assert valid(observation)

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (ok(b"<html>", status="404 Not Found"), 'status 404 and the body "<html>"'),
            (ok(EXPECTED.encode(), status="500 Oops"), "status 500"),
            (ok(EXPECTED.encode(), status="303 See Other"), "Only redirects by 301, 302, 307 and 308"),
            (ok(b"", status="204 No Content"), "an empty body"),
            (ok(b"x\x1b[31m\r\n\xff"), '"x\\x1b[31m\\x0d\\x0a\\xff"'),
            (ok(gzip.compress(EXPECTED.encode()), headers=[("Content-Encoding", "gzip")]), "compressed"),
            (ok(EXPECTED.encode() + b" " * 1024), "more than 1024 bytes"),
            (b"HTTP/1.1 200 OK\r\n\r\n" + b"A" * 100_000, "more than 1024 bytes"),
            (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 20_000 + b"\r\n\r\n", "longer than 8192 bytes"),
            (b"HTTP/1.1 100 Continue\r\n\r\n" * 4000, "longer than 8192 bytes"),
            (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 'not HTTP/1.x: "SSH-2.0-OpenSSH_9.2'),
            (b"\x15\x03\x01\x00\x02\x02\x46", "not HTTP/1.x"),
        ],
    )
    async def test_incorrect(self, answer: bytes, says: str) -> None:
        async with asked_of(answer) as (observation, peer):
            told = detail(observation, ProblemType.INCORRECT_RESPONSE)
            assert says in told
            assert f"GET http://www.corp.internal:{peer.port}/.well-known/acme-challenge/{TOKEN}" in told
            assert f"at 127.0.0.1:{peer.port}" in told

    @pytest.mark.parametrize(
        "answer",
        [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + EXPECTED.encode()],
    )
    async def test_cut_short(self, answer: bytes) -> None:
        async with asked_of(answer) as (observation, _):
            assert "closed" in detail(observation, ProblemType.CONNECTION)

    async def test_a_reset_is_a_connection_problem(self) -> None:
        async def reset(connection: Connection) -> None:
            connection.reset()

        async with asked_of(reset) as (observation, _):
            assert kind(observation) is FailureKind.CLOSED
            assert "connection reset by peer" in detail(observation, ProblemType.CONNECTION)

    async def test_a_slow_answer_within_the_time_is_read(self) -> None:
        async def drip(connection: Connection) -> None:
            for byte in ok(EXPECTED.encode()):
                await connection.send(bytes([byte]))
                await asyncio.sleep(0)

        async with asked_of(drip) as (observation, _):
            assert valid(observation)

    async def test_an_endless_drip_is_cut_by_the_time(self) -> None:
        async def drip(connection: Connection) -> None:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc")
            await connection.until_closed()

        async with http_peer(drip) as peer:
            observation = await validator(peer.port, total_timeout=0.1).observe(NAME, TOKEN)
        assert kind(observation) is FailureKind.TIMEOUT
        assert (observation.status, observation.body, observation.body_complete) == (200, b"abc", False)
        assert "no complete answer within 0.1 s" in detail(observation, ProblemType.CONNECTION)

    async def test_silence_is_cut_by_the_time(self) -> None:
        async with http_peer(Connection.until_closed) as peer:
            observation = await validator(peer.port, total_timeout=0.1).observe(NAME, TOKEN)
        assert (kind(observation), observation.status) == (FailureKind.TIMEOUT, None)


class TestResolution:
    async def test_a_name_that_does_not_exist(self) -> None:
        observation = await validator(80, Hosts()).observe(NAME, TOKEN)
        told = detail(observation, ProblemType.DNS)
        assert "www.corp.internal cannot be looked up: the test says that it does not exist" in told
        assert observation.endpoints_tried == ()

    @pytest.mark.parametrize(
        ("behaviour", "words"),
        [
            (says(dns.rcode.SERVFAIL), "answered with SERVFAIL"),
            (says(dns.rcode.NXDOMAIN), "does not exist"),
            (silence, "gave no answer"),
        ],
    )
    async def test_dns_failures_are_told_apart(self, behaviour: Behaviour, words: str) -> None:
        async with dns_peer() as peer:
            peer.always(NAME.value, behaviour)
            resolver = resolver_of(peer.server, attempt_timeout=patience(behaviour))
            assert words in detail(await validator(80, resolver).observe(NAME, TOKEN), ProblemType.DNS)

    async def test_a_resolver_that_hangs_is_cut_by_the_time(self) -> None:
        class Hanging:
            async def addresses(self, name: str) -> tuple[IPAddress, ...]:
                await asyncio.Event().wait()
                raise AssertionError

        observation = await validator(80, Hanging(), total_timeout=0.05).observe(NAME, TOKEN)
        assert kind(observation) is FailureKind.TIMEOUT

    async def test_rebinding_a_name_is_resolved_once_and_connected_as_checked(self) -> None:
        """RULES §3: "Resolve once, check every address …, connect to the address that was checked"."""
        async with dns_peer() as names, http_peer(GOOD) as peer:
            names.add(NAME.value, "TXT", '"there"')
            names.script(NAME.value, "A", holds("A", "127.0.0.1"), holds("A", "169.254.169.254"))
            subject = validator(peer.port, resolver_of(names.server))
            assert valid(await subject.observe(NAME, TOKEN))
            assert names.asked(NAME.value, "A") == 1
            rebound = await subject.observe(NAME, TOKEN)
            assert kind(rebound) is FailureKind.NOT_ALLOWED
            assert rebound.endpoints_tried == ()
            assert peer.connections == 1

    async def test_rebinding_between_redirects_is_checked_again(self) -> None:
        resolver = Hosts(www_corp_internal=[["127.0.0.1"], ["10.0.0.1"]])
        async with http_peer(redirect("/again")) as peer:
            observation = await validator(peer.port, resolver).observe(NAME, TOKEN)
            assert kind(observation) is FailureKind.NOT_ALLOWED
            assert resolver.asked == [NAME.value, NAME.value]
            assert len(peer.requests) == 1


class TestAddresses:
    async def test_addresses_that_are_not_allowed_are_dropped(self) -> None:
        """RULES §3: "Addresses that are not allowed are dropped; none left is a problem that names them"."""
        async with http_peer(GOOD) as peer:
            observation = await validator(peer.port, at("fe80::1", "8.8.8.8", "127.0.0.1")).observe(NAME, TOKEN)
            assert valid(observation)
            assert [refused.address for refused in observation.hops[0].refused] == ["fe80::1", "8.8.8.8"]
            assert observation.endpoints_tried == (f"127.0.0.1:{peer.port}",)

    async def test_none_left_names_them_and_the_key(self) -> None:
        observation = await validator(80, at("::ffff:127.0.0.1", "169.254.169.254", "8.8.8.8")).observe(NAME, TOKEN)
        told = detail(observation, ProblemType.CONNECTION)
        for named in ("::ffff:7f00:1 is IPv4-mapped", "169.254.169.254 is link-local", "8.8.8.8 is not in"):
            assert named in told
        assert "validation.allowed_networks" in told
        assert observation.endpoints_tried == ()

    async def test_many_are_counted_behind_the_first_eight(self) -> None:
        observation = await validator(80, at(*(f"8.8.8.{number}" for number in range(32)))).observe(NAME, TOKEN)
        told = detail(observation, ProblemType.CONNECTION)
        assert "8.8.8.7 is not in validation.allowed_networks; and 24 more" in told
        assert "8.8.8.8 " not in told

    @pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
    async def test_loopback_is_not_asked_unless_configured(self, address: str) -> None:
        async with http_peer(GOOD, host=address) as peer:
            subject = validator(peer.port, at(address), networks=("0.0.0.0/0", "::/0"))
            for identifier in (NAME, Identifier(IdentifierType.IP, address)):
                assert kind(await subject.observe(identifier, TOKEN)) is FailureKind.NOT_ALLOWED
            assert peer.connections == 0

    async def test_a_mapped_form_reaches_nobody(self) -> None:
        async with http_peer(GOOD) as peer:
            subject = validator(peer.port, at("::ffff:127.0.0.1"))
            for identifier in (NAME, Identifier(IdentifierType.IP, "::ffff:127.0.0.1")):
                assert kind(await subject.observe(identifier, TOKEN)) is FailureKind.NOT_ALLOWED
            assert peer.connections == 0

    @pytest.mark.parametrize("own", [None, IPv4Address("127.0.0.1")])
    async def test_our_own_listener_is_never_asked(self, own: IPAddress | None) -> None:
        async with http_peer(GOOD) as peer:
            observation = await validator(peer.port, own=lambda: ((own, peer.port),)).observe(NAME, TOKEN)
            assert "127.0.0.1 is a listener of this CA" in detail(observation, ProblemType.CONNECTION)
            assert peer.connections == 0

    @needs_ipv6
    async def test_ipv6_comes_first(self) -> None:
        async with twin_peers([GOOD], [GOOD]) as (six, four):
            observation = await validator(six.port, at("127.0.0.1", "::1")).observe(NAME, TOKEN)
            assert valid(observation)
            assert observation.endpoints_tried == (f"[::1]:{six.port}",)
            assert (six.connections, four.connections) == (1, 0)

    @needs_ipv6
    async def test_ipv4_follows_when_ipv6_refuses_the_connection(self) -> None:
        async with http_peer(GOOD) as peer:
            observation = await validator(peer.port, at("::1", "127.0.0.1")).observe(NAME, TOKEN)
            assert valid(observation)
            assert [(each.endpoint, each.failure) for each in observation.hops[0].attempts] == [
                (f"[::1]:{peer.port}", "connection refused"),
                (f"127.0.0.1:{peer.port}", None),
            ]

    @needs_ipv6
    async def test_ipv4_follows_when_ipv6_is_silent(self) -> None:
        async with http_peer(GOOD) as peer:
            with hanging_port("::1", peer.port):
                subject = validator(peer.port, at("::1", "127.0.0.1"), connect_timeout=0.1)
                observation = await subject.observe(NAME, TOKEN)
        assert valid(observation)
        assert observation.hops[0].attempts[0].failure == "gave no answer within 0.1 s"

    @needs_ipv6
    @pytest.mark.parametrize("answer", [ok(b"no"), ok(b"no", status="500 Oops"), b"", b"SSH-2.0\r\n\r\n"])
    async def test_ipv4_does_not_follow_a_bad_answer(self, answer: bytes) -> None:
        """RULES §3: "IPv4 on connect failure", and on nothing else."""
        async with twin_peers([answer], [GOOD]) as (six, four):
            assert not valid(await validator(six.port, at("::1", "127.0.0.1")).observe(NAME, TOKEN))
            assert four.connections == 0

    async def test_refused_everywhere_names_every_address(self) -> None:
        with refusing_port() as port:
            observation = await validator(port, at("127.0.0.1", "127.0.0.2")).observe(NAME, TOKEN)
        told = detail(observation, ProblemType.CONNECTION)
        assert f"127.0.0.1:{port} connection refused; 127.0.0.2:{port} connection refused" in told

    async def test_an_address_that_drops_packets_is_given_up(self) -> None:
        with hanging_port() as port:
            observation = await validator(port, connect_timeout=0.05).observe(NAME, TOKEN)
        assert "gave no answer within 0.05 s" in detail(observation, ProblemType.CONNECTION)

    async def test_two_addresses_of_a_family_are_tried_and_no_more(self) -> None:
        with refusing_port() as port:
            many = [f"127.0.0.{number}" for number in range(1, 30)]
            observation = await validator(port, at(*many)).observe(NAME, TOKEN)
        assert observation.endpoints_tried == (f"127.0.0.1:{port}", f"127.0.0.2:{port}")


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    async def test_followed_with_the_host_of_the_new_url(self, status: int) -> None:
        resolver = Hosts(www_corp_internal=[["127.0.0.1"]], other_corp_internal=[["127.0.0.1"]])
        async with http_peer(ok(EXPECTED.encode())) as other:
            target = other.url("/x?y=1", host="other.corp.internal")
            async with http_peer(redirect(target, status=status)) as peer:
                subject = validator(peer.port, resolver, https_port=other.port)
                observation = await subject.observe(NAME, TOKEN)
            assert valid(observation)
            assert observation.redirects == (target,)
            assert [hop.status for hop in observation.hops] == [status, 200]
            assert other.requests[0].header("Host") == f"other.corp.internal:{other.port}"
            assert other.requests[0].path == "/x?y=1"

    async def test_relative(self) -> None:
        async with asked_of(redirect("../elsewhere"), ok(EXPECTED.encode())) as (observation, peer):
            assert valid(observation)
            assert peer.requests[1].path == "/.well-known/elsewhere"

    async def test_ten_are_followed(self) -> None:
        async with asked_of(*[redirect(f"/{n}") for n in range(10)], ok(EXPECTED.encode())) as (observation, peer):
            assert valid(observation)
            assert len(peer.requests) == 11

    async def test_eleven_are_not(self) -> None:
        async with asked_of(redirect("/again")) as (observation, peer):
            assert "more than 10 redirects" in detail(observation, ProblemType.INCORRECT_RESPONSE)
            assert len(peer.requests) == 11

    @pytest.mark.parametrize(
        ("location", "says"),
        [
            ("http://www.corp.internal:22/", "only ports"),
            ("file:///etc/passwd", "only http and https"),
            ("gopher://www.corp.internal/", "only http and https"),
            ("http://user:secret@www.corp.internal/", "user information"),
            ("http://0x7f.1/", "neither a host name nor an address"),
            ("http://[::1]x/", "its Location is not a URL"),
        ],
    )
    async def test_refused(self, location: str, says: str) -> None:
        async with asked_of(redirect(location)) as (observation, peer):
            assert kind(observation) is FailureKind.REDIRECT
            assert says in detail(observation, ProblemType.INCORRECT_RESPONSE)
            assert f': "{location}"' in detail(observation, ProblemType.INCORRECT_RESPONSE)
            assert len(peer.requests) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
        ],
    )
    async def test_one_location_is_needed(self, answer: bytes) -> None:
        async with asked_of(answer) as (observation, _):
            assert "Location headers instead of one" in detail(observation, ProblemType.INCORRECT_RESPONSE)

    @pytest.mark.parametrize(
        "location",
        [
            "http://169.254.169.254/latest/meta-data/",
            "http://metadata.corp.internal/",
            "http://[::ffff:169.254.169.254]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[fd00:ec2::254]/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://8.8.8.8/",
        ],
    )
    async def test_to_an_address_that_is_not_allowed(self, location: str) -> None:
        """RULES §3: "re-check on every redirect"."""
        resolver = Hosts(www_corp_internal=[["127.0.0.1"]], metadata_corp_internal=[["169.254.169.254"]])
        async with http_peer(redirect(location)) as peer:
            for networks in (LOOPBACK, (*LOOPBACK, "10.0.0.0/8", "fc00::/7")):
                observation = await validator(peer.port, resolver, networks=networks).observe(NAME, TOKEN)
                assert kind(observation) is FailureKind.NOT_ALLOWED
                assert observation.hops[1].attempts == ()
                assert "after 1 redirect" in detail(observation, ProblemType.CONNECTION)

    async def test_to_our_own_listener(self) -> None:
        async with http_peer(ok(EXPECTED.encode())) as ours:
            for host in ("127.0.0.1", "other.corp.internal"):
                resolver = Hosts(www_corp_internal=[["127.0.0.1"]], other_corp_internal=[["127.0.0.1"]])
                async with http_peer(redirect(ours.url("/admin", host=host))) as peer:
                    subject = validator(peer.port, resolver, https_port=ours.port, own=lambda: ((None, ours.port),))
                    observation = await subject.observe(NAME, TOKEN)
                assert "a listener of this CA" in detail(observation, ProblemType.CONNECTION)
            assert ours.connections == 0

    @pytest.mark.parametrize("host", ["ca.corp.internal", "10.0.0.9", "[fd00::9]"])
    async def test_to_a_url_of_ours(self, host: str) -> None:
        """Behind a proxy or address translation no socket of ours is bound there, and it is a listener of ours still."""
        resolver = Hosts(
            www_corp_internal=[["127.0.0.1"]], ca_corp_internal=[["127.0.0.1"]], at_corp_internal=[["10.0.0.9"]]
        )
        for own_url, location in (
            (f"https://{host}", f"https://{host}/acme/directory"),
            (f"http://{host}", f"http://{host}:80/crl/x.crl"),
            (f"https://{host}:8443", f"http://{host}:8443/"),
        ):
            async with http_peer(redirect(location)) as peer:
                subject = validator(
                    peer.port,
                    resolver,
                    https_port=8443,
                    networks=(*LOOPBACK, "10.0.0.0/8", "fc00::/7"),
                    own_urls=(own_url,),
                )
                observation = await subject.observe(NAME, TOKEN)
            assert "a listener of this CA" in detail(observation, ProblemType.CONNECTION)
            assert observation.hops[1].attempts == ()

    async def test_to_a_name_of_an_address_in_a_url_of_ours(self) -> None:
        resolver = Hosts(www_corp_internal=[["127.0.0.1"]], at_corp_internal=[["10.0.0.9"]])
        async with http_peer(redirect("http://at.corp.internal/")) as peer:
            subject = validator(
                peer.port,
                resolver,
                networks=(*LOOPBACK, "10.0.0.0/8"),
                own_urls=("http://10.0.0.9", "https://a.internal"),
            )
            told = detail(await subject.observe(NAME, TOKEN), ProblemType.CONNECTION)
        assert "10.0.0.9 is a listener of this CA" in told

    async def test_the_first_request_goes_to_no_url_of_ours_either(self) -> None:
        async with http_peer(GOOD) as peer:
            subject = validator(peer.port, own_urls=(f"http://{NAME.value}:{peer.port}",))
            assert "a listener of this CA" in detail(await subject.observe(NAME, TOKEN), ProblemType.CONNECTION)
            assert peer.connections == 0

    async def test_another_port_of_the_host_of_a_url_of_ours_is_asked(self) -> None:
        async with http_peer(GOOD) as peer:
            subject = validator(peer.port, own_urls=(f"https://{NAME.value}", "http://127.0.0.1"))
            assert valid(await subject.observe(NAME, TOKEN))

    @pytest.mark.parametrize(
        "page",
        [
            ok(b"hunter2"),
            ok(b"hunter2", status="404 Not Found"),
            ok(b"hunter2" * 200),
            b"hunter2 is not HTTP\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhunter2\r\n",
            redirect("ftp://x/hunter2"),
            redirect("http://www.corp.internal:22/hunter2"),
            redirect("http://10.0.0.1/hunter2"),
        ],
    )
    async def test_a_page_of_another_host_is_not_read_for_anybody(self, page: bytes) -> None:
        """§10.4; the body, and what else the page says, comes back from the identifier's own host only."""
        resolver = Hosts(www_corp_internal=[["127.0.0.1"]], other_corp_internal=[["127.0.0.1"]])
        async with http_peer(page) as other, http_peer(redirect(other.url("/x", host="other.corp.internal"))) as peer:
            observation = await validator(peer.port, resolver, https_port=other.port).observe(NAME, TOKEN)
            problem = judge_http01(observation, expected=EXPECTED)
            assert len(other.requests) == 1
        assert problem is not None
        assert "hunter2" not in problem.detail
        async with asked_of(redirect("/x"), page) as (observation, _):
            problem = judge_http01(observation, expected=EXPECTED)
        assert problem is not None
        assert "hunter2" in problem.detail, "the own host's is shown"

    async def test_a_name_that_moves_between_two_requests_is_not_read_for_anybody(self) -> None:
        """The holder of a name points it at another machine once its own has answered with a redirect."""
        resolver = Hosts(www_corp_internal=[["127.0.0.1"], ["127.0.0.2"]])
        async with http_peer(redirect("/admin")) as peer, http_peer(ok(b"hunter2"), host="127.0.0.2", port=peer.port):
            observation = await validator(peer.port, resolver).observe(NAME, TOKEN)
        assert observation.hops[1].endpoint == f"127.0.0.2:{peer.port}"
        assert "hunter2" not in detail(observation, ProblemType.INCORRECT_RESPONSE)

    async def test_the_time_is_for_all_of_them(self) -> None:
        async def slow(connection: Connection) -> None:
            await asyncio.sleep(0.04)
            await connection.send(redirect("/again"))

        async with http_peer(slow) as peer:
            observation = await validator(peer.port, total_timeout=0.1).observe(NAME, TOKEN)
        assert kind(observation) is FailureKind.TIMEOUT
        assert 1 <= len(observation.hops) <= 4

    async def test_the_host_of_a_peer_is_cut_in_the_problem(self) -> None:
        host = ".".join(["a" * 60] * 4)
        async with asked_of(redirect(f"http://{host}/")) as (observation, _):
            assert "a" * 60 + ".aaa..." in detail(observation, ProblemType.DNS)
            assert host not in detail(observation, ProblemType.DNS)

    async def test_the_url_of_a_peer_is_escaped_and_cut_in_the_problem(self) -> None:
        long = "/" + "a" * 500 + '"<script>'
        async with asked_of(redirect(long), ok(b"no", status="404 No")) as (observation, _):
            told = detail(observation, ProblemType.INCORRECT_RESPONSE)
            assert "a" * 65 not in told
            assert "<script>" not in told


class TestTls:
    async def test_a_redirect_to_https_with_any_certificate(self) -> None:
        """RULES §3: "certificates on https redirects not verified"."""
        async with http_peer(ok(EXPECTED.encode()), tls=self_signed_tls()) as secure:
            for host in ("www.corp.internal", "127.0.0.1"):
                async with http_peer(redirect(secure.url("/x", scheme="https", host=host))) as peer:
                    observation = await validator(peer.port, https_port=secure.port).observe(NAME, TOKEN)
                assert valid(observation)
                assert observation.redirects[0].startswith("https://")

    async def test_the_name_is_sent_and_an_address_is_not(self) -> None:
        """RFC 6066 §3: "Literal IPv4 and IPv6 addresses are not permitted in "HostName"."""
        context = self_signed_tls()
        names: list[str | None] = []

        def note(_: object, name: str | None, __: object) -> None:
            names.append(name)

        context.sni_callback = note
        async with http_peer(ok(EXPECTED.encode()), tls=context) as secure:
            for host in ("www.corp.internal", "127.0.0.1"):
                async with http_peer(redirect(secure.url("/x", scheme="https", host=host))) as peer:
                    await validator(peer.port, https_port=secure.port).observe(NAME, TOKEN)
        assert names == ["www.corp.internal", None]

    @pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 plain http\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28"])
    async def test_no_tls_there(self, answer: bytes) -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(64)
            writer.write(answer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with http_peer(redirect(f"https://www.corp.internal:{port}/")) as peer:
                observation = await validator(peer.port, https_port=port).observe(NAME, TOKEN)
        assert "TLS handshake failed" in detail(observation, ProblemType.TLS)

    async def test_a_handshake_that_hangs(self) -> None:
        closed: asyncio.Queue[None] = asyncio.Queue()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while await reader.read(1024):
                    pass
            writer.transport.abort()
            closed.put_nowait(None)

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with http_peer(redirect(f"https://www.corp.internal:{port}/")) as peer:
                subject = validator(peer.port, https_port=port, connect_timeout=0.1)
                observation = await subject.observe(NAME, TOKEN)
                assert "gave no answer within 0.1 s" in detail(observation, ProblemType.TLS)
                subject = validator(peer.port, https_port=port, total_timeout=0.1)
                assert kind(await subject.observe(NAME, TOKEN)) is FailureKind.TIMEOUT
            for _ in range(2):
                await closed.get()


class Crowd:
    """A peer's script that lets nobody go until `size` are there, and knows how many there ever were at once."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._full = asyncio.Event()
        self.now = self.most = 0

    async def __call__(self, connection: Connection) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self._size:
            self._full.set()
        await self._full.wait()
        self.now -= 1
        await GOOD(connection)


ADDRESS = IPv4Address("127.0.0.1")


@contextlib.asynccontextmanager
async def crowded(subject: Http01Validator, count: int = 16) -> AsyncIterator[contextlib.AsyncExitStack]:
    """While it lasts, `count` connections to 127.0.0.1 are taken; closing what is yielded gives them back."""
    async with asyncio.timeout(None) as forever, contextlib.AsyncExitStack() as taken:
        for _ in range(count):
            await taken.enter_async_context(subject._dialler._turns.turn(ADDRESS, Patience(forever, 1)))
        yield taken


class TestPerTarget:
    """RULES §3: "per-target limits"."""

    async def test_a_hundred_names_at_one_address_make_sixteen_connections(self) -> None:
        class Everywhere:
            async def addresses(self, name: str) -> tuple[IPAddress, ...]:
                return (ADDRESS,)

        names = [Identifier(IdentifierType.DNS, f"host{number}.corp.internal") for number in range(100)]
        crowd = Crowd(16)
        async with http_peer(crowd) as peer:
            subject = validator(peer.port, Everywhere(), total_timeout=20, wait_timeout=20)
            observations = await asyncio.gather(*(subject.observe(name, TOKEN) for name in names))
            assert all(valid(observation) for observation in observations)
            assert peer.connections == 100
        assert crowd.most == 16
        assert subject._dialler._turns._addresses == {}

    async def test_the_time_of_waiting_is_not_the_peers(self) -> None:
        async with http_peer(GOOD) as peer:
            subject = validator(peer.port, total_timeout=0.2)
            async with crowded(subject) as taken:
                task = asyncio.create_task(subject.observe(NAME, TOKEN))
                await asyncio.sleep(0.5)  # longer than the peer's time: were it running, it would be over
                assert not task.done()
                assert peer.connections == 0
                await taken.aclose()
                assert valid(await task)

    async def test_the_time_of_the_peer_goes_on_afterwards(self) -> None:
        async with http_peer(Connection.until_closed) as peer:
            subject = validator(peer.port, total_timeout=0.1)
            async with crowded(subject) as taken:
                task = asyncio.create_task(subject.observe(NAME, TOKEN))
                await asyncio.sleep(0.2)
                await taken.aclose()
                assert kind(await task) is FailureKind.TIMEOUT

    async def test_who_waits_too_long_is_told_to_try_again(self) -> None:
        """No observation, so that nothing final comes of it: the service keeps the job."""
        async with http_peer(GOOD) as peer:
            subject = validator(peer.port, wait_timeout=0.05)
            async with crowded(subject):
                with pytest.raises(Busy, match=r"16 connections to 127[.]0[.]0[.]1 are open already"):
                    await subject.observe(NAME, TOKEN)
            assert peer.connections == 0
            assert valid(await subject.observe(NAME, TOKEN))

    async def test_another_address_is_asked_meanwhile(self) -> None:
        async with http_peer(GOOD, host="127.0.0.2") as peer:
            subject = validator(peer.port, at("127.0.0.2"))
            async with crowded(subject):
                assert valid(await subject.observe(NAME, TOKEN))

    async def test_a_redirect_to_the_same_address_needs_no_second_turn(self) -> None:
        async with http_peer(redirect("/x"), ok(EXPECTED.encode())) as peer:
            subject = validator(peer.port)
            async with crowded(subject, 15):
                assert valid(await subject.observe(NAME, TOKEN))

    @pytest.mark.parametrize("answer", [GOOD, b"", b"SSH-2.0\r\n\r\n", redirect("/again"), Connection.until_closed])
    async def test_turns_come_back_whatever_the_answer(self, answer: Answer) -> None:
        async with http_peer(answer) as peer:
            subject = validator(peer.port, total_timeout=0.2)
            await asyncio.gather(*(subject.observe(NAME, TOKEN) for _ in range(20)))
        assert subject._dialler._turns._addresses == {}

    async def test_turns_come_back_without_a_connection(self) -> None:
        for place in (refusing_port, hanging_port):
            with place() as port:
                subject = validator(port, connect_timeout=0.05)
                assert kind(await subject.observe(NAME, TOKEN)) is FailureKind.CONNECT
            assert subject._dialler._turns._addresses == {}

    async def test_turns_come_back_when_cancelled(self) -> None:
        taken = asyncio.Event()

        async def hang(connection: Connection) -> None:
            if peer.connections == 16:
                taken.set()
            await connection.until_closed()

        async with http_peer(hang) as peer:
            subject = validator(peer.port)
            tasks = [asyncio.create_task(subject.observe(NAME, TOKEN)) for _ in range(20)]
            await taken.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert subject._dialler._turns._addresses == {}


async def settled(count: int) -> bool:
    """Wait, a second at most, until this process holds no more than `count` sockets: the peers close theirs in their time."""
    for _ in range(100):
        if open_sockets() <= count:
            return True
        await asyncio.sleep(0.01)
    return False


class TestResources:
    async def test_a_hundred_at_once_leak_no_socket(self) -> None:
        async def hang(connection: Connection) -> None:
            await connection.until_closed()

        async def reset(connection: Connection) -> None:
            connection.reset()

        before = open_sockets()
        context = self_signed_tls()
        async with (
            http_peer(ok(EXPECTED.encode()), tls=context) as secure,
            http_peer(GOOD) as good,
            http_peer(hang) as hanging,
            http_peer(reset) as resetting,
            http_peer(redirect(secure.url("/x", scheme="https"))) as away,
            http_peer(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000) as loud,
        ):
            listening = open_sockets()
            peers = (good, hanging, resetting, away, loud)
            subjects = [validator(peer.port, https_port=secure.port, total_timeout=1.0) for peer in peers]
            observations = await asyncio.gather(*(subjects[n % 5].observe(NAME, TOKEN) for n in range(100)))
            assert [valid(each) for each in observations] == [n % 5 in {0, 3} for n in range(100)]
            assert {kind(each) for each in observations[1::5]} == {FailureKind.TIMEOUT}
            assert listening > before
        assert await settled(before)

    async def test_the_socket_is_closed_when_observe_returns(self) -> None:
        """Rule 3. The peer keeps its side open, so what goes away is ours."""

        async def keep(connection: Connection) -> None:
            await connection.send(ok(EXPECTED.encode()))
            await asyncio.Event().wait()

        async with http_peer(keep) as peer:
            before = open_sockets()
            assert valid(await validator(peer.port).observe(NAME, TOKEN))
            assert open_sockets() == before + 1, "only the peer's own side is left"

    async def test_cancellation_passes_and_closes(self) -> None:
        gone = asyncio.Event()
        asked = asyncio.Event()

        async def hang(connection: Connection) -> None:
            asked.set()
            await connection.until_closed()
            gone.set()

        async with http_peer(hang) as peer:
            task = asyncio.create_task(validator(peer.port).observe(NAME, TOKEN))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await gone.wait()

    async def test_cancellation_while_connecting(self) -> None:
        with hanging_port() as port:
            held = open_sockets()
            task = asyncio.create_task(validator(port).observe(NAME, TOKEN))
            await asyncio.sleep(0)  # the task runs until it waits for the connection
            assert open_sockets() == held + 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert open_sockets() == held

    @pytest.mark.parametrize("number", sorted(EXHAUSTED))
    async def test_a_machine_out_of_memory_blames_nobody(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rule 2, while reading: the kernel says so here, since no test can make it run out of buffers."""

        async def read(*_: object) -> bytes:
            raise OSError(number, os.strerror(number))

        async with http_peer(GOOD) as peer:
            before = open_sockets()
            monkeypatch.setattr(asyncio.get_running_loop(), "sock_recv", read)
            with pytest.raises(OSError, match=os.strerror(number)):
                await validator(peer.port).observe(NAME, TOKEN)
            monkeypatch.undo()
            assert await settled(before)

    async def test_a_machine_out_of_sockets_blames_nobody(self) -> None:
        """Rule 2: OSError passes, and the peer gets no problem for it."""
        async with http_peer(GOOD) as peer:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as probe:
                lowest_free = probe.fileno()
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
                with pytest.raises(OSError, match=os.strerror(24)):
                    await validator(peer.port).observe(NAME, TOKEN)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert valid(await validator(peer.port).observe(NAME, TOKEN))

    def test_it_runs_on_uvloop(self) -> None:
        """The server runs on uvloop where there is one; what its sockets and TLS do is its own."""

        async def main() -> None:
            before = open_sockets()
            async with (
                http_peer(ok(EXPECTED.encode()), tls=self_signed_tls()) as secure,
                http_peer(redirect(secure.url("/x", scheme="https"))) as away,
                dns_peer() as names,
            ):
                names.add(NAME.value, "A", "127.0.0.1")
                resolver = resolver_of(names.server)
                listening = open_sockets()
                assert valid(await validator(away.port, resolver, https_port=secure.port).observe(NAME, TOKEN))
                with refusing_port() as port:
                    told = await validator(port, resolver).observe(NAME, TOKEN)
                assert "connection refused" in detail(told, ProblemType.CONNECTION)
                with hanging_port() as port:
                    told = await validator(port, resolver, connect_timeout=0.05).observe(NAME, TOKEN)
                assert "gave no answer within 0.05 s" in detail(told, ProblemType.CONNECTION)
                assert await settled(listening)
            assert await settled(before)

        uvloop.run(main())
