"""A layer and its forms. A form is made on demand, from another one, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from polyarch.layer.entry import Entry, Toc
from polyarch.oci.descriptor import Descriptor


@dataclass(frozen=True)
class Compression:
    """How a blob is compressed. ``level`` None is the default of ``kind``; ``force`` also recompresses
    layers that came from a base image. ``clamp_mtime`` (seconds since 1970) is the latest modification time
    an entry may have; it never applies to layers of a base image, whose bytes are not ours to change."""

    kind: Literal["gzip", "zstd", "none"] = "gzip"
    level: int | None = None
    force: bool = False
    clamp_mtime: int | None = None


@dataclass(frozen=True)
class Blob:
    """A layer as content: ``descriptor`` of the (compressed) tar with OCI media type, and the digest of the
    uncompressed tar."""

    descriptor: Descriptor
    diff_id: str


class Layer(Protocol):
    """One layer. ``id`` names its content or the result it is; equal ids mean interchangeable layers.

    Thread-safe: two threads asking for the same form make it once.
    """

    @property
    def id(self) -> str: ...

    def toc(self) -> Toc:
        """The entries. May have to download or walk; afterwards cached."""
        ...

    def tree(self) -> Path:
        """A directory usable as an overlay lower directory (whiteouts in overlay's form). Read-only."""
        ...

    def blob(self, compression: Compression) -> Blob:
        """The blob, present in the layer store's content store, or, for a layer of an image whose bytes
        nobody needed, only known (the exporter copies or mounts it from its origin)."""
        ...

    def open(self, entry: Entry) -> BinaryIO:
        """The bytes of a regular file of this layer (hardlinks resolved)."""
        ...


class Privilege(Protocol):
    """Where file operations run that need to own files: this process as root, or a helper inside a user
    namespace. Functions are module-level; arguments and results are plain values (msgspec can encode
    them)."""

    def call(self, function: str, *arguments: object, files: Sequence[int] = ()) -> object:
        """Run ``"package.module:function"`` with ``arguments`` and, when ``files`` are given, a last
        argument: the list of the same open files as descriptors there. PolyarchErrors pass through."""
        ...

    def open(self, path: Path) -> BinaryIO:
        """Open a file for reading that this process itself may not be allowed to read."""
        ...
