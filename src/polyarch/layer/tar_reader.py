"""Tar to members, in one pass over a stream that cannot seek.

Names come out relative and clean (absolute ones are made relative, as docker does); a name that climbs out
with ``..`` is refused. What a member means for a layer (whiteouts, duplicates, links on the way) is the
business of ``placement``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

import msgspec

from polyarch.errors import ContentError
from polyarch.layer import tar_header
from polyarch.layer.machine import HEADER_BYTES
from polyarch.layer.tar_header import BLOCK, damaged, number

MAX_SPECIAL = 8 << 20  # bytes of one PAX header or long name; xattrs are 64 KiB each at most
MAX_NAME = 4096  # as the kernel has it
MAX_SIZE = 1 << 50  # bytes of one file, sparse ones included
MAX_ID = (1 << 32) - 1
MAX_TIME_NS = (1 << 63) - 1
_READ = 1 << 20
_ZERO = bytes(BLOCK)
_ODD = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")
_XATTR = "SCHILY.xattr."
# Overlayfs believes what these say; a layer must not be able to speak to it.
_FORBIDDEN = ("trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.")

_KINDS: dict[
    bytes, Literal["file", "directory", "symlink", "hardlink", "fifo", "character", "block", "sparse"]
] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "character",
    b"4": "block",
    b"5": "directory",
    b"6": "fifo",
    b"S": "sparse",
}


class Member(msgspec.Struct):
    """One header and what stood before it. ``offset`` is where ``stored`` bytes of content start in the
    stream; ``sparse`` says where in a file of ``size`` bytes they belong."""

    path: str
    type: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: str
    major: int
    minor: int
    xattrs: dict[str, bytes]
    offset: int = 0
    stored: int = 0
    sparse: list[tuple[int, int]] | None = None


class TarReader:
    """Iterate for the members; between two of them, ``chunks`` gives the content of the last one (what is
    left of it is skipped). ContentError names what is wrong; a stream that ends early is wrong."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._base = 0  # where in the stream the buffer starts
        self._pending = 0  # bytes of content and padding not yet read
        self._member: Member | None = None
        self._left = 0  # bytes of content not yet given out

    def __iter__(self) -> Iterator[Member]:
        while True:
            self._skip(self._pending)
            self._pending = self._left = 0
            member = self._next()
            if member is None:
                return
            yield member

    def chunks(self) -> Iterator[bytes | int]:
        """The content of the last member: bytes, or the length of a hole of zeros."""
        member = self._member
        if member is None or member.type != "file":
            return
        if member.sparse is None:
            yield from self._data(self._left)
            return
        at = 0
        for offset, length in member.sparse:
            if offset > at:
                yield offset - at
            yield from self._data(length)
            at = offset + length
        if member.size > at:
            yield member.size - at

    # --- headers --------------------------------------------------------------------------------------------

    def _next(self) -> Member | None:
        records: dict[str, bytes] = {}
        old_sparse: list[tuple[str, bytes]] = []
        long_name = long_link = None
        while True:
            block = self._exactly(BLOCK, end_is_fine=not records)
            if not block:
                return None
            if block == _ZERO:
                self._end()
                return None
            tar_header.check(block)
            kind = block[156:157]
            if kind not in b"xgLKX" or kind == b"":
                return self._member_of(block, records, old_sparse, long_name, long_link)
            data = self._special(block)
            if kind in (b"x", b"X"):
                for key, value in tar_header.pax(data):
                    records[key] = value
                    if key.startswith("GNU.sparse."):
                        old_sparse.append((key, value))
            elif kind == b"L":
                long_name = data.split(b"\0", 1)[0]
            elif kind == b"K":
                long_link = data.split(b"\0", 1)[0]

    def _special(self, block: bytes) -> bytes:
        size = number(block[124:136])
        if not 0 <= size <= MAX_SPECIAL:
            raise damaged(f"a header of {size} bytes")
        data = self._exactly(size)
        self._skip(-size % BLOCK)
        return data

    def _member_of(
        self,
        block: bytes,
        records: dict[str, bytes],
        gnu_sparse: list[tuple[str, bytes]],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Member:
        kind = _KINDS.get(block[156:157])
        name = tar_header.text(block[:100])
        if kind is None:
            raise ContentError(
                f"the tar archive holds {name[:200]!r} of an unknown type {block[156:157]!r}",
                reason="invalid-tar",
            )
        ustar = block[257:263] == b"ustar\0"
        if ustar and block[345]:
            width = 131 if block[508:512] == b"tar\0" else 155
            name = tar_header.text(block[345 : 345 + width]) + "/" + name
        if long_name is not None:
            name = long_name.decode("utf-8", "surrogateescape")
        link = tar_header.text(block[157:257]) if long_link is None else _decode(long_link)
        if block[156:157] == b"\0" and name.endswith("/"):
            kind = "directory"
        device = block[257:262] == b"ustar" and kind in ("character", "block")
        member = Member(
            name,
            kind,
            number(block[100:108]) & 0o7777,
            number(block[108:116]),
            number(block[116:124]),
            number(block[124:136]),
            number(block[136:148]) * 1_000_000_000,
            link,
            number(block[329:337]) if device else 0,
            number(block[337:345]) if device else 0,
            {},
        )
        if records:
            _apply_records(member, records)
        return self._finish(member, block, gnu_sparse)

    def _finish(self, member: Member, block: bytes, gnu_sparse: list[tuple[str, bytes]]) -> Member:
        if member.type not in ("file", "sparse"):
            member.size = 0
        numbers = (member.uid, member.gid, member.major, member.minor)
        if not 0 <= member.size <= MAX_SIZE or min(numbers) < 0 or max(numbers) > MAX_ID:
            raise damaged(f"{member.path[:200]!r} has a size, owner or device out of range")
        if not -MAX_TIME_NS <= member.mtime_ns <= MAX_TIME_NS:
            member.mtime_ns = 0  # as containerd takes times that no file can have
        member.stored = member.size
        pending = member.size + -member.size % BLOCK
        if member.type == "sparse":
            member.type = "file"
            pairs = self._old_sparse(block)
            member.size = number(block[483:495])
            member.sparse = tar_header.check_sparse(pairs, member.size, member.stored)
        elif gnu_sparse and member.type == "file":
            pending -= self._pax_sparse(member, gnu_sparse)
        if not 0 <= member.size <= MAX_SIZE:
            raise damaged(f"{member.path[:200]!r} has a size out of range")
        member.path = clean(member.path)
        if member.type == "hardlink":
            member.link = clean(member.link)
        member.offset = self._base + self._at
        self._member = member
        self._left = member.stored
        self._pending = pending
        return member

    def _old_sparse(self, block: bytes) -> list[tuple[int, int]]:
        pairs = tar_header.sparse_fields(block[386:482], 4)
        extended = block[482]
        while extended:
            more = self._exactly(BLOCK)
            pairs += tar_header.sparse_fields(more[:504], 21)
            extended = more[504]
            if len(pairs) > 1 << 20:
                raise damaged("a sparse file has too many parts")
        return pairs

    def _pax_sparse(self, member: Member, records: list[tuple[str, bytes]]) -> int:
        """Take GNU's PAX formats 0.0, 0.1 and 1.0 into ``member``; returns how many bytes of content were
        the map."""
        fields = {key.removeprefix("GNU.sparse."): value for key, value in records}
        if "name" in fields:
            member.path = _decode(fields["name"])
        size = fields.get("realsize", fields.get("size"))
        used = 0
        if fields.get("major") == b"1":
            pairs, used = self._sparse_map(member.stored)
        elif "map" in fields:
            values = [tar_header.integer(v) for v in fields["map"].split(b",")] if fields["map"] else []
            pairs = list(zip(values[::2], values[1::2], strict=False))
        else:
            offsets = [tar_header.integer(v) for key, v in records if key == "GNU.sparse.offset"]
            lengths = [tar_header.integer(v) for key, v in records if key == "GNU.sparse.numbytes"]
            pairs = list(zip(offsets, lengths, strict=False))
        if size is None:
            raise damaged("a sparse file without its size")
        member.stored -= used
        member.size = tar_header.integer(size)
        member.sparse = tar_header.check_sparse(pairs, member.size, member.stored)
        return used

    def _sparse_map(self, stored: int) -> tuple[list[tuple[int, int]], int]:
        """Format 1.0: decimal numbers, one a line, at the start of the content, padded to a block."""
        data = b""
        values: list[int] = []
        wanted = 1
        while len(values) < wanted:
            if len(data) + BLOCK > min(stored + -stored % BLOCK, MAX_SPECIAL):
                raise damaged("the map of a sparse file does not end")
            data += self._exactly(BLOCK)
            lines = data.split(b"\n")[:-1]
            if lines:
                wanted = 1 + 2 * tar_header.integer(lines[0])
                values = [tar_header.integer(line) for line in lines[:wanted]] if len(lines) >= wanted else []
        return list(zip(values[1::2], values[2::2], strict=True)), len(data)

    # --- bytes ----------------------------------------------------------------------------------------------

    def _data(self, wanted: int) -> Iterator[bytes]:
        while wanted:
            if len(self._buffer) - self._at < min(wanted, HEADER_BYTES):
                # However the stream was cut: what tells a file's machine comes in one piece.
                chunk = self._exactly(min(wanted, HEADER_BYTES))
            else:
                chunk = self._buffer[self._at : self._at + wanted] if self._at else self._buffer[:wanted]
                self._at += len(chunk)
            self._left -= len(chunk)
            self._pending -= len(chunk)
            wanted -= len(chunk)
            yield chunk

    def _refill(self, *, end_is_fine: bool = False) -> bool:
        self._base += len(self._buffer)
        self._at = 0
        self._buffer = self._stream.read(_READ)
        if not self._buffer and not end_is_fine:
            raise ContentError("the tar archive ends in the middle", reason="truncated")
        return bool(self._buffer)

    def _exactly(self, size: int, *, end_is_fine: bool = False) -> bytes:
        data = self._buffer[self._at : self._at + size]
        self._at += len(data)
        if len(data) == size:
            return data
        parts = [data]
        missing = size - len(data)
        while missing:
            if not self._refill(end_is_fine=end_is_fine and missing == size):
                return b""
            part = self._buffer[:missing]
            self._at = len(part)
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size:
            have = min(size, len(self._buffer) - self._at)
            self._at += have
            size -= have
            if size:
                self._refill()

    def _end(self) -> None:
        """Behind the first block of zeros: another one, or the end. The rest is read, because whoever checks
        the stream's digest must see all of it."""
        block = self._exactly(BLOCK, end_is_fine=True)
        if block and block != _ZERO:
            raise damaged("something follows a block of zeros")
        while self._refill(end_is_fine=True):
            pass


def _apply_records(member: Member, records: dict[str, bytes]) -> None:
    for key, value in records.items():
        match key:
            case "path":
                member.path = _decode(value)
            case "linkpath":
                member.link = _decode(value)
            case "size":
                member.size = tar_header.integer(value)
            case "uid":
                member.uid = tar_header.integer(value)
            case "gid":
                member.gid = tar_header.integer(value)
            case "mtime":
                member.mtime_ns = tar_header.decimal_ns(value)
            case _ if key.startswith(_XATTR):
                name = key.removeprefix(_XATTR)
                if name and not name.startswith(_FORBIDDEN):
                    member.xattrs[name] = value


def _decode(raw: bytes) -> str:
    if b"\0" in raw:
        raise damaged("a name contains a NUL")
    return raw.decode("utf-8", "surrogateescape")


def clean(name: str) -> str:
    """``name`` relative and without ``.``, ``..`` and doubled slashes; ContentError when it climbs out."""
    if len(name) > MAX_NAME:
        raise damaged(f"a name of {len(name)} characters")
    if name.endswith("/"):
        name = name.rstrip("/")
    if not _ODD.search(name):
        return name
    parts: list[str] = []
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            if not parts:
                raise ContentError(
                    f"the tar archive holds {name[:200]!r}, which leads out of its root",
                    hint="an archive like this may be an attack; do not unpack it with other tools either",
                    reason="path-escape",
                )
            parts.pop()
        else:
            parts.append(part)
    return os.path.join(*parts) if parts else ""
