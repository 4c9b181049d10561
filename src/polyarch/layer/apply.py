"""A layer's tar becomes a directory that overlayfs can use. Runs where files of other owners can be made.

The functions are called through ``Privilege.call`` with plain arguments and open files. Paths go through
descriptors of directories that were opened without following links, so that no layer can write outside.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from polyarch.errors import ContentError, PolyarchError, UnsupportedError
from polyarch.layer import owners
from polyarch.layer import toc as tocs
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.folders import Folders
from polyarch.layer.machine import HEADER_BYTES, identify
from polyarch.layer.placement import Placement
from polyarch.layer.tar_reader import TarReader

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")


def apply(tree: str, files: list[int]) -> None:
    """Unpack the uncompressed layer tar ``files[0]`` into ``tree``, which must not exist; its toc, with
    digests and machines, is written to ``files[1]``.

    Whiteouts become character devices 0:0, opaque directories get overlay's xattr.
    ContentError for a tar that makes no sense, UnsupportedError where this user may not do what it takes.
    """
    with explained("unpacking a layer"):
        os.mkdir(tree, 0o755)
        os.chmod(tree, 0o755)
        if os.stat(tree).st_gid != os.getegid():
            os.chown(tree, -1, os.getegid())
        with Folders(tree, create=True) as folders, os.fdopen(os.dup(files[0]), "rb", 0) as stream:
            toc = _Unpacking(folders).run(cast(BinaryIO, stream))
        with os.fdopen(os.dup(files[1]), "wb") as out:
            out.write(tocs.encode(toc))


def prepare_upper(folder: str, mode: int, uid: int, gid: int) -> None:
    """Make the upper and the work directory of an overlay in ``folder``."""
    with explained("preparing a step"):
        for name in ("fs", "work"):
            os.mkdir(f"{folder}/{name}", 0o755)
        upper = f"{folder}/fs"
        _own(upper, Entry("", "directory", mode, uid, gid))
        os.chmod(upper, mode)


def remove(path: str) -> None:
    """Remove a directory tree whatever its modes are; nothing happens when it is not there."""
    with explained("removing a layer"):
        for _ in range(2):
            try:
                shutil.rmtree(path)
            except FileNotFoundError:
                return
            except PermissionError:
                for folder, _, _ in os.walk(path):
                    os.chmod(folder, 0o700)
            else:
                return
        shutil.rmtree(path)


@contextmanager
def explained(operation: str) -> Iterator[None]:
    """Turn what the operating system says into a PolyarchError that can cross to another process."""
    try:
        yield
    except OSError as error:
        name = f" {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PolyarchError(
                f"{operation}: no space left on the disk",
                hint="free some space, or set POLYARCH_ROOT to a directory on a larger disk",
                reason="no-space",
            ) from None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise UnsupportedError(
                f"{operation}:{name} not permitted: {error.strerror}",
                hint="owners of files need root or subordinate ids: see /etc/subuid and newuidmap",
                reason="not-permitted",
            ) from None
        raise PolyarchError(f"{operation}:{name} {error.strerror}", reason="filesystem") from None


class _Unpacking:
    """One tar on its way into a directory."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self._placement = Placement()
        self._uid = os.geteuid()
        self._gid = os.getegid()
        self._umask = _umask()
        self._late: list[Entry] = []  # hardlinks to what has not come yet
        if "system.posix_acl_default" in os.listxattr(f"/proc/self/fd/{folders.fd('')}"):
            self._umask = 0o7777  # new files do not get the mode they are made with

    def run(self, stream: BinaryIO) -> Toc:
        reader = TarReader(stream)
        for member in reader:
            entry = self._placement.place(member)
            if entry is None:
                continue
            match entry.type:
                case "file":
                    self._file(entry, reader)
                case "directory":
                    self._directory(entry.path)
                case "hardlink":
                    if not self._link(entry):
                        self._late.append(entry)
                case _:
                    self._special(entry)
        for entry in self._late:
            current = self._placement.entries.get(entry.path)
            if current is entry and not self._link(entry):
                raise ContentError(
                    f"the layer's {entry.path!r} is a hardlink to {entry.link!r}, which is not in it",
                    reason="broken-hardlink",
                )
        toc = self._placement.finish()
        self._finish(toc)
        return toc

    def _directory(self, path: str) -> None:
        try:
            self._folders.fd(path)
        except NotADirectoryError:
            self._make_room(path)
            self._folders.fd(path)

    def _make_room(self, path: str) -> None:
        """Remove what an earlier member, or a directory made on the way, left at this place."""
        parent, _, name = path.rpartition("/")
        folder = self._folders.fd(parent)
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            self._folders.forget(path)
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)

    def _file(self, entry: Entry, reader: TarReader) -> None:
        parent, _, name = entry.path.rpartition("/")
        folder = self._folders.fd(parent)
        try:
            descriptor = os.open(name, _NEW, entry.mode & 0o777, dir_fd=folder)
        except FileExistsError:
            self._make_room(entry.path)
            descriptor = os.open(name, _NEW, entry.mode & 0o777, dir_fd=folder)
        try:
            digest, machine = _fill(descriptor, reader)
            if entry.uid != self._uid or entry.gid != self._gid:
                _own(descriptor, entry)
            if entry.mode & (self._umask | 0o7000):
                os.fchmod(descriptor, entry.mode)
            for key, value in entry.xattrs.items():
                _set_xattr(descriptor, key, value, entry)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)
        self._placement.describe(entry.path, digest, machine)

    def _link(self, entry: Entry) -> bool:
        """Make a hardlink; False when what it links to is not there (yet)."""
        source, _, target = entry.link.rpartition("/")
        try:
            above = self._folders.fd(source)
            if not stat.S_ISDIR(os.stat(target, dir_fd=above, follow_symlinks=False).st_mode):
                name = entry.path.rpartition("/")[2]
                self._fresh(
                    entry.path,
                    lambda folder: os.link(
                        target, name, src_dir_fd=above, dst_dir_fd=folder, follow_symlinks=False
                    ),
                )
                return True
        except FileNotFoundError:
            pass
        return False

    def _fresh(self, path: str, make: Callable[[int], None]) -> None:
        """Call ``make`` with the directory of ``path``, after removing what is in the way."""
        folder = self._folders.fd(path.rpartition("/")[0])
        try:
            make(folder)
        except FileExistsError:
            self._make_room(path)
            make(folder)

    def _special(self, entry: Entry) -> None:
        parent, _, name = entry.path.rpartition("/")
        folder = self._folders.fd(parent)
        if entry.type == "symlink":
            self._fresh(entry.path, lambda folder: os.symlink(entry.link, name, dir_fd=folder))
        else:
            kind = {"fifo": stat.S_IFIFO, "character": stat.S_IFCHR, "block": stat.S_IFBLK}[entry.type]
            device = os.makedev(entry.major, entry.minor)
            mode = kind | entry.mode & 0o777
            try:
                self._fresh(entry.path, lambda folder: os.mknod(name, mode, device, dir_fd=folder))
            except PermissionError:
                if entry.type == "fifo":
                    raise
                return  # a user namespace has no devices; the layer's tar keeps them
        path = f"/proc/self/fd/{folder}/{name}"
        _own(path, entry)
        if entry.type != "symlink":
            os.chmod(path, entry.mode)
        for key, value in entry.xattrs.items():
            _set_xattr(path, key, value, entry)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def _finish(self, toc: Toc) -> None:
        """Whiteouts and directories, the deepest first, when nothing changes their times any more."""
        for entry in toc.entries:
            if entry.type == "whiteout":
                parent, _, name = entry.path.rpartition("/")
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=self._folders.fd(parent))
        for entry in reversed(toc.entries):
            if entry.type not in ("opaque", "directory"):
                continue
            path = f"/proc/self/fd/{self._folders.fd(entry.path)}"
            if entry.type == "opaque":
                _mark_opaque(path)
                continue
            if entry.uid != self._uid or entry.gid != self._gid:
                _own(path, entry, follow=True)
            os.chmod(path, entry.mode)
            for key, value in entry.xattrs.items():
                _set_xattr(path, key, value, entry, follow=True)
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def _fill(descriptor: int, reader: TarReader) -> tuple[str, str]:
    """Write the content; returns its digest and machine. Holes stay holes."""
    hasher = hashlib.sha256()
    machine = ""
    start = True
    hole = False
    for chunk in reader.chunks():
        if isinstance(chunk, int):
            os.lseek(descriptor, chunk, os.SEEK_CUR)
            hash_zeros(hasher, chunk)
            hole = True
        else:
            if start:
                machine = identify(chunk[:HEADER_BYTES])
            hasher.update(chunk)
            write_all(descriptor, chunk)
        start = False
    if hole:
        os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
    return "sha256:" + hasher.hexdigest(), machine


def hash_zeros(hasher: hashlib._Hash, count: int) -> None:
    """Feed ``count`` zero bytes."""
    block = bytes(min(count, 1 << 20))
    while count > 0:
        hasher.update(block[:count])
        count -= len(block)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``; pipes and signals may make one write too short."""
    written = os.write(descriptor, data)
    if written < len(data):
        view = memoryview(data)[written:]
        while view:
            view = view[os.write(descriptor, view) :]


def _own(where: int | str, entry: Entry, *, follow: bool = False) -> None:
    try:
        if owners.recorded():
            if entry.type in ("file", "directory"):
                owners.write(where, entry.uid, entry.gid)
            return  # of the rest the toc tells
        if isinstance(where, int):
            os.fchown(where, entry.uid, entry.gid)
        else:
            os.chown(where, entry.uid, entry.gid, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            raise no_attributes("record owners") from None
        if error.errno not in (errno.EINVAL, errno.EPERM, errno.EOVERFLOW):
            raise
        raise UnsupportedError(
            f"/{entry.path} belongs to {entry.uid}:{entry.gid}, which this user cannot give files to",
            hint="more subordinate ids (/etc/subuid, /etc/subgid), or root, are needed",
            reason="unmapped-owner",
        ) from None


def _set_xattr(where: int | str, key: str, value: bytes, entry: Entry, *, follow: bool = False) -> None:
    if key.startswith(owners.OURS):
        return  # no layer says what we recorded
    try:
        if isinstance(where, int):
            os.setxattr(where, key, value)
        else:
            os.setxattr(where, key, value, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP or (error.errno == errno.EPERM and key != "security.capability"):
            return  # this file system, or this user, has no place for it; the layer's tar keeps it
        raise PolyarchError(
            f"the extended attribute {key} of /{entry.path} cannot be set: {error.strerror}",
            reason="xattr",
        ) from None


def _mark_opaque(path: str) -> None:
    """In a user namespace only the second spelling is allowed, and is the one overlayfs looks for there."""
    for name in _OPAQUE:
        try:
            os.setxattr(path, name, b"y")
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP):
                raise
    raise no_attributes("mark opaque directories")


def no_attributes(purpose: str) -> UnsupportedError:
    """The error of a disk without extended attributes."""
    return UnsupportedError(
        f"the disk of the state directory cannot {purpose} (no extended attributes)",
        hint="set POLYARCH_ROOT to a directory on ext4, xfs or btrfs",
        reason="no-xattrs",
    )


def _umask() -> int:
    """The process's umask, without changing it for a moment."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o7777
