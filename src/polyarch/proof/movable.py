"""What a stage may run if it is to be moved to the build platform: everything that is the same there, and
what can be told to compile for the target. The rest refuses."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from polyarch.proof.compilers import GO, RUST, C, Compiler
from polyarch.proof.raw_commands import RawCommand
from polyarch.proof.rewriting import Refused, packages

_SCRIPT = re.compile(r"(?:\.{1,2}/|.*\.(?:sh|bash|py)$)")
_KNOWN_SCRIPTS = frozenset("configure autogen.sh bootstrap mvnw gradlew config".split())
_INSTALLED = re.compile(r"/(?:usr/)?(?:local/)?s?bin/|/opt/|/root/|/go/bin/|/usr/local/")
_BINARY_TOOLS = frozenset("strip objcopy ldd patchelf chrpath".split())
_C_PACKAGES = frozenset("gcc g++ musl-dev build-base build-essential clang libc-dev libc6-dev".split())
_HOST_LIBRARIES = frozenset(("libclang-dev", "libc6-dev", "libc-dev"))
_CGO = re.compile(r'^\s*(?:import\s+)?"C"\s*$|^\s*import\s+"C"', re.MULTILINE)
_CGO_MODULES = re.compile(
    r"mattn/go-sqlite3|confluent-kafka-go|rdkafka|h2non/bimg|libvips|gopacket/pcap|go-gl/"
)
_MAX_FILES = 5000
_MAX_BYTES = 1 << 20


def check(command: RawCommand, compilers: Collection[Compiler], *, cgo_is_off: bool) -> None:
    """Raise Refused for a command that is no compiler's and may not do on the build platform what it does on
    the target's. ``compilers`` are those of all stages that would move."""
    program = command.words[0].text
    name = program.rpartition("/")[2]
    if _SCRIPT.match(program) and name not in _KNOWN_SCRIPTS:
        raise Refused(f"what {program} makes cannot be told")
    if program.startswith("/") and not _INSTALLED.match(program):
        raise Refused(f"{program} may be what was compiled, and would be the target's")
    native = {one for one in compilers if one.native}
    if name in _BINARY_TOOLS and native - {C}:
        raise Refused(f"{name} is the build platform's, and knows nothing of the target's programs")
    if RUST in compilers:
        if name == "cargo" and command.find("test", "run", "bench"):
            raise Refused(f"{program} {command.words[1].text} would run the target's programs")
        linked = [word.text for word in packages(command) if word.text not in _HOST_LIBRARIES]
        if linked:
            raise Refused(f"it is linked with {linked[0]}, which would be the build platform's")
    if GO in compilers and not cgo_is_off and name in ("apk", "apt-get", "apt", "dnf", "yum"):
        found = _C_PACKAGES.intersection(command.texts)
        if found:
            raise Refused(f"{min(found)} is installed, so that cgo is probably needed")


def uses_cgo(context: Path) -> str:
    """The file in ``context`` that shows that a Go program is compiled with cgo; "" for none."""
    count = 0
    for path in sorted(context.rglob("*")):
        relative = path.relative_to(context)
        if path.suffix not in (".go", ".mod") or {"vendor", "node_modules", ".git"} & set(relative.parts):
            continue
        count += 1
        if count > _MAX_FILES:
            break
        try:
            if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_BYTES:
                continue
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if _CGO_MODULES.search(text) if path.suffix == ".mod" else _CGO.search(text):
            return str(relative)
    return ""
