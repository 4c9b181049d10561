"""Builds leave records; a failed one can keep going, and be resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import NotFoundError
from polyarch.history.reader import find, load, records

pytestmark = pytest.mark.userns
_TWO = ("--platform", "linux/amd64,linux/arm64")
_START = "from polyarch.cli.entry import run; run()"


def polyarch(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _START, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def context(tmp_path: Path, busybox: str) -> Path:
    """A step that fails for arm64 as long as ``flag`` says so, after one that is fine."""
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "flag").write_text("broken")
    (folder / "Dockerfile").write_text(
        "FROM --platform=$BUILDPLATFORM base/busybox AS work\n"
        "ARG TARGETARCH\n"
        "RUN echo once-$TARGETARCH > /a\n"
        "COPY flag /flag\n"
        'RUN if [ $TARGETARCH = arm64 ] && [ "$(cat /flag)" = broken ]; then echo no-$TARGETARCH; exit 7; fi;'
        " echo made-$TARGETARCH\n"
        "FROM base/busybox\n"
        "COPY --from=work /a /a\n"
    )
    return folder


def test_the_metadata_names_the_record(context: Path, state: State, tmp_path: Path) -> None:
    (context / "flag").write_text("fine")
    file = tmp_path / "metadata.json"
    done = polyarch("build", *_TWO, "--metadata-file", str(file), "-t", "app:1", str(context))
    assert done.returncode == 0, done.stderr
    reference = json.loads(file.read_text())["buildx.build.ref"]
    build = load(find(state.history, reference))
    assert build.record.id == reference.rpartition("/")[2] and build.record.status == "completed"
    assert build.record.finished is not None
    assert build.record.finished.digest == Layout(state.content).resolve("app:1").digest
    assert [one.how for one in build.record.finished.variants] == ["native", "cross-compiled"]
    text = polyarch("logs", reference).stdout
    assert "made-amd64" in text and "made-arm64" in text
    number = next(each.number for each in build.vertices.values() if "made-arm64" in each.text)
    assert polyarch("logs", str(number)).stdout == "made-arm64\n"
    listed = polyarch("history", "ls", "--format", "{{.Ref}} {{.Status}}").stdout
    assert listed == f"{build.record.id} Completed\n"
    inspected = json.loads(polyarch("history", "inspect", "--format", "json").stdout)
    assert inspected["ref"] == build.record.id and len(inspected["steps"]) == len(build.vertices)
    copied = next(each for each in inspected["steps"] if "COPY --from=work" in each["name"])
    assert copied["size"] > 0 and copied["lines"] == [7, 7]
    for words in (("logs",), ("trace",), ("export",), ("open", "-o", "-"), ("logs", "--progress", "rawjson")):
        done = polyarch("history", *words)
        assert (done.returncode == 0 and "made-arm64" in done.stdout) or words[0] in ("trace", "logs"), words
    assert polyarch("history", "rm", reference).returncode == 0 and records(state.history) == []


def test_the_others_finish_and_only_what_failed_is_done_again(context: Path, state: State) -> None:
    words = ("build", *_TWO, "-t", "app:1", "--no-cache", "--keep-going", "--build-arg", "X_TOKEN=abc", ".")
    failed = subprocess.run(
        [sys.executable, "-c", _START, *words], cwd=context, capture_output=True, text=True, timeout=120
    )
    assert failed.returncode == 1
    assert "1 of 2 platforms failed: linux/arm64" in failed.stderr
    assert "linux/amd64: finished" in failed.stderr and "| no-arm64" in failed.stderr
    assert "made-amd64" in failed.stderr  # although arm64 had failed
    with pytest.raises(NotFoundError):
        Layout(state.content).resolve("app:1")
    assert find(state.history).status == "error"

    refused = polyarch("build", "--resume")
    assert refused.returncode == 1 and "build_args X_TOKEN" in refused.stderr
    again = polyarch("build", "--resume", "--build-arg", "X_TOKEN=abc")
    assert again.returncode == 1 and "once-" not in polyarch("logs").stdout
    done = load(find(state.history))
    ran = [each.plan.name for each in done.vertices.values() if each.state == "error"]
    assert len(ran) == 1 and "RUN if" in ran[0]
    assert {each.state for each in done.vertices.values() if "RUN echo once" in each.plan.name} == {"cached"}

    (context / "flag").write_text("fine")
    mended = polyarch("build", "--resume", "--build-arg", "X_TOKEN=abc")
    assert mended.returncode == 0, mended.stderr
    assert Layout(state.content).resolve("app:1")
    done = load(find(state.history))
    assert {each.state for each in done.vertices.values() if "RUN echo once" in each.plan.name} == {"cached"}
    nothing = polyarch("build", "--resume", find(state.history).id[:8], "--build-arg", "X_TOKEN=abc")
    assert nothing.returncode == 0, nothing.stderr  # a complete build may be done again, too


def test_an_unchanged_build_is_recorded_too(context: Path, state: State) -> None:
    (context / "flag").write_text("fine")
    words = ("build", *_TWO, "-t", "app:1", "--progress", "plain", str(context))
    for path in (context, *context.iterdir()):
        os.utime(path, (1, 1))  # files that were changed just now may change again unseen
    assert polyarch(*words).returncode == 0
    again = polyarch(*words)
    assert again.returncode == 0 and "CACHED" in again.stderr
    last, first = (load(record) for record in records(state.history))
    assert last.record.status == "completed" and last.record.id != first.record.id
    assert {each.state for each in last.vertices.values()} == {"cached"} or not (
        state.root / "unchanged"
    ).exists()
    assert last.record.finished is not None and first.record.finished is not None
    assert last.record.finished.digest == first.record.finished.digest
    assert polyarch("history", "open", "-o", "-").returncode == 0


def test_without_it_the_first_failure_ends_everything(context: Path, state: State) -> None:
    failed = polyarch("build", *_TWO, str(context))
    assert failed.returncode == 1 and "platforms failed" not in failed.stderr
    finished = find(state.history).finished
    assert finished is not None and finished.status == "error" and "| no-arm64" in finished.detail


def test_a_killed_build_is_interrupted_and_can_be_resumed(context: Path, state: State) -> None:
    (context / "Dockerfile").write_text("FROM base/busybox\nRUN echo begun; sleep 60\n")
    child = subprocess.Popen(
        [sys.executable, "-c", _START, "build", str(context)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not any("begun" in each.text for r in records(state.history) for each in load(r).vertices.values()):
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    assert find(state.history).status == "running"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert find(state.history).status == "interrupted"
    assert "begun" in polyarch("logs").stdout
    (context / "Dockerfile").write_text("FROM base/busybox\nRUN echo begun\n")
    assert polyarch("build", "--resume").returncode == 0


def test_secrets_are_nowhere_in_the_record(context: Path, state: State) -> None:
    (context / "Dockerfile").write_text(
        "FROM base/busybox\nRUN --mount=type=secret,id=a cat /run/secrets/a; cat /run/secrets/a >&2; exit 1\n"
    )
    failed = polyarch("build", "--secret", "id=a,env=A_VALUE", str(context), A_VALUE="very-secret-value")
    assert failed.returncode == 1
    assert all(b"very-secret" not in path.read_bytes() for path in state.history.iterdir())
    assert "xxxxx" in polyarch("logs").stdout


def test_what_changed_is_named(tmp_path: Path, state: State, busybox: str) -> None:
    """By the build, by rawjson, and by --dry-run, which runs nothing."""
    folder = tmp_path / "named"
    (folder / "src").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM base/busybox\nCOPY src/ /src/\nRUN cat /src/*\n")
    for name in ("main.go", "other.go", "old.go"):
        (folder / "src" / name).write_text(name)
    assert polyarch("build", str(folder)).returncode == 0
    (folder / "src" / "main.go").write_text("changed")
    (folder / "src" / "new.go").write_text("new")
    (folder / "src" / "old.go").unlink()
    told = "/src/main.go changed, /src/new.go added, /src/old.go removed"
    for _ in range(2):
        planned = polyarch("build", "--dry-run", str(folder))
        assert planned.returncode == 0 and told in planned.stdout, planned.stdout
    done = polyarch("build", "--progress", "rawjson", str(folder))
    rows = [json.loads(line) for line in done.stderr.splitlines()]
    ended = {
        vertex["name"]: vertex for row in rows for vertex in row.get("vertexes", ()) if "completed" in vertex
    }
    (copied,) = (vertex for name, vertex in ended.items() if "COPY" in name)
    assert copied["cached"] is False and copied["reason"] == told
    assert all(vertex["cached"] or vertex["reason"] for name, vertex in ended.items() if "export" not in name)
    os.utime(folder / "src" / "main.go", (1, 1))
    planned = polyarch("build", "--dry-run", str(folder))
    assert planned.stdout.count("cached") == 2, planned.stdout  # the times alone are no change


def test_what_is_fetched_is_counted(tmp_path: Path, state: State, busybox: str, registry: str) -> None:
    assert polyarch("tag", "base/busybox", f"{registry}/base:1").returncode == 0
    assert polyarch("push", f"{registry}/base:1").returncode == 0
    elsewhere = State(tmp_path / "elsewhere")
    (tmp_path / "Dockerfile").write_text(f"FROM {registry}/base:1\nRUN echo made > /made\n")
    words = ("build", "-t", f"{registry}/app:1", "--push", str(tmp_path))
    done = polyarch(*words, POLYARCH_ROOT=str(elsewhere.root))
    assert done.returncode == 0, done.stderr
    build = load(find(elsewhere.history))
    base = next(each for each in build.vertices.values() if "FROM" in each.plan.name)
    assert base.transferred > 500_000 and all(each.done for each in base.transfers.values())
    export = next(each for each in build.vertices.values() if "export" in each.plan.name)
    assert export.transferred > 0


def test_what_was_just_built_is_not_unpacked_again_to_run(context: Path, state: State) -> None:
    (context / "Dockerfile").write_text("FROM base/busybox\nRUN echo made > /made\nCMD cat /made\n")
    assert polyarch("build", "-t", "app:1", str(context)).returncode == 0
    before = {path.name for path in state.trees.iterdir()}
    done = polyarch("run", "app:1")
    assert (done.returncode, done.stdout) == (0, "made\n"), done.stderr
    assert {path.name for path in state.trees.iterdir()} == before
