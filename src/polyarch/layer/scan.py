"""A directory that a step wrote to, or a layer's tree, is looked at and read. Runs where that is allowed.

The functions are called through ``Privilege.call`` with plain arguments and open files, like those of
``apply``; run inside the user namespace whose files they read, they see its owners and capabilities.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import BinaryIO, cast

import msgspec

from polyarch.errors import ContentError
from polyarch.layer import owners, tar_writer
from polyarch.layer import toc as tocs
from polyarch.layer.apply import explained, write_all
from polyarch.layer.entry import Entry, EntryType, Toc
from polyarch.layer.folders import Folders
from polyarch.layer.machine import HEADER_BYTES, identify

_CHUNK = 1 << 20
_OVERLAY = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.", owners.OURS)
_HOST = ("security.selinux", "security.ima", "security.evm", "security.apparmor", "system.nfs4_acl")
_SMALLEST_PROGRAM = 45  # bytes


def scan(tree: str, files: list[int]) -> None:
    """Write the raw toc of the overlay directory ``tree`` to ``files[0]``: whiteouts and opaque marks as
    overlayfs made them, hardlinks within it, machines but no digests; sockets are left out. ContentError for
    what no layer can hold."""
    with explained("looking at what a step changed"):
        entries: list[Entry] = []
        with Folders(tree) as folders:
            _Scanner(folders, entries, owners.load(tree) if owners.recorded() else {}).run()
        _send(files[0], Toc(tuple(entries)))


def describe(tree: str, files: list[int]) -> None:
    """Read the regular files of the toc ``files[0]`` in ``tree`` and write them, with digest and machine, to
    ``files[1]``."""
    with explained("reading a layer"), Folders(tree) as folders:
        found = []
        for entry in receive(files[0]).entries:
            descriptor = folders.file(entry.path)
            try:
                found.append(_described(entry, descriptor))
            finally:
                os.close(descriptor)
        _send(files[1], Toc(tuple(found)))


def archive(tree: str, clamp_mtime: int | None, files: list[int]) -> None:
    """Write the toc ``files[0]``, whose files lie in ``tree``, as tar to ``files[1]``."""
    with explained("reading a layer"), Folders(tree) as folders:

        def source(entry: Entry) -> BinaryIO:
            return cast(BinaryIO, os.fdopen(folders.file(entry.path), "rb", 0))

        tar_writer.write(
            receive(files[0]).entries,
            source,
            lambda piece: write_all(files[1], piece),
            clamp_mtime=clamp_mtime,
        )


def receive(descriptor: int) -> Toc:
    """The toc in an open file, read from its start."""
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        return tocs.decode(stream.read())


def _send(descriptor: int, toc: Toc) -> None:
    with os.fdopen(os.dup(descriptor), "wb") as out:
        out.write(tocs.encode(toc))


def _described(entry: Entry, descriptor: int) -> Entry:
    hasher = hashlib.sha256()
    size = 0
    machine = ""
    while chunk := os.read(descriptor, _CHUNK):
        if not size:
            machine = identify(chunk[:HEADER_BYTES])
        hasher.update(chunk)
        size += len(chunk)
    if size != entry.size:
        raise tar_writer.changed(entry)
    return msgspec.structs.replace(entry, digest="sha256:" + hasher.hexdigest(), machine=machine)


class _Scanner:
    def __init__(self, folders: Folders, entries: list[Entry], table: owners.Table) -> None:
        self._folders = folders
        self._table = table  # of what cannot carry its owner itself
        self._entries = entries
        self._inodes: dict[tuple[int, int], str] = {}

    def run(self) -> None:
        """Add the root and everything in it, a directory before what is in it, names sorted."""
        todo = [""]
        while todo:
            path = todo.pop()
            if path and not self._child(path):
                continue
            descriptor = os.open(
                ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folders.fd(path)
            )
            try:
                self._directory(path, descriptor)
                prefix = path + "/" if path else ""
                todo.extend(prefix + name for name in sorted(os.listdir(descriptor), reverse=True))
            finally:
                os.close(descriptor)

    def _directory(self, path: str, descriptor: int) -> None:
        status = os.fstat(descriptor)
        xattrs = _xattrs(descriptor)
        raw = {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
        self._refuse(path, raw)
        entry = _entry(path, "directory", status, xattrs=xattrs)
        self._entries.append(_owned(entry, descriptor) if owners.recorded() else entry)
        if any(raw.get(prefix + "opaque") == b"y" for prefix in _OVERLAY[:2]):
            self._entries.append(Entry(path, "opaque", 0))

    @staticmethod
    def _refuse(path: str, xattrs: dict[str, bytes]) -> None:
        for prefix in _OVERLAY[:2]:
            for name in ("redirect", "metacopy"):
                if prefix + name in xattrs:
                    raise ContentError(
                        f"/{path} was only partly copied by overlayfs ({prefix}{name})",
                        hint="mount overlays with redirect_dir=nofollow,metacopy=off",
                        reason="overlay-redirect",
                    )

    def _child(self, path: str) -> bool:
        """Add what is at ``path`` unless it is a directory; whether it is one."""
        parent, _, name = path.rpartition("/")
        folder = self._folders.fd(parent)
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            self._check_name(path, name)
            return True
        if stat.S_ISCHR(mode) and status.st_rdev == 0:
            self._entries.append(Entry(path, "whiteout", 0))
            return False
        if stat.S_ISSOCK(mode):
            return False
        self._check_name(path, name)
        first = self._inodes.setdefault((status.st_dev, status.st_ino), path) if status.st_nlink > 1 else path
        if first != path:
            self._entries.append(_entry(path, "hardlink", status, link=first))
        elif stat.S_ISREG(mode):
            self._file(path, name, folder)
        else:
            self._special(path, name, folder, status)
        return False

    @staticmethod
    def _check_name(path: str, name: str) -> None:
        if name.startswith(tar_writer.WHITEOUT):
            raise ContentError(
                f"/{path} cannot be kept in a layer: names that start with .wh. mark deletions there",
                hint="remove or rename the file in the same step",
                reason="reserved-name",
            )

    def _file(self, path: str, name: str, folder: int) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            status = os.fstat(descriptor)
            xattrs = _xattrs(descriptor)
            big = status.st_size >= _SMALLEST_PROGRAM
            machine = identify(os.pread(descriptor, HEADER_BYTES, 0)) if big else ""
            entry = _entry(path, "file", status, xattrs=xattrs, machine=machine)
            if owners.recorded():
                entry = _owned(entry, descriptor)
            if owners.in_namespace() and not status.st_size:
                entry = _device(entry, descriptor)
        finally:
            os.close(descriptor)
        self._entries.append(entry)

    def _special(self, path: str, name: str, folder: int, status: os.stat_result) -> None:
        mode = status.st_mode
        xattrs = _xattrs(f"/proc/self/fd/{folder}/{name}")
        if stat.S_ISLNK(mode):
            link = os.readlink(name, dir_fd=folder)
            entry = _entry(path, "symlink", status, link=link, xattrs=xattrs)
            self._entries.append(self._listed(entry, folder, name))
            return
        kind: EntryType = "fifo"
        if stat.S_ISCHR(mode):
            kind = "character"
        elif stat.S_ISBLK(mode):
            kind = "block"
        self._entries.append(self._listed(_entry(path, kind, status, xattrs=xattrs), folder, name))

    def _listed(self, entry: Entry, folder: int, name: str) -> Entry:
        """With the owner that the table has for it."""
        owner = self._table.get(owners.key(owners.statx(folder, name))) if self._table else None
        return entry if owner is None else msgspec.structs.replace(entry, uid=owner[0], gid=owner[1])


def _owned(entry: Entry, descriptor: int) -> Entry:
    owner = owners.read(descriptor)
    return entry if owner is None else msgspec.structs.replace(entry, uid=owner[0], gid=owner[1])


def _device(entry: Entry, descriptor: int) -> Entry:
    node = owners.read_node(descriptor)
    if node is None:
        return entry
    kind: EntryType = "block" if node.block else "character"
    return msgspec.structs.replace(entry, type=kind, major=node.major, minor=node.minor)


def _entry(
    path: str,
    kind: EntryType,
    status: os.stat_result,
    *,
    link: str = "",
    xattrs: dict[str, bytes] | None = None,
    machine: str = "",
) -> Entry:
    device = kind in ("character", "block")
    return Entry(
        path,
        kind,
        0o777 if kind == "symlink" else stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_size if kind == "file" else 0,
        tocs.whole_seconds(status.st_mtime_ns),
        link,
        os.major(status.st_rdev) if device else 0,
        os.minor(status.st_rdev) if device else 0,
        xattrs or {},
        "",
        machine,
    )


def _xattrs(where: int | str) -> dict[str, bytes]:
    """What belongs to the file, not to the overlay or to this host."""
    follow = isinstance(where, int)
    names = os.listxattr(where) if follow else os.listxattr(where, follow_symlinks=False)
    found = {}
    for name in sorted(names):
        if not name.startswith(_OVERLAY) and not name.startswith(_HOST):
            found[name] = (
                os.getxattr(where, name) if follow else os.getxattr(where, name, follow_symlinks=False)
            )
    return found
