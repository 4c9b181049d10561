"""Layers looked through as they stream by: entries and the starts of programs stay, bytes do not."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from polyarch.content.store import Store
from polyarch.content.walk import is_foreign
from polyarch.errors import ContentError, NotFoundError
from polyarch.image.inspect import Variant
from polyarch.layer.compress import decompressed
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.index import IndexedLayer
from polyarch.layer.layer import Blob, Compression
from polyarch.layer.machine import HEADER_BYTES, identify
from polyarch.layer.placement import Placement
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.tar_reader import TarReader
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.proof.evidence import Evidence
from polyarch.proof.program import MAX_BUFFERED, Program, of_bytes

_HEAD = 1 << 20  # bytes looked at in programs that are too large to keep
_CHUNK = 1 << 20


class ScannedLayer(IndexedLayer):
    """One layer of an image. Its files cannot be opened: they are gone."""

    def __init__(self, id: str, toc: Toc, programs: dict[str, Program]) -> None:
        super().__init__()
        self._id = id
        self._toc = toc
        self.programs = programs  # by the mark that stands in the entries' place for a digest

    @property
    def id(self) -> str:
        return self._id

    def toc(self) -> Toc:
        """See ``Layer.toc``; a file's ``digest`` is a mark that leads to its program."""
        return self._toc

    def open(self, entry: Entry) -> BinaryIO:
        raise _not_kept(f"/{entry.path}")

    def tree(self) -> Path:
        raise _not_kept("this layer")

    def blob(self, compression: Compression) -> Blob:
        raise _not_kept("this layer")


def _not_kept(what: str) -> NotFoundError:
    return NotFoundError(f"the bytes of {what} were only looked at, not kept", reason="not-kept")


def scan(store: Store, descriptor: Descriptor, diff_id: str) -> ScannedLayer:
    """Read a layer from ``store`` once. ContentError where its tar makes no sense or is not ``diff_id``."""
    placement = Placement()
    programs: dict[str, Program] = {}
    with store.open(descriptor) as raw, decompressed(raw) as plain:
        stream = _Hashed(plain, diff_id)
        reader = TarReader(stream)  # type: ignore[arg-type]  # all it does is read
        for number, member in enumerate(reader):
            entry = placement.place(member)
            if entry is None or entry.type != "file":
                continue
            program = _program(reader, entry.size)
            mark = f"scanned:{number}"
            placement.describe(entry.path, mark, program.machine)
            programs[mark] = program
        while stream.read(_CHUNK):
            pass  # what follows the archive counts for its digest
    stream.check(descriptor)
    return ScannedLayer(diff_id, placement.finish(), programs)


def _program(reader: TarReader, size: int) -> Program:
    """The program of the reader's current file; only ELF files are kept for as long as that takes."""
    kept = bytearray()
    wanted = 0
    for chunk in reader.chunks():
        if isinstance(chunk, int):  # a hole of zeros
            data = bytes(min(chunk, wanted - len(kept) if kept else HEADER_BYTES))
        else:
            data = chunk
        if not kept:
            if not identify(data[:HEADER_BYTES]).startswith("elf"):
                return of_bytes(data)
            wanted = size if size <= MAX_BUFFERED else _HEAD
        kept += data[: wanted - len(kept)]
        if len(kept) >= wanted:
            break
    return of_bytes(bytes(kept))


class _Hashed:
    """The uncompressed tar, hashed on its way."""

    def __init__(self, source: BinaryIO, diff_id: str) -> None:
        self._source = source
        self._wanted = diff_id
        self._hash = hashlib.new(diff_id.partition(":")[0] or "sha256")

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def check(self, descriptor: Descriptor) -> None:
        """ContentError unless what was read is what the image's config says."""
        found = f"{self._hash.name}:{self._hash.hexdigest()}"
        if found != self._wanted:
            raise ContentError(
                f"the layer {descriptor.digest} is not what its image says",
                detail=f"uncompressed it should be {self._wanted}, but is {found}",
                reason="diff-id-mismatch",
            )


@dataclass
class Scanner:
    """Scans the layers of variants, each layer once however many variants share it."""

    store: Store
    workers: int = 4
    _layers: dict[tuple[str, str], ScannedLayer] = field(default_factory=dict)

    def evidence(self, variant: Variant, platform: Platform) -> Evidence:
        """Everything there is to know of ``variant``. ContentError for what is no sound image."""
        diff_ids = (variant.config.rootfs.diff_ids if variant.config.rootfs else None) or ()
        if len(diff_ids) != len(variant.layers):
            raise ContentError(
                f"{variant.descriptor.digest} has {len(variant.layers)} layers, its config {len(diff_ids)}",
                reason="invalid-image",
            )
        pairs = list(zip(variant.layers, diff_ids, strict=True))
        below = next((n for n in range(len(pairs), 0, -1) if is_foreign(pairs[n - 1][0])), 0)
        missing = [pair for pair in pairs[below:] if (pair[0].digest, pair[1]) not in self._layers]
        with ThreadPoolExecutor(self.workers, thread_name_prefix="scan") as pool:
            for pair, layer in zip(missing, pool.map(lambda p: scan(self.store, *p), missing), strict=True):
                self._layers[pair[0].digest, pair[1]] = layer
        layers = [self._layers[descriptor.digest, diff_id] for descriptor, diff_id in pairs[below:]]
        rootfs = Rootfs(layers)

        def read(path: str) -> Program | None:
            found = rootfs.content(path)
            return layers[found[1]].programs.get(found[0].digest) if found is not None else None

        return Evidence(rootfs, variant.config, platform, complete=not below, reader=read, below=below)
