"""Images of random content: the same for the same seed, and whole, so that any tool can read them."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Sequence

import msgspec

from polyarch.content.store import Store
from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.config import ContainerConfig, History, ImageConfig, RootFs
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Index, Manifest, encode
from polyarch.oci.platform import Platform

EPOCH = "1970-01-01T00:00:00Z"


def push_bytes(store: Store, data: bytes, media_type: str) -> Descriptor:
    """Store ``data``; returns its descriptor."""
    descriptor = Descriptor(media_type=media_type, digest=digests.of(data), size=len(data))
    store.push(io.BytesIO(data), descriptor)
    return descriptor


def random_layer(store: Store, source: random.Random, size: int) -> tuple[Descriptor, str]:
    """A gzip layer with two files of together ``size`` random bytes; its descriptor and diff_id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for count in (size // 2, size - size // 2):
            member = tarfile.TarInfo(f"data/{source.getrandbits(64):016x}")
            member.size = count
            tar.addfile(member, io.BytesIO(source.randbytes(count)))
    plain = buffer.getvalue()
    data = gzip.compress(plain, compresslevel=1, mtime=0)
    diff_id = "sha256:" + hashlib.sha256(plain).hexdigest()
    return push_bytes(store, data, media_types.OCI_LAYER_GZIP), diff_id


def random_image(
    store: Store, platform: Platform, *, layers: int = 2, size: int = 2000, seed: int = 0
) -> Descriptor:
    """One image for ``platform``; the descriptor of its manifest says so."""
    source = random.Random(f"{seed}/{platform}")
    made = [random_layer(store, source, size) for _ in range(layers)]
    config = ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        created=EPOCH,
        config=ContainerConfig(cmd=("/bin/sh",)),
        rootfs=RootFs(diff_ids=tuple(diff_id for _, diff_id in made)),
        history=tuple(History(created=EPOCH, created_by=f"layer {n}") for n in range(layers)),
    )
    manifest = encode(
        Manifest(
            schema_version=2,
            media_type=media_types.OCI_MANIFEST,
            config=push_bytes(store, config.encode(), media_types.OCI_CONFIG),
            layers=tuple(descriptor for descriptor, _ in made),
        )
    )
    descriptor = push_bytes(store, manifest.data, manifest.media_type)
    return msgspec.structs.replace(descriptor, platform=platform)


def random_index(
    store: Store,
    *,
    platforms: Sequence[str] = ("linux/amd64", "linux/arm64"),
    layers: int = 2,
    size: int = 2000,
    seed: int = 0,
) -> Descriptor:
    """An index with one random image for each platform."""
    images = [
        random_image(store, Platform.parse(text).normalized(), layers=layers, size=size, seed=seed)
        for text in platforms
    ]
    index = encode(Index(schema_version=2, media_type=media_types.OCI_INDEX, manifests=tuple(images)))
    return push_bytes(store, index.data, index.media_type)
