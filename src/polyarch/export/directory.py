"""``type=local``: the root filesystem of each platform as plain files in a directory.

Every operation is relative to an open directory and follows no symlink, so nothing lands outside of the
destination, whatever an image or what lies there already holds. Files appear whole, under their names.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from polyarch.content.ingest import disk
from polyarch.content.verify import CHUNK
from polyarch.errors import CancelledError, ContentError
from polyarch.export.result import PlatformResult
from polyarch.export.tree import Tree, trees
from polyarch.layer.entry import Entry

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SET_ID = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True)
class Written:
    """How much was written; ``skipped`` are devices, which only root can make."""

    files: int
    size: int
    skipped: tuple[str, ...] = ()


def write(
    results: Sequence[PlatformResult],
    destination: Path,
    *,
    split: bool | None,
    epoch: int | None,
    cancelled: Event,
) -> Written:
    """Write every platform's files under ``destination``, which is made if it is not there. Other files in it
    stay. Owners are kept by root; for anyone else everything is theirs, and no file keeps a set-id bit."""
    made = trees(results, split=split, epoch=epoch)
    with disk(f"writing {destination}", destination):
        destination.mkdir(parents=True, exist_ok=True)
        writer = _Writer(os.open(destination, _DIRECTORY & ~os.O_NOFOLLOW), cancelled)
        try:
            for tree in made:
                writer.tree(tree)
        finally:
            writer.close()
    return Written(writer.files, writer.size, tuple(writer.skipped))


@dataclass
class _Writer:
    root: int
    cancelled: Event
    keep_owner: bool = field(default_factory=lambda: os.geteuid() == 0)
    files: int = 0
    size: int = 0
    skipped: list[str] = field(default_factory=list)
    # The directories on the way to where entries are written now, outermost first.
    _open: list[tuple[Entry, int]] = field(default_factory=list)

    def tree(self, tree: Tree) -> None:
        for entry in tree.entries():
            if self.cancelled.is_set():
                raise CancelledError("the export was stopped", reason="cancelled")
            parent, _, name = entry.path.rpartition("/")
            if name in ("", ".", "..") or "\0" in name:
                raise ContentError(f"{entry.path!r} is not a path in an image", reason="invalid-path")
            self._write(tree, entry, self._enter(parent), name)
        self._leave("")

    def close(self) -> None:
        """Give all directories back without finishing them."""
        for _, descriptor in self._open:
            os.close(descriptor)
        self._open.clear()
        os.close(self.root)

    def _enter(self, path: str) -> int:
        """The open directory ``path``; those that are complete are finished and closed."""
        self._leave(path)
        found = self._open[-1][0].path if self._open else ""
        if found != path:
            raise ContentError(f"the directory of an entry, {path!r}, is missing", reason="invalid-toc")
        return self._open[-1][1] if self._open else self.root

    def _leave(self, path: str) -> None:
        while self._open:
            entry, descriptor = self._open[-1]
            if path == entry.path or path.startswith(entry.path + "/"):
                return
            self._open.pop()
            try:
                self._finish(entry, descriptor)
            finally:
                os.close(descriptor)

    def _write(self, tree: Tree, entry: Entry, parent: int, name: str) -> None:
        match entry.type:
            case "directory":
                self._directory(entry, parent, name)
            case "file":
                self._file(tree, entry, parent, name)
            case "symlink":
                self._replace(parent, name, lambda new: os.symlink(entry.link, new, dir_fd=parent))
                self._finish_link(entry, parent, name)
            case "hardlink":
                self._replace(parent, name, lambda new: self._link(entry, parent, new))
            case "fifo":
                self._special(entry, parent, name, stat.S_IFIFO)
            case "character":
                self._special(entry, parent, name, stat.S_IFCHR)
            case "block":
                self._special(entry, parent, name, stat.S_IFBLK)

    def _directory(self, entry: Entry, parent: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                os.unlink(name, dir_fd=parent)
                os.mkdir(name, 0o700, dir_fd=parent)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
        self._open.append((entry, descriptor))
        if os.fstat(descriptor).st_mode & 0o700 != 0o700:
            os.fchmod(descriptor, 0o700)  # until it is finished

    def _file(self, tree: Tree, entry: Entry, parent: int, name: str) -> None:
        def make(new: str) -> None:
            descriptor = os.open(new, _NEW, 0o600, dir_fd=parent)
            try:
                with tree.result.rootfs.open(tree.original(entry)) as source:
                    while chunk := source.read(CHUNK):
                        view = memoryview(chunk)
                        while view:
                            view = view[os.write(descriptor, view) :]
                self._finish(entry, descriptor)
            finally:
                os.close(descriptor)

        self._replace(parent, name, make)
        self.files += 1
        self.size += entry.size

    def _special(self, entry: Entry, parent: int, name: str, kind: int) -> None:
        device = os.makedev(entry.major, entry.minor) if kind != stat.S_IFIFO else 0
        try:
            self._replace(parent, name, lambda new: os.mknod(new, kind | 0o600, device, dir_fd=parent))
        except PermissionError:
            self.skipped.append(entry.path)
            return
        self._finish_link(entry, parent, name)
        os.chmod(name, self._mode(entry), dir_fd=parent)

    def _link(self, entry: Entry, parent: int, new: str) -> None:
        """A hard link to a file of this tree, reached without following symlinks."""
        folder, _, target = entry.link.rpartition("/")
        descriptor = os.dup(self.root)
        try:
            for component in folder.split("/") if folder else ():
                inner = os.open(component, _DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            os.link(target, new, src_dir_fd=descriptor, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(descriptor)

    def _replace(self, parent: int, name: str, make: Callable[[str], object]) -> None:
        """Make something under another name and move it to ``name``, in place of what is there."""
        new = f".polyarch-{secrets.token_hex(8)}"
        try:
            make(new)
            try:
                os.replace(new, name, src_dir_fd=parent, dst_dir_fd=parent)
            except IsADirectoryError:
                shutil.rmtree(name, dir_fd=parent)
                os.replace(new, name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            # A rename onto another link of the same file does nothing, and leaves the first one.
            try:
                os.unlink(new, dir_fd=parent)
            except FileNotFoundError:
                pass

    def _finish(self, entry: Entry, descriptor: int) -> None:
        if self.keep_owner:
            os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, self._mode(entry))
        for key, value in entry.xattrs.items():
            try:
                os.setxattr(descriptor, key, value)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EACCES):
                    raise
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def _finish_link(self, entry: Entry, parent: int, name: str) -> None:
        if self.keep_owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _mode(self, entry: Entry) -> int:
        if self.keep_owner or entry.type == "directory":
            return entry.mode
        return entry.mode & ~_SET_ID
