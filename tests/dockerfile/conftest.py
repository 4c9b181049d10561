"""Golden files: ``pytest tests/dockerfile --update`` writes them anew."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    try:
        parser.addoption("--update", action="store_true", help="write golden files anew")
    except ValueError:
        pass  # another folder's conftest has defined it


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written instead of compared."""
    return bool(request.config.getoption("--update", default=False))
