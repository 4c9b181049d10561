"""Fixtures of the base room: a Debian archive made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
from debian_mirror import Mirror


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """An empty archive: ``add`` packages, then ``write``."""
    return Mirror(tmp_path / "mirror")
