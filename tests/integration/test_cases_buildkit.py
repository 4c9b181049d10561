"""The Dockerfiles of tests/cases solved by a BuildKit daemon give what the embedded engine is held to."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from buildkit_engine import Dockerd
from cases_builders import Attempt, Own, run
from cases_corpus import Case, load
from cases_world import World
from test_cases import difference

from polyarch.builder.instance import Builder, NodeRecord
from polyarch.builder.records import Builders
from polyarch.content.state import State


class Remote(Own):
    """Our command line with a BuildKit daemon as its builder."""

    def __init__(self, state: Path, endpoint: str) -> None:
        super().__init__(state)
        node = NodeRecord(name="remote0", driver="remote", endpoint=endpoint)
        Builders(State(state)).change("remote", lambda _: Builder(name="remote", nodes=(node,)))

    def build(self, arguments: Sequence[str], layout: Path, folder: Path, stdin: bytes | None) -> Attempt:
        return super().build(["--builder=remote", "--network=host", *arguments], layout, folder, stdin)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The server with the bases, web files and repositories of all cases."""
    if shutil.which("busybox") is None:
        pytest.skip("busybox is not installed")
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.close()


@pytest.fixture(scope="session")
def remote(tmp_path_factory: pytest.TempPathFactory, dockerd: Dockerd) -> Remote:
    """Our builder with the daemon."""
    return Remote(tmp_path_factory.mktemp("state"), dockerd.endpoint)


CASES = load()
EVERY = 9  # all of them take two minutes: without POLYARCH_PEERS only every ninth is built


@pytest.mark.network
@pytest.mark.parametrize(
    "case",
    CASES if os.environ.get("POLYARCH_PEERS") else CASES[::EVERY],
    ids=lambda case: case.id,
)
def test_case_in_buildkit(case: Case, remote: Remote, world: World, tmp_path: Path) -> None:
    """What is expected of the embedded engine is what the daemon makes of our graph. Where the embedded
    engine differs from BuildKit on purpose, either will do."""
    found = run(case, remote, world, tmp_path)
    right = [dict(expected) for expected in (case.ours, case.expect) if expected]
    assert any(_agree(case, expected, found) for expected in right), difference(right[0], found)


def _agree(case: Case, expected: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    if "failure" not in expected or "failure" not in found:
        return found == expected
    if "Traceback" in found["failure"] or ("line" in expected and found.get("line") != expected["line"]):
        return False
    said = found["failure"]  # in our words, or in the daemon's
    return re.search(case.mentions, said) is not None or expected["failure"] in said
