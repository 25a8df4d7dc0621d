"""One question to one server and its response: over UDP, and over TCP where that is cut (RFC 1035 §4.2, RFC 5452, RFC 7766).

Rule 1: what does not come from the server asked, or does not match the question, is no response and is passed over.
Rule 2: bounded: 64 KiB by the protocol, and so many records that reading them takes no time that others would notice. The records are
counted before they are read.
Rule 3: nothing waits for a thread.
"""

import asyncio
import socket
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Final

import dns.message

from acmeca.validation.servers import Server

MAX_RECORDS: Final = 256  # some 30 ms to read; a name with more of one type is nobody's

_HEADER: Final = 12  # octets (RFC 1035 §4.1.1)
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
        return dns.message.from_wire(data)
    except Exception as error:  # noqa: BLE001  (dnspython lets several kinds through for records that break their form)
        raise NonsenseError(type(error).__name__) from None
