"""A new index out of images that are there already, as ``buildx imagetools create`` makes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from polyarch.content.store import Store
from polyarch.content.verify import read_manifest
from polyarch.content.walk import ATTESTS, children, is_attestation, is_manifest
from polyarch.errors import NotFoundError, UsageError
from polyarch.image import assemble
from polyarch.image.inspect import declared_platform
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw
from polyarch.oci.platform import Platform, choose


@dataclass(frozen=True)
class Source:
    """An image to take variants from; ``annotations`` are added to its entries."""

    store: Store
    descriptor: Descriptor
    name: str


@dataclass(frozen=True)
class Combined:
    """What came of it: the bytes, and from where each part is to be copied."""

    raw: Raw
    parts: tuple[tuple[Store, Descriptor], ...]

    @property
    def is_copy(self) -> bool:
        """Whether it is one of the sources, unchanged."""
        return len(self.parts) == 1 and self.parts[0][1].digest == self.raw.digest


def combine(
    sources: Sequence[Source],
    *,
    platforms: Collection[Platform] = (),
    annotations: Mapping[str, str] | None = None,
    descriptor_annotations: Mapping[str, str] | None = None,
    prefer_index: bool = True,
) -> Combined:
    """One index of all variants of ``sources``, each manifest once, in order.

    ``platforms`` keeps only those. A single source that needs no change stays as it is: always an index,
    and a manifest unless ``prefer_index``. Docker's media types are kept where all sources have them and
    there are no annotations.
    """
    if not sources:
        raise UsageError("no sources specified", hint="name at least one image", reason="no-sources")
    changed = bool(platforms or annotations or descriptor_annotations)
    if len(sources) == 1 and not changed:
        (source,) = sources
        raw = read_manifest(source.store, source.descriptor)
        if raw.is_index or not prefer_index:
            return Combined(raw, ((source.store, source.descriptor),))
    entries: dict[str, tuple[Store, Descriptor]] = {}
    for source in sources:
        for entry in _entries(source):
            entries.setdefault(entry.digest, (source.store, entry))
    chosen = _chosen([entry for _, entry in entries.values()], platforms)
    if descriptor_annotations:
        chosen = [
            e
            if is_attestation(e)
            else msgspec.structs.replace(e, annotations={**e.annotations, **descriptor_annotations})
            for e in chosen
        ]
    docker = all(e.media_type == media_types.DOCKER_MANIFEST and not e.annotations for e in chosen)
    raw = assemble.index(
        chosen, annotations=annotations, media_types="docker" if docker and not annotations else "oci"
    )
    return Combined(raw, tuple(entries[entry.digest] for entry in chosen))


def _entries(source: Source) -> list[Descriptor]:
    raw = read_manifest(source.store, source.descriptor)
    if not raw.is_index:
        return [declared_platform(source.store, msgspec.structs.replace(source.descriptor, annotations={}))]
    return [entry for entry in children(raw) if is_manifest(entry)]


def _chosen(entries: Sequence[Descriptor], platforms: Collection[Platform]) -> list[Descriptor]:
    """The entries for ``platforms`` with their attestations; all of them without ``platforms``."""
    if not platforms:
        return list(entries)
    variants = [e for e in entries if not is_attestation(e) and e.platform is not None]
    offered = [e.platform for e in variants if e.platform is not None]
    kept = set()
    for wanted in platforms:
        matching = [
            e for e, p in zip(variants, offered, strict=True) if choose(wanted, [p], strict=True) == 0
        ]
        if not matching:
            there = ", ".join(dict.fromkeys(str(p) for p in offered)) or "none at all"
            raise NotFoundError(
                f"none of the sources has a variant for {wanted}",
                hint=f"platforms they have: {there}",
                reason="no-platform",
            )
        kept |= {e.digest for e in matching}
    return [e for e in entries if e.digest in kept or e.annotations.get(ATTESTS) in kept]
