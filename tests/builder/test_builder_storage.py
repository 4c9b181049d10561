"""Accounting and collection, over a store with an image, builds, caches and leftovers."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyarch.builder.collect import collect
from polyarch.builder.storage import Item, Storage
from polyarch.cli.main import main
from polyarch.content.layout import Layout
from polyarch.content.lease import Lease
from polyarch.content.state import State
from polyarch.errors import PolyarchError, UsageError
from polyarch.image import local
from polyarch.oci.reference import Reference
from polyarch.pipeline import run
from polyarch.request import BuildRequest

pytestmark = pytest.mark.userns
DOCKERFILE = """\
FROM base/busybox AS tool
RUN echo tool > /tool
FROM base/busybox
COPY file /file
COPY --from=tool /tool /tool
RUN --mount=type=cache,target=/cache echo x > /cache/x; cat /file > /copy
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "file").write_text("content\n")
    return folder


@pytest.fixture
def built(state: State, busybox: str, context: Path) -> State:
    """A store in which ``app:1`` was built, a moment ago."""
    build(context)
    time.sleep(0.02)  # clocks of file systems tick
    return state


def build(context: Path, name: str = "app:1") -> str:
    """Build, and let go of everything, as a process does that ends."""
    digest = run(BuildRequest(context=str(context), tags=(Reference.parse(name),))).digest
    gc.collect()
    return digest


@pytest.fixture
def storage(built: State) -> Iterator[Storage]:
    with Storage.open(built) as storage:
        yield storage


def kinds(items: list[Item] | tuple[Item, ...]) -> list[str]:
    return sorted(item.kind for item in items)


def names(state: State) -> list[str]:
    return sorted(name for name, _ in Layout(state.content).names())


APP, BASE = "docker.io/library/app:1", "docker.io/base/busybox:latest"


def test_everything_is_counted_once(storage: Storage) -> None:
    items = storage.items(storage.claim())
    assert kinds(items) == ["cachemount", "image", "image", *["layer"] * 5]
    blobs = sum(size for _, size in storage.layout.blobs())
    assert sum(item.size for item in items if item.kind == "image") == blobs
    assert sum(item.shared for item in items) == 4  # all but the layer of the stage "tool"
    assert not any(item.in_use for item in items)
    (cache,) = (item for item in items if item.kind == "cachemount")
    assert cache.description.startswith("/cache linux/")
    assert {item.description for item in items if item.kind == "image"} == {APP, BASE}
    assert storage.used() == sum(item.size for item in items) + storage.database_size()


def test_looking_is_no_use(storage: Storage) -> None:
    before = {item.id: item.used_ns for item in storage.items(storage.claim())}
    time.sleep(0.02)
    assert {item.id: item.used_ns for item in storage.items(storage.claim())} == before


def test_prune_keeps_images_and_what_they_are_made_of(storage: Storage, context: Path) -> None:
    removed = collect(storage)
    assert kinds(removed.items) == ["cachemount", "layer"]
    assert removed.size == sum(item.size for item in removed.items) > 0
    assert names(storage.state) == [BASE, APP]
    assert all(not image.problem for image in local.images(storage.layout))
    assert collect(storage).items == ()


def test_a_pruned_step_is_run_again_only_when_it_is_needed(storage: Storage, context: Path) -> None:
    before = build(context)
    time.sleep(0.02)
    collect(storage)
    assert build(context) == before
    (context / "file").write_text("changed\n")
    assert build(context) != before


def test_all_removes_images_too(storage: Storage) -> None:
    time.sleep(1)  # records know whole seconds
    collect(storage, everything=True)
    assert storage.items(storage.claim()) == []
    assert names(storage.state) == []
    assert storage.layers.forms.ids() == set()


def test_a_dangling_image_goes_and_its_base_stays(storage: Storage, context: Path) -> None:
    old = build(context)
    (context / "file").write_text("changed\n")
    build(context)
    time.sleep(0.02)
    removed = collect(storage)
    assert old in {item.id for item in removed.items if item.kind == "blob"}
    assert names(storage.state) == [BASE, APP]
    assert all(not image.problem for image in local.images(storage.layout))


def test_a_dry_run_removes_nothing(storage: Storage) -> None:
    before = storage.items(storage.claim())
    would = collect(storage, everything=True, dry_run=True)
    assert kinds(would.items) == kinds(before)
    assert storage.items(storage.claim()) == before


def test_the_least_recently_used_goes_first(storage: Storage) -> None:
    old = storage.state.trees / next(
        folder.name for id, folder in storage.layers.trees() if id.startswith("step:")
    )
    os.utime(old, (1_000_000_000, 1_000_000_000))
    assert collect(storage, everything=True, keep_bytes=1 << 40).items == ()  # the database is small now
    used = storage.used()
    (gone,) = collect(storage, everything=True, keep_bytes=used - 1).items
    assert gone.path == old
    assert storage.used() < used


def test_what_a_build_uses_stays(storage: Storage) -> None:
    """A process that has resolved an image and looked at a layer, while everything is pruned."""
    layout = Layout.local(storage.state)
    target = layout.resolve(APP)
    removed = collect(storage, everything=True)
    left = storage.items(storage.claim())
    assert [item.description for item in left if item.kind == "image"] == [APP]
    assert target.digest not in {item.id for item in removed.items}
    assert all(not image.problem for image in local.images(storage.layout))


def test_what_a_manifest_without_a_name_leads_to_stays_while_it_is_used(storage: Storage) -> None:
    layout = Layout.local(storage.state)
    target = layout.resolve(APP)
    layout.untag(APP)
    collect(storage)
    layout.tag(APP, target)
    assert all(not image.problem for image in local.images(storage.layout))


def test_leftovers_of_dead_processes_go(storage: Storage) -> None:
    state = storage.state
    for name in ("step-1", "tree-2", "old-3", "bootstrap-4"):
        (state.temporary / name / "below").mkdir(parents=True)
    (state.content / ".ingest-5").write_text("half")
    state.locks.mkdir(exist_ok=True)
    (state.locks / "key").write_text("")
    state.uploads.mkdir()
    (state.uploads / "6.json").write_text("{}")
    time.sleep(0.02)
    removed = collect(storage)
    assert kinds(removed.items).count("temporary") == 5
    assert "upload" in kinds(removed.items)
    left = {path.name for path in state.temporary.iterdir() if not path.name.startswith("points-")}
    assert left <= {"sandbox", "empty"}
    assert not list(state.content.glob(".ingest-*"))
    assert not list(state.locks.iterdir()) and not list(state.uploads.iterdir())


def test_folders_of_unknown_use_wait_for_the_end_of_all_builds(storage: Storage) -> None:
    place = storage.state.temporary / "bootstrap-4"
    place.mkdir()
    time.sleep(0.02)
    with Lease(storage.state.leases):
        assert place.name not in {item.id for item in collect(storage).items}
    assert place.name in {item.id for item in collect(storage).items}


def test_sources_go_but_for_those_in_use(storage: Storage) -> None:
    folder = storage.state.sources / "git" / "abc"
    (folder / "checkout").mkdir(parents=True)
    (folder / "lock").write_text("")
    with Lease(storage.state.leases):
        os.utime(folder / "lock")
        assert collect(storage, wanted=lambda item: item.kind == "source").items == ()
    time.sleep(0.02)
    assert kinds(collect(storage, wanted=lambda item: item.kind == "source").items) == ["source"]
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_builds_and_prunes_at_the_same_time(built: State, context: Path) -> None:
    """None of them minds the others, and what they leave is whole."""
    start = "from polyarch.cli.entry import run; run()"
    environment = {**os.environ, "POLYARCH_ROOT": str(built.root)}

    def begin(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", start, *words]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    for turn in range(3):
        (context / "file").write_text(f"{turn}\n")
        running = [begin("build", "-q", "-t", f"app:{number}", str(context)) for number in (1, 2)]
        running += [begin("prune", "-f") for _ in range(3)]
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    layout = Layout(built.content)
    images = local.images(layout)
    assert len({image.descriptor.digest for image in images}) >= 2
    assert all(not image.problem for image in images)


# --- the limit ----------------------------------------------------------------------------------------------


def test_the_limit_is_kept_by_removing_what_is_old(
    built: State, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Storage.open(built) as storage:
        before = storage.used()
        (cache,) = (item for item in storage.items(storage.claim()) if item.kind == "cachemount")
        monkeypatch.setenv("POLYARCH_STORAGE_MAX", str(before + 300_000))
        (cache.path / "large").write_bytes(b"x" * 1_000_000)
        (context / "file").write_text("changed\n")
        (context / "Dockerfile").write_text("FROM base/busybox\nCOPY file /file\n")
        build(context)
        assert not cache.path.exists()
        assert storage.used() <= before + 300_000


def test_a_limit_that_cannot_be_kept_is_an_error(
    built: State, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYARCH_STORAGE_MAX", "1m")
    (context / "file").write_text("changed\n")
    with pytest.raises(PolyarchError) as caught:
        build(context)
    assert caught.value.reason == "storage-full"
    assert "POLYARCH_STORAGE_MAX" in caught.value.hint
    assert names(built) == [BASE, APP]


def test_a_limit_that_is_no_size_is_a_usage_error(
    built: State, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYARCH_STORAGE_MAX", "much")
    with pytest.raises(UsageError):
        build(context)


# --- the verbs ----------------------------------------------------------------------------------------------


def test_du(built: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["du"]) == 0
    shown = capsys.readouterr().out
    assert APP in shown and "Reclaimable:" in shown and "Total:" in shown
    assert main(["du", "--json", "--filter", "type=cachemount"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["Type"], row["InUse"], row["Shared"]) == ("cachemount", False, False)
    assert main(["du", "--verbose"]) == 0
    assert "Path:" in capsys.readouterr().out


def test_du_of_nothing(state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["du"]) == 0
    assert "Total:" in capsys.readouterr().out
    assert not state.root.exists()
    assert main(["prune", "-f"]) == 0


def test_prune(built: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune"]) == 1  # nobody answers
    assert main(["prune", "--dry-run"]) == 0
    assert "Would free: " in capsys.readouterr().out
    assert main(["prune", "--force", "--filter", "until=24h"]) == 0
    assert "Freed: 0B" in capsys.readouterr().out
    assert main(["prune", "--force", "--filter", "type!=cachemount"]) == 0
    shown = capsys.readouterr().out
    assert "layer" in shown and "cachemount" not in shown
    assert main(["prune", "--force", "--all", "--keep-storage", "1g"]) == 0
    assert names(built) == [BASE, APP]
    assert main(["prune", "-af"]) == 0
    assert names(built) == []


@pytest.mark.parametrize("text", ["type=nothing", "until=never", "size=3", "id=", "=", "inuse=maybe"])
def test_filters_that_make_no_sense(state: State, text: str) -> None:
    assert main(["du", "--filter", text]) == 2


@pytest.mark.userns
def test_a_step_that_outgrows_the_limit_is_stopped(
    busybox: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import polyarch
    from polyarch.builder.storage import Storage

    with Storage.open(state) as storage:
        used = storage.used()
    monkeypatch.setenv("POLYARCH_STORAGE_MAX", f"{used // 1_000_000 + 20}m")
    (tmp_path / "Dockerfile").write_text(
        "FROM base/busybox\nRUN i=0; while [ $i -lt 600 ]; do"
        " dd if=/dev/zero of=/$i bs=1M count=4; sleep 0.1; i=$((i+1)); done\n"
    )
    with pytest.raises(PolyarchError) as caught:
        polyarch.build(tmp_path)
    assert caught.value.reason == "storage-full"
