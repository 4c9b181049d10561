"""Fixtures of the export room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from export_workshop import Workshop

from polyarch.content.state import State
from polyarch.registry.client import Client
from polyarch.registry.config import Config


@pytest.fixture
def workshop(state: State) -> Workshop:
    return Workshop(state, Client(config=Config(attempts=1)))


@pytest.fixture
def workshops(tmp_path: Path) -> Callable[[str], Workshop]:
    """Makes further workshops, as on other machines."""
    return lambda name: Workshop(State(tmp_path / name), Client(config=Config(attempts=1)))
