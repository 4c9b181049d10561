"""Records of builds: written while they run, readable whatever happens, bounded, without secrets."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
from pathlib import Path

import pytest
from history_samples import began, recorded

from polyarch.errors import CancelledError, ContentError, NotFoundError, PolyarchError, UsageError
from polyarch.history import recorder as writing
from polyarch.history.exchange import take
from polyarch.history.hiding import HIDDEN, Veil, hidden_in, options_to_keep
from polyarch.history.keeping import new_id, prune, remove
from polyarch.history.path import critical_path
from polyarch.history.reader import find, load, records
from polyarch.history.recorder import Recorder
from polyarch.solver.events import Planned, PlannedVertex, VertexCompleted, VertexLog, VertexStarted


def test_a_build_is_read_back_as_it_was(tmp_path: Path) -> None:
    build = recorded(tmp_path)
    assert build.record.status == "completed" and build.record.id == find(tmp_path).id
    states = {name[-1]: each.state for name, each in build.vertices.items()}
    assert states == {"a": "done", "b": "cached", "c": "done", "d": "done", "e": "done", "x": "done"}
    assert build.vertices["sha256:d"].text == "half a line, \x1b[31mred\x1b[0m and the rest"
    assert build.vertices["sha256:a"].transferred == 10_000_000
    assert build.vertices["sha256:c"].size == 1_200_000
    outcome = build.vertices["sha256:c"].outcome
    assert outcome is not None and (outcome.how, outcome.reason) == ("native", "changed: src/<b>.c")
    assert build.record.finished is not None
    assert (build.record.finished.steps, build.record.finished.cached) == (5, 1)
    assert [each.number for each in build.vertices.values()] == [1, 2, 3, 4, 5, 6]


def test_the_critical_path_is_what_decided_the_time(tmp_path: Path) -> None:
    assert [name[-1] for name in critical_path(recorded(tmp_path).vertices)] == ["a", "b", "d", "e", "x"]


def test_records_are_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "history"
    recorded(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_killed_build_is_readable_and_said_to_be_interrupted(tmp_path: Path) -> None:
    """At whatever byte it was killed; while it lives, it runs."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        Recorder(tmp_path, began, lambda event: None)
        os.write(writer, b"x")
        signal.pause()  # until killed
        os._exit(0)
    os.read(reader, 1)
    assert [record.status for record in records(tmp_path)] == ["running"]
    assert not remove(str(records(tmp_path)[0].path))
    prune(str(tmp_path), records=0, size=0)
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(reader), os.close(writer)
    assert [record.status for record in records(tmp_path)] == ["interrupted"]

    whole = recorded(tmp_path / "whole").record.path.read_bytes()
    path = tmp_path / "cut" / f"{0:013d}-{'a' * 25}.jsonl"
    path.parent.mkdir()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole) - 1, 37):
        path.write_bytes(whole[:end])
        (record,) = records(path.parent)
        assert record.status == "interrupted"
        load(record)


@pytest.mark.parametrize("damage", [b"", b"\n", b"{}", b"\xff\xfe\n", b"[" * 100_000, b'{"line":"log"}\n'])
def test_what_is_no_record_is_left_out(tmp_path: Path, damage: bytes) -> None:
    good = recorded(tmp_path).record
    (tmp_path / f"{1:013d}-{'b' * 25}.jsonl").write_bytes(damage)
    (tmp_path / "notes.txt").write_bytes(damage)
    assert [record.id for record in records(tmp_path)] == [good.id]
    with good.path.open("ab") as stream:
        stream.write(damage)
    load(find(tmp_path))


def test_a_full_disk_ends_the_record_and_not_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    recorder = Recorder(tmp_path, began, seen.append)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    recorder(VertexStarted("sha256:a", "a", 1.0))
    monkeypatch.undo()
    recorder(VertexStarted("sha256:b", "b", 2.0))
    recorder.failed(CancelledError("stopped"))
    assert len(seen) == 2 and find(tmp_path).status == "interrupted"
    (tmp_path / "file").touch()
    Recorder(tmp_path / "file" / "below", began, seen.append).failed(PolyarchError("nowhere to write"))


def test_references(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no build records"):
        find(tmp_path / "none")
    for number, name in enumerate(("aaa1", "aab2", "ccc3")):
        id = name.ljust(25, "0")
        line = json.dumps({"line": "began", "id": id, "at": number, "version": "1", "context": "."})
        (tmp_path / f"{number:013d}-{id}.jsonl").write_text(line + "\n")
    assert find(tmp_path).id.startswith("ccc3") and find(tmp_path, "^1").id.startswith("aab2")
    assert find(tmp_path, "^0") == find(tmp_path, "embedded/embedded0/ccc3") == find(tmp_path, "ccc")
    with pytest.raises(UsageError, match="any of 2"):
        find(tmp_path, "aa")
    for wrong in ("^3", "zzz", "../../etc/passwd", "A", "^", "a" * 26):
        if wrong != "^":
            with pytest.raises(NotFoundError):
                find(tmp_path, wrong)


def test_there_is_a_bound_on_number_and_size(tmp_path: Path) -> None:
    ids = [recorded(tmp_path).record.id for _ in range(5)]
    prune(str(tmp_path), records=3)
    assert {record.id for record in records(tmp_path)} <= set(ids) and len(records(tmp_path)) == 3
    prune(str(tmp_path), size=1)
    assert len(records(tmp_path)) == 1  # the last stays, however long


def test_endless_output_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_LOGS", 10_000)
    recorder = Recorder(tmp_path, began, lambda event: None)
    recorder(Planned((PlannedVertex("sha256:a", "a"),)))
    for _ in range(100):
        recorder(VertexLog("sha256:a", 1, b"y" * 999 + b"\n", 1.0))
    recorder(VertexCompleted("sha256:a", "a", 2.0))
    recorder.failed(PolyarchError("x"))
    text = load(find(tmp_path)).vertices["sha256:a"].text
    assert len(text) < 12_000 and "is not kept" in text


def test_secrets_do_not_get_in(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, began, lambda event: None)
    recorder.hiding(lambda: b"s3cr3t-value\nsecond line of it\n")()
    recorder(Planned((PlannedVertex("sha256:a", "ADD https://me:hunter2@example.com/x /"),), "f", "# x"))
    for piece in (b"it is s3cr3t", b"-value, and second", b" line of it\n", b"https://a:hunter2@h/ ends"):
        recorder(VertexLog("sha256:a", 1, piece, 1.0))
    recorder(VertexCompleted("sha256:a", "", 2.0, error="s3cr3t-value was wrong"))
    recorder.failed(PolyarchError("s3cr3t-value", detail="| second line of it"))
    content = find(tmp_path).path.read_text()
    assert "s3cr3t" not in content and "second line" not in content and "hunter2" not in content
    assert load(find(tmp_path)).vertices["sha256:a"].text == (
        f"it is {HIDDEN}, and {HIDDEN}\nhttps://{HIDDEN}@h/ ends"
    )


def test_short_secrets_do_not_black_everything_out() -> None:
    veil = Veil()
    veil.hide(b"a\n\n  \nlonger\n")
    assert veil("a banana is longer") == f"a banana is {HIDDEN}"


def test_options_keep_names_and_not_what_is_secret() -> None:
    kept = options_to_keep(
        {
            "build_args": ("VERSION=1", "NPM_TOKEN=abc", "HTTP_PROXY=http://u:p@proxy", "PLAIN"),
            "context": "https://u:p@example.com/x.git",
            "secrets": ("id=a,env=TOKEN",),
            "cache_to": ("type=gha,token=abc,scope=x",),
            "no_cache": True,
            "other": object(),
        }
    )
    assert kept["build_args"] == ["VERSION=1", f"NPM_TOKEN={HIDDEN}", f"HTTP_PROXY={HIDDEN}", "PLAIN"]
    assert kept["context"] == f"https://{HIDDEN}@example.com/x.git"
    assert kept["secrets"] == ["id=a,env=TOKEN"] and kept["no_cache"] is True and "other" not in kept
    assert kept["cache_to"] == [f"type=gha,token={HIDDEN},scope=x"]
    assert len(hidden_in(kept)) == 4


def test_records_travel(tmp_path: Path) -> None:
    here = recorded(tmp_path / "here").record
    content = here.path.read_bytes()
    (name,) = take(io.BytesIO(content), tmp_path / "there")
    there = find(tmp_path / "there")
    assert there.id == name != here.id and there.finished == here.finished
    for wrong in (b"x\n", content[5:], content.replace(b'"line":"plan"', b'"line":"plot"')):
        with pytest.raises(ContentError):
            list(take(io.BytesIO(wrong), tmp_path / "there"))
    assert len(records(tmp_path / "there")) == 1


def test_ids_look_like_buildkits() -> None:
    found = {new_id() for _ in range(100)}
    assert len(found) == 100
    assert all(re.fullmatch("[0-9a-z]{25}", id) for id in found)
