"""A CA's database for verbs that only look: opened for reading, beside a running server or without one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from acmeca.config import Config
from acmeca.errors import AcmecaError
from acmeca.storage.postgres_readonly import ReadOnlyPostgres, open_read_only_postgres
from acmeca.storage.readonly import ReadOnlyDatabase, has_log, open_read_only
from acmeca.storage.schema import read_steps

ReadOnly: TypeAlias = ReadOnlyDatabase | ReadOnlyPostgres


@asynccontextmanager
async def opened_for_reading(config: Config) -> AsyncIterator[ReadOnly]:
    """The database, with a schema that this program can read. Raises `AcmecaError` when there is none."""
    path = config.database_path
    if path is None:
        async with open_read_only_postgres(config.storage.url) as server:
            await _require_readable(server, "the database")
            yield server
    elif path.exists():
        with open_read_only(path) as file:
            await _require_readable(file, str(path))
            yield file
    else:
        raise AcmecaError(f"there is no CA in {config.server.data_dir}; make one with: acmeca init")


def is_at_rest(config: Config) -> bool:
    """Whether the database is a file that nobody has open: what is read of it while a server starts may be a mixture."""
    return config.database_path is not None and not has_log(config.database_path)


async def _require_readable(database: ReadOnly, name: str) -> None:
    standing, known = await database.standing(), len(read_steps())
    if standing.version == 0:
        raise AcmecaError(f"{name} has no tables of acmeca; make a CA with: acmeca init")
    if standing.minimum > known:
        raise AcmecaError(
            f"{name} has schema {standing.version}, this program knows {known}: run the newer version of acmeca"
        )
