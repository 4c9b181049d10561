"""What starting up costs: only what a command uses is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "asyncio",
    "click",
    "deflate",
    "isal",
    "msgspec",
    "rich",
    "ssl",
    "sqlite3",
    "urllib3",
    "uvicorn",
    "zstandard",
}


def imported(program: str) -> set[str]:
    """The top-level modules loaded after ``program`` ran."""
    report = "\nimport sys; print('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", program + report]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_is_cheap() -> None:
    assert not imported("import polyarch") & HEAVY


def test_version_imports_nothing_heavy() -> None:
    program = "from polyarch.cli.main import main; main(['--version'])"
    assert not imported(program) & (HEAVY - {"click"})


@pytest.mark.parametrize("verb", ["--help", "base --help"])
def test_help_draws_nothing_and_opens_no_connection(verb: str) -> None:
    program = f"from polyarch.cli.main import main; main({verb.split()!r})"
    assert not imported(program) & {"rich", "urllib3", "uvicorn", "ssl", "asyncio"}
