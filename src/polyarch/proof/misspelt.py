"""Names that a build was given or asks for, and that are near one that the Dockerfile has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from polyarch.dockerfile.ast import Dockerfile
from polyarch.dockerfile.characters import closest, did_you_mean
from polyarch.dockerfile.instructions import Arg
from polyarch.dockerfile.lint import Finding
from polyarch.dockerfile.lint_options import options_of
from polyarch.dockerfile.program import Program
from polyarch.errors import Location, PolyarchError
from polyarch.graph.arguments import PROXIES, platform_arguments
from polyarch.graph.stages import StageState
from polyarch.oci import platform as platforms

RULE = "MisspeltBuildArgument"
URL = f"docs/mistakes/{RULE}.md"
DESCRIPTION = "A build argument has the name of an ARG"


def misspelt_arguments(parsed: Dockerfile, program: Program, given: Mapping[str, str]) -> tuple[Finding, ...]:
    """Build arguments that nothing declares although something nearly does. Others are no mistake: many give
    the same arguments to all their builds."""
    if RULE in options_of(parsed).skip:
        return ()
    declared = dict(_declared(program))
    host = platforms.host()
    known = {*declared, *PROXIES, *platform_arguments(host, host, "")}
    found = []
    for name in given:
        if name in known or name.lower() in PROXIES or name.startswith(("BUILDKIT_", "SOURCE_DATE_EPOCH")):
            continue
        near = closest(name, declared)
        if near and near not in given:
            message = f"no ARG takes the build argument {name}; did you mean {near}?"
            found.append(Finding(RULE, message, DESCRIPTION, URL, declared[near]))
    return tuple(found)


def _declared(program: Program) -> Iterator[tuple[str, Location]]:
    instructions = [*program.arguments, *(one for stage in program.stages for one in stage.instructions)]
    for instruction in instructions:
        if isinstance(instruction, Arg):
            for definition in instruction.arguments:
                yield definition.name, instruction.location


def suggest_stage(error: PolyarchError, states: Iterable[StageState]) -> PolyarchError:
    """``error``, of a base that cannot be had, with the name of a stage that was perhaps meant."""
    known = list(states)
    names = [state.name for state in known if state.name]
    for state in known:
        if state.location == error.location and state.parent is None:
            guess = did_you_mean(state.base_name, [name for name in names if name != state.name])
            if guess:
                error.hint = f"{guess} (a stage){'; ' + error.hint if error.hint else ''}"
                break
    return error
