"""Mistakes of multi-platform Dockerfiles, found in the plan: which stage runs what, where and for whom.

Looked for only where they matter: when some target is not what this machine is. They are warnings; each has a
page under ``docs/mistakes``, and ``# check=skip=RULE`` turns one off, in the file or above an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from polyarch.dockerfile.ast import Dockerfile
from polyarch.dockerfile.instructions import Add, Arg, Copy, Env, Instruction, Run, Stage
from polyarch.dockerfile.lint import Finding
from polyarch.dockerfile.lint_options import options_of, skipped_at
from polyarch.dockerfile.lint_rules import RULES as LINT_RULES
from polyarch.dockerfile.lint_rules import Rule
from polyarch.errors import Location
from polyarch.graph.stages import SCRATCH, StagePlan, StageState
from polyarch.graph.vertex import ImageOp
from polyarch.oci.platform import Platform
from polyarch.proof.commands import commands_of, text_of
from polyarch.proof.compilers import compiler_of
from polyarch.proof.cross_checks import ignores_variant, shared_caches

PAGES = "docs/mistakes"
RULES: dict[str, str] = {
    "EmulatedCompiler": "Compilers run on the build platform and compile for the target",
    "FinalStageOnBuildPlatform": "The final stage is for the target platform",
    "HardCodedArchitecture": "The architecture comes from TARGETARCH",
    "UnameUnderCross": "Under cross-compilation the target is what TARGETARCH says",
    "PlatformArgumentNotDeclared": "Platform arguments are declared in the stage that uses them",
    "BasePinnedToOnePlatform": "A base is pinned by the digest of its index",
    "SharedCache": "What is compiled for different targets is kept apart",
    "VariantIgnored": "TARGETVARIANT tells ARM's versions apart",
    "CopyOfBuildPlatformBinaries": "Programs that are copied into the image are for its platform",
}
_TARGET = frozenset({"TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT"})
_PREDEFINED = _TARGET | {"BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT"}
_USE = re.compile(r"(?<!\\)\$(?:\{(\w+)(?!\w|:?[-+?])|(\w+))")  # not ${X:-default}, which knows of it
_ARCHITECTURE = r"(?:amd64|x86[_-]64|arm64|aarch64|armv[67]\w*|armhf|i[36]86|riscv64|s390x|ppc64le)"
_NAMED = re.compile(rf"(?<![A-Za-z0-9]){_ARCHITECTURE}(?![A-Za-z0-9])")
_URL = re.compile(r"(?:https?|ftp)://[^\s'\";|&)]+")
_PACKAGE = re.compile(rf"[\w.+~-]*[_.-]{_ARCHITECTURE}\.(?:deb|rpm|apk)\b")
_GOARCH = re.compile(rf"\bGOARCH=[\"']?({_ARCHITECTURE})\b")
_CHOOSES = re.compile(
    r"\$\{?TARGET(?:ARCH|PLATFORM|VARIANT)|\buname\s+-\w*[ampi]|print-architecture|\$\(arch\)|`arch`|"
    r"\bcase\b|--print-foreign|BUILDARCH"
)
_BINARIES = re.compile(r"(?:^|/)s?bin(?:/|$)")
_NO_BINARY = re.compile(r"\.(?:sh|py|js|mjs|rb|pl|jar|json|txt|html?|css|conf|ya?ml|php|war|pem|crt)$|/$")


@dataclass
class _Stage:
    """A stage as the checks see it. ``root`` is the stage of the Dockerfile it starts from in the end."""

    state: StageState
    root: Stage | None
    on_build: bool  # runs on the build platform because its FROM says so
    instructions: list[Instruction]
    inherited: frozenset[str]  # names that are set when it begins

    @property
    def reads_target(self) -> bool:
        """Whether a target argument was ever declared in it or in what it starts from."""
        state: StageState | None = self.state
        while state is not None:
            if _TARGET & (set(state.arguments) | set(state.environment)):
                return True
            state = state.parent
        return False


def find_mistakes(
    parsed: Dockerfile, plans: Sequence[StagePlan], runs_natively: Callable[[Platform], bool]
) -> tuple[Finding, ...]:
    """The findings in the order of the lines. ``plans`` are converted: their stages know their platforms."""
    foreign = [plan for plan in plans if not runs_natively(plan.target_platform)]
    if not foreign:
        return ()
    finder = _Finder(parsed, foreign[0], runs_natively, [plan.target_platform for plan in plans])
    for state in foreign[0].reachable(foreign[0].target()):
        if not state.external and state.named is None:
            finder.stage(finder.described(state))
    finder.final()
    if len(plans) > 1:
        for plan in plans:
            finder.pinned(plan)
    return tuple(sorted(finder.found.values(), key=lambda finding: finding.location.start))


@dataclass
class _Finder:
    parsed: Dockerfile
    plan: StagePlan
    runs_natively: Callable[[Platform], bool]
    targets: Sequence[Platform] = ()
    found: dict[tuple[str, int], Finding] = field(default_factory=dict)

    def report(self, rule: str, message: str, location: Location) -> None:
        chosen = options_of(self.parsed)
        if not chosen.wants(Rule(rule, RULES[rule])):
            return
        for node in self.parsed.nodes:
            if self.parsed.location(node).start == location.start:
                skipped = skipped_at(node)
                if rule in skipped or skipped >= set(LINT_RULES):
                    return
        finding = Finding(rule, message, RULES[rule], f"{PAGES}/{rule}.md", location)
        self.found.setdefault((rule, location.start), finding)

    def described(self, state: StageState) -> _Stage:
        """``state`` with what the checks ask of it."""
        root = state
        while root.parent is not None:
            root = root.parent
        stage = self._written(root)
        own = state.instructions[state.triggers :]
        declared = {
            name
            for instruction in own
            for name in (
                *(item.name for item in (instruction.arguments if isinstance(instruction, Arg) else ())),
                *(pair[0] for pair in (instruction.pairs if isinstance(instruction, Env) else ())),
            )
        }
        inherited = set(state.environment) - declared
        if state.parent is not None:
            inherited |= set(state.parent.environment)
        return _Stage(
            state, stage, stage is not None and "BUILD" in stage.base.platform, own, frozenset(inherited)
        )

    def _written(self, state: StageState) -> Stage | None:
        for position, other in enumerate(self.plan.states):
            if other is state and position < len(self.plan.program.stages):
                return self.plan.program.stages[position]
        return None

    # --- a stage --------------------------------------------------------------------------------------------

    def stage(self, stage: _Stage) -> None:
        """Every check of one stage, its instructions in order."""
        declared = set(stage.inherited)
        for instruction in stage.instructions:
            match instruction:
                case Arg(arguments=arguments):
                    declared |= {item.name for item in arguments}
                case Env(pairs=pairs):
                    self._hard_coded(stage, instruction, " ".join(f"{k}={v}" for k, v in pairs))
                    declared |= {name for name, _ in pairs}
                case Run():
                    self._run(stage, instruction, declared)
                case Add(sources=sources):
                    self._hard_coded(stage, instruction, " ".join(sources))
                    self._variant(stage, instruction, " ".join(sources))
                case Copy() if instruction.from_:
                    self._copy(stage, instruction)

    def _run(self, stage: _Stage, run: Run, declared: set[str]) -> None:
        text = text_of(run)
        if not text:
            return
        used = {match[1] or match[2] for match in _USE.finditer(text)} & _PREDEFINED
        for name in sorted(used - declared):
            if not re.search(rf"\b{name}=", text) and run.command.shell:
                message = f"${name} is empty in this stage: write ARG {name} before it"
                self.report("PlatformArgumentNotDeclared", message, run.location)
        self._hard_coded(stage, run, text)
        self._variant(stage, run, text)
        commands = list(commands_of(text))
        if self._is_emulated(stage):
            self._compilers(stage, run, commands)
        elif stage.on_build and declared & _TARGET:
            self._caches(run, text, commands)
        if stage.on_build and declared & _TARGET and not re.search(r"\$\{?(?:TARGET|BUILD)[A-Z]+", text):
            self._uname(run, commands)

    def _caches(self, run: Run, text: str, commands: list[list[str]]) -> None:
        for place in shared_caches(run, text, commands):
            message = (
                f"objects for every target are kept in {place} together; put $TARGETARCH into the "
                "mount's id or target"
            )
            self.report("SharedCache", message, run.location)

    def _variant(self, stage: _Stage, instruction: Instruction, text: str) -> None:
        whole = " ".join(one.original for one in stage.instructions)
        if ignores_variant(text, whole, self.targets):
            message = (
                "TARGETARCH is arm for every version of ARM; the targets have several, or old ones: "
                "use TARGETVARIANT, too"
            )
            self.report("VariantIgnored", message, instruction.location)

    def _is_emulated(self, stage: _Stage) -> bool:
        platform = stage.state.platform
        return platform is not None and not self.runs_natively(platform)

    def _compilers(self, stage: _Stage, run: Run, commands: list[list[str]]) -> None:
        for words in commands:
            compiler = compiler_of(words)
            if compiler is not None:
                shown = " ".join(words[:2])
                message = (
                    f"{shown} runs emulated for {stage.state.platform}; {compiler.name} can compile for it "
                    "on the build platform, many times faster"
                )
                if self._becomes_the_image(stage.state):
                    message += "; do so in a stage of its own, and copy what it makes"
                else:
                    message += self._suggestion(stage.state)
                self.report("EmulatedCompiler", message, run.location)
                return

    def _suggestion(self, state: StageState) -> str:
        """The rewritten lines, as a diff behind the message."""
        from polyarch.proof.fixing import Fixer, changed_lines

        fix = Fixer(self.parsed, self.plan, self.runs_natively, self.targets).compiling(state)
        if fix.refused:
            return f" (no lines are suggested: {fix.refused})"
        return f"; `polyarch fix` does so:\n{changed_lines(self.parsed.source, fix)}\n"

    def _becomes_the_image(self, state: StageState) -> bool:
        """Whether the target starts from ``state``, or is it."""
        target: StageState | None = self.plan.target()
        while target is not None and target is not state:
            target = target.parent
        return target is not None

    def _uname(self, run: Run, commands: list[list[str]]) -> None:
        for words in commands:
            asks = words[0] == "uname" and any(re.fullmatch(r"-\w*[mpi]\w*", word) for word in words[1:])
            asks = asks or words[:2] == ["dpkg", "--print-architecture"] or words == ["arch"]
            if asks:
                shown = " ".join(words[:2])
                message = f"{shown} tells the build platform's architecture here; the target's is $TARGETARCH"
                self.report("UnameUnderCross", message, run.location)
                return

    def _hard_coded(self, stage: _Stage, instruction: Instruction, text: str) -> None:
        names = {stage.state.name, stage.root.name if stage.root else ""}
        if any(_NAMED.search(name.replace("_", "-")) for name in names) or _CHOOSES.search(text):
            return
        if stage.root is not None and stage.root.base.platform and not stage.on_build:
            return  # FROM --platform=linux/amd64 says so itself
        found = _GOARCH.search(text)
        shown = found[0] if found else ""
        if not shown and not stage.on_build:
            places = [match[0] for match in (*_URL.finditer(text), *_PACKAGE.finditer(text))]
            shown = next((place for place in places if _NAMED.search(place)), "")
        architectures = {match[0] for match in _NAMED.finditer(text)}
        if shown and len(architectures) == 1:
            short = shown if len(shown) <= 80 else "…" + shown[-79:]
            message = f"{short} is for {architectures.pop()} whatever the target is; use $TARGETARCH"
            self.report("HardCodedArchitecture", message, instruction.location)

    def _copy(self, stage: _Stage, copy: Copy) -> None:
        source = next(iter(stage.state.sources.get(id(copy), [])), None)
        if source is None or source.external or source.named is not None:
            return
        origin = self.described(source)
        platform = stage.state.platform
        if not origin.on_build or origin.reads_target or stage.on_build or platform is None:
            return
        if self.runs_natively(platform):
            return
        compiled = self._compiles(origin)
        for path in copy.sources:
            place = f"{copy.destination} {path}"
            system = re.match(r"/?(?:usr/)?(?:local/)?s?bin/", path)
            binary = _BINARIES.search(path) or _BINARIES.search(copy.destination)
            if _NO_BINARY.search(path) or not binary or not (compiled or system) or "$" in place:
                continue
            name = origin.state.name or origin.state.label
            message = (
                f"{path} comes from {name}, which runs on the build platform and never reads a TARGET "
                f"argument: it is a program for the build platform, not for {platform}"
            )
            self.report("CopyOfBuildPlatformBinaries", message, copy.location)
            return

    def _compiles(self, stage: _Stage) -> bool:
        """Whether native code is compiled in a stage or in what it starts from."""
        state: StageState | None = stage.state
        while state is not None:
            for instruction in state.instructions:
                if isinstance(instruction, Run):
                    for words in commands_of(text_of(instruction)):
                        compiler = compiler_of(words)
                        if compiler is not None and compiler.native:
                            return True
            state = state.parent
        return False

    # --- the whole ------------------------------------------------------------------------------------------

    def final(self) -> None:
        """The stage that becomes the image."""
        target = self.plan.target()
        if self.plan.options.target and target is not self._last():
            return  # --target picks a stage for its files, or to test
        stage = self.described(target)
        if not stage.on_build or stage.root is None or stage.root.base.base == SCRATCH:
            return
        message = (
            f"the image for {self.plan.target_platform} starts from a base for the build platform; leave "
            f"--platform={stage.root.base.platform} out here"
        )
        self.report("FinalStageOnBuildPlatform", message, stage.root.base.location)

    def _last(self) -> StageState:
        return [state for state in self.plan.states if not state.external][-1]

    def pinned(self, plan: StagePlan) -> None:
        """Bases by the digest of one platform's manifest, where several platforms are asked for."""
        for state in plan.reachable(plan.target()):
            written = self._written_in(plan, state)
            if written is None or "@sha256:" not in written.base.base or state.parent is not None:
                continue
            for image in self._images(state):
                if image.reference.rpartition("@")[2] == image.manifest:
                    message = "this digest is of one platform's manifest; pin the digest of the index"
                    self.report("BasePinnedToOnePlatform", message, written.base.location)

    @staticmethod
    def _written_in(plan: StagePlan, state: StageState) -> Stage | None:
        position = next((n for n, other in enumerate(plan.states) if other is state), -1)
        return plan.program.stages[position] if 0 <= position < len(plan.program.stages) else None

    @staticmethod
    def _images(state: StageState) -> Iterator[ImageOp]:
        """The base image behind a stage's steps."""
        pending = [state.vertex] if state.vertex is not None else []
        while pending:
            vertex = pending.pop()
            if isinstance(vertex.op, ImageOp):
                yield vertex.op
            elif vertex.inputs:
                pending.append(vertex.inputs[0])
