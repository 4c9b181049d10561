"""What progress calls a step: ``[linux/arm64 builder 2/5] RUN make``."""

from __future__ import annotations

from polyarch.dockerfile import shell
from polyarch.dockerfile.instructions import Add, Copy, Instruction, Run, Workdir
from polyarch.errors import PolyarchError
from polyarch.graph.stages import SCRATCH, StagePlan, StageState

_STEPS = (Add, Copy, Run, Workdir)


class StepNames:
    """Numbers the steps of each stage as they are converted."""

    def __init__(self, plan: StagePlan) -> None:
        self._plan = plan

    def begin(self, state: StageState) -> None:
        """Count the stage's steps: its base image and whatever makes a layer."""
        steps = sum(isinstance(instruction, _STEPS) for instruction in state.instructions)
        has_image = state.parent is None and state.base_name != SCRATCH
        state.total = steps + has_image
        state.step = int(has_image)

    def next(self, state: StageState, instruction: Instruction, *, triggered: bool, summary: str = "") -> str:
        """The name of the next step of ``state``."""
        state.step += 1
        return (
            f"{self._prefix(state)}{'ONBUILD ' if triggered else ''}{self._text(state, instruction)}{summary}"
        )

    def _prefix(self, state: StageState) -> str:
        words = []
        if self._plan.options.several_platforms and state.platform is not None:
            words.append(str(state.platform) + self._cross(state))
        if state.label:
            words.append(state.label)
        width = len(str(state.total))
        words.append(f"{state.step:{width}}/{state.total}")
        return f"[{' '.join(words)}] "

    def _cross(self, state: StageState) -> str:
        """``->arm64`` where a stage compiles for another platform than it runs on."""
        target = self._plan.target_platform
        declared = {"TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT"} & state.environment.keys()
        if not declared or state.platform is None or target.architecture == state.platform.architecture:
            return ""
        return f"->{target.architecture}{'/' + target.variant if target.variant else ''}"

    def _text(self, state: StageState, instruction: Instruction) -> str:
        first, _, rest = instruction.original.partition("\n")[0].partition(" ")
        text = f"{first.upper()} {rest}".rstrip()
        escape = self._plan.program.escape
        try:
            if isinstance(instruction, Run):
                style = shell.Style(escape, keep_quotes=True, keep_unset=True)
                return shell.process(text, state.environment, style).text
            return shell.expand(text, state.environment, escape=escape)
        except PolyarchError:
            return text
