"""A Dockerfile handed to the daemon's own frontend instead of our graph: what it reads, and makes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from polyarch.builder.buildkit.contents import EXPORT, IMAGES, Contents
from polyarch.builder.buildkit.filesync import Directories, Listing
from polyarch.builder.buildkit.llb_sources import local_name
from polyarch.builder.buildkit.progress import Progress
from polyarch.builder.buildkit.protocol import control_pb2 as control
from polyarch.builder.buildkit.results import Bases, exported, read_result, rootfs_of
from polyarch.builder.buildkit.session import Session
from polyarch.builder.buildkit.solving import solve
from polyarch.builder.handover import Handed
from polyarch.content.layout import Layout
from polyarch.content.store import Store
from polyarch.errors import UnsupportedError
from polyarch.graph.stages import NamedContext
from polyarch.graph.vertex import Graph
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.rootfs import Rootfs
from polyarch.oci import digest as digests
from polyarch.oci.config import ImageConfig
from polyarch.oci.platform import Platform
from polyarch.ops.canvas import TIMELESS_NS
from polyarch.ops.session import ContextFiles
from polyarch.solver.events import EventSink

if TYPE_CHECKING:
    from polyarch.builder.buildkit.node import BuildKitNode

_DOCKERFILE = "Dockerfile"
_WHOLE = frozenset({""})


def build(
    node: BuildKitNode, given: Handed, wanted: tuple[Platform, ...], events: EventSink, cancelled: Event
) -> list[tuple[Platform, Rootfs, ImageConfig]]:
    """The images that the daemon's frontend makes of ``given`` for ``wanted``, or for its own platform."""
    home = node.home
    work = _Handing(node, given)
    layout = home.layers.content
    caches = node.caches
    contents = Contents({EXPORT: layout, **caches.stores()}, work.stores, layout.exists)
    session = node.open_session(contents, Directories(work.listings()))
    request = control.SolveRequest(
        frontend=given.frontend,
        frontend_attrs=work.attributes(wanted),
        exporter="oci",
        exporter_attrs={"tar": "false", "oci-mediatypes": "true"},
        cache=control.CacheOptions(imports=caches.read(events), exports=caches.written()),
        entitlements=node.entitlements,
    )
    try:
        answer = _solved(node, session, request, events, cancelled)
    finally:
        session.close()
    if caches.written():
        caches.name(answer)
    bases = Bases(Graph(), home)
    return [
        (config.platform, rootfs_of(manifest, config, bases, home), config)
        for _, manifest, config in read_result(layout, exported(answer, "image"))
    ]


def _solved(
    node: BuildKitNode, session: Session, request: control.SolveRequest, events: EventSink, cancelled: Event
) -> dict[str, str]:
    progress = Progress(Graph(), {}, events, tuple(node.platforms))
    return solve(node.daemon, session, request, progress, cancelled, graph=Graph(), node=node.name)


@dataclass
class _Handing:
    """What of one build goes to the frontend. ``stores`` are layouts it may read images from."""

    node: BuildKitNode
    given: Handed
    stores: dict[str, Store] = field(default_factory=dict)

    def listings(self) -> Mapping[str, Callable[[], Listing]]:
        """The directories: the Dockerfile's, and those of all contexts."""
        text = self.given.dockerfile.encode("utf-8", "surrogateescape")
        found: dict[str, Callable[[], Listing]] = {"dockerfile": partial(self._dockerfile, text)}
        for name, opener in self.node.contexts.items():
            found[local_name(name)] = partial(self._context, opener)
        return found

    def _context(self, opener: ContextFiles) -> Listing:
        return Listing(opener(self.node.home.layers), _WHOLE)

    def _dockerfile(self, text: bytes) -> Listing:
        digest = digests.of(text)
        entry = Entry(_DOCKERFILE, "file", 0o644, size=len(text), mtime_ns=TIMELESS_NS, digest=digest)
        layer = self.node.home.layers.file_layer(Toc((entry,)), lambda _: io.BytesIO(text))
        return Listing(Rootfs((layer,)), _WHOLE)

    def attributes(self, wanted: tuple[Platform, ...]) -> dict[str, str]:
        """The frontend's options, by its names."""
        given = self.given
        found = {"filename": _DOCKERFILE, **given.attributes}
        if given.target:
            found["target"] = given.target
        if wanted:
            found["platform"] = ",".join(str(platform) for platform in wanted)
        found |= {f"build-arg:{name}": value for name, value in given.build_args.items()}
        found |= {f"label:{name}": value for name, value in given.labels.items()}
        for context in given.contexts.values():
            found[f"context:{context.name}"] = self._named(context)
        return found

    def _named(self, context: NamedContext) -> str:
        match context.kind:
            case "local":
                return f"local:{local_name(context.name)}"
            case "image":
                return f"docker-image://{context.value}"
            case "layout":
                path, _, digest = context.value.partition("@")
                layout = Layout(Path(path), create=False)
                name = local_name(context.name)
                self.stores[f"{IMAGES}{name}"] = layout
                return f"oci-layout://{name}@{digest or layout.resolve('latest').digest}"
            case "git" | "http":
                return context.value
            case "target":
                raise UnsupportedError(
                    f"--build-context {context.name}=target:{context.value}: the frontend does not know it",
                    hint="leave --frontend out",
                    reason="frontend-context",
                )
