"""An ELF program that the image starts: is it for the platform, and are its loader and libraries there?"""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator, Sequence

from polyarch.proof.elf import Elf
from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import Finding
from polyarch.proof.fitness import loader_folders, runs_on
from polyarch.proof.program import Program

_MAX_LIBRARIES = 400
# What container runtimes put into a container when it starts, and what loaders provide themselves.
_PROVIDED = ("libcuda.so", "libnvidia-", "libnvcuvid.so", "libnvoptix.so", "libGLX_nvidia", "libEGL_nvidia")
_LOADERS = ("ld-linux", "ld-musl", "ld64.so", "ld.so", "linux-vdso", "linux-gate", "libc.musl-")


def check_linking(evidence: Evidence, path: str, program: Program) -> Iterator[Finding]:
    """What keeps the ELF program at the resolved ``path`` from being loaded."""
    machine = program.machine.partition(":")[2]
    problem = _unfit(evidence, program, machine)
    if problem:
        yield evidence.finding("error", "WrongArchitecture", problem, path, machine)
        return
    elf = program.elf
    if elf is None:
        return
    if elf.system:
        message = f"it is a program for {elf.system}, not for {evidence.platform}"
        yield evidence.finding("error", "WrongArchitecture", message, path, machine)
    elif damage := _damage(evidence, path, elf):
        yield evidence.finding("error", "NotAProgram", damage, path, machine)
    elif elf.interpreter:
        faults = list(_loader_faults(evidence, path, elf))
        yield from faults or _library_faults(evidence, path, elf)


def _damage(evidence: Evidence, path: str, elf: Elf) -> str:
    """Why nothing sensible can be loaded from the file."""
    found = evidence.rootfs.content(path)
    if found is not None and elf.end > found[0].size:
        return f"the image starts it, but it is cut off: {found[0].size} of {elf.end} bytes are there"
    return "" if elf.loads else "the image starts it, but it has nothing that could be loaded"


def _unfit(evidence: Evidence, program: Program, machine: str) -> str:
    platform = evidence.platform
    if not runs_on(machine, platform):
        return f"it is a program for {machine}, not for {platform}"
    version = program.elf.arm_version if program.elf is not None else 0
    if platform.architecture == "arm" and platform.variant in ("v5", "v6", "v7"):
        allowed = int(platform.variant[1])
        if version > allowed:
            return f"it is a program for arm/v{version}, not for {platform}"
    return ""


def _loader_faults(evidence: Evidence, path: str, elf: Elf) -> Iterator[Finding]:
    directory = evidence.settings.working_dir or "/"  # where a relative name is looked up
    resolved = evidence.resolve(posixpath.join("/", directory, elf.interpreter))
    entry = evidence.file(resolved)
    if resolved is None or entry is None:
        if evidence.complete:
            message = f"its loader {elf.interpreter} is not in the image{_advice(evidence, elf)}"
            yield evidence.finding("error", "MissingLoader", message, path)
        return
    if not entry.mode & 0o111:
        yield evidence.finding("error", "NotExecutable", f"the loader of /{path} is not executable", resolved)
        return
    machine = evidence.machine(resolved)
    name = machine.partition(":")[2]
    if not machine.startswith("elf:"):
        loader = evidence.program(resolved)
        if loader is not None:
            message = f"the loader of /{path} is no ELF file"
            yield evidence.finding("error", "MissingLoader", message, resolved)
        return
    if not runs_on(name, evidence.platform):
        message = f"the loader of /{path} is for {name}"
        yield evidence.finding("error", "WrongArchitecture", message, resolved, name)
        return
    loader = evidence.program(resolved)
    if loader is not None and loader.elf is not None:
        yield from _mismatch(evidence, path, elf, resolved, loader.elf, "loader")


def _advice(evidence: Evidence, elf: Elf) -> str:
    musl = "ld-musl" in elf.interpreter
    libc = [name for name in evidence.names if name.startswith("ld-musl" if not musl else "ld-linux")]
    if not libc:
        return ""
    return (
        ": it is linked for glibc, and the image has musl"
        if not musl
        else ": it is linked for musl, and the image has glibc"
    )


def _mismatch(
    evidence: Evidence, path: str, elf: Elf, other: str, found: Elf, what: str
) -> Iterator[Finding]:
    """A loader or library the program cannot use, though its machine would do."""
    mine, its = (e.machine.partition(":")[2].partition("/")[0] for e in (elf, found))
    if mine != its or elf.wide != found.wide:
        message = f"the {what} of /{path}, a program for {mine}, is for {its}"
        yield evidence.finding("error", "WrongArchitecture", message, other, its)
    elif elf.abi and found.abi and elf.abi != found.abi:
        message = f"the {what} of /{path} uses {found.abi} float, the program {elf.abi} float"
        yield evidence.finding("error", "WrongAbi", message, other, its)


def _library_faults(evidence: Evidence, path: str, elf: Elf) -> Iterator[Finding]:
    """Libraries it needs that are nowhere, or only for other machines; and what those need."""
    wanted = [(name, path, elf) for name in elf.needed]
    seen: set[str] = set()
    folders = _folders(evidence, elf)
    while wanted and len(seen) < _MAX_LIBRARIES:
        name, user, by = wanted.pop()
        if name in seen or _is_provided(name, elf):
            continue
        seen.add(name)
        origin = "/" + user.rpartition("/")[0]
        own = [folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for folder in by.run_path]
        found, foreign = _search(evidence, name, [*own, *folders], elf)
        if found is not None:
            library = evidence.program(found)
            if library is not None and library.elf is not None:
                faults = list(_mismatch(evidence, path, elf, found, library.elf, "library"))
                yield from faults
                if not faults:
                    wanted += [(needed, found, library.elf) for needed in library.elf.needed]
        elif foreign:
            machine = evidence.machine(foreign).partition(":")[2]
            message = f"/{user} needs this library, and it is for {machine}"
            yield evidence.finding("error", "ForeignLibrary", message, foreign, machine)
        elif evidence.complete:
            message = f"it needs the library {name}, which is not in the image"
            yield evidence.finding("error", "MissingLibrary", message, user)


def _is_provided(name: str, elf: Elf) -> bool:
    base = name.rpartition("/")[2]
    if base.startswith((*_PROVIDED, *_LOADERS)):
        return True
    return "ld-musl" in elf.interpreter and base.startswith("libc.so")


def _folders(evidence: Evidence, elf: Elf) -> list[str]:
    more = [f for f in evidence.environment.get("LD_LIBRARY_PATH", "").split(":") if f.startswith("/")]
    own = posixpath.dirname(elf.interpreter)
    return [*more, own, *(f"/{folder}" for folder in loader_folders(evidence.platform))]


def _search(evidence: Evidence, name: str, folders: Sequence[str], elf: Elf) -> tuple[str | None, str]:
    """The library's path, or None and the path of one for another machine ("" for none)."""
    foreign = ""
    wanted = elf.machine.partition(":")[2].partition("/")[0]
    places = [name] if "/" in name else [posixpath.join(folder, name) for folder in folders]
    for place in itertools.chain(places, _anywhere(evidence, name)):
        path = evidence.resolve(place)
        if path is None or evidence.file(path) is None:
            continue
        machine = evidence.machine(path)
        if not machine.startswith("elf:") or machine[4:].partition("/")[0] == wanted:
            return path, ""
        foreign = foreign or path
    return None, foreign


def _anywhere(evidence: Evidence, name: str) -> Iterator[str]:
    """Places that only /etc/ld.so.conf or a wrapper know; asked last, and only then looked for."""
    yield from (f"/{path}" for path in evidence.names.get(name.rpartition("/")[2], ()))
