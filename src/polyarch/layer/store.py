"""The store of layers: which forms of which layer there are, and how one is made from another."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import BinaryIO
from weakref import WeakValueDictionary

import msgspec

from polyarch.content.layout import Layout
from polyarch.content.lease import Claim
from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.errors import ContentError, PolyarchError
from polyarch.layer import settling
from polyarch.layer import toc as tocs
from polyarch.layer.changes import reduce
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.forms import Forms
from polyarch.layer.layer import Blob, Compression, Layer, Privilege
from polyarch.layer.pipes import drain, memory_file
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.scan import receive
from polyarch.layer.scratch import Scratch
from polyarch.layer.stored import (
    ORIGINAL,
    Kind,
    StoredLayer,
    Watcher,
    local_forms,
    made_as,
    original_of,
    wanted_key,
)
from polyarch.oci.descriptor import Descriptor

_TREE = "fs"  # inside a folder of our own, because the tree itself may belong to anybody


@dataclass(frozen=True)
class Upper:
    """Where the changes of one step go: overlayfs's ``upperdir`` and ``workdir``, on one file system."""

    upper: Path
    work: Path


class LayerStore:
    """Layers and their forms under one state directory. Thread-safe, and safe with other processes: a tree
    or blob appears whole or not at all, and who comes second uses what the first has made."""

    def __init__(self, state: State, content: Layout, privilege: Privilege) -> None:
        self.state = state
        self.content = content
        self.privilege = privilege
        self.forms = Forms(state.database)
        self._scratch = Scratch(
            state.temporary, lambda folder: privilege.call("polyarch.layer.apply:remove", str(folder))
        )
        self.origin: Store | None = None  # for layers that do not say themselves where their bytes are
        self.watchers: dict[str, Watcher] = {}  # who wants to know when a blob is fetched, by its digest
        self.elsewhere: Callable[[str], Layer | None] = _nowhere
        self._unsettled = False
        self._lock = RLock()
        self._layers: WeakValueDictionary[tuple[str, str], StoredLayer] = WeakValueDictionary()

    def close(self) -> None:
        """Close the database; the store may be used again."""
        self.forms.close()

    # --- layers ---------------------------------------------------------------------------------------------

    def image_layer(self, descriptor: Descriptor, diff_id: str, origin: Store) -> Layer:
        """A layer of an image. Its bytes are fetched from ``origin`` only when they are needed; ``blob`` of
        it is ``descriptor`` unless another compression is forced. Its id is ``diff_id``."""
        with self._lock:
            key = (diff_id, descriptor.digest)
            layer = self._layers.get(key)
            if layer is None:
                layer = StoredLayer(self, diff_id, "image", original=Blob(descriptor, diff_id), origin=origin)
                self._layers[key] = layer
                self._note(layer, descriptor.digest)
            for (id, _), other in list(self._layers.items()):
                if id == diff_id:
                    other.origin = origin
        return layer

    def remote_layer(self, id: str, blob: Blob, made_as: str) -> Layer:
        """A layer of files or of a step as another machine made it; what is here of it goes first. Its bytes
        are fetched from ``origin`` when they are needed, and checked: ImportedLayerError.

        ``made_as`` is what its blob is, in the words of ``wanted_key``, so that an image is given the blob it
        would have been given there.
        """
        found = self._load(id)
        if found is not None:
            return found
        kind: Kind = "step" if id.startswith("step:") else "files"
        with self._lock:
            layer = StoredLayer(self, id, kind, original=blob, made_as=made_as)
            self._layers[id, ""] = layer
            self.forms.add(id, kind)
            self.forms.put_blob(id, ORIGINAL + made_as, blob)
        return layer

    def forget_imported(self) -> None:
        """Forget all layers that other machines made and whose bytes nobody has read here yet: they are
        either looked for again or made anew."""
        for id in self.forms.imported(ORIGINAL):
            if self.forms.toc(id) is None or not local_forms(self, id):
                self.remove(id)

    def _note(self, layer: StoredLayer, digest: str) -> None:
        """Remember the blob of an image's layer, so that ``load`` can tell of it in another process."""
        if layer.original is not None and ORIGINAL + digest not in self.forms.blobs(layer.id):
            self.forms.add(layer.id, "image")
            self.forms.put_blob(layer.id, ORIGINAL + digest, layer.original)

    def file_layer(self, toc: Toc, open: Callable[[Entry], BinaryIO]) -> Layer:
        """A layer of files whose digests are known; ``open`` gives their bytes when a form is made of them.

        Its id is a digest of everything in ``toc``. Times become whole seconds. ContentError when a path is
        twice in it, or when what ``open`` gives is not what the entries say (while a form is made).
        """
        entries = []
        for entry in toc.entries:
            if entry.type == "file" and not entry.digest:
                raise ValueError(f"a layer of files needs their digests: {entry.path}")
            if entry.mtime_ns % tocs.NANOSECONDS:
                entry = msgspec.structs.replace(entry, mtime_ns=tocs.whole_seconds(entry.mtime_ns))
            entries.append(entry)
        toc = tocs.canonical(entries)
        id = tocs.name(toc, kind="files")
        with self._lock:
            layer = self._layers.get((id, ""))
            if layer is None or layer.kind != "files" or layer.imported:
                layer = StoredLayer(self, id, "files", toc=toc, source=_as_given(entries, toc, open))
                self._layers[id, ""] = layer
        return layer

    def directories(self, entries: Sequence[Entry]) -> Layer:
        """A layer of nothing but directories."""
        return self.file_layer(Toc(tuple(entries)), _no_content)

    def load(self, id: str) -> Layer | None:
        """A layer that this or an earlier process made; None when no form of it is left.

        A layer of an image is there as soon as its descriptor was seen. Its bytes may have to be fetched:
        ``image_layer`` with the same ``diff_id`` says from where. What is unknown here may be known
        ``elsewhere``.
        """
        return self._load(id) or self.elsewhere(id)

    def here(self, id: str) -> Layer | None:
        """``load``, without asking elsewhere: a layer whose bytes need not be fetched from anywhere."""
        found = self._load(id)
        return found if found is not None and local_forms(self, id) else None

    def _load(self, id: str) -> Layer | None:
        with self._lock:
            layer = next((layer for (other, _), layer in self._layers.items() if other == id), None)
            if layer is not None:
                return layer
            known = self.forms.known(id)
            original = original_of(known.blobs) if known is not None else None
            if known is None or (original is None and not local_forms(self, id)):
                return None
            if known.kind == "image":
                layer = StoredLayer(self, id, "image", original=original)
            else:
                toc = self.forms.toc(id)
                if toc is None and original is None:
                    return None
                kind: Kind = "files" if known.kind == "files" else "step"
                layer = StoredLayer(
                    self, id, kind, toc=toc, original=original, made_as=made_as(known.blobs, original)
                )
            self._layers[id, ""] = layer
        return layer

    def at_hand(self, layer: Layer) -> bool:
        """Whether the layer's entries and bytes can be had without fetching anything."""
        if not isinstance(layer, StoredLayer) or (layer.kind != "image" and layer.original is None):
            return True
        return layer.original is not None and self.content.exists(layer.original.descriptor.digest)

    def is_described(self, id: str) -> bool:
        """Whether the entries of a layer are known here."""
        return self.forms.has_toc(id) or any(
            other == id and layer.has_toc for (other, _), layer in list(self._layers.items())
        )

    def blob_of(self, id: str, compression: Compression) -> Blob | None:
        """The blob of a layer if it was made before and is still there."""
        return self.recorded_blob(id, wanted_key(compression, clamp=True))

    def remove(self, id: str) -> None:
        """Remove a layer's tree and forget its other forms; its blobs are the content store's to collect."""
        with self._lock:
            self._layers.pop((id, ""), None)
            self.forms.remove(id)
            folder = self._folder(id)
            if folder.exists():
                self._scratch.throw_away(folder)

    def collect_tree(self, id: str, claim: Claim) -> bool:
        """Remove a layer's tree unless somebody uses it; whether it is gone. Its other forms stay."""
        folder = self._folder(id)
        with self._scratch.to_throw_away() as trash, claim.removing(folder) as idle:
            if idle:
                os.rename(folder, trash / "tree")
        return idle

    def sweep(self) -> None:
        """Remove what processes that are dead left half done."""
        self._scratch.sweep()

    def measure(self, folder: Path) -> tuple[int, int]:
        """Bytes on disk and files below a folder of this state, whoever owns them."""
        found = self.privilege.call("polyarch.layer.measure:measure", str(folder))
        assert isinstance(found, list)
        return int(found[0]), int(found[1])

    def discard_folder(self, folder: Path) -> None:
        """Remove a folder of this state with everything in it, whoever owns it: it disappears at once."""
        self._scratch.throw_away(folder)

    def trees(self) -> Iterator[tuple[str, Path]]:
        """The layers that have a tree here, by id, and the folder each tree takes."""
        if self.state.trees.is_dir():
            for folder in sorted(self.state.trees.iterdir()):
                yield folder.name.replace("-", ":", 1), folder

    # --- steps ----------------------------------------------------------------------------------------------

    def new_upper(self, base: Rootfs | None = None) -> Upper:
        """Fresh directories for one step. The root directory gets mode and owner of ``base``'s, which
        overlayfs would otherwise hide."""
        folder = self._scratch.new("step")
        root = (base.get("") if base is not None else None) or Entry("", "directory", 0o755)
        self.privilege.call("polyarch.layer.apply:prepare_upper", str(folder), root.mode, root.uid, root.gid)
        return Upper(folder / _TREE, folder / "work")

    def adopt(self, upper: Upper, base: Rootfs) -> Layer:
        """What a step changed, as a layer on ``base``. The directory becomes the layer's tree as it is;
        ``upper`` must not be mounted or used any more. ContentError for what no layer can hold."""
        try:
            return self._adopt(upper, base)
        except BaseException:
            if upper.upper.exists():
                self.discard(upper)
            raise

    def _adopt(self, upper: Upper, base: Rootfs) -> Layer:
        folder = upper.upper.parent
        with memory_file() as out:
            self.privilege.call("polyarch.layer.scan:scan", str(upper.upper), files=[out.fileno()])
            raw = receive(out.fileno())
        toc = reduce(raw, base, lambda entries: self.describe_in(upper.upper, entries))
        self.privilege.call("polyarch.layer.apply:remove", str(upper.work))
        self.content.admit(0)  # the step has written already: others may have to go for it
        id = "step:" + secrets.token_hex(16)
        layer = StoredLayer(self, id, "step", toc=toc)
        self.forms.add(id, "step")
        self.forms.put_toc(id, toc)
        self._place(folder, id)
        with self._lock:
            self._layers[id, ""] = layer
        return layer

    def discard(self, upper: Upper) -> None:
        """Throw away what a step changed."""
        self._scratch.throw_away(upper.upper.parent)

    # --- forms, for the layers ------------------------------------------------------------------------------

    def existing_tree(self, id: str) -> Path | None:
        """The tree of a layer if there is one; it stays while this store's lease lives."""
        folder = self._folder(id)
        try:
            status = folder.stat()
        except OSError:
            return None
        lease = self.content.lease
        if lease is not None and not lease.hold(folder, status):
            return None
        if not settling.is_sound(folder):
            self._drop(folder)
            return None
        tree = folder / _TREE
        return tree if tree.is_dir() else None

    def _drop(self, folder: Path) -> None:
        try:
            self._scratch.throw_away(folder)
        except (OSError, PolyarchError):
            pass  # another process was faster, or it is another user's: it is not used in any case

    def settle(self) -> None:
        """Let the trees that were made here survive a power cut; takes as long as the disk does."""
        if self._unsettled:
            self._unsettled = False
            try:
                settling.settle(self.state.trees)
            except OSError:
                pass  # they stay marked, and are made again if the machine goes down

    def _place(self, folder: Path, id: str) -> None:
        """Put a finished tree where others find it."""
        settling.mark(folder)
        self.state.trees.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.rename(folder, self._folder(id))  # from here on the tree is there
        self._scratch.release(folder)
        self._unsettled = True

    def make_tree(self, id: str, fill: Callable[[Path], None], *, size: int = 0) -> Path:
        """Let ``fill`` make a tree, of ``size`` bytes if that is known, at the path it is given; then put it
        into its place."""
        self.content.admit(size)
        folder = self._scratch.new("tree")
        try:
            fill(folder / _TREE)
            try:
                self._place(folder, id)
            except OSError:
                if self.existing_tree(id) is None:  # else another process was faster
                    raise
                self._scratch.throw_away(folder)
        except BaseException:
            if folder.exists():
                self._scratch.throw_away(folder)
            raise
        return self._folder(id) / _TREE

    def recorded_blob(self, id: str, wanted: str) -> Blob | None:
        """A blob made before, if its content is still there."""
        blob = self.forms.blobs(id).get(wanted)
        return blob if blob is not None and self.content.exists(blob.descriptor.digest) else None

    def describe_in(self, tree: Path, entries: Sequence[Entry]) -> list[Entry]:
        """Digests and machines of regular files in a tree."""
        with memory_file(tocs.encode(Toc(tuple(entries)))) as wanted, memory_file() as out:
            self.privilege.call(
                "polyarch.layer.scan:describe", str(tree), files=[wanted.fileno(), out.fileno()]
            )
            return list(receive(out.fileno()).entries)

    def archive_tree(
        self, tree: Path, toc: Toc, sink: Callable[[bytes], object], *, clamp_mtime: int | None
    ) -> None:
        """The tar of a tree, as ``toc`` describes it."""
        with memory_file(tocs.encode(toc)) as wanted:
            drain(
                lambda tar: self.privilege.call(
                    "polyarch.layer.scan:archive", str(tree), clamp_mtime, files=[wanted.fileno(), tar]
                ),
                sink,
            )

    # --- inside ---------------------------------------------------------------------------------------------

    def _folder(self, id: str) -> Path:
        name = id.replace(":", "-")
        if "/" in name or name.startswith("."):
            raise ContentError(f"{id[:100]!r} is no layer's id", reason="invalid-layer-id")
        return self.state.trees / name


def _as_given(
    given: Sequence[Entry], toc: Toc, open: Callable[[Entry], BinaryIO]
) -> Callable[[Entry], BinaryIO]:
    """``open`` for the entries of ``toc``, where another name of a hardlinked file may have become the file
    than the one that was given."""
    if not any(entry.type == "hardlink" for entry in given):
        return open
    files = {entry.path: entry for entry in given if entry.type == "file"}
    links = {entry.path: entry.link for entry in given if entry.type == "hardlink"}
    other = {e.path: files[links[e.path]] for e in toc.entries if e.type == "file" and e.path in links}
    return lambda entry: open(other.get(entry.path, entry))


def _nowhere(id: str) -> Layer | None:
    return None


def _no_content(entry: Entry) -> BinaryIO:
    raise ContentError(f"/{entry.path} has no content here", reason="not-a-file")
