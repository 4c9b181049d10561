"""What processor a file's code is for, told from its first bytes (ELF, PE and Mach-O headers).

The answer is ``format:machine`` with the machine in the words of OCI platforms where they have one:
``elf:amd64``, ``elf:arm/v7`` (hard float), ``elf:arm/v5`` (soft float), ``pe:arm64``, ``macho:amd64+arm64``
(a fat binary); ``elf-object:…`` for relocatable objects and core files, which nobody executes;
``efi:…`` for programs of the firmware; ``elf:machine-N`` for machines without a name here, and
``elf:malformed-N`` where byte order or word size are none the machine has; ``""`` for what is
no machine code.
"""

from __future__ import annotations

import struct

HEADER_BYTES = 1024  # what callers should give; less is understood as far as it goes

_ELF = {
    2: "sparc",
    3: "386",
    4: "m68k",
    6: "486",
    15: "parisc",
    18: "sparc32plus",
    20: "ppc",
    42: "sh",
    43: "sparc64",
    50: "ia64",
    76: "cris",
    83: "avr",
    94: "xtensa",
    105: "msp430",
    165: "8051",
    190: "cuda",
    224: "amdgpu",
    247: "bpf",
    252: "csky",
    0x9026: "alpha",
}
_LITTLE = frozenset({3, 6, 62, 243, 258})  # machines that have but one byte order, or one class
_BIG = frozenset({2, 4, 15, 18, 22, 43})
_WIDE = frozenset({21, 43})
_NARROW = frozenset({2, 3, 4, 6, 18, 20, 40})
_PE = {
    0x014C: "386",
    0x8664: "amd64",
    0xAA64: "arm64",
    0xA641: "arm64ec",
    0x01C0: "arm",
    0x01C2: "arm",
    0x01C4: "arm/v7",
    0x0200: "ia64",
    0x0EBC: "efi-bytecode",
    0x5032: "riscv32",
    0x5064: "riscv64",
    0x6232: "loong32",
    0x6264: "loong64",
}
_MACH = {
    7: "386",
    0x01000007: "amd64",
    12: "arm",
    0x0100000C: "arm64",
    0x0200000C: "arm64_32",
    18: "ppc",
    0x01000012: "ppc64",
}
_MACH_MAGIC = {
    b"\xce\xfa\xed\xfe": "<",
    b"\xcf\xfa\xed\xfe": "<",
    b"\xfe\xed\xfa\xce": ">",
    b"\xfe\xed\xfa\xcf": ">",
}
_EFI_SUBSYSTEMS = frozenset({10, 11, 12, 13})
_MAX_FAT = 30  # a Java class file starts with the same four bytes and a version of 45 or more


def identify(header: bytes) -> str:
    """The machine of a file that starts with ``header`` (see the module); ``""`` for none or unknown."""
    magic = header[:4]
    if magic == b"\x7fELF":
        return _elf(header)
    if magic[:2] == b"MZ":
        return _pe(header)
    if magic in _MACH_MAGIC:
        return _macho(header, _MACH_MAGIC[magic])
    if magic in (b"\xca\xfe\xba\xbe", b"\xca\xfe\xba\xbf"):
        return _fat(header, 20 if magic[3] == 0xBE else 32)
    return ""


def _elf(header: bytes) -> str:
    if len(header) < 20 or header[4] not in (1, 2) or header[5] not in (1, 2):
        return ""
    wide = header[4] == 2
    little = header[5] == 1
    order = "<" if little else ">"
    kind, machine = struct.unpack_from(order + "HH", header, 16)
    offset = 48 if wide else 36
    flags = struct.unpack_from(order + "I", header, offset)[0] if len(header) >= offset + 4 else 0
    prefix = "elf" if kind in (2, 3) else "elf-object"
    return f"{prefix}:{_elf_machine(machine, flags, wide=wide, little=little)}"


def _elf_machine(machine: int, flags: int, *, wide: bool, little: bool) -> str:
    if (not little and machine in _LITTLE) or (little and machine in _BIG) or (not wide and machine in _WIDE):
        return f"malformed-{machine}"  # what no kernel of that machine takes
    if wide and machine in _NARROW:
        return f"malformed-{machine}"
    match machine:
        case 62:
            return "amd64" if wide else "x32"
        case 183:
            return ("arm64" if little else "arm64be") if wide else "arm64ilp32"
        case 40:
            return _arm(flags) if little else "armbe"
        case 243:
            return "riscv64" if wide else "riscv32"
        case 258:
            return "loong64" if wide else "loong32"
        case 21:
            return "ppc64le" if little else "ppc64"
        case 22:
            return "s390x" if wide else "s390"
        case 8 | 10:
            return _mips(flags, wide=wide, little=little)
        case _:
            return _ELF.get(machine, f"machine-{machine}")


def _arm(flags: int) -> str:
    """EABI version 5 says which float calling convention a program or library has; the architecture version
    stands in a section at the end of the file, so that v6 with hard float reads as v7 here."""
    if flags & 0x400:
        return "arm/v7"
    if flags & 0x200:
        return "arm/v5"
    return "arm"


def _mips(flags: int, *, wide: bool, little: bool) -> str:
    name = "mips64" if wide else ("mipsn32" if flags & 0x20 else "mips")
    release6 = "r6" if flags >> 28 in (9, 10) else ""
    return name + release6 + ("le" if little else "")


def _pe(header: bytes) -> str:
    if len(header) < 64:
        return ""
    (offset,) = struct.unpack_from("<I", header, 60)
    if offset + 6 > len(header) or header[offset : offset + 4] != b"PE\0\0":
        return ""
    (machine,) = struct.unpack_from("<H", header, offset + 4)
    where = offset + 24 + 68
    subsystem = struct.unpack_from("<H", header, where)[0] if where + 2 <= len(header) else 0
    prefix = "efi" if subsystem in _EFI_SUBSYSTEMS else "pe"
    return f"{prefix}:{_PE.get(machine, f'machine-{machine}')}"


def _macho(header: bytes, order: str) -> str:
    if len(header) < 16:
        return ""
    cpu, _, kind = struct.unpack_from(order + "III", header, 4)
    return f"macho{'-object' if kind == 1 else ''}:{_mach_name(cpu)}"


def _fat(header: bytes, stride: int) -> str:
    if len(header) < 12:
        return ""
    (count,) = struct.unpack_from(">I", header, 4)
    if not 0 < count < _MAX_FAT or header[8:9] not in (b"\0", b"\1", b"\2"):
        return ""
    names = [
        _mach_name(struct.unpack_from(">I", header, at)[0])
        for at in range(8, 8 + count * stride, stride)
        if at + 4 <= len(header)
    ]
    return "macho:" + "+".join(names)


def _mach_name(cpu: int) -> str:
    return _MACH.get(cpu, f"machine-{cpu}")
