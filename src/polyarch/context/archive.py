"""A tar, compressed or not, as files: contexts from standard input or a URL, and archives to be added."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from polyarch.errors import ContentError, PolyarchError
from polyarch.layer import toc as tocs
from polyarch.layer.compress import decompressed, detect
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.index import IndexedLayer
from polyarch.layer.layer import Blob, Compression, Layer
from polyarch.layer.tar_header import BLOCK, check
from polyarch.layer.tar_reader import TarReader
from polyarch.layer.tar_toc import Spool

if TYPE_CHECKING:
    from polyarch.layer.store import LayerStore


class ArchiveLayer(IndexedLayer):
    """The files of a tar, which was read once and lies uncompressed in a nameless temporary file.

    Names that start with ``.wh.`` are names like others here. ``store`` is needed for trees and blobs only.
    """

    def __init__(self, spool: Spool, *, store: LayerStore | None = None) -> None:
        super().__init__()
        self._spool = spool
        self._store = store
        self._id = "archive:" + tocs.name(spool.contents.toc, kind="archive")

    @property
    def id(self) -> str:
        return self._id

    def toc(self) -> Toc:
        """See ``Layer.toc``; digests and machines are there."""
        return self._spool.contents.toc

    def open(self, entry: Entry) -> BinaryIO:
        """See ``Layer.open``."""
        content = entry if entry.type == "file" and entry.digest else self.index().content(entry.path)
        return self._spool.open(content if content is not None else entry)

    def whole(self) -> Layer:
        """The archive as a layer of the store."""
        if self._store is None:
            raise ValueError("an archive without a layer store has no trees and blobs")
        return self._store.file_layer(self.toc(), self.open)

    def tree(self) -> Path:
        """See ``Layer.tree``."""
        return self.whole().tree()

    def blob(self, compression: Compression) -> Blob:
        """See ``Layer.blob``."""
        return self.whole().blob(compression)


def archive_layer(
    source: Path | BinaryIO,
    *,
    name: str = "",
    folder: Path | None = None,
    store: LayerStore | None = None,
) -> ArchiveLayer:
    """The files of the tar ``source``, a path or a stream, compressed with gzip, zstd, bzip2, xz or not.

    ``name`` says in errors what is read. The archive is kept in ``folder`` (the system's temporary folder by
    default) without a name. ContentError for what is no tar, is damaged, or holds names that lead out of it.
    A stream is not closed.
    """
    where = folder or Path(tempfile.gettempdir())
    try:
        if isinstance(source, Path):
            with source.open("rb") as stream:
                return ArchiveLayer(Spool(decompressed(stream), where, whiteouts=False), store=store)
        return ArchiveLayer(Spool(decompressed(source), where, whiteouts=False), store=store)
    except ContentError as error:
        if not name:
            raise
        raise ContentError(
            f"{name}: {error.summary}", detail=error.detail, hint=error.hint, reason=error.reason
        ) from None


def is_archive(stream: BinaryIO) -> bool:
    """Whether ``stream`` is a tar, compressed or not, with at least one member: what ADD unpacks. Reads as
    little as that takes."""
    try:
        return next(iter(TarReader(decompressed(stream))), None) is not None
    except PolyarchError as error:
        return error.reason == "path-escape"  # a tar all the same: who unpacks it will refuse it


def is_archive_start(start: bytes) -> bool:
    """Whether something that starts with these bytes (512 are enough) is compressed, or a tar."""
    if detect(start) != "none":
        return True
    if len(start) < BLOCK:
        return False
    try:
        check(start[:BLOCK])
    except ContentError:
        return False
    return any(start[:BLOCK])
