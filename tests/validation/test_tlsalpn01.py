"""tls-alpn-01 against peers on loopback: good ones, broken ones, and hostile ones."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from ipaddress import ip_network

import pytest
import uvloop
from cryptography import x509

from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.acme.observations import FailureKind
from acmeca.acme.problem import ProblemType
from acmeca.acme.tlsalpn01 import DNS_NAME, ShownName, TlsAlpn01Observation, judge_tlsalpn01
from acmeca.errors import Busy
from acmeca.validation.dialler import Dialler, Limits
from acmeca.validation.networks import EXHAUSTED, Endpoint
from acmeca.validation.resolver import Resolver
from acmeca.validation.tlsalpn01 import TlsAlpn01Validator
from acmeca.validation.turns import Patience
from tests.support.hosts import Hosts
from tests.support.http_peer import hanging_port, has_ipv6_loopback, open_sockets, refusing_port
from tests.support.server import until
from tests.support.tls_peer import (
    Extension,
    acme_identifier,
    certificate_der,
    challenge_der,
    general_name,
    parse_client_hello,
    san,
    showing,
    tls_peer,
)

EXPECTED = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
NAME = Identifier(IdentifierType.DNS, "www.corp.internal")
LOOPBACK = ("127.0.0.0/8", "::1/128")

needs_ipv6 = pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no ::1")


def validator(
    port: int,
    resolver: Resolver | None = None,
    *,
    networks: tuple[str, ...] = LOOPBACK,
    own: Callable[[], Collection[Endpoint]] = tuple,
    own_urls: tuple[str, ...] = (),
    total: float = 5.0,
    wait: float = 5.0,
) -> TlsAlpn01Validator:
    dialler = Dialler(
        resolver=resolver or at("127.0.0.1"),
        allowed_networks=tuple(map(ip_network, networks)),
        own_endpoints=own,
        own_urls=own_urls,
        limits=Limits(total=total, connect=1.0, wait=wait),
    )
    return TlsAlpn01Validator(dialler, port=port)


def at(*addresses: str) -> Hosts:
    return Hosts(www_corp_internal=[list(addresses)])


def is_valid(observation: TlsAlpn01Observation) -> bool:
    return judge_tlsalpn01(observation, expected=EXPECTED) is None


def detail(observation: TlsAlpn01Observation, type_: ProblemType) -> str:
    problem = judge_tlsalpn01(observation, expected=EXPECTED)
    assert problem is not None
    assert problem.type is type_, problem.detail
    assert problem.detail.isascii()
    assert problem.detail.isprintable()
    return problem.detail


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_peer(script: Script) -> AsyncIterator[int]:
    """A TCP server that does what it is told, for what no TLS library does."""
    tasks = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def serve() -> None:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await script(reader, writer)
            writer.transport.abort()

        task = asyncio.create_task(serve())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def sends(data: bytes) -> Script:
    """Reads what comes first, answers with these bytes, and keeps the connection until the other side ends it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(data)
        await writer.drain()
        while await reader.read(4096):
            pass

    return script


class TestGoodPeers:
    async def test_a_name(self) -> None:
        async with tls_peer() as peer:
            peer.provision(NAME, EXPECTED)
            observation = await validator(peer.port).observe(NAME)
            assert is_valid(observation)
            assert (observation.version, observation.protocol) == ("TLSv1.3", "acme-tls/1")
            assert observation.endpoint == f"127.0.0.1:{peer.port}"
            assert peer.server_names == ["www.corp.internal"]

    @pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
    async def test_an_address_is_its_own(self, address: str) -> None:
        """RFC 8738 §4: "their initial DNS resolution step MUST be skipped"."""
        identifier = Identifier(IdentifierType.IP, address)
        resolver = Hosts()
        async with tls_peer(host=address) as peer:
            peer.provision(identifier, EXPECTED)
            assert is_valid(await validator(peer.port, resolver).observe(identifier))
        assert not resolver.asked

    async def test_tls_1_2(self) -> None:
        context = showing(challenge_der(NAME, EXPECTED))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        async with tls_peer(context) as peer:
            observation = await validator(peer.port).observe(NAME)
            assert observation.version == "TLSv1.2"
            assert is_valid(observation)

    async def test_a_chain_of_several(self) -> None:
        """The first certificate is the server's (RFC 8446 §4.4.2)."""
        chain = (challenge_der(NAME, EXPECTED), certificate_der(san(general_name(NAME))))
        async with tls_peer(showing(*chain)) as peer:
            assert is_valid(await validator(peer.port).observe(NAME))

    async def test_a_name_that_is_an_a_label(self) -> None:
        identifier = Identifier(IdentifierType.DNS, "xn--bcher-kva.corp.internal")
        resolver = Hosts(**{"xn--bcher-kva_corp_internal": [["127.0.0.1"]]})
        async with tls_peer() as peer:
            peer.provision(identifier, EXPECTED)
            assert is_valid(await validator(peer.port, resolver).observe(identifier))

    async def test_a_server_that_has_closed_when_we_send_our_last(self) -> None:
        """In TLS 1.3 all that counts has come by then."""
        async with tls_peer(showing(challenge_der(NAME, EXPECTED))) as peer:
            subject = validator(peer.port)
            loop = asyncio.get_running_loop()
            send, calls = loop.sock_sendall, 0

            async def second_fails(connection: socket.socket, data: bytes) -> None:
                nonlocal calls
                calls += 1
                if calls == 2:
                    raise ConnectionResetError
                await send(connection, data)

            loop.sock_sendall = second_fails  # type: ignore[method-assign]  (no peer can be made to do so at will)
            try:
                assert is_valid(await subject.observe(NAME))
            finally:
                del loop.sock_sendall
            assert calls == 2

    async def test_many_at_once(self) -> None:
        async with tls_peer(showing(challenge_der(NAME, EXPECTED))) as peer:
            subject = validator(peer.port)
            before = open_sockets()
            observations = await asyncio.gather(*(subject.observe(NAME) for _ in range(50)))
            assert all(map(is_valid, observations))
            assert open_sockets() >= before
            assert subject._dialler._turns._addresses == {}

    def test_a_wildcard_is_a_mistake_of_the_caller(self) -> None:
        """RULES §3: tls-alpn-01 never satisfies a wildcard."""
        coroutine = validator(443).observe(Identifier(IdentifierType.DNS, "*.corp.internal"))
        with pytest.raises(ValueError, match="wildcard"):
            coroutine.send(None)

    def test_it_runs_on_uvloop(self) -> None:
        """The server runs on uvloop where there is one; what its sockets do is its own."""

        async def main() -> None:
            async with tls_peer(showing(challenge_der(NAME, EXPECTED))) as peer:
                assert is_valid(await validator(peer.port).observe(NAME))
            async with raw_peer(sends(b"")) as port:
                told = await validator(port, total=0.05).observe(NAME)
                assert "within 0.05 s" in detail(told, ProblemType.CONNECTION)

        uvloop.run(main())


class TestWrongAnswers:
    async def test_a_server_that_knows_other_protocols(self) -> None:
        async with tls_peer(showing(challenge_der(NAME, EXPECTED), protocols=("h2", "http/1.1"))) as peer:
            observation = await validator(peer.port).observe(NAME)
            assert "did not select the protocol" in detail(observation, ProblemType.INCORRECT_RESPONSE)
            assert observation.certificate is None

    async def test_a_server_that_knows_no_protocols(self) -> None:
        """§3, step 4: the right certificate is not enough."""
        async with tls_peer(showing(challenge_der(NAME, EXPECTED), protocols=())) as peer:
            assert "did not select" in detail(await validator(peer.port).observe(NAME), ProblemType.INCORRECT_RESPONSE)

    async def test_another_name(self) -> None:
        other = Identifier(IdentifierType.DNS, "other.corp.internal")
        async with tls_peer(showing(challenge_der(other, EXPECTED))) as peer:
            observation = await validator(peer.port).observe(NAME)
            assert '"other.corp.internal"' in detail(observation, ProblemType.INCORRECT_RESPONSE)

    async def test_another_digest(self) -> None:
        async with tls_peer(showing(challenge_der(NAME, "another.one"))) as peer:
            observation = await validator(peer.port).observe(NAME)
            assert "another digest" in detail(observation, ProblemType.INCORRECT_RESPONSE)

    async def test_not_critical(self) -> None:
        shown = certificate_der(san(general_name(NAME)), acme_identifier(EXPECTED, critical=False))
        async with tls_peer(showing(shown)) as peer:
            assert "not critical" in detail(await validator(peer.port).observe(NAME), ProblemType.INCORRECT_RESPONSE)

    async def test_a_certificate_that_cannot_be_read(self) -> None:
        many = (Extension(x509.ObjectIdentifier(f"1.2.3.{number}"), critical=False, value=b"") for number in range(63))
        broken = certificate_der(*many, san(general_name(NAME)), acme_identifier(EXPECTED))
        async with tls_peer(showing(broken)) as peer:
            observation = await validator(peer.port).observe(NAME)
            assert "certificate cannot be read" in detail(observation, ProblemType.INCORRECT_RESPONSE)

    async def test_a_name_with_a_nul_is_another_name(self) -> None:
        shown = certificate_der(san(b"\x82\x18www.corp.internal\0.evil.x"[:26]), acme_identifier(EXPECTED))
        async with tls_peer(showing(shown)) as peer:
            observation = await validator(peer.port).observe(NAME)
            assert observation.certificate is not None
            assert observation.certificate.names == (ShownName(DNS_NAME, b"www.corp.internal\0.evil.x"[:24]),)
            assert not is_valid(observation)

    async def test_an_older_tls(self) -> None:
        """§4: "MUST only negotiate TLS 1.2 [RFC5246] or higher"."""
        context = showing(challenge_der(NAME, EXPECTED))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of what is tested here
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        async with tls_peer(context) as peer:
            observation = await validator(peer.port).observe(NAME)
            assert not is_valid(observation)
            assert observation.failure is not None
            assert observation.failure.kind in {
                FailureKind.TLS,
                FailureKind.CLOSED,
            }  # with the server's alert, or without


class TestBrokenPeers:
    @pytest.mark.parametrize(
        ("data", "type_", "said"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", ProblemType.TLS, "TLS handshake failed"),
            (b"SSH-2.0-OpenSSH_9.9\r\n", ProblemType.TLS, "TLS handshake failed"),
            (b"\x15\x03\x03\x00\x02\x02\x78", ProblemType.TLS, "no application protocol"),  # the alert of RFC 7301 §3.2
            (b"\x15\x03\x03\x00\x02\x02\x70", ProblemType.TLS, "unrecognized name"),  # RFC 6066 §3
            (b"\x15\x03\x03\x00\x02\x02\x28", ProblemType.TLS, "handshake failure"),
            (bytes(5000), ProblemType.TLS, "TLS handshake failed"),
            (b"\x16\x03\x03\x40\x01" + bytes(0x4001), ProblemType.TLS, "TLS handshake failed"),
        ],
    )
    async def test_what_is_no_handshake(self, data: bytes, type_: ProblemType, said: str) -> None:
        async with raw_peer(sends(data)) as port:
            assert said in detail(await validator(port).observe(NAME), type_)

    async def test_closed_at_once(self) -> None:
        async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(4096)

        async with raw_peer(close) as port:
            assert "closed within the TLS" in detail(await validator(port).observe(NAME), ProblemType.CONNECTION)

    async def test_reset(self) -> None:
        async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(4096)
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        async with raw_peer(reset) as port:
            assert "reset by peer" in detail(await validator(port).observe(NAME), ProblemType.TLS)

    async def test_silence_ends_with_the_time(self) -> None:
        async with raw_peer(sends(b"")) as port:
            observation = await validator(port, total=0.1).observe(NAME)
            assert "within 0.1 s" in detail(observation, ProblemType.CONNECTION)
            assert observation.endpoint == f"127.0.0.1:{port}"

    async def test_a_trickle_ends_with_the_time(self) -> None:
        async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(4096)
            for octet in b"\x16\x03\x03\x10\x00" + bytes(4000):
                writer.write(bytes((octet,)))
                await writer.drain()
                await asyncio.sleep(0.01)

        async with raw_peer(trickle) as port:
            assert "within 0.1 s" in detail(await validator(port, total=0.1).observe(NAME), ProblemType.CONNECTION)

    async def test_more_than_a_handshake_may_be(self) -> None:
        """A chain of certificates beyond the bound is not read to its end."""
        chain = [challenge_der(NAME, EXPECTED), *(certificate_der(san(*[general_name(NAME)] * 100)) for _ in range(30))]
        async with tls_peer(showing(*chain)) as peer:
            observation = await validator(peer.port).observe(NAME)
            assert "more than 32768 bytes" in detail(observation, ProblemType.INCORRECT_RESPONSE)

    async def test_endless_records(self) -> None:
        """Change-cipher-spec records, which TLS 1.3 passes over (RFC 8446 §5)."""

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(4096)
            while True:
                writer.write(b"\x14\x03\x03\x00\x01\x01" * 100)
                await writer.drain()

        async with raw_peer(endless) as port:
            observation = await validator(port).observe(NAME)
            assert not is_valid(observation)
            assert observation.failure is not None
            assert observation.failure.kind in {FailureKind.TLS, FailureKind.RESPONSE}


class TestClientHello:
    async def hello(self, identifier: Identifier, resolver: Resolver | None = None) -> bytes:
        seen: list[bytes] = []

        async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.read(4096))

        async with raw_peer(keep) as port:
            await validator(port, resolver).observe(identifier)
        return seen[0]

    async def test_one_protocol_one_name(self) -> None:
        """§3, step 3: "an ALPN extension with the single protocol name "acme-tls/1" and an SNI extension containing only the
        domain name being validated".
        """
        hello = parse_client_hello(await self.hello(NAME))
        assert hello.protocols == [b"acme-tls/1"]
        assert hello.server_names == [(0, b"www.corp.internal")]

    async def test_no_costly_group_and_no_old_version(self) -> None:
        """Rule 4 of validation/dialler.py."""
        hello = parse_client_hello(await self.hello(NAME))
        assert hello.groups == [0x0017]  # secp256r1
        assert set(hello.versions) == {0x0303, 0x0304}
        assert 35 not in hello.extensions or not hello.extensions[35], "no session is offered again"
        assert 41 not in hello.extensions


class TestDialling:
    """The rules of `dialler.py`, which http-01's tests look at one by one, hold here too."""

    async def test_an_address_that_is_not_allowed(self) -> None:
        observation = await validator(443, at("169.254.169.254", "8.8.8.8")).observe(NAME)
        assert "169.254.169.254 is link-local" in detail(observation, ProblemType.CONNECTION)
        assert not observation.attempts

    async def test_an_identifier_that_is_not_allowed(self) -> None:
        observation = await validator(443).observe(Identifier(IdentifierType.IP, "10.0.0.5"))
        assert "not in validation.allowed_networks" in detail(observation, ProblemType.CONNECTION)

    async def test_our_own_listener(self) -> None:
        async with tls_peer(showing(challenge_der(NAME, EXPECTED))) as peer:
            observation = await validator(peer.port, own=lambda: ((None, peer.port),)).observe(NAME)
            assert "a listener of this CA" in detail(observation, ProblemType.CONNECTION)
            observation = await validator(peer.port, own_urls=(f"https://{NAME.value}:{peer.port}",)).observe(NAME)
            assert "a listener of this CA" in detail(observation, ProblemType.CONNECTION)
            assert not peer.server_names

    async def test_a_name_without_an_address(self) -> None:
        assert "cannot be looked up" in detail(await validator(443, Hosts()).observe(NAME), ProblemType.DNS)

    async def test_refused(self) -> None:
        with refusing_port() as port:
            observation = await validator(port).observe(NAME)
            assert f"127.0.0.1:{port} connection refused" in detail(observation, ProblemType.CONNECTION)

    @needs_ipv6
    async def test_ipv6_first_and_ipv4_when_it_does_not_connect(self) -> None:
        async with tls_peer(showing(challenge_der(NAME, EXPECTED))) as peer:
            observation = await validator(peer.port, at("127.0.0.1", "::1")).observe(NAME)
            assert [attempt.endpoint for attempt in observation.attempts] == [
                f"[::1]:{peer.port}",
                f"127.0.0.1:{peer.port}",
            ]
            assert is_valid(observation)

    async def test_a_wrong_answer_leads_to_no_other_address(self) -> None:
        """Only a failure to connect does: what one address answered counts."""
        async with tls_peer() as peer:
            observation = await validator(peer.port, at("127.0.0.1", "127.0.0.2")).observe(NAME)
            assert len(observation.attempts) == 1

    async def test_turns_are_shared_with_http_01(self) -> None:
        """RULES §3, "per-target limits": sixteen connections to an address, whatever is spoken there."""
        async with tls_peer(showing(challenge_der(NAME, EXPECTED))) as peer, contextlib.AsyncExitStack() as taken:
            subject = validator(peer.port, wait=0.05)
            forever = asyncio.timeout(None)
            await taken.enter_async_context(forever)
            address = Identifier(IdentifierType.IP, "127.0.0.1")
            for _ in range(16):
                turn = subject._dialler._turns.turn(ip_network(address.value).network_address, Patience(forever, 1))
                await taken.enter_async_context(turn)
            with pytest.raises(Busy):
                await subject.observe(NAME)

    async def test_sockets_are_closed_however_it_ends(self) -> None:
        before = open_sockets()
        async with raw_peer(sends(b"")) as port:
            task = asyncio.create_task(validator(port).observe(NAME))
            await until(lambda: open_sockets() >= before + 3, what="both ends of a connection beside the listener")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await validator(port, total=0.05).observe(NAME)
        assert open_sockets() == before

    async def test_cancelled_while_connecting(self) -> None:
        with hanging_port() as port:
            held = open_sockets()
            task = asyncio.create_task(validator(port).observe(NAME))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert open_sockets() == held

    @pytest.mark.parametrize("number", sorted(EXHAUSTED))
    async def test_a_machine_out_of_memory_blames_nobody(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        async def read(*_: object) -> bytes:
            raise OSError(number, os.strerror(number))

        async with tls_peer(showing(challenge_der(NAME, EXPECTED))) as peer:
            monkeypatch.setattr(asyncio.get_running_loop(), "sock_recv", read)
            with pytest.raises(OSError, match=os.strerror(number)):
                await validator(peer.port).observe(NAME)
            monkeypatch.undo()
