"""Two servers on one database: data directories and ports of their own, one CA, and a balancer in front of them.

Rule 1: nothing of the CA is replaced. A replica is an `Installation` whose configuration names the common database
(`[storage] url`) and the common URLs, and whose data directory was given the issuers' keys.
Rule 2: the balancer knows nothing of HTTP: each connection goes to the next server in turn that takes it, and is left alone from
then on. It has a thread and an event loop of its own, so that a test may wait for processes without holding it up.
"""

import asyncio
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from acmeca import app
from acmeca.config import load_config
from tests.support.installations import Installation
from tests.support.processes import Process, reserve_ports

_CHUNK: Final = 1 << 16
_START_SECONDS: Final = 10.0

_CONFIG: Final = """\
[server]
base_url = "https://localhost:{front.acme_port}"
status_url = "http://localhost:{front.status_port}"
data_dir = "ca"
acme_listen = "localhost:{acme_port}"
status_listen = "localhost:{status_port}"
admin_listen = "localhost:{admin_port}"

[ca]
organization = "Example"
common_name = "Example CA"

[policy]
allowed_names = ["*.localhost"]

[validation]
allowed_networks = ["127.0.0.0/8", "::1/128"]
http_port = {front.http_port}

[storage]
url = "{storage_url}"
"""


@dataclass
class Balancer:
    """One port in front of several. `backends` may change while it runs: an empty list takes no connection through."""

    port: int
    backends: Sequence[int]
    connections: list[int] = field(default_factory=list)  # the backend of each that was taken through
    _turn: int = 0

    @contextmanager
    def running(self) -> Iterator["Balancer"]:
        """The balancer, listening, for the block."""
        loop = asyncio.new_event_loop()
        listening, stop = threading.Event(), asyncio.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(self._serve(listening, stop),), daemon=True)
        thread.start()
        try:
            if not listening.wait(_START_SECONDS):
                raise RuntimeError(f"the balancer does not listen on port {self.port}")
            yield self
        finally:
            if loop.is_running():
                loop.call_soon_threadsafe(stop.set)
            thread.join(_START_SECONDS)
            loop.close()

    async def _serve(self, listening: threading.Event, stop: asyncio.Event) -> None:
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._take_through(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "localhost", self.port)
        listening.set()
        await stop.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn

    async def _take_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind = await self._connect()
        try:
            if behind is not None:
                their_reader, their_writer = behind
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(reader, their_writer))
                    group.create_task(_copy(their_reader, writer))
        finally:
            writer.transport.abort()
            if behind is not None:
                behind[1].transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Rule 2: the next one in turn that takes it; None when nobody does."""
        backends = list(self.backends)
        for _ in backends:
            port = backends[self._turn % len(backends)]
            self._turn += 1
            with suppress(OSError):
                connected = await asyncio.open_connection("127.0.0.1", port)
                self.connections.append(port)
                return connected
        return None


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


@dataclass(frozen=True)
class Replicas:
    """One CA on several servers. `front` has the URLs that clients use; its ports are the balancers'."""

    front: Installation
    servers: Sequence[Installation]

    @contextmanager
    def balanced(self) -> Iterator[tuple[Balancer, Balancer]]:
        """The balancers of ACME and of status, in front of all servers; none has to run yet."""
        acme = Balancer(self.front.acme_port, [server.acme_port for server in self.servers])
        status = Balancer(self.front.status_port, [server.status_port for server in self.servers])
        with acme.running(), status.running():
            yield acme, status

    @contextmanager
    def served(self, *options: str) -> Iterator[list[Process]]:
        """A process for each server, all of them ready."""
        with ExitStack() as stack:
            yield [stack.enter_context(server.serve(*options)) for server in self.servers]


async def make_replicas(directory: Path, *, storage_url: str, count: int = 2) -> Replicas:
    """Make a CA in the database at `storage_url`, and `count` servers that have its keys."""
    acme_port, status_port, http_port, admin_port = reserve_ports(4)
    front = Installation(directory / "0", acme_port, status_port, http_port, admin_port)
    servers: list[Installation] = []
    for number in range(count):
        acme_port, status_port, admin_port = reserve_ports(3)
        server = Installation(directory / str(number), acme_port, status_port, http_port, admin_port)
        server.directory.mkdir(parents=True)
        text = _CONFIG.format(
            front=front, acme_port=acme_port, status_port=status_port, admin_port=admin_port, storage_url=storage_url
        )
        server.config_path.write_text(text)
        servers.append(server)
    await app.init(load_config(servers[0].config_path, {}), actor="admin:test")
    for server in servers[1:]:
        server.data_dir.mkdir(mode=0o700)
        shutil.copytree(servers[0].data_dir / "keys", server.data_dir / "keys")
        shutil.copy(servers[0].root_path, server.root_path)
    return Replicas(front, servers)
