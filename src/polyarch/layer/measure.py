"""How much of the disk a folder takes. Runs where the files' owner may look (``Privilege.call``)."""

from __future__ import annotations

import os


def measure(path: str) -> list[int]:
    """Bytes on disk and number of files below ``path``, each inode once. What goes away meanwhile does not
    count, nor what cannot be read."""
    size = files = 0
    seen: set[tuple[int, int]] = set()
    stack = [path]
    while stack:
        current = stack.pop()
        try:
            status = os.lstat(current)
            size += _size(status, seen)
            with os.scandir(current) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(entry.path)
                        continue
                    size += _size(entry.stat(follow_symlinks=False), seen)
                    files += 1
        except OSError:
            continue
    return [size, files]


def _size(status: os.stat_result, seen: set[tuple[int, int]]) -> int:
    if status.st_nlink > 1:
        if (status.st_dev, status.st_ino) in seen:
            return 0
        seen.add((status.st_dev, status.st_ino))
    return status.st_blocks * 512
