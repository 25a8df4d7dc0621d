"""What holds for the tests of the web layer."""

import asyncio
import os
from collections.abc import Callable, Mapping

import pytest
import uvloop

# The server runs on uvloop: every test with a real process (cli, interop, crash) is one of it. Here, in the process of pytest,
# uvloop swallows what pytest-timeout raises, so that a test that hangs hangs for ever; hence only by hand.
_ON_UVLOOP = bool(os.environ.get("ACMECA_TEST_UVLOOP"))


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Sockets are told apart by what the two loops do with them: `ACMECA_TEST_UVLOOP=1 pytest tests/web` asks both."""
    if _ON_UVLOOP and item.path.stem in {"test_connection", "test_listener"}:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
