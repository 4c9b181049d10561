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
    """The first word, and what a shell is told to start."""
    seen: set[str] = set()
    for name in _programs(words):
        path = _find(evidence, name.strip('"'))
        if path is not None and path not in seen:
            seen.add(path)
            yield from _check_windows_program(evidence, path)


def _programs(words: Sequence[str]) -> Iterator[str]:
    """The first word, and what a shell is told to start."""
    if not words:
        return
    yield words[0]
    shell = re.sub(r".*[\\/]", "", words[0].strip('"')).lower().removesuffix(".exe")
    options = {"cmd": ("/c", "/k"), "powershell": ("-command", "-c"), "pwsh": ("-command", "-c")}
    for number, word in enumerate(words[1:], 1):
        if word.lower() in options.get(shell, ()) and number + 1 < len(words):
            text = " ".join(words[number + 1 :])
            for piece in re.split(r"&&|\|\||[&|;]", text):
                if match := re.match(r'\s*(?:&\s*)?(?:"([^"]+)"|([^\s"]+))', piece):
                    yield match[1] or match[2]
            return


def _find(evidence: Evidence, name: str) -> str | None:
    """The file that Windows would start for ``name``; None where there is none in the image."""
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
                return path
    return None


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
