"""Images made by hand: programs of every architecture, in layers that exist in memory alone."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO

from polyarch.layer.entry import Entry, Toc
from polyarch.layer.index import IndexedLayer
from polyarch.layer.machine import identify
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.toc import canonical
from polyarch.oci.config import ContainerConfig, History, ImageConfig
from polyarch.oci.platform import Platform
from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import Finding
from polyarch.proof.variant import prove

MACHINES = {  # class, byte order, machine, flags
    "amd64": (2, 1, 62, 0),
    "x32": (1, 1, 62, 0),
    "386": (1, 1, 3, 0),
    "arm64": (2, 1, 183, 0),
    "arm64be": (2, 2, 183, 0),
    "arm/v7": (1, 1, 40, 0x05000400),
    "arm/v5": (1, 1, 40, 0x05000200),
    "riscv64": (2, 1, 243, 5),
    "riscv64-soft": (2, 1, 243, 1),
    "s390x": (2, 2, 22, 0),
    "ppc64le": (2, 1, 21, 2),
    "ppc64": (2, 2, 21, 1),
    "loong64": (2, 1, 258, 0x43),
    "mips64le": (2, 1, 8, 0x80000000),
    "sparc64": (2, 2, 43, 0),
    "bpf": (2, 1, 247, 0),
    "cuda": (2, 1, 190, 0),
    "avr": (1, 1, 83, 0),
    "unknown": (2, 1, 4711, 0),
}
LOADERS = {
    "amd64": "/lib64/ld-linux-x86-64.so.2",
    "386": "/lib/ld-linux.so.2",
    "arm64": "/lib/ld-linux-aarch64.so.1",
    "arm/v7": "/lib/ld-linux-armhf.so.3",
    "arm/v5": "/lib/ld-linux.so.3",
    "riscv64": "/lib/ld-linux-riscv64-lp64d.so.1",
    "riscv64-soft": "/lib/ld-linux-riscv64-lp64.so.1",
    "s390x": "/lib/ld64.so.1",
    "ppc64le": "/lib64/ld64.so.2",
}


def elf(
    machine: str,
    loader: str = "",
    needed: Sequence[str] = (),
    *,
    kind: int = 2,
    system: int = 0,
    run_path: str = "",
    arm_version: int = 0,
) -> bytes:
    """A program (or with ``kind`` 3 a library, 1 an object file) that is nothing but its headers."""
    width, order_number, number, flags = MACHINES[machine]
    order = "<" if order_number == 1 else ">"
    wide = width == 2
    start, step = (64, 56) if wide else (52, 32)
    address = "Q" if wide else "I"
    strings = b"\0"
    tags: list[tuple[int, int]] = []
    for name in needed:
        tags.append((1, len(strings)))
        strings += name.encode() + b"\0"
    if run_path:
        tags.append((29, len(strings)))
        strings += run_path.encode() + b"\0"
    body = loader.encode() + b"\0" if loader else b""
    count = 1 + bool(loader) + bool(tags)
    offset = start + step * count
    interpreter_at = offset
    strings_at = interpreter_at + len(body)
    dynamic_at = strings_at + len(strings)
    tags += [(5, 0x1000 + strings_at), (10, len(strings)), (0, 0)] if tags else []
    dynamic = b"".join(struct.pack(order + address * 2, *tag) for tag in tags)
    attributes_at = dynamic_at + len(dynamic)
    attributes = _attributes(arm_version) if arm_version else b""
    sections_at = attributes_at + len(attributes)
    total = sections_at

    def segment(type_: int, at: int, size: int) -> bytes:
        if wide:
            return struct.pack(order + "IIQQQQQQ", type_, 4, at, 0x1000 + at, 0, size, size, 1)
        return struct.pack(order + "IIIIIIII", type_, at, 0x1000 + at, 0, size, size, 4, 1)

    table = segment(1, 0, total)
    table += segment(3, interpreter_at, len(body)) if loader else b""
    table += segment(2, dynamic_at, len(dynamic)) if tags else b""
    sections = struct.pack(
        order + "IIIIIIIIII", 0, 0x70000003, 0, 0, attributes_at, len(attributes), 0, 0, 1, 0
    )
    header = (
        b"\x7fELF" + bytes((width, order_number, 1, system)) + bytes(8)
        + struct.pack(
            order + "HHI" + address * 3 + "IHHHHHH",
            kind, number, 1, 0, start, sections_at if attributes else 0, flags, start, step, count,
            40, 1 if attributes else 0, 0,
        )
    )  # fmt: skip
    return header + table + body + strings + dynamic + attributes + (sections if attributes else b"")


def _attributes(version: int) -> bytes:
    """A ``.ARM.attributes`` section with a CPU name and Tag_CPU_arch."""
    cpu = {5: 4, 6: 6, 7: 10}[version]
    tags = bytes((5,)) + b"somename\0" + bytes((6, cpu)) + bytes((8, 1))
    inner = bytes((1,)) + struct.pack("<I", 5 + len(tags)) + tags
    section = b"aeabi\0" + inner
    return b"A" + struct.pack("<I", 4 + len(section)) + section


def library(machine: str, needed: Sequence[str] = ()) -> bytes:
    """A shared library."""
    return elf(machine, needed=needed, kind=3)


def pe(machine: int = 0x8664, *, clr: bool = False) -> bytes:
    """A Windows program."""
    optional = bytearray(struct.pack("<H", 0x20B) + bytes(238))
    struct.pack_into("<H", optional, 68, 3)
    if clr:
        struct.pack_into("<II", optional, 112 + 14 * 8, 0x2000, 72)
    head = b"MZ" + bytes(58) + struct.pack("<I", 64)
    return head + b"PE\0\0" + struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, 240, 2) + bytes(optional)


def macho() -> bytes:
    """A program of macOS."""
    return b"\xcf\xfa\xed\xfe" + struct.pack("<III", 0x0100000C, 0, 2) + bytes(100)


@dataclass(frozen=True)
class Hard:
    """A hardlink."""

    target: str


@dataclass(frozen=True)
class Plain:
    """A file that is not executable."""

    data: bytes


Files = Mapping[str, "bytes | str | Hard | Plain"]  # a text is where a symlink leads


class MemoryLayer(IndexedLayer):
    """A layer of such files."""

    def __init__(self, files: Files) -> None:
        super().__init__()
        self.contents: dict[str, bytes] = {}
        entries = []
        for path, what in files.items():
            match what:
                case str():
                    entries.append(Entry(path, "symlink", 0o777, link=what))
                case Hard(target):
                    self.contents[path] = self.contents[target]  # either may become the file
                    entries.append(Entry(path, "hardlink", 0o755, link=target))
                case _:
                    data = what.data if isinstance(what, Plain) else what
                    mode = 0o644 if isinstance(what, Plain) else 0o755
                    self.contents[path] = data
                    entries.append(Entry(path, "file", mode, size=len(data), machine=identify(data)))
        given = {entry.path for entry in entries}
        folders = {str(above) for path in given for above in PurePosixPath(path).parents} - {"."} - given
        self._toc = canonical([*entries, *(Entry(folder, "directory", 0o755) for folder in folders)])
        self.id = f"memory:{id(self)}"

    def toc(self) -> Toc:
        return self._toc

    def open(self, entry: Entry) -> BinaryIO:
        found = self.index().content(entry.path)
        assert found is not None
        return io.BytesIO(self.contents[found.path])


@dataclass
class Image:
    """A variant by its files; ``layers`` are further ones on top."""

    files: Files
    words: Sequence[str] = ("/app",)
    cmd: Sequence[str] = ()
    layers: Sequence[Files] = ()
    env: Sequence[str] = ()
    directory: str = ""
    volumes: Sequence[str] = ()
    healthcheck: Sequence[str] = ()
    history: Sequence[str] = ()
    _made: list[MemoryLayer] = field(default_factory=list)

    def rootfs(self) -> Rootfs:
        if not self._made:
            self._made.extend(MemoryLayer(files) for files in (self.files, *self.layers))
        return Rootfs(self._made)

    def config(self, platform: Platform) -> ImageConfig:
        from polyarch.oci.config import Healthcheck

        return ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            config=ContainerConfig(
                entrypoint=tuple(self.words) or None,
                cmd=tuple(self.cmd) or None,
                env=tuple(self.env) or None,
                working_dir=self.directory,
                volumes={volume: {} for volume in self.volumes} or None,
                healthcheck=Healthcheck(test=tuple(self.healthcheck)) if self.healthcheck else None,
            ),
            history=tuple(History(created_by=line) for line in self.history) or None,
        )

    def evidence(self, platform: str) -> Evidence:
        wanted = Platform.parse(platform)
        return Evidence(self.rootfs(), self.config(wanted), wanted)

    def findings(self, platform: str) -> tuple[Finding, ...]:
        return prove(self.evidence(platform))
