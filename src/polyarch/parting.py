"""A build that is one part of an image: what it is made from, told to those that join the parts."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from polyarch.builder.embedded import EmbeddedNode
from polyarch.content.state import State
from polyarch.context.main import MainContext, open_directory
from polyarch.export import parts
from polyarch.export.parts import LISTING, Source
from polyarch.export.result import ExportSummary
from polyarch.graph.vertex import ExecOp, ImageOp
from polyarch.image.locate import local_store
from polyarch.oci import digest as digests
from polyarch.oci import platform as platforms
from polyarch.oci.descriptor import Descriptor
from polyarch.ops.session import ContextFiles
from polyarch.plan import BuildPlan
from polyarch.request import BuildRequest


def as_part(request: BuildRequest) -> BuildRequest:
    """The request with outputs that leave tags alone. UsageError for what cannot become a part."""
    if not request.part:
        return request
    parts.check(Path(request.part), request.part_of, request.platforms or (platforms.host(),))
    outputs, repository = parts.as_outputs(request.outputs, request.tags)
    tags = () if repository else request.tags
    return replace(request, outputs=outputs, tags=tags, part_repository=repository)


def leave_part(
    request: BuildRequest, plan: BuildPlan, context: MainContext, node: EmbeddedNode, summary: ExportSummary
) -> ExportSummary:
    """Write the part that was asked for, and say so in the summary."""
    if not request.part:
        return summary
    folder = Path(request.part)
    files: dict[str, ContextFiles] = {"": context.files}
    for named in request.contexts.values():
        if named.kind == "local":
            files[named.name] = _directory(Path(named.value), node.state)
    places = {"": request.context, **{named.name: named.value for named in request.contexts.values()}}
    listings = {
        name: parts.listing_of(opened(node.layers), _inside(folder, Path(places[name])))
        for name, opened in files.items()
    }
    listing = listings.pop("")
    record = parts.write(
        folder,
        local_store(node.state, node.client),
        summary,
        Source(
            revision=parts.revision_of(request.context),
            context=digests.of(listing),
            listing=Descriptor(media_type=LISTING, digest=digests.of(listing), size=len(listing)),
            dockerfile="sha256:" + hashlib.sha256(os.fsencode(context.dockerfile)).hexdigest(),
            target=request.target,
            arguments=parts.digest_of_arguments(request.build_args),
            bases=_bases(plan),
            contexts={name: digests.of(data) for name, data in sorted(listings.items())},
        ),
        listing,
        whole=request.part_of,
        repository=request.part_repository,
        # Copied programs were proved to be the platform's; what bases and steps bring may be of another.
        code=any(isinstance(vertex.op, ImageOp | ExecOp) for vertex in plan.graph.vertices.values()),
    )
    return replace(summary, destinations=(*summary.destinations, f"part in {record}"))


def _directory(path: Path, state: State) -> ContextFiles:
    return lambda store: open_directory(path, state, store)


def _inside(folder: Path, context: Path) -> str:
    """Where the folder of parts is within a context, "." for the context itself, "" for outside."""
    inner, outer = folder.resolve(), context.resolve()
    return str(inner.relative_to(outer)) if context.is_dir() and inner.is_relative_to(outer) else ""


def _bases(plan: BuildPlan) -> dict[str, str]:
    """The images that are used, by name, each with the digest that the name led to."""
    found = {}
    for vertex in plan.graph.vertices.values():
        if isinstance(vertex.op, ImageOp):
            name, _, digest = vertex.op.reference.partition("@")
            found[name] = digest
    return dict(sorted(found.items()))
