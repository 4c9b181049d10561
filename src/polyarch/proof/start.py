"""Can the image start? Its shell, its entrypoint and command, through PATH, links, ``#!`` and loaders."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from polyarch.proof.commands import commands_of
from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import Finding
from polyarch.proof.fitness import runs_on, runs_on_windows
from polyarch.proof.linking import check_linking
from polyarch.proof.program import Program

_MAX_INTERPRETERS = 5  # scripts whose interpreter is a script …
# Programs that start what follows them on their command line.
_STARTERS = frozenset(
    "tini dumb-init catatonit su-exec gosu setpriv exec env nice nohup timeout stdbuf chpst".split()
)
_SHELLS = frozenset(("sh", "bash", "dash", "ash", "zsh"))
_CHOICE = re.compile(r"\b(?:if|case|for|while|until|uname|arch)\b|\|\|")  # what runs is decided there
_PLAIN = re.compile(r"[\w@%+,./-]+")
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
        yield from _check_windows(evidence, words)
        return
    if evidence.platform.os != "linux":
        return
    seen: set[str] = set()
    for name in _programs(words):
        yield from _check_word(evidence, name, seen, certain=name == words[0])
    if settings.entrypoint and settings.cmd:  # a script that ends in exec "$@", most of the time
        for name in _programs(settings.cmd):
            yield from _check_word(evidence, name, seen, certain=False)
    test = settings.healthcheck.test if settings.healthcheck else ()
    if test[:1] == ("CMD",):
        yield from _check_word(evidence, test[1] if len(test) > 1 else "", seen, certain=False)


def _programs(words: Sequence[str]) -> Iterator[str]:
    """The first word, and what it is known to start in turn; of a shell's text every command's."""
    rest = list(words)
    while rest:
        first = rest.pop(0)
        yield first
        name = first.rpartition("/")[2]
        if name in _SHELLS and len(rest) >= 2 and re.fullmatch(r"-\w*c", rest[0]):
            commands = list(commands_of(rest[1]))
            for command in commands[:1] if _CHOICE.search(rest[1]) else commands:
                if _PLAIN.fullmatch(command[0]):
                    yield from _programs([word for word in command if word])
            return
        if name not in _STARTERS:
            return
        while rest and (rest[0].startswith("-") or (name == "env" and "=" in rest[0])):
            rest.pop(0)
        if name in ("gosu", "su-exec", "timeout"):
            rest = rest[1:]


def _check_word(evidence: Evidence, name: str, seen: set[str], *, certain: bool) -> Iterator[Finding]:
    if not name:
        return
    path = find_program(evidence, name)
    if path is not None:
        if path not in seen:
            seen.add(path)
            yield from check_program(evidence, path)
    elif certain and evidence.complete:
        yield from _missing(evidence, name)


def _candidates(evidence: Evidence, name: str) -> list[str]:
    if "/" in name:
        return [posixpath.join("/", evidence.settings.working_dir or "/", name)]
    return [posixpath.join(folder, name) for folder in evidence.search_path]


def find_program(evidence: Evidence, name: str) -> str | None:
    """The path of what executing ``name`` would start, links followed; None when nothing can be executed."""
    for candidate in _candidates(evidence, name):
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


# --- Windows ------------------------------------------------------------------------------------------------

_EXTENSIONS = ("", ".exe", ".com", ".cmd", ".bat")
_WINDOWS_PATH = r"C:\Windows\system32;C:\Windows"


def _check_windows(evidence: Evidence, words: Sequence[str]) -> Iterator[Finding]:
    """The first word alone; files lie under ``Files``, and names do not tell capitals."""
    if not words:
        return
    name = words[0].strip('"')
    folders = [""]
    if "\\" not in name and "/" not in name:
        search = {key.upper(): value for key, value in evidence.environment.items()}.get(
            "PATH", _WINDOWS_PATH
        )
        folders = [evidence.settings.working_dir, *search.split(";")]
    for folder in folders:
        for extension in _EXTENSIONS:
            path = _windows_file(evidence, f"{folder}/{name}{extension}" if folder else name + extension)
            if path is not None:
                yield from _check_windows_program(evidence, path)
                return


def _check_windows_program(evidence: Evidence, path: str) -> Iterator[Finding]:
    program = evidence.program(path)
    if program is None or not program.machine:
        return
    kind, _, machine = program.machine.partition(":")
    fits = kind == "pe" and (program.clr or runs_on_windows(machine, evidence.platform))
    if not fits:
        message = f"it is a program for {program.machine}, not for {evidence.platform}"
        yield evidence.finding("error", "WrongArchitecture", message, path, program.machine)


def _windows_file(evidence: Evidence, name: str) -> str | None:
    parts = [part for part in re.sub(r"^[A-Za-z]:", "", name).replace("\\", "/").split("/") if part]
    path = "Files"
    for part in parts:
        there = {child.lower(): child for child in evidence.rootfs.children(path)}
        if part.lower() not in there:
            return None
        path = f"{path}/{there[part.lower()]}"
    return path if evidence.file(path) is not None else None
