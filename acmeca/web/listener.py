"""Sockets: an application bound to an address, with TLS or without; the connections to it, counted from their acceptance.

Rule 1: a listener takes a number of connections and turns the others away at once, before any handshake. Event loops tell of a
TLS connection when its handshake has succeeded, and never of one that failed; so https listeners accept by themselves.
Rule 2: a listener that is stopped takes no new connection, finishes the requests it has, and closes.
"""

import asyncio
import logging
import os
import socket
import ssl
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from aiohttp import web

from acmeca.errors import AcmecaError
from acmeca.web.connection import Connection, Patience, Refusal, TurnedAway, guarded, plain_refusal
from acmeca.web.middleware import name_server

log = logging.getLogger(__name__)

_PATIENCE: Final = Patience()
_CONNECTIONS: Final = 1_024
_LOOK_SECONDS: Final = 0.02
_RETRY_SECONDS: Final = 0.2  # after an acceptance that failed
_REPORT_SECONDS: Final = 60.0
_BACKLOG: Final = 1024
_ACCEPTED_AT_ONCE: Final = 64  # then others have their turn
# From Python 3.13 on a server removes the file of its Unix socket; another worker may be listening there by then.
_KEEP_SOCKET: Final[Mapping[str, Any]] = MappingProxyType(
    {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
)


class ListenerError(AcmecaError):
    """An address that cannot be bound: in use, not ours, or a low port without the right to it."""


class Listener:
    """An application on one address. `tls` is the context of an https listener, else it speaks plain http.

    At most `max_connections` stand at a time. `refusal` renders what is refused before the application sees it.
    """

    def __init__(
        self,
        app: web.Application,
        *,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        max_connections: int = _CONNECTIONS,
        patience: Patience = _PATIENCE,
        refusal: Refusal = plain_refusal,
    ) -> None:
        app.on_response_prepare.append(name_server)
        app.on_response_prepare.append(self._close_when_stopping)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=patience.cancelling)
        self._host = host
        self._port = port
        self._tls = tls
        self.max_connections = max_connections
        self._patience = patience
        self._refusal = refusal
        self._servers: list[asyncio.Server] = []
        self._sockets: list[socket.socket] = []
        self._connections: set[Connection] = set()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._turned_away = _Tally()
        self._not_accepted = _Tally()
        self._stopping = False

    async def start(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Serve on these sockets, which listen already, or bind the address. Raises `ListenerError`."""
        await self._set_up()
        loop = asyncio.get_running_loop()
        for sock in bind_address(self._host, self._port)[0] if sockets is None else sockets:
            self._sockets.append(sock)
            if self._tls is not None:
                loop.add_reader(sock, self._accept, sock, self._tls)
            elif sock.family == socket.AF_UNIX:
                self._servers.append(await loop.create_unix_server(self._plain_connection, sock=sock, **_KEEP_SOCKET))
            else:
                server = await loop.create_server(self._plain_connection, sock=sock, backlog=_BACKLOG)
                self._servers.append(server)

    async def start_on_socket(self, path: Path) -> None:
        """Serve on a Unix socket that only its owner can reach."""
        await self.start([bind_socket_file(path)])

    @property
    def endpoints(self) -> Iterable[tuple[str, int]]:
        """The addresses it is bound to, as (address, port)."""
        for sock in self._sockets:
            if sock.family in {socket.AF_INET, socket.AF_INET6}:
                address, port = sock.getsockname()[:2]
                yield address, port

    @property
    def connections(self) -> int:
        """How many are open, from their acceptance on."""
        return len(self._connections)

    async def stop(self) -> None:
        """Rule 2. Requests that are not finished in time are cancelled."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        for server in self._servers:
            server.close()
        for sock in self._sockets:
            if self._tls is not None:
                loop.remove_reader(sock)
                sock.close()
        self._servers.clear()
        self._sockets.clear()
        await self._finish_requests()
        await asyncio.sleep(0)  # a task that never ran could not clean up
        for task in self._handshakes:
            task.cancel()
        await asyncio.gather(*self._handshakes, return_exceptions=True)
        for connection in list(self._connections):
            if connection.is_stalled:
                connection.abort()
        await self._runner.cleanup()
        for tally in (self._turned_away, self._not_accepted):
            tally.close()

    async def _set_up(self) -> None:
        await self._runner.setup()
        server = self._server
        server.request_handler = guarded(server.request_handler, refusal=self._refusal)

    @property
    def _server(self) -> web.Server:
        server = self._runner.server
        if server is None:
            raise RuntimeError("the listener was stopped")
        return server

    # --- Rule 1 -------------------------------------------------------------------------------------------------

    def _plain_connection(self) -> asyncio.Protocol:
        """Called by the event loop when it has accepted a connection."""
        return self._connection() if self._has_room() else TurnedAway()

    def _has_room(self) -> bool:
        if len(self._connections) < self.max_connections:
            return True
        self._turned_away.note(
            f"a connection to {self._name} was turned away: {self.max_connections} are open, the most it takes"
        )
        return False

    def _connection(self, sock: socket.socket | None = None) -> Connection:
        connection = Connection(self._server, sock=sock, patience=self._patience, on_lost=self._connections.discard)
        self._connections.add(connection)
        return connection

    def _accept(self, sock: socket.socket, tls: ssl.SSLContext) -> None:
        """Take what waits at a listening socket."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(sock, tls, error)
                return
            if not self._has_room():
                accepted.close()
                continue
            accepted.setblocking(False)
            task = asyncio.create_task(self._shake_hands(self._connection(accepted), accepted, tls))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(self, connection: Connection, accepted: socket.socket, tls: ssl.SSLContext) -> None:
        """Hand an accepted socket to its connection once the peer speaks TLS."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=tls,
                ssl_handshake_timeout=self._patience.first_request,
                ssl_shutdown_timeout=self._patience.closing,
            )
        except BaseException as error:
            self._connections.discard(connection)  # it is not told of its end when it had no beginning
            connection.abort()
            if isinstance(error, OSError):  # among them ssl.SSLError and TimeoutError
                log.debug("no TLS with a peer of %s: %s", self._name, error)
            elif isinstance(error, Exception):
                log.exception("no TLS with a peer of %s", self._name)
            else:
                raise

    def _pause(self, sock: socket.socket, tls: ssl.SSLContext, error: OSError) -> None:
        """No descriptors or no memory (EMFILE, ENFILE, ENOBUFS, ENOMEM): who waits keeps waiting, and we look again soon."""
        self._not_accepted.note(f"a connection to {self._name} cannot be accepted yet: {error.strerror}")
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        loop.call_later(_RETRY_SECONDS, self._resume, sock, tls)

    def _resume(self, sock: socket.socket, tls: ssl.SSLContext) -> None:
        if sock in self._sockets:  # it was not stopped meanwhile
            asyncio.get_running_loop().add_reader(sock, self._accept, sock, tls)

    @property
    def _name(self) -> str:
        return f"{self._host}:{self._port}" if self._host or self._port else "the control socket"

    # --- Rule 2 -------------------------------------------------------------------------------------------------

    async def _finish_requests(self) -> None:
        """Wait for the requests under way, bounded.

        aiohttp's own shutdown drops whatever still arrives of a request's body, and the request with it, so it has to begin
        when none is under way. No answer leaves its connection open any more, so there are fewer and fewer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience.stopping
        while self._is_busy() and loop.time() < deadline:  # noqa: ASYNC110  (aiohttp tells nobody when a request is done)
            await asyncio.sleep(_LOOK_SECONDS)

    def _is_busy(self) -> bool:
        return any(connection.is_busy for connection in self._connections)

    async def _close_when_stopping(self, _: web.Request, response: web.StreamResponse) -> None:
        if self._stopping:
            response.force_close()


class _Tally:
    """Logs at once that something happens, and from then on at most once a minute how often it did."""

    def __init__(self) -> None:
        self._count = 0
        self._message = ""
        self._timer: asyncio.TimerHandle | None = None

    def note(self, message: str) -> None:
        """It happened once more."""
        self._count += 1
        self._message = message
        if self._timer is None:
            self._report()

    def close(self) -> None:
        """Log what was not logged yet."""
        if self._timer is not None:
            self._timer.cancel()
        if self._count:
            log.warning("%s (%d times)", self._message, self._count)

    def _report(self) -> None:
        self._timer = None
        if self._count:
            log.warning("%s (%d times)", self._message, self._count)
            self._count = 0
            self._timer = asyncio.get_running_loop().call_later(_REPORT_SECONDS, self._report)


# --- sockets --------------------------------------------------------------------------------------------------------


def bind_socket_file(path: Path) -> socket.socket:
    """A Unix socket that listens, and that only its owner can reach. The store's lock is held. Raises `ListenerError`."""
    path.unlink(missing_ok=True)  # whoever made it is gone
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        previous = os.umask(0o177)  # mode 0600 from its first moment on
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
        sock.setblocking(False)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenerError(f"the socket {path} cannot be made: {error.strerror}") from None
    return sock


def bind_address(host: str, port: int, *, shares: int = 1) -> list[list[socket.socket]]:
    """Sockets that listen, for each of `shares` processes one for each address of the host; `localhost` has two.

    The kernel spreads connections over the shares by their addresses and ports (SO_REUSEPORT). Raises `ListenerError`.
    """
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as error:
        raise ListenerError(f"{host} is no address of this machine: {error.strerror}") from None
    sockets: list[list[socket.socket]] = [[] for _ in range(shares)]
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            for share in sockets:
                share.append(_bound(family, address, joins=share is not sockets[0]))
                if shares > 1:
                    # Not before the first one listens: so nobody else listens there, and from now on nobody can who does not
                    # ask for this option. Two servers of one user would share a port without a word otherwise.
                    share[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            for sock in chain.from_iterable(sockets):
                sock.close()
            raise ListenerError(
                f"{host}:{port} cannot be bound: {error.strerror}; "
                "choose another port in the configuration, or stop what uses it"
            ) from None
    return sockets


def _bound(family: int, address: Any, *, joins: bool) -> socket.socket:
    """A socket that listens; one that `joins` does so beside others of ours."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if joins:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        sock.setblocking(False)
        sock.bind(address)
        sock.listen(_BACKLOG)  # with SO_REUSEADDR two may bind, and one listen
    except OSError:
        sock.close()
        raise
    return sock
