"""From a config and layers to a manifest, and from manifests to an index (OCI image-spec, manifest.md and
image-index.md). Pure: bytes are made here, stored elsewhere. Equal input gives equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from polyarch.errors import ContentError, UsageError
from polyarch.layer.layer import Blob
from polyarch.oci import digest as digests
from polyarch.oci import media_types as types
from polyarch.oci.config import ContainerConfig, ImageConfig, RootFs
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Index, Manifest, Raw, encode
from polyarch.oci.platform import Platform

MediaTypes = Literal["oci", "docker"]


@dataclass(frozen=True)
class AssembledManifest:
    """A manifest and the config it names, as bytes, and the config's descriptor."""

    manifest: Raw
    config_bytes: bytes
    config: Descriptor


def assemble(
    config: ImageConfig,
    layers: Sequence[Blob],
    *,
    platform: Platform,
    annotations: Mapping[str, str] | None = None,
    media_types: MediaTypes = "oci",
) -> AssembledManifest:
    """The image of ``config`` over ``layers`` (lowest first).

    ``rootfs.diff_ids`` is filled from the layers and the platform's fields from ``platform``; history stays
    as the caller wrote it. ContentError where the history does not fit the layers; UsageError for
    annotations on a Docker manifest, which has no place for them.
    """
    if annotations and media_types == "docker":
        raise _no_annotations()
    _check_history(config, layers)
    complete = msgspec.structs.replace(
        config,
        config=None if config.config is None else without_empty(config.config),
        architecture=platform.architecture,
        os=platform.os,
        os_version=platform.os_version or config.os_version,
        os_features=platform.os_features or config.os_features,
        variant=platform.variant,
        rootfs=RootFs(diff_ids=tuple(layer.diff_id for layer in layers)),
    )
    data = msgspec.json.encode(complete, order="deterministic")
    config_type = _named(types.OCI_CONFIG, media_types)
    named = Descriptor(media_type=config_type, digest=digests.of(data), size=len(data))
    manifest = Manifest(
        schema_version=2,
        media_type=_named(types.OCI_MANIFEST, media_types),
        config=named,
        layers=tuple(_layer(layer.descriptor, media_types) for layer in layers),
        annotations=dict(sorted((annotations or {}).items())),
    )
    return AssembledManifest(encode(manifest), data, named)


def without_empty(config: ContainerConfig) -> ContainerConfig:
    """The same with empty lists and maps (``CMD []``) left out, as Docker writes them: both mean none."""
    empty = {name: None for name in config.__struct_fields__ if getattr(config, name) in ((), {})}
    return msgspec.structs.replace(config, **empty)


def index(
    children: Sequence[Descriptor],
    *,
    annotations: Mapping[str, str] | None = None,
    media_types: MediaTypes = "oci",
) -> Raw:
    """The index of ``children``, which name manifests and should have platforms, in the order given."""
    if media_types == "docker" and (annotations or any(child.annotations for child in children)):
        raise _no_annotations()
    made = Index(
        schema_version=2,
        media_type=_named(types.OCI_INDEX, media_types),
        manifests=tuple(msgspec.structs.replace(child, data="") for child in children),
        annotations=dict(sorted((annotations or {}).items())),
    )
    return encode(made)


def _named(oci: str, media_types: MediaTypes) -> str:
    return oci if media_types == "oci" else types.to_docker(oci)


def _layer(descriptor: Descriptor, media_types: MediaTypes) -> Descriptor:
    """A layer as a manifest of that family lists it: what a base image's author annotated is kept."""
    convert = types.to_oci if media_types == "oci" else types.to_docker
    annotations = descriptor.annotations if media_types == "oci" else {}
    return Descriptor(
        media_type=convert(descriptor.media_type),
        digest=descriptor.digest,
        size=descriptor.size,
        urls=descriptor.urls,
        annotations=annotations,
    )


def _check_history(config: ImageConfig, layers: Sequence[Blob]) -> None:
    """An engine refuses an image whose history speaks of more layers than there are. Fewer are legal."""
    if not config.history:
        return
    told = sum(not entry.empty_layer for entry in config.history)
    if told > len(layers):
        raise ContentError(
            f"an image's history speaks of {told} layers, but it has {len(layers)}",
            reason="history-mismatch",
        )


def _no_annotations() -> UsageError:
    return UsageError(
        "annotations need OCI media types; Docker's manifests have no place for them",
        hint="leave out oci-mediatypes=false, or the annotations",
        reason="annotations-need-oci",
    )
