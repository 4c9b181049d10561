"""Tar headers as they are read: ustar, GNU, star, version 7, and PAX records."""

from __future__ import annotations

import re
import struct

from polyarch.errors import ContentError

BLOCK = 512
_RECORD = re.compile(rb"([0-9]{1,10}) ")


def number(field: bytes) -> int:
    """An octal field, or a big-endian binary one as GNU writes large and negative numbers."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False)
        bits = len(field) * 8
        if field[0] & 0x40:
            return value - (1 << bits)
        return value & ((1 << (bits - 1)) - 1)
    text = field.strip(b" \0")
    if not text:
        return 0
    text = text.split(b"\0", 1)[0]
    try:
        return int(text, 8)
    except ValueError:
        raise damaged(f"{field!r} is not a number") from None


def text(field: bytes) -> str:
    """A field that ends at its first NUL, or where it ends."""
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def check(block: bytes) -> None:
    """ContentError unless the checksum is right, with bytes taken unsigned or, as in ancient tars, signed."""
    try:
        expected = number(block[148:156])
    except ContentError:
        raise damaged("its checksum is not a number") from None
    bare = block[:148] + block[156:]
    # NULs add nothing; leaving them out halves the time this takes.
    found = sum(bare.replace(b"\0", b"")) + 256
    if found == expected:
        return
    if sum(struct.unpack("504b", bare)) + 256 != expected:
        raise damaged("a header's checksum is wrong")


def pax(data: bytes) -> list[tuple[str, bytes]]:
    """The records of a PAX header, in order."""
    records: list[tuple[str, bytes]] = []
    at = 0
    while at < len(data):
        found = _RECORD.match(data, at)
        if not found:
            if data[at:].strip(b"\0"):
                raise damaged("a PAX header has a record without a length")
            break
        end = at + int(found[1])
        record = data[found.end() : end]
        key, equals, value = record.partition(b"=")
        if end > len(data) or end <= found.end() or not equals or value[-1:] != b"\n":
            raise damaged("a PAX header has a record of a wrong length")
        records.append((key.decode("utf-8", "surrogateescape"), value[:-1]))
        at = end
    return records


def decimal_ns(value: bytes) -> int:
    """A PAX time, seconds with any number of digits behind the point, in nanoseconds."""
    match = re.fullmatch(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?", value)
    if not match:
        raise damaged(f"{value[:40]!r} is not a time")
    fraction = int(((match[3] or b"") + b"0" * 9)[:9])
    total = int(match[2]) * 1_000_000_000 + fraction
    return -total if match[1] else total


def integer(value: bytes) -> int:
    """A PAX number that is not negative."""
    if not re.fullmatch(rb"[0-9]{1,19}", value):
        raise damaged(f"{value[:40]!r} is not a number")
    return int(value)


def sparse_fields(area: bytes, count: int) -> list[tuple[int, int]]:
    """Pairs of offset and length as GNU's old format has them, 24 bytes each."""
    pairs = []
    for at in range(0, count * 24, 24):
        if area[at] == 0:
            break
        pairs.append((number(area[at : at + 12]), number(area[at + 12 : at + 24])))
    return pairs


def check_sparse(pairs: list[tuple[int, int]], size: int, stored: int) -> list[tuple[int, int]]:
    """The map of a sparse file; ContentError unless it is ordered, inside the file and as long as what is
    stored."""
    at = total = 0
    for offset, length in pairs:
        if offset < at or length < 0 or offset + length > size:
            raise damaged("the map of a sparse file makes no sense")
        at = offset + length
        total += length
    if total > stored:
        raise damaged("a sparse file has less data than its map says")
    return [pair for pair in pairs if pair[1]]


def damaged(why: str) -> ContentError:
    """The error for bytes that are no tar."""
    return ContentError(f"the tar archive is damaged: {why}", reason="invalid-tar")
