"""One layer, indexed: what it has, what it implies and what it hides of the layers below it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import RLock
from typing import BinaryIO

import msgspec

from polyarch.errors import ContentError
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.machine import HEADER_BYTES, identify

CHUNK = 1 << 20


class LayerIndex:
    """Look-ups in one toc.

    ``entries`` by path, without whiteouts and opaque marks; ``children`` names by directory, implied
    directories included; ``implied`` directories that something lies in but that have no entry;
    ``whiteouts`` and ``opaques`` paths; ``hidden`` names by directory that whiteouts delete below.
    """

    def __init__(self, toc: Toc) -> None:
        self.toc = toc
        self.entries: dict[str, Entry] = {}
        self.children: dict[str, list[str]] = {}
        self.implied: set[str] = set()
        self.whiteouts: set[str] = set()
        self.opaques: set[str] = set()
        self.hidden: dict[str, set[str]] = {}
        for entry in toc.entries:
            self._add(entry)
        for path in list(self.children):
            self._imply(path)

    def _add(self, entry: Entry) -> None:
        path = entry.path
        if entry.type == "opaque":
            self.opaques.add(path)
            return
        parent, _, name = path.rpartition("/")
        if entry.type == "whiteout":
            self.whiteouts.add(path)
            self.hidden.setdefault(parent, set()).add(name)
            return
        self.entries[path] = entry
        if path:
            names = self.children.get(parent)
            if names is None:
                self.children[parent] = [name]
            else:
                names.append(name)

    def _imply(self, path: str) -> None:
        while path and path not in self.entries and path not in self.implied:
            self.implied.add(path)
            parent, _, name = path.rpartition("/")
            self.children.setdefault(parent, []).append(name)
            path = parent

    def hides(self, ancestors: Sequence[str]) -> bool:
        """Whether what lies under one of these directories, in layers below, is not seen."""
        for path in ancestors:
            if path in self.opaques or path in self.whiteouts:
                return True
            entry = self.entries.get(path)
            if entry is not None and entry.type != "directory":
                return True
        return False

    def content(self, path: str) -> Entry | None:
        """The entry of a regular file that holds the bytes of ``path``: itself, or what its hardlink means.
        None when there is none in this layer."""
        entry = self.entries.get(path)
        for _ in range(8):  # a hardlink to a hardlink is odd but read; a circle is not
            if entry is None or entry.type == "file":
                return entry
            if entry.type != "hardlink":
                return None
            entry = self.entries.get(entry.link)
        return None


class IndexedLayer:
    """What every kind of layer here shares: an index made once, and digests read on demand."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._index: LayerIndex | None = None

    def toc(self) -> Toc:
        raise NotImplementedError

    def open(self, entry: Entry) -> BinaryIO:
        raise NotImplementedError

    def index(self) -> LayerIndex:
        """The toc, indexed; made once."""
        with self._lock:
            if self._index is None:
                self._index = LayerIndex(self.toc())
            return self._index

    def describe(self, entries: Sequence[Entry]) -> list[Entry]:
        """The same regular files with ``digest`` and ``machine`` filled in, in the same order."""
        found: dict[str, Entry] = {}
        for entry in entries:
            if entry.path not in found:
                found[entry.path] = entry if entry.digest else described(entry, self.open)
        return [found[entry.path] for entry in entries]


def described(entry: Entry, source: Callable[[Entry], BinaryIO]) -> Entry:
    """``entry`` with digest, machine and the size its content has."""
    hasher = hashlib.sha256()
    with source(entry) as stream:
        chunk = stream.read(CHUNK)
        machine = identify(chunk[:HEADER_BYTES])
        size = 0
        while chunk:
            hasher.update(chunk)
            size += len(chunk)
            chunk = stream.read(CHUNK)
    if size != entry.size:
        raise ContentError(
            f"{entry.path} changed while it was read: {entry.size} bytes became {size}",
            hint="build again when nothing writes to it",
            reason="changed-while-read",
        )
    return msgspec.structs.replace(entry, digest="sha256:" + hasher.hexdigest(), machine=machine)


def ancestors(path: str) -> Iterator[str]:
    """The directories above ``path``, the root last: ``a/b/c`` gives ``a/b``, ``a`` and the empty path."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def files(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Only the regular files."""
    return (entry for entry in entries if entry.type == "file")
