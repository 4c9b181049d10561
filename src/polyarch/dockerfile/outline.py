"""What a Dockerfile offers its users: ``--call targets`` and ``--call outline``, as data for JSON.

The keys are those of docker's own output, so that tools which read one read the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polyarch.dockerfile import shell
from polyarch.dockerfile.dump import dump_location
from polyarch.dockerfile.instructions import Arg, ArgDefinition, Instruction, Run, RunMount, Stage
from polyarch.dockerfile.program import Program
from polyarch.dockerfile.scope import (
    DEFAULT_PATH,
    Inputs,
    Reader,
    Reading,
    Scope,
    find_stage,
    global_arguments,
    local_bases,
    predefined_arguments,
    stage_dependencies,
)
from polyarch.errors import Location, UsageError

Json = dict[str, Any]


def targets(program: Program) -> Json:
    """The stages: name, description, base, platform, which is the default. Empty values are left out."""
    last = program.stages[-1].index
    found = []
    for stage in program.stages:
        entry: Json = {
            "name": stage.name,
            "default": stage.index == last,
            "description": stage.base.comment,
            "base": stage.base.base,
            "platform": stage.base.platform,
        }
        found.append(_without_empty(entry) | {"location": dump_location(stage.base.location)})
    return {"targets": found}


def outline(program: Program, *, inputs: Inputs | None = None) -> Json:
    """What can be given to a build of one target: arguments, secrets, ssh agents; and its cache mounts.

    Whatever the stages it needs can be given counts too. UsageError for a target that does not exist.
    """
    inputs = inputs or Inputs()
    index = find_stage(program, inputs.target) if inputs.target else program.stages[-1].index
    if index is None:
        from polyarch.dockerfile.characters import did_you_mean

        names = [stage.name for stage in program.stages if stage.name]
        hint = did_you_mean(inputs.target, names) or "the stages are " + ", ".join(names)
        raise UsageError(f"there is no stage {inputs.target!r}", hint=hint, reason="unknown-target")
    collector = _Collector(program, inputs)
    collector.collect(index)
    stage = program.stages[index]
    found = _without_empty({"name": stage.name, "description": stage.base.comment})
    for key, entries in collector.found.items():
        if entries:
            ordered = sorted(entries.values(), key=lambda entry: entry[0])
            found[key] = [entry for _, entry in ordered]
    return found


@dataclass
class _Outline:
    """What one stage takes: entries by name."""

    arguments: dict[str, tuple[ArgDefinition, str, Instruction]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    mounts: list[tuple[RunMount, Instruction]] = field(default_factory=list)


class _Collector:
    def __init__(self, program: Program, inputs: Inputs) -> None:
        self._program = program
        self._inputs = inputs
        predefined = predefined_arguments(inputs, inputs.target or program.stages[-1].name)
        self._values = global_arguments(program, predefined, inputs.build_args)
        self._bases = local_bases(program, self._values)
        self._globals, self._needs = self._global_arguments(predefined)
        self._stages: dict[int, tuple[_Outline, Scope]] = {}
        self._seen: set[int] = set()
        self.found: dict[str, dict[str, tuple[int, Json]]] = {
            "args": {},
            "secrets": {},
            "ssh": {},
            "cache": {},
        }

    def _global_arguments(
        self, predefined: Mapping[str, str]
    ) -> tuple[dict[str, tuple[ArgDefinition, str, Instruction]], dict[str, frozenset[str]]]:
        """The ARGs above the first FROM, and which names each default uses."""
        found: dict[str, tuple[ArgDefinition, str, Instruction]] = {}
        needs: dict[str, frozenset[str]] = {}
        values = dict(predefined)
        for instruction in self._program.arguments:
            for definition in instruction.arguments:
                value = self._inputs.build_args.get(definition.name)
                if value is None and definition.value is not None:
                    word = shell.expand_tracked(definition.value, values, escape=self._program.escape)
                    value, needs[definition.name] = word.text, word.used
                if value is not None:
                    values[definition.name] = value
                found[definition.name] = (definition, value or "", instruction)
        return found, needs

    def collect(self, index: int) -> None:
        """Add what the stage and those it needs can be given. A name seen first stays."""
        pending = [index]
        while pending:
            index = pending.pop()
            if index not in self._seen:
                self._seen.add(index)
                self._collect(index)
                stage = self._program.stages[index]
                pending += reversed(stage_dependencies(self._program, stage, self._bases))

    def _collect(self, index: int) -> None:
        taken, _ = self._read(index)
        waiting = list(taken.used)
        while waiting:
            name = waiting.pop()
            waiting += [need for need in self._needs.get(name, ()) if need not in taken.used]
            taken.used |= self._needs.get(name, frozenset())
            if name in taken.arguments:
                definition, value, instruction = taken.arguments[name]
                entry = {"name": name, "description": definition.comment, "value": value}
                self._add("args", name, _without_empty(entry), instruction.location)
        for mount, instruction in taken.mounts:
            self._add_mount(mount, instruction)

    def _add(self, key: str, name: str, entry: Json, location: Location) -> None:
        lines = {"location": dump_location(location)}
        self.found[key].setdefault(name, (location.start, entry | lines))

    def _add_mount(self, mount: RunMount, instruction: Instruction) -> None:
        location = instruction.location
        match mount.type:
            case "secret" | "ssh":
                name = mount.id or mount.source or mount.target.rpartition("/")[2] or "default"
                entry = _without_empty({"name": name, "required": mount.required})
                self._add("secrets" if mount.type == "secret" else "ssh", name, entry, location)
            case "cache":
                name = mount.id or mount.target
                self._add("cache", name, {"id": name}, location)

    def _read(self, index: int) -> tuple[_Outline, Scope]:
        unread = []
        base: int | None = index
        while base is not None and base not in self._stages:
            unread.append(base)
            base = self._bases.get(base)
        for each in reversed(unread):
            self._stages[each] = self._read_stage(self._program.stages[each])
        return self._stages[index]

    def _read_stage(self, stage: Stage) -> tuple[_Outline, Scope]:
        if stage.index in self._bases:
            scope = self._stages[self._bases[stage.index]][1].child()
        else:
            image = self._inputs.bases.get(stage.index)
            environment = {"PATH": DEFAULT_PATH, **(image.environment if image else {})}
            scope = Scope(environment, complete=image is not None or stage.base.base == "scratch")
        taken = _Outline(dict(self._globals))
        for word in (stage.base.base, stage.base.platform):
            taken.used |= shell.expand_tracked(word, self._values, escape=self._program.escape).used
        reader = Reader(scope, self._values, self._inputs.build_args, self._program.escape)
        for instruction in stage.instructions:
            self._take(reader.read(instruction), scope, taken)
        return taken, scope

    def _take(self, reading: Reading, scope: Scope, taken: _Outline) -> None:
        match reading.instruction:
            case Arg(arguments=definitions) as instruction:
                for definition in definitions:
                    name = definition.name
                    inherited = definition.value is None and name not in self._inputs.build_args
                    # One that only takes over a global value is described where that is declared.
                    if not inherited or name not in self._values:
                        taken.arguments[name] = (definition, scope.environment.get(name, ""), instruction)
                    taken.used.add(name)
            case Run(mounts=mounts) as instruction:
                taken.mounts += [(mount, instruction) for mount in mounts]


def _without_empty(entry: Json) -> Json:
    return {key: value for key, value in entry.items() if value not in ("", False, None)}
