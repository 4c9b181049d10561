"""Whose the files of a running step are: what is recorded of them, and recording it."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from polyarch.executor import syscalls
from polyarch.layer import owners

Owner = tuple[int, int]
_OPEN = "/proc/self/fd/%d"
_BELOW = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS


class Records:
    """Owners by open file. ``links`` are those of symbolic links and fifos in the layers below, by path;
    those that the step makes are kept for the upper directory's table (``save``)."""

    def __init__(self, upper: str, links: Mapping[str, Owner]) -> None:
        self._upper = upper
        self._folder = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if upper else -1
        self._links = links
        self._here: dict[tuple[int, owners.Key], Owner] = {}
        self._kept: owners.Table = {}

    @property
    def has_links(self) -> bool:
        return bool(self._links)

    def owner(self, file: int, mode: int) -> Owner | None:
        """The recorded owner; None for root's."""
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            found = owners.read(_OPEN % file)
            if found is not None or not self._here:
                return found
        elif not self._here and not self._links:
            return None
        found = self._here.get(_identity(file))
        if found is None and self._links and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            path = self._path(file)
            found = self._links.get(path)
            if found is not None and self._above(path) is not None:
                return None  # made by this step where a lower layer had another
        return found

    def node(self, file: int, status: os.stat_result) -> owners.Node | None:
        """The device node that is meant, if it is one."""
        if status.st_size or not stat.S_ISREG(status.st_mode):
            return None
        return owners.read_node(_OPEN % file)

    def give(self, file: int, mode: int, owner: Owner) -> None:
        """Give the file away. OSError as for chown(2): this also copies it up and takes setuid bits away."""
        os.chown(_OPEN % file, 0, 0)
        self.mark(file, mode, owner)

    def mark(self, file: int, mode: int, owner: Owner) -> None:
        """Record the owner of a file that is new, or was just given away."""
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            try:
                owners.write(_OPEN % file, *owner)
                return
            except OSError:
                pass  # a file system without such attributes: it is remembered while the step lasts
        identity = _identity(file)
        if owner == (0, 0):
            # Still a record: a link of a lower layer may have had another owner.
            self._here.pop(identity, None)
        else:
            self._here[identity] = owner
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            above = self._above(self._path(file))
            if above is not None:
                self._kept[above] = owner

    def save(self) -> None:
        """Write what the upper directory's layer must know. The step has ended."""
        if self._folder >= 0:
            os.close(self._folder)
            owners.save(self._upper, self._kept)

    def _path(self, file: int) -> str:
        return os.readlink(_OPEN % file).lstrip("/")

    def _above(self, path: str) -> owners.Key | None:
        """What the upper directory has at ``path``; never by a symbolic link."""
        if self._folder < 0:
            return None
        try:
            found = syscalls.openat2(self._folder, path, os.O_PATH | os.O_NOFOLLOW, _BELOW)
        except OSError:
            return None
        try:
            return owners.key(owners.statx(found))
        finally:
            os.close(found)


def _identity(file: int) -> tuple[int, owners.Key]:
    return os.fstat(file).st_dev, owners.key(owners.statx(file))
