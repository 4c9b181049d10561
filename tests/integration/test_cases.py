"""Every case of tests/cases is built by our command line; with POLYARCH_PEERS by BuildKit too."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cases_builders import BuildKit, Own, run
from cases_corpus import Case, expectation_text, load
from cases_world import World

CASES = load()
PEERS = os.environ.get("POLYARCH_PEERS", "")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The server with the bases, web files and repositories of all cases."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.close()


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Own:
    """Our builder, with one store for all cases."""
    if importlib.util.find_spec("polyarch.cli.build") is None:
        pytest.skip("the build verb is not there")
    return Own(tmp_path_factory.mktemp("state"))


def difference(expected: dict[str, Any], found: dict[str, Any]) -> str:
    """Both sides as text, line by line, for pytest to show."""
    sides = [expectation_text(side).splitlines() for side in (expected, found)]
    lines = [f"- {line}" for line in sides[0] if line not in sides[1]]
    lines += [f"+ {line}" for line in sides[1] if line not in sides[0]]
    return "\n".join(lines) or "(the same lines in another order)"


@pytest.mark.userns
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(case: Case, own: Own, world: World, tmp_path: Path) -> None:
    """Ours is what BuildKit made of the same files, or what [case.ours] says with a reason."""
    expected = dict(case.ours if case.differs else case.expect)
    assert expected, f"{case.id} has no expectation: run cases_update.py"
    found = run(case, own, world, tmp_path)
    if "failure" not in expected:
        assert found == expected, difference(expected, found)
        return
    assert "failure" in found, f"built, but should fail: {expected['failure']}"
    assert "Traceback" not in found["failure"], found["failure"]
    if "line" in expected:
        assert found.get("line") == expected["line"], found["failure"]
    assert re.search(case.mentions, found["failure"]), f"{case.mentions!r} is not in: {found['failure']}"


@pytest.mark.peers
@pytest.mark.skipif(not PEERS, reason="POLYARCH_PEERS names no script")
@pytest.mark.parametrize("case", [case for case in CASES if not case.by_hand], ids=lambda case: case.id)
def test_buildkit(case: Case, world: World, tmp_path: Path) -> None:
    """What is written down as BuildKit's result is BuildKit's result."""
    expected = dict(case.expect)
    found = run(case, BuildKit(PEERS), world, tmp_path)
    if "failure" in expected and "failure" in found:  # its words hold temporary names, and guesses vary
        expected["failure"] = found["failure"]
    assert found == expected, difference(expected, found)
