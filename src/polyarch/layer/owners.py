"""Owners (and device nodes) that a directory tree on disk cannot hold, kept beside the files they are of.

A user namespace maps some ids only. With subordinate ids it maps tens of thousands, but makes no device
nodes; with a single id every file belongs to that one. What a file would be as root's is then written into an
extended attribute of it, which overlayfs copies up with the file; and for what can have no such attributes
(symbolic links, fifos) into a table beside the upper directory of a step, by inode and time of birth.
"""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from typing import NamedTuple

OURS = "user.polyarch."
_OWNER = OURS + "owner"
_NODE = OURS + "node"
_WHOLE = 0xFFFF_FFFF

Key = tuple[int, int]  # inode, time of birth in nanoseconds
Table = dict[Key, tuple[int, int]]


class Node(NamedTuple):
    """A device node that stands on disk as an empty file."""

    block: bool
    major: int
    minor: int


@functools.cache
def mapped() -> int:
    """How many user ids this process can give files to."""
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return sum(int(line.split()[2]) for line in file)
    except (OSError, ValueError, IndexError):
        return _WHOLE


def recorded() -> bool:
    """Whether owners are recorded here instead of given: there is one id only."""
    return mapped() == 1


def in_namespace() -> bool:
    """Whether this is a user namespace that lacks ids, and so cannot make device nodes."""
    return mapped() < _WHOLE


def read(where: int | str) -> tuple[int, int] | None:
    """The recorded owner of a file or directory, None when it has none."""
    try:
        uid, gid = os.getxattr(where, _OWNER).split(b":")
        return int(uid) & _WHOLE, int(gid) & _WHOLE
    except (OSError, ValueError):
        return None


def write(where: int | str, uid: int, gid: int) -> None:
    """Record the owner of a regular file or directory. OSError where there are no such attributes."""
    if (uid, gid) == (0, 0) and read(where) is None:
        return
    os.setxattr(where, _OWNER, b"%d:%d" % (uid, gid))


def read_node(where: int | str) -> Node | None:
    """The device node that an empty regular file stands for, if it does."""
    try:
        kind, major, minor = os.getxattr(where, _NODE).split(b":")
        return Node(kind == b"b", int(major), int(minor))
    except (OSError, ValueError):
        return None


def write_node(where: int | str, node: Node) -> None:
    os.setxattr(where, _NODE, b"%s:%d:%d" % (b"b" if node.block else b"c", node.major, node.minor))


# --- what has no attributes ---------------------------------------------------------------------------------


def beside(upper: str) -> str:
    """The table's file for an upper directory."""
    return upper.rstrip("/") + ".owners"


def save(upper: str, table: Table) -> None:
    """Write the table of a step that ended."""
    if not table:
        return
    rows = "".join(f"{ino} {born} {uid} {gid}\n" for (ino, born), (uid, gid) in table.items())
    with open(beside(upper), "w", encoding="ascii") as file:
        file.write(rows)


def load(upper: str) -> Table:
    """The table of an upper directory; empty when there is none."""
    try:
        with open(beside(upper), encoding="ascii") as file:
            rows = [tuple(int(word) for word in line.split()) for line in file]
    except (OSError, ValueError):
        return {}
    return {(row[0], row[1]): (row[2], row[3]) for row in rows}


_libc = ctypes.CDLL(None, use_errno=True)
_STATX = 291 if os.uname().machine == "aarch64" else 332
_EMPTY_PATH, _NOFOLLOW = 0x1000, 0x100
_EVERYTHING = 0xFFF


def statx(folder: int, name: str = "") -> bytearray:
    """struct statx (256 bytes, statx(2)) of ``name`` in the open ``folder``, or of what is open itself."""
    buffer = ctypes.create_string_buffer(256)
    flags = _NOFOLLOW | (0 if name else _EMPTY_PATH)
    words = (ctypes.c_long(_STATX), ctypes.c_long(folder), os.fsencode(name), ctypes.c_long(flags))
    if _libc.syscall(*words, ctypes.c_long(_EVERYTHING), buffer) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return bytearray(buffer.raw)


def key(status: bytes | bytearray) -> Key:
    """Inode and birth in a struct statx: an inode's number is used again after it was removed."""
    (inode,) = struct.unpack_from("=Q", status, 32)
    seconds, nanoseconds = struct.unpack_from("=qI", status, 80)
    return inode, seconds * 1_000_000_000 + nanoseconds
