"""A served CA for the tests with real clients, and the clients themselves.

Rule 1: a tool that is missing skips its tests with what to install. Where ACMECA_REQUIRE_ALL=1, a tool whose package stands in
`tests/system-packages.txt` must be there. certbot is among what the virtualenv is made of, and must always be there.
Rule 2: one CA serves all tests of a worker; each test takes names and directories of its own.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn, TypeAlias

import pytest

from tests.interop.clients.client import Binding, Client
from tests.interop.clients.fleet import Kind
from tests.interop.clients.uacme import Uacme, namespace
from tests.interop.relying_parties import World, make_world
from tests.interop.responders import ZONE, Zone, dns_zone
from tests.support.installations import CHECKOUT, Installation, find_tool, make_installation, short_directory
from tests.support.processes import Process, reserve_ports, run

IN_VIRTUALENV = frozenset({"certbot"})  # programs that come with pyproject.toml's group `dev`

_POLICY: Final = f"""\
allowed_names = ["*.localhost", "*.{ZONE}"]
allowed_networks = ["127.0.0.0/8", "::1/128"]
wildcards = true
"""
_VALIDATION: Final = """\
challenges = ["http-01", "tls-alpn-01", "dns-01"]
resolvers = ["{server}"]
tls_alpn_port = {tls_port}
"""

RequireTool: TypeAlias = Callable[[str | Path, str], Path]
NewClient: TypeAlias = Callable[..., Client]


@pytest.fixture(scope="session")
def require_tool() -> RequireTool:
    """`require_tool(program, package)`: where a program is; skips (or fails) the test when this machine has none.

    A name is looked for in the virtualenv and on the PATH; a path is that program and no other.
    """
    packages = (CHECKOUT / "tests" / "system-packages.txt").read_text().splitlines()

    def require(program: str | Path, package: str) -> Path:
        found = find_tool(program)
        if found is not None:
            return found
        if program in IN_VIRTUALENV:
            pytest.fail(f"no {program} in this virtualenv: pip install --group dev")
        reason = f"no {program} on this machine: apt-get install {package}"
        if package in packages:
            _missing(reason)
        pytest.skip(reason)

    return require


@pytest.fixture(scope="session")
def zone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zone]:
    """The DNS that the CA asks, for names below interop.internal; names below localhost need none."""
    with dns_zone(tmp_path_factory.mktemp("zone")) as zone:
        yield zone


@pytest.fixture(scope="session")
def tls_port() -> int:
    """Where tls-alpn-01 is checked."""
    (port,) = reserve_ports(1)
    return port


@pytest.fixture(scope="session")
def served(zone: Zone, tls_port: int) -> Iterator[tuple[Installation, Process]]:
    with short_directory(in_memory=True) as directory:
        installation = make_installation(
            directory, policy=_POLICY, more=_VALIDATION.format(server=zone.server, tls_port=tls_port)
        )
        with installation.serve("--init") as server:
            yield installation, server
            assert server.is_running, server.output


@pytest.fixture(scope="session")
def ca(served: tuple[Installation, Process]) -> Installation:
    """A CA that is being served."""
    return served[0]


@pytest.fixture(scope="session")
def world(ca: Installation, require_tool: RequireTool, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three certificates of that CA, one of them revoked."""
    require_tool("openssl", "openssl")
    return make_world(ca, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def new_client(
    ca: Installation, zone: Zone, tls_port: int, require_tool: RequireTool, tmp_path_factory: pytest.TempPathFactory
) -> NewClient:
    """`new_client(kind, binding)`: somebody who never used that client before, with an external account or without."""

    def make(kind: Kind, binding: Binding | None = None) -> Client:
        program = require_tool(kind.program, kind.package)
        if kind.client is Uacme:
            _require_namespaces(ca)
        return kind.client(program, ca, zone, tmp_path_factory.mktemp(kind.name), tls_port, binding)

    return make


def _require_namespaces(ca: Installation) -> None:
    done = run([*namespace(ca.root_path), "true"], code=None)
    if done.code != 0:
        _missing(f"no mount namespace for uacme, which trusts the system's certificates only: {done.said}")


def _missing(reason: str) -> NoReturn:
    if os.environ.get("ACMECA_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
