"""One HTTP request and its answer, without a socket (RFC 9110, RFC 9112, by way of h11).

Rule 1: bytes in, a value out. What comes out depends on the bytes alone, not on how they were cut into reads.
Rule 2: everything up to the end of the headers, 1xx answers included, fits in 8 KiB; the body in 1 KiB; the whole answer
with its framing in 16 KiB. Whoever sends more is cut off there.
Rule 3: nothing is decoded but the framing. A compressed body stays compressed.
"""

from dataclasses import dataclass
from typing import Final

import h11

from acmeca.acme.observations import FailureKind, ObservedFailure

HEADER_LIMIT: Final = 8 * 1024
BODY_LIMIT: Final = 1024
TOTAL_LIMIT: Final = HEADER_LIMIT + 8 * 1024  # 1 KiB of one-byte chunks takes 6 KiB

_READ: Final = 2048
_QUOTED: Final = 65  # one more than a problem shows, so that `escape` marks the cut


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. `locations` are the values of its `Location` headers; `body` is cut when `complete` is false.

    The body of a redirect is not read: it is empty and not complete.
    """

    status: int
    locations: tuple[bytes, ...]
    body: bytes
    complete: bool


class Exchange:
    """A GET and what comes back. Send `request`, then feed `receive` with at most `wanted` bytes at a time.

    For the status codes of `skip_body` the answer ends with its headers.
    """

    def __init__(self, *, authority: str, path: str, user_agent: str, skip_body: frozenset[int]) -> None:
        # Our own bounds are tighter; h11's would depend on how the bytes are cut into reads.
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=2 * TOTAL_LIMIT)
        self._skip_body = skip_body
        self._received = 0
        self._head = b""
        self._response: h11.Response | None = None
        self._body = b""
        request = h11.Request(
            method=b"GET",
            target=path.encode("ascii"),
            headers=[
                (b"Host", authority.encode("ascii")),
                (b"User-Agent", user_agent.encode("ascii")),
                (b"Accept", b"*/*"),
                (b"Accept-Encoding", b"identity"),
                (b"Connection", b"close"),
            ],
        )
        self.request = (self._connection.send(request) or b"") + (self._connection.send(h11.EndOfMessage()) or b"")

    @property
    def status(self) -> int | None:
        """The status code, as soon as it is known."""
        return None if self._response is None else self._response.status_code

    @property
    def body(self) -> bytes:
        """What has come of the body, at most 1 KiB."""
        return self._body[:BODY_LIMIT]

    @property
    def wanted(self) -> int:
        """How many bytes to read next, at most: never beyond a bound."""
        limit = HEADER_LIMIT if self._response is None else TOTAL_LIMIT
        return min(_READ, limit - self._received)

    def receive(self, data: bytes) -> Response | ObservedFailure | None:
        """Take the next bytes of the answer; b"" is its end. None asks for more.

        Nothing that a peer may send raises.
        """
        self._received += len(data)
        if len(self._head) < _QUOTED:
            self._head += data[: _QUOTED - len(self._head)]
        if not self._received:
            return ObservedFailure(FailureKind.CLOSED, "the connection was closed without an answer")
        try:
            self._connection.receive_data(data)
            outcome = self._read_events()
        except h11.RemoteProtocolError as error:
            return self._broken(error, closed=not data)
        if outcome is None and self.wanted <= 0:
            return self._too_long()
        return outcome

    def _read_events(self) -> Response | None:
        while True:
            event = self._connection.next_event()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Response):
                self._response = event
                if event.status_code in self._skip_body:
                    return self._answer(complete=False)
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > BODY_LIMIT:
                    return self._answer(complete=False)
            elif isinstance(event, h11.EndOfMessage):
                return self._answer(complete=True)
            else:  # 1xx (RFC 9110 §15.2) is skipped, and counts with the headers
                assert isinstance(event, h11.InformationalResponse)  # noqa: S101  (h11 gives a client nothing else here)

    def _answer(self, *, complete: bool) -> Response:
        assert self._response is not None  # noqa: S101  (h11 gives no Data and no EndOfMessage before a Response)
        locations = tuple(value for name, value in self._response.headers if name == b"location")
        return Response(self._response.status_code, locations, self.body, complete)

    def _broken(self, error: Exception, *, closed: bool) -> ObservedFailure:
        if closed:
            return ObservedFailure(FailureKind.CLOSED, "the connection was closed before the end of the answer")
        if self._response is None:
            return ObservedFailure(FailureKind.RESPONSE, "the answer is not HTTP/1.x", self._head)
        # h11 quotes what it could not read
        return ObservedFailure(FailureKind.RESPONSE, "the body is not framed as HTTP/1.1 asks", str(error).encode())

    def _too_long(self) -> ObservedFailure:
        if self._response is None:
            return ObservedFailure(FailureKind.RESPONSE, f"the answer's headers are longer than {HEADER_LIMIT} bytes")
        return ObservedFailure(FailureKind.RESPONSE, f"the answer with its framing is longer than {TOTAL_LIMIT} bytes")
