"""COPY and ADD on tables of contents: which source goes where, with which owner and mode.

The rules are docker's (those of its copy library): a directory's contents are copied, a file lands in an
existing directory under its own name, existing directories keep their owner and mode at the top and take
the source's below, a symlink named as the source is followed, one found on the way is copied.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec

from polyarch.context.ignore import Matcher
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.graph.vertex import CopyAction
from polyarch.layer import glob as globbing
from polyarch.layer.entry import Entry
from polyarch.layer.rootfs import Rootfs
from polyarch.ops import chmod
from polyarch.ops.canvas import Canvas
from polyarch.ops.unpack import unpack


@dataclass
class Copying:
    """One copy action from ``source`` to ``canvas``. ``owner`` None keeps the source's owners.

    ``selected`` is afterwards what of the source was looked at, whatever the canvas stands on. With
    ``packed`` archives are copied and not unpacked.
    """

    canvas: Canvas
    source: Rootfs
    action: CopyAction
    owner: tuple[int, int] | None
    epoch_ns: int | None = None
    scratch: Path | None = None  # where archives are kept while they are unpacked
    packed: bool = False
    selected: dict[str, Entry] = field(default_factory=dict)
    _links: dict[str, str] = field(default_factory=dict)
    _files: list[tuple[str, str]] = field(default_factory=list)
    _include: Matcher | None = None
    _exclude: Matcher | None = None

    def run(self) -> None:
        """Do it. NotFoundError names the source that is missing."""
        action = self.action
        self._include = Matcher(action.include) if action.include else None
        self._exclude = Matcher(action.exclude) if action.exclude else None
        for path in action.required:
            if self.source.get(self.source.resolve(path)) is None:
                raise _missing(path)
        for path in self._sources():
            self._links.clear()  # names of one file are joined within one match of a pattern only
            if not (action.unpack and self._unpack(path)):
                self._copy(path)
        self._describe_files()

    def _unpack(self, path: str) -> bool:
        if self.packed or not unpack(
            self.canvas, self.source, path, self.action.destination, self.owner, self.scratch
        ):
            return False
        followed = self.source.resolve(path)
        self.selected[followed] = self.source.files([followed])[0]
        return True

    def _sources(self) -> list[str]:
        pattern = self.action.source
        if not self.action.wildcards or not _has_wildcards(pattern):
            return [_unescape(pattern) if self.action.wildcards else pattern]
        found = self.source.glob(pattern)
        fixed, _ = globbing.split(pattern)
        if not found and self.source.get(self.source.resolve(fixed)) is None:
            raise _missing("/" + fixed)
        return ["/" + path for path in found]

    def _copy(self, path: str) -> None:
        action, canvas = self.action, self.canvas
        followed = self.source.resolve(path, last=action.follow)
        entry = self.source.get(followed)
        if entry is None:
            raise _missing(path)
        self.selected[followed] = entry
        directory = entry.type == "directory"
        written = action.destination
        parent = written if written.endswith("/") else posixpath.dirname(written)
        self._make_directories(canvas.resolve(parent))
        target = canvas.resolve(written)
        existing = canvas.get(target)
        into = existing is not None and existing.type == "directory"
        if (directory and not action.contents_only and existing is not None) or (not directory and into):
            target = posixpath.join(target, posixpath.basename(path.rstrip("/"))).rstrip("/")
        self._make_directories(posixpath.dirname(target))
        if directory:
            self._directory(entry, followed, target)
        else:
            self._place(entry, followed, target)

    def _directory(self, entry: Entry, path: str, target: str) -> None:
        """Copy the tree at ``path``. The top directory keeps what an existing target has."""
        existing = self.canvas.get(target)
        if existing is not None and existing.type != "directory":
            raise PolyarchError(
                f"cannot copy the directory /{path} to /{target}: that is a {existing.type}",
                reason="not-a-directory",
            )
        if existing is None and target:
            self._top(entry, target)
        prefix = len(path) + 1 if path else 0
        skipped: list[Entry] = []  # directories not selected themselves, made only when something inside is
        for child in self._below(path):
            while skipped and not child.path.startswith(skipped[-1].path + "/"):
                skipped.pop()
            relative = child.path[prefix:]
            if self._selected(relative):
                for parent in skipped:
                    self._directory_entry(parent, posixpath.join(target, parent.path[prefix:]))
                skipped.clear()
                self._place(child, child.path, posixpath.join(target, relative))
            elif child.type == "directory":
                skipped.append(child)

    def _top(self, entry: Entry, target: str) -> None:
        """A directory that does not exist yet: new, unless the directory itself is what is copied."""
        if self.action.contents_only:
            self._make_directories(target)
        else:
            self.canvas.put(self._owned(entry, target))

    def _make_directories(self, path: str) -> None:
        """Make what is missing of the destination. As in docker it gets --chown, and the permissions of a
        --chmod that is a number, since there is no mode that symbols could change."""
        given = self.action.chmod
        mode = int(given, 8) & 0o777 if given[:1].isdigit() else 0o755
        self.canvas.make_directories(path, *(self.owner or (0, 0)), mode)

    def _below(self, path: str) -> Iterator[Entry]:
        for child in self.source.walk(path):
            if child.path != path:
                yield child

    def _selected(self, relative: str) -> bool:
        if self._include is not None and not self._include.matches(relative):
            return False
        return self._exclude is None or not self._exclude.matches(relative)

    def _directory_entry(self, entry: Entry, place: str) -> None:
        existing = self.canvas.get(place)
        if existing is not None and existing.type != "directory":
            raise PolyarchError(
                f"cannot copy a directory to /{place}: that is a {existing.type}", reason="not-a-directory"
            )
        if existing is None or self._include is None:
            self.canvas.put(self._owned(entry, place))

    def _place(self, entry: Entry, path: str, place: str) -> None:
        """Put one entry of the source at ``place``."""
        self.selected[path] = entry
        if entry.type == "directory":
            self._directory_entry(entry, place)
            return
        existing = self.canvas.get(place)
        if existing is not None and existing.type == "directory":
            raise PolyarchError(
                f"cannot replace the directory /{place} with the {entry.type} /{path}",
                hint="remove it in an earlier RUN, or copy to another place",
                reason="is-a-directory",
            )
        if entry.type in ("file", "hardlink"):
            self._place_file(entry, path, place)
        else:
            self.canvas.put(self._owned(entry, place))

    def _place_file(self, entry: Entry, path: str, place: str) -> None:
        """Put a file; what is one file with several names in the source stays one."""
        inode = entry.link if entry.type == "hardlink" else path
        known = self._links.setdefault(inode, place)
        if known != place:
            self.canvas.put(Entry(place, "hardlink", link=known))
            return
        if entry.type == "hardlink":
            entry = self.source.files([path])[0]
        self.canvas.put(self._owned(entry, place), _opener(self.source, path))
        self._files.append((place, path))

    def _describe_files(self) -> None:
        """Fill in digests and machines, reading what has to be read in one go."""
        described = self.source.files([path for _, path in self._files])
        for (place, path), known in zip(self._files, described, strict=True):
            self.selected[path] = known
            entry = self.canvas.get(place)
            if entry is not None and entry.type == "file":
                full = msgspec.structs.replace(
                    entry, digest=known.digest, machine=known.machine, size=known.size
                )
                self.canvas.complete(full)

    def _owned(self, entry: Entry, place: str) -> Entry:
        uid, gid = self.owner if self.owner is not None else (entry.uid, entry.gid)
        mode = entry.mode
        if entry.type != "symlink":
            mode = chmod.apply(self.action.chmod, mode, directory=entry.type == "directory")
        mtime = entry.mtime_ns if self.epoch_ns is None else self.epoch_ns
        return msgspec.structs.replace(entry, path=place, uid=uid, gid=gid, mode=mode, mtime_ns=mtime)


def _opener(source: Rootfs, path: str) -> Callable[[], BinaryIO]:
    return lambda: source.open(path)


def _has_wildcards(pattern: str) -> bool:
    escaped = False
    for char in pattern:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in "*?[":
            return True
    return False


def _unescape(pattern: str) -> str:
    out, escaped = [], False
    for char in pattern:
        if char == "\\" and not escaped:
            escaped = True
            continue
        out.append(char)
        escaped = False
    return "".join(out)


def _missing(path: str) -> NotFoundError:
    return NotFoundError(
        f'failed to copy: "{path}": not found',
        hint="the path is relative to the source's root; .dockerignore may leave it out",
        reason="source-not-found",
    )
