"""A served CA for the tests with real clients, and the clients themselves.

Rule 1: a tool that is missing skips its tests with what to install. Where ACMECA_REQUIRE_ALL=1, a tool whose package stands in
`tests/system-packages.txt` must be there. certbot is among what the virtualenv is made of, and must always be there.
Rule 2: one CA serves all tests of a worker; each test takes names and directories of its own.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.interop.relying_parties import World, make_world
from tests.support.installations import CHECKOUT, Installation, find_tool, make_installation, short_directory
from tests.support.processes import Process

DEVELOPMENT = frozenset({"certbot"})  # packages of pyproject.toml's group `dev`

RequireTool: TypeAlias = Callable[[str, str], Path]


@pytest.fixture(scope="session")
def require_tool() -> RequireTool:
    """`require_tool(program, package)`: where a program is; skips (or fails) the test when this machine has none."""
    packages = (CHECKOUT / "tests" / "system-packages.txt").read_text().splitlines()

    def require(program: str, package: str) -> Path:
        found = find_tool(program)
        if found is not None:
            return found
        if package in DEVELOPMENT:
            pytest.fail(f"no {program} in this virtualenv: pip install --group dev")
        reason = f"no {program} on this machine: apt-get install {package}"
        if os.environ.get("ACMECA_REQUIRE_ALL") == "1" and package in packages:
            pytest.fail(reason)
        pytest.skip(reason)

    return require


@pytest.fixture(scope="session")
def served() -> Iterator[tuple[Installation, Process]]:
    with short_directory() as directory:
        installation = make_installation(directory)
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
