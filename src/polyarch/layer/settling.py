"""Trees that a power cut may have damaged, and how they are told from the others.

Trees are written without waiting for the disk: a step's overlay is even mounted ``volatile``. Until
everything was written out, a tree carries a mark with the id of the running system's boot. A mark of another
boot means that the machine went down in between, and that the tree cannot be trusted.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

_MARK = "boot"


@cache
def _boot() -> bytes:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return b"unknown"


def mark(folder: Path) -> None:
    """Mark the tree in ``folder``, before it gets to its place."""
    (folder / _MARK).write_bytes(_boot())


def is_sound(folder: Path) -> bool:
    """Whether the tree in ``folder`` is what was once written there."""
    try:
        return (folder / _MARK).read_bytes() == _boot()
    except FileNotFoundError:
        return True


def settle(trees: Path) -> None:
    """Write everything out, and take the marks away from the trees that were there before."""
    marks = [path for path in trees.glob(f"*/{_MARK}") if is_sound(path.parent)]
    if not marks:
        return
    descriptor = os.open(trees, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            return  # they stay marked
    finally:
        os.close(descriptor)
    for path in marks:
        path.unlink(missing_ok=True)
