"""What an image is, read from any store: the index or manifest as received, and every variant behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from polyarch.content.store import Store
from polyarch.content.verify import read, read_manifest
from polyarch.content.walk import MAX_DEPTH, Budget, children, is_attestation, is_manifest
from polyarch.errors import ContentError, NotFoundError
from polyarch.oci import media_types
from polyarch.oci.config import ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES, Raw
from polyarch.oci.platform import Platform


@dataclass(frozen=True)
class Variant:
    """One platform of an image. ``descriptor`` is the manifest's, as the index lists it; ``config_bytes``
    are the config as received. An artifact that is no image has an empty config."""

    platform: Platform | None
    descriptor: Descriptor
    raw: Raw
    config: ImageConfig
    config_bytes: bytes

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """The layers as the manifest lists them, lowest first."""
        return self.raw.manifest.layers

    @property
    def size(self) -> int:
        """Bytes of manifest, config and compressed layers together."""
        blobs = {layer.digest: layer.size for layer in self.layers}
        return len(self.raw.data) + self.raw.manifest.config.size + sum(blobs.values())


@dataclass(frozen=True)
class Inspection:
    """A whole image. ``descriptor`` is what the name names; ``absent`` are entries of the index that the
    store does not hold (it was pulled for some platforms only)."""

    name: str
    descriptor: Descriptor
    raw: Raw
    variants: tuple[Variant, ...]
    attestations: tuple[Descriptor, ...] = ()
    absent: tuple[Descriptor, ...] = ()

    @property
    def digest(self) -> str:
        return self.raw.digest

    @property
    def is_index(self) -> bool:
        return self.raw.is_index

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms there are variants for, in the index's order."""
        return tuple(variant.platform for variant in self.variants if variant.platform is not None)

    @property
    def size(self) -> int:
        """Bytes of everything, each blob once."""
        blobs = {self.raw.digest: len(self.raw.data)}
        for variant in self.variants:
            blobs[variant.raw.digest] = len(variant.raw.data)
            for blob in children(variant.raw):
                blobs[blob.digest] = blob.size
        return sum(blobs.values())

    def variant(self, platform: Platform) -> Variant | None:
        """The variant whose platform is exactly ``platform``."""
        for variant in self.variants:
            if variant.platform is not None and variant.platform.normalized() == platform.normalized():
                return variant
        return None


def inspect(store: Store, descriptor: Descriptor, *, name: str = "") -> Inspection:
    """Everything about ``descriptor`` but the layers' bytes. ContentError where something is malformed;
    entries of an index that are not there are reported, not raised."""
    raw = read_manifest(store, descriptor)
    if not raw.is_index:
        only = _variant(store, descriptor, raw)
        return Inspection(name, descriptor, raw, (only,))
    variants: list[Variant] = []
    attestations: list[Descriptor] = []
    absent: list[Descriptor] = []
    for entry in _entries(store, raw, descriptor):
        if is_attestation(entry):
            attestations.append(entry)
            continue
        try:
            variants.append(_variant(store, entry, read_manifest(store, entry)))
        except NotFoundError:
            absent.append(entry)
    return Inspection(name, descriptor, raw, tuple(variants), tuple(attestations), tuple(absent))


def _entries(store: Store, raw: Raw, root: Descriptor) -> Iterator[Descriptor]:
    """The manifests of an index, those of indexes in it too."""
    budget = Budget()
    stack = [(entry, 1) for entry in reversed(children(raw))]
    budget.spend(len(stack), root, 0)
    while stack:
        entry, depth = stack.pop()
        if entry.media_type in media_types.INDEXES and depth < MAX_DEPTH:
            try:
                below = children(read_manifest(store, entry))
            except NotFoundError:
                yield entry
                continue
            budget.spend(len(below), root, depth)
            stack.extend((child, depth + 1) for child in reversed(below))
        elif is_manifest(entry):
            yield entry


def _variant(store: Store, descriptor: Descriptor, raw: Raw) -> Variant:
    config = raw.manifest.config
    if config.media_type not in media_types.CONFIGS:
        return Variant(descriptor.platform, descriptor, raw, ImageConfig(), b"")
    data = read(store, config, limit=MAX_BYTES)
    parsed = ImageConfig.parse(data)
    platform = descriptor.platform
    if platform is None and parsed.architecture:
        platform = parsed.platform
    return Variant(platform, descriptor, raw, parsed, data)


def declared_platform(store: Store, descriptor: Descriptor) -> Descriptor:
    """``descriptor`` of a manifest with the platform its config declares, unless it has one already.
    ContentError where the config declares none."""
    if descriptor.platform is not None:
        return descriptor
    variant = _variant(store, descriptor, read_manifest(store, descriptor))
    if variant.platform is None:
        raise ContentError(f"{descriptor.digest} does not say for which platform it is", reason="no-platform")
    return msgspec.structs.replace(descriptor, platform=variant.platform)
