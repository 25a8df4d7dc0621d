"""A server of several processes as an outsider meets it: who has a connection, and how to have one with a certain worker.

Rule 1: nothing is asked of acmeca: its log says which process each worker is, the kernel's tables whose a connection is.
"""

import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.support.acme_client import AcmeClient
from tests.support.persistent_client import REQUEST_SECONDS
from tests.support.processes import Process

_ATTEMPTS: Final = 60  # of two workers each gets half of the connections
_WORKER: Final = re.compile(r"worker (\d+) is process (\d+)$", re.MULTILINE)


def worker_pids(server: Process) -> dict[int, int]:
    """The process of each worker, as the log said last."""
    return {int(slot): int(pid) for slot, pid in _WORKER.findall(server.output)}


def is_running(pid: int) -> bool:
    """Whether the process has not ended; one that nobody has reaped yet has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in {"Z", "X"}


def owner(sock: socket.socket, pids: Iterable[int]) -> int | None:
    """Which of the processes has the other end of an IPv4 connection to this machine."""
    (_, port), (_, server_port) = sock.getsockname(), sock.getpeername()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *rest = line.split()
        if int(local.partition(":")[2], 16) == server_port and int(remote.partition(":")[2], 16) == port:
            inode = f"socket:[{rest[6]}]"
            return next((pid for pid in pids if inode in _open_files(pid)), None)
    return None


def _open_files(pid: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(path.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    return found


class Connecting:
    """Sockets for `aiohttp.TCPConnector(socket_factory=…)`, remembered."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []

    def __call__(self, address: Any) -> socket.socket:
        family, type_, proto, _, _ = address
        sock = socket.socket(family, type_, proto)
        self.sockets.append(sock)
        return sock


class PinnedClient(AcmeClient):
    """An ACME client that keeps its one connection: aiohttp closes it after the answer to a HEAD."""

    async def new_nonce(self) -> str:
        """A nonce from newNonce (§7.2: GET, too)."""
        async with self.session.get(self.directory["newNonce"]) as response:
            assert response.status == 204, response
            return response.headers["Replay-Nonce"]


@asynccontextmanager
async def session_with(
    pid: int, pids: Iterable[int], url: str, *, root_pem: bytes
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session of one connection, which is with this process from its beginning to its end."""
    pids = list(pids)
    for _ in range(_ATTEMPTS):
        connecting = Connecting()
        async with open_session(connecting, root_pem=root_pem, limit=1) as session:
            async with session.get(url) as response:
                await response.read()
            if owner(connecting.sockets[0], pids) != pid:
                continue
            yield session
            assert len(connecting.sockets) == 1, "the connection was lost, and the next one may be with another worker"
            return
    raise AssertionError(f"of {_ATTEMPTS} connections none was with process {pid}")


@asynccontextmanager
async def open_session(connecting: Connecting, *, root_pem: bytes, limit: int) -> AsyncIterator[aiohttp.ClientSession]:
    """A session over IPv4 with up to `limit` connections (0: as many as are asked for)."""
    connector = aiohttp.TCPConnector(
        ssl=ssl.create_default_context(cadata=root_pem.decode()),
        limit=limit,
        family=socket.AF_INET,
        socket_factory=connecting,
        keepalive_timeout=REQUEST_SECONDS,
    )
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield session
