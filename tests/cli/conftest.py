"""Installations for the command line: one that is served by a process, and ones that are not."""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from acmeca import app
from acmeca.acme.identifiers import Identifier, IdentifierType
from acmeca.cli.main import run
from acmeca.config import load_config
from tests.support.installations import Installation, make_installation
from tests.support.processes import Process
from tests.support.profiles import make_profile


@dataclass(frozen=True, slots=True)
class Said:
    """What a command in this process gave."""

    code: int
    stdout: str
    stderr: str


Acmeca: TypeAlias = Callable[..., Said]


@pytest.fixture
def acmeca(capsys: pytest.CaptureFixture[str]) -> Acmeca:
    """`acmeca(installation, *arguments)` in this process, without a terminal."""

    def invoke(where: Installation | Path | None, *arguments: str) -> Said:
        path = where.config_path if isinstance(where, Installation) else where
        config = [] if path is None else ["--config", str(path)]
        capsys.readouterr()
        code = run([*config, *arguments])
        return Said(code, *capsys.readouterr())

    return invoke


def issue(installation: Installation, *names: str, days: int = 90) -> str:
    """A certificate of profile `server` from a CA that is not served; returns its serial."""

    async def work() -> str:
        async with app.opened(load_config(installation.config_path, {})) as ca:
            certificate = await ca.services.issuance.issue_own(
                make_profile(lifetime=timedelta(days=days)).template,
                tuple(Identifier(IdentifierType.DNS, name) for name in names),
                ec.generate_private_key(ec.SECP256R1()).public_key(),
                signer=ca.services.issuers.active,
            )
            return certificate.serial

    return asyncio.run(work())


def make_ca(directory: Path) -> Installation:
    """A CA that was made and never served."""
    installation = make_installation(directory)
    asyncio.run(app.init(load_config(installation.config_path, {}), actor="admin:test"))
    return installation


@pytest.fixture
def stopped(tmp_path: Path) -> Installation:
    """A CA that nobody serves."""
    return make_ca(tmp_path / "stopped")


@pytest.fixture(scope="session")
def served_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a CA that was served for a moment, and stopped in order; to be copied."""
    installation = make_ca(tmp_path_factory.mktemp("before") / "ca")
    with installation.serve() as server:
        assert server.terminate() == 0, server.output
    return installation.directory


@pytest.fixture
def used(served_before: Path, tmp_path: Path) -> Installation:
    """A CA that was served and is not now: its own copy."""
    shutil.copytree(served_before, tmp_path / "used")
    text = (tmp_path / "used" / "acmeca.toml").read_text()
    installation = make_installation(tmp_path / "ports")  # other ports: the copy must not meet the original
    original = load_config(served_before / "acmeca.toml", {})
    for old, new in (
        (original.server.acme_listen.port, installation.acme_port),
        (original.validation.http_port, installation.http_port),
        (original.server.admin_listen.port, installation.admin_port),
    ):
        text = text.replace(str(old), str(new))
    copied = replace(installation, directory=tmp_path / "used", status_port=original.server.status_listen.port)
    copied.config_path.write_text(text)
    return copied


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Process]]:
    installation = make_ca(tmp_path_factory.mktemp("running") / "ca")
    issue(installation, "first.localhost")
    with installation.serve() as process:
        yield installation, process
        assert process.is_running, process.output


@pytest.fixture(scope="session")
def running(server: tuple[Installation, Process]) -> Installation:
    """A CA that is being served by a process of its own; every test of the worker shares it."""
    return server[0]


@pytest.fixture(params=["stopped", "running"])
def ca(request: pytest.FixtureRequest) -> Installation:
    installation = request.getfixturevalue(request.param)
    assert isinstance(installation, Installation)
    if request.param == "stopped":
        issue(installation, "first.localhost")
    return installation
