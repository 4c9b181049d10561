"""Does a variant hold what its label says? Told from the layers' tables of contents; nothing is executed.

An error is only what cannot run: the program that the image starts (its entrypoint or command, the shell
they run in, the interpreter of a script, the loader of an ELF program) is of another architecture, or missing
where it must be. Foreign files elsewhere may be there on purpose (emulators, firmware, cross toolchains).
"""

from __future__ import annotations

import posixpath
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from polyarch.errors import PolyarchError
from polyarch.layer.entry import Entry
from polyarch.layer.machine import HEADER_BYTES, identify
from polyarch.layer.rootfs import Rootfs
from polyarch.oci import platform as platforms
from polyarch.oci.config import ContainerConfig, ImageConfig
from polyarch.oci.platform import Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_INTERPRETERS = 5  # scripts whose interpreter is a script …
_PT_INTERP = 3
_ARM = {"arm/v7": ("v7", "v6", "v5"), "arm/v6": ("v6", "v5"), "arm/v5": ("v5",)}


@dataclass(frozen=True)
class Fault:
    """Why a variant cannot run: ``path`` of what file, ``machine`` it is for ("" when that is not it)."""

    path: str
    message: str
    machine: str = ""


def faults(rootfs: Rootfs, config: ImageConfig, platform: Platform) -> tuple[Fault, ...]:
    """What keeps the image from starting on ``platform``; empty when nothing is known to.

    An image without entrypoint and command, or whose program is not in it (it may be mounted later), has no
    fault: only what is there and wrong counts.
    """
    found: list[Fault] = []
    inner = config.config or ContainerConfig()
    words = (*(inner.entrypoint or ()), *(inner.cmd or ()))
    if not words or platform.os != "linux":
        return ()
    environment = dict(pair.partition("=")[::2] for pair in inner.env or ())
    program = find_program(rootfs, words[0], environment.get("PATH", DEFAULT_PATH), inner.working_dir)
    if program is not None:
        found += _program_faults(rootfs, program, platform)
    return tuple(found)


def find_program(rootfs: Rootfs, name: str, search: str, directory: str) -> str | None:
    """The path of what executing ``name`` would start, links followed; None when it is not there."""
    if "/" in name:
        candidates: Sequence[str] = [posixpath.join("/", directory or "/", name)]
    else:
        candidates = [posixpath.join("/", part or directory or "/", name) for part in search.split(":")]
    for candidate in candidates:
        path = rootfs.resolve(candidate)
        if _is_file(rootfs.get(path)):
            return path
    return None


def _program_faults(rootfs: Rootfs, path: str, platform: Platform) -> Iterator[Fault]:
    for _ in range(MAX_INTERPRETERS):
        header = _header(rootfs, path)
        if header.startswith(b"#!"):
            interpreter = _script_interpreter(header)
            if not interpreter:
                return
            resolved = rootfs.resolve(interpreter)
            if not _is_file(rootfs.get(resolved)):
                yield Fault(path, f"its interpreter {interpreter} is not in the image")
                return
            path = resolved
            continue
        machine = identify(header)
        if machine.startswith(("pe:", "macho:", "efi:")):
            yield Fault(path, f"a {machine} program does not run on {platform}", machine)
        elif machine.startswith("elf:"):
            yield from _elf_faults(rootfs, path, header, machine, platform)
        return


def _elf_faults(
    rootfs: Rootfs, path: str, header: bytes, machine: str, platform: Platform
) -> Iterator[Fault]:
    if not runs_on(machine.partition(":")[2], platform):
        yield Fault(path, f"it is a program for {machine.partition(':')[2]}, not for {platform}", machine)
        return
    loader = _elf_interpreter(rootfs, path, header)
    if not loader:
        return
    resolved = rootfs.resolve(loader)
    if not _is_file(rootfs.get(resolved)):
        yield Fault(path, f"its loader {loader} is not in the image")
        return
    found = identify(_header(rootfs, resolved))
    if found.startswith("elf:") and not runs_on(found.partition(":")[2], platform):
        yield Fault(resolved, f"the loader of /{path} is for {found.partition(':')[2]}", found)


def runs_on(machine: str, platform: Platform) -> bool:
    """Whether programs for ``machine`` (as ``layer.machine`` names it) run natively on ``platform``."""
    if machine.startswith("machine-"):
        return True  # nothing is known of it
    architecture, _, variant = machine.partition("/")
    if architecture == "x32":
        return platform.architecture == "amd64"
    if architecture == "arm":
        offered = [Platform(os="linux", architecture="arm", variant=variant or "v7")]
        if platform.architecture == "arm":
            return platform.variant in ("", "v8") or variant in _ARM.get(f"arm/{platform.variant}", ())
        return platforms.choose(platform, offered) is not None
    offered = [Platform(os="linux", architecture=architecture)]
    plain = Platform(os="linux", architecture=platform.architecture)
    return platforms.choose(plain, offered) is not None


def _is_file(entry: Entry | None) -> bool:
    return entry is not None and entry.type in ("file", "hardlink")


def _header(rootfs: Rootfs, path: str) -> bytes:
    with rootfs.open(path) as stream:
        return stream.read(HEADER_BYTES)


def _script_interpreter(header: bytes) -> str:
    line = header[2:].partition(b"\n")[0].strip()
    word = line.split(None, 1)[0] if line else b""
    return word.decode("utf-8", "surrogateescape")


def _elf_interpreter(rootfs: Rootfs, path: str, header: bytes) -> str:
    """The loader an ELF program names (PT_INTERP), or ""."""
    if len(header) < 64:
        return ""
    wide, order = header[4] == 2, "<" if header[5] == 1 else ">"
    table = struct.unpack_from(order + ("Q" if wide else "I"), header, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", header, 54 if wide else 42)
    if size < (56 if wide else 32) or not 0 < count < 128:
        return ""
    data = _span(rootfs, path, table, size * count)
    for number in range(len(data) // size):
        start = number * size
        if struct.unpack_from(order + "I", data, start)[0] != _PT_INTERP:
            continue
        if wide:
            offset, length = (struct.unpack_from(order + "Q", data, start + at)[0] for at in (8, 32))
        else:
            offset, length = (struct.unpack_from(order + "I", data, start + at)[0] for at in (4, 16))
        if length > 4096:
            return ""
        return _span(rootfs, path, offset, length).rstrip(b"\0").decode("utf-8", "surrogateescape")
    return ""


def _span(rootfs: Rootfs, path: str, offset: int, length: int) -> bytes:
    if offset > 64 << 20:
        return b""
    with rootfs.open(path) as stream:
        left = offset
        while left:
            piece = stream.read(min(left, 1 << 20))
            if not piece:
                return b""
            left -= len(piece)
        return stream.read(length)


def prove(rootfs: Rootfs, config: ImageConfig, platform: Platform) -> None:
    """Raise PolyarchError (``wrong-architecture``) when the variant cannot start on its platform."""
    found = faults(rootfs, config, platform)
    if found:
        raise PolyarchError(
            f"the {platform} variant cannot run: /{found[0].path}: {found[0].message}",
            detail="\n".join(f"  /{fault.path}: {fault.message}" for fault in found[1:]),
            hint="nothing was tagged; compile for TARGETARCH, or copy the program from a stage on the target "
            "platform (--proof=off builds it all the same)",
            reason="wrong-architecture",
        )
