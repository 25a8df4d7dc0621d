"""The harness for several servers on one database (support/replicas.py): its balancer, and what it gives each server."""

import asyncio
import socket
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from acmeca import app
from acmeca.config import load_config
from acmeca.pki.issuer import Issuer
from acmeca.storage import audit as audit_storage
from tests.support.load import load, more
from tests.support.persistent_client import Obtained
from tests.support.postgres import make_database, require_programs, shared_server
from tests.support.processes import reserve_ports
from tests.support.replicas import Balancer, make_replicas
from tests.support.status_client import StatusClient


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


@pytest.mark.timeout(240)
async def test_a_replica_is_killed_under_load(tmp_path: Path) -> None:
    """PostgreSQL: clients behind the balancer get all their certificates, whichever replica they come to, and whichever dies.

    RULES §5: what one revokes, each tells of within a second.
    """
    require_programs()
    postgres = shared_server()
    made = await make_replicas(tmp_path, storage_url=postgres.url(await make_database(postgres)))
    one, other = made.servers
    with ExitStack() as stack:
        acme, status = stack.enter_context(made.balanced())
        first = stack.enter_context(await asyncio.to_thread(one.serve))
        second = stack.enter_context(await asyncio.to_thread(other.serve))
        async with load(made.front) as accounts:
            await more(accounts)
            assert set(acme.connections) == {one.acme_port, other.acme_port}
            await asyncio.to_thread(second.kill)
            await more(accounts)
            again = stack.enter_context(await asyncio.to_thread(other.serve))
            await more(accounts)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
                obtained = accounts[0].obtained[0]
                party = StatusClient(session, issuer_of(obtained))
                serial = obtained.certificate.serial_number
                assert [await party.status(serial) for _ in range(2)] == ["GOOD"] * 2
                await asyncio.to_thread(one.cli, "revoke", obtained.serial, "--yes")
                began = time.monotonic()
                while [await party.status(serial) for _ in range(2)] != ["REVOKED"] * 2:
                    assert time.monotonic() - began < 1.0
                assert set(status.connections) == {one.status_port, other.status_port}
        assert [account.failed_orders for account in accounts] == [[]] * len(accounts)
        for process in (first, again):
            assert await asyncio.to_thread(process.terminate) == 0, process.output
    async with app.opened_store(load_config(one.config_path, {})) as store:
        assert await audit_storage.verify(store.database) == []
        rows = await store.database.fetch_all("SELECT serial FROM certificates WHERE signature IS NOT NULL")
        assert {item.serial for account in accounts for item in account.obtained} <= {row["serial"] for row in rows}


def issuer_of(obtained: Obtained) -> Issuer:
    """As the certificate itself names it."""
    leaf, issuer = x509.load_pem_x509_certificates(obtained.chain_pem.encode())[:2]
    access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    (url,) = [item.access_location.value for item in access if item.access_method == AuthorityInformationAccessOID.OCSP]
    return Issuer("", issuer.public_bytes(Encoding.DER), ocsp_url=url, crl_url="", issuer_url="")
