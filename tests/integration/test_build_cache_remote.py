"""``--cache-to`` and ``--cache-from``: what one machine did, another does not do again."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

import polyarch
from polyarch.content.state import State
from polyarch.content.verify import read_manifest
from polyarch.errors import PolyarchError, UsageError
from polyarch.image import cache_table
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client
from polyarch.registry.server import serve_in_thread
from polyarch.request import BuildOutcome
from polyarch.solver.events import VertexCompleted, Warning
from polyarch.testing.faulty_registry import Faults

PLATFORMS = ("linux/amd64", "linux/arm64")


class Recorder:
    """Keeps the events of a build."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def __call__(self, event: object) -> None:
        self.events.append(event)

    @property
    def ran(self) -> list[str]:
        """The steps that really ran."""
        done = [e for e in self.events if isinstance(e, VertexCompleted) and not e.cached and not e.error]
        return [e.name for e in done if " RUN " in e.name or " COPY " in e.name]

    @property
    def warnings(self) -> list[str]:
        return [e.message for e in self.events if isinstance(e, Warning) and e.rule.startswith("Cache")]


class Machines:
    """Several machines with one base image: state directories, and a copy of the context with other times."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        self._base = base

    def build(self, machine: str, files: dict[str, str], **options: object) -> tuple[BuildOutcome, Recorder]:
        root = self.folder / machine
        if not root.exists():
            shutil.copytree(self._base, root / "content")
        context = self.folder / f"{machine}-context"
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir()
        for name, content in files.items():
            (context / name).write_text(content)
        seen = Recorder()
        outcome = polyarch.build(context, root=root, progress=seen, **options)  # type: ignore[arg-type]
        return outcome, seen


@pytest.fixture
def machines(tmp_path: Path, busybox_layout: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    monkeypatch.setenv("POLYARCH_ROOT", str(tmp_path / "unused"))
    return Machines(tmp_path, busybox_layout)


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def watched(tmp_path: Path, faults: Faults) -> Iterator[str]:
    """A registry whose requests are seen, and can be made to fail."""
    with serve_in_thread(tmp_path / "watched", wrap=faults.wrap) as address:
        yield address


def fetched(faults: Faults) -> list[str]:
    return [path for method, path, _ in faults.requests if method == "GET" and "/blobs/" in path]


COPIES = {"Dockerfile": "FROM base/busybox\nCOPY a /a\nWORKDIR /w\nCOPY b b\n", "a": "1", "b": "2"}
STEPS = {
    "Dockerfile": "FROM base/busybox AS tool\nRUN echo made > /made; echo $RANDOM >> /made; touch /other\n"
    "FROM base/busybox\nCOPY --from=tool /made /made\nRUN date +%N > /when\nCOPY a /a\n",
    "a": "1",
}


@pytest.mark.parametrize("kind", ["registry", "local"])
def test_a_build_of_copies_is_the_same_elsewhere(machines: Machines, registry: str, kind: str) -> None:
    place = f"ref={registry}/team/app:cache" if kind == "registry" else ""
    to = f"type={kind}," + (place or f"dest={machines.folder}/cache")
    back = f"type={kind}," + (place or f"src={machines.folder}/cache")
    first, seen = machines.build("one", COPIES, cache_to=[to], platforms=PLATFORMS)
    assert seen.ran and not seen.warnings
    second, seen = machines.build("two", COPIES, cache_from=[back], platforms=PLATFORMS)
    assert not seen.warnings
    assert seen.ran == []
    assert second.digest == first.digest


@pytest.mark.userns
@pytest.mark.parametrize("mode", ["min", "max"])
def test_steps_are_not_run_again_and_nothing_is_fetched(
    machines: Machines, watched: str, faults: Faults, mode: str
) -> None:
    cache = f"{watched}/team/app:cache"
    first, _ = machines.build("one", STEPS, cache_to=[f"type=registry,ref={cache},mode={mode}"])
    faults.requests.clear()
    second, seen = machines.build("two", STEPS, cache_from=[cache])
    assert (seen.ran, seen.warnings) == ([], [])
    assert second.digest == first.digest
    assert len(fetched(faults)) == 1, "the table, and no layer"
    faults.requests.clear()
    third, seen = machines.build("two", STEPS, cache_from=[cache])
    assert third.digest == first.digest and not faults.requests, "what is known here is not asked for"


@pytest.mark.userns
def test_only_what_is_needed_is_fetched_and_only_what_changed_runs(
    machines: Machines, watched: str, faults: Faults
) -> None:
    cache = f"{watched}/team/app:cache"
    machines.build("one", STEPS, cache_to=[f"type=registry,ref={cache},mode=max"])
    faults.requests.clear()
    changed = {**STEPS, "Dockerfile": STEPS["Dockerfile"] + "RUN cat /when /made\n"}
    _, seen = machines.build("two", changed, cache_from=[cache])
    assert len(seen.ran) == 1 and "cat /when" in seen.ran[0]
    assert len(fetched(faults)) == 1 + 3, "the table and the layers of the last stage, not the tool's"


@pytest.mark.userns
def test_min_keeps_only_the_image_s_layers(machines: Machines, registry: str) -> None:
    cache = f"{registry}/team/app:cache"
    machines.build("one", STEPS, cache_to=[f"type=registry,ref={cache},mode=min"])
    assert len(manifests(cache)[0].manifest.layers) == 3
    machines.build("one", STEPS, cache_to=[f"type=registry,ref={cache},mode=max"])
    assert len(manifests(cache)[0].manifest.layers) == 4
    changed = {**STEPS, "Dockerfile": STEPS["Dockerfile"].replace("/made /made", "/made /else")}
    _, seen = machines.build("two", changed, cache_from=[cache])
    assert not any("echo made" in name for name in seen.ran)


def manifests(cache: str) -> list[cache_table.Raw]:
    with Client() as client:
        store = client.repository(cache)
        index = read_manifest(store, store.resolve(Reference.parse(cache).tag))
        assert index.is_index
        return [read_manifest(store, entry) for entry in index.index.manifests]


@pytest.mark.userns
@pytest.mark.qemu
def test_two_jobs_write_one_cache_at_the_same_time(machines: Machines, registry: str) -> None:
    cache = f"{registry}/team/app:cache"
    files = [STEPS, {**STEPS, "a": "2"}]
    failures: list[object] = []

    def job(name: str, platform: str, which: int) -> None:
        _, seen = machines.build(name, files[which], cache_to=[cache], platforms=[platform])
        failures.extend(seen.warnings)

    jobs = [("one", PLATFORMS[0], 0), ("two", PLATFORMS[1], 0), ("three", PLATFORMS[0], 1)]
    threads = [threading.Thread(target=job, args=each) for each in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(manifests(cache)) == 2
    for name, platform, which in jobs:
        _, seen = machines.build(f"{name}-again", files[which], cache_from=[cache], platforms=[platform])
        assert (seen.ran, seen.warnings) == ([], []), name


@pytest.mark.userns
def test_jobs_that_ran_the_same_step_find_what_they_built_on_it(machines: Machines, registry: str) -> None:
    cache = f"{registry}/team/app:cache"
    text = "FROM base/busybox AS tool\nRUN date +%N > /made\nFROM base/busybox\nRUN date +%N > /when\n"
    text += "COPY a /a\nRUN cat /a > /b; date +%N >> /b\nCOPY --from=tool /made /made\nRUN test -e /made\n"
    jobs = {name: {"Dockerfile": text, "a": name} for name in ("one", "two", "three")}
    for name, files in jobs.items():
        _, seen = machines.build(name, files, cache_to=[cache])
        assert len(seen.ran) == 6 and not seen.warnings
    for name, files in jobs.items():
        _, seen = machines.build(f"{name}-again", files, cache_from=[cache])
        assert (seen.ran, seen.warnings) == ([], []), name


@pytest.mark.userns
def test_what_was_run_on_purpose_replaces_what_was_there(machines: Machines, registry: str) -> None:
    cache = f"{registry}/team/app:cache"
    machines.build("one", STEPS, cache_to=[cache])
    second, _ = machines.build("one", STEPS, cache_to=[cache], no_cache=True)
    third, seen = machines.build("three", STEPS, cache_from=[cache])
    assert seen.ran == [] and third.digest == second.digest


@pytest.mark.userns
def test_an_image_brings_its_cache_along(machines: Machines, registry: str) -> None:
    image = f"{registry}/team/app:1"
    options = {"tags": [image], "push": True, "cache_to": ["type=inline"]}
    first, _ = machines.build("one", STEPS, **options)
    again, _ = machines.build("one", STEPS, **options)
    assert again.digest == first.digest
    second, seen = machines.build("two", STEPS, cache_from=[image], **options)
    assert (seen.ran, seen.warnings) == ([], [])
    assert second.digest == first.digest


@pytest.mark.userns
def test_a_push_mounts_what_the_registry_has(machines: Machines, watched: str, faults: Faults) -> None:
    image, cache = f"{watched}/team/app:1", f"{watched}/team/cache:1"
    machines.build("one", STEPS, tags=[image], push=True, cache_to=[cache])
    mounted = [path for method, path, _ in faults.requests if method == "POST" and "team/cache" in path]
    assert mounted
    faults.requests.clear()
    _, seen = machines.build("two", STEPS, tags=[image], push=True, cache_from=[cache])
    assert seen.ran == [] and len(fetched(faults)) == 1


@pytest.mark.userns
def test_rewritten_times_do_not_spoil_the_cache(
    machines: Machines, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    cache = f"{registry}/team/app:cache"
    options = {"outputs": ["type=image,rewrite-timestamp=true"], "cache_to": [cache, "type=inline"]}
    first, _ = machines.build("one", STEPS, **options)
    second, seen = machines.build("two", STEPS, cache_from=[cache], **options)
    assert seen.ran == [] and not seen.warnings
    assert second.digest == first.digest


# --- caches that are broken, or lie ---------------------------------------------------------------------


def rewrite(cache: str, change: Callable[[cache_table.Table], cache_table.Table]) -> None:
    """Change the table of a cache's first platform, and everything above it so that it fits again."""
    import io

    from polyarch.oci import digest as digests
    from polyarch.oci.descriptor import Descriptor
    from polyarch.oci.manifest import encode

    with Client() as client:
        store = client.repository(cache)
        tag = Reference.parse(cache).tag
        index = read_manifest(store, store.resolve(tag)).index
        manifest = read_manifest(store, index.manifests[0]).manifest
        with store.open(manifest.config) as stream:
            table = msgspec.json.decode(stream.read(), type=cache_table.Table)

        def put(data: bytes, media_type: str) -> Descriptor:
            found = Descriptor(media_type=media_type, digest=digests.of(data), size=len(data))
            store.push(io.BytesIO(data), found)
            return found

        config = put(msgspec.json.encode(change(table)), cache_table.CONFIG)
        raw = encode(msgspec.structs.replace(manifest, config=config))
        entry = put(raw.data, raw.media_type)
        entry = msgspec.structs.replace(entry, platform=index.manifests[0].platform)
        raw = encode(msgspec.structs.replace(index, manifests=(entry, *index.manifests[1:])))
        put(raw.data, raw.media_type)
        store.tag(tag, raw.descriptor)


def confused(table: cache_table.Table) -> cache_table.Table:
    """Every layer of files is said to be a step's blob."""
    step = next(place for id, place in table.places.items() if id.startswith("step:"))
    places = {id: step if id.startswith("sha256:") else place for id, place in table.places.items()}
    return msgspec.structs.replace(table, places=places)


def wrong_diff_ids(table: cache_table.Table) -> cache_table.Table:
    places = {
        id: msgspec.structs.replace(place, diff_id="sha256:" + "0" * 64) for id, place in table.places.items()
    }
    return msgspec.structs.replace(table, places=places)


@pytest.mark.userns
@pytest.mark.parametrize("lie", [confused, wrong_diff_ids])
def test_a_layer_that_is_not_what_it_says_is_made_anew(
    machines: Machines, registry: str, lie: Callable[[cache_table.Table], cache_table.Table]
) -> None:
    cache = f"{registry}/team/app:cache"
    machines.build("one", STEPS, cache_to=[f"type=registry,ref={cache},mode=max"])
    rewrite(cache, lie)
    changed = {**STEPS, "Dockerfile": STEPS["Dockerfile"] + "RUN test -s /when && grep made /made\n"}
    _, seen = machines.build("two", changed, cache_from=[cache])
    assert any("not used any more" in text for text in seen.warnings)
    assert any("date" in name for name in seen.ran)
    _, seen = machines.build("two", changed)
    assert seen.ran == [], "nothing of the lie stayed"


@pytest.mark.userns
def test_a_layer_that_is_gone_is_made_anew(machines: Machines, watched: str, faults: Faults) -> None:
    cache = f"{watched}/team/app:cache"
    machines.build("one", STEPS, cache_to=[f"type=registry,ref={cache},mode=max"])
    layers = {layer.digest for raw in manifests(cache) for layer in raw.manifest.layers}
    with Client() as client:
        for digest in layers:
            client.repository(cache).delete(digest)
    changed = {**STEPS, "Dockerfile": STEPS["Dockerfile"] + "RUN test -s /when\n"}
    _, seen = machines.build("two", changed, cache_from=[cache])
    assert any("date" in name for name in seen.ran) and seen.warnings


def test_an_export_whose_layers_are_gone_makes_them(machines: Machines, watched: str) -> None:
    cache = f"{watched}/team/app:cache"
    first, _ = machines.build("one", COPIES, cache_to=[cache])
    with Client() as client:
        for raw in manifests(cache):
            for layer in raw.manifest.layers:
                client.repository(cache).delete(layer.digest)
    archive = machines.folder / "image.tar"
    second, seen = machines.build("two", COPIES, cache_from=[cache], outputs=[f"type=oci,dest={archive}"])
    assert archive.exists() and seen.warnings and seen.ran
    assert second.platforms == first.platforms


@pytest.mark.parametrize(
    "change",
    [
        lambda table: msgspec.structs.replace(table, version=99),
        lambda table: msgspec.structs.replace(
            table, rows=(cache_table.Row(("sha256:" + "0" * 64,), ("../../etc",)),)
        ),
        lambda table: msgspec.structs.replace(
            table, places={"step:" + "0" * 32: cache_table.Place(7, "sha256:" + "0" * 64)}
        ),
        lambda table: msgspec.structs.replace(table, notes={"sha256:" + "0" * 64: cache_table.Note("now")}),
    ],
)
def test_a_table_that_makes_no_sense_is_a_warning(
    machines: Machines, registry: str, change: Callable[[cache_table.Table], cache_table.Table]
) -> None:
    cache = f"{registry}/team/app:cache"
    machines.build("one", COPIES, cache_to=[cache])
    rewrite(cache, change)
    _, seen = machines.build("two", COPIES, cache_from=[cache], cache_to=[cache])
    assert seen.ran and any("is not used" in text for text in seen.warnings)
    _, seen = machines.build("three", COPIES, cache_from=[cache])
    assert (seen.ran, seen.warnings) == ([], []), "the next writer mends it"


def test_a_registry_that_is_down_is_a_warning(machines: Machines, faults: Faults, watched: str) -> None:
    from polyarch.testing.faulty_registry import Fault

    faults.planned.append(Fault(path="/v2/", times=1000, status=403))
    cache = f"{watched}/team/app:cache"
    _, seen = machines.build("one", COPIES, cache_from=[cache], cache_to=[cache])
    assert seen.ran and len(seen.warnings) == 2
    with pytest.raises(PolyarchError):
        machines.build("one", COPIES, cache_to=[f"type=registry,ref={cache},ignore-error=false"])


def test_an_image_is_not_overwritten_by_a_cache(machines: Machines, registry: str) -> None:
    image = f"{registry}/team/app:1"
    outcome, seen = machines.build("one", COPIES, tags=[image], push=True, cache_to=[image])
    assert any("something else" in text for text in seen.warnings)
    assert polyarch.inspect(image, remote=True).digest == outcome.digest


# --- options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("type=s3,bucket=b", "type=local"),
        ("type=registry", "ref="),
        ("type=registry,ref=a,scope=x/y", "letters"),
        ("type=registry,ref=a,mod=max", "did you mean mode"),
        ("type=local,src=x", "known are"),
        ("type=inline,mode=max", "registry"),
        ("type=registry,ref=a,compression=estargz", "gzip"),
    ],
)
def test_what_is_not_known_is_refused_with_a_way_out(option: str, hint: str) -> None:
    from polyarch.export.cache_options import parse_to

    with pytest.raises(UsageError) as caught:
        parse_to([option])
    assert hint in caught.value.hint


def test_short_forms() -> None:
    from polyarch.export.cache_options import parse_from, parse_to

    found = parse_from(["user/app:cache", "type=local,src=/c", "one,two"])
    assert [str(one) for one in found] == [
        "docker.io/user/app:cache", "/c", "docker.io/library/one:latest", "docker.io/library/two:latest",
    ]  # fmt: skip
    written = parse_to(["type=registry,ref=user/app:cache,mode=max,image-manifest=true,compression=zstd"])
    assert written[0].mode == "max" and written[0].compression is not None


def test_state_is_not_the_default_s(machines: Machines) -> None:
    assert State.default().root == machines.folder / "unused"


# --- several platforms ----------------------------------------------------------------------------------

CROSS = {
    "Dockerfile": "FROM --platform=$BUILDPLATFORM base/busybox AS once\nCOPY a /a\nRUN date +%N > /out\n"
    "FROM --platform=$BUILDPLATFORM base/busybox AS cross\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n"
    "FROM base/busybox\nCOPY --from=once /out /once\nCOPY --from=cross /arch /arch\n",
    "a": "1",
}


@pytest.mark.userns
def test_a_cross_build_for_many_platforms_needs_no_compiler_twice(machines: Machines, registry: str) -> None:
    cache = f"{registry}/team/app:cache"
    first, _ = machines.build("one", CROSS, cache_to=[cache], platforms=PLATFORMS)
    second, seen = machines.build("two", CROSS, cache_from=[cache], platforms=PLATFORMS)
    assert (seen.ran, seen.warnings) == ([], [])
    assert second.digest == first.digest
    third, seen = machines.build("three", CROSS, cache_from=[cache], platforms=PLATFORMS[1:])
    assert (seen.ran, seen.warnings) == ([], [])
    assert third.digest == first.summary.platforms[1].manifest.digest


@pytest.mark.userns
def test_another_platform_s_job_shares_the_steps_that_run_here(machines: Machines, registry: str) -> None:
    to = f"type=registry,ref={registry}/team/app:cache,mode=max"
    back = f"{registry}/team/app:cache"
    machines.build("one", CROSS, cache_to=[to], platforms=PLATFORMS[:1])
    _, seen = machines.build("two", CROSS, cache_to=[to], cache_from=[back], platforms=PLATFORMS[1:])
    assert not any("date" in name for name in seen.ran) and any("arch" in name for name in seen.ran)
    _, seen = machines.build("three", CROSS, cache_from=[back], platforms=PLATFORMS)
    assert (seen.ran, seen.warnings) == ([], [])


def test_jobs_share_a_directory_too(machines: Machines) -> None:
    folder = machines.folder / "cache"
    for name, platform in zip(("one", "two"), PLATFORMS, strict=True):
        machines.build(name, COPIES, cache_to=[f"type=local,dest={folder}"], platforms=[platform])
    shutil.rmtree(machines.folder / "one")  # the directory is all there is
    _, seen = machines.build(
        "three", COPIES, cache_from=[f"type=local,src={folder}"], platforms=PLATFORMS,
        outputs=[f"type=oci,dest={machines.folder}/image.tar"],
    )  # fmt: skip
    assert (seen.ran, seen.warnings) == ([], [])


def test_an_unchanged_cache_is_not_written_again(machines: Machines, watched: str, faults: Faults) -> None:
    cache = f"{watched}/team/app:cache"
    machines.build("one", COPIES, cache_to=[cache])
    faults.requests.clear()
    machines.build("two", COPIES, cache_from=[cache], cache_to=[cache])
    assert not [path for method, path, _ in faults.requests if method in ("PUT", "POST", "PATCH")]


def test_secrets_and_arguments_do_not_stand_in_a_cache(machines: Machines, registry: str) -> None:
    cache = f"{registry}/team/app:cache"
    files = {"Dockerfile": "FROM base/busybox\nARG TOKEN\nENV HTTP_PROXY=x\nCOPY a /a\n", "a": "private"}
    machines.build("one", files, cache_to=[cache], build_args={"TOKEN": "hidden-word"})
    with Client() as client:
        store = client.repository(cache)
        for raw in manifests(cache):
            with store.open(raw.manifest.config) as stream:
                text = stream.read() + raw.data
    for word in (b"hidden-word", b"TOKEN", str(machines.folder).encode(), b"PROXY"):
        assert word not in text
