"""The wheels that make a polyarch on another host: this package itself, and what it needs there.

What fits the host is taken from this environment, else from the folder ``$POLYARCH_WHEELS``, else fetched
with this environment's pip.
"""

from __future__ import annotations

import io
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from polyarch.errors import UnsupportedError
from polyarch.version import VERSION

# What the client needs and a node does not: a registry's server, BuildKit's API, colours.
_NOT_ON_NODES = frozenset({"grpcio", "protobuf", "httptools", "uvicorn", "uvloop", "rich"})
_OLD_NAMES = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_WITHIN = 300.0  # seconds for pip


@dataclass(frozen=True)
class Target:
    """Where wheels are to run. ``libc`` is "glibc" or "musl" with its version."""

    python: tuple[int, int]
    machine: str
    libc: str
    libc_version: tuple[int, int]

    def __str__(self) -> str:
        name = f"{self.libc} {self.libc_version[0]}.{self.libc_version[1]}"
        return f"Python {self.python[0]}.{self.python[1]} on {self.machine} ({name})"

    def takes(self, tag: str) -> bool:
        """Whether a wheel with this tag (``cp311-cp311-manylinux_2_17_x86_64``) runs there."""
        python, abi, places = tag.split("-", 2)
        return self._takes_python(python, abi) and any(self._takes_place(one) for one in places.split("."))

    def _takes_python(self, python: str, abi: str) -> bool:
        for one in python.split("."):
            match = re.fullmatch(r"(py|cp)(\d)(\d*)", one)
            if match is None or int(match[2]) != self.python[0]:
                continue
            minor = int(match[3] or 0)
            if match[1] == "py" or abi == "abi3":
                if minor <= self.python[1]:
                    return True
            elif minor == self.python[1] and abi in ("none", f"cp{self.python[0]}{minor}"):
                return True
        return False

    def _takes_place(self, place: str) -> bool:
        if place == "any":
            return True
        for old, version in _OLD_NAMES.items():
            place = place.replace(f"{old}_", f"manylinux_{version[0]}_{version[1]}_")
        match = re.fullmatch(r"(manylinux|musllinux)_(\d+)_(\d+)_(\w+)", place)
        if match is None or match[4] != self.machine:
            return False
        libc = "glibc" if match[1] == "manylinux" else "musl"
        if libc != self.libc:
            return False
        return libc == "musl" or (int(match[2]), int(match[3])) <= self.libc_version


@dataclass(frozen=True)
class Wheel:
    """A wheel as a file."""

    name: str
    data: bytes


def wheels_for(target: Target, folder: Path) -> Iterator[Wheel]:
    """Everything a node needs, this package first. ``folder`` is scratch space for what is fetched.
    UnsupportedError names what cannot be had."""
    yield own_wheel(target)
    missing = []
    for name in needed():
        wheel = _installed(name, target) or _given(name, target)
        if wheel is None:
            missing.append(name)
        else:
            yield wheel
    if missing:
        yield from _fetched(missing, target, folder)


def needed() -> list[str]:
    """The distributions that a node needs besides this one."""
    found: dict[str, None] = {}
    pending = [_plain(text) for text in metadata.requires("polyarch") or () if ";" not in text]
    while pending:
        name = pending.pop(0)
        if name in found or name in _NOT_ON_NODES:
            continue
        found[name] = None
        pending += [_plain(text) for text in metadata.requires(name) or () if ";" not in text]
    return list(found)


def _plain(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def own_wheel(target: Target) -> Wheel:
    """This package, as it is here, whether it was installed or is worked on. What was compiled for this
    machine is left out where that is another."""
    root = Path(str(resources.files("polyarch")))
    files = {
        f"polyarch/{path.relative_to(root).as_posix()}": path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and (target.machine == platform.machine() or not _is_compiled(path))
    }
    info = f"polyarch-{VERSION}.dist-info"
    text = f"Metadata-Version: 2.1\nName: polyarch\nVersion: {VERSION}\n"
    files[f"{info}/METADATA"] = text.encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return _packed(f"polyarch-{VERSION}-py3-none-any.whl", files)


def _is_compiled(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _packed(name: str, files: dict[str, bytes]) -> Wheel:
    """A wheel of these files, with its RECORD."""
    info = next(path.partition("/")[0] for path in files if ".dist-info/" in path)
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), data)
    return Wheel(name, out.getvalue())


def _installed(name: str, target: Target) -> Wheel | None:
    """The distribution of this environment as a wheel, where it runs there too."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    tags = [
        line.partition(":")[2].strip()
        for line in (found.read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag:")
    ]
    fitting = next((tag for tag in tags if target.takes(tag)), None)
    if fitting is None or found.files is None:
        return None
    files = {}
    for path in found.files:
        text = path.as_posix()
        if text.startswith("..") or "__pycache__" in text or text.endswith("/RECORD"):
            continue
        files[text] = Path(str(found.locate_file(path))).read_bytes()
    return _packed(f"{name.replace('-', '_')}-{found.version}-{fitting}.whl", files)


def _given(name: str, target: Target) -> Wheel | None:
    """A wheel from $POLYARCH_WHEELS that fits."""
    folder = os.environ.get("POLYARCH_WHEELS")
    return _in_folder(Path(folder), name, target) if folder else None


def _in_folder(folder: Path, name: str, target: Target) -> Wheel | None:
    for path in sorted(folder.glob("*.whl"), reverse=True):
        parts = path.stem.split("-")
        if _plain(parts[0]) == name and target.takes("-".join(parts[-3:])):
            return Wheel(path.name, path.read_bytes())
    return None


def _fetched(names: Sequence[str], target: Target, folder: Path) -> Iterator[Wheel]:
    """What pip finds for the target, in the versions that are here."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", f"{target.python[0]}.{target.python[1]}"]
    for place in _places(target):
        command += ["--platform", place]
    wanted = [f"{name}=={metadata.version(name)}" for name in names]
    try:
        done = subprocess.run(
            [*command, "--dest", str(folder), *wanted],
            capture_output=True,
            text=True,
            timeout=_WITHIN,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        said = done.stderr.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    for name in names:
        wheel = _in_folder(folder, name, target)
        if wheel is None:
            raise UnsupportedError(
                f"there is no wheel of {name} for {target}",
                detail="\n".join(said.splitlines()[-3:]),
                hint="put wheels for it into a folder and name that in POLYARCH_WHEELS, or install polyarch "
                "there by other means",
                reason="no-wheel",
            )
        yield wheel


def _places(target: Target) -> list[str]:
    if target.libc == "musl":
        return [f"musllinux_1_{minor}_{target.machine}" for minor in (2, 1)]
    newest = target.libc_version[1]
    return [f"manylinux_2_{minor}_{target.machine}" for minor in range(newest, 16, -1)] + [
        f"manylinux2014_{target.machine}"
    ]
