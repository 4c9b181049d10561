"""Layers and their forms: each is made from another, and stays the same layer."""

from __future__ import annotations

import io
import os
import sqlite3
import stat
import tempfile
import traceback
from pathlib import Path
from threading import Thread

import pytest
from layer_fixtures import file, layer, listing, new_store

from polyarch.content.layout import Layout
from polyarch.content.memory import MemoryStore
from polyarch.content.state import State
from polyarch.errors import ContentError, NotFoundError, UnsupportedError
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.layer import Compression
from polyarch.layer.pipes import memory_file
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.scan import receive
from polyarch.layer.store import LayerStore
from polyarch.layer.toc import canonical
from polyarch.oci.descriptor import Descriptor

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
PROGRAM = b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\xb7\0" + bytes(100)
CONTENTS = {"d/f": b"content", "d/prog": PROGRAM, "empty": b"", "big": b"0123456789" * 200_000}


def entries() -> list[Entry]:
    return [
        Entry("", "directory", 0o755),
        Entry("d", "directory", 0o1777, 7, 8, mtime_ns=10**18),
        file("d/f", CONTENTS["d/f"], mode=0o4755, uid=1000, gid=1001, mtime_ns=10**18 + 5),
        file("d/prog", PROGRAM, mode=0o755, xattrs={"security.capability": CAPABILITY, "user.x": b"\xff\0"}),
        file("empty"),
        file("big", CONTENTS["big"], mtime_ns=3 * 10**9),
        Entry("link", "symlink", 0o777, 5, 6, link="/d/f", mtime_ns=10**9),
        Entry("a-hard", "hardlink", link="d/f"),
        Entry("pipe", "fifo", 0o640),
        Entry("gone", "whiteout", 0),
        Entry("ödd " + "n" * 120, "directory", 0o700),
    ]


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return new_store(tmp_path / "state")


def test_identity_is_the_content(store: LayerStore) -> None:
    one = layer(store, entries(), CONTENTS)
    assert layer(store, entries()[::-1], CONTENTS) is one
    other = entries()
    other[5] = file("big", CONTENTS["big"], mtime_ns=4 * 10**9)
    assert layer(store, other, CONTENTS).id != one.id
    same = entries()
    same[5] = file("big", CONTENTS["big"], mtime_ns=3 * 10**9 + 999)
    assert layer(store, same, CONTENTS).id == one.id


def test_nothing_is_made_before_it_is_asked_for(store: LayerStore) -> None:
    made = layer(store, entries(), CONTENTS)
    made.toc()
    assert Rootfs((made,)).read("a-hard", 100) == b"content"
    assert not store.state.root.exists()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
def test_blob_to_toc_and_back(store: LayerStore, tmp_path: Path, kind: str) -> None:
    made = layer(store, entries(), CONTENTS)
    blob = made.blob(Compression(kind))  # type: ignore[arg-type]
    assert made.blob(Compression(kind)) == blob  # type: ignore[arg-type]
    again = layer(new_store(tmp_path / "other"), entries(), CONTENTS)
    assert again.blob(Compression(kind)) == blob  # type: ignore[arg-type]
    image = new_store(tmp_path / "third").image_layer(blob.descriptor, blob.diff_id, store.content)
    assert image.toc() == made.toc()
    assert {e.path: e.machine for e in image.toc().entries if e.machine} == {"d/prog": "elf:arm64"}
    assert Rootfs((image,)).content_digest("") == Rootfs((made,)).content_digest("")
    assert Rootfs((image,)).read("big", 1 << 22) == CONTENTS["big"]


@as_root
def test_tree_and_back(store: LayerStore, tmp_path: Path) -> None:
    made = layer(store, entries(), CONTENTS)
    tree = made.tree()
    assert made.tree() == tree
    found = listing(tree)
    assert found["d/f"][:3] == (oct(stat.S_IFREG | 0o4755), 1000, 1001)
    assert found["d/f"][3] == 10**18 and found["link"][:3] == (oct(stat.S_IFLNK | 0o777), 5, 6)
    assert found["d"][:3] == (oct(stat.S_IFDIR | 0o1777), 7, 8)
    assert (tree / "d").stat().st_mtime_ns == 10**18
    assert found["d/prog"][5] == {"security.capability": CAPABILITY, "user.x": b"\xff\0"}
    assert (tree / "a-hard").stat().st_ino == (tree / "d/f").stat().st_ino
    gone = (tree / "gone").lstat()
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0
    blob = made.blob(Compression())
    fresh = new_store(tmp_path / "fresh")
    pulled = listing(fresh.image_layer(blob.descriptor, blob.diff_id, store.content).tree())
    pulled["gone"] = found["gone"]  # a whiteout has no time worth keeping
    assert pulled == found
    store.content.delete(blob.descriptor.digest)  # the tar of the tree is that of the files
    made = None  # type: ignore[assignment]
    kept = new_store(store.state.root).load(layer(store, entries(), CONTENTS).id)
    assert kept is not None and kept.blob(Compression()) == blob


@as_root
def test_umask_and_default_acls_change_nothing(store: LayerStore) -> None:
    old = os.umask(0o077)
    try:
        tree = layer(store, [Entry("d", "directory", 0o755), file("d/f", mode=0o666)]).tree()
    finally:
        os.umask(old)
    assert (tree / "d/f").stat().st_mode & 0o777 == 0o666
    assert tree.stat().st_mode & 0o777 == 0o755


def test_an_ordinary_user_makes_blobs_but_no_trees_of_others(tmp_path: Path) -> None:
    """Blobs need no privilege at all; giving files to others does, and says so."""
    layer(new_store(tmp_path / "warm"), entries(), CONTENTS).blob(Compression("zstd"))  # imports, as root may
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                made = layer(new_store(Path(folder) / "state"), entries(), CONTENTS)
                size = made.blob(Compression("zstd")).descriptor.size
                try:
                    made.tree()
                except UnsupportedError as error:
                    left = list((Path(folder) / "state/tmp").iterdir())
                    status = 0 if size and error.reason == "unmapped-owner" and not left else 2
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.userns
def test_trees_in_a_user_namespace_are_the_same_layers(store: LayerStore, tmp_path: Path) -> None:
    """Owners, capabilities, whiteouts and opaque marks survive the way through the namespace's ids."""
    from polyarch.executor.sandbox import Sandbox

    state = State(tmp_path / "namespaced")
    given = [*entries(), Entry("o", "directory", 0o750), Entry("o", "opaque", 0)]
    want = layer(store, given, CONTENTS).blob(Compression())
    with Sandbox.start(state, privileged=False) as sandbox:
        content = Layout(state.content)
        other = LayerStore(state, content, sandbox.privilege)
        made = other.image_layer(want.descriptor, want.diff_id, store.content)
        try:
            tree = made.tree()
        except UnsupportedError as error:
            pytest.skip(f"no subordinate ids here: {error.summary}")
        expected = made.toc()
        with memory_file() as out:
            sandbox.privilege.call("polyarch.layer.scan:scan", str(tree), files=[out.fileno()])
            found = receive(out.fileno())
        assert canonical(other.describe_in(tree, [e for e in found.entries if e.type == "file"])) == Toc(
            tuple(e for e in expected.entries if e.type == "file")
        )
        again = [e for e in canonical(found.entries).entries if e.type not in ("file", "directory")]
        kept = [e for e in expected.entries if e.type not in ("file", "directory")]
        assert again == kept
        other.remove(made.id)
        assert not list(state.trees.iterdir()) and not list(state.temporary.iterdir())


def test_changed_source_leaves_nothing(store: LayerStore) -> None:
    made = store.file_layer(Toc((file("f", b"before"),)), lambda _: io.BytesIO(b"after!"))
    for form in (lambda: made.blob(Compression()), made.tree):
        with pytest.raises(ContentError) as caught:
            form()
        assert caught.value.reason == "changed-while-read"
    assert not list(store.content.blobs())
    assert not store.state.trees.exists() or not list(store.state.trees.iterdir())
    assert not list(store.state.temporary.iterdir())


def test_load_from_an_earlier_process(store: LayerStore) -> None:
    id = layer(store, entries(), CONTENTS).id
    assert new_store(store.state.root).load(id) is None  # it has no form that would outlive us
    blob = layer(store, entries(), CONTENTS).blob(Compression())
    later = new_store(store.state.root)
    kept = later.load(id)
    assert kept is not None
    assert kept.blob(Compression()) == blob and later.blob_of(id, Compression()) == blob
    assert Rootfs((kept,)).read("d/f", 10) == b"content"
    assert kept.blob(Compression("zstd")).diff_id == blob.diff_id
    later.content.delete(blob.descriptor.digest)
    later.remove(id)
    assert later.load(id) is None and later.blob_of(id, Compression()) is None
    assert new_store(store.state.root).load("step:unknown") is None


def test_clamped_times(store: LayerStore) -> None:
    plain = layer(store, entries(), CONTENTS).blob(Compression())
    clamped = layer(store, entries(), CONTENTS).blob(Compression(clamp_mtime=100))
    assert clamped.diff_id != plain.diff_id
    image = store.image_layer(clamped.descriptor, clamped.diff_id, store.content)
    assert max(entry.mtime_ns for entry in image.toc().entries) == 100 * 10**9
    assert image.blob(Compression(clamp_mtime=1)) == clamped  # a base's layer is never rewritten
    loaded = new_store(store.state.root).load(layer(store, entries(), CONTENTS).id)
    assert loaded is not None and loaded.blob(Compression(clamp_mtime=100)) == clamped


def test_image_layers_are_fetched_late_and_checked(store: LayerStore, tmp_path: Path) -> None:
    blob = layer(store, entries(), CONTENTS).blob(Compression())
    here = new_store(tmp_path / "here")
    lazy = here.image_layer(blob.descriptor, blob.diff_id, store.content)
    assert lazy.blob(Compression("zstd")) == blob and not here.content.exists(blob.descriptor.digest)
    forced = lazy.blob(Compression("zstd", force=True))
    assert forced.diff_id == blob.diff_id and forced.descriptor.media_type.endswith("+zstd")
    assert lazy.blob(Compression("gzip", force=True)) == blob
    wrong = here.image_layer(blob.descriptor, "sha256:" + "0" * 64, store.content)
    for form in (wrong.toc, wrong.tree, lambda: wrong.blob(Compression("none", force=True))):
        with pytest.raises(ContentError) as caught:
            form()
        assert caught.value.reason == "diff-id-mismatch"
    missing = Descriptor(media_type="", digest="sha256:" + "1" * 64, size=5)
    with pytest.raises(NotFoundError):
        here.image_layer(missing, "sha256:" + "2" * 64, MemoryStore()).toc()


def test_known_image_layers_are_loaded_without_their_bytes(store: LayerStore, tmp_path: Path) -> None:
    blob = layer(store, entries(), CONTENTS).blob(Compression())
    root = tmp_path / "later"
    new_store(root).image_layer(blob.descriptor, blob.diff_id, store.content)
    later = new_store(root)
    loaded = later.load(blob.diff_id)
    assert loaded is not None and loaded.blob(Compression()) == blob
    with pytest.raises(NotFoundError):
        loaded.toc()
    later.image_layer(blob.descriptor, blob.diff_id, store.content)
    assert loaded.toc().entries


def test_a_damaged_database_is_dropped(store: LayerStore) -> None:
    made = layer(store, entries(), CONTENTS)
    blob = made.blob(Compression())
    store.close()
    for junk in (b"not a database at all" * 500, b""):
        for path in store.state.root.glob("cache.db*"):
            path.unlink()
        store.state.database.write_bytes(junk)
        again = new_store(store.state.root)
        assert again.load(made.id) is None
        assert layer(again, entries(), CONTENTS).blob(Compression()) == blob
        again.close()
    with sqlite3.connect(store.state.database) as other:
        other.execute("UPDATE rooms SET version = 999 WHERE name = 'layer'")
    other.close()
    assert layer(new_store(store.state.root), entries(), CONTENTS).blob(Compression()) == blob


def test_two_threads_make_a_form_once(store: LayerStore) -> None:
    reads: list[str] = []

    def source(entry: Entry) -> io.BytesIO:
        reads.append(entry.path)
        return io.BytesIO(CONTENTS[entry.path])

    made = store.file_layer(Toc((file("big", CONTENTS["big"]),)), source)
    threads = [Thread(target=made.blob, args=(Compression(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads == ["big"]


def test_ids_cannot_lead_out(store: LayerStore) -> None:
    with pytest.raises(ContentError):
        store.existing_tree("../../etc")
