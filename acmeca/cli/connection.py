"""How a verb reaches the CA: over the admin socket of a running server, or in this process when none runs."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import aiohttp

from acmeca.app import opened
from acmeca.config import Config, find_config, load_config
from acmeca.errors import AcmecaError
from acmeca.service.administration import Administration, Json
from acmeca.storage.errors import LockedError
from acmeca.web.control import SOCKET_NAME, user_name


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
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise AcmecaError(f"the running server did not answer: {error}; its log may say why") from None
        if "error" in document:
            raise AcmecaError(document["error"])
        result: Json = document["result"]
        return result


@asynccontextmanager
async def connected(config: Config) -> AsyncIterator[Connection]:
    """The CA of this configuration, running or not."""
    path = config.server.data_dir / SOCKET_NAME
    if await _answers(path):
        connector = aiohttp.UnixConnector(path=str(path))
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300)) as session:
            yield _Running(session)
        return
    if not config.database_path.exists():
        raise AcmecaError(f"there is no CA in {config.server.data_dir}; make one with: acmeca init")
    try:
        async with opened(config) as ca:
            yield _Here(ca.administration)
    except LockedError as error:
        raise AcmecaError(f"{error}, but no server answers on {path}; is it starting or stopping?") from None


async def _answers(path: Path) -> bool:
    """Whether somebody listens on the socket; one that a killed server left behind refuses."""
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except PermissionError:
        raise AcmecaError(f"{path} belongs to another user; run this as the user that the server runs as") from None
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


def load(config_path: Path | None) -> Config:
    """The configuration that a verb works with."""
    return load_config(find_config(config_path))
