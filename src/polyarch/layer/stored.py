"""A layer of the layer store, whatever it came from: an image, files, or a step.

Which form is made from which: a toc from a blob; a tree from the tar; the tar from the files it was made
of, from a local blob, from the tree, or from the blob fetched from where the image came from; a blob from the
tar.
The tar of an image's layer is always that of its blob, so that its diff_id stays what the image says.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import msgspec

from polyarch.content.store import Store
from polyarch.content.verify import verified
from polyarch.errors import CancelledError, ContentError, NotFoundError, PolyarchError
from polyarch.layer import tar_toc, tar_writer
from polyarch.layer import toc as tocs
from polyarch.layer.compress import Compressor, decompressed, level_of
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.index import IndexedLayer
from polyarch.layer.layer import Blob, Compression, Layer
from polyarch.layer.pipes import feed, memory_file
from polyarch.layer.scan import receive
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor

if TYPE_CHECKING:
    from polyarch.layer.store import LayerStore

ORIGINAL = "original:"
_CHUNK = 1 << 20
Watcher = Callable[[Descriptor, int], None]  # a blob that is fetched, and how many bytes have come
Kind = Literal["image", "files", "step"]
Source = Callable[[Entry], BinaryIO]
Sink = Callable[[bytes], object]
_MEDIA_TYPES = {
    "gzip": media_types.OCI_LAYER_GZIP,
    "zstd": media_types.OCI_LAYER_ZSTD,
    "none": media_types.OCI_LAYER,
}


class ImportedLayerError(ContentError):
    """The bytes of a layer that another machine made are gone, or are not what was said of them. Whoever
    asked for it can make the layer anew."""

    def __init__(self, layer_id: str, why: PolyarchError) -> None:
        super().__init__(
            f"the layer {layer_id} of a remote cache cannot be used: {why.summary}",
            detail=why.detail,
            hint="build again without --cache-from",
            reason="imported-layer",
        )
        self.layer_id = layer_id


class StoredLayer(IndexedLayer):
    """See ``Layer``. Made by the store only; one object for one id, so that its lock is everybody's.

    A layer of files or of a step with an ``original`` was made by another machine and comes from a remote
    cache: nothing that is said of it is believed before it was read. ``made_as`` is what was asked of its
    blob there (``wanted_key``).
    """

    def __init__(
        self,
        store: LayerStore,
        id: str,
        kind: Kind,
        *,
        toc: Toc | None = None,
        original: Blob | None = None,
        origin: Store | None = None,
        source: Source | None = None,
        made_as: str = "",
    ) -> None:
        super().__init__()
        self._store = store
        self._id = id
        self.kind: Kind = kind
        self.original = original
        self.origin = origin
        self._toc = toc
        self._source = source
        self._made_as = made_as
        self._spool: tar_toc.Spool | None = None

    @property
    def imported(self) -> bool:
        """Whether it was made by another machine."""
        return self.original is not None and self.kind != "image"

    @property
    def has_toc(self) -> bool:
        """Whether the entries are known already."""
        return self._toc is not None

    @contextmanager
    def _accused(self) -> Iterator[None]:
        """What goes wrong with an imported layer is its cache's fault, not the build's."""
        try:
            yield
        except (CancelledError, ImportedLayerError):
            raise
        except PolyarchError as error:
            if not self.imported:
                raise
            raise ImportedLayerError(self._id, error) from error

    @property
    def id(self) -> str:
        return self._id

    def __repr__(self) -> str:
        return f"<{self.kind} layer {self._id}>"

    # --- toc ------------------------------------------------------------------------------------------------

    def toc(self) -> Toc:
        """See ``Layer.toc``. An image's layer is fetched for it, once."""
        with self._lock:
            if self._toc is None:
                self._toc = self._store.forms.toc(self._id)
            if self._toc is None:
                with self._accused(), self._tar_stream() as stream:
                    contents = tar_toc.read(stream)
                    self._check(contents.toc)
                self._remember(contents.toc, contents.kept)
            assert self._toc is not None
            return self._toc

    def _remember(self, toc: Toc, kept: dict[str, bytes] | None = None) -> None:
        self._toc = toc
        self._index = None
        self._store.forms.add(self._id, self.kind)
        self._store.forms.put_toc(self._id, toc, kept)

    def _check(self, toc: Toc) -> None:
        """An imported layer of files must be the files its id is the digest of."""
        if self.kind == "files" and tocs.name(toc, kind="files") != self._id:
            raise ContentError(
                f"the layer {self._id} does not hold the files it is named after", reason="wrong-files"
            )

    def describe(self, entries: Sequence[Entry]) -> list[Entry]:
        """See ``IndexedLayer.describe``; what is learnt is kept in the toc."""
        if all(entry.digest for entry in entries):
            return list(entries)
        with self._lock:
            now = self.index().entries  # an older index, which the caller may have, knows less
            entries = [now.get(entry.path, entry) for entry in entries]
            missing = list({entry.path: entry for entry in entries if not entry.digest}.values())
            if not missing:
                return entries
            tree = self._store.existing_tree(self._id)
            if tree is None:
                return super().describe(entries)
            found = {entry.path: entry for entry in self._store.describe_in(tree, missing)}
            toc = self.toc()
            self._remember(Toc(tuple(found.get(e.path, e) if e.type == "file" else e for e in toc.entries)))
        return [found.get(entry.path, entry) for entry in entries]

    # --- tree -----------------------------------------------------------------------------------------------

    def tree(self) -> Path:
        """See ``Layer.tree``."""
        with self._lock:
            found = self._store.existing_tree(self._id) or self._twin()
            if found is not None:
                return found
            if self.imported:
                self.toc()

            def fill(tree: Path) -> None:
                with memory_file() as out:
                    feed(
                        self._write_tar,
                        lambda tar: self._store.privilege.call(
                            "polyarch.layer.apply:apply", str(tree), files=[tar, out.fileno()]
                        ),
                    )
                    if self._toc is None and self.kind == "image":
                        self._remember(receive(out.fileno()))

            self._register()
            with self._accused():
                size = sum(entry.size for entry in self._toc.entries) if self._toc is not None else 0
            return self._store.make_tree(self._id, fill, size=size)

    def _twin(self) -> Path | None:
        """The tree of the layer that was built here and became this layer of an image."""
        if self.kind != "image" or self.original is None:
            return None
        trees = (self._store.existing_tree(id) for id in self._store.forms.made_with(self.original.diff_id))
        return next((tree for tree in trees if tree is not None), None)

    def directories(self, entries: Sequence[Entry]) -> Layer:
        """See ``LayerStore.directories``."""
        return self._store.directories(entries)

    # --- blob -----------------------------------------------------------------------------------------------

    def blob(self, compression: Compression) -> Blob:
        """See ``Layer.blob``."""
        if self.original is not None and self._as_it_is(compression):
            return self.original
        wanted = wanted_key(compression, clamp=self.kind != "image")
        with self._lock:
            found = self._store.recorded_blob(self._id, wanted)
            if found is None:
                with self._accused():
                    found = self._make_blob(compression)
                self._register()
                self._store.forms.put_blob(self._id, wanted, found)
            return found

    def _register(self) -> None:
        """Let other processes find the layer, now that it has a form: files are described by their toc."""
        self._store.forms.add(self._id, self.kind)
        if self.kind == "files" and self._toc is not None:
            self._store.forms.put_toc(self._id, self._toc)

    def _as_it_is(self, compression: Compression) -> bool:
        """Whether the blob that came with the layer is the one that is asked for."""
        if self.kind != "image":
            return self._made_as == wanted_key(compression, clamp=True)
        return not self._converts(compression)

    def _converts(self, compression: Compression) -> bool:
        """Whether an image's layer is to be compressed anew."""
        if not compression.force or self.original is None:
            return False
        current = media_types.compression(self.original.descriptor.media_type)
        return current != compression.kind or compression.level is not None

    def _make_blob(self, compression: Compression) -> Blob:
        clamp = compression.clamp_mtime if self.kind != "image" else None
        with (
            self._store.content.writer() as writer,
            Compressor(writer.write, compression) as compressor,
        ):
            self._write_tar(compressor.write, clamp_mtime=clamp)
            diff_id = compressor.finish()
            if self.original is not None and clamp is None and diff_id != self.original.diff_id:
                raise _wrong_tar(self.original, diff_id)
            digest, size = writer.commit()
        media_type = _MEDIA_TYPES[compression.kind]
        return Blob(Descriptor(media_type=media_type, digest=digest, size=size), diff_id)

    # --- content --------------------------------------------------------------------------------------------

    def open(self, entry: Entry) -> BinaryIO:
        """See ``Layer.open``."""
        content = entry if entry.type == "file" else self.index().content(entry.path)
        if content is None:
            raise NotFoundError(f"/{entry.path} is not a regular file", reason="not-a-file")
        if self._source is not None:
            stream = self._source(content)
            if not content.digest:
                return stream
            wanted = Descriptor(media_type="", digest=content.digest, size=content.size)
            return verified(stream, wanted, where=f"/{content.path}")
        tree = self._store.existing_tree(self._id)
        if tree is not None:
            return self._store.privilege.open(Path(os.path.join(tree, content.path)))
        kept = self._store.forms.file(self._id, content.path)
        if kept is not None and content.digest == "sha256:" + hashlib.sha256(kept).hexdigest():
            return io.BytesIO(kept)
        return self._spooled().open(content)

    def _spooled(self) -> tar_toc.Spool:
        with self._lock:
            if self._spool is None:
                with self._accused(), self._tar_stream() as stream:
                    self._spool = tar_toc.Spool(stream, self._store.state.temporary)
            return self._spool

    # --- the tar --------------------------------------------------------------------------------------------

    def _write_tar(self, sink: Sink, *, clamp_mtime: int | None = None) -> None:
        """Write the uncompressed tar from whatever there is."""
        if self._source is not None and self._toc is not None:
            self._write_from_files(self._source, sink, clamp_mtime)
            return
        blob = self._local_blob()
        tree = (
            self._store.existing_tree(self._id) if self.original is None or clamp_mtime is not None else None
        )
        if tree is not None and self.kind != "image" and (blob is None or clamp_mtime is not None):
            toc = self.toc()
            self._store.archive_tree(tree, toc, sink, clamp_mtime=clamp_mtime)
        elif clamp_mtime is not None:
            tar_writer.write(self.toc().entries, self.open, sink, clamp_mtime=clamp_mtime)
        else:
            with self._tar_stream() as stream:
                while piece := stream.read(_CHUNK):
                    sink(piece)

    def _write_from_files(self, source: Source, sink: Sink, clamp_mtime: int | None) -> None:
        assert self._toc is not None
        machines = tar_writer.write(self._toc.entries, source, sink, clamp_mtime=clamp_mtime)
        if any(entry.path in machines and not entry.machine for entry in self._toc.entries):
            self._toc = Toc(
                tuple(
                    msgspec.structs.replace(entry, machine=machines[entry.path])
                    if entry.path in machines
                    else entry
                    for entry in self._toc.entries
                )
            )
            self._index = None
            self._store.forms.put_toc(self._id, self._toc)

    def _local_blob(self) -> Blob | None:
        """A blob in the content store whose tar is this layer's own, not one with changed times."""
        exists = self._store.content.exists
        if self.original is not None and exists(self.original.descriptor.digest):
            return self.original
        for wanted, blob in self._store.forms.blobs(self._id).items():
            if "@" not in wanted and exists(blob.descriptor.digest):
                return blob
        return None

    @contextmanager
    def _tar_stream(self) -> Iterator[BinaryIO]:
        """The tar read from a blob, fetched if need be, and checked against the diff_id at its end."""
        blob = self._local_blob() or self._fetch()
        with (
            self._store.content.open(blob.descriptor) as raw,
            decompressed(raw) as plain,
        ):
            yield cast(BinaryIO, _Checked(plain, blob))

    def _fetch(self) -> Blob:
        origin = self.origin or self._store.origin
        if self.original is None or origin is None:
            raise NotFoundError(
                f"no form of the layer {self._id} is left in {self._store.state.root}",
                hint="build again with --no-cache",
                reason="layer-gone",
            )
        descriptor = self.original.descriptor
        watcher = self._store.watchers.get(descriptor.digest)
        with origin.open(descriptor) as source:
            watched = source if watcher is None else cast(BinaryIO, _Watched(source, descriptor, watcher))
            self._store.content.push(watched, descriptor)
        return self.original


class _Watched:
    """A stream that tells how much of it was read; in all else it is the stream."""

    def __init__(self, source: BinaryIO, descriptor: Descriptor, watcher: Watcher) -> None:
        self._source = source
        self._descriptor = descriptor
        self._watcher = watcher
        self._count = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._tell(len(data))
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        count: int = self._source.readinto(buffer)  # type: ignore[attr-defined]  # where the source has it
        self._tell(count or 0)
        return count

    def _tell(self, count: int) -> None:
        if count:
            self._count += count
            self._watcher(self._descriptor, self._count)

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)


class _Checked(io.RawIOBase):
    """The uncompressed tar; at its end its digest must be the diff_id."""

    def __init__(self, source: BinaryIO, blob: Blob) -> None:
        super().__init__()
        self._source = source
        self._blob = blob
        self._hash = hashlib.new(blob.diff_id.partition(":")[0])
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._source.read(_CHUNK if size is None or size < 0 else size)
        if data:
            self._hash.update(data)
        elif not self._ended and size:
            self._ended = True
            found = f"{self._hash.name}:{self._hash.hexdigest()}"
            if found != self._blob.diff_id:
                raise _wrong_tar(self._blob, found)
        return data


def _wrong_tar(blob: Blob, found: str) -> ContentError:
    return ContentError(
        f"the layer {blob.descriptor.digest} is not what its image says",
        detail=f"uncompressed it should be {blob.diff_id}, but is {found}",
        reason="diff-id-mismatch",
    )


def wanted_key(compression: Compression, *, clamp: bool) -> str:
    """What names a blob of one layer among others: everything its bytes depend on."""
    text = f"{compression.kind}:{level_of(compression)}"
    if clamp and compression.clamp_mtime is not None:
        text += f"@{compression.clamp_mtime}"
    return text


def original_of(blobs: dict[str, Blob]) -> Blob | None:
    """The blob an image's layer came with, among those that are known of it; it need not be here."""
    return next((blob for wanted, blob in blobs.items() if wanted.startswith(ORIGINAL)), None)


def made_as(blobs: dict[str, Blob], original: Blob | None) -> str:
    """What an imported layer's blob was made as where it comes from."""
    names = (wanted.removeprefix(ORIGINAL) for wanted, blob in blobs.items() if blob == original)
    return next((name for name in names if original is not None), "")


def local_forms(store: LayerStore, id: str) -> bool:
    """Whether a tree, or a blob in the content store, is left of a layer."""
    if store.existing_tree(id) is not None:
        return True
    blobs = store.forms.blobs(id)
    return any("@" not in wanted and store.content.exists(b.descriptor.digest) for wanted, b in blobs.items())
