"""What an ELF file needs to start: its loader, its libraries and its calling conventions.

Only what is asked for is read, in spans; nothing in the file is trusted, and what makes no sense reads as
"unknown", never as an error (System V ABI, chapters 4 and 5; the processors' supplements for the flags).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from polyarch.layer.machine import identify

Span = Callable[[int, int], bytes]  # offset, length → at most that many bytes

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 1, 5, 10, 15, 29
_SHT_ARM_ATTRIBUTES = 0x70000003
_TAG_FILE, _TAG_CPU_ARCH = 1, 6
_MAX_PATH = 4096
_MAX_SEGMENTS = 256
_MAX_DYNAMIC = 1 << 16
_MAX_STRINGS = 64 << 20
_MAX_NEEDED = 512
_LINUX = frozenset({0, 3, 64, 97})  # System V, GNU, and what old ARM tools wrote
_OTHER_SYSTEMS = {
    1: "HP-UX",
    2: "NetBSD",
    6: "Solaris",
    7: "AIX",
    8: "IRIX",
    9: "FreeBSD",
    10: "Tru64",
    12: "OpenBSD",
    13: "OpenVMS",
    17: "CloudABI",
}
# Tag_CPU_arch of the ARM build attributes: the lowest OCI variant that runs it.
_ARM_VERSIONS = {1: 4, 2: 4, 3: 5, 4: 5, 5: 5, 6: 6, 7: 6, 8: 6, 9: 6, 10: 7, 11: 6, 12: 6, 13: 7}


@dataclass(frozen=True)
class Elf:
    """``machine`` is as ``layer.machine`` has it; ``interpreter`` "" for a static program.

    ``abi`` names the float calling convention where the flags tell it ("hard", "soft", "single", "quad").
    ``system`` is another operating system than Linux that the header names, "" for none.
    ``arm_version`` is the architecture version an ARM file was compiled for, 0 when it does not say.
    ``end`` is how many bytes the file must have for all that is loaded of it; ``loads`` tells whether
    anything is, as far as the table of segments was read.
    """

    machine: str
    kind: int
    flags: int
    wide: bool
    interpreter: str = ""
    needed: tuple[str, ...] = ()
    run_path: tuple[str, ...] = ()
    abi: str = ""
    system: str = ""
    arm_version: int = 0
    end: int = 0
    loads: bool = True


def parse(span: Span) -> Elf | None:
    """The file behind ``span``; None when it is no ELF file."""
    header = span(0, 64)
    machine = identify(header)
    if not machine.startswith(("elf:", "elf-object:")) or len(header) < 52:
        return None
    wide, order = header[4] == 2, "<" if header[5] == 1 else ">"
    if wide and len(header) < 64:
        return None
    kind = struct.unpack_from(order + "H", header, 16)[0]
    flags = struct.unpack_from(order + "I", header, 48 if wide else 36)[0]
    segments, table_end = _segments(span, header, order, wide=wide)
    needed, run_path = _dynamic(span, segments, order, wide=wide)
    name = machine.partition(":")[2]
    return Elf(
        machine,
        kind,
        flags,
        wide,
        _interpreter(span, segments),
        needed,
        run_path,
        _abi(name, flags),
        "" if header[7] in _LINUX else _OTHER_SYSTEMS.get(header[7], ""),
        _arm_version(span, header, order) if name.startswith("arm/") or name == "arm" else 0,
        max([table_end, *(one.offset + one.size for one in segments if one.kind == _PT_LOAD)]),
        any(one.kind == _PT_LOAD for one in segments) or (table_end > 0 and not segments),
    )


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def _segments(span: Span, header: bytes, order: str, *, wide: bool) -> tuple[list[_Segment], int]:
    """The segments, and where their table ends; 0 where there is none."""
    table = struct.unpack_from(order + ("Q" if wide else "I"), header, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", header, 54 if wide else 42)
    if size < (56 if wide else 32) or not 0 < count <= _MAX_SEGMENTS:
        return [], 0
    data = span(table, size * count)
    found: list[_Segment] = []
    for start in range(0, len(data) - size + 1, size):
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", data, start)
        else:
            kind, offset, address, _, length = struct.unpack_from(order + "IIIII", data, start)
        found.append(_Segment(kind, offset, address, length))
    return found, table + size * count


def _interpreter(span: Span, segments: list[_Segment]) -> str:
    for segment in segments:
        if segment.kind == _PT_INTERP and 0 < segment.size <= _MAX_PATH:
            return _text(span(segment.offset, segment.size))
    return ""


def _dynamic(
    span: Span, segments: list[_Segment], order: str, *, wide: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of needed libraries, and where the file itself says to look for them."""
    segment = next((s for s in segments if s.kind == _PT_DYNAMIC), None)
    if segment is None:
        return (), ()
    data = span(segment.offset, min(segment.size, _MAX_DYNAMIC))
    width = 16 if wide else 8
    tags: list[tuple[int, int]] = []
    for start in range(0, len(data) - width + 1, width):
        tag, value = struct.unpack_from(order + ("QQ" if wide else "II"), data, start)
        if tag == 0:
            break
        tags.append((tag, value))
    values = dict(tags)
    if _DT_STRTAB not in values or values.get(_DT_STRSZ, 0) > _MAX_STRINGS:
        return (), ()
    strings = _strings(span, segments, values[_DT_STRTAB], values.get(_DT_STRSZ, 0))
    needed = [_at(strings, value) for tag, value in tags if tag == _DT_NEEDED][:_MAX_NEEDED]
    paths = [_at(strings, value) for tag, value in tags if tag in (_DT_RPATH, _DT_RUNPATH)]
    folders = [folder for path in paths for folder in path.split(":") if folder]
    return tuple(name for name in needed if name), tuple(folders)


def _strings(span: Span, segments: list[_Segment], address: int, size: int) -> bytes:
    for segment in segments:
        inside = address - segment.address
        if segment.kind == _PT_LOAD and 0 <= inside < segment.size:
            return span(segment.offset + inside, min(size, segment.size - inside))
    return b""


def _at(strings: bytes, offset: int) -> str:
    if not 0 <= offset < len(strings):
        return ""
    end = strings.find(b"\0", offset, offset + _MAX_PATH)
    return _text(strings[offset : end if end >= 0 else offset + _MAX_PATH])


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _abi(machine: str, flags: int) -> str:
    if machine.startswith("arm/"):
        return "hard" if flags & 0x400 else "soft"
    if machine.startswith("riscv"):
        return ("soft", "single", "hard", "quad")[(flags >> 1) & 3]
    if machine.startswith("loong"):
        return {1: "soft", 2: "single", 3: "hard"}.get(flags & 7, "")
    return ""


def _arm_version(span: Span, header: bytes, order: str) -> int:
    """Tag_CPU_arch of the ``.ARM.attributes`` section (Addenda to the ABI for the Arm architecture)."""
    table = struct.unpack_from(order + "I", header, 32)[0]
    size, count = struct.unpack_from(order + "HH", header, 46)
    if size < 40 or not 0 < count <= 4096:
        return 0
    data = span(table, size * count)
    for start in range(0, len(data) - size + 1, size):
        kind, _, _, offset, length = struct.unpack_from(order + "IIIII", data, start + 4)
        if kind == _SHT_ARM_ATTRIBUTES:
            return _ARM_VERSIONS.get(_cpu_arch(span(offset, min(length, 1 << 16)), order), 7)
    return 0


def _cpu_arch(data: bytes, order: str) -> int:
    """The value of Tag_CPU_arch in the vendor section "aeabi"; -1 when it is not there."""
    at = data.find(b"aeabi\0")
    if data[:1] != b"A" or at < 0:
        return -1
    at += 6
    if data[at : at + 1] != bytes((_TAG_FILE,)):
        return -1
    at += 5  # the tag and the length of the subsection
    while at < len(data):
        tag, at = _number(data, at)
        if tag in (4, 5, 32, 65, 67) or (tag > 32 and tag % 2):  # these have strings
            end = data.find(b"\0", at)
            if end < 0:
                return -1
            if tag == 32:  # a number stands before the string
                _, at = _number(data, at)
                end = max(end, data.find(b"\0", at))
            at = end + 1
            continue
        value, at = _number(data, at)
        if tag == _TAG_CPU_ARCH:
            return value
    return -1


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A ULEB128 number and where it ends."""
    value = shift = 0
    while at < len(data) and shift < 63:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if not byte & 0x80:
            break
    return value, at
