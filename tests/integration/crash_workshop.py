"""A store with an old image in it, operations that make it new, and what must be true after any accident."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from polyarch import container
from polyarch.builder.collect import collect
from polyarch.builder.storage import Storage
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.history.reader import load, records
from polyarch.image import local

SHIM = Path(__file__).with_name("crash_shim")
NAME = "app:1"
_PR_SET_CHILD_SUBREAPER = 36
_START = "from polyarch.cli.entry import run; run()"
_DOCKERFILE = """\
FROM base/busybox AS tool
RUN echo tool > /tool
FROM base/busybox
COPY version /version
COPY --from=tool /tool /tool
RUN cat /version /tool > /both
CMD ["cat", "/both"]
"""


@dataclass
class Workshop:
    """``origin`` is copied for every accident; ``old`` and ``new`` are the image's digests."""

    folder: Path
    origin: State
    old: str = ""
    new: str = ""
    counter: int = 0
    others: frozenset[int] = frozenset()  # children that other tests have left to this process
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, busybox: Path) -> Workshop:
        """Build the old image into a fresh state, and the new one elsewhere to learn its digest."""
        workshop = cls(folder, State(folder / "origin"))
        workshop.others = frozenset(workshop._children())
        workshop.environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "CI": ""}
        for version in ("old", "new"):
            context = folder / version
            context.mkdir()
            (context / "Dockerfile").write_text(_DOCKERFILE)
            (context / "version").write_text(version + "\n")
        shutil.copytree(busybox, workshop.origin.content)
        workshop.old = workshop.build(workshop.origin, "old")
        workshop.new = workshop.build(workshop.copy(), "new")
        assert workshop.old != workshop.new
        return workshop

    def copy(self) -> State:
        """The origin once more."""
        self.counter += 1
        target = self.folder / f"state{self.counter}"
        shutil.copytree(self.origin.root, target, symlinks=True)
        return State(target)

    def build(self, state: State, version: str) -> str:
        """Build without any accident; the digest."""
        done = self.run(state, *self.build_words(version))
        assert done.returncode == 0, done.stderr
        return Layout(state.content).resolve(NAME).digest

    def build_words(self, version: str) -> list[str]:
        output = "type=image,rewrite-timestamp=true"  # so that a digest does not depend on when it was made
        return ["build", "-q", "-t", NAME, "-o", output, str(self.folder / version)]

    def run(self, state: State, *words: str, fault: str = "") -> subprocess.CompletedProcess[str]:
        """The command line in a process of its own."""
        environment = {**self.environment, "POLYARCH_ROOT": str(state.root)}
        if fault:
            environment |= {"PYTHONPATH": str(SHIM), "POLYARCH_FAULT": fault}
        return subprocess.run(
            [sys.executable, "-c", _START, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def steps(self, state: State, *words: str) -> int:
        """How many steps on the file system a command takes."""
        note = self.folder / "steps"
        done = self.run(state, *words, fault=f"count:{note}")
        assert done.returncode == 0, done.stderr
        return int(note.read_text())

    # --- what must be true --------------------------------------------------------------------------------

    def check(self, state: State) -> str:
        """The store is whole, works, and can be tidied; returns the digest the name has."""
        self.check_processes(state)
        found = self.check_images(state)
        self.check_runs(state, NAME, found)
        assert self.build(state, "new") == self.new
        self.check_tidy(state)
        assert self.build(state, "new") == self.new
        return found

    def check_images(self, state: State, name: str = NAME) -> str:
        """Every image is readable to the last byte; ``name`` is that of the old or the new one."""
        self.check_whole(state)
        found = Layout(state.content).resolve(name).digest
        assert found in (self.old, self.new)
        return found

    def check_whole(self, state: State) -> None:
        """Every image is readable to the last byte."""
        layout = Layout(state.content)
        for image in local.images(layout):
            assert not image.problem, image
        for digest, size in layout.blobs():
            assert layout.path(digest).stat().st_size == size
        for root in layout.roots():
            for descriptor in walk(layout, root):
                read(layout, descriptor, limit=1 << 30)

    def check_runs(self, state: State, name: str, digest: str) -> None:
        """The image runs, and prints what it was made of."""
        shown = bytearray()
        code = container.run(name, state=state, output=lambda stream, data: shown.extend(data))
        expected = b"old\ntool\n" if digest == self.old else b"new\ntool\n"
        assert (code, bytes(shown)) == (0, expected)

    def check_tidy(self, state: State) -> None:
        """A collection removes everything that accidents left."""
        with Storage.open(state) as storage:
            collect(storage)
            left = storage.items(storage.claim())
            trees = {id for id, _ in storage.layers.trees()}
            assert trees <= storage.layers.forms.ids()
        assert [item for item in left if item.kind in ("temporary", "blob")] == []
        assert not list(state.leases.glob("*.lease"))
        assert not state.locks.is_dir() or not list(state.locks.iterdir())
        assert {path.name for path in state.temporary.iterdir()} <= {"sandbox", "empty"}
        for record in records(state.history):  # whatever happened, what is known of it can be read
            assert record.status in ("completed", "error", "interrupted"), record
            load(record)

    def check_processes(self, state: State) -> None:
        """Nothing that the dead process started lives on, and no mount is left."""
        deadline = time.monotonic() + 10
        while children := [pid for pid in self._children() if pid not in self.others]:
            assert time.monotonic() < deadline, f"still there: {children}"
            time.sleep(0.01)
        assert str(state.root) not in Path("/proc/self/mountinfo").read_text()

    def _children(self) -> list[int]:
        """Our children, dead ones reaped."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return []
        return [
            int(pid)
            for task in Path("/proc/self/task").iterdir()
            for pid in (task / "children").read_text().split()
        ]


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Processes whose parent was killed become this process's children, so that none can hide."""
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
