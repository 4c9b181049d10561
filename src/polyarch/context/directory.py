"""A folder on this machine as a build context: one stat a file, content read only when somebody needs it."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import msgspec

from polyarch.context.index import ContentIndex, Known, Row, Stamp
from polyarch.context.stats import Fact, Walk, all_rested, identity, unreadable
from polyarch.errors import ContentError, NotFoundError
from polyarch.layer.compress import workers
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.folders import Folders
from polyarch.layer.index import IndexedLayer
from polyarch.layer.layer import Blob, Compression, Layer
from polyarch.layer.machine import HEADER_BYTES, identify
from polyarch.layer.rootfs import Rootfs

if TYPE_CHECKING:
    from polyarch.context.stats import Ignored
    from polyarch.layer.store import LayerStore

_CHUNK = 1 << 20
_BATCH = 64  # files hashed by one task
_NO_XATTRS: dict[str, bytes] = {}
_EMPTY = "sha256:" + hashlib.sha256().hexdigest()
_STALE = 1000  # forgotten files in the index before it is worth a write


class DirectoryContext(IndexedLayer):
    """The folder ``path`` as a layer; ``rootfs()`` is its view.

    Everything belongs to root, as docker has it for contexts; modes and times are the files' own; a socket is
    an empty file. ``matcher`` leaves files out, ``index`` remembers digests between builds, ``store`` is
    needed for trees and blobs of the whole context only. NotFoundError when there is no such folder.
    """

    def __init__(
        self,
        path: Path,
        *,
        matcher: Ignored | None = None,
        index: ContentIndex | None = None,
        store: LayerStore | None = None,
    ) -> None:
        super().__init__()
        self.given = path
        self.path = Path(os.path.realpath(path))
        if not self.path.is_dir():
            raise NotFoundError(
                f"the build context {path} is {'not a folder' if self.path.exists() else 'not there'}",
                hint="give the folder that holds the files to be copied",
                reason="context-not-found",
            )
        self._matcher = matcher
        self._content = index
        self._store = store
        self._toc: Toc | None = None
        self._id = ""
        self._stamps: dict[str, Stamp] = {}  # of files whose digest the index does not know
        self._known: dict[str, Entry] = {}  # what describe has found
        self._facts: list[Fact] = []
        self._started = 0  # when the walk began, nanoseconds since 1970
        self._known_paths: Collection[str] = ()  # what the index knows of
        self._folders: Folders | None = None

    def __del__(self) -> None:
        folders = getattr(self, "_folders", None)
        if folders is not None:
            folders.close()

    @property
    def layer(self) -> Layer:
        """This, as what it is to others."""
        return self

    def rootfs(self) -> Rootfs:
        """The view of the context."""
        return Rootfs((self,))

    @property
    def id(self) -> str:
        """Names what the files' stats say, without reading any. Where a file was changed about when they were
        taken they do not tell all, and the name is like no other."""
        if not self._id:
            self._id = identity(self._facts if self.rested else [*self._facts, (self._started,)])
        return self._id

    @property
    def patterns(self) -> tuple[str, ...]:
        """What leaves files out."""
        return self._matcher.patterns if self._matcher is not None else ()

    @cached_property
    def rested(self) -> bool:
        """Whether the stats stand for the content: no file was changed about when they were taken."""
        self.toc()
        return all_rested(self._facts, self._started)

    def toc(self) -> Toc:
        """See ``Layer.toc``; digests are there where the index knows them."""
        with self._lock:
            if self._toc is None:
                known = self._content.load(self.path) if self._content is not None else {}
                walk, entries = Walk(str(self.path), self._matcher), _Entries(known)
                self._started = time.time_ns()
                self._toc = Toc(tuple(entries.entry(*found) for found in walk))
                self._stamps = entries.stamps
                self._facts = walk.facts
                self._known_paths = known.keys()
            return self._toc

    def open(self, entry: Entry) -> BinaryIO:
        """See ``Layer.open``. Links on the way are never followed."""
        content = entry if entry.type == "file" else self.index().content(entry.path)
        if content is None:
            raise NotFoundError(f"{entry.path} in the context is not a regular file", reason="not-a-file")
        if content.digest == _EMPTY:  # perhaps a socket
            return io.BytesIO()
        with self._lock:
            if self._folders is None:
                self._folders = Folders(self.path)
            try:
                descriptor = self._folders.file(content.path)
            except OSError as error:
                raise unreadable(content.path, error) from None
        return cast(BinaryIO, os.fdopen(descriptor, "rb", 0))

    def describe(self, entries: Sequence[Entry]) -> list[Entry]:
        """See ``IndexedLayer.describe``: reads what the index does not know, with several threads."""
        self.toc()
        with self._lock:
            missing = {e.path: e for e in entries if not e.digest and e.path not in self._known}
            if missing:
                self._read(list(missing.values()))
            return [e if e.digest else self._known[e.path] for e in entries]

    def _read(self, missing: list[Entry]) -> None:
        started = time.time_ns()
        batches = [missing[at : at + _BATCH] for at in range(0, len(missing), _BATCH)]
        fresh: list[tuple[str, Known]] = []
        with ThreadPoolExecutor(min(workers(), len(batches)), "hash") as pool:
            for batch in pool.map(self._hash, batches):
                for entry in batch:
                    self._known[entry.path] = entry
                    fresh.append((entry.path, Known(self._stamps[entry.path], entry.digest, entry.machine)))
        if self._content is not None:
            self._content.record(self.path, fresh, gone=self._gone(), now_ns=started)

    def _gone(self) -> list[str]:
        """What the index knows of and is no more, once it is worth forgetting."""
        if len(self._known_paths) < len(self.toc().entries) + _STALE:
            return []
        here = {entry.path for entry in self.toc().entries}
        return [path for path in self._known_paths if path not in here]

    def _hash(self, batch: list[Entry]) -> list[Entry]:
        found = []
        with Folders(self.path) as folders:
            for entry in batch:
                try:
                    descriptor = folders.file(entry.path)
                except OSError as error:
                    raise unreadable(entry.path, error) from None
                try:
                    found.append(self._hash_one(entry, descriptor))
                finally:
                    os.close(descriptor)
        return found

    def _hash_one(self, entry: Entry, descriptor: int) -> Entry:
        if Stamp.of(os.fstat(descriptor)) != self._stamps.get(entry.path):
            raise _changed(entry.path)
        data = os.read(descriptor, min(entry.size + 1, _CHUNK))
        hasher = hashlib.sha256(data)
        machine = identify(data[:HEADER_BYTES])
        size = len(data)
        while size < entry.size and (data := os.read(descriptor, _CHUNK)):
            hasher.update(data)
            size += len(data)
        if size != entry.size:
            raise _changed(entry.path)
        return msgspec.structs.replace(entry, digest="sha256:" + hasher.hexdigest(), machine=machine)

    # --- the other forms, of the whole context --------------------------------------------------------------

    def whole(self) -> Layer:
        """The context as a layer of the store, with every file read."""
        if self._store is None:
            raise ValueError("a context without a layer store has no trees and blobs")
        toc = self.toc()
        files = iter(self.describe([entry for entry in toc.entries if entry.type == "file"]))
        entries = tuple(next(files) if entry.type == "file" else entry for entry in toc.entries)
        return self._store.file_layer(Toc(entries), self.open)

    def tree(self) -> Path:
        """See ``Layer.tree``: a copy, because owners and left out files differ from the folder's."""
        return self.whole().tree()

    def blob(self, compression: Compression) -> Blob:
        """See ``Layer.blob``."""
        return self.whole().blob(compression)


class _Entries:
    """What a walk finds, as entries of a toc; ``stamps`` are of the files whose content is not ``known``."""

    def __init__(self, known: dict[str, Row]) -> None:
        self._known = known
        self._inodes: dict[tuple[int, int], str] = {}
        self.stamps: dict[str, Stamp] = {}

    def entry(self, path: str, status: os.stat_result, link: str) -> Entry:
        """The entry of one path."""
        mode = status.st_mode
        bits = mode & 0o7777
        mtime = status.st_mtime_ns
        if stat.S_ISREG(mode):
            return self._file(path, bits, status)
        if stat.S_ISDIR(mode):
            return Entry(path, "directory", bits, 0, 0, 0, mtime)
        if stat.S_ISLNK(mode):
            return Entry(path, "symlink", 0o777, 0, 0, 0, mtime, link)
        if stat.S_ISFIFO(mode):
            return Entry(path, "fifo", bits, 0, 0, 0, mtime)
        if stat.S_ISSOCK(mode):
            return Entry(path, "file", bits, 0, 0, 0, mtime, "", 0, 0, _NO_XATTRS, _EMPTY)
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        kind = "character" if stat.S_ISCHR(mode) else "block"
        return Entry(path, kind, bits, 0, 0, 0, mtime, "", major, minor)  # type: ignore[arg-type]

    def _file(self, path: str, bits: int, status: os.stat_result) -> Entry:
        size, mtime = status.st_size, status.st_mtime_ns
        if status.st_nlink > 1:
            first = self._inodes.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                return Entry(path, "hardlink", bits, 0, 0, 0, mtime, first)
        stamp = Stamp.of(status)
        row = self._known.get(path)
        if row is not None and row[1:5] == stamp:
            return Entry(path, "file", bits, 0, 0, size, mtime, "", 0, 0, _NO_XATTRS, row[5], row[6])
        self.stamps[path] = stamp
        return Entry(path, "file", bits, 0, 0, size, mtime, "", 0, 0, _NO_XATTRS)


def _changed(path: str) -> ContentError:
    return ContentError(
        f"{path} in the build context changed while it was read",
        hint="build again when nothing writes to it, or leave it out with a line in .dockerignore",
        reason="changed-while-read",
    )
