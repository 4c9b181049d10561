"""binfmt_misc: which emulator the kernel starts for programs of a foreign machine.

Owns the registration strings, a private instance of binfmt_misc (Linux 6.7: one per user namespace), and
reading what the host has registered. Imports next to nothing: the helper process uses it too.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from polyarch.executor import syscalls
from polyarch.executor.machines import MACHINES, Machine

HOST = "/proc/sys/fs/binfmt_misc"


def registration(machine: Machine, interpreter: str, *, keep_name: bool) -> bytes:
    """The line that registers ``interpreter``, with flags F (the kernel opens it now, from here), C (a setuid
    program runs with its owner's rights) and, with ``keep_name``, P (the emulator learns argv[0])."""
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in part) for part in machine.magic)
    flags = "FC" + ("P" if keep_name else "")
    mark = next(c for c in ":;,|~^" if c not in interpreter)
    return os.fsencode(
        mark + mark.join((f"polyarch-{machine.qemu}", "M", "", magic, mask, interpreter, flags))
    )


def private_instance(registrations: list[bytes]) -> int:
    """A new binfmt_misc of the current user namespace with these handlers, and none of the host's.

    Handlers live as long as the returned descriptor (a mount that is attached nowhere, so that no program
    can see or change it). OSError when the kernel is older than 6.7 or refuses.
    """
    tree = syscalls.new_mount("binfmt_misc", [])
    try:
        for line in registrations:
            register = os.open("register", os.O_WRONLY, dir_fd=tree)
            try:
                os.write(register, line)
            finally:
                os.close(register)
    except OSError:
        os.close(tree)
        raise
    return tree


def private_emulators(emulators: list[tuple[str, str, bool]], place: str) -> int:
    """``private_instance`` with these emulators (QEMU's name, real path, keep argv[0]), seen through
    read-only mounts at ``place``: what a step finds behind /proc/PID/exe of an emulated process is not
    to be written."""
    folders: dict[str, str] = {}
    lines = []
    for qemu, path, keep_name in emulators:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.join(place, f"emulators{len(folders)}")
            os.mkdir(folders[folder])
            tree = syscalls.open_tree(folder)
            syscalls.mount_setattr(tree, syscalls.ATTR_RDONLY | syscalls.ATTR_NODEV)
            syscalls.move_mount(tree, folders[folder])
            os.close(tree)
        machine = next(machine for machine in MACHINES if machine.qemu == qemu)
        lines.append(registration(machine, os.path.join(folders[folder], name), keep_name=keep_name))
    return private_instance(lines)


class HostHandler(NamedTuple):
    """One handler of the host: the emulator's path, its flags and what it matches."""

    name: str
    interpreter: str
    flags: str
    offset: int
    magic: bytes
    mask: bytes

    def serves(self, machine: Machine) -> bool:
        """Whether an executable of ``machine`` goes to this handler."""
        header = machine.magic[0]
        part = header[self.offset : self.offset + len(self.magic)]
        mask = self.mask or b"\xff" * len(self.magic)
        return (
            bool(self.magic)
            and len(part) == len(self.magic)
            and all(a & m == b & m for a, b, m in zip(part, self.magic, mask, strict=True))
        )


def host_handlers(folder: str = HOST) -> list[HostHandler]:
    """The enabled handlers that match by magic; empty when binfmt_misc is off or not mounted."""
    found = []
    try:
        if _read(folder, "status").strip() != "enabled":
            return []
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    for name in names:
        if name in ("register", "status"):
            continue
        try:
            text = _read(folder, name)
        except OSError:
            continue
        handler = _parse(name, text)
        if handler is not None:
            found.append(handler)
    return found


def _read(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _parse(name: str, text: str) -> HostHandler | None:
    lines = text.splitlines()
    if not lines or lines[0] != "enabled":
        return None
    fields = dict(line.partition(" ")[::2] for line in lines[1:])
    flags = next((line.partition(":")[2].strip() for line in lines if line.startswith("flags:")), "")
    if "magic" not in fields:
        return None
    try:
        return HostHandler(
            name,
            fields.get("interpreter", ""),
            flags,
            int(fields.get("offset", "0")),
            bytes.fromhex(fields["magic"]),
            bytes.fromhex(fields.get("mask", "")),
        )
    except ValueError:
        return None
