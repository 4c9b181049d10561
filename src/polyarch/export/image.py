"""From a build's result to an image in the local store: layers compressed, manifests and index written.

Nothing is named here; a manifest without a name does no harm.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from threading import Event

import msgspec

from polyarch.content.copy import Repository
from polyarch.errors import CancelledError, NotFoundError, UsageError
from polyarch.export.annotations import Annotation, Level, select
from polyarch.export.output import Output
from polyarch.export.progress import Reporter
from polyarch.export.result import BuildResult, ExportedPlatform, PlatformResult
from polyarch.image import assemble, cache_table
from polyarch.image.assemble import MediaTypes
from polyarch.image.cache_table import INLINE, MAX_INLINE
from polyarch.image.sparse import SparseStore
from polyarch.layer.layer import Blob, Compression, Layer
from polyarch.layer.stored import wanted_key
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw


@dataclass(frozen=True)
class Form:
    """What makes two images of one result differ."""

    compression: Compression
    media_types: MediaTypes
    annotations: tuple[Annotation, ...]

    @classmethod
    def of(cls, output: Output, result: BuildResult) -> Form:
        """The form ``output`` asks for. UsageError where the result lacks what it needs."""
        compression = output.compression
        if output.rewrite_timestamp:
            if result.epoch is None:
                raise UsageError(
                    "rewrite-timestamp=true needs a time to rewrite to",
                    hint="set SOURCE_DATE_EPOCH, or --build-arg SOURCE_DATE_EPOCH=SECONDS",
                    reason="no-epoch",
                )
            compression = Compression(compression.kind, compression.level, compression.force, result.epoch)
        annotations = (*result.annotations, *output.annotations)
        return cls(compression, "oci" if output.oci_media_types else "docker", annotations)


@dataclass(frozen=True)
class AssembledImage:
    """An image in the local store. ``descriptor`` is the index, or the manifest of a single platform; it
    carries the annotations descriptors of it shall have; ``layers`` are those of all variants."""

    descriptor: Descriptor
    platforms: tuple[ExportedPlatform, ...]
    layers: tuple[Descriptor, ...] = ()


class Assembler:
    """Makes images of one result; each form once."""

    def __init__(self, result: BuildResult, store: SparseStore, cancelled: Event) -> None:
        self._result = result
        self._store = store
        self._layout = store.layout
        self._origins = store.origins
        self._cancelled = cancelled
        self._made: dict[Form, AssembledImage] = {}

    def make(self, form: Form, report: Reporter) -> AssembledImage:
        """The image in ``form``, its content in the local store but for layers that are only known there,
        whose origins are recorded."""
        if form not in self._made:
            self._made[form] = self._make(form, report)
        return self._made[form]

    def _make(self, form: Form, report: Reporter) -> AssembledImage:
        results = self._result.results
        single = len(results) == 1 and not self._result.indexed
        _check_levels(form.annotations, single=single)
        with report.phase("exporting layers"):
            blobs = self._blobs(form.compression)
        self._record_origins(blobs)
        layers = tuple(blob.descriptor for blob in blobs.values())
        platforms = []
        children = []
        for one in results:
            own = [blobs[layer.id] for layer in one.rootfs.layers]
            exported = self._manifest(one, own, form, report)
            report.line(f"exporting manifest {exported.manifest.digest}")
            report.line(f"exporting config {exported.config_digest}")
            platforms.append(exported)
            children.append(exported.manifest)
        if single:
            return AssembledImage(children[0], tuple(platforms), layers)
        annotations = select(form.annotations, "index")
        raw = assemble.index(children, annotations=annotations, media_types=form.media_types)
        self._keep(raw)
        report.line(f"exporting manifest list {raw.digest}")
        described = select(form.annotations, "index-descriptor")
        whole = msgspec.structs.replace(raw.descriptor, annotations=described)
        return AssembledImage(whole, tuple(platforms), layers)

    def _blobs(self, compression: Compression) -> dict[str, Blob]:
        """The blob of every layer by the layer's id; layers that platforms share are made once."""
        layers: dict[str, Layer] = {}
        for one in self._result.results:
            layers.update((layer.id, layer) for layer in one.rootfs.layers)
        blobs = {}
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="export") as pool:
            pending = {pool.submit(layer.blob, compression): id for id, layer in layers.items()}
            try:
                for future in as_completed(pending):
                    if self._cancelled.is_set():
                        raise CancelledError("the export was stopped", reason="cancelled")
                    blobs[pending[future]] = future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return blobs

    def _record_origins(self, blobs: Mapping[str, Blob]) -> None:
        """Remember where layers of bases are: those that are not here are fetched from there, and a registry
        that has them already need not be sent them."""
        known = {}
        for id, blob in blobs.items():
            digest = blob.descriptor.digest
            places = tuple(self._result.origins.get(digest, ())) or self._origin_of(id)
            if places:
                known[digest] = places
            elif not self._store.exists(digest):
                raise NotFoundError(
                    f"layer {digest} is neither in the local store nor known to be anywhere else",
                    hint="build again with --pull",
                    reason="layer-lost",
                )
        self._origins.record(known)

    def remember(self, image: AssembledImage, repositories: Iterable[str]) -> None:
        """An image was pushed: what of it is not here can be had from there."""
        places = tuple(repositories)
        missing = [one.digest for one in image.layers if not self._layout.exists(one.digest)]
        self._origins.record(dict.fromkeys(missing, places))

    def _origin_of(self, id: str) -> tuple[str, ...]:
        """The repository a base's layer would be fetched from, where the layer itself knows."""
        for one in self._result.results:
            for layer in one.rootfs.layers:
                origin = getattr(layer, "origin", None)
                if layer.id == id and isinstance(origin, Repository):
                    return (f"{origin.registry}/{origin.name}",)
        return ()

    def _manifest(
        self, one: PlatformResult, layers: list[Blob], form: Form, report: Reporter
    ) -> ExportedPlatform:
        annotations = select(form.annotations, "manifest", one.platform)
        if one.cache is not None and form.media_types == "oci":
            text = _inline(one, layers, form.compression)
            if len(text) <= MAX_INLINE:
                annotations = {**annotations, INLINE: text}
            else:
                report.line("no inline cache: it would be too long")
        elif one.cache is not None:
            report.line("no inline cache: Docker's manifests have no place for it")
        made = assemble.assemble(
            one.config,
            layers,
            platform=one.platform,
            annotations=annotations,
            media_types=form.media_types,
        )
        self._layout.push_bytes(made.config_bytes, made.config.media_type)
        self._keep(made.manifest)
        descriptor = msgspec.structs.replace(
            made.manifest.descriptor,
            platform=one.platform,
            annotations=select(form.annotations, "manifest-descriptor", one.platform),
        )
        unique = {layer.descriptor.digest: layer.descriptor.size for layer in layers}
        size = len(made.manifest.data) + made.config.size + sum(unique.values())
        ids = (layer.id for layer in one.rootfs.layers)
        sizes = tuple((id, blob.descriptor.size) for id, blob in zip(ids, layers, strict=True))
        return ExportedPlatform(one.platform, descriptor, made.config.digest, size, sizes)

    def _keep(self, raw: Raw) -> None:
        self._layout.push_bytes(raw.data, raw.media_type)


def _inline(one: PlatformResult, layers: list[Blob], compression: Compression) -> str:
    """The cache inside an image: the results it is made of, and which of its layers they are. A layer whose
    times were changed is not the one that was built, and left out."""
    assert one.cache is not None
    made_as = wanted_key(compression, clamp=True)
    ids = {id for row in one.cache.rows for id in row.layers}
    found = {
        layer.id: cache_table.Layer(blob, made_as)
        for layer, blob in zip(one.rootfs.layers, layers, strict=True)
        if layer.id in ids and "@" not in made_as
    }
    part = cache_table.Part(one.cache.rows, found, one.cache.notes)
    return cache_table.to_inline(part, [blob.descriptor for blob in layers])


def _check_levels(annotations: tuple[Annotation, ...], *, single: bool) -> None:
    levels: tuple[Level, ...] = ("index", "index-descriptor")
    for annotation in annotations:
        if single and annotation.level in levels:
            raise UsageError(
                f"the annotation {annotation.key} is for an index, but an image for one platform has none",
                hint=f"use manifest:{annotation.key}=…, or build for several platforms",
                reason="no-index",
            )
