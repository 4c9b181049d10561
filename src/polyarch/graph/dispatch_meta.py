"""How a step is shown: shared by everything that makes vertices out of instructions."""

from __future__ import annotations

from polyarch.dockerfile.instructions import Instruction
from polyarch.graph.stages import StagePlan, StageState
from polyarch.graph.vertex import VertexMeta


def step_meta(name: str, state: StageState, instruction: Instruction, plan: StagePlan) -> VertexMeta:
    """The meta of the current step of ``state``."""
    return VertexMeta(
        name=name,
        slot=f"{plan.options.context.value} {state.label} {state.step} {state.platform}",
        location=instruction.location,
        platform=state.platform,
        ignore_cache=state.ignore_cache,
        targets=(plan.target_platform,),
    )
