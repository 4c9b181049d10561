"""Parts of an image, built apart and joined: whole, from the same things, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import polyarch
from polyarch.cli.main import main
from polyarch.cli.merge import _KINDS
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.export import joining
from polyarch.export.push import push_combined
from polyarch.image.combine import Combined
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client
from polyarch.registry.config import Config
from polyarch.registry.server.exchange import App, Receive, Scope, Send
from polyarch.registry.server.running import serve_in_thread

DOCKERFILE = "FROM scratch AS base\nARG TARGETARCH VERSION\nCOPY data /\nLABEL a=$TARGETARCH v=$VERSION\n"
BOTH = ("linux/amd64", "linux/arm64")


def source(folder: Path, dockerfile: str = DOCKERFILE, data: str = "data") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    (folder / "data").write_text(data)
    (folder / "more.txt").write_text("more")
    return folder


def part(machine: Path, context: Path, platform: str, *more: str, status: int = 0) -> Path:
    """Build a part as a machine of its own does; returns its folder of parts."""
    parts = machine / "parts"
    before = os.environ.get("POLYARCH_ROOT", "")
    os.environ["POLYARCH_ROOT"] = str(machine / "state")
    try:
        words = ["build", "-q", str(context), "--platform", platform, "--part", str(parts), *more]
        assert main(words) == status
    finally:
        os.environ["POLYARCH_ROOT"] = before
    return parts


def gathered(target: Path, *folders: Path) -> Path:
    """What copying the folders of several machines into one leaves."""
    for folder in folders:
        shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


@pytest.fixture
def parts(state: State, tmp_path: Path) -> Path:
    """The parts of both platforms, built on two machines with a checkout each."""
    made = [
        part(tmp_path / name, source(tmp_path / name / "src"), platform)
        for name, platform in zip("ab", BOTH, strict=True)
    ]
    return gathered(tmp_path / "parts", *made)


def platforms_of(name: str, *, remote: bool = False) -> list[str]:
    return [str(platform) for platform in polyarch.inspect(name, remote=remote).platforms]


# --- joining ------------------------------------------------------------------------------------------------


def test_parts_become_one_image(parts: Path, registry: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{registry}/team/app"
    assert main(["merge", str(parts), "-t", f"{name}:1", "-t", f"{name}:latest", "--push"]) == 0
    told = capsys.readouterr().out.split()
    assert platforms_of(f"{name}:1", remote=True) == list(BOTH)
    digest = polyarch.inspect(f"{name}:latest", remote=True).digest
    assert told == [f"{name}:1@{digest}", f"{name}:latest@{digest}"]


def test_into_the_local_store(parts: Path, tmp_path: Path) -> None:
    file = tmp_path / "metadata.json"
    words = ["merge", str(parts), "-t", "team/app:1", "--annotation", "a=b", "--metadata-file", str(file)]
    assert main(words) == 0
    found = polyarch.inspect("team/app:1")
    assert found.raw.index.annotations == {"a": "b"}
    assert json.loads(file.read_text())["containerimage.digest"] == found.digest
    assert main(["merge", str(parts), "--dry-run"]) == 0
    assert main(["merge", str(parts)]) == 2
    assert main(["merge", str(parts / "blobs"), "-t", "x"]) == 1


def test_it_is_what_one_machine_makes(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    context = source(tmp_path / "src")
    whole = polyarch.build(context, platforms=BOTH).digest
    made = [part(tmp_path / name, context, p) for name, p in zip("ab", reversed(BOTH), strict=True)]
    assert main(["merge", *map(str, made), "-t", "team/app:1"]) == 0
    assert polyarch.inspect("team/app:1").digest == whole


def test_folders_of_artifacts(parts: Path, state: State, tmp_path: Path) -> None:
    """What was downloaded into a folder each, and several platforms in one part."""
    shutil.copytree(tmp_path / "a" / "parts", tmp_path / "all" / "artifact-1")
    both = part(tmp_path / "c", source(tmp_path / "c/src"), "linux/arm64,linux/riscv64")
    shutil.copytree(both, tmp_path / "all" / "deep" / "artifact-2")
    assert main(["merge", str(tmp_path / "all"), "-t", "team/app:1"]) == 0
    assert platforms_of("team/app:1") == [*BOTH, "linux/riscv64"]


def test_pushed_by_digest(state: State, tmp_path: Path, registry: str) -> None:
    """With --push a machine's content goes to the registry, and only the record is carried."""
    name = f"{registry}/team/app:1"
    made = [
        part(tmp_path / a, source(tmp_path / a / "src", data=9999 * "x"), p, "--push", "-t", name)
        for a, p in zip("ab", BOTH, strict=True)
    ]
    with pytest.raises(NotFoundError):
        polyarch.inspect(name, remote=True)
    parts = gathered(tmp_path / "parts", *made)
    other = f"{registry}/elsewhere/app:1"
    assert main(["merge", str(parts), "-t", name, "-t", other, "--push"]) == 0
    assert platforms_of(name, remote=True) == platforms_of(other, remote=True) == list(BOTH)
    assert main(["pull", "-q", other]) == 0


def test_the_parts_lie_in_the_context(state: State, tmp_path: Path) -> None:
    context = source(tmp_path / "src")
    for platform in BOTH:
        words = ["build", "-q", str(context), "--platform", platform, "--part", str(context / "out/parts")]
        assert main(words) == 0
    assert main(["merge", str(context / "out" / "parts"), "-t", "team/app:1"]) == 0


def test_a_part_that_is_built_again(state: State, tmp_path: Path) -> None:
    context = source(tmp_path / "src")
    for _ in range(2):
        parts = part(tmp_path / "a", context, BOTH[0])
        (context / "data").write_text("changed")
    part(tmp_path / "a", context, BOTH[1])
    assert main(["merge", str(parts), "-t", "team/app:1"]) == 0


# --- what is not joined -------------------------------------------------------------------------------------


def refused(parts: Path, *more: str) -> PolyarchError:
    with Client() as client, pytest.raises(PolyarchError) as caught:
        found = joining.find_parts([parts], client)
        joining.check_source(found)
        wanted = [Platform.parse(text) for text in more]
        joining.join(found, joining.check_complete(found, wanted))
    return caught.value


DIFFERENT = {
    "context": ({"data": "other"}, (), "data"),
    "dockerfile": ({"dockerfile": DOCKERFILE + "LABEL c=d\n"}, (), "Dockerfile"),
    "arguments": ({}, ("--build-arg", "VERSION=2"), "VERSION"),
    "target": ({}, ("--target", "base"), "of base"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_parts_of_different_sources(kind: str, state: State, tmp_path: Path) -> None:
    changes, options, says = DIFFERENT[kind]
    one = part(tmp_path / "a", source(tmp_path / "a/src"), BOTH[0])
    other = part(tmp_path / "b", source(tmp_path / "b/src", **changes), BOTH[1], *options)
    parts = gathered(tmp_path / "parts", one, other)
    error = refused(parts)
    assert error.reason == "parts-differ"
    assert f"{kind}:" in error.detail and says in error.detail
    assert main(["merge", str(parts), "-t", "team/app:1"]) == 1
    accepted = [word for name in (kind, "context") for word in ("--accept", name)]
    assert main(["merge", str(parts), "-t", "team/app:1", *accepted]) == 0


def test_parts_of_different_commits(state: State, tmp_path: Path) -> None:
    context = source(tmp_path / "src")
    (context / ".dockerignore").write_text("ignored\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(context)]
    made = []
    for number, platform in enumerate(BOTH):
        (context / "ignored").write_text(str(number))
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*git, *words], check=True)
        made.append(part(tmp_path / str(number), context, platform))
    error = refused(gathered(tmp_path / "parts", *made))
    assert error.reason == "parts-differ" and "revision: linux-amd64 is of commit" in error.detail


def test_parts_on_different_bases(busybox: str, state: State, tmp_path: Path) -> None:
    dockerfile = f"FROM {busybox}\nCOPY data /\n"
    layout = Layout(state.content)
    parts = tmp_path / "parts"
    for platform in BOTH:
        words = ["build", "-q", "--platform", platform, "--part", str(parts)]
        assert main([*words, str(source(tmp_path / "src", dockerfile))]) == 0
        index = layout.resolve(f"docker.io/{busybox}")
        with Client():
            raw = read(layout, index, limit=1 << 20)
        changed = layout.push_bytes(raw.replace(b"{", b"{ ", 1), index.media_type)
        layout.tag(f"docker.io/{busybox}", changed)
    error = refused(parts)
    assert f"bases: docker.io/{busybox} was sha256:" in error.detail


def test_a_part_is_missing(parts: Path, registry: str, tmp_path: Path) -> None:
    assert refused(parts, *BOTH, "linux/s390x").reason == "parts-missing"
    one = gathered(tmp_path / "one", tmp_path / "a" / "parts")
    assert refused(one).summary.startswith("only one part is there, linux-amd64")
    name = f"{registry}/team/app:1"
    assert main(["merge", str(one), "-t", name, "--push"]) == 1
    assert main(["merge", str(one), "-t", name, "--push", "--platform", "linux/amd64"]) == 0
    assert platforms_of(name, remote=True) == ["linux/amd64"]


def test_what_the_tag_has_now_is_not_lost(parts: Path, registry: str, tmp_path: Path) -> None:
    third = part(tmp_path / "c", source(tmp_path / "c/src"), "linux/riscv64")
    name = f"{registry}/team/app:1"
    assert main(["merge", str(parts), str(third), "-t", name, "--push"]) == 0
    before = polyarch.inspect(name, remote=True).digest
    assert main(["merge", str(parts), "-t", name, "--push"]) == 1
    assert polyarch.inspect(name, remote=True).digest == before
    assert main(["merge", str(parts), "-t", name, "--push", "--platform", ",".join(BOTH)]) == 0


def test_the_builds_say_what_the_whole_is(state: State, tmp_path: Path) -> None:
    whole = ("--part-of", ",".join([*BOTH, "linux/s390x"]))
    made = [
        part(tmp_path / a, source(tmp_path / a / "src"), p, *whole) for a, p in zip("ab", BOTH, strict=True)
    ]
    error = refused(gathered(tmp_path / "parts", *made))
    assert error.reason == "parts-missing" and "linux/s390x is missing" in error.summary
    part(tmp_path / "d", source(tmp_path / "d/src"), "linux/386", *whole, status=2)


def test_a_part_that_was_copied_in_part(parts: Path, state: State) -> None:
    record = json.loads(next(parts.glob("*arm64.part.json")).read_text())
    layout = Layout(parts)
    manifest = json.loads(layout.path(record["manifests"][0]["digest"]).read_text())
    path = layout.path(manifest["config"]["digest"])
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert main(["merge", str(parts), "-t", "team/app:1"]) == 1
    path.unlink()
    assert refused(parts).reason == "part-damaged"
    path.write_bytes(data)
    next(parts.glob("*arm64.part.json")).write_text("{")
    assert refused(parts).reason == "invalid-part"


def test_two_parts_for_one_platform(parts: Path, tmp_path: Path) -> None:
    again = part(tmp_path / "c", source(tmp_path / "c/src"), "linux/arm64,linux/386", "--label", "x=y")
    assert refused(gathered(parts, again)).reason == "duplicate-part"


def test_a_tag_that_moved(parts: Path, registry: str) -> None:
    name = f"{registry}/team/app:1"
    words = ["merge", str(parts), "-t", name, "--push", "--if-tag-is"]
    assert main([*words, "sha256:" + "0" * 64]) == 1
    assert main([*words, "none"]) == 0
    assert main([*words, "none"]) == 1
    assert main([*words, polyarch.inspect(name, remote=True).digest]) == 0


def test_from_python(state: State, tmp_path: Path) -> None:
    for platform in BOTH:
        polyarch.build(source(tmp_path / "src"), platforms=[platform], part=tmp_path / "parts")
    digest = polyarch.merge([tmp_path / "parts"], tags=["team/app:1"], annotations=["a=b"])
    assert polyarch.inspect("team/app:1").digest == digest
    with pytest.raises(PolyarchError) as caught:
        polyarch.merge([tmp_path / "parts"], tags=["team/app:1"], platforms=["linux/s390x"])
    assert caught.value.reason == "parts-missing"
    assert main(["merge", str(tmp_path / "parts"), "-t", "x", "--if-tag-is", "none"]) == 2


def test_kinds_are_the_differences() -> None:
    assert tuple(_KINDS) == joining.DIFFERENCES


# --- faults -------------------------------------------------------------------------------------------------


class Stopping:
    """Counts requests; from number ``first`` on, as long as ``times`` say, ``act`` is asked before or after
    the registry has done what the request wants, and the connection breaks."""

    def __init__(self, first: int = 1 << 30, times: int = 1 << 30, *, after: bool = False) -> None:
        self.first, self.times, self.after = first, times, after
        self.seen = 0
        self.process: subprocess.Popen[bytes] | None = None

    def wrap(self, app: App) -> App:
        async def stopping(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            self.seen += 1
            if not self.first <= self.seen < self.first + self.times:
                await app(scope, receive, send)
                return

            async def silent(message: object) -> None:
                pass

            if self.after:
                await app(scope, receive, silent)  # type: ignore[arg-type]  # what it says is not passed on
            if self.process is not None:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
            raise ConnectionResetError

        return stopping


def combined(parts: Path, client: Client) -> Combined:
    found = joining.find_parts([parts], client)
    return joining.join(found, joining.check_complete(found, ()))


def check_old_or_new(reference: Reference, old: str, new: str) -> bool:
    """Every tag names the old image or the new one, and that is whole. Whether it is the new one."""
    with Client() as client:
        repository = client.repository(reference)
        root = repository.resolve("1")
        assert root.digest in (old, new)
        for descriptor in walk(repository, root):
            with repository.open(descriptor) as stream:
                stream.read()
        return root.digest == new


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("times", [1, 1 << 30], ids=["once", "for good"])
def test_a_fault_at_every_request(parts: Path, tmp_path: Path, after: bool, times: int) -> None:
    import logging

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the faults are meant
    other = part(tmp_path / "o", source(tmp_path / "o/src", data="old"), ",".join(BOTH))
    stopping = Stopping(after=after)
    with serve_in_thread(tmp_path / "registry", wrap=stopping.wrap) as address:
        for number in range(1, 99):
            reference = Reference.parse(f"{address}/team/app-{number}:1")
            with Client(config=Config(backoff=0.001, attempts=2)) as client:
                before, whole = combined(other, client), combined(parts, client)
                push_combined(before, [reference], client=client)
                stopping.seen, stopping.first, stopping.times = 0, number, times
                failed = False
                try:
                    push_combined(whole, [reference], client=client)
                except PolyarchError:
                    failed = True
                faulty, stopping.first = stopping.seen >= number, 1 << 30
                is_new = check_old_or_new(reference, before.raw.digest, whole.raw.digest)
                assert is_new or failed
                push_combined(whole, [reference], client=client)  # trying again is all it takes
                assert check_old_or_new(reference, before.raw.digest, whole.raw.digest)
                if not faulty:
                    break
    assert number > 8


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_request(parts: Path, tmp_path: Path, after: bool, state: State) -> None:
    import logging

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    code = "from polyarch.cli.entry import run; run()"
    root = tmp_path / "registry"
    stopping = Stopping(after=after)
    with serve_in_thread(root, wrap=stopping.wrap) as address, Client() as client:
        other = part(tmp_path / "o", source(tmp_path / "o/src", data="old"), ",".join(BOTH))
        before, whole = combined(other, client), combined(parts, client)
        reference = Reference.parse(f"{address}/team/app:1")
        command = [sys.executable, "-c", code, "merge", str(parts), "-t", str(reference), "--push"]
        push_combined(before, [reference], client=client)
        stopping.seen = 0
        for number in range(1, 99):
            stopping.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            stopping.seen, stopping.first = 0, number
            code_ = stopping.process.wait(60)
            stopping.first = 1 << 30
            is_new = check_old_or_new(reference, before.raw.digest, whole.raw.digest)
            if code_ == 0:
                break
            assert code_ == -signal.SIGKILL
        assert is_new and number > 8
