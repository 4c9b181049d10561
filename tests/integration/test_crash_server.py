"""The server is killed, or its disk fails, at every step it takes on the file system while an image is pushed
over another: whatever happens, the tag is that of the old or the new image, and all of it can be read.

The points tried in every run are few and always the same; POLYARCH_SWEEP=1 adds a test of them all (minutes).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from crash_workshop import SHIM

from polyarch.content.copy import copy
from polyarch.content.memory import MemoryStore
from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.errors import PolyarchError
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client
from polyarch.registry.config import Config
from polyarch.testing.random_images import random_index

_START = "from polyarch.cli.entry import run; run()"
_CONFIG = replace(Config.from_environment(), attempts=2)  # a dead server does not come back
_FEW = {"kill": 4, "ENOSPC": 2, "EIO": 2}


class Server:
    """``polyarch serve`` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process = process
        self.name = Reference.parse(f"{address}/team/app:1")

    def push(self, image: Image) -> None:
        """Push as others do: by digest, and then the tag."""
        with Client(config=_CONFIG) as client:
            repository = client.repository(self.name)
            copy(image.store, repository, image.root)
            repository.tag("1", image.root)

    def whole(self) -> str:
        """The digest of the tag; everything behind it is read and verified."""
        with Client(config=_CONFIG) as client:
            repository = client.repository(self.name)
            root = repository.resolve("1")
            for descriptor in walk(repository, root):
                read(repository, descriptor, limit=1 << 30)
            return root.digest


class Image:
    """A random index in memory."""

    def __init__(self, seed: int) -> None:
        self.store = MemoryStore()
        self.root = random_index(self.store, seed=seed)


@contextmanager
def serving(folder: Path, fault: str = "") -> Iterator[Server]:
    environment = {**os.environ}
    if fault:
        environment |= {"PYTHONPATH": f"{SHIM}:{os.environ.get('PYTHONPATH', '')}", "POLYARCH_FAULT": fault}
    process = subprocess.Popen(
        [sys.executable, "-c", _START, "serve", "--root", str(folder), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield Server(process, line.split(" at ")[-1].strip() or "127.0.0.1:1")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def images() -> tuple[Image, Image]:
    return Image(1), Image(2)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory, images: tuple[Image, Image]) -> Path:
    """A registry's folder with the old image."""
    folder = tmp_path_factory.mktemp("registry") / "origin"
    with serving(folder) as server:
        server.push(images[0])
    return folder


@pytest.fixture(scope="module")
def steps(origin: Path, images: tuple[Image, Image]) -> int:
    """How many steps the server takes while the new image is pushed."""
    note, folder = origin.with_name("steps"), origin.with_name("counted")
    shutil.copytree(origin, folder)
    with serving(folder, f"count:{note}") as server:
        server.push(images[1])
    return int(note.read_text())


def try_at(origin: Path, images: tuple[Image, Image], kind: str, point: int, folder: Path) -> None:
    """One accident, and everything after it."""
    shutil.copytree(origin, folder)
    old, new = images
    with serving(folder, f"{kind}:{point}") as server:
        try:
            server.push(new)
            pushed = True
        except PolyarchError:
            pushed = False
        if kind != "kill":
            assert server.process.poll() is None, "a full disk is no reason to end"
            assert server.whole() in (old.root.digest, new.root.digest)
    with serving(folder) as server:
        found = server.whole()
        if pushed:
            assert found == new.root.digest  # what a client was told is so
        assert found in (old.root.digest, new.root.digest)
        server.push(new)
        assert server.whole() == new.root.digest
    left = [path for path in folder.rglob("*") if path.is_file() and path.name.startswith(("tmp", ".tmp"))]
    assert left == []


def _sample() -> Iterator[tuple[str, float]]:
    chance = random.Random(20240507)
    for kind, count in _FEW.items():
        for _ in range(count):
            yield kind, chance.random()


@pytest.mark.parametrize(("kind", "where"), list(_sample()))
def test_a_few_points(
    origin: Path, images: tuple[Image, Image], steps: int, tmp_path: Path, kind: str, where: float
) -> None:
    try_at(origin, images, kind, 1 + int(where * steps), tmp_path / "registry")


if os.environ.get("POLYARCH_SWEEP"):

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("kind", _FEW)
    def test_every_point(
        origin: Path, images: tuple[Image, Image], steps: int, tmp_path: Path, kind: str
    ) -> None:
        for point in range(1, steps + 1):
            try_at(origin, images, kind, point, tmp_path / str(point))
