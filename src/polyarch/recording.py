"""A build's record: what is asked, planned and done, put into ``history/`` while the build runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from polyarch.builder.crew import labelled_digest
from polyarch.context.main import MainContext
from polyarch.history.hiding import options_to_keep, without_credentials
from polyarch.history.lines import Began, Variant
from polyarch.history.recorder import Recorder
from polyarch.oci import platform as platforms
from polyarch.ops.result import record_layers
from polyarch.request import BuildOutcome, BuildRequest
from polyarch.solver.events import EventSink, Planned, PlannedVertex
from polyarch.version import VERSION

if TYPE_CHECKING:
    from polyarch.content.state import State
    from polyarch.plan import BuildPlan


@contextmanager
def recording(request: BuildRequest, state: State, events: EventSink) -> Iterator[Recorder]:
    """Record what happens in this block. A failure is the record's end; ``close_record`` is after success."""

    def began(id: str, at: float) -> Began:
        return Began(
            id=id,
            at=at,
            version=VERSION,
            context=without_credentials(_place(request.context)),
            dockerfile=request.dockerfile or "",
            target=request.target,
            platforms=tuple(map(str, request.platforms or (platforms.host(),))),
            tags=tuple(map(str, request.tags)),
            folder=os.getcwd(),
            epoch=request.build_args.get("SOURCE_DATE_EPOCH") or os.environ.get("SOURCE_DATE_EPOCH", ""),
            options=options_to_keep(request.options),
        )

    recorder = Recorder(state.history, began, events)
    try:
        yield recorder
    except BaseException as error:
        recorder.failed(error)
        raise


def veiled(request: BuildRequest, recorder: Recorder) -> BuildRequest:
    """The request with secrets whose values the record never shows."""
    hiding: Mapping[str, Callable[[], bytes]] = {
        name: recorder.hiding(read) for name, read in request.secrets.items()
    }
    return replace(request, secrets=hiding) if hiding else request


def planned(plan: BuildPlan, context: MainContext) -> Planned:
    """What is about to be done, for who shows or records it."""
    works = plan.works()
    several = len({work.share.node for work in works}) > 1
    vertices = []
    for work in works:

        def called(digest: str, node: str = work.share.node if several else "") -> str:
            return labelled_digest(node, digest) if node else digest

        for digest, vertex in work.graph.reach(work.wanted).items():
            meta = plan.graph.meta[digest]
            name = f"[{work.share.node}] {meta.name}" if several else meta.name
            inputs = tuple(called(each.digest) for each in vertex.inputs)
            place = meta.location
            lines = (place.start, place.end) if place is not None and place.file == context.name else (0, 0)
            mine = [target for target in meta.targets if not several or target in work.share.platforms]
            vertices.append(PlannedVertex(called(digest), name, inputs, tuple(map(str, mine)), *lines))
    return Planned(tuple(vertices), context.name, _text(context.dockerfile))


def close_record(
    recorder: Recorder, outcome: BuildOutcome, records: Mapping[str, str], sizes: Mapping[str, int]
) -> None:
    """The record's end after success. ``records`` are what the cache keeps of each vertex, ``sizes`` the
    compressed bytes of layers by id."""
    exported = {one.platform: one for one in outcome.summary.platforms}
    variants = []
    for built in outcome.platforms:
        one = exported.get(built.platform)
        manifest, size = (one.manifest.digest, one.size) if one is not None else ("", 0)
        variants.append(Variant(platform=str(built.platform), how=built.how, manifest=manifest, size=size))
    recorder.succeeded(
        digest=outcome.digest,
        names=outcome.summary.names,
        variants=tuple(variants),
        sizes={digest: size for digest, record in records.items() if (size := _size(record, sizes))},
    )


def _size(record: str, sizes: Mapping[str, int]) -> int:
    return sum(sizes.get(id, 0) for id in record_layers(record))


def _text(dockerfile: bytes | str) -> str:
    return dockerfile.decode("utf-8", "replace") if isinstance(dockerfile, bytes) else dockerfile


def _place(context: str) -> str:
    return str(Path(context).absolute()) if Path(context).is_dir() else context
