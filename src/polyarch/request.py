"""What a build can be told, and what it answers: the values that go into the pipeline and come out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from polyarch.builder.instance import DEFAULT, Builder
from polyarch.errors import UsageError
from polyarch.export.annotations import Annotation
from polyarch.export.cache_options import CacheFrom, CacheTo
from polyarch.export.output import Output
from polyarch.export.result import ExportSummary
from polyarch.graph.stages import NamedContext
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.ops.twins.mode import Mode as Acceleration
from polyarch.proof.finding import Mode

if TYPE_CHECKING:
    from polyarch.builder.ssh.transport import Ssh


@dataclass(frozen=True)
class BuildRequest:
    """Everything ``polyarch build`` can be told, with buildx's names. Empty ``platforms`` is the host's.

    ``fallback`` "emulate" lets platforms of a lost node be emulated elsewhere; ``begun`` are connections to
    nodes that were begun already (``builder.ssh.early``). ``done`` are vertices of an earlier try whose
    results count even with ``no_cache``; ``options`` is how the command line said it all, for the build's
    record.
    """

    context: str = "."
    dockerfile: str | None = None
    platforms: tuple[Platform, ...] = ()
    tags: tuple[Reference, ...] = ()
    outputs: tuple[Output, ...] = ()
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()
    contexts: Mapping[str, NamedContext] = field(default_factory=dict)
    secrets: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    agents: Mapping[str, Path] = field(default_factory=dict)
    network: str = "default"
    hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int = 0
    limits: tuple[tuple[str, int, int], ...] = ()
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    cache_from: tuple[CacheFrom, ...] = ()
    cache_to: tuple[CacheTo, ...] = ()
    pull: bool = False
    allow: frozenset[str] = frozenset()
    runtime: str = ""
    accelerate: Acceleration = "auto"
    resources: tuple[tuple[str, int | str], ...] = ()  # memory, cpu_quota, … of every step; executor.cgroups
    emulator_timeout: float = 0  # seconds an emulated step may be silent, 0: for ever
    proof: Mode = "default"
    proof_ignore: tuple[str, ...] = ()
    if_tag_is: str = ""
    builder: Builder = DEFAULT
    fallback: str = ""
    frontend: str = ""  # of the builder's daemons, which then read the Dockerfile instead of us
    begun: Mapping[str, Ssh] = field(default_factory=dict)
    part: str = ""  # the folder to leave a part in
    part_of: tuple[Platform, ...] = ()
    part_repository: str = ""
    keep_going: bool = False
    done: frozenset[str] = frozenset()
    options: Mapping[str, object] = field(default_factory=dict)

    def epoch(self) -> str:
        """SOURCE_DATE_EPOCH as given, from the build arguments or the environment; "" for none."""
        return self.build_args.get("SOURCE_DATE_EPOCH") or os.environ.get("SOURCE_DATE_EPOCH", "")

    def control(self, name: str) -> bool:
        """Whether a build argument that steers the build is set to what Go takes for true."""
        return self.build_args.get(name, "") in ("1", "t", "T", "true", "TRUE", "True")


@dataclass(frozen=True)
class BuiltPlatform:
    """How one platform's image came to be: "native", "cross-compiled", "emulated" or "copied" (no code ran
    for it), and on which node, for which reason."""

    platform: Platform
    how: str
    node: str = ""
    reason: str = ""


@dataclass(frozen=True)
class BuildOutcome:
    """What a build left behind. ``seconds`` is how long it took, ``id`` names its record in the history."""

    summary: ExportSummary
    platforms: tuple[BuiltPlatform, ...]
    seconds: float
    id: str = ""

    @property
    def digest(self) -> str:
        """The digest of the index, or of the only manifest."""
        return self.summary.digest


def names_of(tags: Sequence[str]) -> tuple[Reference, ...]:
    """Tags as references; UsageError for a digest where a tag belongs."""
    found = []
    for tag in tags:
        reference = Reference.parse(tag)
        if reference.digest:
            raise UsageError(f"a tag cannot have a digest: {tag!r}", reason="invalid-tag")
        found.append(reference)
    return tuple(dict.fromkeys(found))


def steered(request: BuildRequest) -> BuildRequest:
    """``request`` as its build arguments change it: BUILDKIT_INLINE_CACHE adds an inline cache, and
    BUILDKIT_MULTI_PLATFORM gives the result of one platform the form of several."""
    if request.control("BUILDKIT_INLINE_CACHE") and all(to.type != "inline" for to in request.cache_to):
        request = replace(request, cache_to=(*request.cache_to, CacheTo("inline")))
    if request.control("BUILDKIT_MULTI_PLATFORM"):
        outputs = tuple(
            replace(output, platform_split=True) if output.platform_split is None else output
            for output in request.outputs
        )
        request = replace(request, outputs=outputs)
    return request
