"""Compression: the same bytes always, read by everybody; damage is seen."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import subprocess

import deflate
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from polyarch.errors import ContentError, UsageError
from polyarch.layer.compress import Compressor, decompressed, detect
from polyarch.layer.layer import Compression

_R = random.Random(7)
TEXT = b" ".join(
    _R.choice([b"alpha", b"beta", b"gamma", _R.randbytes(4).hex().encode()]) for _ in range(900_000)
)


def squeeze(data: bytes, compression: Compression, step: int = 100_003) -> tuple[bytes, str]:
    out: list[bytes] = []
    with Compressor(out.append, compression) as compressor:
        for at in range(0, len(data), step):
            compressor.write(data[at : at + step])
        digest = compressor.finish()
    return b"".join(out), digest


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, len(TEXT)])
def test_round_trip(kind: str, size: int) -> None:
    data = TEXT[:size]
    packed, digest = squeeze(data, Compression(kind))  # type: ignore[arg-type]
    assert digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert decompressed(io.BytesIO(packed)).read() == data
    assert squeeze(data, Compression(kind), step=777_777)[0] == packed  # type: ignore[arg-type]
    if kind == "gzip":
        assert gzip.decompress(packed) == data
    if kind == "zstd" and size:
        assert subprocess.run(["zstd", "-dc"], input=packed, capture_output=True, check=True).stdout == data


def test_gzip_bytes_are_pinned() -> None:
    """Other bytes for the same input would change every digest: this must not happen unnoticed."""
    packed, _ = squeeze(b"polyarch " * 300_000, Compression())
    assert packed[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    assert hashlib.sha256(packed).hexdigest() == PINNED


PINNED = "2f114279bb89217029730ec2dcb47fec8cdb2ec7d439a4bdf83e020e9908ddbc"


def test_what_does_not_shrink_is_stored_unless_a_level_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    levels: list[int] = []
    real = deflate.gzip_compress
    monkeypatch.setattr(deflate, "gzip_compress", lambda d, level: (levels.append(level), real(d, level))[1])
    noise = random.Random(1).randbytes(2 << 20)
    stored, digest = squeeze(noise, Compression("gzip"))
    assert levels == [0, 0]
    assert gzip.decompress(stored) == noise and digest == "sha256:" + hashlib.sha256(noise).hexdigest()
    assert squeeze(noise, Compression("gzip"), step=999)[0] == stored
    levels.clear()
    squeeze(noise, Compression("gzip", 5))
    squeeze(noise[: 1 << 20] + TEXT[: 1 << 20], Compression("gzip"))
    assert sorted(levels) == [0, 5, 5, 5]


def test_levels() -> None:
    assert len(squeeze(TEXT, Compression("gzip", 9))[0]) < len(squeeze(TEXT, Compression("gzip", 1))[0])
    with pytest.raises(UsageError):
        squeeze(b"x", Compression("gzip", 30))
    with pytest.raises(UsageError):
        squeeze(b"x", Compression("zstd", 50))


_PACKERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}


@pytest.mark.parametrize("kind", list(_PACKERS))
def test_members_and_damage(kind: str) -> None:
    pack = _PACKERS[kind]
    data = TEXT[:300_000]
    packed = pack(data)
    assert detect(packed) == kind
    assert decompressed(io.BytesIO(packed + pack(b"more") + pack(b""))).read() == data + b"more"
    for cut in (1, 9, len(packed) // 2):
        with pytest.raises(ContentError) as caught:
            decompressed(io.BytesIO(packed[:-cut])).read()
        assert caught.value.reason in ("truncated", "invalid-compression")
    broken = bytearray(packed)
    broken[len(packed) // 2] ^= 0xFF
    with pytest.raises(ContentError):
        assert decompressed(io.BytesIO(bytes(broken))).read() != data
        raise ContentError("a wrong result is as good as an error for what has no checksum in the middle")
    with pytest.raises(ContentError):
        decompressed(io.BytesIO(packed + b"garbage")).read()


def test_zeros_behind_gzip_are_padding() -> None:
    assert (
        decompressed(io.BytesIO(gzip.compress(b"a") + bytes(5000) + gzip.compress(b"b") + bytes(3))).read()
        == b"ab"
    )


def test_zstd_streamed_frames_and_skippable_ones() -> None:
    streamed = zstandard.ZstdCompressor().compressobj()
    frame = streamed.compress(TEXT[:1_000_000]) + streamed.flush()
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345"
    data = frame + skippable + zstandard.ZstdCompressor().compress(b"end")
    assert decompressed(io.BytesIO(data)).read() == TEXT[:1_000_000] + b"end"
    with pytest.raises(ContentError):
        decompressed(io.BytesIO(frame + skippable[:-2])).read()


@pytest.mark.parametrize("kind", list(_PACKERS))
def test_bombs_come_in_small_pieces(kind: str) -> None:
    stream = decompressed(io.BytesIO(_PACKERS[kind](bytes(64 << 20))))
    total = 0
    while piece := stream.read(1 << 16):
        assert len(piece) <= 1 << 16
        total += len(piece)
    assert total == 64 << 20


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\x00"]),
)
@settings(deadline=None)
def test_any_bytes(data: bytes, start: bytes) -> None:
    try:
        decompressed(io.BytesIO(start + data)).read()
    except ContentError:
        pass
