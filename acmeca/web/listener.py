"""Sockets: an application bound to an address, with TLS or without, on aiohttp's own connection handler.

Rule 1: aiohttp does the HTTP. What is ours is what it says when it cannot read a request (no version, no quoted bytes) and
how long a silent connection is kept.
Rule 2: a listener that is stopped takes no new connection, finishes the requests it has, and closes.
"""

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.web_request import BaseRequest

from acmeca.errors import AcmecaError
from acmeca.web.middleware import SERVER_NAME, name_server

log = logging.getLogger(__name__)

_KEEPALIVE_SECONDS: Final = 75.0
_FIRST_REQUEST_SECONDS: Final = 20.0
_SHUTDOWN_SECONDS: Final = 10.0  # for requests under way when the listener is stopped
_CANCEL_SECONDS: Final = 1.0  # for those that were not finished by then, to notice that they are cancelled
_LOOK_SECONDS: Final = 0.02
_BACKLOG: Final = 1024


_NO_ACCESS_LOG = logging.getLogger("acmeca.access")
_NO_ACCESS_LOG.disabled = True


class ListenerError(AcmecaError):
    """An address that cannot be bound: in use, not ours, or a low port without the right to it."""


class Connection(web.RequestHandler):
    """One connection. Closed when its first request is not complete after a while: a silent peer costs nothing for long."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(_FIRST_REQUEST_SECONDS, self._close_if_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._patience.cancel()
        super().connection_lost(exc)

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
        response = web.Response(status=status, text="bad request\n" if status < 500 else "failed\n")
        response.headers["Server"] = SERVER_NAME
        response.force_close()
        return response

    def _close_if_silent(self) -> None:
        if self._request_count == 0:
            self.force_close()


class Listener:
    """An application on one address. `tls` is the context of an https listener, else it speaks plain http."""

    def __init__(self, app: web.Application, *, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        app.on_response_prepare.append(name_server)
        app.on_response_prepare.append(self._close_when_stopping)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_CANCEL_SECONDS)
        self._host = host
        self._port = port
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self._stopping = False

    async def start(self) -> None:
        """Bind and serve. Raises `ListenerError`."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl_handshake_timeout": _FIRST_REQUEST_SECONDS} if self._tls else {}
        for sock in self._sockets():
            server = await loop.create_server(self._connection, sock=sock, ssl=self._tls, backlog=_BACKLOG, **options)
            self._servers.append(server)

    async def start_on_socket(self, path: Path) -> None:
        """Serve on a Unix socket that only its owner can reach."""
        await self._runner.setup()
        # The store's lock is held: whoever made it is gone.
        path.unlink(missing_ok=True)  # noqa: ASYNC240  (nothing is served yet)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            previous = os.umask(0o177)  # mode 0600 from its first moment on
            try:
                sock.bind(str(path))
            finally:
                os.umask(previous)
        except OSError as error:
            sock.close()
            raise ListenerError(f"the socket {path} cannot be made: {error.strerror}") from None
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(self._connection, sock=sock))

    @property
    def endpoints(self) -> Iterable[tuple[str, int]]:
        """The addresses it is bound to, as (address, port)."""
        for server in self._servers:
            for sock in server.sockets:
                if sock.family in {socket.AF_INET, socket.AF_INET6}:
                    address, port = sock.getsockname()[:2]
                    yield address, port

    async def stop(self) -> None:
        """Rule 2. Requests that are not finished in time are cancelled."""
        self._stopping = True
        for server in self._servers:
            server.close()
        await self._finish_requests()
        await self._runner.cleanup()
        self._servers.clear()

    async def _finish_requests(self) -> None:
        """Wait for the requests under way, bounded.

        aiohttp's own shutdown drops whatever still arrives of a request's body, and the request with it, so it has to begin
        when none is under way. No answer leaves its connection open any more, so there are fewer and fewer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SHUTDOWN_SECONDS
        while self._is_busy() and loop.time() < deadline:  # noqa: ASYNC110  (aiohttp tells nobody when a request is done)
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_busy(self) -> bool:
        server = self._runner.server
        return server is not None and any(connection._request_in_progress for connection in server.connections)  # noqa: SLF001

    async def _close_when_stopping(self, _: web.Request, response: web.StreamResponse) -> None:
        if self._stopping:
            response.force_close()

    def _connection(self) -> Connection:
        server = self._runner.server
        if server is None:
            raise RuntimeError("the listener was stopped")
        return Connection(
            server,
            loop=asyncio.get_running_loop(),
            access_log=_NO_ACCESS_LOG,  # it costs more than an OCSP answer does
            keepalive_timeout=_KEEPALIVE_SECONDS,
            auto_decompress=False,  # RULES §1: nothing is decompressed
        )

    def _sockets(self) -> list[socket.socket]:
        """A socket for each address of the host; `localhost` has two."""
        try:
            found = socket.getaddrinfo(
                self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
            )
        except socket.gaierror as error:
            raise ListenerError(f"{self._host} is no address of this machine: {error.strerror}") from None
        sockets: list[socket.socket] = []
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bound(family, address))
            except OSError as error:
                for sock in sockets:
                    sock.close()
                raise ListenerError(
                    f"{self._host}:{self._port} cannot be bound: {error.strerror}; "
                    "choose another port in the configuration, or stop what uses it"
                ) from None
        return sockets


def _bound(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        sock.setblocking(False)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
