"""One Dockerfile, many platforms, one tag: the main path, with real namespaces and real emulation."""

from __future__ import annotations

from pathlib import Path

import pytest

import polyarch
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import PolyarchError, StepError
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.solver.events import VertexCompleted, VertexLog

PLATFORMS = ("linux/amd64", "linux/arm64")


def write(folder: Path, dockerfile: str, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


class Recorder:
    """Keeps the events of a build."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def __call__(self, event: object) -> None:
        self.events.append(event)

    def ran(self) -> list[str]:
        """The names of the steps that really ran."""
        return [
            e.name
            for e in self.events
            if isinstance(e, VertexCompleted) and not e.cached and (" RUN " in e.name or " COPY " in e.name)
        ]

    def output(self) -> str:
        return b"".join(e.data for e in self.events if isinstance(e, VertexLog)).decode()


@pytest.mark.userns
@pytest.mark.qemu
def test_two_platforms_behind_one_tag(state: State, busybox: str, tmp_path: Path) -> None:
    context = write(
        tmp_path / "c",
        f"FROM {busybox}\nARG TARGETARCH\nRUN uname -m > /machine; echo built for $TARGETARCH\nCOPY hello /\n"
        'CMD ["cat", "/machine"]\n',
        hello="hello",
    )
    seen = Recorder()
    outcome = polyarch.build(context, platforms=PLATFORMS, tags=["demo:1"], progress=seen)
    assert [p.how for p in outcome.platforms] == ["native", "emulated"]
    assert "built for amd64" in seen.output() and "built for arm64" in seen.output()
    image = polyarch.inspect("demo:1")
    assert [str(p) for p in image.platforms] == list(PLATFORMS)
    assert image.digest == outcome.digest
    layers = [[layer.digest for layer in variant.layers] for variant in image.variants]
    assert layers[0][-1] == layers[1][-1], "COPY's layer is the same for every platform"
    assert layers[0][-2] != layers[1][-2]


@pytest.mark.userns
def test_an_unchanged_build_does_nothing_and_has_the_same_digest(
    state: State, busybox: str, tmp_path: Path
) -> None:
    context = write(tmp_path / "c", f"FROM {busybox}\nCOPY a /a\nRUN cat /a > /b\n", a="1")
    first = polyarch.build(context, tags=["demo"])
    seen = Recorder()
    second = polyarch.build(context, tags=["demo"], progress=seen)
    assert second.digest == first.digest
    assert seen.ran() == []
    (context / "a").write_text("2")
    seen = Recorder()
    third = polyarch.build(context, tags=["demo"], progress=seen)
    assert third.digest != first.digest
    assert len(seen.ran()) == 2
    reasons = [e.reason for e in seen.events if isinstance(e, VertexCompleted) and e.reason]
    assert any("the files" in reason or "source" in reason for reason in reasons), reasons


@pytest.mark.userns
@pytest.mark.qemu
def test_what_does_not_depend_on_the_platform_runs_once(state: State, busybox: str, tmp_path: Path) -> None:
    context = write(
        tmp_path / "c",
        f"FROM --platform=$BUILDPLATFORM {busybox} AS once\nRUN echo the-same > /out\n"
        f"FROM --platform=$BUILDPLATFORM {busybox} AS cross\nARG TARGETARCH\n"
        "RUN echo for-$TARGETARCH > /out\n"
        f"FROM {busybox}\nCOPY --from=once /out /once\nCOPY --from=cross /out /cross\n",
    )
    seen = Recorder()
    outcome = polyarch.build(context, platforms=PLATFORMS, progress=seen)
    ran = [name for name in seen.ran() if " RUN " in name]
    assert sum("the-same" in name for name in ran) == 1
    assert sum("for-" in name for name in ran) == 2
    assert [p.how for p in outcome.platforms] == ["native", "cross-compiled"]


def test_copy_only_builds_need_no_privilege_and_unpack_nothing(
    state: State, busybox: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyarch.executor.sandbox import Sandbox

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a COPY-only build started the sandbox")

    monkeypatch.setattr(Sandbox, "start", refuse)
    context = write(
        tmp_path / "c",
        f"FROM {busybox}\nWORKDIR /app\nCOPY --chmod=755 --chown=5:6 tool bin/\nADD tool /t\n",
        tool="#!/bin/sh\n",
    )
    platforms = ["linux/amd64", "linux/arm64"]
    outcome = polyarch.build(context, platforms=platforms, tags=["demo"])
    assert [p.how for p in outcome.platforms] == ["copied", "copied"]
    assert not list(state.trees.glob("*")) if state.trees.exists() else True


@pytest.mark.userns
def test_a_failed_step_leaves_the_tag_and_tells_where(state: State, busybox: str, tmp_path: Path) -> None:
    context = write(tmp_path / "c", f"FROM {busybox}\nRUN true\n")
    before = polyarch.build(context, tags=["demo"]).digest
    write(context, f"FROM {busybox}\nRUN true\n\nRUN echo last words; exit 7\n")
    with pytest.raises(StepError) as caught:
        polyarch.build(context, tags=["demo"])
    error = caught.value
    assert error.process_exit_code == 7
    assert error.platform.startswith("linux/")
    assert error.location is not None and error.location.start == 4
    assert "last words" in error.detail and "RUN echo last words" in error.detail
    assert polyarch.inspect("demo").digest == before


@pytest.mark.userns
def test_secrets_reach_the_step_and_nothing_else(state: State, busybox: str, tmp_path: Path) -> None:
    secret = b"hunter2-is-the-secret"
    context = write(
        tmp_path / "c",
        f"FROM {busybox}\nRUN --mount=type=secret,id=pw,required=true --mount=type=secret,id=pw,env=PW "
        'test "$(cat /run/secrets/pw)" = "$PW" && echo -n "$PW" | wc -c > /length\n',
    )
    polyarch.build(context, tags=["demo"], secrets={"pw": secret})
    for path in state.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert secret not in path.read_bytes(), path
    # Another value of the same secret is the same build.
    seen = Recorder()
    polyarch.build(context, tags=["demo"], secrets={"pw": b"another"}, progress=seen)
    assert seen.ran() == []


@pytest.mark.userns
def test_a_build_pushed_is_complete_in_the_registry(
    state: State, busybox: str, tmp_path: Path, registry: str
) -> None:
    context = write(tmp_path / "c", f"FROM {busybox}\nCOPY a /a\nLABEL a=b\n", a="1")
    name = f"{registry}/team/app:1"
    outcome = polyarch.build(context, platforms=PLATFORMS, tags=[name], push=True)
    remote = polyarch.inspect(name, remote=True)
    assert remote.digest == outcome.digest
    assert not remote.absent
    assert [str(p) for p in remote.platforms] == list(PLATFORMS)
    assert all(v.config.config and v.config.config.labels == {"a": "b"} for v in remote.variants)
    assert Layout(state.content).resolve(name).digest == outcome.digest


def test_a_variant_that_cannot_run_gets_no_tag(state: State, busybox: str, tmp_path: Path) -> None:
    host = next(p for p in PLATFORMS if platforms.choose(platforms.host(), [Platform.parse(p)]) is not None)
    foreign = next(p for p in PLATFORMS if p != host)
    dockerfile = (
        f"FROM --platform={host} {busybox} AS wrong\nFROM {busybox}\n"
        'COPY --from=wrong /bin/busybox /app\nCMD ["/app"]\n'
    )
    context = write(tmp_path / "c", dockerfile)
    with pytest.raises(PolyarchError) as caught:
        polyarch.build(context, platforms=PLATFORMS, tags=["demo"])
    assert caught.value.reason == "wrong-architecture"
    assert foreign in caught.value.summary and "/app" in caught.value.summary
    with pytest.raises(polyarch.NotFoundError):
        Layout(state.content).resolve("docker.io/library/demo:latest")
    polyarch.build(context, platforms=[host], tags=["demo"])
