"""From a program to the stages that take part: names, bases, dependencies, named contexts.

Nothing is resolved over the network here. ``plan_stages`` finds which stages the target reaches and which
images they start from, per target platform; ``convert`` fills in the rest once those images are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from polyarch.dockerfile import shell
from polyarch.dockerfile.characters import did_you_mean
from polyarch.dockerfile.instructions import Copy, Instruction, Run, Stage
from polyarch.dockerfile.program import Program
from polyarch.errors import DockerfileError, Location, NotFoundError, PolyarchError, UsageError
from polyarch.graph.arguments import global_arguments, platform_arguments
from polyarch.graph.draft import Draft
from polyarch.graph.vertex import Vertex
from polyarch.oci.platform import Platform, check_known
from polyarch.oci.reference import Reference

SCRATCH = "scratch"


@dataclass(frozen=True)
class NamedContext:
    """``--build-context NAME=VALUE``: what stands in for a stage or an image of that name.

    ``value`` is a path for local, a reference for image, ``PATH[:tag][@digest]`` for layout, a URL for git
    and http, a stage of the same Dockerfile for target.
    """

    name: str
    kind: Literal["local", "image", "layout", "git", "http", "target"]
    value: str


@dataclass(frozen=True)
class Options:
    """What the user asked of a build, as far as the graph depends on it. ``epoch`` is SOURCE_DATE_EPOCH,
    ``cache_namespace`` keeps the directories of cache mounts apart from those of other builds."""

    build_platform: Platform
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, NamedContext] = field(default_factory=dict)
    context: NamedContext = NamedContext("context", "local", ".")
    network: str = "default"
    hosts: tuple[tuple[str, str], ...] = ()
    hostname: str = ""
    shm_size: int = 0
    limits: tuple[tuple[str, int, int], ...] = ()
    no_cache: bool = False
    no_cache_stages: frozenset[str] = frozenset()
    epoch: int | None = None
    cache_namespace: str = ""
    several_platforms: bool = False


@dataclass(eq=False)
class StageState:
    """One stage (or, when ``external``, an image or context named by ``--from``) while it is converted."""

    base_name: str
    name: str
    label: str  # for progress: the name, or stage-N
    location: Location
    platform: Platform | None = None
    parent: StageState | None = None
    instructions: list[Instruction] = field(default_factory=list)
    triggers: int = 0  # how many of the instructions came from ONBUILD
    sources: dict[int, list[StageState | None]] = field(default_factory=dict)  # id(instruction) → stages
    named: NamedContext | None = None
    external: bool = False
    ignore_cache: bool = False
    # filled by convert
    resolved: bool = False
    expanded_triggers: bool = False
    done: bool = False
    vertex: Vertex | None = None
    image: Draft | None = None
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str | None] = field(default_factory=dict)
    step: int = 0
    total: int = 0

    def dependencies(self) -> Iterator[StageState]:
        """The stages this one needs."""
        if self.parent is not None:
            yield self.parent
        for stages in self.sources.values():
            yield from (stage for stage in stages if stage is not None)


def context_key(name: str) -> str:
    """How named contexts are looked up: the familiar reference without ``:latest``."""
    try:
        return Reference.parse(name).familiar.removesuffix(":latest")
    except PolyarchError:
        return name.lower()


@dataclass
class StagePlan:
    """All stages of one Dockerfile for one target platform."""

    program: Program
    options: Options
    target_platform: Platform
    global_args: dict[str, str]
    predefined: dict[str, str]
    states: list[StageState] = field(default_factory=list)
    by_name: dict[str, StageState] = field(default_factory=dict)

    def named_context(self, name: str, platform: Platform | None) -> NamedContext | None:
        """The context that replaces ``name``; one for the platform (``name::os/arch``) goes first."""
        if name.lower() in (SCRATCH, "context"):
            return None
        key = context_key(name)
        wanted = platform or self.target_platform
        contexts = self.options.contexts
        return contexts.get(f"{key}::{wanted}") or contexts.get(key)

    def add(self, state: StageState) -> None:
        """Register a stage; its base may be an earlier one."""
        self.states.append(state)
        if state.named is None:
            state.parent = self.by_name.get(state.base_name)
        if state.name:
            self.by_name[state.name.lower()] = state

    def find(self, name: str) -> StageState | None:
        return self.by_name.get(name.lower())

    def target(self) -> StageState:
        """The stage to build; NotFoundError with a suggestion."""
        wanted = self.options.target
        stages = [state for state in self.states if not state.external]
        if not wanted:
            return stages[-1]
        found = self.find(wanted)
        if found is None and wanted.isdigit() and int(wanted) < len(stages):
            found = stages[int(wanted)]
        if found is None:
            names = [state.name for state in stages if state.name]
            raise NotFoundError(
                f"target stage {wanted!r} is not in {self.program.file}",
                hint=did_you_mean(wanted, names) or f"stages: {', '.join(names) or 'none is named'}",
                reason="unknown-target",
            )
        return found

    def reachable(self, target: StageState) -> list[StageState]:
        """The stages the target needs, itself included, in the order they are registered."""
        seen: set[int] = set()
        pending = [target]
        while pending:
            state = pending.pop()
            if id(state) not in seen:
                seen.add(id(state))
                pending.extend(state.dependencies())
        return [state for state in self.states if id(state) in seen]

    def link(self, state: StageState, instructions: Iterable[Instruction]) -> bool:
        """Find the stages that instructions copy or mount from; True when there were any."""
        found = False
        for instruction in instructions:
            names = _origins(instruction)
            if not any(names):
                continue
            sources = [self._source(name, state, instruction) if name else None for name in names]
            state.sources[id(instruction)] = sources
            found = True
        return found

    def _source(self, name: str, user: StageState, instruction: Instruction) -> StageState:
        if isinstance(instruction, Copy) and name.isdigit():
            stages = [state for state in self.states if not state.external]
            if int(name) >= len(stages):
                raise DockerfileError(
                    f"--from={name}: there is no stage {name}; the last one is {len(stages) - 1}",
                    location=instruction.location,
                    reason="unknown-stage",
                )
            return stages[int(name)]
        known = self.find(name)
        if known is not None:
            return known
        state = StageState(name, "", name, instruction.location, external=True)
        self.add(state)
        return state


def _origins(instruction: Instruction) -> list[str]:
    match instruction:
        case Copy(from_=name) if name:
            return [name]
        case Run(mount_flags=flags) if flags:
            from polyarch.dockerfile.mounts import mount_from

            return [mount_from(flag) for flag in flags]
    return []


def plan_stages(program: Program, options: Options, target_platform: Platform) -> StagePlan:
    """Expand the FROM lines and connect the stages. DockerfileError where that cannot be."""
    target_name = options.target or program.stages[-1].name
    predefined = platform_arguments(options.build_platform, target_platform, target_name)
    values = global_arguments(predefined, program.arguments, options.build_args, program.escape)
    plan = StagePlan(program, options, target_platform, values, predefined)
    for stage in program.stages:
        plan.add(_state(stage, plan))
    for state in list(plan.states):
        plan.link(state, state.instructions)
    if len(plan.states) == 1:
        plan.states[0].label = ""
    in_order(plan.states)  # none may need itself
    return plan


def _state(stage: Stage, plan: StagePlan) -> StageState:
    base = _expanded(stage.base.base, "base image", stage, plan)
    if not base:
        raise DockerfileError(
            f"the base image {stage.base.base!r} is empty after its variables were expanded",
            location=stage.base.location,
            hint="give its ARG, before the first FROM, a default or a value with --build-arg",
            reason="empty-base",
        )
    platform = None
    if stage.base.platform:
        text = _expanded(stage.base.platform, "platform", stage, plan)
        if not text:
            raise DockerfileError(
                f"the platform {stage.base.platform!r} is empty after its variables were expanded",
                location=stage.base.location,
                hint="the platform arguments are BUILDPLATFORM, TARGETPLATFORM and their parts"
                + _variable_hint(stage.base.platform, plan.global_args),
                reason="empty-platform",
            )
        try:
            platform = Platform.parse(text).normalized()
            check_known(platform, text)
        except UsageError as error:
            raise DockerfileError(
                error.summary, location=stage.base.location, hint=error.hint, reason=error.reason
            ) from None
    state = StageState(
        base, stage.name, stage.name or f"stage-{stage.index}", stage.base.location, platform=platform
    )
    if stage.name:
        state.named = plan.named_context(stage.name, platform)
    if state.named is None:
        state.instructions = list(stage.instructions)
    state.ignore_cache = plan.options.no_cache or (stage.name in plan.options.no_cache_stages)
    return state


def _variable_hint(word: str, known: Mapping[str, str]) -> str:
    name = word.strip("${}")
    guess = did_you_mean(name, known)
    return f"; {guess}" if guess and name not in known else ""


def _expanded(word: str, what: str, stage: Stage, plan: StagePlan) -> str:
    try:
        return shell.expand(word, plan.global_args, escape=plan.program.escape)
    except PolyarchError as error:
        raise DockerfileError(
            f"{what} {word!r}: {error.summary}",
            location=stage.base.location,
            hint=error.hint,
            reason=error.reason,
        ) from None


def _use(user: StageState, used: StageState) -> Location:
    """Where ``user`` names ``used``: the instruction that copies or mounts from it, else the FROM."""
    for instruction in user.instructions:
        if used in user.sources.get(id(instruction), []):
            return instruction.location
    return user.location


def in_order(wanted: Iterable[StageState]) -> list[StageState]:
    """``wanted`` and what they need, each once and after what it needs itself. DockerfileError where stages
    need each other."""
    finished: dict[int, StageState] = {}
    for first in wanted:
        if id(first) in finished:
            continue
        path = {id(first): first}
        pending = [first.dependencies()]
        while path:
            needed = next(pending[-1], None)
            if needed is None:
                pending.pop()
                key, state = path.popitem()
                finished[key] = state
            elif id(needed) in path:
                raise _circle(list(path.values()), needed)
            elif id(needed) not in finished:
                path[id(needed)] = needed
                pending.append(needed.dependencies())
    return list(finished.values())


def _circle(path: list[StageState], state: StageState) -> DockerfileError:
    names = [s.name or s.label or s.base_name for s in [*path[path.index(state) :], state]]
    return DockerfileError(
        f"circular dependency between stages: {' -> '.join(names)}",
        location=_use(path[-1], state),
        reason="circular-stages",
    )
