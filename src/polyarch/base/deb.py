"""Debian's package files, read without dpkg: an ``ar`` archive of a control tar and a data tar (deb(5)).

Packages come from signed lists, but are read as if they did not: sizes, names and paths are checked.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from polyarch.errors import ContentError
from polyarch.layer.compress import decompressed

_MAGIC = b"!<arch>\n"
_HEADER = 60
MAX_CONTROL = 64 << 20  # unpacked; the largest in Debian has a few megabytes
MAX_DATA = 16 << 30


class Deb:
    """One package file at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.built = 0  # seconds since 1970
        self.members = dict(self._members())
        if "debian-binary" not in self.members:
            raise self._broken("no debian-binary in it")

    def verify(self, checksum: str) -> None:
        """ContentError unless the file has ``checksum`` (``SHA256:…``; other kinds are apt's matter)."""
        kind, _, expected = checksum.partition(":")
        if kind != "SHA256":
            return
        with self.path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            self.path.unlink(missing_ok=True)
            raise ContentError(
                f"the package {self.path.name} is not what its list promised",
                detail=f"expected sha256 {expected}\nfound    sha256 {found}",
                hint="it was removed from the cache; try again",
                reason="digest-mismatch",
            )

    def control(self) -> dict[str, bytes]:
        """The files of the control tar by name: ``control``, ``conffiles``, ``postinst``, …"""
        found: dict[str, bytes] = {}
        total = 0
        with self._open("control.tar") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for info in archive:
                if not info.isfile():
                    continue
                total += info.size
                if total > MAX_CONTROL:
                    raise self._broken("its control files are too large")
                extracted = archive.extractfile(info)
                found[info.name.removeprefix("./")] = extracted.read() if extracted else b""
        if "control" not in found:
            raise self._broken("no control file in it")
        return found

    def data(self, target: BinaryIO) -> None:
        """Write the unpacked data tar to ``target``."""
        total = 0
        with self._open("data.tar") as stream:
            while chunk := stream.read(1 << 20):
                total += len(chunk)
                if total > MAX_DATA:
                    raise self._broken("it unpacks to more than any package does")
                target.write(chunk)

    @contextmanager
    def _open(self, stem: str) -> Iterator[BinaryIO]:
        name = next((name for name in self.members if name == stem or name.startswith(stem + ".")), "")
        if not name:
            raise self._broken(f"no {stem} in it")
        offset, size = self.members[name]
        with self.path.open("rb") as file:
            try:
                with decompressed(cast(BinaryIO, Slice(file, offset, size))) as stream:
                    yield stream
            except (tarfile.TarError, ContentError) as error:
                raise self._broken(str(error)) from None

    def _members(self) -> Iterator[tuple[str, tuple[int, int]]]:
        with self.path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise self._broken("not an ar archive")
            while header := stream.read(_HEADER):
                if len(header) < _HEADER or header[58:60] != b"`\n" or not header[48:58].strip().isdigit():
                    raise self._broken("a member's header is damaged")
                size = int(header[48:58])
                if header[16:28].strip().isdigit():
                    self.built = max(self.built, int(header[16:28]))
                name = header[:16].decode("ascii", "replace").strip().rstrip("/")
                yield name, (stream.tell(), size)
                stream.seek(size + size % 2, io.SEEK_CUR)

    def _broken(self, why: str) -> ContentError:
        return ContentError(
            f"{self.path.name} is not a package that can be used: {why}", reason="invalid-package"
        )


class Slice(io.RawIOBase):
    """``size`` bytes of ``stream`` from ``offset`` on. Closing it closes ``stream``."""

    def __init__(self, stream: BinaryIO, offset: int, size: int) -> None:
        stream.seek(offset)
        self._stream, self._left = stream, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(min(len(buffer), self._left))
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
