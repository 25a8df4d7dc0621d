"""A DNS server on loopback, UDP and TCP at one port, that answers what a test tells it, good or bad; and clients of it.

Rule 1: what is not scripted is answered from its records: NXDOMAIN for an unknown name, an empty answer for another type.
Rule 2: it counts: every question is kept with the transport it came by.
"""

import asyncio
import contextlib
import errno
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from acmeca.validation.dns_client import DnsClient
from acmeca.validation.resolver import DnsResolver
from acmeca.validation.servers import FixedServers, Server, Servers

TTL = 300


@dataclass(frozen=True)
class Question:
    """What was asked, and how: `transport` is `udp` or `tcp`."""

    transport: str
    name: str
    type: str


Behaviour = Callable[["DnsPeer", dns.message.Message, str], list[bytes]]
"""Makes the messages to send back for a query that came by a transport; an empty list is silence."""


@dataclass
class DnsPeer:
    """The running server. Names are written without the dot of the root."""

    port: int = 0
    questions: list[Question] = field(default_factory=list)
    _records: dict[str, dict[str, list[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    _scripts: dict[tuple[str, str], deque[Behaviour]] = field(default_factory=lambda: defaultdict(deque))
    _forever: dict[tuple[str, str], Behaviour] = field(default_factory=dict)

    @property
    def server(self) -> tuple[IPv4Address, int]:
        """Where it stands, as the clients take it."""
        return IPv4Address("127.0.0.1"), self.port

    def add(self, name: str, type_: str, *values: str) -> None:
        """Records of a name. CNAMEs are followed within these records, as a recursive resolver does."""
        self._records[name][type_].extend(values)

    def put(self, name: str, type_: str, *values: str) -> None:
        """These records of a name instead of those that it has."""
        self._records[name][type_] = list(values)

    def script(self, name: str, type_: str, *behaviours: Behaviour) -> None:
        """The next answers to this question, in turn; then the records answer again."""
        self._scripts[name, type_].extend(behaviours)

    def always(self, name: str, behaviour: Behaviour, *types: str) -> None:
        """The answer to every question of these types for this name, without any of A and AAAA."""
        for type_ in types or ("A", "AAAA"):
            self._forever[name, type_] = behaviour

    def asked(self, name: str, type_: str) -> int:
        """How often this was asked."""
        return sum(question.name == name and question.type == type_ for question in self.questions)

    def reply(self, wire: bytes, transport: str) -> list[bytes]:
        query = dns.message.from_wire(wire)
        asked = query.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        type_ = dns.rdatatype.to_text(asked.rdtype)
        self.questions.append(Question(transport, name, type_))
        script = self._scripts[name, type_]
        behaviour = script.popleft() if script else self._forever.get((name, type_), from_records)
        return behaviour(self, query, transport)


def from_records(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
    response = _response(query)
    name = query.question[0].name.to_text(omit_final_dot=True).lower()
    type_ = dns.rdatatype.to_text(query.question[0].rdtype)
    for _ in range(40):
        if name not in peer._records:
            response.set_rcode(dns.rcode.NXDOMAIN)
            break
        records = peer._records[name]
        if "CNAME" in records:
            response.answer.append(dns.rrset.from_text(name + ".", TTL, "IN", "CNAME", *records["CNAME"]))
            name = records["CNAME"][0].rstrip(".")
            continue
        if records[type_]:
            response.answer.append(dns.rrset.from_text(name + ".", TTL, "IN", type_, *records[type_]))
        break
    return [response.to_wire(max_size=65535)]


def says(code: dns.rcode.Rcode) -> Behaviour:
    """An answer with this code and nothing in it."""

    def answer(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
        response = _response(query)
        response.set_rcode(code)
        return [response.to_wire()]

    return answer


def holds(type_: str, *values: str) -> Behaviour:
    """An answer with these records, whatever the peer knows."""

    def answer(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
        response = _response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, TTL, "IN", type_, *values))
        return [response.to_wire(max_size=65535)]

    return answer


def silence(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
    """No answer at all."""
    return []


def truncated(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
    """Over UDP nothing but the TC bit, over TCP what the records say."""
    if transport == "tcp":
        return from_records(peer, query, transport)
    response = _response(query)
    response.flags |= dns.flags.TC
    return [response.to_wire()]


def truncated_then_garbage(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
    """Over UDP the TC bit, over TCP bytes that are no message."""
    return truncated(peer, query, transport) if transport == "udp" else [b"\xff" * 40]


def garbage(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
    """Bytes that are no message, nor the answer to anything."""
    return [b"", b"\x00", query.to_wire()[:11], b"\xff" * 64]


def forged_then(*values: str) -> Behaviour:
    """An answer to another id, one to another question, and then the true one with these A records."""

    def answer(peer: DnsPeer, query: dns.message.Message, transport: str) -> list[bytes]:
        (true,) = holds("A", *values)(peer, query, transport)
        (forged,) = holds("A", "203.0.113.66")(peer, query, transport)
        other_id = ((query.id + 1) & 0xFFFF).to_bytes(2, "big") + forged[2:]
        other = dns.message.make_query("attacker.test.", "A", id=query.id)
        (other_question,) = holds("A", "203.0.113.67")(peer, other, transport)
        return [other_id, other_question, true]

    return answer


def patience(behaviour: Behaviour) -> float:
    """How long to wait for an answer: for none that is to come not long, for one that is as long as a busy machine takes."""
    return 0.05 if behaviour in {silence, garbage} else 2.0


def client_of(
    choice: Server | Servers, *more: Server, timeout: float = 10.0, attempt_timeout: float = 2.0
) -> DnsClient:
    """A client of these servers in their order, or of those that are chosen. It does not pause between rounds."""
    servers = FixedServers((choice, *more)) if isinstance(choice, tuple) else choice
    return DnsClient(servers, timeout=timeout, attempt_timeout=attempt_timeout, pause=0.001)


def resolver_of(
    choice: Server | Servers, *more: Server, timeout: float = 10.0, attempt_timeout: float = 2.0
) -> DnsResolver:
    """Addresses by such a client."""
    return DnsResolver(client_of(choice, *more, timeout=timeout, attempt_timeout=attempt_timeout))


def _response(query: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.RA
    return response


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, peer: DnsPeer) -> None:
        self._peer = peer
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # as asyncio calls it
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        for message in self._peer.reply(data, "udp"):
            self._transport.sendto(message, addr)


@contextlib.asynccontextmanager
async def dns_peer(*, tcp: bool = True) -> AsyncIterator[DnsPeer]:
    """Run a DNS server at a free port of 127.0.0.1. Without `tcp` it refuses connections."""
    peer = DnsPeer()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            size = int.from_bytes(await reader.readexactly(2), "big")
            for message in peer.reply(await reader.readexactly(size), "tcp"):
                writer.write(len(message).to_bytes(2, "big") + message)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    loop = asyncio.get_running_loop()
    for _ in range(20):
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        peer.port = server.sockets[0].getsockname()[1]
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(peer), local_addr=("127.0.0.1", peer.port))
        except OSError as error:
            server.close()
            await server.wait_closed()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        if not tcp:
            server.close()
        try:
            yield peer
        finally:
            transport.close()
            server.close()
            await server.wait_closed()
        return
    raise AssertionError("no port was free for UDP and TCP")
