"""From what a daemon exported to root filesystems of ours."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping

import msgspec

from polyarch.builder.embedded import EmbeddedNode
from polyarch.content.store import Store
from polyarch.content.verify import read, read_manifest
from polyarch.content.walk import is_manifest
from polyarch.errors import ContentError
from polyarch.graph.vertex import Graph, ImageOp
from polyarch.layer.layer import Blob, Compression, Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.stored import wanted_key
from polyarch.oci import media_types
from polyarch.oci.config import ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES, Manifest

_DESCRIPTOR = "containerimage.descriptor"
_DESCRIBED_BYTES = 256 << 20


class Bases:
    """The base images a graph stands on, layer by layer: what never has to travel."""

    def __init__(self, graph: Graph, home: EmbeddedNode) -> None:
        self._layers: dict[tuple[str, str], tuple[Descriptor, Store]] = {}
        self.digests: set[str] = set()
        for vertex in graph.vertices.values():
            if isinstance(vertex.op, ImageOp):
                origin = home.origin(vertex.op.origin)
                for descriptor, diff_id in zip(vertex.op.layers, vertex.op.diff_ids, strict=True):
                    self._layers.setdefault((descriptor.digest, diff_id), (descriptor, origin))
                    self.digests.add(descriptor.digest)

    def find(self, digest: str, diff_id: str) -> tuple[Descriptor, Store] | None:
        """The layer as its image has it, and where it can be read."""
        return self._layers.get((digest, diff_id))


def image_rootfs(op: ImageOp, home: EmbeddedNode) -> Rootfs:
    """A base image's own root filesystem."""
    origin = home.origin(op.origin)
    pairs = zip(op.layers, op.diff_ids, strict=True)
    return Rootfs([home.layers.image_layer(descriptor, diff_id, origin) for descriptor, diff_id in pairs])


def read_result(store: Store, root: Descriptor) -> Iterator[tuple[Descriptor, Manifest, ImageConfig]]:
    """The images below ``root``, each with its manifest and configuration; attestations are passed over."""
    raw = read_manifest(store, root)
    if not raw.is_index:
        manifest = raw.manifest
        data = read(store, manifest.config, limit=MAX_BYTES)
        yield root, manifest, ImageConfig.parse(data)
        return
    for child in raw.index.manifests:
        if is_manifest(child) and (child.platform is None or child.platform.os != "unknown"):
            for _, manifest, config in read_result(store, child):
                yield child, manifest, config


def rootfs_of(manifest: Manifest, config: ImageConfig, bases: Bases, home: EmbeddedNode) -> Rootfs:
    """The root filesystem of an image a daemon made: layers of bases as those have them, others as new."""
    diff_ids = (config.rootfs.diff_ids if config.rootfs is not None else None) or ()
    if len(diff_ids) != len(manifest.layers):
        raise ContentError(
            f"the builder's image has {len(manifest.layers)} layers and {len(diff_ids)} diff_ids",
            reason="invalid-manifest",
        )
    pairs = zip(manifest.layers, diff_ids, strict=True)
    rootfs = Rootfs([_layer(descriptor, diff_id, bases, home) for descriptor, diff_id in pairs])
    _describe(rootfs, manifest, home)
    return rootfs


def _describe(rootfs: Rootfs, manifest: Manifest, home: EmbeddedNode) -> None:
    """Learn what is in layers of a base that nobody has looked at here, unless they are huge: a variant can
    be proved only as far down as it is known. Each is fetched once."""
    unknown = [
        (layer, descriptor)
        for layer, descriptor in zip(rootfs.layers, manifest.layers, strict=True)
        if not home.layers.is_described(layer.id)
    ]
    if sum(descriptor.size for _, descriptor in unknown) <= _DESCRIBED_BYTES:
        for layer, _ in unknown:
            layer.toc()


def _layer(descriptor: Descriptor, diff_id: str, bases: Bases, home: EmbeddedNode) -> Layer:
    base = bases.find(descriptor.digest, diff_id)
    if base is not None:
        return home.layers.image_layer(base[0], diff_id, base[1])
    bare = Descriptor(
        media_type=media_types.to_oci(descriptor.media_type), digest=descriptor.digest, size=descriptor.size
    )
    name = hashlib.sha256(f"{descriptor.digest} {diff_id}".encode()).hexdigest()[:32]
    return home.layers.remote_layer(f"step:{name}", Blob(bare, diff_id), _made_as(descriptor))


def _made_as(descriptor: Descriptor) -> str:
    match media_types.compression(descriptor.media_type):
        case "zstd":
            return wanted_key(Compression("zstd"), clamp=True)
        case "none":
            return wanted_key(Compression("none"), clamp=True)
        case _:
            return wanted_key(Compression(), clamp=True)


def exported(answer: Mapping[str, str], what: str) -> Descriptor:
    """The descriptor an exporter answered. ContentError when it did not."""
    try:
        data = base64.b64decode(answer[_DESCRIPTOR], validate=True)
        return msgspec.json.decode(data, type=Descriptor)
    except (KeyError, ValueError, msgspec.MsgspecError):
        raise ContentError(f"the builder does not say what its {what} is", reason="no-descriptor") from None
