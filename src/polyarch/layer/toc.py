"""The canonical order of a table of contents, its name by digest, and its encoding for the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable

import msgspec

from polyarch.errors import ContentError
from polyarch.layer.entry import Entry, Toc

NANOSECONDS = 1_000_000_000

_ENCODER = msgspec.msgpack.Encoder(order="deterministic")
_DECODER = msgspec.msgpack.Decoder(tuple[Entry, ...])


def order(entry: Entry) -> tuple[str, bool]:
    """Sorts entries as a walk with sorted names gives them; "opaque" stands behind its directory."""
    return entry.path.replace("/", "\0"), entry.type == "opaque"


def canonical(entries: Iterable[Entry]) -> Toc:
    """The entries in canonical order. Each path must be there once (ContentError).

    Of files that are hardlinks of each other the first becomes the file and the others its links, so that in
    a tar no link precedes what it links to; and all say the same of owner, mode and times, as they must.
    """
    ordered = sorted(entries, key=order)
    if any(entry.type == "hardlink" for entry in ordered):
        ordered = _turned(ordered)
    before = None
    for entry in ordered:
        if before is not None and before.path == entry.path and entry.type != "opaque":
            raise ContentError(f"{entry.path!r} is twice in one layer", reason="duplicate-entry")
        before = entry
    return Toc(tuple(ordered))


def _turned(ordered: list[Entry]) -> list[Entry]:
    places = {entry.path: number for number, entry in enumerate(ordered) if entry.type != "opaque"}
    heirs: dict[str, str] = {}
    for number, entry in enumerate(ordered):
        if entry.type != "hardlink":
            continue
        target = heirs.get(entry.link, entry.link)
        if target != entry.link:
            ordered[number] = _linked(entry, ordered[places[target]])
            continue
        place = places.get(target, -1)
        if 0 <= place < number and ordered[place].type not in ("hardlink", "directory"):
            ordered[number] = _linked(entry, ordered[place])
        if place > number and ordered[place].type not in ("hardlink", "directory"):
            heirs[target] = entry.path
            places[entry.path] = number
            ordered[number] = msgspec.structs.replace(ordered[place], path=entry.path)
            ordered[place] = _linked(msgspec.structs.replace(entry, path=target), ordered[number])
    return ordered


def _linked(entry: Entry, target: Entry) -> Entry:
    return Entry(
        entry.path,
        "hardlink",
        target.mode,
        target.uid,
        target.gid,
        0,
        target.mtime_ns,
        target.path,
        0,
        0,
        target.xattrs,
    )


def whole_seconds(time_ns: int) -> int:
    """A time as layers hold it. Sub-second times are cut off, as BuildKit and containerd do, so that a layer
    has the same digest whether it was written from a tree or read back from a registry."""
    return time_ns - time_ns % NANOSECONDS


def name(toc: Toc, *, kind: str, times: bool = True) -> str:
    """A digest of everything the entries say but ``machine``, which follows from the content; without
    ``times`` as if all were of 1970."""
    try:
        data = _ENCODER.encode((kind, [_row(entry, times=times) for entry in toc.entries]))
    except UnicodeEncodeError:
        data = _ENCODER.encode((kind, [_row(_quoted(entry), times=times) for entry in toc.entries]))
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encode(toc: Toc) -> bytes:
    """The entries as MessagePack, behind one byte that says whether names had to be quoted."""
    try:
        return b"\0" + _ENCODER.encode(toc.entries)
    except UnicodeEncodeError:
        return b"\1" + _ENCODER.encode([_quoted(entry) for entry in toc.entries])


def decode(data: bytes) -> Toc:
    """What ``encode`` gave; ContentError for anything else."""
    try:
        entries = _DECODER.decode(data[1:])
        if data[:1] == b"\1":
            entries = tuple(_unquoted(entry) for entry in entries)
        elif data[:1] != b"\0":
            raise ValueError("unknown format")
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ContentError(
            f"a stored table of contents cannot be read: {error}", reason="invalid-toc"
        ) from None
    return Toc(entries)


def _row(entry: Entry, *, times: bool) -> tuple[object, ...]:
    if entry.type in ("whiteout", "opaque"):
        return entry.path, entry.type
    return (
        entry.path,
        entry.type,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        entry.mtime_ns if times else 0,
        entry.link,
        entry.major,
        entry.minor,
        entry.xattrs,
        entry.digest,
    )


def _quoted(entry: Entry) -> Entry:
    """Bytes that are not UTF-8 cannot be encoded: a NUL, which no name has, marks hexadecimal digits."""
    return msgspec.structs.replace(
        entry,
        path=quoted(entry.path),
        link=quoted(entry.link),
        xattrs={quoted(name): value for name, value in entry.xattrs.items()},
    )


def _unquoted(entry: Entry) -> Entry:
    return msgspec.structs.replace(
        entry,
        path=unquoted(entry.path),
        link=unquoted(entry.link),
        xattrs={unquoted(name): value for name, value in entry.xattrs.items()},
    )


def quoted(text: str) -> str:
    """A name as text that can be encoded: bytes that are not UTF-8 become a NUL and hexadecimal digits."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "\0" + os.fsencode(text).hex()
    return text


def unquoted(text: str) -> str:
    """What ``quoted`` was given."""
    return os.fsdecode(bytes.fromhex(text[1:])) if text.startswith("\0") else text
