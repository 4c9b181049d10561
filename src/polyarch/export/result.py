"""What a build hands to the exporters, and what they tell about it afterwards."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyarch.export.annotations import Annotation
from polyarch.image.cache_table import Part
from polyarch.oci.config import ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform

if TYPE_CHECKING:
    from polyarch.layer.rootfs import Rootfs


@dataclass(frozen=True)
class PlatformResult:
    """One variant: its root filesystem, and its config without ``rootfs`` (the layers say what goes there);
    ``config.created`` is set. ``cache`` is what its manifest shall say of how it came to be (the layers are
    the image's own)."""

    platform: Platform
    rootfs: Rootfs
    config: ImageConfig
    cache: Part | None = None


@dataclass(frozen=True)
class BuildResult:
    """Every variant, in the order the platforms were asked for.

    ``origins`` says for the digest of a layer of a base image where it can be had when the local store does
    not have it: repositories (``registry/repository``) or ``oci-layout:PATH``. ``epoch`` is
    SOURCE_DATE_EPOCH in seconds, None when not given. ``indexed`` puts even one variant into an index.
    """

    results: tuple[PlatformResult, ...]
    annotations: tuple[Annotation, ...] = ()
    origins: Mapping[str, Collection[str]] = field(default_factory=dict)
    epoch: int | None = None
    indexed: bool = False


@dataclass(frozen=True)
class ExportedPlatform:
    """One variant as exported: its manifest, its config's digest, and the bytes of manifest, config and
    compressed layers together. ``layers`` are the compressed sizes of its layers by the layers' ids."""

    platform: Platform
    manifest: Descriptor
    config_digest: str
    size: int
    layers: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class ExportSummary:
    """Where a build's result is now. ``descriptor`` is the index or, for one platform, the manifest; None
    when no image was asked for (only ``local`` or ``tar``). ``destinations`` are sentences for people."""

    descriptor: Descriptor | None
    names: tuple[str, ...] = ()
    platforms: tuple[ExportedPlatform, ...] = ()
    destinations: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The digest of the whole, as ``--metadata-file`` gives it; "" when there is no image."""
        return self.descriptor.digest if self.descriptor else ""

    @property
    def layers(self) -> dict[str, int]:
        """Compressed sizes of all layers, by the layers' ids."""
        return {id: size for platform in self.platforms for id, size in platform.layers}

    @property
    def image_id(self) -> str:
        """What ``--iidfile`` gets: the config's digest of a single platform, else the index's digest."""
        if self.descriptor is None:
            return ""
        if len(self.platforms) == 1 and self.platforms[0].manifest.digest == self.descriptor.digest:
            return self.platforms[0].config_digest
        return self.descriptor.digest
