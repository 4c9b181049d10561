"""Puts the exec dispatcher (dispatch.c) in front of a static emulator's first instruction.

The copy gets one more loadable segment, in the place of a note nobody reads, with the dispatcher in it and
the program's entry point at its start. The dispatcher jumps to the emulator's own entry point when a program
is to be emulated, so one file does both: nothing has to be found in a step's root filesystem.
"""

from __future__ import annotations

import platform
import struct
from pathlib import Path

_MARK = b"PADISPCH"
_MODEL_SIZE = 48
_LOAD, _NOTE = 1, 4
_READ_EXECUTE = 5
_PAGE = 0x10000  # the largest page size of the machines there is a dispatcher for
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


def dispatcher() -> bytes | None:
    """The dispatcher for this machine's processor; None when none was compiled into the installation."""
    try:
        return Path(__file__).with_name(f"dispatch-{platform.machine()}.bin").read_bytes()
    except OSError:
        return None


def graft(emulator: bytes, code: bytes, model: str = "") -> bytes:
    """``emulator`` (a static ELF program) with ``code`` as its beginning and ``model`` as the processor that
    it emulates ("" is its own default). ValueError when the emulator is not made as it must be."""
    if emulator[:6] != b"\x7fELF\x02\x01" or len(emulator) < _HEADER.size:
        raise ValueError("not a 64-bit little-endian ELF program")
    if len(model.encode()) >= _MODEL_SIZE:
        raise ValueError(f"the name of the processor is too long: {model!r}")
    ident, kind, machine, version, entry, table, sections, flags, size, each, count, *rest = (
        _HEADER.unpack_from(emulator)
    )
    if each != _SEGMENT.size or not 0 < count < 64 or table + count * each > len(emulator):
        raise ValueError("its program headers are not where they should be")
    segments = [_SEGMENT.unpack_from(emulator, table + number * each) for number in range(count)]
    loads = [segment for segment in segments if segment[0] == _LOAD]
    notes = [segment for segment in segments if segment[0] == _NOTE]
    if not loads or not notes:
        raise ValueError("it has no note segment to give up")
    end = max(address + memory for _, _, _, address, _, _, memory, _ in loads)
    address, offset = -(-end // _PAGE) * _PAGE, -(-len(emulator) // _PAGE) * _PAGE
    code = _settled(code, entry - address, model)
    added = (_LOAD, _READ_EXECUTE, offset, address, address, len(code), len(code), 0x1000)
    segments.remove(notes[-1])
    segments.insert(segments.index(loads[-1]) + 1, added)
    header = _HEADER.pack(
        ident, kind, machine, version, address, table, sections, flags, size, each, count, *rest
    )
    grafted = bytearray(emulator)
    grafted[: len(header)] = header
    grafted[table : table + count * each] = b"".join(_SEGMENT.pack(*segment) for segment in segments)
    return bytes(grafted) + bytes(offset - len(emulator)) + code


def _settled(code: bytes, entry: int, model: str) -> bytes:
    """The code with its settings: ``entry`` is relative to the code's first byte."""
    place = code.find(_MARK)
    if place < 0 or code.find(_MARK, place + 1) >= 0:
        raise ValueError("the dispatcher was not built as it must be")
    settings = _MARK + struct.pack("<q", entry - place) + model.encode().ljust(_MODEL_SIZE, b"\0")
    return code[:place] + settings + code[place + len(settings) :]
