"""Checks that follow the build: FROM lines with their arguments, then every stage's instructions in order."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from polyarch.dockerfile import shell
from polyarch.dockerfile.ast import Node
from polyarch.dockerfile.characters import closest
from polyarch.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Stage,
    Workdir,
)
from polyarch.dockerfile.lint import Context
from polyarch.dockerfile.ports import parse_port
from polyarch.dockerfile.program import parse_one
from polyarch.dockerfile.scope import (
    DEFAULT_PATH,
    BaseImage,
    Reader,
    Reading,
    Scope,
    find_stage,
    global_arguments,
    local_bases,
    predefined_arguments,
    reachable,
    triggers,
)
from polyarch.errors import DockerfileError, PolyarchError
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_REMOTE = re.compile(r"https?://|git://|ssh://|git@")


def check(context: Context) -> None:
    """Run every check of this module."""
    inputs, program = context.inputs, context.program
    last = program.stages[-1].index
    target = find_stage(program, inputs.target) if inputs.target else last
    target = last if target is None else target
    predefined = predefined_arguments(inputs, inputs.target or program.stages[-1].name)
    _default_bases(context, predefined)
    values = global_arguments(program, predefined, inputs.build_args)
    for (node, _), stage in zip(context.body(), program.stages, strict=True):
        _from(context, node, stage, values)
    if inputs.refused is not None:
        raise inputs.refused
    bases = local_bases(program, values)
    needed = reachable(program, target, bases)
    walker = _Walker(context, values, bases, needed)
    for (node, body), stage in zip(context.body(), program.stages, strict=True):
        if not inputs.target or stage.index in needed:
            walker.stage(node, body, stage)


def _default_bases(context: Context, predefined: dict[str, str]) -> None:
    """InvalidDefaultArgInFrom: as if no build argument had been given."""
    try:
        values = global_arguments(context.program, predefined, {})
    except DockerfileError:
        return
    for (node, _), stage in zip(context.body(), context.program.stages, strict=True):
        try:
            name = shell.expand(stage.base.base, values, escape=context.program.escape)
        except DockerfileError:
            return
        try:
            Reference.parse(name)
        except PolyarchError:
            shown = repr(name) if name else "nothing"
            message = f"with the defaults of its arguments {stage.base.base} is {shown}, which names no image"
            context.report("InvalidDefaultArgInFrom", message, node, None)


def _from(context: Context, node: Node, stage: Stage, values: dict[str, str]) -> None:
    declared = {item.name for arg in context.program.arguments for item in arg.arguments} | set(values)
    escape = context.program.escape
    for word, is_platform in ((stage.base.base, False), (stage.base.platform, True)):
        try:
            expansion = shell.expand_tracked(word, values, escape=escape)
        except DockerfileError as error:
            raise DockerfileError(
                error.summary, hint=error.hint, location=stage.base.location, reason=error.reason
            ) from None
        for name in sorted(expansion.unmatched - declared):
            message = f"${name} is not declared above the first FROM" + _near(name, declared)
            context.report("UndefinedArgInFrom", message, node, None)
        if is_platform and word:
            _platform(context, node, stage, expansion, values)


def _platform(
    context: Context, node: Node, stage: Stage, expansion: shell.Expansion, values: dict[str, str]
) -> None:
    text = expansion.text
    if expansion.used == {"TARGETPLATFORM"} and not expansion.unmatched and text == values["TARGETPLATFORM"]:
        message = f"--platform={stage.base.platform} is what FROM does by itself; leave it out"
        context.report("RedundantTargetPlatform", message, node, None)
    if expansion.used or expansion.unmatched:
        return
    try:
        platform = Platform.parse(text).normalized()
    except PolyarchError:
        return
    if platform.os not in stage.name and platform.architecture not in stage.name:
        message = f"--platform={text} is fixed; use $BUILDPLATFORM, or say so in the stage's name"
        context.report("FromPlatformFlagConstDisallowed", message, node, None)


def _keyword(instruction: Instruction) -> str:
    return type(instruction).__name__.upper()


def _near(name: str, known: Iterable[str]) -> str:
    near = closest(name, known)
    return f"; did you mean ${near}?" if near else ""


@dataclass
class _Walker:
    """Walks the stages in order and checks what their instructions do."""

    context: Context
    values: dict[str, str]
    bases: dict[int, int]
    needed: set[int]
    scopes: dict[int, Scope] = field(default_factory=dict)

    def stage(self, node: Node, body: list[Node], stage: Stage) -> None:
        scope = self._start(node, stage)
        self.scopes[stage.index] = scope
        reader = Reader(scope, self.values, self.context.inputs.build_args, self.context.program.escape)
        once: dict[str, Node] = {}
        if stage.index in self.needed:
            for expression in self._triggers(stage):
                instruction = parse_one(expression, location=stage.base.location)
                self._instruction(node, instruction, reader, once)
        for inner, instruction in zip(body, stage.instructions, strict=True):
            self._instruction(inner, instruction, reader, once)

    def _start(self, node: Node, stage: Stage) -> Scope:
        if stage.index in self.bases:
            return self.scopes[self.bases[stage.index]].child()
        image = self.context.inputs.bases.get(stage.index)
        if image is None and stage.base.base == "scratch":
            image = BaseImage()
        if image is None:
            return Scope({"PATH": DEFAULT_PATH}, complete=False)
        self._base_platform(node, stage, image)
        return Scope({"PATH": DEFAULT_PATH, **image.environment}, shell=image.shell)

    def _triggers(self, stage: Stage) -> list[str]:
        if stage.index in self.bases:
            return list(triggers(self.context.program.stages[self.bases[stage.index]]))
        image = self.context.inputs.bases.get(stage.index)
        return list(image.triggers) if image else []

    def _base_platform(self, node: Node, stage: Stage, image: BaseImage) -> None:
        wanted = self.context.target_platform
        if stage.base.platform:
            text = shell.expand(stage.base.platform, self.values, escape=self.context.program.escape)
            wanted = Platform.parse(text).normalized() if text else wanted
        found = image.platform
        if (
            wanted is None
            or found is None
            or (wanted.os, wanted.architecture) == (found.os, found.architecture)
        ):
            return
        message = f"{stage.base.base} is an image for {found.full()}, but {wanted.full()} is being built"
        self.context.report("InvalidBaseImagePlatform", message, node, None)

    def _instruction(
        self, node: Node, instruction: Instruction, reader: Reader, once: dict[str, Node]
    ) -> None:
        reading = reader.read(instruction)
        if reader.scope.complete and not isinstance(instruction, Expose):
            for name in reading.missed:
                message = f"${name} is not defined here" + _near(
                    name, {*reader.scope.environment, *reader.scope.declared}
                )
                self.context.report("UndefinedVar", message, node, None)
        if reading.expanded:
            self._content(node, reading, reader.scope)
        if isinstance(instruction, Cmd | Entrypoint | Healthcheck):
            kind = _keyword(instruction)
            if kind in once:
                message = f"there is another {kind} below in the same stage; only the last has an effect"
                self.context.report("MultipleInstructionsDisallowed", message, once[kind], None)
            once[kind] = node

    def _content(self, node: Node, reading: Reading, scope: Scope) -> None:
        report = self.context.report
        keyword = _keyword(reading.instruction)
        match reading.instruction:
            case Cmd(command=command) | Entrypoint(command=command) if command.shell and not scope.shell:
                message = f"{keyword} runs in a shell that keeps signals to itself; write it as a JSON array"
                report("JSONArgsRecommended", message, node, None)
            case Workdir(path=path):
                if not scope.workdir_set and not path.startswith("/"):
                    message = (
                        f"{path or '(nothing)'} is relative to the WORKDIR of whatever the base image is"
                    )
                    report("WorkdirRelativePath", message, node, None)
                scope.workdir_set = True
            case Arg(arguments=arguments):
                self._secrets(node, keyword, [definition.name for definition in arguments])
            case Env(pairs=pairs):
                self._legacy(node)
                self._secrets(node, keyword, [name for name, _ in pairs])
            case Label():
                self._legacy(node)
            case Expose(ports=ports):
                for text in ports:
                    self._port(node, text, reading)
            case Copy(from_="", sources=sources) | Add(sources=sources):
                self._ignored(node, sources)

    def _secrets(self, node: Node, keyword: str, names: Iterable[str]) -> None:
        for name in names:
            if _SECRET.search(name) and not _NO_SECRET.search(name):
                message = (
                    f"{name} looks like a secret, and {keyword} keeps it in the image; mount a secret instead"
                )
                self.context.report("SecretsUsedInArgOrEnv", message, node, None)

    def _legacy(self, node: Node) -> None:
        words = (node.trigger or node).arguments
        if "" in words[2::3]:
            keyword = (node.trigger or node).keyword
            message = f"write {keyword} name=value; the form with a space is deprecated"
            self.context.report("LegacyKeyValueFormat", message, node, None)

    def _port(self, node: Node, text: str, reading: Reading) -> None:
        try:
            spec = parse_port(text)
        except DockerfileError as error:
            location = reading.instruction.location
            raise DockerfileError(
                error.summary, hint=error.hint, location=location, reason=error.reason
            ) from None
        if spec.protocol != spec.protocol.lower():
            message = f"the protocol of {text} should be {spec.protocol.lower()!r}"
            self.context.report("ExposeProtoCasing", message, node, None)
        if spec.host:
            message = f"{text} names an address or a port of the host, which EXPOSE cannot set"
            self.context.report("ExposeInvalidFormat", message, node, None)

    def _ignored(self, node: Node, sources: Iterable[str]) -> None:
        matcher = self.context.ignore
        if matcher is None:
            return
        everything = any(pattern in ("*", "**", "**/*") for pattern in matcher.patterns)
        for source in sources:
            if _REMOTE.match(source):
                continue
            path = posixpath.normpath(source).strip("/") or "."
            kept_out = everything if path == "." else matcher.matches(path)
            if kept_out and not _let_in_again(path, matcher.patterns):
                message = f"{source} is kept out of the context by its ignore file"
                self.context.report("CopyIgnoredFile", message, node, None)


def _let_in_again(path: str, patterns: Iterable[str]) -> bool:
    """Whether an exception (``!pattern``) may let in something at or below ``path``, which may have
    wildcards itself."""
    fixed = [] if path == "." else path.split("/")
    for number, part in enumerate(fixed):
        if re.search(r"[*?\[]", part):
            fixed = fixed[:number]
            break
    for pattern in patterns:
        if pattern.startswith("!"):
            pattern = re.sub(r"\\(.)", r"\1", pattern)
            parts = pattern[1:].split("/")[: len(fixed)]
            if "**" in parts or (
                len(parts) == len(fixed)
                and all(fnmatch.fnmatchcase(name, part) for name, part in zip(fixed, parts, strict=True))
                and (path == "." or len(fixed) == path.count("/") + 1 or _same_file(path, pattern[1:]))
            ):
                return True
    return False


def _same_file(wildcard: str, pattern: str) -> bool:
    return bool(re.search(r"[*?\[]", pattern)) or fnmatch.fnmatchcase(pattern, wildcard)
