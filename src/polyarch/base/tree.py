"""A root filesystem as a table of paths: archives go in, one tar comes out, nothing is ever mounted.

The layout is Debian's merged /usr: what a package has in /bin, /sbin or /lib* goes to /usr, and the old names
become links.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from polyarch.base.deb import Slice
from polyarch.errors import ContentError
from polyarch.layer import tar_writer, toc
from polyarch.layer.entry import Entry, EntryType
from polyarch.layer.tar_reader import Member, TarReader

_MERGED = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32"})
_DEVICES = ("character", "block")


@dataclass(frozen=True)
class _Node:
    entry: Entry
    archive: Path | None = None  # an uncompressed tar, with the bytes at offset
    offset: int = 0
    content: bytes = b""

    def open(self) -> BinaryIO:
        if self.archive is None:
            return io.BytesIO(self.content)
        return cast(BinaryIO, Slice(self.archive.open("rb"), self.offset, self.entry.size))


class Tree:
    """Paths are relative, without ``.`` and ``..``. Later additions replace earlier ones, but a directory
    that is there stays one."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}

    def __contains__(self, path: str) -> bool:
        return _place(path) in self._nodes

    def add_archive(self, path: Path, *, devices: bool = False) -> list[str]:
        """Add everything in the uncompressed tar ``path``, which must stay there; returns the names as dpkg
        lists them. Devices are an error unless ``devices``: then they are left out. ContentError for a tar
        that is damaged or leads out of its root."""
        names = []
        with path.open("rb") as stream:
            for member in TarReader(stream):
                names.append("/" + member.path if member.path else "/.")
                if member.type in _DEVICES:
                    if not devices:
                        raise ContentError(
                            f"a package holds the device {member.path!r}", reason="invalid-package"
                        )
                    continue
                if member.sparse is not None:
                    raise ContentError(
                        f"a package holds the sparse file {member.path!r}", reason="invalid-package"
                    )
                self._put(_Node(_entry(member), path, member.offset))
        return names

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory unless something is there."""
        if path not in self:
            self._put(_made(path, "directory", mode))

    def file(self, path: str, content: bytes, mode: int = 0o644, *, gid: int = 0) -> None:
        entry = Entry(path=path, type="file", mode=mode, gid=gid, size=len(content))
        self._put(_Node(entry, content=content))

    def symlink(self, path: str, target: str) -> None:
        self._put(_made(path, "symlink", 0o777, target))

    def remove(self, path: str) -> None:
        """Remove a path and everything below it."""
        path = _place(path)
        for known in list(self._nodes):
            if known == path or known.startswith(path + "/"):
                del self._nodes[known]

    def read(self, path: str) -> bytes:
        """The bytes of a regular file; empty where there is none."""
        node = self._nodes.get(_place(path))
        if node is None or node.entry.type != "file":
            return b""
        with node.open() as stream:
            return stream.read(node.entry.size)

    def files(self, under: str, suffix: str = "") -> Iterator[str]:
        """The paths of regular files below the directory ``under`` that end in ``suffix``, sorted."""
        prefix = _place(under) + "/"
        for path in sorted(self._nodes):
            if path.startswith(prefix) and path.endswith(suffix) and self._nodes[path].entry.type == "file":
                yield path

    def newest(self) -> int:
        """The newest modification time, in seconds since 1970."""
        return max((node.entry.mtime_ns for node in self._nodes.values()), default=0) // toc.NANOSECONDS

    def write(self, sink: Callable[[bytes], object], *, epoch: int) -> None:
        """Write everything as one tar: parents first, times clamped to ``epoch`` (seconds since 1970), the
        same bytes for the same content."""
        self._complete()
        entries = []
        for node in self._nodes.values():
            time = epoch * toc.NANOSECONDS
            if node.archive is not None:
                time = min(toc.whole_seconds(node.entry.mtime_ns), time)
            entries.append(msgspec.structs.replace(node.entry, mtime_ns=time))
        # A hardlink must follow what it links to, which may sort behind it.
        entries.sort(key=lambda entry: (entry.type == "hardlink", toc.order(entry)))
        tar_writer.write(entries, lambda entry: self._nodes[entry.path].open(), sink)

    def _complete(self) -> None:
        """Give every path its parent directories."""
        for path in list(self._nodes):
            while "/" in path:
                path = path.rpartition("/")[0]
                if path not in self._nodes:
                    self._nodes[path] = _made(path, "directory", 0o755)

    def _put(self, node: _Node) -> None:
        entry = node.entry
        top, slash, _ = entry.path.partition("/")
        if top in _MERGED and (slash or entry.type == "directory") and top not in self._nodes:
            self._nodes[top] = _made(top, "symlink", 0o777, f"usr/{top}")
            self._nodes.setdefault(f"usr/{top}", _made(f"usr/{top}", "directory", 0o755))
        path = _place(entry.path)
        if not path:
            return  # the root itself
        known = self._nodes.get(path)
        if known is not None and entry.type == "directory" and known.entry.type in ("directory", "symlink"):
            return
        link = _place(entry.link) if entry.type == "hardlink" else entry.link
        entry = msgspec.structs.replace(entry, path=path, link=link)
        self._nodes[path] = _Node(entry, node.archive, node.offset, node.content)


def _place(path: str) -> str:
    """Where ``path`` of a package really is."""
    top, slash, rest = path.partition("/")
    return f"usr/{top}/{rest}" if slash and top in _MERGED else path


def _made(path: str, kind: EntryType, mode: int, link: str = "") -> _Node:
    return _Node(Entry(path=path, type=kind, mode=mode, link=link))


def _entry(member: Member) -> Entry:
    return Entry(
        path=member.path,
        type=msgspec.convert(member.type, EntryType),
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        size=member.size if member.type == "file" else 0,
        mtime_ns=member.mtime_ns,
        link=member.link,
        xattrs=member.xattrs,
    )
