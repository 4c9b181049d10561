"""Sandboxes and tiny root filesystems: as root, in a user namespace, in one with a single id, and
(test_executor_ordinary_user.py runs these same tests again) as an ordinary user."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from executor_applets import APPLETS

from polyarch.content.state import State
from polyarch.executor import probe, syscalls
from polyarch.executor.emulator import Emulators
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import ExitStatus, Mount, Process, RootFilesystem
from polyarch.oci import platform as platforms

BUSYBOX = shutil.which("busybox") or "/bin/busybox"
ROOT_MODES = (
    ["root", "namespace", "single"] if os.geteuid() == 0 and syscalls.may_mount() else ["ordinary", "single"]
)


@pytest.fixture(scope="session")
def emulators() -> Emulators:
    return Emulators.discover()


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root filesystem of one static busybox."""
    if not os.path.exists(BUSYBOX):
        pytest.skip("needs busybox-static")
    root = tmp_path_factory.mktemp("busybox")
    (root / "bin").mkdir()
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    root.chmod(0o755)
    return root


@dataclass
class Result:
    status: ExitStatus
    out: str
    err: str

    @property
    def code(self) -> int:
        return self.status.code


@dataclass
class Bench:
    """A sandbox with a root filesystem and an upper directory to look at afterwards."""

    sandbox: Sandbox
    lower: Path
    folder: Path
    mode: str
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def upper(self) -> Path:
        return self.folder / "upper"

    def root(self, *lowers: Path, upper: bool = True) -> RootFilesystem:
        layers = lowers or (self.lower,)
        if not upper:
            return RootFilesystem(layers)
        return RootFilesystem(layers, self.upper, self.folder / "work")

    def run(
        self, process: Process, root: RootFilesystem | None = None, mounts: tuple[Mount, ...] = ()
    ) -> Result:
        chunks: dict[int, list[bytes]] = {1: [], 2: []}
        status = self.sandbox.run(
            process,
            root or self.root(),
            mounts,
            lambda stream, data: chunks[stream].append(data),
            self.cancelled,
        )
        out, err = (b"".join(chunks[stream]).decode(errors="surrogateescape") for stream in (1, 2))
        return Result(status, out, err)

    def sh(self, script: str, *mounts: Mount, root: RootFilesystem | None = None, **fields: object) -> Result:
        settings: dict[str, object] = {"platform": platforms.host(), "environment": ("PATH=/bin",), **fields}
        return self.run(Process(("/bin/sh", "-c", script), **settings), root, mounts)  # type: ignore[arg-type]

    def changed(self) -> list[str]:
        """Every path in the upper directory."""
        found = []
        for folder, folders, files in os.walk(self.upper):
            for name in (*folders, *files):
                found.append(os.path.relpath(os.path.join(folder, name), self.upper))
        return sorted(found)


@pytest.fixture(scope="session", params=ROOT_MODES)
def sandbox(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, emulators: Emulators
) -> Iterator[Sandbox]:
    """One sandbox for all tests of a mode: "root" mounts itself, "namespace" works as root of a namespace,
    "single" in a namespace with one id."""
    mode = request.param
    failure = probe.run("namespaces")
    if failure:
        pytest.skip(f"no namespaces here: {failure}")
    state = State(tmp_path_factory.mktemp("state"))
    with Sandbox.start(
        state, emulators=emulators, privileged=mode == "root", single_id=mode == "single"
    ) as sandbox:
        yield sandbox


@pytest.fixture
def bench(
    sandbox: Sandbox, busybox_root: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Bench]:
    mode = request.node.callspec.params["sandbox"]
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    yield Bench(sandbox, busybox_root, tmp_path, mode)
    for name in ("upper", "work"):
        sandbox.privilege.call("shutil:rmtree", str(tmp_path / name), True)


@pytest.fixture
def host_mounts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], list[str]]:
    """The mounts that a step could have left: in the tests' folders, or over the system's."""
    ours = str(tmp_path_factory.getbasetemp())

    def table() -> list[str]:
        rows = Path("/proc/self/mountinfo").read_text().splitlines()
        places = ("/", "/proc", "/sys", "/dev", "/tmp", "/etc/hosts", "/etc/resolv.conf")
        return [row for row in rows if ours in row or row.split()[4] in places]

    return table
