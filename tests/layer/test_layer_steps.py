"""Layers that steps made, and what hostile or broken ones do to the store: against real overlays."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from layer_fixtures import file, layer, listing, new_store

from polyarch.errors import ContentError, PolyarchError
from polyarch.layer.entry import Entry
from polyarch.layer.layer import Compression
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore, Upper

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
PROGRAM = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\xb7\0" + bytes(100)
CONTENTS = {"d/f": b"content", "d/prog": PROGRAM, "empty": b"", "big": b"0123456789" * 200_000}


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return new_store(tmp_path / "state")


# --- steps ----------------------------------------------------------------------------------------------


@contextmanager
def overlay(lowers: tuple[Path, ...], upper: Upper, where: Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    lower = ":".join(str(path) for path in reversed(lowers))
    options = f"lowerdir={lower},upperdir={upper.upper},workdir={upper.work}"
    options += ",redirect_dir=nofollow,metacopy=off,index=off"
    done = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(where)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no overlay here: {done.stderr.decode()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
def base(store: LayerStore) -> Rootfs:
    contents = {
        "etc/passwd": b"root",
        "etc/old": b"old",
        "bin/tool": PROGRAM,
        "data/x": b"x",
        "data/sub/y": b"y",
    }
    made = layer(
        store,
        [
            *[
                Entry(path, "directory", 0o755, mtime_ns=10**9)
                for path in ("etc", "bin", "data", "data/sub", "tmp")
            ],
            *[file(path, content, mtime_ns=10**9) for path, content in contents.items()],
            Entry("etc/link", "symlink", 0o777, link="passwd", mtime_ns=10**9),
        ],
        contents,
    )
    return Rootfs((made,))


def run(store: LayerStore, base: Rootfs, tmp_path: Path, script: str) -> Rootfs:
    upper = store.new_upper(base)
    with overlay(base.trees(), upper, tmp_path / "mnt") as root:
        subprocess.run(["sh", "-euc", script], cwd=root, check=True)
    return base.with_layer(store.adopt(upper, base))


def changes(rootfs: Rootfs) -> list[tuple[str, str]]:
    return [(entry.path, entry.type) for entry in rootfs.layers[-1].toc().entries]


STEPS = [
    ("true", []),
    ("touch etc; chmod 755 etc; : > etc/.x; rm etc/.x", []),
    ("touch -d @1 etc/old; chmod 600 etc/old; chmod 644 etc/old", []),
    ("cat etc/old > /dev/null; echo -n old > etc/old; touch -d @1 etc/old", []),
    ("echo -n OLD > etc/old; touch -d @1 etc/old", [("etc", "directory"), ("etc/old", "file")]),
    ("chmod 600 etc/old", [("etc", "directory"), ("etc/old", "file")]),
    ("chown 5 etc", [("etc", "directory")]),
    ("chown -h 5 etc/link", [("etc", "directory"), ("etc/link", "symlink")]),
    ("rm etc/old; : > new", [("etc", "directory"), ("etc/old", "whiteout"), ("new", "file")]),
    ("rm -r data", [("data", "whiteout")]),
    ("echo > n; rm n; mkdir m; rmdir m", []),
    ("rm -r data; mkdir data; touch -d @1 data; : > data/z",
     [("data", "directory"), ("data", "opaque"), ("data/z", "file")]),
    ("rm -r data; mkdir -p data/sub; echo -n y > data/sub/y; touch -d @1 data/sub/y",
     [("data", "directory"), ("data", "opaque"), ("data/sub", "directory"), ("data/sub/y", "file")]),
    ("rm etc/old; mkdir etc/old; : > etc/old/x",
     [("etc", "directory"), ("etc/old", "directory"), ("etc/old/x", "file")]),
    ("rm -r data; : > data", [("data", "file")]),
    ("ln etc/old etc/again", [("etc", "directory"), ("etc/again", "file"), ("etc/old", "hardlink")]),
    ("mkdir a; : > b; ln b a/c", [("a", "directory"), ("a/c", "file"), ("b", "hardlink")]),
    ("mkfifo p; mknod c c 1 3; mknod b b 7 0; ln -s x s",
     [("b", "block"), ("c", "character"), ("p", "fifo"), ("s", "symlink")]),
    (": > data/sub/z", [("data", "directory"), ("data/sub", "directory"), ("data/sub/z", "file")]),
]  # fmt: skip


@as_root
@pytest.mark.parametrize(("script", "expected"), STEPS)
def test_what_a_step_changed(
    store: LayerStore, base: Rootfs, tmp_path: Path, script: str, expected: list[tuple[str, str]]
) -> None:
    after = run(store, base, tmp_path, script)
    assert changes(after) == expected
    # The blob, applied as another layer, gives the same.
    blob = after.layers[-1].blob(Compression())
    other = new_store(tmp_path / "other")
    pulled = base.with_layer(other.image_layer(blob.descriptor, blob.diff_id, store.content))
    assert pulled.content_digest("") == after.content_digest("")
    regular = [entry.path for entry in after.walk() if entry.type == "file"]
    assert after.files(regular) == pulled.files(regular)
    # And so do the trees under an overlay.
    upper = other.new_upper()
    upper2 = store.new_upper()
    with overlay(after.trees(), upper2, tmp_path / "one") as one:
        first = listing(one)
    with overlay(pulled.trees(), upper, tmp_path / "two") as two:
        second = listing(two)
    drop_subseconds(first)
    assert first == second
    store.discard(upper2)


def drop_subseconds(found: dict[str, tuple[object, ...]]) -> None:
    for path, values in found.items():
        found[path] = (*values[:3], values[3] // 10**9 * 10**9, *values[4:])  # type: ignore[operator]


@as_root
def test_sockets_and_overlay_xattrs_stay_behind(store: LayerStore, base: Rootfs, tmp_path: Path) -> None:
    after = run(
        store, base, tmp_path,
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")' ; : > f;"
        " python3 -c 'import os; os.setxattr(\"f\", \"user.mine\", b\"1\")'",
    )  # fmt: skip
    assert [(e.path, e.xattrs) for e in after.layers[-1].toc().entries] == [("f", {"user.mine": b"1"})]


@as_root
def test_reserved_names_in_a_step(store: LayerStore, base: Rootfs, tmp_path: Path) -> None:
    with pytest.raises(ContentError) as caught:
        run(store, base, tmp_path, ": > .wh.x")
    assert caught.value.reason == "reserved-name"


@as_root
def test_directories_a_layer_only_implies_keep_their_modes(store: LayerStore, tmp_path: Path) -> None:
    low = layer(store, [Entry("tmp", "directory", 0o1777), Entry("home", "directory", 0o755)])
    top = layer(store, [file("tmp/x"), file("home/y")])
    rootfs = Rootfs((low, top))
    trees = rootfs.trees()
    assert len(trees) == 3
    upper = store.new_upper(rootfs)
    with overlay(trees, upper, tmp_path / "mnt") as root:
        assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
        assert (root / "tmp/x").exists() and (root / "home/y").exists()


@as_root
def test_the_root_directory_keeps_its_mode(store: LayerStore, tmp_path: Path) -> None:
    rootfs = Rootfs((layer(store, [Entry("", "directory", 0o700, 5, 6), file("x")]),))
    after = run(store, rootfs, tmp_path, ": > y")
    assert changes(after) == [("y", "file")]
    root = after.get("")
    assert root is not None and (root.mode, root.uid) == (0o700, 5)


@as_root
def test_steps_outlive_the_process(store: LayerStore, base: Rootfs, tmp_path: Path) -> None:
    after = run(store, base, tmp_path, "echo hello > h; rm -r data")
    want = after.content_digest("")
    id = after.layers[-1].id
    later = new_store(store.state.root)
    layers = [later.load(base.layers[0].id), later.load(id)]
    assert all(layers)
    assert Rootfs([each for each in layers if each]).content_digest("") == want
    later.remove(id)
    assert later.load(id) is None
    assert not (store.state.trees / id.replace(":", "-")).exists()


@as_root
def test_discard_leaves_nothing(store: LayerStore, base: Rootfs) -> None:
    upper = store.new_upper(base)
    (upper.upper / "x").mkdir(mode=0)
    store.discard(upper)
    assert not list(store.state.temporary.iterdir())


@as_root
def test_hostile_layers_do_not_get_out(store: LayerStore, tmp_path: Path) -> None:
    """Members under a symlink land inside the root, whatever the link says."""
    import tarfile

    outside = tmp_path / "outside"
    outside.mkdir()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        link = tarfile.TarInfo("esc")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(link)
        evil = tarfile.TarInfo("esc/evil")
        evil.size = 2
        archive.addfile(evil, io.BytesIO(b"no"))
        hard = tarfile.TarInfo("hard")
        hard.type, hard.linkname = tarfile.LNKTYPE, "esc/evil"
        archive.addfile(hard)
    data = out.getvalue()
    descriptor = store.content.push_bytes(data, "application/vnd.oci.image.layer.v1.tar")
    tree = store.image_layer(descriptor, descriptor.digest, store.content).tree()
    assert not list(outside.iterdir())
    assert (tree / str(outside).lstrip("/") / "evil").read_bytes() == b"no"
    assert (tree / "hard").read_bytes() == b"no"


@as_root
def test_broken_hardlinks_leave_no_tree(store: LayerStore) -> None:
    made = layer(store, [Entry("h", "hardlink", link="none")])
    with pytest.raises(PolyarchError) as caught:
        made.tree()
    assert caught.value.reason == "broken-hardlink"
    assert store.existing_tree(made.id) is None and not list(store.state.temporary.iterdir())


@as_root
def test_sparse_files_stay_sparse(store: LayerStore, tmp_path: Path) -> None:
    source = tmp_path / "s"
    with source.open("wb") as stream:
        stream.seek(64 << 20)
        stream.write(b"end")
    done = subprocess.run(["tar", "-cS", "s"], cwd=tmp_path, capture_output=True, check=True)
    descriptor = store.content.push_bytes(done.stdout, "application/vnd.oci.image.layer.v1.tar")
    tree = store.image_layer(descriptor, descriptor.digest, store.content).tree()
    assert (tree / "s").stat().st_size == (64 << 20) + 3
    assert (tree / "s").stat().st_blocks < 4096


def test_what_killed_processes_left_is_removed(store: LayerStore) -> None:
    mine = store.new_upper()
    left = [store.state.temporary / name for name in ("tree-dead", "step-dead", "old-dead")]
    for folder in left:
        (folder / "fs/x").mkdir(parents=True)
    other = store.state.temporary / "somebody-else"
    other.mkdir()
    second = new_store(store.state.root)
    second.discard(second.new_upper())
    assert not any(folder.exists() for folder in left)
    assert other.is_dir() and mine.upper.is_dir()
    store.discard(mine)
    assert [path.name for path in store.state.temporary.iterdir()] == ["somebody-else"]


@as_root
def test_trees_are_listed(store: LayerStore, base: Rootfs) -> None:
    assert list(store.trees()) == []
    base.trees()
    assert [id for id, _ in store.trees()] == [base.layers[0].id]
