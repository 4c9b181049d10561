"""The machines Linux programs are made for: how an ELF header tells them, what QEMU and OCI call them.

Also makes the smallest program of each machine (it exits with status 0), so that whether a machine can be
run is found out by doing it. Imports next to nothing: the helper process uses it too.
"""

from __future__ import annotations

import struct
from typing import NamedTuple


class Machine(NamedTuple):
    """``architecture`` as OCI names it, ``qemu`` as in ``qemu-<name>``, the ELF header's ``number``
    (e_machine), ``bits`` and byte order, ``flags`` (e_flags) and the code that exits with 0."""

    architecture: str
    qemu: str
    number: int
    bits: int
    little: bool
    flags: int
    code: str

    @property
    def magic(self) -> tuple[bytes, bytes]:
        """The first 20 bytes of an executable and which bits of them count (binfmt_misc)."""
        order = "<" if self.little else ">"
        start = b"\x7fELF" + bytes((self.bits // 32, 1 if self.little else 2, 1)) + bytes(9)
        magic = start + struct.pack(order + "HH", 2, self.number)
        # The ABI byte is free, and type 3 (position independent) is as good as type 2.
        mask = b"\xff" * 7 + b"\0" + b"\xff" * 8 + struct.pack(order + "HH", 0xFFFE, 0xFFFF)
        return magic, mask

    def program(self) -> bytes:
        """An ELF executable that does nothing but exit(0)."""
        order = "<" if self.little else ">"
        code = bytes.fromhex(self.code)
        wide = self.bits == 64
        base = 0x1000000
        header_size, segment_size = (64, 56) if wide else (52, 32)
        start = base + header_size + segment_size
        size = header_size + segment_size + len(code)
        word = "Q" if wide else "I"
        header = self.magic[0] + struct.pack(
            order + "I" + word * 3 + "I" + "H" * 6,
            1, start, header_size, 0, self.flags, header_size, segment_size, 1, 0, 0, 0,
        )  # fmt: skip
        if wide:
            segment = struct.pack(order + "IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x10000)
        else:
            segment = struct.pack(order + "IIIIIIII", 1, 0, base, base, size, size, 5, 0x10000)
        return header + segment + code


MACHINES = (
    Machine("amd64", "x86_64", 62, 64, True, 0, "b83c00000031ff0f05"),
    Machine("386", "i386", 3, 32, True, 0, "b80100000031dbcd80"),
    Machine("arm64", "aarch64", 183, 64, True, 0, "000080d2a80b80d2010000d4"),
    Machine("arm", "arm", 40, 32, True, 0x05000200, "0000a0e30170a0e3000000ef"),
    Machine("riscv64", "riscv64", 243, 64, True, 4, "130500009308d00573000000"),
    Machine("ppc64le", "ppc64le", 21, 64, True, 2, "010000380000603802000044"),
    Machine("s390x", "s390x", 22, 64, False, 0, "a72900000a01"),
    Machine("mips64le", "mips64el", 8, 64, True, 0x60000000, "00000424c21302240c000000"),
    Machine("mips64", "mips64", 8, 64, False, 0x60000000, "24040000240213c20000000c"),
    Machine("mipsle", "mipsel", 8, 32, True, 0x50001000, "00000424a10f02240c000000"),
    Machine("mips", "mips", 8, 32, False, 0x50001000, "2404000024020fa10000000c"),
    Machine("loong64", "loongarch64", 258, 64, True, 3, "0b7481030400800300002b00"),
    Machine("ppc64", "ppc64", 21, 64, False, 2, "380000013860000044000002"),
    Machine("ppc", "ppc", 20, 32, False, 0, "380000013860000044000002"),
    Machine("riscv", "riscv32", 243, 32, True, 0, "130500009308d00573000000"),
    Machine("armbe", "armeb", 40, 32, False, 0x05000200, "e3a00000e3a07001ef000000"),
    Machine("arm64be", "aarch64_be", 183, 64, False, 0, "000080d2a80b80d2010000d4"),
    Machine("sparc64", "sparc64", 43, 64, False, 0, "901000008210200191d0206d"),
)


def find(architecture: str) -> Machine | None:
    """The machine of an OCI architecture."""
    for machine in MACHINES:
        if machine.architecture == architecture:
            return machine
    return None


def identify(header: bytes) -> Machine | None:
    """The machine whose ELF executable starts with ``header`` (20 bytes suffice), or None."""
    for machine in MACHINES:
        magic, mask = machine.magic
        if len(header) >= 20 and all(a & m == b & m for a, b, m in zip(header, magic, mask, strict=False)):
            return machine
    return None


def interpreter(header: bytes) -> str:
    """The loader an ELF executable names (PT_INTERP), "" when it is static or ``header`` too short."""
    if len(header) < 64 or header[:4] != b"\x7fELF":
        return ""
    order = "<" if header[5] == 1 else ">"
    wide = header[4] == 2
    try:
        (table,) = struct.unpack_from(order + ("Q" if wide else "I"), header, 32 if wide else 28)
        size, count = struct.unpack_from(order + "HH", header, 54 if wide else 42)
        for index in range(min(count, 64)):
            at = table + index * size
            (kind,) = struct.unpack_from(order + "I", header, at)
            if kind == 3:
                (offset,) = struct.unpack_from(
                    order + ("Q" if wide else "I"), header, at + (8 if wide else 4)
                )
                end = header.find(b"\0", offset)
                return header[offset : end if end > 0 else None].decode(errors="replace")
    except struct.error:
        pass  # beyond the part that was read
    return ""
