"""The one place where bytes are checked against the digest and size they were promised to have."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, cast

from polyarch.errors import ContentError
from polyarch.oci import digest as digests
from polyarch.oci import manifest as manifests
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw

if TYPE_CHECKING:
    from polyarch.content.store import Store

CHUNK = 1 << 20  # bytes moved at once; large enough that hashing releases the interpreter lock


def hasher(digest: str) -> hashlib._Hash:
    """A fresh hash for the algorithm of ``digest``; ContentError unless it is a registered one."""
    return hashlib.new(digests.algorithm(digests.parse(digest)))


class Verifier:
    """Counts and hashes bytes against one descriptor.

    ``source`` is where they come from: one that checks this very digest itself (a stream of a store, still at
    its beginning) is not hashed a second time.
    """

    def __init__(self, expected: Descriptor, where: str = "", *, source: BinaryIO | None = None) -> None:
        if expected.size < 0:
            raise ContentError(f"{expected.digest} has a negative size", reason="invalid-descriptor")
        self._expected = expected
        self._hash = hasher(expected.digest)
        self._trusting = getattr(source, "verifies", None) == (expected.digest, expected.size)
        self._where = f" from {where}" if where else ""
        self.seen = 0

    @property
    def remaining(self) -> int:
        """How many bytes have to come yet."""
        return self._expected.size - self.seen

    @property
    def expected(self) -> tuple[str, int]:
        """The digest and size that are checked."""
        return self._expected.digest, self._expected.size

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take more bytes; ContentError at once when they are too many, or when the last one came and the
        digest differs."""
        self.seen += len(chunk)
        if self.seen > self._expected.size:
            raise ContentError(
                f"{self._expected.digest}{self._where} has more than its {self._expected.size} bytes",
                reason="size-mismatch",
            )
        if self._trusting:
            return
        self._hash.update(chunk)
        if chunk and self.seen == self._expected.size:
            self._check()

    def finish(self) -> None:
        """The bytes have ended; ContentError when some are missing or the digest differs."""
        if self.seen < self._expected.size:
            raise ContentError(
                f"{self._expected.digest}{self._where} ends after {self.seen} of {self._expected.size} bytes",
                reason="truncated",
            )
        if not self._expected.size and not self._trusting:
            self._check()

    def _check(self) -> None:
        found = f"{self._hash.name}:{self._hash.hexdigest()}"
        if found != self._expected.digest:
            raise ContentError(
                f"{self._expected.digest}{self._where} is not what it claims to be",
                detail=f"its {self._expected.size} bytes have the digest {found}",
                reason="digest-mismatch",
            )


class VerifiedReader(io.RawIOBase):
    """A stream that raises ContentError when what it reads is not ``expected``.

    The last byte is handed out only after the digest was found right, so that nobody who reads ``size``
    bytes, or to the end, can miss a lie. Not seekable. Closing it closes ``source``.
    """

    def __init__(self, source: BinaryIO, expected: Descriptor, *, where: str = "") -> None:
        super().__init__()
        self._source = source
        self._verifier = Verifier(expected, where)
        self._ended = False

    @property
    def verifies(self) -> tuple[str, int] | None:
        """The digest and size this stream answers for, as long as nothing was read."""
        return None if self._verifier.seen else self._verifier.expected

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes; to the end without a size."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        if size == 0 or self._ended:
            return b""
        # One byte more than promised is enough to see that there are too many.
        chunk = self._source.read(min(size, self._verifier.remaining + 1))
        if chunk:
            self._verifier.update(chunk)
        else:
            self._ended = True
            self._verifier.finish()
        return chunk

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()


def verified(source: BinaryIO, expected: Descriptor, *, where: str = "") -> BinaryIO:
    """``source``, checked while it is read. ``where`` names its origin in errors."""
    return cast(BinaryIO, VerifiedReader(source, expected, where=where))


def pump(
    source: BinaryIO, expected: Descriptor, write: Callable[[bytes], object], *, where: str = ""
) -> None:
    """Read ``source`` to its end and hand every verified chunk to ``write``; what was written must be thrown
    away when this raises. ``source`` stays open."""
    verifier = Verifier(expected, where, source=source)
    while chunk := source.read(min(CHUNK, verifier.remaining + 1)):
        verifier.update(chunk)
        write(chunk)
    verifier.finish()


def read(store: Store, descriptor: Descriptor, *, limit: int) -> bytes:
    """The whole content of a small blob, verified; ContentError before reading when it has more than
    ``limit`` bytes. Data embedded in the descriptor is used where it is right."""
    if descriptor.size > limit:
        raise ContentError(
            f"{descriptor.digest} has {descriptor.size} bytes, more than the {limit} allowed here",
            reason="too-large",
        )
    embedded = _embedded(descriptor)
    if embedded is not None:
        return embedded
    with store.open(descriptor) as stream:
        return stream.read()


def read_manifest(store: Store, descriptor: Descriptor) -> Raw:
    """The manifest or index of ``descriptor``; ContentError when it is none, too large, or lies."""
    return Raw.parse(read(store, descriptor, limit=manifests.MAX_BYTES), descriptor.media_type)


def _embedded(descriptor: Descriptor) -> bytes | None:
    if not descriptor.data:
        return None
    try:
        data = base64.b64decode(descriptor.data, validate=True)
    except (binascii.Error, ValueError):
        return None
    found = hasher(descriptor.digest)
    found.update(data)
    right = len(data) == descriptor.size and f"{found.name}:{found.hexdigest()}" == descriptor.digest
    return data if right else None
