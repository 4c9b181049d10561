"""Machines by the first bytes."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.layer.machine import identify


def _elf(machine: int, *, wide: bool = True, little: bool = True, kind: int = 2, flags: int = 0) -> bytes:
    order = "<" if little else ">"
    head = b"\x7fELF" + bytes([2 if wide else 1, 1 if little else 2, 1]) + bytes(9)
    head += struct.pack(order + "HHI", kind, machine, 1) + bytes(24 if wide else 12)
    return head + struct.pack(order + "I", flags) + bytes(12)


def _pe(machine: int, subsystem: int = 3) -> bytes:
    head = bytearray(b"MZ" + bytes(510))
    struct.pack_into("<I", head, 60, 128)
    head[128:132] = b"PE\0\0"
    struct.pack_into("<H", head, 132, machine)
    struct.pack_into("<H", head, 128 + 92, subsystem)
    return bytes(head)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (_elf(62), "elf:amd64"),
        (_elf(62, kind=3), "elf:amd64"),
        (_elf(62, kind=1), "elf-object:amd64"),
        (_elf(62, wide=False), "elf:x32"),
        (_elf(3, wide=False), "elf:386"),
        (_elf(183), "elf:arm64"),
        (_elf(40, wide=False, flags=0x05000400), "elf:arm/v7"),
        (_elf(40, wide=False, flags=0x05000200), "elf:arm/v5"),
        (_elf(40, wide=False, flags=0x05000000), "elf:arm"),
        (_elf(243), "elf:riscv64"),
        (_elf(21), "elf:ppc64le"),
        (_elf(21, little=False), "elf:ppc64"),
        (_elf(22, little=False), "elf:s390x"),
        (_elf(258), "elf:loong64"),
        (_elf(8), "elf:mips64le"),
        (_elf(8, little=False, wide=False), "elf:mips"),
        (_elf(8, wide=False, flags=0x20), "elf:mipsn32le"),
        (_elf(8, flags=0xA0000000), "elf:mips64r6le"),
        (_elf(247, kind=1), "elf-object:bpf"),
        (_elf(9999), "elf:machine-9999"),
        (_pe(0x8664), "pe:amd64"),
        (_pe(0xAA64), "pe:arm64"),
        (_pe(0x8664, 10), "efi:amd64"),
        (struct.pack("<IIII", 0xFEEDFACF, 0x0100000C, 0, 2), "macho:arm64"),
        (struct.pack(">IIIIIIIIIIII", 0xCAFEBABE, 2, 0x01000007, 3, 0, 0, 0, 0x0100000C, 0, 0, 0, 0),
         "macho:amd64+arm64"),
        (b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(40), ""),
        (b"#!/bin/sh\n", ""),
        (b"MZ", ""),
        (b"\x7fELF", ""),
        (b"", ""),
    ],
)  # fmt: skip
def test_identify(header: bytes, expected: str) -> None:
    assert identify(header) == expected


def test_this_interpreter_is_code() -> None:
    with open(sys.executable, "rb") as stream:
        assert identify(stream.read(512)).startswith("elf:")


@given(
    st.binary(max_size=600),
    st.sampled_from([b"", b"\x7fELF\2\1", b"MZ", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe"]),
)
def test_never_fails(data: bytes, start: bytes) -> None:
    assert isinstance(identify(start + data), str)
