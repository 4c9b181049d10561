"""Scripts and pipelines of a repository that build images with other tools: what they lose or mix up.

Here text is all there is: command lines are found in it, whole ones only; what holds variables that may be
anything is given the benefit of the doubt.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGES = "docs/mistakes"
RULES = {
    "OutputNowhere": "A build's result is pushed, loaded or written somewhere",
    "CacheSharedByPlatforms": "Jobs for different platforms keep caches of their own",
    "VariantsNeverRun": "What is built for several platforms is run on each of them",
}
_FILES = (
    "*.sh", "*.bash", "*.mk", "Makefile", "GNUmakefile", "makefile", "justfile", "Justfile", "Taskfile.y*ml",
    "Jenkinsfile", ".gitlab-ci.yml", "azure-pipelines.yml", ".travis.yml", "bitbucket-pipelines.yml",
    ".github/workflows/*.y*ml", ".circleci/config.yml", ".woodpecker.y*ml", ".drone.yml",
)  # fmt: skip
_SKIPPED = frozenset((".git", "node_modules", "vendor", "third_party", ".venv", "venv", "testdata"))
_MAX_FILES = 2000
_MAX_BYTES = 1 << 20
_BUILD = re.compile(
    r"(?:\bdocker|\$\(?\{?DOCKER\)?\}?)\s+(?:(?P<x>buildx)\s+)?(?:image\s+)?(?:build|b)\s+(?P<rest>[^\n]*)"
)
_END = re.compile(r"&&|\|\||[;|]|(?<!\\)\n")
_OUTPUT = re.compile(r"(?:^|\s)(?:--(?:push|load|output|call|check|print|help)\b|-o\b|-h\b)")
_UNKNOWN = re.compile(
    r"\$[@*]|\$[{(]?\w*(?:ARGS?|OPTS?|OPTIONS|FLAGS|PARAMS|OUTPUT|PUSH|LOAD)\w*|\[@\]", re.IGNORECASE
)
_CACHE_TO = re.compile(r"(?:--cache-to[= ]|cache-to:\s*)[\"']?(?P<value>type=(?:gha|registry|s3)[^\s\"']*)")
_MATRIX = re.compile(r"\bmatrix:[\s\S]{0,2000}?(?:platform|arch|linux/)", re.I)
_SEVERAL = re.compile(r"(?:--platform[= ]|platforms?:\s*)[\"']?linux/[\w/]+,\s*linux/")
_RUNS = re.compile(r"polyarch\s+(?:run|verify\b[^\n]*--run)|(?:docker|podman)\s+run\b[^\n]*--platform")


@dataclass(frozen=True)
class ScriptFinding:
    """A line of a script and what is wrong with it; line 0 is for the repository as a whole."""

    rule: str
    file: str
    line: int
    message: str

    @property
    def url(self) -> str:
        """The page that explains it."""
        return f"{PAGES}/{self.rule}.md"


def check_scripts(root: Path) -> list[ScriptFinding]:
    """Everything found in the scripts and pipelines below ``root``, by file and line."""
    found: list[ScriptFinding] = []
    several = ""
    runs = False
    for path in script_files(root):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        name = str(path.relative_to(root))
        found += check_script(text, name)
        several = several or (name if _SEVERAL.search(_joined(text)) else "")
        runs = runs or bool(_RUNS.search(_joined(text)))
    if several and not runs:
        message = f"images for several platforms are built in {several}, and nothing here ever runs them"
        found.append(ScriptFinding("VariantsNeverRun", several, 0, message))
    return found


def script_files(root: Path) -> Iterator[Path]:
    """The files that are looked at, in order."""
    count = 0
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _SKIPPED)
        for file in sorted(files):
            path = Path(folder, file)
            name = str(path.relative_to(root))
            if not any(fnmatch.fnmatch(name if "/" in pattern else file, pattern) for pattern in _FILES):
                continue
            if count >= _MAX_FILES or path.is_symlink() or path.stat().st_size > _MAX_BYTES:
                continue
            count += 1
            yield path


def check_script(text: str, name: str) -> Iterator[ScriptFinding]:
    """What is wrong in one file."""
    joined = _joined(text)
    for match in _BUILD.finditer(joined):
        line_start = joined.rfind("\n", 0, match.start()) + 1
        if "#" in joined[line_start : match.start()] or joined[line_start : match.start()].count("echo"):
            continue
        words = _END.split(match["rest"], maxsplit=1)[0]
        loses = bool(match["x"]) or bool(re.search(r"--platform[= ]\S+,", words))
        if loses and not _OUTPUT.search(words) and not _UNKNOWN.search(words):
            message = (
                "a builder in a container keeps what this builds in its cache, and nothing else: say --push, "
                "--load or --output"
            )
            yield ScriptFinding("OutputNowhere", name, _line(joined, match.start()), message)
    if _MATRIX.search(text):
        for match in _CACHE_TO.finditer(text):
            value = match["value"]
            if "$" in value or ("scope=" in value and "{{" in text[match.start() : match.end() + 60]):
                continue
            key = "scope=" if "type=gha" in value else "ref="
            message = f"the jobs of the matrix overwrite each other's cache: put the platform into {key}"
            yield ScriptFinding("CacheSharedByPlatforms", name, _line(text, match.start()), message)


def _joined(text: str) -> str:
    """Continued lines in one; lines keep their numbers, because what is cut out comes back behind them."""
    lines: list[str] = []
    held, count = "", 0
    for line in text.splitlines():
        if line.rstrip().endswith("\\"):
            held += line.rstrip()[:-1] + " "
            count += 1
            continue
        lines.append(held + line)
        lines += [""] * count
        held, count = "", 0
    return "\n".join([*lines, held]) if held else "\n".join(lines)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
