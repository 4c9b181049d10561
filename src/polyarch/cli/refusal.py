"""What ``build`` would refuse although it parses, told without asking any registry."""

from __future__ import annotations

from polyarch.dockerfile.program import Program
from polyarch.errors import PolyarchError
from polyarch.graph.convert import BaseImage, Conversion
from polyarch.graph.stages import Options, plan_stages
from polyarch.graph.vertex import Graph
from polyarch.oci.config import ImageConfig
from polyarch.oci.platform import Platform

# Refusals that no base image's environment could prevent.
_CERTAIN = frozenset(
    (
        "circular-stages empty-base empty-platform empty-volume invalid-checksum invalid-chmod "
        "invalid-digest invalid-mount invalid-port invalid-reference invalid-signal invalid-url remote-copy "
        "stage-order unknown-platform unknown-stage unknown-target"
    ).split()
)


class _AnyImage:
    """Takes every base for an empty image."""

    def image(self, reference: str, platform: Platform) -> BaseImage:
        config = ImageConfig(architecture=platform.architecture, os=platform.os, variant=platform.variant)
        return BaseImage(reference, "", "", (), (), config)

    def in_layout(self, location: str, platform: Platform) -> BaseImage:
        return self.image(location, platform)


def refusal(program: Program, options: Options, platform: Platform) -> PolyarchError | None:
    """The error of a build of the target (or of every stage), where it is certain."""
    try:
        plan = plan_stages(program, options, platform)
        wanted = [plan.target()] if options.target else plan.states[: len(program.stages)]
    except PolyarchError as error:
        return error if error.reason in _CERTAIN else None
    conversion = Conversion(plan, Graph(), _AnyImage())
    for state in wanted:
        try:
            conversion.prepare(state)
        except PolyarchError as error:
            if error.reason in _CERTAIN:
                return error
    return None
