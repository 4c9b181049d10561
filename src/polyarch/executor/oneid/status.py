"""struct stat and struct statx as the kernel writes them, with another owner (and device) in them."""

from __future__ import annotations

import os
import stat
import struct

from polyarch.executor.oneid.numbers import ARM64
from polyarch.executor.oneid.records import Owner
from polyarch.layer import owners

_X86_64 = struct.Struct("=QQQIIIIQqqqqQqQqQ24x")
_ARM64 = struct.Struct("=QQIIIIQQqiiqqQqQqQ8x")


def mode_of(status: os.stat_result, node: owners.Node | None) -> int:
    """The mode with the kind of file that is meant."""
    if node is None:
        return status.st_mode
    return stat.S_IMODE(status.st_mode) | (stat.S_IFBLK if node.block else stat.S_IFCHR)


def packed(status: os.stat_result, owner: Owner, node: owners.Node | None) -> bytes:
    """struct stat of this processor."""
    mode = mode_of(status, node)
    device = os.makedev(node.major, node.minor) if node else status.st_rdev
    times: list[int] = []
    for value in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns):
        times += divmod(value, 1_000_000_000)
    head = status.st_dev, status.st_ino
    if ARM64:
        return _ARM64.pack(
            *head, mode, status.st_nlink, *owner, device, 0, status.st_size, status.st_blksize, 0,
            status.st_blocks, *times,
        )  # fmt: skip
    return _X86_64.pack(
        *head, status.st_nlink, mode, *owner, 0, device, status.st_size, status.st_blksize, status.st_blocks,
        *times,
    )  # fmt: skip


def extended(file: int, status: os.stat_result, owner: Owner, node: owners.Node | None) -> bytes:
    """struct statx, the same on every processor."""
    buffer = owners.statx(file)
    struct.pack_into("=IIH", buffer, 20, *owner, mode_of(status, node))
    if node is not None:
        struct.pack_into("=II", buffer, 128, node.major, node.minor)
    return bytes(buffer)
