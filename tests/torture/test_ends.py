"""An orderly end under load, and a token that loses its key for a while."""

import asyncio
import signal
import ssl
import time
from collections.abc import Callable

import pytest

from acmeca.storage.lock import StoreLock
from tests.support.installations import Installation
from tests.support.stages import PATIENCE, Client, Stage, check, served, start_load, stopped, until

# --- an orderly end ------------------------------------------------------------------------------------------------


async def test_sigterm_under_load(stage: Stage, client: Client) -> None:
    """`acmeca serve` gets SIGTERM while clients are at it: requests in flight are finished, it exits with 0, lock and socket are
    gone; after the next start the clients come to their certificates."""
    installation = stage.installation
    load = start_load(client, 8, seconds=2 * PATIENCE)
    server = await asyncio.to_thread(installation.serve)
    try:
        await until(lambda: len(load.obtained) >= 8, what="the clients are busy")
        assert installation.socket_path.exists()
        head = await slow_upload(installation, server.send)
        assert await asyncio.to_thread(server.wait) == 0, server.output
        assert "Stopped." in server.output
        assert "Traceback" not in server.output
    finally:
        await asyncio.to_thread(server.close)
    assert head.startswith(b"HTTP/1.1 400 "), head  # an answer to the whole request: its body is no JWS
    assert b"application/problem+json" in head
    assert not installation.socket_path.exists()
    with StoreLock(installation.data_dir):
        pass
    stops = [row["kind"] for row in stage.rows("SELECT kind FROM audit WHERE kind LIKE 'server.%' ORDER BY sequence")]
    assert stops[-2:] == ["server.started", "server.stopped"]
    async with served(stage.plan(journal_path=None)) as again:
        await load.finish()
        await stopped(again)
    assert load.failed_orders == []
    await check(stage, load.obtained)


async def test_sigterm_does_not_wait_for_ever(stage: Stage, client: Client) -> None:
    """A request whose body never comes holds the end up for the time that is set, and no longer."""
    async with served(stage.plan(shutdown_seconds=0.3)) as server:
        _, writer = await half_a_request(stage.installation)
        started = time.monotonic()
        await stopped(server)
        assert 0.3 <= time.monotonic() - started < 10
        writer.close()
    await check(stage)


async def half_a_request(installation: Installation) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which 10 of 20 octets of a body have been sent, and read by the server."""
    tls = ssl.create_default_context(cafile=str(installation.root_path))
    reader, writer = await asyncio.open_connection("localhost", installation.acme_port, ssl=tls)
    head = "POST /acme/new-order HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/jose+json\r\nContent-Length: 20\r\n"
    # The server says "100 Continue" when it has begun to read: from here on the request is in flight.
    writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{" + b" " * 9)
    await writer.drain()
    return reader, writer


async def slow_upload(installation: Installation, send: Callable[[signal.Signals], None]) -> bytes:
    """A request whose second half is sent after the server got SIGTERM and closed its listener; returns the answer."""
    reader, writer = await half_a_request(installation)
    send(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, probe = await asyncio.open_connection("localhost", installation.acme_port)
            except OSError:
                break
            probe.close()
            await asyncio.sleep(0.01)
    writer.write(b" " * 9 + b"}")
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    return answer


# --- a token that fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
async def test_a_token_that_loses_its_key_for_a_while(stage: Stage, client: Client, times: int) -> None:
    """An issuer's key raises what its token raises. The order waits, and is finished from its record when the key is back."""
    account = client.account()
    plan = stage.plan(at="before signature of certificate", happen="fail", times=times)
    async with served(plan) as server:
        obtained = await account.obtain("token.localhost")
        await stopped(server)
        assert server.log.count("TokenLostError: ") == times
    assert account.failed_orders == []
    await check(stage, [obtained])
