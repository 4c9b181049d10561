"""Where frames of zstd end (RFC 8878, 3.1), told while somebody else decompresses them."""

from __future__ import annotations

from typing import Protocol


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FrameScanner:
    """Passes on what it reads from ``source`` and follows the frames in it by their headers alone."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._skip = 0  # bytes to pass before the next header
        self._header = b""
        self._state = "frame"
        self._checksum = False

    @property
    def between_frames(self) -> bool:
        """Whether all frames seen so far are whole."""
        return self._state == "frame" and not self._header and not self._skip

    def read(self, size: int = -1, /) -> bytes:
        """What ``source`` gives."""
        data = self._source.read(size)
        self._follow(data)
        return data

    def _follow(self, data: bytes) -> None:
        at = 0
        while at < len(data) and self._state != "unknown":
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            self._header += data[at : at + 1]
            at += 1
            if self._state == "frame":
                self._frame()
            else:
                self._block()

    def _frame(self) -> None:
        header = self._header
        if len(header) < 5:
            return
        if 0x184D2A50 <= int.from_bytes(header[:4], "little") <= 0x184D2A5F:
            if len(header) == 8:
                self._skip = int.from_bytes(header[4:], "little")
                self._header = b""
            return
        if header[:4] != b"\x28\xb5\x2f\xfd":
            self._state = "unknown"  # the decompressor will say what is wrong
            return
        flags = header[4]
        single = flags & 0x20
        size = (1 if single else 0, 2, 4, 8)[flags >> 6]
        self._checksum = bool(flags & 4)
        self._skip = (0 if single else 1) + (0, 1, 2, 4)[flags & 3] + size
        self._header = b""
        self._state = "block"

    def _block(self) -> None:
        if len(self._header) < 3:
            return
        value = int.from_bytes(self._header, "little")
        self._header = b""
        length = value >> 3
        self._skip = 1 if (value >> 1) & 3 == 1 else length
        if value & 1:
            self._skip += 4 if self._checksum else 0
            self._state = "frame"
