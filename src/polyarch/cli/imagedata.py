"""What templates and JSON of ``imagetools inspect`` see: the structs of buildx, fields and order as there."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from polyarch.cli.govalues import Struct
from polyarch.image.inspect import Inspection, Variant
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform

_IMAGE = (
    ("Created", "created"),
    ("Author", "author"),
    ("Architecture", "architecture"),
    ("Variant", "variant"),
    ("OS", "os"),
    ("OSVersion", "os.version"),
    ("OSFeatures", "os.features"),
    ("Config", "config"),
    ("RootFS", "rootfs"),
    ("History", "history"),
)
_CONFIG = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "Shell",
)
_HISTORY = (
    ("Created", "created"),
    ("CreatedBy", "created_by"),
    ("Author", "author"),
    ("Comment", "comment"),
    ("EmptyLayer", "empty_layer"),
)


def inputs(found: Inspection, name: str) -> Struct:
    """The value a template starts with."""
    manifest = manifest_of(found)
    image = image_of(found)
    fields = {"Name": name, "Manifest": manifest, "Image": image, "SBOM": {}, "Provenance": {}}
    return Struct("imagetools.tplInputs", fields, {"name": name, "manifest": manifest, "image": image})


def manifest_of(found: Inspection) -> Struct:
    """An index with its own digest and size, or the descriptor of a plain manifest."""
    own = msgspec.structs.replace(found.descriptor, annotations={}, platform=None)
    if not found.is_index:
        return descriptor(own)
    index = found.raw.index
    entries = [descriptor(entry) for entry in index.manifests]
    document: dict[str, Any] = {
        "schemaVersion": index.schema_version,
        "mediaType": found.raw.media_type,
        "digest": own.digest,
        "size": own.size,
        "manifests": entries,
    }
    if index.annotations:
        document["annotations"] = dict(sorted(index.annotations.items()))
    fields = {
        "SchemaVersion": index.schema_version,
        "MediaType": found.raw.media_type,
        "Digest": own.digest,
        "Size": own.size,
        "Manifests": entries,
        "Annotations": index.annotations,
    }
    return Struct("imagetools.index", fields, document)


def descriptor(value: Descriptor) -> Struct:
    """A descriptor; its JSON has Go's order."""
    document: dict[str, Any] = {"mediaType": value.media_type, "digest": value.digest, "size": value.size}
    if value.urls:
        document["urls"] = list(value.urls)
    if value.annotations:
        document["annotations"] = dict(sorted(value.annotations.items()))
    if value.data:
        document["data"] = value.data
    shown = platform(value.platform) if value.platform else None
    if shown:
        document["platform"] = shown
    if value.artifact_type:
        document["artifactType"] = value.artifact_type
    fields = {
        "MediaType": value.media_type,
        "Digest": value.digest,
        "Size": value.size,
        "URLs": list(value.urls),
        "Annotations": value.annotations,
        "Data": value.data,
        "Platform": shown,
        "ArtifactType": value.artifact_type,
    }
    return Struct("v1.Descriptor", fields, document)


def platform(value: Platform) -> Struct:
    """A platform."""
    fields = {
        "Architecture": value.architecture,
        "OS": value.os,
        "OSVersion": value.os_version,
        "OSFeatures": list(value.os_features),
        "Variant": value.variant,
    }
    return Struct("v1.Platform", fields, value.to_builtins())


def image_of(found: Inspection) -> Any:
    """The config of a plain image, or the configs of an index by platform; None when there is none."""
    if not found.is_index:
        return config(found.variants[0])
    return {str(v.platform): config(v) for v in found.variants if v.platform is not None and v.config_bytes}


def config(variant: Variant) -> Struct | None:
    """A variant's config, with the fields Go knows, in its order."""
    if not variant.config_bytes:
        return None
    document = json.loads(variant.config_bytes)
    inner = document.get("config") if isinstance(document.get("config"), dict) else {}
    container = {key: inner[key] for key in _CONFIG if key in inner}
    shown = {
        **{key: document[key] for _, key in _IMAGE if key in document},
        "config": Struct("v1.DockerOCIImageConfig", {key: inner.get(key) for key in _CONFIG}, container),
    }
    rootfs = document.get("rootfs")
    if isinstance(rootfs, dict):
        fields = {"Type": rootfs.get("type"), "DiffIDs": rootfs.get("diff_ids")}
        shown["rootfs"] = Struct("v1.RootFS", fields, rootfs)
    if isinstance(document.get("history"), list):
        shown["history"] = [_history(entry) for entry in document["history"] if isinstance(entry, dict)]
    ordered = {key: shown[key] for _, key in _IMAGE if key in shown}
    return Struct("v1.DockerOCIImage", {name: shown.get(key) for name, key in _IMAGE}, ordered)


def _history(entry: dict[str, Any]) -> Struct:
    document = {key: entry[key] for _, key in _HISTORY if key in entry}
    return Struct("v1.History", {name: entry.get(key) for name, key in _HISTORY}, document)
