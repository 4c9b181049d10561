"""``python -m bench.dockerfiles FOLDER``: what we and BuildKit say of every Dockerfile in a folder.

    python -m bench.dockerfiles FOLDER [--base NAME] [--jobs N] [--only WORD]

Every file below FOLDER is read as a Dockerfile by ``polyarch build`` and by ``docker buildx build``
(POLYARCH_PEERS names the script that runs it), with ``--call`` check, outline and targets. Compared are
whether it is refused and at which line, the rules that are broken and where, and what can be given to the
build. No registry of the world is asked: ``--base``, an image that both reach, stands in for every base, and
a directive that says nothing for ``syntax``. 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CALLS = ("check", "outline", "targets")
KEYS = ("warnings", "args", "secrets", "ssh", "cache", "targets")
_SYNTAX = re.compile(rb"\A((?:\xef\xbb\xbf)?\s*#\s*)syntax\s*=[^\r\n]*", re.IGNORECASE)
_BASE = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*([^\s$]+)", re.IGNORECASE | re.MULTILINE)
_UNREACHED = re.compile(r"failed to resolve source metadata for (\S+?):? ")
_NAME = re.compile(r"[a-z0-9](?:[\w./@-]|:(?=\w))*")
_MARKED = re.compile(r"^\s*>>>\s*(\d+)|^\s*(\d+) \| >>>", re.MULTILINE)
Verdict = dict[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Compare, print what differs, and return an exit status."""
    options = _options(words)
    files = [path for path in sorted(options.folder.rglob("*")) if path.is_file()]
    files = [path for path in files if options.only in str(path)]
    differing = 0
    with (
        tempfile.TemporaryDirectory(prefix="dockerfiles-", dir="/tmp") as scratch,
        ThreadPoolExecutor(options.jobs) as pool,
    ):
        folders = [Path(scratch, str(number)) for number in range(len(files))]
        found = pool.map(lambda path, folder: Compared(path, folder, options.base).run(), files, folders)
        for path, differences in zip(files, found, strict=True):
            differing += bool(differences)
            for line in differences:
                print(f"{path}: {line}", flush=True)
    print(f"{len(files) - differing} of {len(files)} the same")
    return 1 if differing else 0


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.dockerfiles", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", default="127.0.0.1:5000/polyarch-bench/busybox")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only files whose path has this in it")
    return parser.parse_args(words)


@dataclass
class Compared:
    """One Dockerfile; ``folder`` is a place to work in, ``base`` stands in for what is ``replaced``."""

    path: Path
    folder: Path
    base: str
    replaced: set[str] = field(default_factory=set)

    def run(self) -> list[str]:
        """What differs, a line each."""
        (self.folder / "context").mkdir(parents=True)
        text = self.path.read_bytes()
        plain = rb"\1" if b"escape" in text[:400].lower() else rb"\1escape=\\"
        (self.folder / "Dockerfile").write_bytes(_SYNTAX.sub(plain, text))
        self.replaced |= set(_BASE.findall(text.decode("utf-8", "replace")))
        lines = []
        for call in CALLS:
            theirs, ours = self._theirs(call), self._ours(call)
            lines += [f"{call}: {line}" for line in _differences(ours, theirs)]
        return lines

    def _ours(self, call: str) -> Verdict:
        return _verdict(self._run([sys.executable, "-m", "polyarch", "build"], call))

    def _theirs(self, call: str) -> Verdict:
        while True:
            done = self._run([os.environ["POLYARCH_PEERS"], "run", "docker", "buildx", "build"], call)
            unreached = set(_UNREACHED.findall(done.stdout + done.stderr)) - self.replaced
            if not unreached:
                return _verdict(done)
            self.replaced |= unreached

    def _run(self, command: Sequence[str], call: str) -> subprocess.CompletedProcess[str]:
        words = [*command, "--call", f"{call},format=json", "-f", str(self.folder / "Dockerfile")]
        for name in sorted(self.replaced):
            if _NAME.fullmatch(name) and name != "scratch":
                words += ["--build-context", f"{name}=docker-image://{self.base}"]
        words.append(str(self.folder / "context"))
        return subprocess.run(words, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def _verdict(done: subprocess.CompletedProcess[str]) -> Verdict:
    """The answer without its wording and order; ``said`` is what was said of an error."""
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError:
        answer = {}
    error = answer.get("buildError") or {}
    if not answer:
        error = {"message": done.stderr.strip()[-300:]}
        if marked := _MARKED.search(done.stderr):
            line = int(next(filter(None, marked.groups())))
            error["location"] = {"ranges": [{"start": {"line": line}}]}
    found: Verdict = {"refused": bool(error), "said": error.get("message", ""), "line": _first_line(error)}
    return found | {key: sorted(_entries(key, answer.get(key) or ())) for key in KEYS}


def _entries(key: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    told = ("name", "id", "value", "required", "description", "default", "base", "platform")
    for row in rows:
        words = [f"{key}={row[key]}" for key in told if row.get(key)]
        if key == "warnings":
            words = [row["ruleName"]]
        yield " ".join([*words, f"line {_first_line(row)}"])


def _first_line(row: dict[str, Any]) -> int | None:
    ranges = (row.get("location") or {}).get("ranges") or [{}]
    line: int | None = ranges[0].get("start", {}).get("line")
    return line


def _differences(ours: Verdict, theirs: Verdict) -> Iterator[str]:
    if ours["refused"] != theirs["refused"]:
        yield f"refused: ours {ours['said']!r}, BuildKit's {theirs['said']!r}"
    elif ours["line"] != theirs["line"] and theirs["line"] is not None:
        yield f"line: ours {ours['line']} {ours['said']!r}, BuildKit's {theirs['line']} {theirs['said']!r}"
    for key in KEYS:
        if ours[key] != theirs[key]:
            more = [entry for entry in ours[key] if entry not in theirs[key]]
            less = [entry for entry in theirs[key] if entry not in ours[key]]
            yield f"{key}: only ours {more}, only BuildKit's {less}"


if __name__ == "__main__":
    sys.exit(main())
