"""The corpus of behaviour cases: reading tests/cases/*.toml, making contexts, writing expectations back.

A file holds one area; every ``[[case]]`` in it is one build:

    name, about          a word and a sentence
    dockerfile           the text; ``cases.test`` in any text stands for the server of `cases_world`,
                         ``cases-run`` for a word that is new in every run, ``cases-layout`` for
                         an OCI layout with the bases
    file                 path of the Dockerfile in the context, when it is not "Dockerfile"
    args, target, platforms, flags, secrets
                         what is given to the build; secrets map an id to its content
    context              what to build instead of the directory (a URL, or a path below it)
    stdin                "dockerfile" or "tar": sent on standard input instead of a directory
    mentions             a regular expression our own error message must match
    differs              why we do otherwise: BuildKit's result is kept, ours is in [case.ours]
    by_hand              why BuildKit could not be asked: then what is expected is written by hand
    times                whether files' times are compared
    omit                 paths that are not compared
    [case.files]         the context, see `plant`
    [case.contexts]      named contexts: a string, or a table of files
    [case.web]           files served below http://cases.test/web/
    [case.expect]        BuildKit's result: `tree`, `config` and `history`, one table a platform when there
                         are several, or `failure` (BuildKit's words) and `line`

Everything below ``[case.expect]`` is written by cases_update.py, nothing else is.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import tarfile
import tomllib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

CASES = Path(__file__).parent.parent / "cases"
EPOCH = 1_700_000_000  # a planted file's time follows from its content, at most two days after this

Files = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One build of the corpus; the fields are described at the top of the module."""

    area: str
    name: str
    about: str = ""
    dockerfile: str | None = None
    file: str = "Dockerfile"
    args: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platforms: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    context: str = ""
    stdin: str = ""
    mentions: str = ""
    differs: str = ""
    by_hand: str = ""
    times: bool = False
    files: Files = field(default_factory=dict)
    contexts: Mapping[str, Any] = field(default_factory=dict)
    web: Files = field(default_factory=dict)
    expect: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.area}/{self.name}"


def load(folder: Path = CASES) -> list[Case]:
    """Every case of every area, in the order of the files."""
    found: list[Case] = []
    for path in sorted(folder.glob("*.toml")):
        for raw in tomllib.loads(path.read_text())["case"]:
            lists = {key: tuple(raw.pop(key)) for key in ("platforms", "flags", "omit") if key in raw}
            found.append(Case(area=path.stem, **raw, **lists))
    names = [case.id for case in found]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"case names used twice: {sorted(doubled)}")
    return found


def plant(files: Files, folder: Path) -> None:
    """Make ``files`` below ``folder``.

    A value is the text of a file or a table: ``content``, ``mode``, ``link`` (symbolic), ``hardlink``,
    ``fifo``, ``size`` (that many zero bytes), ``tar`` (a table of members; the name's ending chooses the
    compression). A name ending in "/" is a directory, its value the mode.
    """
    directories: list[tuple[Path, int]] = []
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
            directories.append((path, int(value or "755", 8)))
            continue
        spec = {"content": value} if isinstance(value, str) else value
        if "link" in spec:
            path.symlink_to(spec["link"])
            continue
        if "hardlink" in spec:
            os.link(folder / spec["hardlink"], path)
            continue
        if spec.get("fifo"):
            os.mkfifo(path)
        else:
            path.write_bytes(content_of(name, spec))
        path.chmod(int(spec.get("mode", "644"), 8))
        os.utime(path, (time_of(spec), time_of(spec)))
    for path, _, _ in os.walk(folder):
        if Path(path) not in [found for found, _ in directories]:
            os.chmod(path, 0o755)
    for path, mode in reversed(directories):
        path.chmod(mode)


def time_of(spec: Mapping[str, Any]) -> int:
    """A file's time: BuildKit takes files of one name, size and time in two contexts for the same."""
    return EPOCH + zlib.crc32(repr(spec).encode()) % 172_800


def content_of(name: str, spec: Mapping[str, Any]) -> bytes:
    """The bytes of a planted file."""
    if "tar" in spec:
        return compressed(name, tar_of(spec["tar"]))
    if "size" in spec:
        return bytes(spec["size"])
    data: bytes = spec.get("content", "").encode()
    return compressed(name, data) if spec.get("compress") else data


def compressed(name: str, data: bytes) -> bytes:
    """``data`` packed as the ending of ``name`` says; unknown endings leave it as it is."""
    match name.rpartition(".")[2]:
        case "gz" | "tgz":
            return gzip.compress(data, mtime=0)
        case "bz2":
            return bz2.compress(data)
        case "xz" | "txz":
            return lzma.compress(data)
        case "zst":
            return zstandard.compress(data)
        case _:
            return data


def tar_of(members: Files) -> bytes:
    """A tar archive; values as in `plant`, with ``uid`` and ``gid`` too."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, value in members.items():
            if name.endswith("/"):
                spec: dict[str, Any] = value if isinstance(value, dict) else {"mode": value or "755"}
            else:
                spec = {"content": value} if isinstance(value, str) else value
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mtime = EPOCH
            entry.mode = int(spec.get("mode", "644"), 8)
            entry.uid, entry.gid = spec.get("uid", 0), spec.get("gid", 0)
            data = spec.get("content", "").encode()
            if name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            elif "link" in spec:
                entry.type, entry.linkname = tarfile.SYMTYPE, spec["link"]
            elif "hardlink" in spec:
                entry.type, entry.linkname = tarfile.LNKTYPE, spec["hardlink"]
            entry.size = len(data) if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def expectation_text(expect: Mapping[str, Any], *, table: str = "case.expect") -> str:
    """``expect`` as TOML, the form it has in the files."""
    lines = [f"[{table}]"]
    nested = {key: value for key, value in expect.items() if isinstance(value, Mapping)}
    lines += [f"{_key(key)} = {_value(value)}" for key, value in expect.items() if key not in nested]
    text = "\n".join(lines) + "\n"
    if nested and len(lines) == 1:
        text = ""
    for key, value in nested.items():
        text += expectation_text(value, table=f"{table}.{_key(key)}")
    return text


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            items = [_value(item) for item in value]
            if sum(map(len, items)) < 80:
                return "[" + ", ".join(items) + "]"
            return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
        case Mapping():
            return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    raise TypeError(f"no TOML form for {value!r}")


def write_expectations(area: str, results: Mapping[str, Mapping[str, Any]], folder: Path = CASES) -> None:
    """Replace what stands below ``[case.expect]`` in the cases named in ``results``."""
    path = folder / f"{area}.toml"
    head, *blocks = re.split(r"^(?=\[\[case\]\]$)", path.read_text(), flags=re.MULTILINE)
    written = [head]
    for block in blocks:
        name = tomllib.loads(block)["case"][0]["name"]
        if name in results:
            kept = re.split(r"^\[case\.expect", block, maxsplit=1, flags=re.MULTILINE)[0].rstrip("\n")
            ours = re.search(r"^\[case\.ours.*", block, flags=re.MULTILINE | re.DOTALL)
            kept = kept if not ours or ours.start() > len(kept) else kept[: ours.start()].rstrip("\n")
            block = f"{kept}\n\n{expectation_text(results[name])}\n" + (ours.group() if ours else "")
        written.append(block)
    path.write_text("".join(written))
