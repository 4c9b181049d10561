"""Archives of images, read in place: OCI layouts in a tar, and what ``docker save`` writes.

Nothing is unpacked: an archive is a map from names to ranges of bytes, so a hostile name, link or device in
it leads nowhere. Digests are checked where blobs are read, as everywhere.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, cast

import msgspec

from polyarch.content import naming
from polyarch.content.names import CONTAINERD_NAME, REF_NAME, NameTable
from polyarch.content.names import MAX_BYTES as MAX_NAMES
from polyarch.content.verify import CHUNK, verified
from polyarch.errors import ContentError, NotFoundError, UsageError
from polyarch.image.compressed import plain_tar
from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.config import ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES, Manifest, decode, encode
from polyarch.oci.reference import Reference

_MAX_MEMBERS = 100_000
_MAX_LINKS = 8


class _Saved(msgspec.Struct, frozen=True):
    """One image in the manifest.json of ``docker save``."""

    config: str = msgspec.field(name="Config")
    layers: tuple[str, ...] = msgspec.field(name="Layers")
    tags: tuple[str, ...] | None = msgspec.field(default=None, name="RepoTags")


@dataclass(frozen=True)
class _Range:
    """Where bytes are: inside the archive, or made here (manifests of docker archives)."""

    start: int
    size: int
    made: bytes | None = None


class ArchiveStore:
    """A read-only store over a tar of an OCI layout or of ``docker save``. Safe to share between threads.

    ContentError when it is neither. Close it, or use it in a ``with`` block.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file = file
        self._where = where
        self._blobs: dict[str, _Range] = {}
        self._members = self._scan()
        self._table = self._read_names()

    @classmethod
    def open_file(cls, path: Path) -> ArchiveStore:
        """The archive at ``path``, plain or compressed."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"there is no archive {path}", reason="not-found") from None
        except IsADirectoryError:
            raise UsageError(
                f"{path} is a directory, not an archive",
                hint=f"an OCI layout in a directory is oci-layout://{path}",
                reason="not-an-archive",
            ) from None
        return cls.from_stream(file, str(path))

    @classmethod
    def from_stream(cls, stream: BinaryIO | io.BufferedReader, where: str) -> ArchiveStore:
        """The archive ``stream`` yields; kept in a temporary file where it is compressed or a pipe.
        ``stream`` is closed when it is not needed any more."""
        spool = tempfile.TemporaryFile(prefix="polyarch-archive-")  # noqa: SIM115 - lives as long as we do
        try:
            plain = plain_tar(stream, spool, where)
            store = cls(plain, where)
        except BaseException:
            spool.close()
            stream.close()
            raise
        (stream if plain is spool else spool).close()
        return store

    def __enter__(self) -> ArchiveStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back; streams that were opened here stop working."""
        self._file.close()

    # --- the Store protocol ---------------------------------------------------------------------------------

    def exists(self, digest: str) -> bool:
        return self._range(digests.parse(digest)) is not None

    def open(self, wanted: Descriptor) -> BinaryIO:
        found = self._range(digests.parse(wanted.digest))
        if found is None:
            raise naming.missing(wanted.digest, self._where)
        if found.size != wanted.size:
            raise ContentError(
                f"{wanted.digest} in {self._where} has {found.size} bytes, not {wanted.size}",
                reason="size-mismatch",
            )
        return verified(self._stream(found), wanted, where=self._where)

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        raise UsageError(f"{self._where} is an archive and only read", reason="read-only")

    def resolve(self, reference: str) -> Descriptor:
        if digest := naming.digest_of(reference):
            found = self._range(digest)
            if found is None:
                raise naming.missing(reference, self._where)
            wanted = Descriptor(media_type=naming.OPAQUE, digest=digest, size=found.size)
            if found.size > MAX_BYTES:
                return wanted
            return naming.describe(self.open(wanted).read(), digest)
        named = self._table.find(reference, naming.normalized(reference))
        if named is None:
            raise naming.missing(reference, self._where)
        return named

    def tag(self, reference: str, target: Descriptor) -> None:
        raise UsageError(f"{self._where} is an archive and only read", reason="read-only")

    # --- more than the protocol -----------------------------------------------------------------------------

    def roots(self) -> list[Descriptor]:
        """Every image in the archive, in order, with the annotations that name it."""
        return self._table.roots()

    # --- inside ---------------------------------------------------------------------------------------------

    def _scan(self) -> dict[str, _Range | str]:
        """Every regular file's range and every link's target, by clean name."""
        members: dict[str, _Range | str] = {}
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                for member in tar:
                    if len(members) >= _MAX_MEMBERS:
                        raise ContentError(f"{self._where} has too many entries", reason="too-large")
                    name = _clean(member.name)
                    if member.isreg() and not member.issparse():
                        members[name] = _Range(member.offset_data, member.size)
                    elif member.issym():
                        members[name] = _clean(os.path.join(os.path.dirname(name), member.linkname))
                    elif member.islnk():
                        members[name] = _clean(member.linkname)
        except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
            raise ContentError(
                f"{self._where} is not a tar archive: {error}", reason="invalid-archive"
            ) from None
        return members

    def _member(self, name: str) -> _Range | None:
        found = self._members.get(_clean(name))
        for _ in range(_MAX_LINKS):
            if not isinstance(found, str):
                return found
            found = self._members.get(found)
        return None

    def _range(self, digest: str) -> _Range | None:
        if found := self._blobs.get(digest):
            return found
        return self._member(f"blobs/{digests.algorithm(digest)}/{digests.encoded(digest)}")

    def _stream(self, found: _Range) -> BinaryIO:
        if found.made is not None:
            return io.BytesIO(found.made)
        return cast(BinaryIO, _Slice(self._file, found.start, found.size))

    def _small(self, name: str, limit: int) -> bytes | None:
        found = self._member(name)
        if found is None:
            return None
        if found.size > limit:
            raise ContentError(f"{name} in {self._where} has {found.size} bytes", reason="too-large")
        return self._stream(found).read()

    def _read_names(self) -> NameTable:
        if (data := self._small("index.json", MAX_NAMES)) is not None:
            table = NameTable.parse(data, f"index.json in {self._where}")
            if table.roots():
                return table
        data = self._small("manifest.json", MAX_NAMES)
        if data is None:
            raise ContentError(
                f"{self._where} holds no image",
                hint="make archives with 'docker save', 'polyarch save' or 'build -o type=oci'",
                reason="not-an-image-archive",
            )
        table = NameTable.empty()
        for saved in decode(data, tuple[_Saved, ...], "manifest.json"):
            for entry in self._saved(saved):
                table.publish(entry)
        return table

    def _saved(self, saved: _Saved) -> Iterator[Descriptor]:
        """An image of ``docker save``, which has no manifest: one is made."""
        config_bytes = self._small(saved.config, MAX_BYTES)
        if config_bytes is None:
            raise ContentError(f"{self._where} lacks the config {saved.config}", reason="invalid-archive")
        config = ImageConfig.parse(config_bytes)
        diff_ids = (config.rootfs.diff_ids if config.rootfs else None) or ()
        if len(diff_ids) != len(saved.layers):
            raise ContentError(
                f"an image in {self._where} has {len(saved.layers)} layers, its config {len(diff_ids)}",
                reason="invalid-archive",
            )
        layers = [self._layer(name, diff_id) for name, diff_id in zip(saved.layers, diff_ids, strict=True)]
        manifest = Manifest(
            schema_version=2,
            media_type=media_types.OCI_MANIFEST,
            config=self._keep(config_bytes, media_types.OCI_CONFIG),
            layers=tuple(layers),
        )
        raw = encode(manifest)
        made = self._keep(raw.data, raw.media_type)
        platform = config.platform if config.architecture else None
        for name in saved.tags or ("",):
            annotations = {}
            if name:
                reference = Reference.parse(name)
                annotations = {CONTAINERD_NAME: str(reference), REF_NAME: reference.tag}
            yield msgspec.structs.replace(made, platform=platform, annotations=annotations)

    def _keep(self, data: bytes, media_type: str) -> Descriptor:
        digest = digests.of(data)
        self._blobs[digest] = _Range(0, len(data), data)
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def _layer(self, name: str, diff_id: str) -> Descriptor:
        found = self._member(name)
        if found is None:
            raise ContentError(f"{self._where} lacks the layer {name}", reason="invalid-archive")
        stream = self._stream(found)
        start = stream.read(6)
        hasher = hashlib.sha256(start)
        while chunk := stream.read(CHUNK):
            hasher.update(chunk)
        digest = "sha256:" + hasher.hexdigest()
        if start.startswith(b"\x1f\x8b"):
            media_type = media_types.OCI_LAYER_GZIP
        elif start.startswith(b"\x28\xb5\x2f\xfd"):
            media_type = media_types.OCI_LAYER_ZSTD
        else:
            media_type = media_types.OCI_LAYER
            if digest != diff_id:
                raise ContentError(
                    f"the layer {name} in {self._where} is not what its config says",
                    detail=f"it has the digest {digest}, not {diff_id}",
                    reason="digest-mismatch",
                )
        self._blobs[digest] = found
        return Descriptor(media_type=media_type, digest=digest, size=found.size)


class _Slice(io.RawIOBase):
    """A range of a file, with a position of its own, so that threads can read side by side."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self._file = file  # keeps it open
        self._position = start
        self._end = start + size

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        chunk = os.pread(self._file.fileno(), min(size, self._end - self._position), self._position)
        self._position += len(chunk)
        return chunk


def _clean(name: str) -> str:
    """A member's name without ``./``, ``//`` and leading slashes; ``..`` is resolved inside the archive."""
    return os.path.normpath("/" + name).lstrip("/")
