"""The pipeline: context → stages → plan → graph → layers → image → export. One line a phase."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from threading import Event
from typing import BinaryIO

import msgspec

from polyarch import dockerfile
from polyarch.builder import caching
from polyarch.builder.cache_import import CacheImport
from polyarch.builder.crew import Crew, Share, labelled
from polyarch.builder.elsewhere import check_elsewhere
from polyarch.builder.embedded import EmbeddedNode, Surroundings, base_origins
from polyarch.builder.emulators import take_missing
from polyarch.builder.node import NodeLostError
from polyarch.builder.records import Builders
from polyarch.content.lease import Lease
from polyarch.content.state import State
from polyarch.context.main import MainContext, open_context, open_directory
from polyarch.dockerfile.program import instructions
from polyarch.errors import (
    NotFoundError,
    PolyarchError,
    RegistryError,
)
from polyarch.export.cache import Learnt
from polyarch.export.cache_options import insecure_caches
from polyarch.export.exporter import check_outputs, export, insecure_hosts
from polyarch.export.result import BuildResult, ExportSummary, PlatformResult
from polyarch.failing import explained, several
from polyarch.graph import epoch as epochs
from polyarch.graph.arguments import proxy_environment
from polyarch.graph.convert import TargetResult, rfc3339
from polyarch.graph.draft import stamped
from polyarch.graph.stages import NamedContext, Options
from polyarch.graph.vertex import ExecOp
from polyarch.history.recorder import Recorder
from polyarch.image.locate import local_store
from polyarch.layer.rootfs import Rootfs
from polyarch.oci import platform as platforms
from polyarch.oci.config import ImageConfig
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.ops.result import digest_of
from polyarch.ops.session import ContextFiles
from polyarch.parting import as_part, leave_part
from polyarch.plan import BuildPlan, Plans, make_plan
from polyarch.proof.bases import BaseResolver
from polyarch.proof.built import Built, prove_built
from polyarch.proof.finding import IGNORE_FILE, Policy, read_ignore_file, refuse
from polyarch.proof.preflight import Check, Given, Problem, PushChecks
from polyarch.proof.tag_guard import check_tags, parse
from polyarch.readiness import as_rows, last_duration, look_ahead, plan_rows, refuse_early
from polyarch.recording import close_record, planned, recording, veiled
from polyarch.registry.client import Client
from polyarch.registry.config import Config
from polyarch.request import BuildOutcome, BuildRequest, BuiltPlatform, steered
from polyarch.solver.cache import SqliteCache
from polyarch.solver.events import Event as AnyEvent
from polyarch.solver.events import EventSink, VertexCompleted, Warning, ignore
from polyarch.solver.remote import Notes
from polyarch.unchanged.witness import Witness


def run(
    request: BuildRequest,
    *,
    state: State | None = None,
    events: EventSink = ignore,
    cancelled: Event | None = None,
    stdin: BinaryIO | None = None,
    witness: Witness | None = None,
) -> BuildOutcome:
    """Build, and leave the result where the outputs say; it stays in the local store in any case.

    Raises DockerfileError, StepError, NotFoundError and others of ``polyarch.errors``; the tag and the
    store are then as they were.
    """
    started = time.monotonic()
    state = state or State.default()
    cancelled = cancelled or Event()
    request = steered(as_part(request))
    check_outputs(request.outputs, request.tags, platforms=len(request.platforms) or 1)
    with recording(request, state, events) as record:
        return _run(veiled(request, record), state, record, cancelled, stdin, started, witness)


def _run(
    request: BuildRequest,
    state: State,
    events: Recorder,
    cancelled: Event,
    stdin: BinaryIO | None,
    started: float,
    witness: Witness | None,
) -> BuildOutcome:
    with Lease(state.leases), _client(request) as client:
        pushes = PushChecks(client, _pushed_to(request))
        context = _open(request, state, stdin)
        local = local_store(state, client)
        imports = _imports(request, client, events)
        around = _surroundings(request, context, state)
        if witness is not None:
            around = replace(around, contexts=witness.watching(around.contexts))
        node = EmbeddedNode(state, local, client, around, imports)
        crew = Crew(request.builder, node, around, request.fallback, keep_going=request.keep_going)
        Builders(state).touch(request.builder.name)
        try:
            if request.frontend:
                return _handed_over(request, context, crew, events, cancelled, started)
            plans = Plans(
                lambda shares: plan_build(request, context, state, client, shares),
                crew.shares(request.platforms, events),
            )
            plan = plans.now
            plan.graph.trust(request.done)
            events(planned(plan, context))
            crew.expect(plan.works())
            for finding in plan.findings:
                place = finding.location
                events(Warning(finding.rule, finding.message, finding.url, place.file, place.start))
            _check_tags(request, client)
            ahead = look_ahead(plan, _given(request), state, SqliteCache(state.database))
            if take_missing(ahead, plan.graph, lambda: crew.preview(plan.works()), node, events):
                ahead = look_ahead(plan, _given(request), state, SqliteCache(state.database))
            ahead += check_elsewhere(plan.works(), crew.node)
            lasted = functools.partial(last_duration, request, state)
            refuse_early(ahead, lambda: crew.preview(plan.works()), pushes, events, lasted)

            def make(cancelled: Event) -> tuple[ExportSummary, tuple[Learnt, ...]]:
                while True:
                    try:
                        return _make(plans, request, crew, events, cancelled)
                    except NodeLostError as error:  # with results that had not left it
                        plans.again(crew.replace(error, plans.now.shares, events))

            summary, known = caching.recovering(make, node, imports, cancelled)
            crew.keep_imported()
            summary = leave_part(request, plans.now, context, node, summary)
            caching.write(
                () if request.builder.is_daemons else request.cache_to,
                known,
                request.outputs,
                _pushed_to(request),
                node=node,
                local=local,
                client=client,
                events=events,
                cancelled=cancelled,
                fresh=request.no_cache or bool(request.no_cache_stages),
            )
            records = {digest: found.record for digest, found in crew.findings.items()}
        finally:
            crew.close()
        if witness is not None:
            witness.conclude(plans.now, summary, client)
    outcome = BuildOutcome(summary, tuple(_built(plans.now)), time.monotonic() - started, events.id)
    close_record(events, outcome, records, summary.layers)
    return outcome


def _built(plan: BuildPlan) -> Iterator[BuiltPlatform]:
    for target in plan.targets:
        share = plan.share_of(target)
        yield BuiltPlatform(target.platform, plan.strategy(target), share.node, share.reason(target.platform))


def _make(
    plans: Plans, request: BuildRequest, crew: Crew, events: EventSink, cancelled: Event
) -> tuple[ExportSummary, tuple[Learnt, ...]]:
    """Solve, assemble, prove and export; with what the build learnt on the way, for caches."""
    node = crew.home
    seen = _Watch(events)
    try:
        solved = crew.solve(plans.now.works(), seen.of, cancelled, plans.again)
    except PolyarchError as error:
        if request.keep_going:
            raise several(error, crew.failures, plans.now) from None
        raise explained(error, seen.failed, plans.now) from None
    plan = plans.now
    result = _assemble(plan, solved, request, node)
    bases = [len(target.base.diff_ids) if target.base else 0 for target in plan.targets]
    _prove(result, bases, request, node, events)
    known = caching.learnt(plan.targets, result, crew)
    result = caching.with_inline(result, known, node.notes.seen, request.cache_to)
    try:
        summary = _export(result, request, node, events, cancelled)
    except PolyarchError as error:
        raise caching.checking(error, result, node) from None
    return summary, known


def _export(
    result: BuildResult, request: BuildRequest, node: EmbeddedNode, events: EventSink, cancelled: Event
) -> ExportSummary:
    return export(
        result,
        request.outputs,
        state=node.state,
        layout=node.layers.content,
        layers=node.layers,
        client=node.client,
        tags=request.tags,
        progress=events,
        cancelled=cancelled,
        before_tags=lambda _: _check_tags(request, node.client),
        store=node.local,
    )


def _handed_over(
    request: BuildRequest,
    context: MainContext,
    crew: Crew,
    events: Recorder,
    cancelled: Event,
    started: float,
) -> BuildOutcome:
    """A build whose Dockerfile the builder's daemons read themselves; proof and export are as for any."""
    from polyarch.handing import handed, outcome_of

    _check_tags(request, crew.home.client)
    result, built = handed(request, context, crew, events, cancelled)
    _prove(result, [0] * len(result.results), request, crew.home, events)
    summary = _export(result, request, crew.home, events, cancelled)
    outcome = outcome_of(summary, built, started, events.id)
    close_record(events, outcome, {}, summary.layers)
    return outcome


def preview(
    request: BuildRequest, *, state: State | None = None, stdin: BinaryIO | None = None
) -> tuple[BuildPlan, list[tuple[str, str, str]]]:
    """The plan, and for every step its name, how it would run ("native", "emulated", "") and whether it is
    cached or why not. Nothing is executed."""
    state = state or State.default()
    with _client(request) as client:
        context = _open(request, state, stdin)
        around = _surroundings(request, context, state)
        imports = _imports(request, client, ignore)
        node = EmbeddedNode(state, local_store(state, client), client, around, imports)
        crew = Crew(request.builder, node, around, request.fallback, only_plan=True)
        try:
            shares = crew.shares(request.platforms, ignore)
            plan = plan_build(request, context, state, client, shares)
            verdicts = crew.preview(plan.works())
        finally:
            crew.close()
    steps = []
    for share, digest, verdict in verdicts:
        op = plan.graph.vertices[digest].op
        how = ""
        if isinstance(op, ExecOp):
            how = "native" if share.runs_natively(op.platform) else f"emulated: no {op.platform} node"
        prefix = f"[{share.node}] " if len(shares) > 1 else ""
        steps.append((prefix + plan.graph.meta[digest].name, how, verdict))
    return plan, steps


def preflight(
    request: BuildRequest, *, state: State | None = None, stdin: BinaryIO | None = None
) -> list[Check]:
    """Everything that can be found out about a build before it runs; nothing is executed or pushed.

    Errors are rows of the result, not raised; only what makes no sense (UsageError, DockerfileError) is.
    """
    state = state or State.default()
    request = as_part(request)
    check_outputs(request.outputs, request.tags, platforms=len(request.platforms) or 1)
    with _client(request) as client:
        pushes = PushChecks(client, _pushed_to(request))
        context = _open(request, state, stdin)
        rows: list[Check] = []
        found: list[Problem | Check] = []
        around = _surroundings(request, context, state)
        node = EmbeddedNode(state, local_store(state, client), client, around)
        crew = Crew(request.builder, node, around, request.fallback)
        try:
            plan = plan_build(request, context, state, client, crew.shares(request.platforms, ignore))
        except NodeLostError as error:
            found.append(Problem(f"node {error.node}", error))
        except (NotFoundError, RegistryError) as error:
            found.append(Problem("base images", error))
        else:
            rows = plan_rows(plan)
            found += look_ahead(plan, _given(request), state, SqliteCache(state.database))
            found += check_elsewhere(plan.works(), crew.node)
        finally:
            crew.close()
        return as_rows(
            [*rows, *found, *pushes.answers(last_duration(request, state) if pushes.expire() else 0.0)]
        )


def _given(request: BuildRequest) -> Given:
    return Given(request.secrets, request.agents, request.allow)


def _check_tags(request: BuildRequest, client: Client) -> None:
    if request.if_tag_is:
        check_tags(client, _pushed_to(request), parse(request.if_tag_is))


def _pushed_to(request: BuildRequest) -> list[Reference]:
    """Where the outputs push."""
    return [name for out in request.outputs if out.push for name in request.tags or out.names]


def _client(request: BuildRequest) -> Client:
    """A client that reaches the registries of ``registry.insecure=true`` by plain http."""
    config = Config.from_environment()
    insecure = insecure_hosts(request.outputs, request.tags)
    insecure |= insecure_caches((*request.cache_from, *request.cache_to))
    return Client(config=replace(config, insecure=config.insecure | insecure) if insecure else config)


def _imports(request: BuildRequest, client: Client, events: EventSink) -> CacheImport:
    """Where results of other machines may be found."""
    options = () if request.builder.is_daemons else request.cache_from  # they look by themselves
    return CacheImport(options, request.platforms or (platforms.host(),), client, events)


def plan_build(
    request: BuildRequest, context: MainContext, state: State, client: Client, shares: Sequence[Share]
) -> BuildPlan:
    """Everything that can be known before anything runs; nothing is executed or written."""
    resolver = BaseResolver(local_store(state, client), client, request.pull, foreign=request.proof == "off")
    options = _timed(_options(request), request, context, state)
    return make_plan(context, options, _targets(request, shares), resolver, shares)


def _open(request: BuildRequest, state: State, stdin: BinaryIO | None) -> MainContext:
    keep = request.control("BUILDKIT_CONTEXT_KEEP_GIT_DIR")
    place, file = request.context, request.dockerfile
    return open_context(place, file, state, stdin or sys.stdin.buffer, keep_git_dir=keep)


def _timed(options: Options, request: BuildRequest, context: MainContext, state: State) -> Options:
    """With the time of SOURCE_DATE_EPOCH, wherever that comes from."""
    given = request.epoch()
    if not given and epochs.NAME not in context.dockerfile:
        return options
    from polyarch.context.git_url import is_git_url
    from polyarch.context.http import is_http_url
    from polyarch.context.times import source_time

    remote = request.context if is_git_url(request.context) or is_http_url(request.context) else ""
    program = instructions(dockerfile.parse(context.dockerfile, file=context.name))
    return epochs.with_epoch(options, given, program, remote, lambda url: source_time(url, state))


def _targets(request: BuildRequest, shares: Sequence[Share]) -> Sequence[Platform]:
    """The platforms in the order they were asked for; without any, what the builder builds natively."""
    return request.platforms or tuple(platform for share in shares for platform in share.platforms)


def _options(request: BuildRequest) -> Options:
    return Options(
        build_platform=platforms.host(),
        target=request.target,
        build_args=request.build_args,
        labels=request.labels,
        contexts=request.contexts,
        context=NamedContext("context", "local", _place(request)),
        network=request.network,
        hosts=request.hosts,
        shm_size=request.shm_size,
        limits=request.limits,
        hostname=request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
        no_cache=request.no_cache,
        no_cache_stages=request.no_cache_stages,
        cache_namespace=request.build_args.get("BUILDKIT_CACHE_MOUNT_NS", ""),
        several_platforms=len(request.platforms) > 1 or request.control("BUILDKIT_MULTI_PLATFORM"),
    )


def _place(request: BuildRequest) -> str:
    """What tells this build from others of the machine: where its context and Dockerfile are."""
    context = request.context
    return f"{Path(context).absolute() if Path(context).is_dir() else context} {request.dockerfile or ''}"


def _surroundings(request: BuildRequest, context: MainContext, state: State) -> Surroundings:
    contexts: dict[str, ContextFiles] = {"context": context.files}
    for named in request.contexts.values():
        if named.kind == "local":
            contexts[named.name] = _directory(Path(named.value), state)
    return Surroundings(
        contexts=contexts,
        secrets=request.secrets,
        agents=request.agents,
        proxies=proxy_environment(request.build_args),
        allow=request.allow,
        runtime=request.runtime,
        accelerate=request.accelerate,
        begun=request.begun,
        emulator_patience=request.emulator_timeout,
        resources=request.resources,
        keep_going=request.keep_going,
        pushes=tuple(dict.fromkeys(name.name for name in _pushed_to(request))),
        cache_from=request.cache_from if request.builder.is_daemons else (),
        cache_to=request.cache_to if request.builder.is_daemons else (),
    )


def _directory(path: Path, state: State) -> ContextFiles:
    return lambda store: open_directory(path, state, store)


def _assemble(
    plan: BuildPlan, solved: Mapping[str, Rootfs], request: BuildRequest, node: EmbeddedNode
) -> BuildResult:
    """The images' configurations with their times. What is the same as in an earlier build keeps the earlier
    build's time, so that an unchanged build has an unchanged digest."""
    results = []
    for target in plan.targets:
        rootfs = Rootfs() if target.vertex is None else solved[target.vertex.digest]
        results.append(
            PlatformResult(target.platform, rootfs, _dated(target, rootfs, plan, node.notes, request))
        )
    origins = base_origins(plan.graph, plan.local)
    indexed = request.control("BUILDKIT_MULTI_PLATFORM")
    return BuildResult(tuple(results), request.annotations, origins, plan.options.epoch, indexed)


def _prove(
    result: BuildResult, bases: Sequence[int], request: BuildRequest, node: EmbeddedNode, events: EventSink
) -> None:
    """Refuse variants that cannot run on their platform; tell of what is probably not meant."""
    if request.proof == "off":
        return
    built = [
        Built(one.platform, one.rootfs, one.config, base)
        for one, base in zip(result.results, bases, strict=True)
    ]
    file = Path(request.context, IGNORE_FILE)
    ignore = read_ignore_file(file.read_text(errors="replace")) if file.is_file() else ()
    policy = Policy(request.proof, (*request.proof_ignore, *ignore))
    found = policy.apply(prove_built(built, node.layers, node.notes))
    for finding in found:
        if finding.severity == "warning":
            events(Warning(finding.rule, f"{finding.platform}: {finding}", finding.url))
    refuse(found)


def _dated(
    target: TargetResult, rootfs: Rootfs, plan: BuildPlan, cache: Notes, request: BuildRequest
) -> ImageConfig:
    from datetime import datetime

    if plan.options.epoch is not None:
        return stamped(target.config, rfc3339(plan.options.epoch), target.base_history)
    key = digest_of("created", msgspec.json.encode(target.config).decode("utf-8", "replace"), rootfs.id)
    created = None if request.no_cache else cache.get(key)
    if created is None:
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        cache.put(key, created)
    return stamped(target.config, created, target.base_history)


class _Watch:
    """Passes the events of all nodes on, and remembers the vertex that failed first."""

    def __init__(self, events: EventSink) -> None:
        self._events = events
        self.failed = ""

    def of(self, node: str) -> EventSink:
        """The sink for one node; ``node`` "" is the only one."""
        onward = labelled(self._events, node) if node else self._events

        def send(event: AnyEvent) -> None:
            if isinstance(event, VertexCompleted) and event.error and not event.cancelled:
                self.failed = self.failed or event.digest
            onward(event)

        return send
