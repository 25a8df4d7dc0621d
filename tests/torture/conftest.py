"""What the failure tests share: a CA that has run once, copied for each test, and its clients (`support/stages.py`)."""

import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from tests.support.installations import Installation, make_installation, short_directory
from tests.support.stages import TORTURE, Client, Stage, clients_of, made_stage

# What takes half a minute by itself, and has a shorter relative in `make test` (a replica that is killed: test_replicas.py).
collect_ignore = [] if TORTURE else ["test_rolling_restart.py"]


@pytest.fixture(scope="session")
def template() -> Iterator[Installation]:
    with short_directory(in_memory=True) as directory:
        yield made_stage(directory).installation


@pytest.fixture
def stage(template: Installation) -> Iterator[Stage]:
    with short_directory(in_memory=True) as directory:
        shutil.copytree(template.directory, directory, dirs_exist_ok=True)
        yield Stage(replace(template, directory=directory))


@pytest.fixture
def empty_stage() -> Iterator[Stage]:
    """A configuration, and no CA."""
    with short_directory(in_memory=True) as directory:
        yield Stage(make_installation(directory))


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[Client]:
    async with clients_of(stage.installation) as client:
        yield client
