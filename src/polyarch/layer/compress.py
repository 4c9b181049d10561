"""Compressing layers, in parallel and always to the same bytes, and reading whatever is compressed.

gzip is written as one member for every mebibyte of input, each compressed on its own by libdeflate, whose
output depends on the level alone: not on the processor, the number of threads or the time. Every reader of
gzip takes several members (RFC 1952, 2.2). zstd is written likewise, one frame for every four mebibytes
(RFC 8878, 3.1). What looks as if it were compressed already (pictures, archives, models) is not compressed
again by gzip, unless a level was asked for: that would take ten times as long as all else, for nothing.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Literal, Protocol, cast

from polyarch.errors import ContentError, UsageError
from polyarch.layer.layer import Compression
from polyarch.layer.zstd_frames import FrameScanner

MIB = 1 << 20
_BLOCK = {"gzip": MIB, "zstd": 4 * MIB, "none": MIB}
_DEFAULT_LEVEL = {"gzip": 5, "zstd": 3, "none": 0}
_LEVELS = {"gzip": range(13), "zstd": range(-7, 23), "none": range(1 << 31)}
_MAGIC: tuple[tuple[bytes, Literal["gzip", "zstd", "bzip2", "xz"]], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
_XZ_MEMORY = 512 * MIB
_SAMPLES, _SAMPLE = 8, 2048  # pieces of a block, and bytes of each, that are tried first
_WORTH = 0.9  # what they must shrink to at least, or the block is stored as it is
_READ = 1 << 18


def workers() -> int:
    """How many threads compress or hash at once: one for each processor this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)))


def level_of(compression: Compression) -> int:
    """The level in effect. UsageError when the kind has no such level. gzip's 10 to 12 are libdeflate's."""
    level = compression.level
    if level is None:
        return _DEFAULT_LEVEL[compression.kind]
    allowed = _LEVELS[compression.kind]
    if level not in allowed:
        raise UsageError(
            f"compression level {level} does not exist for {compression.kind}",
            hint=f"levels go from {allowed.start} to {allowed.stop - 1}",
            reason="invalid-compression-level",
        )
    return level


class Compressor:
    """Takes a tar in pieces of any size, gives its compressed form to ``sink`` in order, and knows the
    digest of what it was given (the diff_id). Use it in a ``with`` block and ``finish`` it at the end."""

    def __init__(self, sink: Callable[[bytes], object], compression: Compression) -> None:
        self._sink = sink
        self._level = level_of(compression)
        self._tries = compression.kind == "gzip" and compression.level is None
        self._kind = compression.kind
        self._size = _BLOCK[compression.kind]
        self._hash = hashlib.sha256()
        self._parts: list[bytes | memoryview] = []
        self._have = 0
        self._blocks = 0
        self._threads = workers()
        self._pool = ThreadPoolExecutor(self._threads, "compress") if self._kind != "none" else None
        self._queue: deque[Future[bytes]] = deque()

    def __enter__(self) -> Compressor:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def write(self, piece: bytes) -> None:
        """Take more of the tar."""
        self._hash.update(piece)
        if self._pool is None:
            self._sink(piece)
            return
        rest = memoryview(piece)
        while self._have + len(rest) >= self._size:
            wanted = self._size - self._have
            self._parts.append(rest[:wanted])
            rest = rest[wanted:]
            self._submit()
        if rest:
            self._parts.append(rest)
            self._have += len(rest)

    def finish(self) -> str:
        """Compress what is left; returns the digest of the whole tar."""
        if self._pool and (self._parts or not self._blocks):
            self._submit()
        while self._queue:
            self._sink(self._queue.popleft().result())
        return "sha256:" + self._hash.hexdigest()

    def _submit(self) -> None:
        assert self._pool is not None
        block = b"".join(self._parts)
        self._blocks += 1
        self._parts.clear()
        self._have = 0
        self._queue.append(self._pool.submit(_compress, self._kind, self._level, block, tries=self._tries))
        while self._queue and (self._queue[0].done() or len(self._queue) > self._threads + 2):
            self._sink(self._queue.popleft().result())


def _compress(kind: str, level: int, block: bytes, *, tries: bool) -> bytes:
    if kind == "gzip":
        import deflate  # its own: not every command compresses

        if tries and not _worth_it(block, lambda sample: len(deflate.deflate_compress(sample, 1))):
            level = 0
        return bytes(deflate.gzip_compress(block, level))
    import zstandard

    return zstandard.ZstdCompressor(level=level, write_checksum=True).compress(block)


def _worth_it(block: bytes, compressed_size: Callable[[bytes], int]) -> bool:
    """Whether samples of ``block`` shrink. A block of few samples is simply compressed."""
    step = len(block) // _SAMPLES
    if step < 4 * _SAMPLE:
        return True
    sample = b"".join(block[at : at + _SAMPLE] for at in range(0, step * _SAMPLES, step))
    return compressed_size(sample) < _WORTH * len(sample)


def detect(start: bytes) -> Literal["gzip", "zstd", "bzip2", "xz", "none"]:
    """How something that starts like this is compressed; six bytes are enough."""
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    return "none"


def decompressed(stream: BinaryIO) -> BinaryIO:
    """``stream`` uncompressed, whatever it is compressed with, detected by its first bytes.

    Reads of the result give at most as many bytes as asked for, so that a small input that grows without end
    never fills the memory. ContentError when the input is damaged (``invalid-compression``) or ends early
    (``truncated``). The input is read to its end. Closing the result closes ``stream``.
    """
    start = b""
    while len(start) < 6 and (more := stream.read(6 - len(start))):
        start += more
    source = _Joined(start, stream)
    match detect(start):
        case "gzip":
            return cast(BinaryIO, _Stepwise(source, _gzip, "gzip"))
        case "bzip2":
            return cast(BinaryIO, _Stepwise(source, bz2.BZ2Decompressor, "bzip2"))
        case "xz":
            return cast(BinaryIO, _Stepwise(source, lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY), "xz"))
        case "zstd":
            return cast(BinaryIO, _Zstd(source))
        case _:
            return cast(BinaryIO, source)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _gzip() -> _Decompressor:
    from isal import igzip_lib

    made: _Decompressor = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return made


class _Joined(io.RawIOBase):
    """A stream whose first bytes were taken already."""

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        super().__init__()
        self._start = start
        self._stream = stream

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(MIB), b""))
        if self._start:
            chunk, self._start = self._start[:size], self._start[size:]
            return chunk
        return self._stream.read(size)

    def readall(self) -> bytes:
        return self.read(-1)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class _Stepwise(io.RawIOBase):
    """Several compressed members behind each other, decompressed by objects that give bounded output."""

    def __init__(self, source: _Joined, make: Callable[[], Any], kind: str) -> None:
        super().__init__()
        self._source = source
        self._make = make
        self._kind = kind
        self._current: _Decompressor | None = make()
        self._input = b""
        self._started = False  # whether the current member got any input

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(MIB), b""))
        while self._current is not None and size:
            if self._current.eof:
                self._next_member(self._current.unused_data)
                continue
            if self._current.needs_input and not self._input:
                self._input = self._source.read(_READ)
                if not self._input:
                    raise ContentError(
                        f"the {self._kind} stream ends in the middle",
                        hint="fetch it again",
                        reason="truncated",
                    )
            try:
                chunk = self._current.decompress(self._input, size)
            except Exception as error:  # each library has an error of its own
                raise _invalid(self._kind, error) from None
            self._input = b""
            if chunk:
                return chunk
        return b""

    def readall(self) -> bytes:
        return self.read(-1)

    def _next_member(self, rest: bytes) -> None:
        rest = rest.lstrip(b"\0") or self._padding()
        if not rest:
            self._current = None
            return
        while len(rest) < 6 and (more := self._source.read(_READ)):
            rest += more
        if detect(rest) != self._kind:
            raise _invalid(self._kind, "something else follows it")
        self._input = rest
        self._current = self._make()

    def _padding(self) -> bytes:
        """The first bytes behind zeros that pad the end; nothing at the end of the stream."""
        while chunk := self._source.read(_READ):
            if rest := chunk.lstrip(b"\0"):
                return rest
        return b""

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


class _Zstd(io.RawIOBase):
    """Frames of zstd behind each other. The library does not tell an end in the middle of a frame from an
    end behind one: the scanner does."""

    def __init__(self, source: _Joined) -> None:
        import zstandard

        super().__init__()
        self._source = source
        self._scanner = FrameScanner(source)
        self._error: type[Exception] = zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        self._reader = decompressor.stream_reader(
            cast(BinaryIO, self._scanner), read_size=_READ, read_across_frames=True, closefd=False
        )

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(MIB), b""))
        try:
            chunk = self._reader.read(size)
        except self._error as error:
            raise _invalid("zstd", error) from None
        if not chunk and size and not self._scanner.between_frames:
            raise ContentError(
                "the zstd stream ends in the middle", hint="fetch it again", reason="truncated"
            )
        return chunk

    def readall(self) -> bytes:
        return self.read(-1)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def _invalid(kind: str, why: object) -> ContentError:
    return ContentError(f"the {kind} stream is damaged: {why}", reason="invalid-compression")
