"""The command line answers an unchanged build from its record: with the same words, and nothing imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from polyarch.content.state import State

SHIM = Path(__file__).parents[1] / "integration" / "crash_shim"
PROGRAM = "import sys; sys.argv[0] = 'polyarch'; from polyarch.cli.entry import run; run()"
# What a build in full needs, and its answer does not.
HEAVY = """asyncio click concurrent ctypes dataclasses email http inspect isal logging msgspec rich
sqlite3 ssl subprocess typing urllib urllib3 zstandard polyarch.pipeline polyarch.errors""".split()


@dataclass
class Answer:
    output: str
    shown: str
    modules: set[str]

    @property
    def in_full(self) -> bool:
        """Whether there was a build."""
        return "polyarch.pipeline" in self.modules

    def summary(self) -> list[str]:
        """The summary but for the time."""
        lines = self.shown.splitlines()
        return lines[lines.index(next(line for line in lines if line.startswith("digest: "))) : -1]


def polyarch(*words: str, **environment: str) -> Answer:
    """Run the command line, and see what it imports."""
    command = [sys.executable, "-X", "importtime", "-c", PROGRAM, *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    marked = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    shown = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    return Answer(done.stdout, shown, {line.rpartition("|")[2].strip() for line in marked})


@pytest.fixture
def words(tmp_path: Path, state: State, registry: str) -> list[str]:
    """A build that is pushed, of a context with an ignore file."""
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM scratch\nARG WORD\nLABEL word=$WORD\nCOPY file /\nmaintainer me\n"
    )
    (context / ".dockerignore").write_text("*.log\n")
    (context / "file").write_text("content")
    time.sleep(0.06)
    tag = f"{registry}/app:1"
    return [
        "build",
        "--platform=linux/amd64,linux/arm64",
        "--build-arg=WORD",
        "--push",
        "-t",
        tag,
        str(context),
    ]


def test_the_answer_is_the_same_and_costs_no_imports(words: list[str]) -> None:
    first = polyarch(*words)
    again = polyarch(*words)
    assert first.in_full and not again.in_full
    assert not again.modules & set(HEAVY)
    assert again.summary() == first.summary()
    assert "#2 CACHED" in again.shown and "COPY file /" in again.shown
    assert [line for line in first.shown.splitlines() if line.startswith("warning:")] == [
        line for line in again.shown.splitlines() if line.startswith("warning:")
    ]
    quiet = ["build", "--quiet", *words[1:]]
    assert polyarch(*quiet).output == polyarch(*quiet).output != ""


def test_nothing_is_written_but_a_line_of_history(words: list[str], state: State, tmp_path: Path) -> None:
    counted = tmp_path / "steps"
    shim = {"PYTHONPATH": os.pathsep.join([str(SHIM), *sys.path]), "POLYARCH_FAULT": f"count:{counted}"}
    polyarch(*words, **shim)  # the environment is another
    before = files(state)
    polyarch(*words, **shim)
    assert files(state) == before
    assert int(counted.read_text()) < 5


def files(state: State) -> dict[str, int]:
    """Every file of a state directory but the history's, with its time."""
    found = (path for path in state.root.rglob("*") if state.history not in (path, *path.parents))
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_words_environment_and_files_decide(words: list[str]) -> None:
    polyarch(*words)
    assert polyarch(*words, WORD="new").in_full  # --build-arg=WORD takes it
    assert polyarch(*words).in_full  # the record is the last build's
    assert not polyarch(*words, SHLVL="7").in_full
    assert polyarch(*words, "--no-cache").in_full
    context = Path(words[-1])
    (context / "file").write_text("CONTENT")
    changed = polyarch(*words)
    assert changed.in_full and "DONE" in changed.shown


def test_what_others_read_is_written_every_time(words: list[str], state: State, tmp_path: Path) -> None:
    identity, metadata = tmp_path / "id", tmp_path / "more" / "metadata"
    metadata.parent.mkdir()
    words += [f"--iidfile={identity}", f"--metadata-file={metadata}"]
    polyarch(*words)
    first, said = identity.read_text(), json.loads(metadata.read_text())
    identity.unlink()
    assert not polyarch(*words).in_full
    again = json.loads(metadata.read_text())
    assert identity.read_text() == first
    assert again.pop("buildx.build.ref") != said.pop("buildx.build.ref")
    assert again == said
    assert len(list(state.history.glob("*.jsonl"))) == 2
    shutil.rmtree(metadata.parent)
    with pytest.raises(AssertionError, match="mkdir"):
        polyarch(*words)


def test_events_are_those_of_a_build(words: list[str]) -> None:
    polyarch(*words, "--progress=rawjson")
    assert polyarch(*words, "--progress=rawjson").in_full


def test_a_record_that_is_damaged_old_or_foreign_is_none(words: list[str], state: State) -> None:
    polyarch(*words)
    (path,) = state.unchanged.iterdir()
    good = json.loads(path.read_text())
    bad: list[object] = [[], None, {**good, "stamp": "other"}, {**good, "made": good["made"] - 4000}]
    bad += [{**good, "made": good["made"] + 4000}, {**good, "made": None}]
    bad += [
        {name: value for name, value in good.items() if name != missing} for missing in ("files", "steps")
    ]
    for content in [json.dumps(one) for one in bad] + ["", "{", "[" * 100_000]:
        path.write_text(content)
        assert polyarch(*words).in_full
        assert not polyarch(*words).in_full


def test_the_registry_is_asked(words: list[str], tmp_path: Path) -> None:
    polyarch(*words)
    assert not polyarch(*words).in_full
    (tags,) = (tmp_path / "registry").glob("**/_tags")
    shutil.rmtree(tags)
    assert polyarch(*words).in_full
