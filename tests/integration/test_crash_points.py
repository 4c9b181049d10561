"""A build, a push, a pull and a prune are killed, or their disk fails, at every step on the file system: what
is there afterwards is the old or the new state, and it works.

The points tried in every run are few and always the same; POLYARCH_SWEEP=1 adds a test of them all (minutes).
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from crash_workshop import NAME, Workshop, adopting_orphans

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client
from polyarch.registry.server.running import serve_in_thread

pytestmark = pytest.mark.userns
FEW = {"kill": 3, "ENOSPC": 1, "EIO": 1}


@dataclass
class Accident:
    """A command in a state of its own, and what must be true after it was stopped anywhere."""

    state: State
    words: list[str]
    check: Callable[[], None]


class Places:
    """Makes states ready for an operation, registries too, for one test."""

    def __init__(self, workshop: Workshop, stack: ExitStack) -> None:
        self.workshop = workshop
        self.stack = stack

    def make(self, operation: str) -> Accident:
        made: Accident = getattr(self, operation)()
        self.stack.callback(shutil.rmtree, made.state.root)
        return made

    def build(self) -> Accident:
        state = self.workshop.copy()
        return Accident(state, self.workshop.build_words("new"), lambda: self._whole(state))

    def prune(self) -> Accident:
        state = self.workshop.copy()
        self.workshop.build(state, "new")
        return Accident(state, ["prune", "--force"], lambda: self._whole(state))

    def prune_all(self) -> Accident:
        state = self.workshop.copy()

        def check() -> None:
            self.workshop.check_processes(state)
            self.workshop.check_whole(state)
            self.workshop.check_tidy(state)
            self.workshop.check_whole(state)

        return Accident(state, ["prune", "--force", "--all"], check)

    def _whole(self, state: State) -> None:
        self.workshop.check(state)

    def push(self) -> Accident:
        workshop = self.workshop
        state, name = self._registry()
        workshop.build(state, "new")
        Layout(state.content).tag(name, Layout(state.content).resolve(NAME))

        def check() -> None:
            workshop.check_processes(state)
            assert self._in_registry(name) in (workshop.old, workshop.new)
            assert workshop.check_images(state, name) == workshop.new
            again = workshop.run(state, "push", "-q", name)
            assert again.returncode == 0, again.stderr
            assert self._in_registry(name) == workshop.new
            workshop.check_tidy(state)

        return Accident(state, ["push", "-q", name], check)

    def pull(self) -> Accident:
        workshop = self.workshop
        pusher, name = self._registry()
        workshop.build(pusher, "new")
        Layout(pusher.content).tag(name, Layout(pusher.content).resolve(NAME))
        assert workshop.run(pusher, "push", "-q", name).returncode == 0
        shutil.rmtree(pusher.root)
        state = workshop.copy()
        Layout(state.content).tag(name, Layout(state.content).resolve(NAME))

        def check() -> None:
            workshop.check_processes(state)
            workshop.check_runs(state, name, workshop.check_images(state, name))
            again = workshop.run(state, "pull", "-q", name)
            assert again.returncode == 0, again.stderr
            assert workshop.check_images(state, name) == workshop.new
            workshop.check_runs(state, name, workshop.new)
            workshop.check_tidy(state)
            assert workshop.check_images(state, name) == workshop.new

        return Accident(state, ["pull", "-q", name], check)

    def _registry(self) -> tuple[State, str]:
        """A registry that has the old image, and a state whose image is named after it."""
        state = self.workshop.copy()
        folder = state.root.with_name(state.root.name + "-registry")
        address = self.stack.enter_context(serve_in_thread(folder))
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        name = f"{address}/app:1"
        Layout(state.content).tag(name, Layout(state.content).resolve(NAME))
        assert self.workshop.run(state, "push", "-q", name).returncode == 0
        return state, name

    def _in_registry(self, name: str) -> str:
        """The digest a registry's tag has; everything behind it is read and verified."""
        with Client() as client:
            repository = client.repository(Reference.parse(name))
            root = repository.resolve("1")
            for descriptor in walk(repository, root):
                read(repository, descriptor, limit=1 << 30)
            return root.digest


OPERATIONS = ("build", "push", "pull", "prune", "prune_all")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, busybox_layout: Path) -> Iterator[Workshop]:
    with adopting_orphans():
        yield Workshop.make(tmp_path_factory.mktemp("crash"), busybox_layout)


@pytest.fixture(scope="module")
def steps(workshop: Workshop) -> Callable[[str], int]:
    """How many steps on the file system an operation takes."""
    known: dict[str, int] = {}

    def count(operation: str) -> int:
        if operation not in known:
            with ExitStack() as stack:
                accident = Places(workshop, stack).make(operation)
                known[operation] = workshop.steps(accident.state, *accident.words)
        return known[operation]

    return count


def try_at(workshop: Workshop, operation: str, kind: str, point: int) -> None:
    """One accident, and everything after it."""
    with ExitStack() as stack:
        accident = Places(workshop, stack).make(operation)
        done = workshop.run(accident.state, *accident.words, fault=f"{kind}:{point}")
        if kind == "kill":
            assert done.returncode in (-9, 0), done.stderr  # threads: a run may take a step less
        else:
            assert done.returncode in (0, 1), (point, done.returncode, done.stderr)
            assert "Traceback" not in done.stderr, (point, done.stderr)
            assert done.returncode == 0 or "error: " in done.stderr, (point, done.stderr)
        try:
            accident.check()
        except BaseException as error:
            error.add_note(f"{operation}, {kind} at step {point}: {done.returncode} {done.stderr}")
            raise


def _sample() -> Iterator[tuple[str, str, float]]:
    chance = random.Random(20240506)
    for operation in OPERATIONS:
        for kind, count in FEW.items():
            for _ in range(count):
                yield operation, kind, chance.random()


@pytest.mark.parametrize(
    ("operation", "kind", "where"), list(_sample()), ids=lambda value: str(value)[:5] if value else None
)
def test_a_few_points(
    workshop: Workshop, steps: Callable[[str], int], operation: str, kind: str, where: float
) -> None:
    try_at(workshop, operation, kind, 1 + int(where * steps(operation)))


if os.environ.get("POLYARCH_SWEEP"):

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("kind", FEW)
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_every_point(workshop: Workshop, steps: Callable[[str], int], operation: str, kind: str) -> None:
        for point in range(1, steps(operation) + 1):
            try_at(workshop, operation, kind, point)
