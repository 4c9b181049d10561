"""Watches a build and says afterwards what its answer depends on, where that can be told for sure.

It is strict: a build with anything in it that is not known here to be covered gets no record, and is done in
full every time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from polyarch.content.state import State
from polyarch.content.walk import walk
from polyarch.context.directory import DirectoryContext
from polyarch.context.git_url import is_git_url
from polyarch.context.http import is_http_url
from polyarch.context.main import consulted
from polyarch.context.stats import rested
from polyarch.export.output import Output
from polyarch.export.result import ExportSummary
from polyarch.graph.vertex import ExecOp, FileOp, ImageOp, InlineOp, LocalOp, MergeOp
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.reference import Reference
from polyarch.ops.session import ContextFiles
from polyarch.plan import BuildPlan
from polyarch.proof.bases import LAYOUT, LOCAL
from polyarch.proof.finding import IGNORE_FILE
from polyarch.registry.client import Client
from polyarch.request import BuildRequest
from polyarch.unchanged import facts

# Of a request: what the command line and the facts cover. All else must be as it is by default.
_COVERED = frozenset(
    """context dockerfile platforms tags outputs target build_args labels annotations contexts network hosts
    shm_size limits pull allow runtime proof proof_ignore keep_going options""".split()
)
# Of an output: what makes no difference to an image that is there already.
_COVERED_OUTPUT = frozenset(
    """type names push insecure oci_media_types compression rewrite_timestamp annotations""".split()
)
_COVERED_OPS = (ImageOp, LocalOp, InlineOp, FileOp, MergeOp, ExecOp)

# Of the folder of builders: all but what changes with every build.
_CHOOSING = ["*", "!chosen.json", "!instances"]

_State = tuple[str | None, int, int]  # of a file: digest, mtime and ctime in nanoseconds


class Witness:
    """Watches one build of ``request``; to be made before it begins. ``record`` is None until the build has
    succeeded, and afterwards if the next one has to be done in full."""

    def __init__(self, request: BuildRequest, state: State) -> None:
        self._request = request
        self._state = state
        self._began = time.time_ns()
        self._seen: list[DirectoryContext | None] = []
        self.record: dict[str, Any] | None = None
        self._eligible = _eligible(request)
        self._files = _states(_paths(request)) if self._eligible else {}

    def watching(self, contexts: Mapping[str, ContextFiles]) -> dict[str, ContextFiles]:
        """The same contexts, whose directories are noted when they are looked at."""
        return {name: partial(self._open, files) for name, files in contexts.items()}

    def conclude(self, plan: BuildPlan, summary: ExportSummary, client: Client) -> None:
        """The build has succeeded as ``summary`` says."""
        if not self._eligible or summary.descriptor is None:
            return
        if any(context is None or not context.rested for context in self._seen):
            return
        if not all(isinstance(vertex.op, _COVERED_OPS) for vertex in plan.graph.vertices.values()):
            return
        if plan.options.build_args != self._request.build_args:
            return  # a time that was found somewhere, perhaps in a repository's newest commit
        if _states(self._files) != self._files or not self._rested():
            return
        names = self._names(plan, summary.descriptor)
        tags = self._tags(plan, summary.descriptor, client)
        if names is None or tags is None:
            return
        content = self._state.content
        blobs = walk(plan.local.layout, summary.descriptor, sparse=True)
        paths = {content / "blobs" / d.digest.replace(":", "/"): d.size for d in blobs}
        root = self._state.root
        self.record = {
            "database": facts.database(str(root)),
            "files": {path: digest for path, (digest, *_) in self._files.items()},
            "trees": self._trees(),
            "names": names,
            "blobs": {str(path.relative_to(root)): size for path, size in paths.items() if path.exists()},
            "tags": tags,
            "insecure": sorted(client.config.insecure),
            "steps": plan.step_names(),
        }

    def _open(self, files: ContextFiles, store: LayerStore) -> Rootfs:
        rootfs = files(store)
        self._seen += [layer if isinstance(layer, DirectoryContext) else None for layer in rootfs.layers]
        return rootfs

    def _rested(self) -> bool:
        """Whether no file was changed about when the build began, or later."""
        return all(
            rested(mtime, ctime, self._began) for digest, mtime, ctime in self._files.values() if digest
        )

    def _trees(self) -> list[tuple[str, list[str], str]]:
        """The directories that were looked at, and those that choose a builder."""
        builders = str(self._state.builders)
        found = [(builders, _CHOOSING, facts.tree(builders, _CHOOSING))]
        for context in self._seen:
            assert context is not None
            patterns = list(context.patterns)
            found.append((str(context.given.absolute()), patterns, f"{context.path} {context.id}"))
        return found

    def _names(self, plan: BuildPlan, image: Descriptor) -> list[tuple[str, str | None]] | None:
        """What names of the local store stood for; None for an image that took a name it is built on."""
        found: dict[str, str | None] = {}
        for reference, origin, root in plan.bases:
            if not self._request.pull and not reference.digest:
                found[str(reference)] = root if origin == LOCAL else None
        names = [str(name) for output in self._outputs() for name in self._request.tags or output.names]
        if any(name in found and found[name] != image.digest for name in names):
            return None
        found |= dict.fromkeys(names or [""], image.digest)
        return list(found.items())

    def _tags(
        self, plan: BuildPlan, image: Descriptor, client: Client
    ) -> list[tuple[str, str, str, str, str]] | None:
        """What tags of registries stood for; None for an image that took a tag it is built on, or is built on
        something else."""
        wanted: dict[Reference, str] = {}
        for reference, origin, root in plan.bases:
            if origin.startswith(LAYOUT):
                return None
            if origin != LOCAL and not reference.digest:
                wanted[reference] = root
        for output in self._outputs():
            for name in (self._request.tags or output.names) if output.push else ():
                if wanted.setdefault(name, image.digest) != image.digest:
                    return None
        return [
            (name.registry, name.repository, name.tag, digest, client.open_address(name.registry))
            for name, digest in wanted.items()
        ]

    def _outputs(self) -> tuple[Output, ...]:
        return self._request.outputs or (Output("image"),)


def _eligible(request: BuildRequest) -> bool:
    """Whether all that ``request`` asks for is covered."""
    return (
        _default_but(request, BuildRequest(), _COVERED)
        and request.dockerfile != "-"
        and request.context != "-"
        and not is_git_url(request.context)
        and not is_http_url(request.context)
        and Path(request.context).is_dir()
        and all(context.kind in ("local", "image", "target") for context in request.contexts.values())
        and all(
            output.type == "image" and _default_but(output, Output("image"), _COVERED_OUTPUT)
            for output in request.outputs
        )
    )


def _default_but(
    given: BuildRequest | Output, default: BuildRequest | Output, covered: frozenset[str]
) -> bool:
    return all(
        getattr(given, one.name) == getattr(default, one.name)
        for one in fields(given)
        if one.name not in covered
    )


def _paths(request: BuildRequest) -> list[str]:
    """Every file, besides those of contexts, that has a say in what is built."""
    context = Path(request.context)
    paths = [*consulted(context, request.dockerfile), context / IGNORE_FILE]
    for named in request.contexts.values():
        if named.kind == "local":
            paths.append(Path(named.value, ".dockerignore"))
    return [str(path.absolute()) for path in paths]


def _states(paths: Iterable[str]) -> dict[str, _State]:
    return {path: _state(path) for path in paths}


def _state(path: str) -> _State:
    try:
        status = os.stat(path)
    except OSError:
        return None, 0, 0
    return facts.content(path), status.st_mtime_ns, status.st_ctime_ns
