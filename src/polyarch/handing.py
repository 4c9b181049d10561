"""From a request to what a daemon's own frontend is given, and from its images to a result of ours."""

from __future__ import annotations

import time
from collections.abc import Sequence
from threading import Event

from polyarch.builder.crew import Crew, Share
from polyarch.builder.handover import Handed, attributes, hand_over
from polyarch.context.main import MainContext
from polyarch.export.result import BuildResult, ExportSummary, PlatformResult
from polyarch.request import BuildOutcome, BuildRequest, BuiltPlatform
from polyarch.solver.events import EventSink


def handed(
    request: BuildRequest, context: MainContext, crew: Crew, events: EventSink, cancelled: Event
) -> tuple[BuildResult, Sequence[BuiltPlatform]]:
    """What the builder's daemons make of the Dockerfile, and where each platform was made."""
    given = Handed(
        frontend=request.frontend,
        dockerfile=context.dockerfile,
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        contexts=request.contexts,
        attributes=attributes(
            network=request.network,
            hosts=request.hosts,
            shm_size=request.shm_size,
            limits=request.limits,
            no_cache=request.no_cache,
            no_cache_stages=request.no_cache_stages,
            pull=request.pull,
        ),
    )
    images, shares = hand_over(crew, given, request.platforms, events, cancelled)
    results = tuple(PlatformResult(platform, rootfs, config) for platform, rootfs, config in images)
    built = [_built(result, shares) for result in results]
    return BuildResult(results, request.annotations), built


def _built(result: PlatformResult, shares: Sequence[Share]) -> BuiltPlatform:
    share = next((one for one in shares if result.platform in one.platforms), shares[0])
    how = "native" if share.runs_natively(result.platform) else "emulated"
    return BuiltPlatform(result.platform, how, share.node, share.reason(result.platform))


def outcome_of(
    summary: ExportSummary, built: Sequence[BuiltPlatform], started: float, record: str
) -> BuildOutcome:
    """What the build left behind."""
    return BuildOutcome(summary, tuple(built), time.monotonic() - started, record)
