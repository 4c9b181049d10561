"""What a build is going to do, before it does anything: stages, bases, graph, strategy of each platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from polyarch import dockerfile
from polyarch.builder.crew import Share, Work
from polyarch.context.ignore import Matcher
from polyarch.context.main import MainContext
from polyarch.dockerfile.ast import Dockerfile
from polyarch.dockerfile.lint import Finding, chosen_options, lint, lint_violation
from polyarch.dockerfile.program import Program, instructions
from polyarch.dockerfile.scope import BaseImage, Inputs
from polyarch.errors import PolyarchError
from polyarch.graph.convert import TargetResult, convert, wanted_images
from polyarch.graph.stages import Options, StagePlan, plan_stages
from polyarch.graph.vertex import ExecOp, Graph, Vertex
from polyarch.image.sparse import SparseStore
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.proof.bases import BaseResolver, check_bases
from polyarch.proof.known import known_bases
from polyarch.proof.misspelt import misspelt_arguments, suggest_stage
from polyarch.proof.mistakes import find_mistakes


@dataclass(frozen=True)
class BuildPlan:
    """The graph for all platforms, what each target is, and where bases were found."""

    program: Program
    options: Options
    graph: Graph
    targets: tuple[TargetResult, ...]
    local: SparseStore
    shares: tuple[Share, ...]
    findings: tuple[Finding, ...] = ()
    bases: tuple[tuple[Reference, str, str], ...] = ()  # see BaseResolver.answers

    @property
    def wanted(self) -> list[str]:
        """The vertices whose results the targets are, each once."""
        return list(dict.fromkeys(t.vertex.digest for t in self.targets if t.vertex is not None))

    def step_names(self) -> list[str]:
        """What is shown of every vertex that takes part, in order."""
        needed = {digest for target in self.targets for digest in behind(target.vertex)}
        return [self.graph.meta[digest].name for digest in self.graph.vertices if digest in needed]

    def works(self, shares: Sequence[Share] | None = None) -> list[Work]:
        """What each node has to solve."""
        found = []
        for share in self.shares if shares is None else shares:
            mine = [t.vertex.digest for t in self.targets if t.vertex and t.platform in share.platforms]
            found.append(Work(share, self.graph, tuple(dict.fromkeys(mine))))
        return found

    def share_of(self, target: TargetResult) -> Share:
        """Whose part of the build the target is."""
        return next(share for share in self.shares if target.platform in share.platforms)

    def strategy(self, target: TargetResult) -> str:
        """How the target's code is made: "native", "cross-compiled", "emulated", or "copied" where nothing
        runs at all."""
        ran = [v.op.platform for v in behind(target.vertex).values() if isinstance(v.op, ExecOp)]
        if not ran:
            return "copied"
        share = self.share_of(target)
        if not all(share.runs_natively(platform) for platform in ran):
            return "emulated"
        return "native" if share.runs_natively(target.platform) else "cross-compiled"


def behind(vertex: Vertex | None) -> Mapping[str, Vertex]:
    """The vertex and everything it depends on, by digest."""
    found: dict[str, Vertex] = {}
    pending = [vertex] if vertex is not None else []
    while pending:
        current = pending.pop()
        if current.digest not in found:
            found[current.digest] = current
            pending.extend(current.inputs)
    return found


def make_plan(
    context: MainContext,
    options: Options,
    wanted: Sequence[Platform],
    resolver: BaseResolver,
    shares: Sequence[Share],
) -> BuildPlan:
    """Parse, connect, resolve every base for every platform at once, and convert. Targets are in the order of
    ``wanted``; the build platform of each is that of the node whose share it is in."""
    parsed = dockerfile.parse(context.dockerfile, file=context.name)
    program = instructions(parsed)
    builds_on = {platform: share.natives[0] for share in shares for platform in share.platforms}
    plans = [
        plan_stages(program, replace(options, build_platform=builds_on[platform]), platform)
        for platform in wanted
    ]
    images = [wanted_images(plan) for plan in plans]
    try:
        check_bases(resolver, [image for wanted_by_plan in images for image in wanted_by_plan])
    except PolyarchError as error:
        raise suggest_stage(error, plans[0].states) from None
    known = known_bases(plans[0], plans[0].reachable(plans[0].target()), resolver).bases
    graph = Graph()
    targets = tuple(convert(plan, graph, resolver) for plan in plans)
    findings = _findings(parsed, context, plans[0], known) + find_mistakes(
        parsed, plans, lambda platform: any(share.runs_natively(platform) for share in shares)
    )
    findings += misspelt_arguments(parsed, program, options.build_args)
    return BuildPlan(
        program, options, graph, targets, resolver.local, tuple(shares), findings, resolver.answers
    )


def _findings(
    parsed: Dockerfile, context: MainContext, plan: StagePlan, bases: dict[int, BaseImage]
) -> tuple[Finding, ...]:
    """What the checks find; DockerfileError where the Dockerfile wants findings to be errors."""
    inputs = Inputs(plan.options.target, plan.options.build_args, plan.predefined, bases)
    ignore = Matcher(context.patterns) if context.patterns else None
    findings = lint(parsed, plan.program, inputs=inputs, ignore=ignore, target_platform=plan.target_platform)
    if findings and chosen_options(parsed, inputs.build_args).error:
        raise lint_violation(findings)
    return findings


class Plans:
    """The plan of a build; made anew when others take a lost node's share over."""

    def __init__(self, make: Callable[[Sequence[Share]], BuildPlan], shares: Sequence[Share]) -> None:
        self._make = make
        self.now = make(shares)

    def again(self, taken: Sequence[Share]) -> list[Work]:
        """Plan ``taken`` in place of the shares that had their platforms; what is to be solved for them."""
        moved = {platform for share in taken for platform in share.platforms}
        left = [share for share in self.now.shares if not moved & set(share.platforms)]
        self.now = self._make((*left, *taken))
        return self.now.works(taken)
