"""What the kernel would make of a file if somebody executed it: an ELF program, a script, or nothing."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from polyarch.layer.machine import HEADER_BYTES, identify
from polyarch.proof import elf
from polyarch.proof.elf import Elf

MAX_BUFFERED = 32 << 20  # bytes of a file kept in memory to look around in it
MAX_TEXT = 32 << 10  # bytes of a shell's script that are looked at
_SHELL = re.compile(r"(?:^|/|\s)(?:sh|bash|dash|ash|zsh|ksh|mksh|yash|with-contenv)(?:\s|$)")
_MAX_SKIP = 64 << 20  # bytes read only to get past them


@dataclass(frozen=True)
class Program:
    """A file's start. ``machine`` as ``layer.machine`` says; ``elf`` for ELF files; ``script`` is the line
    behind ``#!`` (words separated as the kernel does: interpreter and one argument), None for none; ``text``
    is the start of a shell's script, "" for others. ``wasm`` and ``clr`` (a .NET assembly, which runs where
    .NET does) are no machine code."""

    machine: str = ""
    elf: Elf | None = None
    script: tuple[str, ...] | None = None
    text: str = field(default="", repr=False)
    wasm: bool = False
    clr: bool = False


def of_bytes(data: bytes) -> Program:
    """The program in ``data``, the whole file or as much of its start as there is."""
    return _program(data[:HEADER_BYTES], lambda offset, length: data[offset : offset + length])


def of_stream(stream: BinaryIO) -> Program:
    """The program ``stream`` holds, from its beginning; reads no more than needed of seekable ones."""
    if stream.seekable():

        def span(offset: int, length: int) -> bytes:
            stream.seek(offset)
            return stream.read(length) or b""

        return _program(span(0, HEADER_BYTES), span)
    reader = _Forward(stream)
    return _program(reader.span(0, HEADER_BYTES), reader.span)


class _Forward:
    """Spans of a stream that cannot seek: what was read is kept."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._data = bytearray()

    def span(self, offset: int, length: int) -> bytes:
        if offset + length > _MAX_SKIP:
            return b""
        while len(self._data) < offset + length:
            piece = self._stream.read(min(1 << 20, offset + length - len(self._data)))
            if not piece:
                break
            self._data += piece
        return bytes(self._data[offset : offset + length])


def _program(header: bytes, span: elf.Span) -> Program:
    if header.startswith(b"#!"):
        script = _script(header)
        return Program(script=script, text=_text(span) if _SHELL.search(" ".join(script)) else "")
    if header.startswith(b"\0asm"):
        return Program(wasm=True)
    machine = identify(header)
    if machine.startswith("elf"):
        return Program(machine, elf.parse(span))
    return Program(machine, clr=machine.startswith("pe:") and _is_clr(header))


def _script(header: bytes) -> tuple[str, ...]:
    """Interpreter and its one argument, as fs/binfmt_script.c reads them."""
    line = header[2:].partition(b"\n")[0].strip(b" \t")
    words = line.replace(b"\t", b" ").split(b" ", 1)
    return tuple(os.fsdecode(word.strip(b" ")) for word in words if word.strip(b" "))


def _text(span: elf.Span) -> str:
    return span(0, MAX_TEXT).decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def _is_clr(header: bytes) -> bool:
    """Whether a PE file has a CLI header (ECMA-335, II.25.2.3.3), data directory 14."""
    offset = struct.unpack_from("<I", header, 60)[0] + 24
    if offset + 2 > len(header):
        return False
    magic = struct.unpack_from("<H", header, offset)[0]
    place = offset + (112 if magic == 0x20B else 96) + 14 * 8
    if place + 8 > len(header):
        return False
    address, size = struct.unpack_from("<II", header, place)
    return bool(address and size)
