"""A CA in a directory of its own, served by a process of its own, as an administrator would have it.

Rule 1: it is reached only by what an outsider has: the command line, the URLs, the files in its data directory.
Rule 2: ports are reserved (`processes.reserve_ports`), so that test runs beside each other do not meet.
"""

import http.client
import json
import os
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.processes import Finished, Process, clean_environment, reserve_ports, run

READY: Final = r"^Ready\."
CHECKOUT: Final = Path(__file__).resolve().parents[2]

_CONFIG: Final = """\
[server]
base_url = "https://localhost:{acme_port}"
status_url = "http://localhost:{status_port}"
data_dir = "ca"
acme_listen = "localhost:{acme_port}"
status_listen = "localhost:{status_port}"
admin_listen = "localhost:{admin_port}"

[ca]
organization = "Example"
common_name = "Example CA"

[policy]
{policy}

[validation]
allowed_networks = ["127.0.0.0/8", "::1/128"]
http_port = {http_port}
"""


@dataclass(frozen=True)
class Installation:
    """Paths, ports and URLs of one CA; nothing runs yet."""

    directory: Path
    acme_port: int
    status_port: int
    http_port: int  # where http-01 is checked
    admin_port: int

    @property
    def config_path(self) -> Path:
        return self.directory / "acmeca.toml"

    @property
    def data_dir(self) -> Path:
        return self.directory / "ca"

    @property
    def root_path(self) -> Path:
        return self.data_dir / "root.pem"

    @property
    def database_path(self) -> Path:
        return self.data_dir / "acmeca.db"

    @property
    def socket_path(self) -> Path:
        return self.data_dir / "acmeca.sock"

    @property
    def base_url(self) -> str:
        return f"https://localhost:{self.acme_port}"

    @property
    def status_url(self) -> str:
        return f"http://localhost:{self.status_port}"

    @property
    def admin_url(self) -> str:
        return f"http://localhost:{self.admin_port}"

    @property
    def directory_url(self) -> str:
        return f"{self.base_url}/acme/directory"

    def serve(self, *options: str, env: Mapping[str, str] | None = None) -> Process:
        """`acmeca serve`, ready. The caller closes it (`with`)."""
        process = Process(self._command("serve", *options), env=clean_environment(**(env or {})), cwd=self.directory)
        try:
            process.wait_for_line(READY)
        except BaseException:
            process.close()
            raise
        return process

    def cli(self, *arguments: str, code: int | None = 0) -> Finished:
        """An `acmeca` command with this configuration."""
        return run(self._command(*arguments), cwd=self.directory, code=code)

    def operate(self, operation: str, **arguments: object) -> dict[str, Any]:
        """What the running server answers to an operation on its socket: as `cli`, without a new Python each time."""
        with closing(_SocketConnection(self.socket_path)) as connection:
            connection.request("POST", f"/{operation}", json.dumps(arguments))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        assert "result" in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _command(self, *arguments: str) -> list[str]:
        # -P: the working directory is not the checkout, and must not become part of the module path either
        return [sys.executable, "-P", "-m", "acmeca", "--config", str(self.config_path), *arguments]


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def make_installation(
    directory: Path,
    *,
    more: str = "",
    policy: str = 'allowed_names = ["*.localhost"]',
) -> Installation:
    """Write the configuration; `more` is TOML that is added to it, to `[validation]` first; `policy` is all of `[policy]`.

    The CA itself is made by `init` or `serve --init`.
    """
    acme_port, status_port, http_port, admin_port = reserve_ports(4)
    directory.mkdir(parents=True, exist_ok=True)
    installation = Installation(directory, acme_port, status_port, http_port, admin_port)
    text = _CONFIG.format(
        acme_port=acme_port,
        status_port=status_port,
        http_port=http_port,
        admin_port=admin_port,
        policy=policy,
    )
    installation.config_path.write_text(text + more)
    return installation


_MEMORY: Final = Path("/dev/shm")  # a file system in memory, where there is one: commits wait for no disk


@contextmanager
def short_directory(*, in_memory: bool = False) -> Iterator[Path]:
    """A temporary directory with a short path: a Unix socket's has at most 107 octets, and pytest's own paths are long.

    `in_memory` where that is possible, for tests that end processes and not the machine.
    """
    place = _MEMORY if in_memory and os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="acmeca-", dir=place, ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def find_tool(name: str | Path) -> Path | None:
    """A program of this virtualenv, or else of the machine; by its path, that one alone. None when it is not there."""
    if isinstance(name, Path):
        return name if name.exists() else None
    own = Path(sysconfig.get_path("scripts"), name)
    if own.exists():
        return own
    found = shutil.which(name)
    return None if found is None else Path(found)
