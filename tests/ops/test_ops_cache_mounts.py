"""Directories behind ``RUN --mount=type=cache``: who shares, who waits, and that waiting can be stopped."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Thread

import pytest

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import CancelledError
from polyarch.graph.vertex import ExecMount
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.store import LayerStore
from polyarch.oci.platform import Platform
from polyarch.ops.cache_mounts import CacheMounts

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


@pytest.fixture
def caches(tmp_path: Path) -> CacheMounts:
    state = State(tmp_path)
    return CacheMounts(state.cache_mounts, LayerStore(state, Layout(state.content), DirectPrivilege()))


def mount(sharing: str = "shared", name: str = "id") -> ExecMount:
    return ExecMount(type="cache", target="/c", source="/", id=name, sharing=sharing)


def test_a_cache_belongs_to_a_platform_unless_it_says_otherwise(caches: CacheMounts) -> None:
    go = Event()
    with (
        caches.use(mount(), AMD64, None, go) as one,
        caches.use(mount(), ARM64, None, go) as other,
        caches.use(mount(name="any/id"), AMD64, None, go) as shared,
        caches.use(mount(name="any/id"), ARM64, None, go) as same,
    ):
        assert one != other
        assert shared == same


def test_private_caches_are_never_shared_at_the_same_time(caches: CacheMounts) -> None:
    with caches.use(mount("private"), AMD64, None, Event()) as one:
        with caches.use(mount("private"), AMD64, None, Event()) as other:
            assert one != other
        (one / "kept").touch()
    with caches.use(mount("private"), AMD64, None, Event()) as again:
        assert (again / "kept").exists()


def test_waiting_for_a_locked_cache_can_be_stopped(caches: CacheMounts) -> None:
    cancelled, stopped = Event(), Event()

    def wait() -> None:
        try:
            with caches.use(mount("locked"), AMD64, None, cancelled):
                pass
        except CancelledError:
            stopped.set()

    with caches.use(mount("locked"), AMD64, None, Event()):
        thread = Thread(target=wait)
        thread.start()
        assert not stopped.wait(0.2)
        cancelled.set()
        assert stopped.wait(10)
        thread.join()


def test_another_seed_is_another_cache(caches: CacheMounts) -> None:
    go = Event()
    with (
        caches.use(mount(), AMD64, None, go, "sha256:one") as one,
        caches.use(mount(), AMD64, None, go, "sha256:two") as other,
        caches.use(mount(), AMD64, None, go, "sha256:one") as same,
    ):
        assert one != other and one == same


def test_steps_that_begin_at_once_share_what_one_of_them_makes(
    caches: CacheMounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cross-compiling stage runs once for every target, all of them at the same time."""
    made = []
    together = Barrier(4)
    make = CacheMounts._make

    def slowly(self: CacheMounts, path: Path, *rest: object) -> Path:
        made.append(path)
        time.sleep(0.05)  # long enough for the others to come
        return make(self, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(CacheMounts, "_make", slowly)

    def use(_: int) -> Path:
        together.wait()
        with caches.use(mount(), AMD64, None, Event()) as path:
            return path

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(use, range(4)))) == 1
    assert len(made) == 1
