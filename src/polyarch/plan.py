"""What a build is going to do, before it does anything: stages, bases, graph, and each platform's strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyarch import dockerfile
from polyarch.context.main import MainContext
from polyarch.dockerfile.program import Program, instructions
from polyarch.graph.convert import TargetResult, convert, wanted_images
from polyarch.graph.stages import Options, plan_stages
from polyarch.graph.vertex import ExecOp, Graph, Vertex
from polyarch.image.sparse import SparseStore
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.proof.bases import BaseResolver, check_bases


@dataclass(frozen=True)
class BuildPlan:
    """The graph for all platforms, what each target is, and where bases were found."""

    program: Program
    options: Options
    graph: Graph
    targets: tuple[TargetResult, ...]
    local: SparseStore

    def strategy(self, target: TargetResult) -> str:
        """How the target's code is made: "native", "cross-compiled", "emulated", or "copied" where nothing
        runs at all."""
        ran = [vertex.op.platform for vertex in _behind(target.vertex) if isinstance(vertex.op, ExecOp)]
        if not ran:
            return "copied"
        native = [runs_natively(platform) for platform in ran]
        if not all(native):
            return "emulated"
        same = platforms.choose(platforms.host(), [target.platform]) is not None
        return "native" if same else "cross-compiled"


def runs_natively(platform: Platform) -> bool:
    """Whether this machine's processor executes programs of ``platform``."""
    return platforms.choose(platforms.host(), [platform]) is not None


def _behind(vertex: Vertex | None) -> Sequence[Vertex]:
    """The vertex and everything it depends on, each once."""
    found: dict[str, Vertex] = {}
    pending = [vertex] if vertex is not None else []
    while pending:
        current = pending.pop()
        if current.digest not in found:
            found[current.digest] = current
            pending.extend(current.inputs)
    return list(found.values())


def make_plan(
    context: MainContext, options: Options, wanted: Sequence[Platform], resolver: BaseResolver
) -> BuildPlan:
    """Parse, connect, resolve every base for every platform at once, and convert."""
    program = instructions(dockerfile.parse(context.dockerfile, file=context.name))
    plans = [plan_stages(program, options, platform) for platform in wanted]
    check_bases(resolver, [image for plan in plans for image in wanted_images(plan)])
    graph = Graph()
    targets = tuple(convert(plan, graph, resolver) for plan in plans)
    return BuildPlan(program, options, graph, targets, resolver.local)
