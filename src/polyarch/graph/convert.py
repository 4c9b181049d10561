"""From stages to vertices: the graph for one target platform, and the configuration of its image.

``convert`` is called once a platform with the same Graph, so that what does not depend on the platform is
one vertex. Images are asked of a ``Resolver``, which answers from what preflight has already fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Protocol

import msgspec

from polyarch.dockerfile.characters import did_you_mean
from polyarch.dockerfile.instructions import Instruction, OnBuild
from polyarch.dockerfile.program import parse_one
from polyarch.errors import DockerfileError, PolyarchError
from polyarch.graph.convert_context import context_meta, context_op
from polyarch.graph.dispatch import Dispatcher
from polyarch.graph.draft import DEFAULT_PATH, Draft
from polyarch.graph.naming import StepNames
from polyarch.graph.stages import SCRATCH, NamedContext, StagePlan, StageState, in_order
from polyarch.graph.vertex import Graph, ImageOp, Vertex, VertexMeta
from polyarch.oci.config import ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference


@dataclass(frozen=True)
class BaseImage:
    """One platform's image as a resolver found it. ``reference`` is pinned: ``name:tag@digest`` of what the
    name points to (an index where there is one); ``manifest`` is the platform's own digest."""

    reference: str
    origin: str
    manifest: str
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    config: ImageConfig


class Resolver(Protocol):
    """Where base images are looked up, once for each reference and platform."""

    def image(self, reference: str, platform: Platform) -> BaseImage:
        """NotFoundError names the reference and the platforms it has."""
        ...

    def in_layout(self, location: str, platform: Platform) -> BaseImage:
        """The same for an OCI layout on disk: ``PATH[:tag][@digest]``."""
        ...


@dataclass(frozen=True)
class TargetResult:
    """What one platform's image will be: ``vertex`` gives its root filesystem (None: empty), ``config`` has
    no layers and no times yet, ``base_history`` lines of its history came from the base image."""

    platform: Platform
    vertex: Vertex | None
    config: ImageConfig
    base_history: int
    base: BaseImage | None


@dataclass
class Conversion:
    """The work on one platform."""

    plan: StagePlan
    graph: Graph
    resolver: Resolver
    bases: dict[int, BaseImage] = field(default_factory=dict)

    def run(self) -> TargetResult:
        """Resolve, dispatch, and describe the target."""
        target = self.plan.target()
        self.prepare(target)
        return self._result(target)

    def prepare(self, wanted: StageState) -> None:
        """Convert one stage, and first what it needs."""
        self._resolve(wanted)
        dispatcher = Dispatcher(self.plan, self.graph, StepNames(self.plan))
        for state in in_order([wanted]):
            if not state.done:
                self._start(state)
                dispatcher.run(state)
                state.done = True

    def _result(self, target: StageState) -> TargetResult:
        image = target.image
        assert image is not None
        labels = self.plan.options.labels
        if labels:
            image.labels = {**(image.labels or {}), **labels}
        image.platform = _versioned(self.plan.target_platform, image.platform)
        if image.platform.os == "windows" and image.working_dir == "/":
            image.working_dir = "\\"
        base = self._base_of(target)
        inherited = len(base.config.history or ()) if base else 0
        return TargetResult(self.plan.target_platform, target.vertex, image.freeze(), inherited, base)

    def _base_of(self, state: StageState) -> BaseImage | None:
        while state.parent is not None:
            state = state.parent
        return self.bases.get(id(state))

    # -- bases ---------------------------------------------------------------------------------------------

    def _resolve(self, target: StageState) -> None:
        """Find every reachable stage's base; ONBUILD triggers may make further stages reachable."""
        while True:
            changed = False
            for state in self.plan.reachable(target):
                if not state.resolved:
                    state.resolved = True
                    if state.parent is None:
                        self._resolve_base(state)
                        changed |= state.parent is not None  # a context that names a stage
                if not state.expanded_triggers and state.named is None:
                    state.expanded_triggers = True
                    changed |= self._expand_triggers(state)
            if not changed:
                return

    def _expand_triggers(self, state: StageState) -> bool:
        """Put the ONBUILD instructions of the base before the stage's own."""
        if state.parent is not None:
            expressions = [
                (i.expression, state.location) for i in state.parent.instructions if isinstance(i, OnBuild)
            ]
        elif state.image is not None:
            expressions = [(text, state.location) for text in state.image.on_build]
            state.image.on_build = []
        else:
            return False
        triggers: list[Instruction] = []
        for expression, location in expressions:
            try:
                triggers.append(parse_one(expression, location=location, escape="\\"))
            except DockerfileError as error:
                raise DockerfileError(
                    f"ONBUILD trigger {expression!r} of {state.base_name}: {error.summary}",
                    location=location,
                    hint=error.hint,
                    reason=error.reason,
                ) from None
        state.instructions = [*triggers, *state.instructions]
        state.triggers = len(triggers)
        return self.plan.link(state, triggers)

    def _resolve_base(self, state: StageState) -> None:
        platform = state.platform or self.plan.target_platform
        if state.named is not None:
            self._use_context(state, state.named, platform)
            state.done = state.parent is None
            return
        named = self.plan.named_context(state.base_name, platform)
        if named is not None:
            self._use_context(state, named, platform)
        elif state.base_name == SCRATCH:
            platform = self.plan.target_platform
            state.image = Draft(platform, working_dir="/")
        else:
            try:
                Reference.parse(state.base_name)
                image = self.resolver.image(state.base_name, platform)
            except PolyarchError as error:
                raise self._located(error, state) from None
            self._use_image(state, image, platform)
        state.platform = platform
        state.done = state.external and state.parent is None

    def _located(self, error: PolyarchError, state: StageState) -> PolyarchError:
        if error.location is None:
            error.location = state.location
        names = [s.name for s in self.plan.states if s.name and s is not state]
        guess = did_you_mean(state.base_name, names)
        if guess:
            error.hint = f"{guess} (a stage){'; ' + error.hint if error.hint else ''}"
        return error

    def _use_image(self, state: StageState, image: BaseImage, platform: Platform) -> None:
        self.bases[id(state)] = image
        state.image = Draft.from_config(image.config)
        if not image.diff_ids:
            return
        op = ImageOp(
            reference=image.reference,
            origin=image.origin,
            manifest=image.manifest,
            layers=image.layers,
            diff_ids=image.diff_ids,
        )
        prefix = f"[{platform} internal] " if self.plan.options.several_platforms else ""
        meta = VertexMeta(
            name=f"{prefix}FROM {image.reference}",
            slot=f"image {image.reference} {platform}",
            location=state.location,
            platform=platform,
            targets=(self.plan.target_platform,),
        )
        state.vertex = self.graph.add(Vertex(op), meta)

    def _use_context(self, state: StageState, context: NamedContext, platform: Platform) -> None:
        match context.kind:
            case "image" if context.value == SCRATCH:
                state.image = Draft(platform, working_dir="/")
            case "image":
                self._use_image(state, self.resolver.image(context.value, platform), platform)
            case "layout":
                self._use_image(state, self.resolver.in_layout(context.value, platform), platform)
            case "target":
                found = self.plan.find(context.value)
                if found is None or found is state:
                    raise DockerfileError(
                        f"--build-context {context.name}=target:{context.value}: there is no such stage",
                        location=state.location,
                        reason="unknown-stage",
                    )
                state.parent = found
                return
            case "local" | "git" | "http":
                state.image = Draft(platform, working_dir="/")
                state.vertex = self.graph.add(
                    Vertex(context_op(context)), context_meta(context, self.plan.target_platform)
                )
                state.image.commit(f"FROM {context.name}", layer=True)
        state.platform = platform

    # -- the start of a stage ------------------------------------------------------------------------------

    def _start(self, state: StageState) -> None:
        """Inherit from the base: filesystem, configuration, environment, arguments."""
        if state.parent is not None:
            parent = state.parent
            assert parent.image is not None
            state.vertex, state.image = parent.vertex, parent.image.clone()
            state.platform = parent.platform
            state.arguments = dict(parent.arguments)
            state.environment = dict(parent.environment)
        state.platform = state.platform or self.plan.target_platform
        assert state.image is not None
        if "PATH" not in state.image.environment() and state.platform.os != "windows":
            state.image.set_env("PATH", DEFAULT_PATH)
        state.environment |= state.image.environment()
        state.image.epoch = rfc3339(self.plan.options.epoch)


def _versioned(wanted: Platform, base: Platform) -> Platform:
    """``wanted``, with the version of the operating system that the base is for where none is asked for."""
    if wanted.os_version or (wanted.os, wanted.architecture) != (base.os, base.architecture):
        return wanted
    return msgspec.structs.replace(wanted, os_version=base.os_version)


def rfc3339(epoch: int | None) -> str:
    """Seconds since 1970 as docker writes times, or "" for None."""
    if epoch is None:
        return ""
    from datetime import datetime

    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def convert(plan: StagePlan, graph: Graph, resolver: Resolver) -> TargetResult:
    """Add the target's vertices to ``graph``. DockerfileError and NotFoundError carry their location."""
    return Conversion(plan, graph, resolver).run()


def wanted_images(plan: StagePlan) -> Sequence[tuple[str, Platform, StageState]]:
    """The images the target starts from or copies from, as far as the Dockerfile itself tells: what preflight
    fetches at once. ONBUILD triggers of bases may ask for more later."""
    found = []
    for state in plan.reachable(plan.target()):
        if state.parent is not None:
            continue
        platform = state.platform or plan.target_platform
        context = state.named or plan.named_context(state.base_name, platform)
        if context is None and state.base_name != SCRATCH:
            found.append((state.base_name, platform, state))
        elif context is not None and context.kind == "image" and context.value != SCRATCH:
            found.append((context.value, platform, state))
    return found
