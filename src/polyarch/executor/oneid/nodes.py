"""Device nodes for steps in a user namespace, where the kernel makes none: real ones where the supervisor is
outside of it and may, else a record of what is meant. Nobody can open either: steps see no disk without
nodev but their /dev."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from polyarch.executor.oneid.caller import AT_FDCWD, Caller
from polyarch.executor.oneid.listener import Notification
from polyarch.layer import owners

_CAP_MKNOD = 27
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def handlers() -> dict[str, Callable[[Caller, Notification], int | None]]:
    """The answers where all other ids are real."""
    return {
        "mknod": lambda c, n: _mknod(c, AT_FDCWD, *n.arguments[:3]),
        "mknodat": lambda c, n: _mknod(c, *n.arguments[:4]),
    }


def is_device(mode: int, device: int) -> bool:
    """Whether mknod(2) is to make a device; the character device 0:0 is overlayfs's, and not made."""
    kind = stat.S_IFMT(mode & 0xFFFF)
    return kind == stat.S_IFBLK or (kind == stat.S_IFCHR and device & 0xFFFF_FFFF != 0)


def _mknod(caller: Caller, folder: int, path: int, mode: int, device: int) -> int | None:
    if not is_device(mode, device) or not caller.capable(_CAP_MKNOD):
        return None
    with caller.parent(folder, caller.path(path)) as (above, name):
        make(above, name, mode & (~0o777 | ~caller.umask()), device & 0xFFFF_FFFF)
    return 0


def make(folder: int, name: str, mode: int, device: int) -> None:
    """Make the node ``name`` in the open ``folder``."""
    if not owners.in_namespace():
        os.mknod(name, mode & 0xFFFF, device, dir_fd=folder)
        return
    made = os.open(name, _NEW, mode & 0o777, dir_fd=folder)
    try:
        node = owners.Node(stat.S_ISBLK(mode), os.major(device), os.minor(device))
        owners.write_node(made, node)
    except OSError:
        os.unlink(name, dir_fd=folder)
        raise PermissionError(errno.EPERM, "no place for a device node") from None
    finally:
        os.close(made)
