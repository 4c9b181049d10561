"""Archives as people keep them: plain, or compressed with gzip, zstd, bzip2 or xz; in files or in pipes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import zlib
from typing import IO, BinaryIO, cast

from polyarch.errors import ContentError

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
}


def plain_tar(stream: BinaryIO | io.BufferedReader, spool: IO[bytes], where: str) -> IO[bytes]:
    """``stream`` itself where it is an uncompressed regular file; else ``spool``, filled with its
    uncompressed bytes and rewound. ContentError for a broken compression."""
    head = stream.read(6)
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")
    if not kind and _is_regular(stream):
        stream.seek(0)
        return stream
    whole = cast(BinaryIO, io.BufferedReader(_Prefixed(head, stream)))
    try:
        shutil.copyfileobj(_opened(whole, kind), spool, 1 << 20)
    except (EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        raise ContentError(f"{where} is a broken {kind} archive: {error}", reason="invalid-archive") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ContentError(f"{where} is a broken {kind} archive: {error}", reason="invalid-archive") from None
    except Exception as error:
        if type(error).__module__ != "zstandard" and type(error).__name__ != "ZstdError":
            raise
        raise ContentError(f"{where} is a broken {kind} archive: {error}", reason="invalid-archive") from None
    spool.flush()
    spool.seek(0)
    return spool


def _opened(stream: BinaryIO, kind: str) -> IO[bytes]:
    match kind:
        case "gzip":
            return cast("IO[bytes]", gzip.GzipFile(fileobj=stream))
        case "bzip2":
            return bz2.BZ2File(stream)
        case "xz":
            return lzma.LZMAFile(stream)
        case "zstd":
            import zstandard

            return cast(
                "IO[bytes]", zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
            )
    return stream


def _is_regular(stream: BinaryIO | io.BufferedReader) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, io.UnsupportedOperation, AttributeError):
        return False


class _Prefixed(io.RawIOBase):
    """Bytes that were read already, and what follows them."""

    def __init__(self, head: bytes, rest: BinaryIO | io.BufferedReader) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        chunk = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(chunk) :] if self._head else b""
        buffer[: len(chunk)] = chunk
        return len(chunk)
