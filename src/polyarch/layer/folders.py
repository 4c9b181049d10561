"""Directories under one root, opened component by component, so that no symlink can lead out of it."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from pathlib import Path

from polyarch.errors import ContentError

_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIMIT = 96  # directories kept open at once


class Folders:
    """Descriptors of directories by path relative to ``root``. They can be used with ``dir_fd``; each stays
    open until some dozens of others were asked for. Not thread-safe."""

    def __init__(self, root: str | Path, *, create: bool = False) -> None:
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: OrderedDict[str, int] = OrderedDict()
        self._create = create

    def __enter__(self) -> Folders:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close everything."""
        for descriptor in (*self._open.values(), self._root):
            os.close(descriptor)
        self._open.clear()
        self._root = -1

    def fd(self, path: str) -> int:
        """The directory ``path``. Missing ones are made as 0755 where this was asked for. OSError where a
        component is no directory (a symlink is none)."""
        if not path:
            return self._root
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        missing = []
        while path and path not in self._open:
            missing.append(path)
            path = path.rpartition("/")[0]
        descriptor = self._open[path] if path else self._root
        for below in reversed(missing):
            descriptor = self._enter(below, descriptor)
        return descriptor

    def _enter(self, path: str, above: int) -> int:
        name = path.rpartition("/")[2]
        try:
            descriptor = os.open(name, _FLAGS, dir_fd=above)
        except FileNotFoundError:
            if not self._create:
                raise
            os.mkdir(name, 0o755, dir_fd=above)
            os.chmod(name, 0o755, dir_fd=above)
            descriptor = os.open(name, _FLAGS, dir_fd=above)
        self._open[path] = descriptor
        if len(self._open) > _LIMIT:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def forget(self, path: str) -> None:
        """``path`` is about to be replaced: close it and what is under it."""
        prefix = path + "/"
        for known in [p for p in self._open if p == path or p.startswith(prefix)]:
            os.close(self._open.pop(known))

    def file(self, path: str) -> int:
        """Open a regular file for reading; ContentError (``changed-while-read``) when something else, or
        nothing, is there now."""
        parent, _, name = path.rpartition("/")
        try:
            descriptor = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.fd(parent)
            )
        except PermissionError:
            raise
        except OSError as error:
            raise ContentError(
                f"/{path} cannot be read any more: {os.strerror(error.errno or 0)}",
                hint="build again when nothing changes it",
                reason="changed-while-read",
            ) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ContentError(f"/{path} is no regular file any more", reason="changed-while-read")
        return descriptor
