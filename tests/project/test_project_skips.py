"""Under CI a skipped test is a failure, but for those that may be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

TESTS = """
import pytest

def test_fine(): pass

@pytest.mark.skipif(True, reason="something is missing")
def test_marked(): pass

def test_inside(): pytest.skip("something else is missing")

@pytest.mark.peers
def test_peers(): pytest.skip("no peers")

@pytest.mark.xfail(reason="known")
def test_known(): assert False
"""


def run(folder: Path, **environment: str) -> str:
    """pytest's closing line for the tests above, with our conftest."""
    (folder / "test_skips_sample.py").write_text(TESTS)
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CI", "POLYARCH_"))}
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    command += ["--rootdir", str(folder), str(folder)]
    done = subprocess.run(
        command, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, check=False
    )
    return done.stdout.strip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("environment", "closing"),
    [
        ({}, "1 passed, 3 skipped, 1 xfailed"),
        ({"CI": "true"}, "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error"),
    ],
)
def test_skips(tmp_path: Path, environment: dict[str, str], closing: str) -> None:
    assert closing in run(tmp_path, **environment)
