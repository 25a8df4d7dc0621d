"""What holds for every test."""

import sys

import pytest


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes name no test: keys and what they signed differ from process to process, and pytest-xdist compares names."""
    return argname if isinstance(val, bytes) else None


def pytest_sessionfinish() -> None:
    """End what tests share, where it was used."""
    postgres = sys.modules.get("tests.support.postgres")
    if postgres is not None:
        postgres.end_shared()
