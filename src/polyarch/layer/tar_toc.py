"""A tar, looked through once: its toc with digests and machines, and where in it every content lies."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from polyarch.errors import ContentError, NotFoundError
from polyarch.layer.apply import explained, hash_zeros, write_all
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.machine import HEADER_BYTES, identify
from polyarch.layer.placement import Placement
from polyarch.layer.tar_reader import Member, TarReader

_CHUNK = 1 << 20
_KEPT = frozenset({"etc/passwd", "etc/group"})  # what COPY --chown and USER look up
_KEPT_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where in the uncompressed tar a file lies; ``sparse`` pairs are offset in the file and length."""

    offset: int
    size: int
    sparse: tuple[tuple[int, int], ...] | None = None


@dataclass
class Contents:
    """What was found in a tar. ``places`` is by content digest; ``kept`` holds the account files' bytes."""

    toc: Toc = field(default_factory=lambda: Toc(()))
    places: dict[str, Place] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)


def read(stream: BinaryIO, *, whiteouts: bool = True) -> Contents:
    """Look through the uncompressed tar ``stream``; it is read to its end. ContentError where it makes no
    sense. ``whiteouts`` False takes ``.wh.`` names for ordinary ones."""
    placement = Placement(whiteouts=whiteouts)
    contents = Contents()
    reader = TarReader(stream)
    for member in reader:
        entry = placement.place(member)
        if entry is None or entry.type != "file":
            continue
        keep = entry.path in _KEPT and entry.size <= _KEPT_BYTES
        digest, machine, data = _content(reader, keep=keep)
        placement.describe(entry.path, digest, machine)
        contents.places[digest] = _place(member)
        if keep:
            contents.kept[entry.path] = data
    contents.toc = placement.finish()
    return contents


def _place(member: Member) -> Place:
    return Place(member.offset, member.size, tuple(member.sparse) if member.sparse is not None else None)


def _content(reader: TarReader, *, keep: bool) -> tuple[str, str, bytes]:
    hasher = hashlib.sha256()
    machine = ""
    start = True
    parts: list[bytes] = []
    for chunk in reader.chunks():
        if isinstance(chunk, int):
            hash_zeros(hasher, chunk)
            if keep:
                parts.append(bytes(chunk))
        else:
            if start:
                machine = identify(chunk[:HEADER_BYTES])
            hasher.update(chunk)
            if keep:
                parts.append(chunk)
        start = False
    return "sha256:" + hasher.hexdigest(), machine, b"".join(parts)


class Spool:
    """An uncompressed tar in a nameless temporary file, from which files are read wherever they lie.

    Made by reading ``stream`` to its end; the space is free again when the spool is closed or forgotten.
    """

    def __init__(self, stream: BinaryIO, folder: Path, *, whiteouts: bool = True) -> None:
        self._digests: dict[str, str] | None = None
        with explained("storing an archive"):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as we do
            self.contents = read(cast(BinaryIO, _Copying(stream, self._file.fileno())), whiteouts=whiteouts)

    def close(self) -> None:
        """Give the space back."""
        self._file.close()

    def _digest(self, path: str) -> str:
        if self._digests is None:
            self._digests = {entry.path: entry.digest for entry in self.contents.toc.entries}
        return self._digests.get(path, "")

    def open(self, entry: Entry) -> BinaryIO:
        """The bytes of a file of the archive, by its digest, or by its path where nobody has asked for that
        so far."""
        place = self.contents.places.get(entry.digest or self._digest(entry.path))
        if place is None:
            raise NotFoundError(f"/{entry.path} is not in the archive", reason="not-a-file")
        return cast(BinaryIO, _Slice(self._file.fileno(), place, self))


class _Copying(io.RawIOBase):
    """Copies what is read from ``source`` to a file."""

    def __init__(self, source: BinaryIO, descriptor: int) -> None:
        super().__init__()
        self._source = source
        self._descriptor = descriptor

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._source.read(-1 if size is None else size)
        if data:
            write_all(self._descriptor, data)
        return data


class _Slice(io.RawIOBase):
    """One file in a spool. Keeps the spool alive."""

    def __init__(self, descriptor: int, place: Place, owner: Spool) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._owner = owner
        self._size = place.size
        self._at = 0
        parts = ((0, place.size),) if place.sparse is None else place.sparse
        self._parts: list[tuple[int, int, int]] = []  # offset in the file, length, offset in the tar
        stored = place.offset
        for offset, length in parts:
            self._parts.append((offset, length, stored))
            stored += length

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        wanted = min(size, self._size - self._at)
        if wanted <= 0:
            return b""
        data = self._some(wanted)
        self._at += len(data)
        return data

    def readall(self) -> bytes:
        return self.read(-1)

    def _some(self, wanted: int) -> bytes:
        for offset, length, stored in self._parts:
            if self._at < offset:
                return bytes(min(wanted, offset - self._at, _CHUNK))
            if self._at < offset + length:
                inside = self._at - offset
                data = os.pread(self._descriptor, min(wanted, length - inside), stored + inside)
                if not data:
                    raise ContentError("a temporary file was cut short", reason="truncated")
                return data
        return bytes(min(wanted, _CHUNK))
