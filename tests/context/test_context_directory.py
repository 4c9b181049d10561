"""A folder as a layer: what is seen, what is left out, what is read again and what is not."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.context.directory import DirectoryContext
from polyarch.context.ignore import Matcher
from polyarch.context.index import ContentIndex, Stamp
from polyarch.context.main import consulted, open_context
from polyarch.errors import ContentError, NotFoundError, PolyarchError
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.entry import Entry
from polyarch.layer.layer import Compression
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.unchanged.facts import content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    (root / "src/deep").mkdir(parents=True)
    (root / "src/a.txt").write_bytes(b"a")
    (root / "src/deep/b.txt").write_bytes(b"bb")
    (root / "src.txt").write_bytes(b"beside")
    (root / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    (root / "link").symlink_to("/etc/passwd")
    os.link(root / "src/a.txt", root / "z-hard")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    old = time.time() - 100
    for path in root.rglob("*"):
        os.utime(path, (old, old), follow_symlinks=False)
    return root


class Counting(DirectoryContext):
    """Notes which files are read for their digests."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.read: list[str] = []

    def _hash_one(self, entry: Entry, descriptor: int) -> Entry:
        self.read.append(entry.path)
        return super()._hash_one(entry, descriptor)


def paths(context: DirectoryContext) -> list[str]:
    return [entry.path for entry in context.toc().entries]


def test_what_is_seen(folder: Path) -> None:
    (folder / "src/a.txt").chmod(0o640)
    context = DirectoryContext(folder)
    assert paths(context) == [
        "link",
        "run.sh",
        "socket",
        "src",
        "src/a.txt",
        "src/deep",
        "src/deep/b.txt",
        "src.txt",
        "z-hard",
    ]
    found = {entry.path: entry for entry in context.toc().entries}
    assert all((entry.uid, entry.gid) == (0, 0) for entry in found.values())
    assert (found["run.sh"].mode, found["src/a.txt"].mode) == (0o750, 0o640)
    assert found["link"].type == "symlink" and found["link"].link == "/etc/passwd"
    assert found["z-hard"].type == "hardlink" and found["z-hard"].link == "src/a.txt"
    assert Rootfs((context,)).read("z-hard", 10) == b"a"
    assert found["socket"].type == "file" and Rootfs((context,)).read("socket", 10) == b""
    with pytest.raises(NotFoundError):
        Rootfs((context,)).read("link", 10)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["src"], ["link", "run.sh", "socket", "src.txt", "z-hard"]),
        (["*", "!src/deep"], ["src", "src/deep", "src/deep/b.txt"]),
        (["*", "!src.txt"], ["src.txt"]),
        (
            ["**/*.txt", "!**/b.txt", "socket"],
            ["link", "run.sh", "src", "src/deep", "src/deep/b.txt", "z-hard"],
        ),
        (["src/*", "!src/a.txt", "socket"], ["link", "run.sh", "src", "src/a.txt", "src.txt", "z-hard"]),
    ],
)
def test_what_is_left_out(folder: Path, patterns: Sequence[str], expected: list[str]) -> None:
    assert paths(DirectoryContext(folder, matcher=Matcher(patterns))) == expected


def test_hardlinks_of_what_is_left_out_are_files(folder: Path) -> None:
    context = DirectoryContext(folder, matcher=Matcher(["src"]))
    assert {entry.path: entry.type for entry in context.toc().entries}["z-hard"] == "file"


def test_what_is_left_out_may_be_unreadable(folder: Path) -> None:
    (folder / "secret").mkdir()
    (folder / "secret/key").write_bytes(b"x")
    if os.geteuid() == 0:  # root reads everything: a folder that vanishes does as well
        paths(DirectoryContext(folder, matcher=Matcher(["secret"])))
        return
    (folder / "secret").chmod(0)
    try:
        assert "secret" not in paths(DirectoryContext(folder, matcher=Matcher(["secret"])))
        with pytest.raises(PolyarchError) as caught:
            paths(DirectoryContext(folder))
        assert caught.value.reason == "context-unreadable" and "secret" in caught.value.summary
    finally:
        (folder / "secret").chmod(0o700)


def test_unchanged_files_are_not_read_again(folder: Path, state: State) -> None:
    def build() -> tuple[str, list[str]]:
        context = Counting(folder, index=ContentIndex(state))
        return Rootfs((context,)).content_digest(""), sorted(context.read)

    time.sleep(0.1)  # so that the files have rested
    first, read = build()
    assert read == ["run.sh", "src.txt", "src/a.txt", "src/deep/b.txt"]
    assert build() == (first, [])
    (folder / "src/deep/b.txt").write_bytes(b"cc")
    os.utime(folder / "src/deep/b.txt", (1, 1))
    time.sleep(0.1)
    second, read = build()
    assert second != first and read == ["src/deep/b.txt"]
    assert build() == (second, [])
    (folder / "src.txt").unlink()
    third, read = build()
    assert third not in (first, second) and read == []


def test_digest_ignores_times_and_inodes(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    (folder / "socket").unlink()
    shutil.copytree(folder, copy, symlinks=True)
    (copy / "z-hard").unlink()
    os.link(copy / "src/a.txt", copy / "z-hard")
    os.utime(copy / "src.txt", (5, 5))
    one, two = (Rootfs((DirectoryContext(path),)) for path in (folder, copy))
    assert one.content_digest("") == two.content_digest("")
    assert one.layers[0].id != two.layers[0].id


def test_fresh_files_are_not_trusted(folder: Path, state: State) -> None:
    """A change within the clock's tick, which moves no time stamp, must still be seen."""
    path = folder / "src.txt"
    path.write_bytes(b"one")
    index = ContentIndex(state)
    Rootfs((DirectoryContext(folder, index=index),)).content_digest("")
    assert "src.txt" not in index.load(folder)
    assert "src/a.txt" in index.load(folder) or time.time() - os.stat(folder / "src/a.txt").st_ctime < 1


@pytest.mark.parametrize(
    ("mtime", "ctime", "rested"),
    [
        (5_000_000_001, 5_000_000_001, True),
        (9_990_000_001, 5_000_000_001, False),
        (5_000_000_001, 9_990_000_001, False),
        (8_000_000_000, 8_000_000_000, False),
        (8_000_000_001, 8_000_000_000, True),
        (7_000_000_000, 7_000_000_000, True),
        (20_000_000_000, 5_000_000_001, False),
    ],
)
def test_rested(mtime: int, ctime: int, rested: bool) -> None:
    assert Stamp(1, 1, mtime, ctime).rested(10_000_000_000) is rested


def test_changes_while_reading_are_errors(folder: Path) -> None:
    context = DirectoryContext(folder)
    context.toc()
    (folder / "src.txt").write_bytes(b"something else")
    with pytest.raises(ContentError) as caught:
        Rootfs((context,)).content_digest("")
    assert caught.value.reason == "changed-while-read" and "src.txt" in caught.value.summary


def test_links_are_never_followed_out(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.txt").write_bytes(b"no")
    context = DirectoryContext(folder)
    context.toc()
    (folder / "src/deep/b.txt").unlink()
    (folder / "src/deep").rmdir()
    (folder / "src/deep").symlink_to(outside)
    with pytest.raises(PolyarchError):
        Rootfs((context,)).read("src/deep/b.txt", 10)
    (folder / "src.txt").unlink()
    (folder / "src.txt").symlink_to(outside / "b.txt")
    with pytest.raises(ContentError):
        Rootfs((context,)).read("src.txt", 10)
    (folder / "run.sh").unlink()
    os.mkfifo(folder / "run.sh")
    with pytest.raises(ContentError):  # and does not wait for a writer
        Rootfs((context,)).read("run.sh", 10)


def test_odd_names(folder: Path, state: State) -> None:
    for name in (b"\xff\xfe", "ünï".encode(), b"new\nline", b"-dash"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as stream:
            stream.write(name)
    for _ in range(2):
        rootfs = Rootfs((DirectoryContext(folder, index=ContentIndex(state)),))
        rootfs.content_digest("")
        assert rootfs.read(os.fsdecode(b"\xff\xfe"), 10) == b"\xff\xfe"


def test_missing_and_not_a_folder(folder: Path) -> None:
    for path in (folder / "nothing", folder / "src.txt"):
        with pytest.raises(NotFoundError) as caught:
            DirectoryContext(path)
        assert caught.value.reason == "context-not-found"


def test_the_whole_context_as_a_layer(folder: Path, state: State) -> None:
    layers = LayerStore(state, Layout(state.content), DirectPrivilege())
    context = DirectoryContext(folder, store=layers)
    blob = context.blob(Compression())
    image = layers.image_layer(blob.descriptor, blob.diff_id, layers.content)
    assert Rootfs((image,)).content_digest("") == Rootfs((context,)).content_digest("")
    if os.geteuid() == 0:
        assert (context.tree() / "src/deep/b.txt").read_bytes() == b"bb"
    with pytest.raises(ValueError, match="layer store"):
        DirectoryContext(folder).tree()


def test_a_damaged_index_is_dropped(folder: Path, state: State) -> None:
    time.sleep(0.1)
    digest = Rootfs((DirectoryContext(folder, index=ContentIndex(state)),)).content_digest("")
    for path in state.root.glob("cache.db*"):
        path.unlink()
    state.database.write_bytes(b"junk" * 1000)
    for _ in range(2):
        context = DirectoryContext(folder, index=ContentIndex(state))
        assert Rootfs((context,)).content_digest("") == digest
    assert ContentIndex(state).load(folder)


@pytest.mark.parametrize("given", [".", "folder"])
def test_a_directory_in_place_of_a_dockerfile(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotFoundError, match="is a directory"):
        open_context(".", given, State(tmp_path / "state"), io.BytesIO())
    assert [content(str(path)) for path in consulted(Path("."), given)][:1] == [None]
