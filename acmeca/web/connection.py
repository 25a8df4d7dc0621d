"""One connection: aiohttp's HTTP, what is refused before it, and how long a peer is borne that does not do its part.

Rule 1: aiohttp does the HTTP. What is ours is what we say when a request cannot be read, or cannot be trusted to end where
it seems to: a status, no version, not a word of the peer's.
Rule 2: nobody keeps a connection by doing nothing: not by silence, not by not reading, not by not letting it end.
"""

import asyncio
import fcntl
import logging
import socket
import termios
from array import array
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.web_request import BaseRequest

from acmeca.web.middleware import SERVER_NAME

log = logging.getLogger(__name__)

RequestHandler: TypeAlias = Callable[[BaseRequest], Awaitable[web.StreamResponse]]
Refusal: TypeAlias = Callable[[int, str], web.Response]  # renders a status and its reason

_PROGRESS: Final = 64 * 1024  # octets that a peer has to take in `Patience.reading`, if there are so many for it
_MOMENT: Final = 1.0  # seconds without reading that a stop bears
_MAX_FIELDS: Final = 64  # of a header: a browser behind two proxies sends thirty
_MAX_AHEAD: Final = 48 * 1024  # octets that nobody handles yet: one long header, or a hundred OCSP requests

_NO_ACCESS_LOG = logging.getLogger("acmeca.access")
_NO_ACCESS_LOG.disabled = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a peer, and a listener that stops, may take; in seconds."""

    first_request: float = 20.0  # for the TLS handshake, and after it until the first request's header is complete
    idle: float = 75.0  # between two requests
    reading: float = 30.0  # with answers waiting of which too little is taken
    closing: float = 30.0  # from our end of the connection to its end
    stopping: float = 8.0  # for requests under way when the listener is stopped; Docker kills after ten
    cancelling: float = 1.0  # for those that were not finished by then, to notice that they are cancelled


class Connection(web.RequestHandler):
    """One connection, from its acceptance (before any TLS) to its end, of which `on_lost` is told.

    `sock` is the accepted socket below TLS: a TLS transport cannot be relied on to abort once it is closing.
    """

    def __init__(
        self,
        server: web.Server,
        *,
        patience: Patience,
        on_lost: Callable[["Connection"], None],
        sock: socket.socket | None = None,
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=_NO_ACCESS_LOG,  # it costs more than an OCSP answer does
            keepalive_timeout=patience.idle,
            auto_decompress=False,  # RULES §1: nothing is decompressed
            max_headers=_MAX_FIELDS,
        )
        self._socket = sock
        self._patience = patience
        self._on_lost = on_lost
        self._is_lost = False
        self._wire: asyncio.Transport | None = None  # aiohttp's `transport` is None as soon as it is closing
        self._timer: asyncio.TimerHandle | None = None  # of silence before the first request, of our end after the last
        self._write_timer: asyncio.TimerHandle | None = None
        self._paused_at: float | None = None
        self._unsent = 0
        self._handled = 0
        self._ahead = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wire = cast("asyncio.Transport", transport)  # uvloop's is one by behaviour, not by class
        self._timer = self._loop.call_later(self._patience.first_request, self._close_if_silent)
        if self._task_handler is not None:  # it has just been made
            self._task_handler.add_done_callback(self._bound_the_end)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._is_lost = True
        for timer in (self._timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._on_lost(self)
        super().connection_lost(exc)

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way that a stop should wait for. It is not when the peer does not read our answer."""
        return self._request_in_progress and not self.is_stalled

    @property
    def is_stalled(self) -> bool:
        """Whether an answer has been waiting for its reader for more than a moment."""
        return self._paused_at is not None and self._loop.time() - self._paused_at > _MOMENT

    def abort(self) -> None:
        """End it now, whatever was still to be sent."""
        if self._socket is not None:
            with suppress(OSError):  # it has ended meanwhile
                self._socket.shutdown(socket.SHUT_RDWR)  # the transports see an error, and end
        elif self._wire is not None:
            self._wire.abort()

    # --- Rule 1 -------------------------------------------------------------------------------------------------

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  (it quotes what the peer sent)
    ) -> web.StreamResponse:
        """What aiohttp could not read, or a failure outside every middleware: a bare status, and the log has the rest."""
        if status >= 500:
            log.error("a request failed outside its handler", exc_info=exc)
        else:
            log.debug("unreadable request from %s: %s", request.remote, type(exc).__name__)
        return _last(plain_refusal(status, "bad request" if status < 500 else "failed"))

    # --- Rule 2 -------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """A peer may send a little ahead of us. aiohttp bounds each field of a header, and the number of requests that wait.

        A body is not counted once its request is handled: whoever reads it bounds it, and answers 413.
        """
        waiter, requests = self._waiter, self._request_count
        is_idle = waiter is not None and not waiter.done()
        is_ahead = waiter is None and (self._messages or self._paused_at is not None)
        if not is_idle and not is_ahead:
            super().data_received(data)
            return
        handled = requests - len(self._messages)
        if handled != self._handled:
            self._handled, self._ahead = handled, 0
        super().data_received(data)
        if is_ahead or self._request_count == requests:  # no header is complete by now
            self._ahead += len(data)
        elif self._ahead + len(data) > _MAX_AHEAD:
            self._ahead = sum(_header_octets(message) for message, _ in self._messages)
        if self._ahead > _MAX_AHEAD:
            log.debug("%s sends more than it may ahead of the answers", self.peername)
            self.force_close()

    def _close_if_silent(self) -> None:
        if self._request_count == 0:
            self.force_close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused_at = self._loop.time()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused_at = None
        if self._write_timer is not None:
            self._write_timer.cancel()

    def _watch_writing(self) -> None:
        self._unsent = self._waiting_to_be_sent()
        self._write_timer = self._loop.call_later(self._patience.reading, self._abort_if_stalled)

    def _abort_if_stalled(self) -> None:
        """A long CRL over a thin line takes its time; what does not move is dropped."""
        if self._unsent - self._waiting_to_be_sent() >= _PROGRESS:
            self._watch_writing()
        else:
            log.debug("%s does not read its answer", self.peername)
            self.abort()

    def _waiting_to_be_sent(self) -> int:
        """Octets that the peer's kernel has not taken yet.

        Ours may hold megabytes and makes room for more only when a third of that is gone, so that it is asked too (SIOCOUTQ).
        """
        if self._wire is None:
            return 0
        in_kernel = array("i", [0])
        with suppress(OSError):  # not Linux, or it has ended meanwhile
            fcntl.ioctl(self._wire.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_kernel)
        return self._wire.get_write_buffer_size() + in_kernel[0]

    def _bound_the_end(self, _: asyncio.Task[None]) -> None:
        """Nothing is served on it any more. A transport that is closing waits for its last octets to be taken, for ever."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_lost:
            self._timer = self._loop.call_later(self._patience.closing, self.abort)


def _header_octets(message: object) -> int:
    """Of a request; what could not be read as one has none."""
    return sum(len(name) + len(value) for name, value in getattr(message, "raw_headers", ()))


class TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()


# --- requests that no application sees ---------------------------------------------------------------------------


def guarded(handler: RequestHandler, *, refusal: Refusal) -> RequestHandler:
    """`handler` for requests whose framing and expectations are ours too; the others are refused and their connection closed."""

    def guard(request: BaseRequest) -> Awaitable[web.StreamResponse]:
        headers = request.headers
        if hdrs.TRANSFER_ENCODING in headers or hdrs.EXPECT in headers:
            found = _fault(request)
            if found is not None:
                return _answer(_last(refusal(*found)))
        return handler(request)

    return guard


def _fault(request: BaseRequest) -> tuple[int, str] | None:
    """The status and the reason to refuse a request with, or None.

    The parser has refused a Transfer-Encoding beside a Content-Length, and one that does not end in `chunked`.
    """
    codings = request.headers.getall(hdrs.TRANSFER_ENCODING, [])
    if codings:
        # RFC 9112 §6.1: "A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header field MUST
        # treat the message as if the framing is faulty"
        if request.version < HttpVersion11:
            return 400, "HTTP/1.0 has no transfer codings"
        # RFC 9112 §6.1: "A server that receives a request message with a transfer coding it does not understand SHOULD respond
        # with 501". The parser takes the chunks off and would hand over the rest as if it were the body.
        if len(codings) > 1 or codings[0].strip().lower() != "chunked":
            return 501, "the only transfer coding that is understood is chunked"
    # RFC 9110 §10.1.1: "A server that receives an Expect field value containing a member other than 100-continue MAY respond
    # with a 417". aiohttp would, outside every middleware and quoting it.
    if any(value.strip().lower() not in {"", "100-continue"} for value in request.headers.getall(hdrs.EXPECT, [])):
        return 417, "the only expectation that can be met is 100-continue"
    return None


def plain_refusal(status: int, reason: str) -> web.Response:
    """A refusal as one line of text."""
    return web.Response(status=status, text=f"{reason}\n")


def _last(response: web.Response) -> web.Response:
    """The last response of its connection. No application prepares it, so that its name is set here."""
    response.headers["Server"] = SERVER_NAME
    response.force_close()
    return response


async def _answer(response: web.Response) -> web.StreamResponse:
    return response
