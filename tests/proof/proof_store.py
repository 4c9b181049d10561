"""Images in a real store: layers as tars, manifests and an index, written by hand so that they may lie."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from proof_workshop import Files, Hard, Image, Plain

from polyarch.content.layout import Layout
from polyarch.oci import media_types
from polyarch.oci.config import RootFs
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Index, Manifest, encode
from polyarch.oci.platform import Platform


def tar_of(files: Files) -> bytes:
    """The files as a tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, what in files.items():
            member = tarfile.TarInfo(path)
            match what:
                case str():
                    member.type, member.linkname = tarfile.SYMTYPE, what
                    archive.addfile(member)
                case Hard(target):
                    member.type, member.linkname = tarfile.LNKTYPE, target
                    archive.addfile(member)
                case _:
                    data = what.data if isinstance(what, Plain) else what
                    member.mode = 0o644 if isinstance(what, Plain) else 0o755
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@dataclass(frozen=True)
class Listed:
    """A variant: what the index says of it, the image, and what its config says where that differs."""

    platform: str
    image: Image
    declared: str = ""
    wrong_diff_id: bool = False


def store(layout: Layout, name: str, variants: Sequence[Listed]) -> Descriptor:
    """Put the image into ``layout`` under ``name``; one variant alone gets no index."""
    entries = []
    for listed in variants:
        manifest = _manifest(layout, listed)
        entries.append(msgspec.structs.replace(manifest, platform=Platform.parse(listed.platform)))
    root = entries[0]
    if len(entries) > 1:
        raw = encode(Index(schema_version=2, media_type=media_types.OCI_INDEX, manifests=tuple(entries)))
        root = layout.push_bytes(raw.data, raw.media_type)
    layout.tag(name, root)
    return root


def _manifest(layout: Layout, listed: Listed) -> Descriptor:
    layers, diff_ids = [], []
    for files in (listed.image.files, *listed.image.layers):
        data = tar_of(files)
        diff_ids.append(layout.push_bytes(data, media_types.OCI_LAYER).digest)
        layers.append(layout.push_bytes(gzip.compress(data, mtime=0), media_types.OCI_LAYER_GZIP))
    if listed.wrong_diff_id:
        diff_ids[0] = "sha256:" + "0" * 64
    config = listed.image.config(Platform.parse(listed.declared or listed.platform))
    config = msgspec.structs.replace(config, rootfs=RootFs(diff_ids=tuple(diff_ids)))
    made = layout.push_bytes(config.encode(), media_types.OCI_CONFIG)
    manifest = Manifest(
        schema_version=2, media_type=media_types.OCI_MANIFEST, config=made, layers=tuple(layers)
    )
    raw = encode(manifest)
    return layout.push_bytes(raw.data, raw.media_type)
