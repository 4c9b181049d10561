"""What each stage knows while its instructions are read in order: variables, declared ARGs, the shell.

This is the reading of a Dockerfile that needs no build: checks and outlines are made from it. What base
images bring along is given by the caller, who may not know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from polyarch.dockerfile import shell
from polyarch.dockerfile.expand import Variables, expand_with
from polyarch.dockerfile.instructions import Arg, ArgDefinition, Copy, Env, Instruction, OnBuild, Run, Stage
from polyarch.dockerfile.instructions import Shell as ShellInstruction
from polyarch.dockerfile.mounts import mount_from
from polyarch.dockerfile.program import Program
from polyarch.errors import DockerfileError
from polyarch.oci.platform import Platform, host

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Arguments that steer the build and never become variables.
CONTROL_ARGUMENTS = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})


@dataclass(frozen=True)
class BaseImage:
    """What is known of a base image's configuration."""

    environment: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    shell: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """What a reading depends on besides the Dockerfile.

    ``predefined`` are the platform arguments (made for the host when empty); ``bases`` maps a stage's index
    to the image it starts from, where that is known; ``refused`` says why one of them cannot be had.
    """

    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    predefined: Mapping[str, str] = field(default_factory=dict)
    bases: Mapping[int, BaseImage] = field(default_factory=dict)
    refused: DockerfileError | None = None


@dataclass
class Scope:
    """The state behind the last instruction read. ``complete`` is False where the base image is unknown."""

    environment: dict[str, str] = field(default_factory=dict)
    declared: list[str] = field(default_factory=list)
    complete: bool = True
    shell: tuple[str, ...] = ()
    workdir_set: bool = False

    def child(self) -> Scope:
        """What a stage that starts from this one begins with."""
        return Scope(dict(self.environment), list(self.declared), self.complete, self.shell, self.workdir_set)


@dataclass(frozen=True)
class Reading:
    """One instruction, expanded where that could be done, and the names it looked up in vain."""

    instruction: Instruction
    missed: tuple[str, ...] = ()
    expanded: bool = True


def predefined_arguments(inputs: Inputs, stage: str) -> dict[str, str]:
    """The platform arguments in effect."""
    values = dict(inputs.predefined)
    if not values:
        machine = host()
        for prefix in ("BUILD", "TARGET"):
            values |= {
                f"{prefix}PLATFORM": str(machine),
                f"{prefix}OS": machine.os,
                f"{prefix}OSVERSION": machine.os_version,
                f"{prefix}ARCH": machine.architecture,
                f"{prefix}VARIANT": machine.variant,
            }
        values["TARGETSTAGE"] = stage or "default"
    return {name: inputs.build_args.get(name, value) for name, value in values.items()}


def global_arguments(program: Program, values: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """What FROM lines see: ``values`` and the ARGs above the first FROM."""
    found = dict(values)
    for instruction in program.arguments:
        for definition in instruction.arguments:
            value = given.get(definition.name)
            if value is None and definition.value is not None:
                value = _located(instruction, definition.value, found, program.escape)
            if value is not None:
                found[definition.name] = value
    return found


def _located(instruction: Instruction, word: str, env: Mapping[str, str], escape: str) -> str:
    try:
        return shell.expand(word, env, escape=escape)
    except DockerfileError as error:
        raise DockerfileError(
            error.summary, hint=error.hint, location=instruction.location, reason=error.reason
        ) from None


def local_bases(program: Program, values: Mapping[str, str]) -> dict[int, int]:
    """For each stage that starts from an earlier one, which: stage index to stage index."""
    found: dict[int, int] = {}
    names: dict[str, int] = {}
    for stage in program.stages:
        name = _located(stage.base, stage.base.base, values, program.escape)
        if name in names:
            found[stage.index] = names[name]
        if stage.name:
            names[stage.name] = stage.index
    return found


def find_stage(program: Program, name: str) -> int | None:
    """The stage that ``--target`` or ``--from`` names, by name (any case) or number."""
    found = None
    for stage in program.stages:
        if stage.name and stage.name == name.lower():
            found = stage.index
    if found is None and name.isascii() and name.isdecimal() and int(name) < len(program.stages):
        return int(name)
    return found


def stage_dependencies(program: Program, stage: Stage, bases: Mapping[int, int]) -> list[int]:
    """The stages ``stage`` needs itself: its base first, then those it copies or mounts from, in order."""
    found = [bases[stage.index]] if stage.index in bases else []
    for instruction in stage.instructions:
        match instruction:
            case Copy(from_=name) if name:
                names = [name]
            case Run(mount_flags=flags):
                names = [mount_from(flag) for flag in flags]
            case _:
                names = []
        for name in filter(None, names):
            index = find_stage(program, name)
            if index is not None and index != stage.index and index not in found:
                found.append(index)
    return found


def reachable(program: Program, start: int, bases: Mapping[int, int]) -> set[int]:
    """``start`` and every stage it needs, directly or not."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        index = waiting.pop()
        if index not in seen:
            seen.add(index)
            waiting += stage_dependencies(program, program.stages[index], bases)
    return seen


class Reader:
    """Reads the instructions of one stage in order, keeping ``scope`` up to date."""

    def __init__(
        self, scope: Scope, globals_: Mapping[str, str], given: Mapping[str, str], escape: str
    ) -> None:
        self.scope = scope
        self._globals = globals_
        self._given = given
        self._escape = escape

    def read(self, instruction: Instruction) -> Reading:
        """Expand ``instruction`` and let it take effect.

        DockerfileError for what no environment would mend.
        """
        if isinstance(instruction, Arg):
            return self._arguments(instruction)
        variables = Variables(self.scope.environment, self._escape)
        try:
            instruction = expand_with(instruction, variables)
        except DockerfileError as error:
            if self.scope.complete or not _may_be_mended(error, variables):
                raise
            return Reading(instruction, (), False)
        match instruction:
            case Env(pairs=pairs):
                self.scope.environment.update(pairs)
            case ShellInstruction(words=words):
                self.scope.shell = words
        return Reading(instruction, self._undeclared(variables.missed))

    def _arguments(self, instruction: Arg) -> Reading:
        missed: list[str] = []
        for definition in instruction.arguments:
            value = self._value(instruction, definition, missed)
            if value is not None and definition.name not in CONTROL_ARGUMENTS:
                self.scope.environment[definition.name] = value
            self.scope.declared.append(definition.name)
        return Reading(instruction, tuple(missed))

    def _value(self, instruction: Arg, definition: ArgDefinition, missed: list[str]) -> str | None:
        if definition.name in self._given:
            return self._given[definition.name]
        if definition.value is None:
            return self._globals.get(definition.name)
        variables = Variables(self.scope.environment, self._escape)
        single = Arg(instruction.location, instruction.original, (definition,))
        try:
            expanded = expand_with(single, variables)
        except DockerfileError as error:
            if self.scope.complete or not _may_be_mended(error, variables):
                raise
            return None
        missed += self._undeclared(variables.missed)
        assert isinstance(expanded, Arg)
        return expanded.arguments[0].value

    def _undeclared(self, names: Sequence[str]) -> tuple[str, ...]:
        declared = set(self.scope.declared)
        return tuple(name for name in names if name not in declared and name not in CONTROL_ARGUMENTS)


def _may_be_mended(error: DockerfileError, variables: Variables) -> bool:
    """Whether the variables of a base image that is not known could make the error go away."""
    return error.reason == "unset-variable" or (error.reason != "bad-substitution" and bool(variables.missed))


def triggers(stage: Stage) -> Iterator[str]:
    """What ``stage``'s ONBUILD instructions leave for its children."""
    for instruction in stage.instructions:
        if isinstance(instruction, OnBuild):
            yield instruction.expression
