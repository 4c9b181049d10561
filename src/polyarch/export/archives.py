"""OCI and docker archives. The same image gives the same bytes: members are sorted, times are zero.

Both are an OCI layout in a tar, as BuildKit and docker write them; the docker form has a ``manifest.json``
too, for engines that know nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from polyarch.content.copy import Progress, copy
from polyarch.content.layout import Layout
from polyarch.content.names import CONTAINERD_NAME, REF_NAME
from polyarch.content.store import Store
from polyarch.content.verify import CHUNK, read_manifest
from polyarch.content.walk import is_foreign, is_manifest, walk
from polyarch.errors import UsageError
from polyarch.layer.entry import Entry
from polyarch.layer.tar_writer import header, padding
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Index
from polyarch.oci.media_types import OCI_INDEX
from polyarch.oci.reference import Reference

_MARKER = b'{"imageLayoutVersion":"1.0.0"}'
_END = bytes(1024)


@dataclass(frozen=True)
class Content:
    """One image for an archive, and its names there. ``created`` (RFC 3339) is noted where it is given."""

    descriptor: Descriptor
    names: Sequence[Reference] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def entries(self) -> list[Descriptor]:
        """What index.json lists: one entry per name, or one without a name."""
        own = {k: v for k, v in self.descriptor.annotations.items() if k not in (CONTAINERD_NAME, REF_NAME)}
        base = {**own, **self.annotations}
        named = [_name_annotations(reference) for reference in self.names] or [{}]
        return [
            msgspec.structs.replace(
                self.descriptor, annotations=dict(sorted({**base, **names}.items())), data=""
            )
            for names in named
        ]


def write_oci(
    store: Store, contents: Sequence[Content], sink: BinaryIO, *, progress: Progress | None = None
) -> None:
    """An OCI layout of ``contents`` as a tar."""
    _write(store, contents, sink, {}, progress)


def write_docker(
    store: Store, contents: Sequence[Content], sink: BinaryIO, *, progress: Progress | None = None
) -> None:
    """What ``docker load`` of any version takes. UsageError for an index: this form holds one platform."""
    saved = []
    for content in contents:
        raw = read_manifest(store, content.descriptor)
        if raw.is_index:
            raise UsageError(
                "docker archives do not hold indexes, only images for one platform",
                hint="use type=oci, which holds every platform, or choose one with --platform",
                reason="docker-archive-index",
            )
        saved.append(
            {
                "Config": _blob_name(raw.manifest.config.digest),
                "RepoTags": [reference.familiar for reference in content.names if reference.tag] or None,
                "Layers": [_blob_name(layer.digest) for layer in raw.manifest.layers],
            }
        )
    _write(store, contents, sink, {"manifest.json": msgspec.json.encode(saved)}, progress)


def write_directory(
    store: Store, contents: Sequence[Content], folder: Path, *, progress: Progress | None = None
) -> None:
    """An OCI layout as a directory. What is there stays; names move to the new images."""
    layout = Layout(folder)
    for content in contents:
        copy(store, layout, content.descriptor, progress=progress)
        for entry in content.entries():
            layout.publish(entry)


def _name_annotations(reference: Reference) -> dict[str, str]:
    if not reference.tag:
        return {CONTAINERD_NAME: str(reference)}
    return {CONTAINERD_NAME: str(reference.with_tag(reference.tag)), REF_NAME: reference.tag}


def _blob_name(digest: str) -> str:
    return f"blobs/{digests.algorithm(digest)}/{digests.encoded(digest)}"


def _write(
    store: Store,
    contents: Sequence[Content],
    sink: BinaryIO,
    extra: Mapping[str, bytes],
    progress: Progress | None,
) -> None:
    blobs: dict[str, Descriptor] = {}
    for content in contents:
        for descriptor in walk(store, content.descriptor):
            if not is_foreign(descriptor):
                blobs.setdefault(descriptor.digest, descriptor)
    entries = [entry for content in contents for entry in content.entries()]
    index = Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(entries))
    files = {**extra, "index.json": msgspec.json.encode(index), "oci-layout": _MARKER}
    for folder in _folders(blobs):
        sink.write(header(Entry(folder, "directory", 0o755)))
    for digest in sorted(blobs):
        _write_blob(store, blobs[digest], sink, progress)
    for name in sorted(files):
        sink.write(header(Entry(name, "file", 0o644, size=len(files[name]))))
        sink.write(files[name] + padding(len(files[name])))
    sink.write(_END)


def _folders(blobs: Iterable[str]) -> list[str]:
    return ["blobs", *sorted({f"blobs/{digests.algorithm(digest)}" for digest in blobs})]


def _write_blob(store: Store, descriptor: Descriptor, sink: BinaryIO, progress: Progress | None) -> None:
    sink.write(header(Entry(_blob_name(descriptor.digest), "file", 0o444, size=descriptor.size)))
    data = io.BytesIO(read_manifest(store, descriptor).data) if is_manifest(descriptor) else None
    with data or store.open(descriptor) as stream:
        while chunk := stream.read(CHUNK):
            sink.write(chunk)
            if progress is not None:
                progress(descriptor, len(chunk))
    sink.write(padding(descriptor.size))
