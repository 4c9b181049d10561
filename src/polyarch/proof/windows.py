"""Can an image for Windows start? Its files lie under ``Files``, and names do not tell capitals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import Finding
from polyarch.proof.fitness import runs_on_windows

_EXTENSIONS = ("", ".exe", ".com", ".cmd", ".bat")
_WINDOWS_PATH = r"C:\Windows\system32;C:\Windows"


def check_windows(evidence: Evidence, words: Sequence[str]) -> Iterator[Finding]:
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
