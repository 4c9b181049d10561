"""What a build has to do with caches of other machines, besides asking them: going on without one that turns
out to be useless, and telling others what it learnt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Event
from typing import TypeVar

from polyarch.builder.cache_import import CacheImport
from polyarch.builder.embedded import EmbeddedNode
from polyarch.builder.node import Learns
from polyarch.errors import ContentError, NotFoundError, PolyarchError
from polyarch.export.cache import CacheWriter, Learnt, rows_of
from polyarch.export.cache_options import CacheTo
from polyarch.export.output import Output
from polyarch.export.result import BuildResult
from polyarch.graph.convert import TargetResult
from polyarch.graph.vertex import Vertex
from polyarch.image.cache_table import Note, Part, Row
from polyarch.image.sparse import Repositories, SparseStore
from polyarch.layer.layer import Compression
from polyarch.layer.stored import ImportedLayerError, StoredLayer
from polyarch.oci.reference import Reference
from polyarch.solver.events import EventSink

_T = TypeVar("_T")
_POLL_SECONDS = 0.05


class Attempt(Event):
    """Says that one attempt is over; also when the whole is."""

    def __init__(self, whole: Event) -> None:
        super().__init__()
        self._whole = whole

    def is_set(self) -> bool:
        return super().is_set() or self._whole.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _POLL_SECONDS if end is None else min(_POLL_SECONDS, end - time.monotonic())
            if left <= 0:
                break
            super().wait(left)
        return self.is_set()


def recovering(work: Callable[[Event], _T], node: EmbeddedNode, imports: CacheImport, cancelled: Event) -> _T:
    """Do ``work``; where a layer of another machine turns out to be gone or wrong, forget those and do it
    again without the cache it came from, so that the step is run here."""
    for _ in range(len(imports) + 2):
        try:
            done = work(Attempt(cancelled))
            if node.imported is not None:
                node.imported.keep()
            return done
        except ImportedLayerError as error:
            if cancelled.is_set():
                raise
            imports.blame(error.layer_id)
            node.layers.forget_imported()
            if node.imported is not None:
                node.imported.forget()
    return work(Attempt(cancelled))


def checking(error: PolyarchError, result: BuildResult, node: EmbeddedNode) -> PolyarchError:
    """What is to be said of a failed export: that a layer of another machine is to blame, where one is."""
    if isinstance(error, (ContentError, NotFoundError)) and not isinstance(error, ImportedLayerError):
        for layer in {layer.id: layer for one in result.results for layer in one.rootfs.layers}.values():
            if isinstance(layer, StoredLayer) and layer.imported and not node.layers.at_hand(layer):
                try:
                    layer.toc()
                except ImportedLayerError as culprit:
                    return culprit
    return error


def learnt(targets: Sequence[TargetResult], result: BuildResult, node: Learns) -> tuple[Learnt, ...]:
    """What the build knows, platform by platform."""
    return tuple(
        Learnt(
            one.platform,
            rows_of(target.vertex, node.findings),
            tuple(layer.id for layer in one.rootfs.layers),
            partial(_over, target.vertex, node),
        )
        for target, one in zip(targets, result.results, strict=True)
    )


def _over(vertex: Vertex | None, node: Learns, known: Callable[[str], str | None]) -> tuple[Row, ...]:
    return rows_of(vertex, node.findings_over(known))


def with_inline(
    result: BuildResult, known: Sequence[Learnt], notes: Mapping[str, str], options: Sequence[CacheTo]
) -> BuildResult:
    """The result with its own cache in each image's manifest, where that is wanted. No times go in, so that
    an unchanged build has an unchanged digest."""
    if not any(option.type == "inline" for option in options):
        return result
    told = {key: Note(text) for key, text in sorted(notes.items())}
    results = tuple(
        replace(one, cache=Part(what.rows, {}, told)) for one, what in zip(result.results, known, strict=True)
    )
    return replace(result, results=results)


def write(
    options: Sequence[CacheTo],
    known: Sequence[Learnt],
    outputs: Sequence[Output],
    pushed: Sequence[Reference],
    *,
    node: EmbeddedNode,
    local: SparseStore,
    client: Repositories,
    events: EventSink,
    cancelled: Event,
    fresh: bool = False,
) -> None:
    """Write every cache that is wanted. ``pushed`` are the names under which the image is in registries;
    ``fresh`` results replace what others had."""
    images = [output.compression for output in outputs if output.is_image]
    compression = Compression(images[0].kind, images[0].level) if images else Compression()
    writer = CacheWriter(
        layers=node.layers,
        local=local,
        client=client,
        learnt=known,
        notes=node.notes.seen,
        compression=compression,
        pushed=[name.name for name in pushed],
        events=events,
        cancelled=cancelled,
        fresh=fresh,
    )
    for option in options:
        writer.write(option)
