"""What a build can be told, and what it answers: the values that go into the pipeline and come out of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from polyarch.builder.instance import DEFAULT, Builder
from polyarch.errors import PolyarchError, UsageError
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
    nodes that were begun already (``builder.ssh.early``)."""

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
    proof: Mode = "default"
    proof_ignore: tuple[str, ...] = ()
    if_tag_is: str = ""
    builder: Builder = DEFAULT
    fallback: str = ""
    begun: Mapping[str, Ssh] = field(default_factory=dict)
    part: str = ""  # the folder to leave a part in
    part_of: tuple[Platform, ...] = ()
    part_repository: str = ""

    def epoch(self) -> int | None:
        """SOURCE_DATE_EPOCH, from the build arguments or the environment. PolyarchError when no number."""
        text = self.build_args.get("SOURCE_DATE_EPOCH") or os.environ.get("SOURCE_DATE_EPOCH", "")
        if not text:
            return None
        if not text.isdigit():
            raise PolyarchError(
                f"SOURCE_DATE_EPOCH={text!r} is not a number of seconds", reason="invalid-epoch"
            )
        return int(text)


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
    """What a build left behind. ``seconds`` is how long it took."""

    summary: ExportSummary
    platforms: tuple[BuiltPlatform, ...]
    seconds: float

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
