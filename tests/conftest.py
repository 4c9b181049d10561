"""What all tests share: a state of their own, base images, a registry, and the rule about skips.

    state            an empty State under tmp_path; POLYARCH_ROOT points at it
    busybox_layout   (session) an OCI layout with ``base/busybox`` for linux/amd64 and linux/arm64, made from
                     Debian's packages; kept in ~/.cache/polyarch-tests between runs. Do not write to it.
    busybox          the name of that image, put into ``state``'s local store
    dockerd          (session) a real BuildKit: Debian's newest dockerd (``buildkit_engine.Dockerd``)
    registry         ``127.0.0.1:PORT`` of an embedded registry, empty, stopped after the test

Markers say what a test needs, and are probed here: a test without it is skipped on a developer's machine and
fails under CI, where everything is installed on purpose. POLYARCH_MAY_SKIP=userns,qemu lets CI skip those.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyarch.content.state import State

if TYPE_CHECKING:
    from buildkit_engine import Dockerd

BUSYBOX = "base/busybox:latest"
MAY_SKIP = {"peers", *os.environ.get("POLYARCH_MAY_SKIP", "").split(",")}
if "ID=debian" not in Path("/etc/os-release").read_text().splitlines():
    MAY_SKIP.add("browser")  # only Debian has one that scripts/install-system can install
_skipped: list[str] = []


# --- what this machine can do ---------------------------------------------------------------------------


@functools.cache
def lacks(marker: str) -> str:
    """Why a test with ``marker`` cannot run here; empty where it can."""
    match marker:
        case "userns":
            return "" if _has_namespaces() else "no user namespaces here"
        case "qemu":
            found = any(shutil.which(f"qemu-aarch64{suffix}") for suffix in ("-static", ""))
            return "" if found else "no QEMU user-mode emulator here (make install)"
        case "network":
            return "" if not os.environ.get("POLYARCH_OFFLINE") else "POLYARCH_OFFLINE is set"
        case "browser":
            return "" if _has_browser() else "no Chromium here (make install, where the distribution has one)"
        case "peers":
            return "" if os.environ.get("POLYARCH_PEERS") else "POLYARCH_PEERS is not set"
    return ""


def _has_browser() -> bool:
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    return any(shutil.which(name) for name in names)


def _has_namespaces() -> bool:
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers():
        if reason := lacks(marker.name):
            pytest.skip(reason)


# --- under CI an unexpected skip is a failure -----------------------------------------------------------


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if not os.environ.get("CI") or not report.skipped or hasattr(report, "wasxfail"):
        return
    if any(marker.name in MAY_SKIP for marker in item.iter_markers()):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    if os.geteuid() != 0 and "root" in str(reason):
        return  # what only root can try is tried where root runs the tests
    report.outcome = "failed"
    report.longrepr = f"skipped under CI, where nothing may be missing: {reason}"


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if os.environ.get("CI") and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: a whole module skipped under CI: {reason}"


# --- state and images -----------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """An empty state directory that the environment points at too."""
    root = tmp_path / "polyarch"
    monkeypatch.setenv("POLYARCH_ROOT", str(root))
    return State(root)


@pytest.fixture(scope="session")
def busybox_layout() -> Path:
    """An OCI layout with busybox for two platforms. Making it downloads two small packages, once."""
    from polyarch.base.make import make
    from polyarch.base.recipe import Recipe
    from polyarch.content.layout import Layout
    from polyarch.errors import NotFoundError
    from polyarch.oci.platform import Platform

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polyarch-tests"
    store = State(cache / "busybox-1")
    try:
        Layout(store.content).resolve(BUSYBOX)
    except NotFoundError:
        platforms = tuple(Platform.parse(text) for text in ("linux/amd64", "linux/arm64"))
        make(Recipe(name=BUSYBOX, source="busybox", platforms=platforms), state=store)
    return store.content


@pytest.fixture
def busybox(state: State, busybox_layout: Path) -> str:
    """The name of a two-platform busybox image that is in the local store of ``state``."""
    shutil.copytree(busybox_layout, state.content, copy_function=_link)
    return BUSYBOX


def _link(source: str, target: str) -> None:
    """Blobs never change and index.json is replaced, so links do; across file systems they cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """A dockerd of the tests' own, whose root is made once (20 seconds and 100 MB from a Debian mirror)."""
    import buildkit_engine

    if why := buildkit_engine.why_not():
        pytest.skip(why)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polyarch-tests"
    daemon = buildkit_engine.Dockerd(buildkit_engine.made_root(cache), tmp_path_factory.mktemp("dockerd"))
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """``127.0.0.1:PORT`` of an embedded registry that is empty."""
    from polyarch.registry.server.running import serve_in_thread

    with serve_in_thread(tmp_path / "registry") as address:
        yield address


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write golden files anew")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written instead of compared."""
    return bool(request.config.getoption("--update"))
