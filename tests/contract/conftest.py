"""Each test of the contract is there for both engines."""

import pytest

from acmeca.storage.schema import Engine


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Engine:
    engine: Engine = request.param
    return engine
