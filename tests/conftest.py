"""What holds for every test."""

import pytest


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes name no test: keys and what they signed differ from process to process, and pytest-xdist compares names."""
    return argname if isinstance(val, bytes) else None
