"""Mistakes mended in the text of a Dockerfile: only the lines that need it, everything else as it was.

Stages that start from the same FROM line are moved together, and only if every command in them is known to be
the same on the build platform, or can be told to compile for the target.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from polyarch.dockerfile.ast import Dockerfile, Node
from polyarch.dockerfile.instructions import Arg, Copy, Env, Instruction, Run, Stage, User
from polyarch.dockerfile.lint import Finding
from polyarch.graph.stages import StagePlan, StageState
from polyarch.oci.platform import Platform
from polyarch.proof.commands import text_of
from polyarch.proof.compilers import DOTNET, RUST, C, Compiler, compiler_of
from polyarch.proof.movable import check
from polyarch.proof.raw_commands import Edit, RawCommand, Word, apply, raw_commands, span_of
from polyarch.proof.rewriting import C_SETUP, Change, Refused, change, for_target, packages
from polyarch.proof.rewriting import Stage as Moved

_SYSTEM = re.compile(r"/?(?:$|(?:usr/)?(?:s?bin|lib(?:32|64|x32)?)(?:/|$)|usr/local/s?bin(?:/|$)|\*)")
_HELPERS = frozenset(
    "configure strip ar ranlib ld objcopy nm pkg-config cmake gcc g++ cc c++ clang clang++".split()
)
_DEBIAN = ("gcc", "buildpack-deps", "debian", "ubuntu")
_NOT_C = re.compile(r"golang|rust|node|python|dotnet|zig|ruby|php|swift|haskell|openjdk|maven|gradle")
_ONE_PLATFORM = re.compile(r"\s--platform=\S+")


@dataclass(frozen=True)
class Fix:
    """What is done about one mistake: ``edits`` of the source, or why there are none (``refused``)."""

    rule: str
    line: int
    edits: tuple[Edit, ...] = ()
    refused: str = ""


@dataclass
class _Group:
    """The stages that start from one FROM line, in order, and what they run."""

    root: Stage
    members: list[StageState]
    moves: bool


@dataclass
class Fixer:
    """Finds fixes in one Dockerfile for one target platform that is foreign."""

    parsed: Dockerfile
    plan: StagePlan
    runs_natively: Callable[[Platform], bool]
    targets: Sequence[Platform] = ()
    cgo: str = ""  # the file that shows that a Go program needs a C compiler
    _nodes: dict[int, Node] = field(default_factory=dict)
    _declares: set[tuple[int, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._nodes = {node.start: node for node in self.parsed.nodes}

    # --- stages that compile --------------------------------------------------------------------------------

    def compiling(self, state: StageState) -> Fix:
        """How the stages that share ``state``'s base compile for the target on the build platform."""
        group = self._group(state)
        line = group.root.base.location.start if group else state.location.start
        if group is None:
            return Fix("EmulatedCompiler", line, refused="its base is not a FROM line of its own")
        try:
            return Fix("EmulatedCompiler", line, tuple(self._edits(group)))
        except Refused as why:
            return Fix("EmulatedCompiler", line, refused=str(why))

    def compiling_at(self, finding: Finding) -> Fix | None:
        """The same for the stage in which a finding's instruction stands, or out of which it copies."""
        for state in self._reachable():
            for instruction in state.instructions:
                if instruction.location.start == finding.location.start:
                    copied = next((s for s in state.sources.get(id(instruction), ()) if s is not None), None)
                    return self.compiling(copied if isinstance(instruction, Copy) and copied else state)
        return None

    def _group(self, state: StageState) -> _Group | None:
        while state.parent is not None:
            state = state.parent
        if state.external or state.named is not None:
            return None
        members = [other for other in self._reachable() if _root(other) is state]
        root = self._written(state)
        if root is None:
            return None
        return _Group(root, members, moves="BUILD" not in root.base.platform)

    def _reachable(self) -> list[StageState]:
        order = {id(state): number for number, state in enumerate(self.plan.states)}
        found = self.plan.reachable(self.plan.target())
        return sorted((s for s in found if not s.external), key=lambda state: order[id(state)])

    def _edits(self, group: _Group) -> Iterator[Edit]:
        if self.parsed.escape != "\\":
            raise Refused("lines are continued with another character")
        image = set(map(id, self._chain()))
        if any(id(member) in image for member in group.members):
            raise Refused("the stage becomes the image itself")
        if group.moves:
            yield self._moved(group.root)
        moved = self._described(group)
        self._check(group, moved)
        done: dict[int, set[str]] = {}  # what each stage has declared or set up
        for member in group.members:
            have = set(done.get(id(member.parent), set()))
            done[id(member)] = have
            for instruction in member.instructions[member.triggers :]:
                match instruction:
                    case Arg(arguments=arguments):
                        have |= {item.name for item in arguments}
                    case Run():
                        yield from self._run(instruction, moved, have, group)

    def _check(self, group: _Group, moved: Moved) -> None:
        """Raise Refused unless everything the stages run may run on the build platform."""
        written = [self._written(member) for member in group.members]
        if any("TARGET" in stage.base.base for stage in written if stage is not None):
            raise Refused("its base is chosen by the platform")
        instructions = [one for member in group.members for one in member.instructions[member.triggers :]]
        commands = [c for one in instructions if isinstance(one, Run) for c in self._commands(one)]
        compilers = {found for command in commands if (found := compiler_of(command.texts)) is not None}
        off = moved.settings.get("CGO_ENABLED") == "0"
        off = off or any("CGO_ENABLED=0" in one.original for one in instructions)
        for command in commands:
            if compiler_of(command.texts) is None:
                check(command, compilers, cgo_is_off=off)
        users = [one.user for one in instructions if isinstance(one, User)]
        if {C, RUST} & compilers and any(user not in ("root", "0") for user in users):
            raise Refused("it does not run as root, who alone can install a cross compiler")

    def _written(self, state: StageState) -> Stage | None:
        position = next((n for n, other in enumerate(self.plan.states) if other is state), -1)
        stages = self.plan.program.stages
        return stages[position] if 0 <= position < len(stages) else None

    def _moved(self, root: Stage) -> Edit:
        start, end = span_of(self.parsed, self._nodes[root.base.location.start])
        text = self.parsed.source[start:end]
        given = re.search(r"--platform=\S*", text)
        if given is not None and "TARGETPLATFORM" in given[0]:
            return Edit(start + given.start(), start + given.end(), "--platform=$BUILDPLATFORM")
        match = re.match(r"\s*FROM\s+", text, re.I)
        if given is not None or match is None:
            raise Refused("its FROM line names a platform")
        return Edit(start + match.end(), start + match.end(), "--platform=$BUILDPLATFORM ")

    def _described(self, group: _Group) -> Moved:
        members = set(map(id, group.members))
        copied: list[str] = []
        for state in self._reachable():
            for instruction in state.instructions if id(state) not in members else ():
                if not any(id(source) in members for source in state.sources.get(id(instruction), ())):
                    continue
                if not isinstance(instruction, Copy):
                    raise Refused("another stage mounts it")
                copied += instruction.sources
        texts = "\n".join(
            text_of(i) if isinstance(i, Run) else i.original for m in group.members for i in m.instructions
        )
        for path in copied:
            named = re.search(rf"(?<![\w/.-]){re.escape(path)}(?![\w/.-])", texts)
            if _SYSTEM.match(path) and not (named and path.strip("/")):
                raise Refused(f"{path} is copied out of it, which would be the build platform's")
        instructions = [one for member in group.members for one in member.instructions]
        settings = {name: value for one in instructions if isinstance(one, Env) for name, value in one.pairs}
        if settings.get("CGO_ENABLED") == "1":
            raise Refused("cgo needs a C compiler for the target")
        return Moved(
            tuple(copied),
            settings,
            any(target.architecture == "arm" for target in self.targets),
            "apt-get" in texts or group.root.base.base.startswith(_DEBIAN),
            "alpine" in group.root.base.base or "apk add" in texts,
            "" if settings.get("CGO_ENABLED") == "0" or "CGO_ENABLED=0" in texts else self.cgo,
        )

    def _run(self, run: Run, moved: Moved, have: set[str], group: _Group) -> Iterator[Edit]:
        """The edits of one RUN and of what must stand before it."""
        commands = self._commands(run)
        only_c = not _NOT_C.search(group.root.base.base.lower())
        changes: list[Change] = []
        for command in commands:
            compiler = _compiler(command, in_c=only_c and moved.apt)
            name = command.words[0].text.rpartition("/")[2]
            if compiler is None:
                libraries = list(packages(command)) if only_c else []
                if libraries:
                    changes.append(Change(tuple(map(for_target, libraries)), ("TARGETARCH",), C_SETUP))
                continue
            if compiler is C and not only_c:
                raise Refused(f"what {name} compiles cannot be told")
            if not run.command.shell:
                raise Refused("the command has no shell that could expand $TARGETARCH")
            changes.append(change(compiler, command, moved))
        yield from self._before(run, changes, have)
        for one in changes:
            yield from one.edits

    def _before(self, run: Run, changes: Sequence[Change], have: set[str]) -> Iterator[Edit]:
        wanted = list(dict.fromkeys(name for one in changes for name in one.arguments if name not in have))
        text = f"ARG {' '.join(wanted)}\n" if wanted else ""
        for setup in dict.fromkeys(one.setup for one in changes if one.setup):
            if setup not in have:
                text += setup
                have.add(setup)
        have |= set(wanted)
        if text:
            yield self._line_before(run, text)

    def _line_before(self, instruction: Instruction, text: str) -> Edit:
        """``text`` on lines of its own above an instruction and the comments that belong to it."""
        node = self._nodes[instruction.location.start]
        start, _ = span_of(self.parsed, node)
        for _ in node.comments:
            above = self.parsed.source.rfind("\n", 0, max(0, start - 1)) + 1
            if not self.parsed.source[above:start].lstrip().startswith("#"):
                break
            start = above
        newline = "\r\n" if "\r\n" in self.parsed.source else "\n"
        return Edit(start, start, text.replace("\n", newline))

    def _commands(self, run: Run) -> list[RawCommand]:
        if not text_of(run):
            return []
        start, end = span_of(self.parsed, self._nodes[run.location.start])
        if not run.command.shell:
            words = [Word(word, start, start) for word in run.command.words]
            return [RawCommand(head=start, words=words)] if words else []
        return raw_commands(self.parsed.source, start, end)

    def _chain(self) -> Iterator[StageState]:
        """The target and what it starts from."""
        state: StageState | None = self.plan.target()
        while state is not None:
            yield state
            state = state.parent

    # --- other mistakes -------------------------------------------------------------------------------------

    def other(self, finding: Finding) -> Fix | None:
        """What is done about a finding that takes no more than a word or a line; None when that is not it."""
        node = self._nodes.get(finding.location.start)
        if node is None:
            return None
        start, end = span_of(self.parsed, node)
        match finding.rule:
            case "FinalStageOnBuildPlatform":
                place = _ONE_PLATFORM.search(self.parsed.source, start, end)
                chain = set(map(id, self._chain()))
                shared = any(
                    id(_root(state)) in chain and id(state) not in chain for state in self._reachable()
                )
                if place is None or shared:
                    return Fix(finding.rule, node.start, refused="other stages start from the same line")
                return Fix(finding.rule, node.start, (Edit(place.start(), place.end(), ""),))
            case "PlatformArgumentNotDeclared":
                name = re.match(r"\$(\w+)", finding.message)
                return Fix(finding.rule, node.start, self._declared(node, name[1])) if name else None
            case "HardCodedArchitecture" if node.keyword == "RUN":
                return self._architecture(finding.rule, node, start, end)
        return None

    def _declared(self, node: Node, name: str) -> tuple[Edit, ...]:
        """``ARG name`` before a node, once for each stage."""
        stages = (one.start for one in self.parsed.nodes if one.keyword == "FROM" and one.start < node.start)
        stage = max(stages, default=0)
        if (stage, name) in self._declares:
            return ()
        self._declares.add((stage, name))
        instruction = Instruction(self.parsed.location(node), node.original)
        return (self._line_before(instruction, f"ARG {name}\n"),)

    def _architecture(self, rule: str, node: Node, start: int, end: int) -> Fix | None:
        """``GOARCH=amd64`` before a command; addresses may have other names for the target."""
        for command in raw_commands(self.parsed.source, start, end):
            given = command.assignments.get("GOARCH")
            if given is not None and "$" not in given.text:
                edit = Edit(given.start, given.end, "GOARCH=$TARGETARCH")
                return Fix(rule, node.start, (*self._declared(node, "TARGETARCH"), edit))
        return Fix(rule, node.start, refused="what it is called for other platforms is not known here")


def _root(state: StageState) -> StageState:
    while state.parent is not None:
        state = state.parent
    return state


def _compiler(command: RawCommand, *, in_c: bool) -> Compiler | None:
    texts = command.texts
    found = compiler_of(texts)
    name = texts[0].rpartition("/")[2]
    if found is None and in_c and name in _HELPERS and (len(texts) > 1 or name == "configure"):
        return C
    return DOTNET if found is None and texts[:2] == ["dotnet", "restore"] else found


def mended(source: str, fixes: Sequence[Fix]) -> str:
    """The source with all fixes; an ARG that two of them want is there once."""
    edits = list(dict.fromkeys(edit for fix in fixes for edit in fix.edits))
    return apply(source, edits)


def changed_lines(source: str, fix: Fix) -> str:
    """The lines that a fix changes, old ones with ``-`` and new ones with ``+``."""
    before, after = source.splitlines(), mended(source, [fix]).splitlines()
    lines = difflib.ndiff(before, after)
    return "\n".join(line.rstrip() for line in lines if line[:2] in ("- ", "+ "))
