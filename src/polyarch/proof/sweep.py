"""Every program and library of a variant, by the tables of contents alone: whose machine is it for?

An error is what somebody will execute or load: foreign programs in PATH, libraries in the loader's folders,
extension modules of Python. Elsewhere foreign code may be there on purpose; where that can be told, one note
sums it up, else a warning says who put it there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from polyarch.layer.entry import Entry
from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import Finding
from polyarch.proof.fitness import DEVICES, loader_folders, names_machine, runs_on

_MAX_EXAMPLES = 3
# Modules that an interpreter loads from where they lie, whatever their folder is called.
_EXTENSION = re.compile(
    r"(?P<Python>(?:site|dist)-packages/.*\.(?:cpython-[^/.]+|abi3|cp\d+-[^/.]+)\.so$)|"
    r"(?P<Node>node_modules/.*/build/Release/[^/]+\.node$)|"
    r"(?P<PHP>lib/php/(?:[^/]+/)?(?:no-debug-[^/]+|20\d{6}[^/]*)/[^/]+\.so$)"
)
_EMULATOR = re.compile(r"(?:qemu-|box64|box86|FEX|fex|rosetta)[^/]*$")
_LOADER = re.compile(r"(?:ld-linux|ld-musl|ld64\.so|ld\.so|ld-)[^/]*$")
_DATA = re.compile(
    r"(?:^|/)(?:"
    r"testdata|test_data|tests?|fixtures|firmware|rustlib|arch-test|valgrind|vdso|wine|sysroots?|gcc-cross|"
    r"multilib|libx?32|cross|prebuilds|android-ndk|ndk-bundle|seabios|u-boot|opensbi|syslinux|grub|"
    r"debugpy|ptvsd|\.debug|crosstool[^/]*|musl-cross[^/]*|[^/]*-sysroot)(?:/|$)"
)
_ROOTS = ("boot/", "usr/share/", "lib/modules/", "usr/lib/modules/", "usr/lib/debug/", "usr/src/")


def check_files(evidence: Evidence, *, known: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """The findings of one variant; ``known`` paths were reported already."""
    if evidence.platform.os != "linux":
        return
    foreign, other = _foreign(evidence)
    if not foreign:
        if other:
            yield _summary(evidence, other)
        return
    places = _Places.of(evidence, foreign)
    rest: dict[tuple[int, str], list[str]] = {}
    for path, (number, entry) in foreign.items():
        if path in known:
            continue
        machine = entry.machine[4:]
        rule, message = places.verdict(path, entry, machine)
        category = _purpose(path, machine)
        if category == "emulators" or (category and not rule):
            other[category] += 1
        elif rule:
            yield evidence.finding_of_layer("error", rule, message, number, path, machine)
        elif names_machine(path, machine):
            other["files named for another architecture"] += 1
        else:
            rest.setdefault((number, machine), []).append(path)
    for (number, machine), paths in rest.items():
        message = f"{_several(paths)} for {machine}, not for {evidence.platform}"
        yield evidence.finding_of_layer("warning", "ForeignFiles", message, number, paths[0], machine)
    if other:
        yield _summary(evidence, other)


def _several(paths: list[str]) -> str:
    if len(paths) == 1:
        return "it is a program or library"
    names = ", ".join(f"/{path}" for path in paths[1:_MAX_EXAMPLES])
    more = len(paths) - 1 - len(paths[1:_MAX_EXAMPLES])
    return f"it and {names}{f' and {more} more' if more else ''} are"


def _summary(evidence: Evidence, other: Counter[str]) -> Finding:
    parts = ", ".join(f"{count} {what}" for what, count in sorted(other.items()))
    message = f"code for other machines that is there on purpose: {parts}"
    return Finding(severity="note", rule="ForeignOnPurpose", message=message, platform=str(evidence.platform))


def _foreign(evidence: Evidence) -> tuple[dict[str, tuple[int, Entry]], Counter[str]]:
    """The files whose code does not run on the platform, and how many there are of those that nobody expects
    to (for other systems, not linked yet)."""
    platform = evidence.platform
    fine: dict[str, bool] = {"": True}
    foreign: dict[str, tuple[int, Entry]] = {}
    other: Counter[str] = Counter()
    for number, entries in evidence.layers():
        for entry in entries:
            machine = entry.machine
            if machine not in fine:
                kind, _, name = machine.partition(":")
                fine[machine] = kind == "elf" and runs_on(name, platform)
            if fine[machine] or entry.type != "file":
                continue
            found = evidence.rootfs.content(entry.path)
            if found is None or found[1] != number:
                continue
            if machine.startswith("elf:"):
                foreign[entry.path] = (number, entry)
            elif machine.startswith("elf-object:"):
                if not runs_on(machine[11:], platform):
                    other["object files"] += 1
            else:
                other["files for other systems"] += 1
    return foreign, other


def _purpose(path: str, machine: str) -> str:
    """Why foreign code is at ``path`` on purpose, whatever its name; "" when that cannot be told."""
    if _EMULATOR.search(path):
        return "emulators"
    if machine.partition("/")[0] in DEVICES or machine.startswith("machine-"):
        return "files for devices"
    if path.startswith(_ROOTS) or _DATA.search(path):
        return "firmware, test data and toolchains"
    if _LOADER.search(path):
        return "loaders of other architectures"
    return ""


@dataclass
class _Places:
    """Which of the foreign files somebody will find: by folder, or by a link in such a folder."""

    evidence: Evidence
    programs: dict[str, str] = field(default_factory=dict)  # path → under which name it is found
    libraries: dict[str, str] = field(default_factory=dict)
    program_folders: set[str] = field(default_factory=set)
    library_folders: set[str] = field(default_factory=set)
    natives: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, evidence: Evidence, foreign: dict[str, tuple[int, Entry]]) -> _Places:
        places = cls(evidence)
        for folders, found, targets in (
            (evidence.search_path, places.program_folders, places.programs),
            (loader_folders(evidence.platform), places.library_folders, places.libraries),
        ):
            for folder in folders:
                resolved = evidence.resolve(folder)
                if resolved is None or resolved in found:
                    continue
                found.add(resolved)
                places._links(resolved, foreign, targets)
        if any(_EXTENSION.search(path) for path in foreign):
            places._find_natives()
        return places

    def _links(self, folder: str, foreign: dict[str, tuple[int, Entry]], targets: dict[str, str]) -> None:
        """Symlinks and hardlinks in ``folder`` that lead to foreign files."""
        for name in self.evidence.rootfs.children(folder):
            path = f"{folder}/{name}" if folder else name
            entry = self.evidence.rootfs.get(path)
            if entry is None or entry.type not in ("symlink", "hardlink"):
                continue
            resolved = self.evidence.resolve(path)
            found = self.evidence.rootfs.content(resolved) if resolved is not None else None
            if found is not None and found[0].path in foreign:
                targets.setdefault(found[0].path, path)

    def _find_natives(self) -> None:
        for _, entries in self.evidence.layers():
            for entry in entries:
                if entry.machine.startswith("elf:") and runs_on(entry.machine[4:], self.evidence.platform):
                    self.natives.add(_stem(entry.path))

    def verdict(self, path: str, entry: Entry, machine: str) -> tuple[str, str]:
        """The rule that a foreign file breaks and what is wrong with it; empty where it may lie there."""
        folder, _, name = path.rpartition("/")
        platform = self.evidence.platform
        shared = ".so" in name
        found_as = path if folder in self.program_folders else self.programs.get(path, "")
        if found_as and entry.mode & 0o111 and not shared and not names_machine(_last(found_as), machine):
            through = "" if found_as == path else f" (found in PATH as /{found_as})"
            return "WrongArchitecture", f"it is a program for {machine}, not for {platform}{through}"
        loaded_as = path if folder in self.library_folders else self.libraries.get(path, "")
        if loaded_as and shared and not _LOADER.search(path) and not names_machine(path, machine):
            return "ForeignLibrary", f"it is a library for {machine}, where those for {platform} are loaded"
        module = _EXTENSION.search(path)
        if module and not names_machine(folder, machine) and _stem(path) not in self.natives:
            return "ForeignLibrary", f"it is a {module.lastgroup} module for {machine}, not for {platform}"
        return "", ""


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"
