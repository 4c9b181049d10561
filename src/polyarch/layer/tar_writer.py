"""Entries to tar: ustar, with a PAX header only where ustar cannot say it, the same bytes everywhere.

What is written follows BuildKit's layers: directories end in a slash, user and group names are empty, times
are whole seconds (cut off, not rounded), xattrs are ``SCHILY.xattr.*`` records, names that are not ASCII get
a ``path`` record. Headers are packed by hand: it is several times faster than tarfile, which also cannot
write xattrs that are not UTF-8 without marking the header ``hdrcharset=BINARY``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from typing import BinaryIO

import msgspec

from polyarch.errors import ContentError
from polyarch.layer.entry import Entry
from polyarch.layer.machine import HEADER_BYTES, identify
from polyarch.layer.toc import NANOSECONDS

BLOCK = 512
CHUNK = 1 << 20
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"

_OCTAL7 = 0o7777777
_OCTAL11 = 0o77777777777
_TYPES = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "character": b"3",
    "block": b"4",
    "directory": b"5",
    "fifo": b"6",
}
_MAGIC = b"ustar\x0000"
_NO_NAMES = b"\0" * 64  # user and group name
_ZEROS = bytes(1024)


def header(entry: Entry) -> bytes:
    """The blocks before an entry's content. ContentError where the format has no place for something."""
    match entry.type:
        case "whiteout":
            parent, slash, name = entry.path.rpartition("/")
            return _pack(parent + slash + WHITEOUT + name, b"0", 0, 0, 0, 0, 0)
        case "opaque":
            return _pack(f"{entry.path}/{OPAQUE}" if entry.path else OPAQUE, b"0", 0, 0, 0, 0, 0)
        case "directory":
            name = entry.path + "/" if entry.path else "./"
        case _:
            name = entry.path
    if WHITEOUT in name and any(part.startswith(WHITEOUT) for part in name.split("/")):
        raise ContentError(
            f"/{entry.path} cannot be put into a layer, where names that start with .wh. mark deletions",
            hint="rename the file, or leave it out",
            reason="reserved-name",
        )
    return _pack(
        name,
        _TYPES[entry.type],
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size if entry.type == "file" else 0,
        entry.mtime_ns // NANOSECONDS,
        link=entry.link if entry.type in ("symlink", "hardlink") else "",
        device=(entry.major, entry.minor) if entry.type in ("character", "block") else None,
        xattrs=entry.xattrs if entry.type != "hardlink" else None,
    )


def _pack(
    name: str,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    *,
    link: str = "",
    device: tuple[int, int] | None = None,
    xattrs: dict[str, bytes] | None = None,
) -> bytes:
    raw = name.encode("utf-8", "surrogateescape")
    target = link.encode("utf-8", "surrogateescape") if link else b""
    records: list[tuple[bytes, bytes]] = []
    prefix = b""
    if len(raw) > 100 or not raw.isascii():
        split = _split(raw) if raw.isascii() else None
        if split is None:
            records.append((b"path", raw))
            raw = _plain(raw)
        else:
            prefix, raw = split
    if len(target) > 100 or not target.isascii():
        records.append((b"linkpath", target))
        target = _plain(target)
    if uid > _OCTAL7:
        records.append((b"uid", b"%d" % uid))
        uid = 0
    if gid > _OCTAL7:
        records.append((b"gid", b"%d" % gid))
        gid = 0
    if size > _OCTAL11:
        records.append((b"size", b"%d" % size))
        size = 0
    if not 0 <= mtime <= _OCTAL11:
        records.append((b"mtime", b"%d" % mtime))
        mtime = 0
    if xattrs:
        for key, value in xattrs.items():
            records.append((b"SCHILY.xattr." + key.encode("utf-8", "surrogateescape"), value))
    block = _block(raw, kind, mode, uid, gid, size, mtime, target, device, prefix)
    return _extended(raw, records) + block if records else block


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int] | None,
    prefix: bytes,
) -> bytes:
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode & 0o7777, uid, gid, size, mtime)
    if device:
        if max(device) > _OCTAL7:
            raise ContentError(f"{name!r}: device numbers {device} are too large", reason="invalid-entry")
        devices = b"%07o\0%07o\0" % device
    else:
        devices = b"0000000\x000000000\0"
    # NULs add nothing to the checksum, so that only what is not padding needs to be summed up. The field
    # itself counts as eight spaces (256).
    total = sum(name) + sum(numbers) + kind[0] + sum(link) + sum(_MAGIC) + sum(devices) + sum(prefix) + 256
    return b"".join(
        (
            name.ljust(100, b"\0"),
            numbers,
            b"%06o\0 " % total,
            kind,
            link.ljust(100, b"\0"),
            _MAGIC,
            _NO_NAMES,
            devices,
            prefix.ljust(167, b"\0"),
        )
    )


def _plain(raw: bytes) -> bytes:
    """What readers that do not know PAX see: ASCII, cut to what fits."""
    return bytes(byte for byte in raw if byte < 128)[:100].rstrip(b"/") or b"long"


def _split(raw: bytes) -> tuple[bytes, bytes] | None:
    """A name as ustar's prefix and name; None when it has no slash in the right place."""
    if len(raw) > 256:
        return None
    at = raw.rfind(b"/", 0, min(156, len(raw) - 1))
    if at <= 0 or len(raw) - at - 1 > 100:
        return None
    return raw[:at], raw[at + 1 :]


def _extended(name: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(_record(key, value) for key, value in sorted(records))
    parent, _, last = name.rstrip(b"/").rpartition(b"/")
    label = (parent + b"/" if parent else b"") + b"PaxHeaders.0/" + last
    head = _block(label[:100].rstrip(b"/"), b"x", 0, 0, 0, len(body), 0, b"", None, b"")
    return head + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    if b"=" in key or b"\0" in key:
        raise ContentError(f"the extended attribute {key!r} cannot be written to tar", reason="invalid-entry")
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest) + len(str(len(rest)))
    size = len(rest) + len(str(size))
    return b"%d" % size + rest


def padding(size: int) -> bytes:
    """The zeros that fill the last block of ``size`` bytes."""
    return _ZEROS[: -size % BLOCK]


def write(
    entries: Iterable[Entry],
    open: Callable[[Entry], BinaryIO],
    sink: Callable[[bytes], object],
    *,
    clamp_mtime: int | None = None,
) -> dict[str, str]:
    """Write a whole archive to ``sink`` in pieces of about a mebibyte; returns the machines of the files
    that have one, by path.

    Content is checked against the entries' sizes, and digests where they have one: ContentError
    (``changed-while-read``) when something else was read. ``clamp_mtime`` is in seconds.
    """
    writer = _Writer(sink)
    for entry in entries:
        if clamp_mtime is not None and entry.mtime_ns // NANOSECONDS > clamp_mtime:
            entry = msgspec.structs.replace(entry, mtime_ns=clamp_mtime * NANOSECONDS)
        writer.put(header(entry))
        if entry.type == "file" and entry.size:
            writer.content(entry, open)
    writer.put(_ZEROS)
    writer.flush()
    return writer.machines


class _Writer:
    """Gathers small pieces, so that what follows works on large ones."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._parts: list[bytes] = []
        self._size = 0
        self.machines: dict[str, str] = {}

    def put(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._size += len(piece)
        if self._size >= CHUNK:
            self.flush()

    def flush(self) -> None:
        if self._parts:
            self._sink(b"".join(self._parts))
            self._parts.clear()
            self._size = 0

    def content(self, entry: Entry, open: Callable[[Entry], BinaryIO]) -> None:
        hasher = hashlib.sha256()
        remaining = entry.size
        with open(entry) as stream:
            first = True
            # One byte more than expected shows a file that has grown.
            while chunk := stream.read(min(CHUNK, remaining + 1)):
                if len(chunk) > remaining:
                    raise changed(entry)
                if first:
                    first = False
                    if machine := identify(chunk[:HEADER_BYTES]):
                        self.machines[entry.path] = machine
                hasher.update(chunk)
                remaining -= len(chunk)
                self.put(chunk)
                if not remaining and len(chunk) == entry.size < CHUNK and isinstance(stream, io.FileIO):
                    break  # a regular file that gave less than was asked for has ended
        if remaining or (entry.digest and entry.digest != "sha256:" + hasher.hexdigest()):
            raise changed(entry)
        self.put(padding(entry.size))


def changed(entry: Entry) -> ContentError:
    """The error for a file whose bytes are not what they were when it was looked at first."""
    return ContentError(
        f"/{entry.path} changed while it was read",
        hint="build again when nothing writes to it",
        reason="changed-while-read",
    )
