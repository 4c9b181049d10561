"""A layer that another machine made and holds: known here by what that machine says of it.

Its entries come when somebody looks at them; its blob is made there; its bytes come only when somebody here
reads them. What that machine says is kept for its own steps' layers alone, whose ids nobody else makes:
layers named after their content belong to everybody here, and nobody else should have to believe it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from polyarch.content.store import Store
from polyarch.layer import tar_toc
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.layer import Blob, Compression
from polyarch.layer.stored import Kind, StoredLayer, wanted_key

if TYPE_CHECKING:
    from polyarch.layer.store import LayerStore

_FEW = 32  # files read one by one before the whole layer is fetched


class Holder(Protocol):
    """The machine that holds layers."""

    def toc(self, id: str) -> Toc:
        """The entries of a layer."""
        ...

    def blob(self, id: str, compression: Compression) -> Blob:
        """Make a layer's blob there, and say what it is; from then on its content can be had."""
        ...

    def file(self, id: str, entry: Entry) -> BinaryIO:
        """The bytes of one regular file."""
        ...

    def content(self, id: str, blob: Blob, compression: Compression) -> BinaryIO:
        """The bytes of a layer's blob, which may have to be made again for that."""
        ...


class DistantLayer(StoredLayer):
    """See ``Layer``. ``id`` is the other machine's; forms that are made of it here are this store's."""

    def __init__(
        self,
        store: LayerStore,
        id: str,
        kind: Kind,
        holder: Holder,
        *,
        original: Blob | None = None,
        origin: Store | None = None,
    ) -> None:
        super().__init__(store, id, kind, original=original, origin=origin)
        self._holder = holder
        self._opened = 0
        self._told: dict[str, Blob] = {}  # by what was asked for

    def toc(self) -> Toc:
        """See ``Layer.toc``."""
        with self._lock:
            if self._toc is None:
                self._toc = self._store.forms.toc(self._id)
            if self._toc is None:
                toc = self._holder.toc(self._id)
                self._check(toc)
                self._remember(toc)
            assert self._toc is not None
            return self._toc

    def blob(self, compression: Compression) -> Blob:
        """See ``Layer.blob``; the blob is there, and here only if somebody read it."""
        if self.original is not None and self._as_it_is(compression):
            return self.original
        wanted = wanted_key(compression, clamp=self.kind != "image")
        with self._lock:
            found = self._told.get(wanted) or self._store.recorded_blob(self._id, wanted)
            if found is None:
                found = self._told[wanted] = self._holder.blob(self._id, compression)
                if self.kind == "step":
                    self._store.forms.add(self._id, self.kind)
                    self._store.forms.put_blob(self._id, wanted, found)
            return found

    def tree(self) -> Path:
        """See ``Layer.tree``."""
        if self.kind == "files" and self._store.existing_tree(self._id) is None:
            with self._tar_stream() as stream:
                self._check(tar_toc.read(stream).toc)
        return super().tree()

    def _remember(self, toc: Toc, kept: dict[str, bytes] | None = None) -> None:
        if self.kind == "step":
            super()._remember(toc, kept)
        self._toc = toc
        self._index = None

    def open(self, entry: Entry) -> BinaryIO:
        """See ``Layer.open``."""
        self._opened += 1
        if (
            self._spool is not None
            or self._opened > _FEW
            or self._store.existing_tree(self._id) is not None
            or self._local_blob() is not None
        ):
            return super().open(entry)
        content = entry if entry.type == "file" else self.index().content(entry.path)
        return self._holder.file(self._id, content or entry)

    def _fetch(self) -> Blob:
        if self.original is not None:
            return super()._fetch()
        compression = Compression()
        blob = self.blob(compression)
        with self._holder.content(self._id, blob, compression) as source:
            self._store.content.push(source, blob.descriptor)
        return blob
