"""One question to one server and its response: over UDP, and over TCP where that is cut (RFC 1035 §4.2, RFC 5452, RFC 7766).

Rule 1: what does not come from the server asked, or does not match the question, is no response and is passed over.
Rule 2: bounded: 64 KiB by the protocol, and so many records, and parts of them, that reading them takes no time that others would
notice. They are counted before they are read: a TXT record holds 65,000 strings, a name 127 labels, and whoever has a zone
chooses them, by way of a resolver that means well. Of a response only its answer is read.
Rule 3: nothing waits for a thread.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Final

import dns.message
import dns.rdatatype

from acmeca.validation.servers import Server

MAX_RECORDS: Final = 256  # a name with more of one type is nobody's
MAX_PARTS: Final = 3000  # labels and strings; with as many records some 30 ms to read

_HEADER: Final = 12  # octets (RFC 1035 §4.1.1)
_NO_MORE: Final = bytes(4)  # no records of authority, none besides
_RECORD: Final = struct.Struct(">H6xH")  # behind the name: TYPE, and RDLENGTH behind CLASS and TTL (§4.1.3)
_POINTER: Final = 0xC0
_MAX_NAME_PARTS: Final = 255  # of 127 labels and the pointers between them
_WHOLE: Final = frozenset({dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.CAA})  # read in one piece
_MAX_MESSAGE: Final = 0xFFFF
_QR: Final = 0x80  # in the third octet
_TC: Final = 0x02  # in the third octet


class NonsenseError(Exception):
    """A server answered with what is no response to the question. The text is a phrase in printable ASCII, with nothing of it."""


async def exchange(server: Server, query: dns.message.Message, *, timeout: float) -> dns.message.Message:  # noqa: ASYNC109  (two steps)
    """Ask one question. `timeout` is in seconds, once for UDP and once more for TCP.

    Raises TimeoutError when nothing came, OSError when the server cannot be reached, NonsenseError for what is no response.
    """
    wire = query.to_wire()
    async with asyncio.timeout(timeout):
        response = await _over_udp(server, query, wire)
    if response is not None:
        return response
    async with asyncio.timeout(timeout):
        return await _over_tcp(server, query, wire)


async def _over_udp(server: Server, query: dns.message.Message, wire: bytes) -> dns.message.Message | None:
    """The response, or None for one that was cut."""
    address, port = server
    loop = asyncio.get_running_loop()
    with socket.socket(
        socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET, socket.SOCK_DGRAM
    ) as us:
        us.setblocking(False)
        # From here on the kernel drops what others send (RFC 5452 §9.1), and tells when nobody listens there. The port that
        # it chooses is, with the id, what an off-path attacker has to guess (§4.3, §4.5).
        us.connect((str(address), port))
        us.send(wire)
        while True:
            data = await loop.sock_recv(us, _MAX_MESSAGE)
            if len(data) < _HEADER or data[:2] != wire[:2] or not data[2] & _QR:
                continue
            if data[2] & _TC:
                return None
            response = _read(data)
            if query.is_response(response):
                return response


async def _over_tcp(server: Server, query: dns.message.Message, wire: bytes) -> dns.message.Message:
    address, port = server
    reader, writer = await asyncio.open_connection(str(address), port)
    try:
        writer.write(len(wire).to_bytes(2, "big") + wire)
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    except asyncio.IncompleteReadError:
        raise NonsenseError("the connection was closed in the middle") from None
    finally:
        writer.transport.abort()
        with suppress(OSError):  # how a connection ended that nobody needs any more
            await writer.wait_closed()
    response = _read(data)
    if not query.is_response(response):
        raise NonsenseError("not to the question")
    return response


def _read(data: bytes) -> dns.message.Message:
    if len(data) < _HEADER:
        raise NonsenseError("less than a header")
    questions, *records = (int.from_bytes(data[place : place + 2], "big") for place in (4, 6, 8, 10))
    if questions > 1 or sum(records) > MAX_RECORDS:
        raise NonsenseError(f"more than {MAX_RECORDS} records")
    try:
        end = _find_end(data, questions, records[0])
        return dns.message.from_wire(data[:8] + _NO_MORE + data[_HEADER:end])
    except NonsenseError:
        raise
    except Exception as error:  # noqa: BLE001  (dnspython lets several kinds through for records that break their form)
        raise NonsenseError(type(error).__name__) from None


def _find_end(data: bytes, questions: int, answers: int) -> int:
    """Where the answer ends. Raises NonsenseError for more parts than are read (rule 2), and IndexError or struct.error for a message
    that ends before it does.
    """
    parts, position = 0, _HEADER
    for _ in range(questions):
        position, named = _pass_name(data, position)
        parts += named
        position += 4  # QTYPE, QCLASS
    for _ in range(answers):
        position, named = _pass_name(data, position)
        type_, length = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        end = position + length
        parts += named
        if type_ == dns.rdatatype.TXT:
            while position < end and parts <= MAX_PARTS:
                position += 1 + data[position]
                parts += 1
        elif type_ not in _WHOLE:
            parts += length  # a name has no more labels than octets, and nothing has more parts
        if parts > MAX_PARTS:
            raise NonsenseError(f"more than {MAX_PARTS} labels and strings")
        position = end
    return position


def _pass_name(data: bytes, position: int) -> tuple[int, int]:
    """Where a name ends that begins there, and how many parts it has: labels, and pointers to others (§4.1.4)."""
    end = parts = 0
    while length := data[position]:
        parts += 1
        if parts > _MAX_NAME_PARTS:
            raise NonsenseError("a name without an end")
        if length < _POINTER:
            position += 1 + length
        else:
            end = end or position + 2
            position = (length & ~_POINTER) << 8 | data[position + 1]
    return end or position + 1, parts
