"""A client's build context as its node sees it: entries at once, contents by digest and only when missing.

Files that came once are kept by digest below the state's sources, so that a changed context costs the changed
files. What is kept may be collected whenever nobody holds its lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from polyarch.builder.wire.peer import Call, Peer
from polyarch.content.state import State
from polyarch.errors import ContentError, PolyarchError
from polyarch.layer import toc as tocs
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.index import IndexedLayer
from polyarch.layer.layer import Blob, Compression, Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore

_MAX_TOC = 1 << 30  # bytes
_PIECE = 1 << 20
_SMALL = 4 << 20  # bytes of a file that is checked whenever it is opened
_BATCH = 2000  # files asked for at once


class FileStore:
    """Files by digest. Losing one costs its transfer."""

    def __init__(self, state: State) -> None:
        self._folder = state.sources / "context" / "files"
        self._lock: int | None = None
        self._mutex = threading.Lock()

    def close(self) -> None:
        """Let the collector have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, digest: str) -> Path:
        """Where a file is or would be."""
        name = digest.partition(":")[2]
        return self._folder / name[:2] / name

    def holds(self, entry: Entry) -> bool:
        """Whether a file with this content seems to be there."""
        self._hold()
        try:
            return self.path(entry.digest).stat().st_size == entry.size
        except OSError:
            return False

    def open(self, entry: Entry) -> BinaryIO | None:
        """The content; None when it is not there, or damaged."""
        try:
            stream = open(self.path(entry.digest), "rb", buffering=0)  # noqa: SIM115  # the caller closes it
        except OSError:
            return None
        if entry.size > _SMALL:
            return stream  # these were synced when they were written
        with stream:
            data = stream.read(_SMALL + 1)
        return io.BytesIO(data) if _digest(data) == entry.digest else None

    def put(self, entry: Entry, source: BinaryIO) -> None:
        """Take the next ``entry.size`` bytes of ``source``; ContentError when they are not that file."""
        self._hold()
        target = self.path(entry.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
        hasher = hashlib.sha256()
        left = entry.size
        try:
            with open(temporary, "wb") as file:
                while left:
                    piece = source.read(min(left, _PIECE))
                    if not piece:
                        raise ContentError(f"{entry.path} ended too early", reason="truncated")
                    hasher.update(piece)
                    file.write(piece)
                    left -= len(piece)
                if entry.size > _SMALL:
                    file.flush()
                    os.fsync(file.fileno())
            if "sha256:" + hasher.hexdigest() != entry.digest:
                raise _changed(entry.path)
            os.rename(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise PolyarchError(
                f"{entry.path} of the context cannot be kept on the node: {error.strerror}",
                hint="free some space there: polyarch prune",
                reason="no-space" if error.errno == 28 else "write-failed",
            ) from None
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _hold(self) -> None:
        """Keep the collector out while this process lives."""
        with self._mutex:
            if self._lock is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(self._lock, fcntl.LOCK_SH)
                os.utime(self._lock)  # the time of its last use, for the collector


class Contexts:
    """The client's contexts. ``compress`` says whether files are worth compressing on the way."""

    def __init__(self, peer: Peer, state: State, *, compress: bool) -> None:
        self.peer = peer
        self.files = FileStore(state)
        self.compress = compress

    def open(self, name: str, store: LayerStore) -> Rootfs:
        """The files of a context."""
        ids = self.peer.ask("context", name)
        return Rootfs([ContextLayer(self, name, number, str(id), store) for number, id in enumerate(ids)])


class ContextLayer(IndexedLayer):
    """One layer of a context; mostly the only one. Its entries are remembered by its id, which changes with
    every stat of the client's files."""

    def __init__(self, contexts: Contexts, name: str, number: int, id: str, store: LayerStore) -> None:
        super().__init__()
        self._contexts = contexts
        self._name = name
        self._number = number
        self._id = id
        self._store = store
        self._toc: Toc | None = None
        self._groups: dict[str, list[Entry]] = {}  # by path: the files that were described together

    @property
    def id(self) -> str:
        return self._id

    def toc(self) -> Toc:
        """See ``Layer.toc``."""
        with self._lock:
            if self._toc is None:
                self._toc = self._store.forms.toc(self._id)
            if self._toc is None:
                import zstandard

                call = self._contexts.peer.call("toc", self._name, self._number)
                data = call.read_all(_MAX_TOC)
                call.result()
                plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_TOC)
                self._keep(tocs.decode(plain))
            assert self._toc is not None
            return self._toc

    def _keep(self, toc: Toc) -> None:
        self._toc = toc
        self._index = None
        self._store.forms.add(self._id, "context")
        self._store.forms.put_toc(self._id, toc)

    def describe(self, entries: Sequence[Entry]) -> list[Entry]:
        """See ``IndexedLayer.describe``: the client reads what it does not know."""
        with self._lock:
            now = self.index().entries
            found = [now.get(entry.path, entry) for entry in entries]
            missing = [entry.path for entry in found if not entry.digest]
            if missing:
                answers = self._ask_digests(missing)
                toc = self.toc()
                self._keep(Toc(tuple(answers.get(e.path, e) if e.type == "file" else e for e in toc.entries)))
                found = [answers.get(entry.path, entry) for entry in found]
            group = list({entry.path: entry for entry in found}.values())
            self._groups.update((entry.path, group) for entry in group)
            return found

    def _ask_digests(self, paths: Sequence[str]) -> dict[str, Entry]:
        call = self._contexts.peer.call("describe", self._name, self._number)
        call.write_all(msgspec.msgpack.encode([tocs.quoted(path) for path in paths]))
        call.end()
        rows = msgspec.msgpack.decode(call.read_all(_MAX_TOC), type=list[tuple[str, str]])
        call.result()
        entries = self.index().entries
        return {
            path: msgspec.structs.replace(entries[path], digest=digest, machine=machine)
            for path, (digest, machine) in zip(paths, rows, strict=True)
        }

    def open(self, entry: Entry) -> BinaryIO:
        """See ``Layer.open``. Files that were described together come together."""
        content = self.index().content(entry.path)
        if content is None:
            raise ContentError(f"{entry.path} in the context is not a regular file", reason="not-a-file")
        if not content.digest:
            content = self.describe([content])[0]
        files = self._contexts.files
        found = files.open(content)
        if found is None:
            with self._lock:
                self._fetch(self._groups.get(content.path, [content]), content)
            found = files.open(content)
        if found is None:
            raise _changed(content.path)
        return found

    def _fetch(self, group: Sequence[Entry], first: Entry) -> None:
        """Bring what is missing of a group, at least ``first``."""
        files = self._contexts.files
        missing = {e.digest: e for e in group if e.digest and (e is first or not files.holds(e))}
        missing[first.digest] = first
        wanted = list(missing.values())
        for start in range(0, len(wanted), _BATCH):
            self._fetch_batch(wanted[start : start + _BATCH])

    def _fetch_batch(self, wanted: Sequence[Entry]) -> None:
        compress = self._contexts.compress
        call = self._contexts.peer.call("files", self._name, self._number, "zstd" if compress else "")
        call.write_all(msgspec.msgpack.encode([tocs.quoted(entry.path) for entry in wanted]))
        call.end()
        source = cast(BinaryIO, Incoming(call))
        try:
            if compress:
                import zstandard

                source = zstandard.ZstdDecompressor().stream_reader(source)
            for entry in wanted:
                self._contexts.files.put(entry, source)
        except BaseException:
            call.cancel()
            raise
        call.result()

    # --- the other forms, of the whole context --------------------------------------------------------------

    def whole(self) -> Layer:
        """The context as a layer of the store, with every file read."""
        toc = self.toc()
        files = iter(self.describe([entry for entry in toc.entries if entry.type == "file"]))
        entries = tuple(next(files) if entry.type == "file" else entry for entry in toc.entries)
        return self._store.file_layer(Toc(entries), self.open)

    def tree(self) -> Path:
        """See ``Layer.tree``."""
        return self.whole().tree()

    def blob(self, compression: Compression) -> Blob:
        """See ``Layer.blob``."""
        return self.whole().blob(compression)


class Incoming(io.RawIOBase):
    """What a call sends, as a stream; closing it early stops the sender."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._rest and not self._ended:
            self._rest = self._call.read()
            self._ended = not self._rest
            if self._ended:
                self._call.result()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and not self._ended:
            try:
                self._call.cancel()
            except PolyarchError:
                pass  # the connection is gone, and the call with it
        super().close()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _changed(path: str) -> ContentError:
    return ContentError(
        f"{path} in the build context changed while it was read",
        hint="build again when nothing writes to it, or leave it out with a line in .dockerignore",
        reason="changed-while-read",
    )
