"""A plan as plain values, for JSON: stages, vertices by number, and what becomes of each target."""

from __future__ import annotations

from typing import Any

import msgspec

from polyarch.graph.convert import TargetResult
from polyarch.graph.vertex import AnyOp
from polyarch.plan import BuildPlan

Json = dict[str, Any]


def dump_plan(plan: BuildPlan) -> Json:
    """``stages`` as the Dockerfile has them, ``vertices`` with the numbers of their inputs, and ``targets``,
    one a platform: its strategy, the vertex of its root filesystem (None: empty), and its configuration."""
    numbers = {digest: number for number, digest in enumerate(plan.graph.vertices)}
    return {
        "stages": [
            {"name": stage.name, "base": stage.base.base, "platform": stage.base.platform}
            for stage in plan.program.stages
        ],
        "vertices": [
            {
                "name": plan.graph.meta[digest].name,
                "for": [platform.full() for platform in plan.graph.meta[digest].targets],
                "inputs": [numbers[source.digest] for source in vertex.inputs],
                "operation": _operation(vertex.op),
            }
            for digest, vertex in plan.graph.vertices.items()
        ],
        "targets": [_target(target, plan, numbers) for target in plan.targets],
    }


def _operation(op: AnyOp) -> Json:
    """What the operation says, without what it leaves out."""
    said: Json = msgspec.to_builtins(op)
    return {key: value for key, value in said.items() if value}


def _target(target: TargetResult, plan: BuildPlan, numbers: dict[str, int]) -> Json:
    return {
        "platform": target.platform.full(),
        "strategy": plan.strategy(target),
        "vertex": None if target.vertex is None else numbers[target.vertex.digest],
        "config": msgspec.to_builtins(target.config),
    }
