"""A layer being drawn: the entries it will hold, seen together with the root filesystem below it."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from typing import BinaryIO

import msgspec

from polyarch.errors import PolyarchError
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.rootfs import Rootfs, follow

MAX_LINKS = 40  # as Linux has it
# The time of what has none of its own, 2000-01-01: the same in every build, and late enough for zip files,
# which hold no time before 1980 (Python's zipfile refuses to).
TIMELESS_NS = 946_684_800 * 10**9

Opener = Callable[[], BinaryIO]


class Canvas:
    """New entries over a base. Nothing is read, written or mounted; only tables of contents are looked at.

    ``mtime_ns`` is given to directories that have to be made.
    """

    def __init__(self, base: Rootfs, mtime_ns: int) -> None:
        self.base = base
        self.mtime_ns = mtime_ns
        self._entries: dict[str, Entry] = {}
        self._openers: dict[str, Opener] = {}
        self._new: set[str] = set()  # directories below which the base has nothing
        self._seen: dict[str, Entry | None] = {}  # what was looked at in the base
        self._read: dict[str, bytes] = {}

    # -- looking -------------------------------------------------------------------------------------------

    def get(self, path: str) -> Entry | None:
        """The entry at ``path`` (no links followed), new or of the base."""
        found = self._entries.get(path)
        if found is not None:
            return found
        directory = path.rpartition("/")[0]
        if directory in self._new:
            return None
        above = self._entries.get(directory)
        if above is None or above.type != "directory":  # over one of ours there are directories only
            for parent in _parents(path):
                above = self._entries.get(parent)
                if above is not None and above.type != "directory":
                    return None  # what the base has there is hidden
        return self._below(path)

    def _below(self, path: str) -> Entry | None:
        found = self._seen[path] = self.base.get(path)
        return found

    def fits(self, base: Rootfs) -> bool:
        """Whether the same would have been drawn on ``base``."""
        return all(base.get(path) == entry for path, entry in self._seen.items()) and all(
            _content(base, path, len(content) + 1) == content for path, content in self._read.items()
        )

    def resolve(self, path: str, *, last: bool = True) -> str:
        """``path`` with symlinks followed inside the root; what is missing stays as it is written.

        ``..`` never climbs out. With ``last`` False the final component is not followed.
        """
        return follow(self.get, path, last=last)

    def read(self, path: str, limit: int = 4 << 20) -> bytes | None:
        """The content of a small file, or None when there is none."""
        resolved = self.resolve(path)
        entry = self.get(resolved)
        if entry is None or entry.type not in ("file", "hardlink"):
            return None
        opener = self._openers.get(resolved)
        if opener is None:
            content = self._read[resolved] = _content(self.base, resolved, limit)
            return content
        with opener() as stream:
            return stream.read(limit)

    # -- drawing -------------------------------------------------------------------------------------------

    def put(self, entry: Entry, opener: Opener | None = None) -> None:
        """Place an entry, replacing what is there. Its parent must be a directory."""
        existing = self.get(entry.path)
        if entry.type == "directory":
            if existing is None:
                self._new.add(entry.path)
        elif existing is not None and existing.type == "directory":
            self._forget_below(entry.path)
        self._entries[entry.path] = entry
        self._openers.pop(entry.path, None)
        if opener is not None:
            self._openers[entry.path] = opener

    def complete(self, entry: Entry) -> None:
        """Say more of a file that was put here, if it still is: its digest, size and machine."""
        if entry.path in self._entries:
            self._entries[entry.path] = entry

    def make_directories(self, path: str, uid: int, gid: int, mode: int = 0o755) -> None:
        """Make ``path`` and its missing parents; what exists stays as it is."""
        missing: list[str] = []
        current = path
        while current:
            entry = self.get(current)
            if entry is not None:
                if entry.type != "directory":
                    raise PolyarchError(
                        f"cannot make the directory /{path}: /{current} is a {entry.type}",
                        reason="not-a-directory",
                    )
                break
            missing.append(current)
            current = posixpath.dirname(current)
        for name in reversed(missing):
            self.put(Entry(name, "directory", mode, uid, gid, mtime_ns=self.mtime_ns))

    def _forget_below(self, path: str) -> None:
        prefix = path + "/"
        for name in [name for name in self._entries if name.startswith(prefix)]:
            del self._entries[name]
            self._openers.pop(name, None)
        self._new = {name for name in self._new if name != path and not name.startswith(prefix)}

    # -- the result ----------------------------------------------------------------------------------------

    def toc(self) -> Toc:
        """The layer's table of contents: new entries, and the directories above them, parents first."""
        entries = dict(self._entries)
        for path in self._entries:
            if path.rpartition("/")[0] in self._entries:
                continue  # whose own parents are looked at
            for parent in _parents(path):
                if parent not in entries:
                    known = self._below(parent)
                    if known is not None and known.type == "directory":
                        entries[parent] = msgspec.structs.replace(known, path=parent)
        ordered = sorted(entries.values(), key=lambda entry: entry.path.split("/"))
        return Toc(tuple(_links_last(ordered)))

    def open(self, entry: Entry) -> BinaryIO:
        """The bytes of a new file."""
        return self._openers[entry.path]()


def _content(base: Rootfs, path: str, limit: int) -> bytes:
    with base.open(path) as stream:
        return stream.read(limit)


def _parents(path: str) -> Iterator[str]:
    """``a/b/c`` → ``a``, ``a/b``."""
    position = path.find("/")
    while position >= 0:
        yield path[:position]
        position = path.find("/", position + 1)


def _links_last(entries: list[Entry]) -> list[Entry]:
    """A hard link must come behind the file it names."""
    position = {entry.path: number for number, entry in enumerate(entries)}
    late = [e for n, e in enumerate(entries) if e.type == "hardlink" and position.get(e.link, -1) > n]
    if not late:
        return entries
    chosen = {entry.path for entry in late}
    return [entry for entry in entries if entry.path not in chosen] + late
