"""Archives as files, whatever they are compressed with."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from polyarch.context.archive import archive_layer, is_archive, is_archive_start
from polyarch.errors import ContentError
from polyarch.layer.rootfs import Rootfs

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def _tar(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo("./dir/" + name)
            info.size, info.uid, info.mode = len(content), 42, 0o600
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.parametrize("kind", list(PACKERS))
def test_all_compressions(kind: str, tmp_path: Path) -> None:
    data = PACKERS[kind](_tar(a=b"A" * 100_000, b=b""))
    assert is_archive_start(data[:512]) and is_archive(io.BytesIO(data))
    (tmp_path / "x").write_bytes(data)
    first = archive_layer(io.BytesIO(data))
    second = archive_layer(tmp_path / "x", folder=tmp_path)
    assert first.id == second.id
    rootfs = Rootfs((second,))
    assert rootfs.children("dir") == ["a", "b"]
    assert rootfs.read("dir/a", 1 << 20) == b"A" * 100_000 and rootfs.read("dir/b", 1) == b""
    entry = rootfs.get("dir/a")
    assert entry is not None and (entry.uid, entry.mode, entry.digest) == (42, 0o600, rootfs.digest("dir/a"))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_no_archive() -> None:
    for data in (
        b"",
        b"FROM scratch\n",
        b"x" * 2000,
        bytes(1024),
        gzip.compress(b"text"),
        b"\x1f\x8b\x08 no",
    ):
        assert not is_archive(io.BytesIO(data))
    for data in (b"", b"FROM scratch\n", b"x" * 600, bytes(512)):
        assert not is_archive_start(data)


def test_whiteout_names_are_just_names() -> None:
    rootfs = Rootfs((archive_layer(io.BytesIO(_tar(**{".wh.x": b"1"}))),))
    assert rootfs.read("dir/.wh.x", 5) == b"1"


def test_errors_name_the_archive() -> None:
    with pytest.raises(ContentError) as caught:
        archive_layer(io.BytesIO(_tar(a=b"x" * 3000)[:1500]), name="app.tar")
    assert caught.value.summary.startswith("app.tar: ") and caught.value.reason == "truncated"
