"""How a verb reaches the CA: through the admin socket of a running server, or by opening the store itself.

Rule 1: both ways end in the same `Administration` (DESIGN §5: one code path below both).
Rule 2: a socket that nobody listens on is what a killed server left behind, and disturbs nobody.
Rule 3: a server that is just starting or stopping has the lock and no socket; it is waited for, but not for long.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from acmeca.app import is_database_there, opened
from acmeca.config import Config, find_config, load_config
from acmeca.errors import AcmecaError
from acmeca.service.administration import Administration
from acmeca.service.arguments import Json
from acmeca.storage.errors import LockedError
from acmeca.web.control import SOCKET_NAME, user_name

PATIENCE: Final = 5.0  # seconds for a server between its lock and its socket, or for another command to end
TURN: Final = 0.05
_CALL: Final = 300.0  # seconds; a CRL of a million entries takes a while


class Connection(Protocol):
    """Runs an administrator's operation. Raises `AcmecaError` with the line to print."""

    async def call(self, operation: str, arguments: Json) -> Json: ...


class _Here:
    """The store is open in this process."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    async def call(self, operation: str, arguments: Json) -> Json:
        return await self._administration.call(operation, arguments, user=user_name(os.getuid()))


class _Running:
    """A server holds the store's lock and listens on its socket."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, operation: str, arguments: Json) -> Json:
        try:
            async with self._session.post(f"http://acmeca/{operation}", json=arguments) as response:
                document = await response.json()
        except TimeoutError:
            raise AcmecaError(f"the running server did not answer within {_CALL:g} s; its log may say why") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AcmecaError(f"the running server did not answer: {error}; its log may say why") from None
        if not isinstance(document, dict) or not document.keys() & {"error", "result"}:
            raise AcmecaError("the running server gave an answer that is none; is it another version?")
        if "error" in document:
            raise AcmecaError(str(document["error"]))
        result: Json = document["result"]
        return result


def run_operation(config_path: Path | None, operation: str, arguments: Json) -> dict[str, Any]:
    """What a verb does: find the configuration, reach the CA, run one operation."""

    async def run() -> dict[str, Any]:
        async with connected(load(config_path)) as connection:
            return await connection.call(operation, arguments)

    return asyncio.run(run())


def load(config_path: Path | None) -> Config:
    """The configuration that a verb works with."""
    return load_config(find_config(config_path))


@asynccontextmanager
async def connected(config: Config) -> AsyncIterator[Connection]:
    """The CA of this configuration, running or not.

    1. a server that listens, 2. otherwise the store, which has to be there, 3. while another process has its lock, again
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE
    async with AsyncExitStack() as stack:
        while True:
            # Step 1
            path = config.server.data_dir / SOCKET_NAME
            if await is_answered(path):
                yield _Running(await stack.enter_async_context(_session(path)))
                return
            # Step 2
            if not is_database_there(config):
                raise AcmecaError(f"there is no CA in {config.server.data_dir}; make one with: acmeca init")
            try:
                ca = await stack.enter_async_context(opened(config))
            except LockedError as error:
                # Step 3
                if asyncio.get_running_loop().time() > deadline:
                    holder = "another process" if error.pid is None else f"process {error.pid}"
                    raise AcmecaError(
                        f"{holder} has the lock on {config.server.data_dir} and does not answer on {path.name}: a server "
                        "that is starting or stopping, or another command; try again when it is done"
                    ) from None
                await asyncio.sleep(TURN)
                continue
            yield _Here(ca.administration)
            return


def _session(path: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=str(path)), timeout=aiohttp.ClientTimeout(total=_CALL), trust_env=False
    )


async def is_answered(path: Path) -> bool:
    """Whether somebody listens on the socket. Raises `AcmecaError` when that is not for this user to know."""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except PermissionError:
        raise AcmecaError(
            f"{path} belongs to another user ({_owner(path)}); run this as the user that the server runs as"
        ) from None
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def _owner(path: Path) -> str:
    """The owner of a file, or of the nearest directory above it that may be looked at."""
    for place in (path, *path.parents):
        try:
            return user_name(place.stat().st_uid)
        except OSError:
            continue
    return "unknown"
