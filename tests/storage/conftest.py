"""The stores run on both engines: each of their tests is there twice."""

from collections.abc import AsyncIterator

import pytest

from acmeca.storage.schema import Engine
from acmeca.storage.store import Store
from tests.support.stored import open_store


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.param
    return engine


@pytest.fixture
async def store(engine: Engine) -> AsyncIterator[Store]:
    async with open_store(engine) as store:
        yield store
