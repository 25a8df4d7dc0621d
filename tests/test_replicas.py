"""The harness for several servers on one database (support/replicas.py): its balancer, and what it gives each server."""

import asyncio
import socket
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from acmeca.config import load_config
from tests.support.processes import reserve_ports
from tests.support.replicas import Balancer, make_replicas


@asynccontextmanager
async def echo(name: bytes) -> AsyncIterator[int]:
    """A server that says its name and then what it hears."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def talk(port: int) -> bytes:
    with socket.create_connection(("localhost", port), timeout=20) as sock:
        sock.sendall(b"?")
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(100), b""))


async def test_balancer() -> None:
    """In turn, and past a server that is not there."""
    (port,) = reserve_ports(1)
    async with echo(b"a") as first, echo(b"b") as second:
        with Balancer(port, [first, second]).running() as balancer:
            heard = Counter([await asyncio.to_thread(talk, port) for _ in range(4)])
            assert heard == {b"a?": 2, b"b?": 2}
            balancer.backends = [first, 1]  # nobody listens there
            assert {await asyncio.to_thread(talk, port) for _ in range(3)} == {b"a?"}
            assert set(balancer.connections) == {first, second}


async def test_replicas(tmp_path: Path) -> None:
    """One database, one CA, one set of URLs; everything else is each one's own."""
    made = await make_replicas(tmp_path, storage_url=f"sqlite:///{tmp_path}/common.db")
    configs = [load_config(server.config_path, {}) for server in made.servers]
    assert {config.urls.base for config in configs} == {made.front.base_url}
    assert {config.database_path for config in configs} == {tmp_path / "common.db"}
    assert len({config.server.data_dir for config in configs}) == 2
    assert len({config.server.acme_listen for config in configs}) == 2
    keys = [sorted((config.server.data_dir / "keys").iterdir()) for config in configs]
    assert [path.read_bytes() for path in keys[0]] == [path.read_bytes() for path in keys[1]]
    assert {stat.S_IMODE(path.stat().st_mode) for paths in keys for path in paths} == {0o600}
