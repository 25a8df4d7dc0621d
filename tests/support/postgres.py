"""A real PostgreSQL for tests: made, started and ended here, with its durability on.

Rule 1: one server serves all tests of a worker, each with a database of its own, copied from a template. Tests that end or stop
a server make their own.
Rule 2: PostgreSQL refuses to run as root, so as root it runs as the user `postgres`, otherwise as who we are.
Rule 3: without PostgreSQL its tests are skipped with what to install, and fail where ACMECA_REQUIRE_ALL=1.
"""

import asyncio
import atexit
import contextlib
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from acmeca.storage.database import Seal
from acmeca.storage.postgres import PostgresDatabase
from acmeca.storage.postgres_session import Limits
from acmeca.storage.schema import Step
from tests.support.processes import clean_environment, reserve_ports

USER: Final = "acmeca"
PASSWORD: Final = "p@ss/word"  # asked for over TCP; it has to be quoted in a URL
_START_SECONDS: Final = 60.0
_CONFIGURATION: Final = """
listen_addresses = '127.0.0.1'
max_connections = 60
shared_buffers = 16MB
fsync = on
synchronous_commit = on
wal_level = replica
max_wal_size = 256MB
min_wal_size = 8MB
log_min_messages = warning
log_line_prefix = '%m %p '
"""

_numbers = itertools.count(1)


_PROGRAMS: Final = ("initdb", "postgres", "pg_basebackup")


def find_programs() -> Path | None:
    """Where the server's programs are; Debian keeps them off the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("initdb")
    if on_path:
        places.append(Path(on_path).resolve().parent)
    return next((place for place in places if all((place / program).exists() for program in _PROGRAMS)), None)


def require_programs() -> Path:
    programs = find_programs()
    if programs is None:
        reason = "no PostgreSQL server on this machine: apt-get install postgresql"
        if os.environ.get("ACMECA_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return programs


def _account() -> dict[str, Any]:
    """Whom the server runs as, as arguments for `subprocess`."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam("postgres")
    except KeyError:
        entry = pwd.getpwnam("nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _end_with_us() -> list[str]:
    """What has the kernel end a server whose tests were killed, where there is such a thing."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "QUIT"] if setpriv else []


class PostgresServer:
    """One server: its directory, its port, its process."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port
        self.data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str) -> str:
        """The quick way to it: its Unix socket, which trusts whoever may enter its directory."""
        return f"postgresql://{USER}@/{database}?host={self.directory}&port={self.port}"

    def tcp_url(self, database: str, *others: "PostgresServer") -> str:
        """The way that a server on another host takes; with several servers it takes the one that takes writes."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self, *others))
        return f"postgresql://{USER}:p%40ss%2Fword@{hosts}/{database}"

    def initialize(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(PASSWORD)
        os.chmod(password_file, 0o644)  # noqa: PTH101  (the directory is closed)
        self.run(
            "initdb",
            *("--pgdata", str(self.data), "--username", USER, "--pwfile", str(password_file), "--no-sync"),
            *(
                "--auth-local",
                "trust",
                "--auth-host",
                "scram-sha-256",
                "--encoding",
                "UTF8",
                "--locale",
                "C.UTF-8",
                "--wal-segsize",
                "1",
            ),
        )
        self.configure(_CONFIGURATION)
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("local replication all trust\n")

    def configure(self, settings: str) -> None:
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(settings)

    def run(self, program: str, *arguments: str) -> str:
        """A program of PostgreSQL, as the server's user."""
        result = subprocess.run(
            [str(require_programs() / program), *arguments],
            cwd="/",
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_START_SECONDS,
            check=False,
            **_account(),
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *_end_with_us(),
                    str(require_programs() / "postgres"),
                    *("-D", str(self.data), "-k", str(self.directory), "-p", str(self.port)),
                ],
                cwd="/",
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **_account(),
            )
        end = time.monotonic() + _START_SECONDS
        status = self.data / "postmaster.pid"
        while True:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            with contextlib.suppress(FileNotFoundError):
                lines = status.read_text().splitlines()
                if len(lines) >= 8 and lines[7].strip() in {"ready", "standby"} and lines[0] == str(self.pid):
                    return
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it: SIGQUIT as a crash would, SIGINT in good order. By its PID, and it is waited for."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=30)


def _place() -> Path | None:
    """Memory where there is plenty: nothing here cuts the power, and a disk that others use makes the tests slow."""
    memory = Path("/dev/shm")
    is_roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    return memory if is_roomy else None


@contextlib.contextmanager
def make_directory() -> Iterator[Path]:
    """A short path (a socket's name has 107 bytes) that the server's user owns."""
    with tempfile.TemporaryDirectory(prefix="acmeca-pg-", dir=_place(), ignore_cleanup_errors=True) as name:
        account = _account()
        if account:
            os.chown(name, account["user"], account["group"])
        yield Path(name)


@contextlib.contextmanager
def make_server(settings: str = "") -> Iterator[PostgresServer]:
    """A server of a test's own, started."""
    require_programs()
    with make_directory() as directory:
        server = PostgresServer(directory, reserve_ports(1)[0])
        shutil.copytree(_pristine(), server.data, copy_function=_copy)
        _give_away(server.data)
        server.configure(settings)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def make_standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A server that follows another one and calls itself `standby`, started."""
    with make_directory() as directory:
        server = PostgresServer(directory, reserve_ports(1)[0])
        primary.run(
            "pg_basebackup",
            *("--host", str(primary.directory), "--port", str(primary.port), "--username", USER),
            *("--pgdata", str(server.data), "--checkpoint", "fast", "--no-sync"),
        )
        (server.data / "standby.signal").touch()
        server.configure(
            f"primary_conninfo = 'host={primary.directory} port={primary.port} user={USER} application_name=standby'\n"
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


def _copy(source: str, target: str) -> str:
    return str(shutil.copy(source, target))


def _give_away(data: Path) -> None:
    account = _account()
    data.chmod(0o700)
    if account:
        for path in (data, *data.rglob("*")):
            os.chown(path, account["user"], account["group"])


_held: Final = contextlib.ExitStack()  # what lives as long as this process


def end_shared() -> None:
    """End the shared server and remove its files; called when pytest ends, for a worker of xdist may not live much longer."""
    _held.close()
    _pristine.cache_clear()
    shared_server.cache_clear()
    _free.clear()


@functools.cache
def _pristine() -> Path:
    """The data directory of a server that was never started: making one takes two seconds, copying it a tenth."""
    server = PostgresServer(_held.enter_context(make_directory()), 5432)
    server.initialize()
    return server.data


@functools.cache
def shared_server() -> PostgresServer:
    """The server of this process, ended with it."""
    server = _held.enter_context(make_server())
    atexit.register(end_shared)  # after everything that is needed for it was registered, so before that goes
    return server


# --- its databases ------------------------------------------------------------------------------------------------

_free: dict[tuple[Step, ...] | None, list[str]] = {}  # databases of the shared server that nobody uses, by their steps


async def administer(server: PostgresServer, *statements: str, database: str = "postgres") -> Any:
    """Run statements as the server's owner; the first value of the last one's first row."""
    connection = await asyncpg.connect(server.url(database))
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def make_database(server: PostgresServer) -> str:
    """The name of a new, empty database."""
    name = f"test_{next(_numbers)}"
    await administer(server, f"CREATE DATABASE {name}")
    return name


@contextlib.asynccontextmanager
async def lend_database(*, steps: Sequence[Step] | None = None) -> AsyncIterator[str]:
    """A database of the shared server without a row, for one test; it has taken `steps`, the program's own unless given.

    It is swept and lent again: making one takes a tenth of a second and more, for its files have to reach the disk.
    """
    require_programs()
    server = shared_server()
    free = _free.setdefault(None if steps is None else tuple(steps), [])
    name = free.pop() if free else await make_database(server)
    yield name
    # In this mode no row looks for another one that it refers to.
    await administer(
        server,
        "SET session_replication_role = replica",
        """
        DO $$ DECLARE name text; BEGIN
            FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_version' LOOP
                EXECUTE format('DELETE FROM %I', name);
            END LOOP;
        END $$
        """,
        "SELECT 1",
        database=name,
    )
    free.append(name)


async def wait_for(server: PostgresServer, question: str) -> None:
    """Ask the server until it says yes."""
    async with asyncio.timeout(_START_SECONDS):
        while not await administer(server, question):  # noqa: ASYNC110  (it tells nobody by itself)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def open_postgres(
    *,
    steps: Sequence[Step] | None = None,
    seal: Seal | None = None,
    limits: Limits | None = None,
    queue_limit: int = 2000,
) -> AsyncIterator[PostgresDatabase]:
    """A database of the shared server, without a row; the program's own schema unless `steps` are given."""
    async with lend_database(steps=steps) as name:
        database = await PostgresDatabase.open(
            shared_server().url(name), steps=steps, seal=seal, limits=limits, queue_limit=queue_limit
        )
        try:
            yield database
        finally:
            await database.close()
