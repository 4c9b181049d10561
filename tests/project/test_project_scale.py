"""The simulation behind docs/scale.md: its figures are those of the page, and what it says a build asks of a
registry is what builds ask."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import polyarch
from bench import fleet
from polyarch.testing.faulty_registry import Faults, faulty_registry

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_page_has_the_figures_of_the_simulation() -> None:
    text = PAGE.read_text()
    shown = text.split(fleet.MARKS[0])[1].split(fleet.MARKS[1])[0].strip()
    assert shown == fleet.table(fleet.rows(50, 1000, 1))


@pytest.mark.parametrize("policy", fleet.POLICIES, ids=lambda policy: policy.name)
def test_nothing_is_lost(policy: fleet.Policy) -> None:
    made, totals = fleet.simulate(policy, nodes=10, count=120, seed=7)
    again = fleet.simulate(policy, nodes=10, count=120, seed=7)[1]
    assert totals == again
    count = len(totals.times)
    assert 80 < count < 160 and len(totals.waits) == totals.sessions == 2 * count
    assert totals.steps == 2 * totals.sessions >= totals.here + totals.fetched
    assert sum(totals.minutes.values()) == totals.requests
    for nodes in made.nodes.values():
        for node in nodes:
            assert node.size == sum(node.kept.values()) <= fleet.STORE


def test_a_node_keeps_what_was_used_last() -> None:
    node = fleet.Node("n", "amd64")
    for number in range(fleet.STORE // (10 * fleet.GB) + 2):
        node.has("0")
        node.keep(str(number), 10 * fleet.GB)
    assert node.size <= fleet.STORE and node.has("0") and not node.has("1")


def test_requests_are_those_of_real_builds(tmp_path: Path) -> None:
    faults, count = Faults(), 0

    def asked() -> int:
        number = len(faults.requests)
        faults.requests.clear()
        return number

    def write(folder: Path, dockerfile: str, *names: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "Dockerfile").write_text(dockerfile)
        for name in names:
            (folder / name).write_bytes(random.randbytes(10_000))

    with faulty_registry(tmp_path / "registry", faults) as address:
        base, app = tmp_path / "base", tmp_path / "app"
        layers = ("a", "b", "c", "d")
        write(base, "FROM scratch\n" + "".join(f"COPY {name} /{name}\n" for name in layers), *layers)
        both = ["linux/amd64", "linux/arm64"]
        polyarch.build(base, platforms=both, tags=[f"{address}/base"], push=True, root=tmp_path / "first")
        write(app, f"FROM {address}/base\nCOPY x /x\nCOPY y /y\nCOPY z /z\n", "x", "y", "z")

        def build(caching: bool = False) -> int:
            nonlocal count
            count += 1  # a client that keeps nothing
            cache = [f"type=registry,ref={address}/cache"] if caching else []
            polyarch.build(
                app,
                platforms=both,
                tags=[f"{address}/app"],
                push=True,
                root=tmp_path / f"client{count}",
                cache_from=cache,
                cache_to=cache,
            )
            return asked()

        asked()
        fetched = mounted = len(layers)
        usual = fleet.OPENING + fleet.resolving() + fetched
        assert build() == usual + mounted + fleet.pushing(7, 3)
        assert build() == usual + fleet.pushing(7, 0)
        write(app, (app / "Dockerfile").read_text(), "z")
        assert build() == usual + fleet.pushing(7, 1)
        build(caching=True)
        write(app, (app / "Dockerfile").read_text(), "z")
        assert abs(build(caching=True) - (usual + fleet.pushing(7, 1) + fleet.CACHING)) <= 2
        assert abs(build(caching=True) - (fleet.OPENING + fleet.resolving() + fleet.CACHED)) <= 2
