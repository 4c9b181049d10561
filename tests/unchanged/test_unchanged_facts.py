"""What an unchanged build depends on: any of it changed, and there is a build; none, and there is none."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polyarch import pipeline
from polyarch.builder.collect import collect
from polyarch.builder.records import Builders
from polyarch.builder.storage import Storage
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.export.cache_options import parse_to
from polyarch.export.output import Output, parse
from polyarch.request import BuildRequest, names_of
from polyarch.unchanged import facts, record
from polyarch.unchanged.witness import _COVERED, _COVERED_OUTPUT, Witness

DOCKERFILE = "FROM {base}\nCOPY . /app/\n"
# What a request may hold that gets no record; see the last test.
NOT_COVERED = """secrets agents no_cache no_cache_stages cache_from cache_to if_tag_is builder fallback
part part_of part_repository done begun accelerate emulator_timeout frontend resources"""
OUTPUT_NOT_COVERED = "destination push_by_digest name_canonical tar platform_split context"


class World:
    """A context, a registry with a base in it, and a build of the one on the other, pushed."""

    def __init__(self, folder: Path, state: State, registry: str) -> None:
        self.state, self.registry = state, registry
        self.context = folder / "context"
        self.base = f"{registry}/base:1"
        self.tag = f"{registry}/app:1"
        (self.context / "src/deep").mkdir(parents=True)
        (self.context / "src/deep/file").write_text("one")
        (self.context / "src/other").write_text("other")
        (self.context / "link").symlink_to("src")
        (self.context / ".dockerignore").write_text("src/ignored*\n")
        (self.context / "Dockerfile").write_text(DOCKERFILE.format(base=self.base))
        self.push_image("base:1", "1")
        self.rest()

    def rest(self) -> None:
        """Let everything be older than the next build."""
        old = time.time() - 10
        for path in self.context.rglob("*"):
            os.utime(path, (old, old), follow_symlinks=False)
        time.sleep(0.06)  # the time of a change cannot be set

    def push_image(self, name: str, content: str) -> None:
        """Put an image into the registry that the local store does not know."""
        elsewhere = State(self.context.parent / f"state-{name.replace(':', '-')}")
        folder = self.context.parent / f"image-{content}"
        folder.mkdir(exist_ok=True)
        (folder / "Dockerfile").write_text(f"FROM scratch\nLABEL content={content}\n")
        tags = names_of([f"{self.registry}/{name}"])
        pipeline.run(
            BuildRequest(str(folder), tags=tags, outputs=(Output("image", push=True),)), state=elsewhere
        )

    def request(self, **more: object) -> BuildRequest:
        wanted = {"tags": names_of([self.tag]), "outputs": (Output("image", push=True),), **more}
        return BuildRequest(str(self.context), **wanted)  # type: ignore[arg-type]

    def build(self, request: BuildRequest | None = None) -> dict[str, object] | None:
        """What a build depended on, as it would be read from a file."""
        request = request or self.request()
        witness = Witness(request, self.state)
        pipeline.run(request, state=self.state, witness=witness)
        found: dict[str, object] | None = json.loads(json.dumps(witness.record))
        return found

    def holds(self, found: dict[str, object] | None) -> bool:
        assert found is not None
        return facts.hold(found, str(self.state.root))


@pytest.fixture
def world(tmp_path: Path, state: State, registry: str) -> World:
    return World(tmp_path, state, registry)


def _same_size(world: World) -> None:
    path = world.context / "src/deep/file"
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _retarget(world: World) -> None:
    (world.context / "link").unlink()
    (world.context / "link").symlink_to("src/deep")


def _context_elsewhere(world: World) -> None:
    shutil.copytree(world.context, world.context.with_name("copy"), symlinks=True)
    world.context.rename(world.context.with_name("moved"))
    world.context.symlink_to(world.context.with_name("copy"))


def _other_base_here(world: World) -> None:
    layout = Layout(world.state.content)
    layout.tag(world.base, layout.resolve(world.tag))


def _lose_blob(world: World) -> None:
    layout = Layout(world.state.content)
    layout.delete(layout.resolve(world.tag).digest)


CHANGES: dict[str, Callable[[World], object]] = {
    "content, with the old size and time": _same_size,
    "a new file": lambda w: (w.context / "src/new").write_text(""),
    "a file less": lambda w: (w.context / "src/other").unlink(),
    "a mode": lambda w: (w.context / "src/other").chmod(0o600),
    "a file's name": lambda w: (w.context / "src/other").rename(w.context / "src/else"),
    "a symlink": _retarget,
    "a file as a directory": lambda w: (
        (w.context / "src/other").unlink(),
        (w.context / "src/other").mkdir(),
    ),
    "the Dockerfile": lambda w: (w.context / "Dockerfile").write_text(
        DOCKERFILE.format(base=w.base) + "USER 1\n"
    ),
    "no Dockerfile": lambda w: (w.context / "Dockerfile").unlink(),
    "the ignore file": lambda w: (w.context / ".dockerignore").write_text("src/other\n"),
    "no ignore file": lambda w: (w.context / ".dockerignore").unlink(),
    "an ignore file of the Dockerfile": lambda w: (w.context / "Dockerfile.dockerignore").write_text("src\n"),
    "what the proof ignores": lambda w: (w.context / ".polyarch-proof-ignore").write_text("usr/*\n"),
    "the context's place": _context_elsewhere,
    "the base's tag": lambda w: w.push_image("base:1", "2"),
    "the base is here": _other_base_here,
    "the image's tag": lambda w: w.push_image("app:1", "2"),
    "the image's name here": lambda w: Layout(w.state.content).untag(w.tag),
    "a lost blob": _lose_blob,
    "no cache": lambda w: w.state.database.unlink(),
    "another builder": lambda w: Builders(w.state).use("default"),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda name: name.replace(" ", "-"))
def test_whatever_changes_is_seen(world: World, change: str) -> None:
    found = world.build()
    assert world.holds(found)
    CHANGES[change](world)
    assert not world.holds(found)


def test_what_is_ignored_may_change(world: World) -> None:
    found = world.build()
    (world.context / "src/ignored-file").write_text("new")
    os.utime(world.context / "src", (time.time() - 10,) * 2)  # a directory's time is part of it
    (world.context / "Dockerfile").touch()
    found_files = {path: facts.content(path) for path in found["files"]}  # type: ignore[attr-defined,index]
    assert found_files == found["files"]  # type: ignore[index]


def test_a_named_directory_and_a_file_elsewhere_count(world: World, tmp_path: Path) -> None:
    from polyarch.graph.named import build_contexts

    more = tmp_path / "more"
    more.mkdir()
    (more / "data").write_text("data")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(DOCKERFILE.format(base=world.base) + "COPY --from=more data /data\n")
    time.sleep(0.06)
    request = world.request(dockerfile=str(elsewhere), contexts=build_contexts([f"more={more}"]))
    found = world.build(request)
    assert world.holds(found)
    (more / "data").write_text("DATA")
    assert not world.holds(found)
    time.sleep(0.06)
    found = world.build(request)
    assert world.holds(found)
    elsewhere.write_text("FROM scratch\n")
    assert not world.holds(found)


@pytest.mark.parametrize("place", ["src/deep/file", "Dockerfile"])
def test_what_was_changed_just_now_is_not_relied_upon(world: World, place: str) -> None:
    path = world.context / place
    text = path.read_text()
    for _ in range(20):  # unless this machine stood still in between
        path.write_text(text)
        if world.build() is None:
            return
    pytest.fail("a file that was written a moment before the build got a record")


def test_a_change_while_the_build_runs_leaves_no_record(world: World) -> None:
    (world.context / "Dockerfile").write_text("FROM scratch\nCOPY src /src/\n")
    time.sleep(0.06)
    request = world.request()
    witness = Witness(request, world.state)
    pipeline.run(
        request,
        state=world.state,
        witness=witness,
        events=lambda _: (world.context / ".dockerignore").write_text("src/ignored*\n"),
    )
    assert witness.record is None


def test_a_collection_forgets_all_builds(world: World) -> None:
    record.save(["build", "."], world.build() or {})
    assert record.load(["build", "."])
    with Storage.open(world.state) as storage:
        collect(storage, dry_run=True)
        assert record.load(["build", "."])
        collect(storage)
    assert record.load(["build", "."]) is None


def test_an_image_built_on_its_own_name_is_built_again(world: World) -> None:
    (world.context / "Dockerfile").write_text(f"FROM {world.tag}\nLABEL more=1\n")
    world.push_image("app:1", "1")
    time.sleep(0.06)
    assert world.build() is None
    assert world.build(world.request(outputs=())) is None


@pytest.mark.parametrize(
    "more",
    [
        {"no_cache": True},
        {"no_cache_stages": frozenset({"x"})},
        {"secrets": {"a": lambda: b""}},
        {"outputs": (parse("type=cacheonly"),)},
        {"outputs": (parse("type=image,name-canonical=true"),)},
        {"cache_to": parse_to(["type=inline"])},
        {"context": "-"},
        {"dockerfile": "-"},
    ],
    ids=str,
)
def test_what_is_not_covered_gets_no_record(world: World, more: dict[str, object]) -> None:
    request = dataclasses.replace(world.request(), **more)  # type: ignore[arg-type]
    assert not Witness(request, world.state)._eligible


def test_a_time_from_elsewhere_gets_no_record(world: World) -> None:
    given = world.request(build_args={"SOURCE_DATE_EPOCH": "1700000000"})
    assert world.holds(world.build(given))
    url = f"http://{world.registry}/v2/"
    text = f"FROM scratch AS source\nADD {url} /\nFROM scratch\nCOPY src /src/\n"
    (world.context / "Dockerfile").write_text("ARG SOURCE_DATE_EPOCH=source\n" + text)
    time.sleep(0.06)
    assert world.build() is None
    assert world.holds(world.build(given))


def test_remote_sources_get_no_record(world: World) -> None:
    (world.context / "Dockerfile").write_text(f"FROM scratch\nADD http://{world.registry}/v2/ /answer\n")
    time.sleep(0.06)
    assert world.build() is None


def test_every_part_of_a_request_has_been_thought_of() -> None:
    """Whoever adds a field says here, or in the witness, what it means for unchanged builds."""
    assert {one.name for one in dataclasses.fields(BuildRequest)} == _COVERED | set(NOT_COVERED.split())
    assert {one.name for one in dataclasses.fields(Output)} == _COVERED_OUTPUT | set(
        OUTPUT_NOT_COVERED.split()
    )
