"""What hangs together: everything a manifest or index leads to, and the variant of an index that a platform
takes. Both read through any store and trust nothing in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from polyarch.content.store import Store
from polyarch.content.verify import read, read_manifest
from polyarch.errors import ContentError, NotFoundError
from polyarch.oci import digest as digests
from polyarch.oci import media_types, platform
from polyarch.oci.config import ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES, Raw
from polyarch.oci.platform import Platform

MAX_DEPTH = 5  # indexes inside indexes; nobody makes more than two
MAX_DESCRIPTORS = 20_000
ATTESTS = "vnd.docker.reference.digest"  # annotation of an attestation manifest: which manifest it is about
ATTESTATION = "vnd.docker.reference.type"

_MANIFEST_TYPES = media_types.INDEXES | media_types.MANIFESTS
_FOREIGN_MARKS = (".nondistributable.", ".foreign.")


def is_manifest(descriptor: Descriptor) -> bool:
    """Whether it names a manifest or an index rather than a plain blob."""
    return descriptor.media_type in _MANIFEST_TYPES


def is_foreign(descriptor: Descriptor) -> bool:
    """Whether it names a layer that registries do not hold but only link to (Windows bases of old)."""
    return any(mark in descriptor.media_type for mark in _FOREIGN_MARKS)


def is_attestation(descriptor: Descriptor) -> bool:
    """Whether an index's entry is no image but a statement about one (provenance, SBOM)."""
    if ATTESTATION in descriptor.annotations:
        return True
    found = descriptor.platform
    return found is not None and found.os == "unknown" and found.architecture == "unknown"


def children(raw: Raw) -> tuple[Descriptor, ...]:
    """What a manifest or index refers to: config first, then layers; ContentError on nonsense."""
    found = raw.index.manifests if raw.is_index else (raw.manifest.config, *raw.manifest.layers)
    for descriptor in found:
        digests.parse(descriptor.digest)
        if descriptor.size < 0:
            raise ContentError(f"{descriptor.digest} has a negative size", reason="invalid-descriptor")
    return found


@dataclass
class Budget:
    """How much of a graph may still be visited; hostile indexes are cut off here."""

    descriptors: int = MAX_DESCRIPTORS

    def spend(self, count: int, root: Descriptor, depth: int) -> None:
        """ContentError when ``root`` leads too deep or to too many things."""
        self.descriptors -= count
        if depth > MAX_DEPTH or self.descriptors < 0:
            raise ContentError(
                f"{root.digest} leads to too much content",
                detail=f"allowed are {MAX_DESCRIPTORS} descriptors and {MAX_DEPTH} levels of indexes",
                reason="content-too-deep",
            )


def walk(store: Store, root: Descriptor, *, sparse: bool = False) -> Iterator[Descriptor]:
    """``root`` and everything it leads to, each digest once, parents before children.

    With ``sparse`` manifests that are not in ``store`` are yielded too, and nothing below them; without it
    they raise NotFoundError. Blobs are not looked at. ContentError on what is malformed or too much.
    """
    seen: set[str] = set()
    budget = Budget()
    stack = [(root, 0)]
    while stack:
        descriptor, depth = stack.pop()
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        yield descriptor
        if not is_manifest(descriptor):
            continue
        try:
            below = children(read_manifest(store, descriptor))
        except NotFoundError:
            if not sparse:
                raise
            continue
        budget.spend(len(below), root, depth + 1 if below and is_manifest(below[0]) else depth)
        stack.extend((child, depth + 1) for child in reversed(below))


def select(store: Store, descriptor: Descriptor, wanted: Platform, *, strict: bool = False) -> Descriptor:
    """The manifest for ``wanted`` behind ``descriptor``: itself when it is a manifest, whatever its platform,
    else the best entry of the index. NotFoundError (``no-platform``) lists the platforms there are."""
    for _ in range(MAX_DEPTH):
        if descriptor.media_type not in media_types.INDEXES:
            return descriptor
        raw = read_manifest(store, descriptor)
        chosen = pick(variants(store, children(raw)), (wanted,), strict=strict, where=descriptor.digest)
        descriptor = chosen[0]
    raise ContentError(f"{descriptor.digest}: indexes inside indexes", reason="content-too-deep")


def variants(store: Store, entries: Sequence[Descriptor]) -> list[Descriptor]:
    """The images among an index's entries, each with a platform: the declared one, or its config's where the
    index says nothing. Attestations, and entries whose platform nobody knows, are left out."""
    found = []
    for entry in entries:
        if is_attestation(entry) or not is_manifest(entry):
            continue
        if entry.platform is None:
            declared = _platform_of_config(store, entry)
            if declared is None:
                continue
            entry = msgspec.structs.replace(entry, platform=declared)
        found.append(entry)
    return found


def pick(
    offered: Sequence[Descriptor],
    wanted: Collection[Platform],
    *,
    strict: bool = False,
    where: str = "the index",
) -> list[Descriptor]:
    """The entry for each wanted platform, each once; NotFoundError (``no-platform``) lists what there is."""
    platforms = [entry.platform for entry in offered if entry.platform is not None]
    chosen: dict[str, Descriptor] = {}
    for one in wanted:
        position = platform.choose(one, platforms, strict=strict)
        if position is None:
            there = ", ".join(dict.fromkeys(str(p) for p in platforms)) or "none at all"
            raise NotFoundError(
                f"{where} has no variant for {one}",
                hint=f"platforms it has: {there}",
                reason="no-platform",
            )
        chosen[offered[position].digest] = offered[position]
    return list(chosen.values())


def _platform_of_config(store: Store, entry: Descriptor) -> Platform | None:
    try:
        raw = read_manifest(store, entry)
        if raw.is_index or raw.manifest.config.media_type not in media_types.CONFIGS:
            return None
        config = ImageConfig.parse(read(store, raw.manifest.config, limit=MAX_BYTES))
    except (NotFoundError, ContentError):
        return None
    return config.platform if config.architecture else None
