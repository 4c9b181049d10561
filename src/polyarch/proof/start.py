"""Can the image start? Its shell, its entrypoint and command, through PATH, links, ``#!`` and loaders."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import ARCHITECTURE, Finding
from polyarch.proof.fitness import names_machine, runs_on
from polyarch.proof.launching import Launch, Surroundings, in_text, launches
from polyarch.proof.linking import check_linking
from polyarch.proof.program import Program
from polyarch.proof.windows import check_windows

_MAX_LAUNCHES = 500
_SUPERVISORS = frozenset("init s6-svscan runsvdir runit runit-init my_init s6-init".split())
_SERVICE = re.compile(
    r"(?:etc|run|var)/(?:s6/|sv/|service/|services\.d/|s6-overlay/s6-rc\.d/|s6-rc\.d/)[^/]+/run$"
)
_MAX_INTERPRETERS = 5  # scripts whose interpreter is a script …
_SYSTEMS = {"pe": "Windows", "efi": "the firmware", "macho": "macOS", "macho-object": "macOS"}


def check_shell(evidence: Evidence) -> Iterator[Finding]:
    """A shell for another machine: then the base is not what its label says, and all the rest neither."""
    path = evidence.resolve("bin/sh")
    if path is None or evidence.file(path) is None:
        return
    machine = evidence.machine(path)
    if machine.startswith("elf:") and not runs_on(machine[4:], evidence.platform):
        yield evidence.finding(
            "error",
            "MislabelledBase",
            f"the image's shell is for {machine[4:]}: the base is labelled {evidence.platform}, but is not",
            path,
            machine[4:],
        )


def check_start(evidence: Evidence) -> Iterator[Finding]:
    """Everything that keeps the image's entrypoint and command, and its health check, from running."""
    settings = evidence.settings
    words = (*(settings.entrypoint or ()), *(settings.cmd or ()))
    if evidence.platform.os == "windows":
        yield from check_windows(evidence, words)
        return
    if evidence.platform.os != "linux":
        return
    start = _Start(evidence)
    yield from start.check(words)
    yield from start.services(words)
    if settings.entrypoint and settings.cmd:  # a script that ends in exec "$@", most of the time
        yield from start.check(settings.cmd, certain=False)
    test = settings.healthcheck.test if settings.healthcheck else None
    match test or ():
        case ("CMD", *probe):
            yield from start.check(probe, certain=False)
        case ("CMD-SHELL", text, *_):
            yield from start.check([*(settings.shell or ("/bin/sh", "-c")), text], certain=False)


@dataclass
class _Start:
    """The programs of one image that are started, each looked at once."""

    evidence: Evidence
    seen: set[str] = field(default_factory=set)

    def check(self, words: Sequence[str], *, certain: bool = True) -> Iterator[Finding]:
        """What keeps a command line from running, and what it starts in turn."""
        around = self._around(words)
        for number, launch in enumerate(launches([word for word in words if word], around)):
            if number > _MAX_LAUNCHES:
                return
            path = find_program(self.evidence, launch.name, launch.directory)
            if launch.script:
                yield from self._script(launch.name, launch.directory, around)
            elif path is not None:
                yield from self._program(path, replace(launch, certain=launch.certain and certain), around)
            elif number == 0 and certain and self.evidence.complete:
                yield from _missing(self.evidence, launch.name)

    def _around(self, words: Sequence[str]) -> Surroundings:
        return Surroundings(
            posixpath.join("/", self.evidence.settings.working_dir or "/"),
            self.evidence.environment,
            lambda name, directory: find_program(self.evidence, name, directory) is not None,
            tuple(words),
        )

    def services(self, words: Sequence[str]) -> Iterator[Finding]:
        """What supervisors start that have a folder with a script for each service (s6, runit)."""
        if not any(word.rpartition("/")[2] in _SUPERVISORS for word in words[:3]):
            return
        around = self._around(())
        for path in self.evidence.names.get("run", ()):
            if _SERVICE.match(path) and self.evidence.file(path) is not None:
                yield from self._program(path, Launch(path, "/", certain=False), around)

    def _program(self, path: str, launch: Launch, around: Surroundings, depth: int = 0) -> Iterator[Finding]:
        """``path`` and, where it is a shell's script, what that starts."""
        if path in self.seen or depth > _MAX_INTERPRETERS:
            return
        self.seen.add(path)
        found = list(check_program(self.evidence, path))
        if depth or not launch.certain:
            found = [one for one in found if self._counts(one)]
        yield from found
        program = self.evidence.program(path)
        if program is not None and program.text and not found:
            arguments = (f"/{path}", *around.arguments[1:])
            yield from self._text(program.text, replace(around, arguments=arguments), depth)

    def _script(self, name: str, directory: str, around: Surroundings) -> Iterator[Finding]:
        path = self.evidence.resolve(posixpath.join("/", directory, name))
        program = self.evidence.program(path) if path is not None and self.evidence.file(path) else None
        if program is not None and program.text and path not in self.seen:
            self.seen.add(path or "")
            yield from self._text(program.text, around, 0)

    def _text(self, text: str, around: Surroundings, depth: int) -> Iterator[Finding]:
        for number, launch in enumerate(in_text(text, around)):
            if number > _MAX_LAUNCHES:
                return
            path = find_program(self.evidence, launch.name, launch.directory)
            if path is not None and not launch.script:
                yield from self._program(path, launch, around, depth + 1)

    @staticmethod
    def _counts(finding: Finding) -> bool:
        """Whether what only may be started cannot run because it is another platform's: what else is wrong
        with it may never matter."""
        return finding.rule in ARCHITECTURE and not names_machine(finding.path, finding.machine)


def _candidates(evidence: Evidence, name: str, directory: str = "") -> list[str]:
    if "/" in name:
        return [posixpath.join("/", directory or evidence.settings.working_dir or "/", name)]
    return [posixpath.join(folder, name) for folder in evidence.search_path]


def find_program(evidence: Evidence, name: str, directory: str = "") -> str | None:
    """The path of what executing ``name`` in ``directory`` (by default the image's) would start, links
    followed; None when nothing can be executed."""
    for candidate in _candidates(evidence, name, directory):
        path = evidence.resolve(candidate)
        entry = evidence.file(path)
        if entry is not None and entry.mode & 0o111:
            return path
    return None


def _missing(evidence: Evidence, name: str) -> Iterator[Finding]:
    """Why ``name`` cannot be found. That it is not there at all may be meant: volumes come later."""
    volumes = [volume.rstrip("/") + "/" for volume in evidence.settings.volumes or ()]
    for candidate in _candidates(evidence, name):
        path = evidence.resolve(candidate)
        if path is None:
            yield evidence.finding("error", "BrokenLink", f"{candidate} leads in a circle of symlinks")
            return
        entry = evidence.file(path)
        if entry is not None:
            message = f"the image starts it, but it is not executable (mode {entry.mode & 0o7777:04o})"
            yield evidence.finding("error", "NotExecutable", message, path)
            return
        if path != candidate.strip("/") and not f"/{path}".startswith(tuple(volumes)):
            shown = candidate.strip("/")
            last = evidence.rootfs.get(shown)
            if last is not None and last.type == "symlink":
                message = f"the image starts it, but it is a link to {last.link}, which is not there"
                yield evidence.finding("error", "BrokenLink", message, shown)
                return
    if not any(candidate.startswith(tuple(volumes)) for candidate in _candidates(evidence, name)):
        message = f"the image starts {name}, which is not in it"
        yield evidence.finding("warning", "MissingProgram", message)


def check_program(evidence: Evidence, path: str) -> Iterator[Finding]:
    """What keeps the program at the resolved ``path`` from running, its interpreters included."""
    for _ in range(_MAX_INTERPRETERS):
        found = evidence.rootfs.content(path)
        if found is None:
            return
        if found[0].size == 0:
            yield evidence.finding("error", "EmptyProgram", "the image starts it, but it is empty", path)
            return
        program = evidence.program(path)
        if program is None:
            return
        if program.script is None:
            yield from _check_binary(evidence, path, program)
            return
        problem, following = _interpreter(evidence, path, program.script)
        if problem:
            yield evidence.finding("error", "MissingInterpreter", problem, path)
        if following is None:
            return
        path = following


def _interpreter(evidence: Evidence, path: str, words: tuple[str, ...]) -> tuple[str, str | None]:
    """What is wrong with a script's first line, and the program that runs the script."""
    if not words:
        return "its first line names no interpreter behind #!", None
    resolved = evidence.resolve(posixpath.join("/", words[0]))
    entry = evidence.file(resolved)
    if entry is None:
        if not evidence.complete:
            return "", None
        if words[0].endswith("\r") or (len(words) > 1 and words[1].endswith("\r")):
            return "its lines end with CR LF, so that its interpreter cannot be found", None
        return f"its interpreter {words[0]} is not in the image", None
    if not entry.mode & 0o111:
        return f"its interpreter {words[0]} is not executable", None
    if words[0].rpartition("/")[2] == "env" and len(words) > 1:
        inner = [word for word in words[1].split() if not word.startswith("-") and "=" not in word]
        if inner:
            named = find_program(evidence, inner[0].rstrip("\r"))
            if inner[0].endswith("\r"):
                return "its lines end with CR LF, so that its interpreter cannot be found", None
            if named is None:
                missing = f"its interpreter {inner[0]} (through {words[0]}) is not in the image"
                return missing if evidence.complete else "", resolved
            return "", named
    return "", resolved


def _check_binary(evidence: Evidence, path: str, program: Program) -> Iterator[Finding]:
    kind, _, machine = program.machine.partition(":")
    if kind == "elf":
        yield from check_linking(evidence, path, program)
    elif kind == "elf-object":
        message = "the image starts it, but it is an object file or a core dump, not a program"
        yield evidence.finding("error", "NotAProgram", message, path, machine)
    elif kind in _SYSTEMS:
        message = f"it is a {program.machine} program for {_SYSTEMS[kind]}, not for {evidence.platform}"
        yield evidence.finding("error", "WrongArchitecture", message, path, program.machine)
    elif not program.wasm:
        message = "the image starts it, but it is neither a program nor a script that begins with #!"
        yield evidence.finding("error", "NotAProgram", message, path)
