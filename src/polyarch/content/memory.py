"""A store in memory: for tests, and for small content that is about to be copied elsewhere."""

from __future__ import annotations

import io
import threading
from typing import BinaryIO

from polyarch.content import naming
from polyarch.content.verify import pump, verified
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor


class MemoryStore:
    """Content in dictionaries. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, bytes] = {}
        self._names: dict[str, Descriptor] = {}

    def exists(self, digest: str) -> bool:
        return digests.parse(digest) in self._blobs

    def open(self, wanted: Descriptor) -> BinaryIO:
        data = self._blobs.get(digests.parse(wanted.digest))
        if data is None:
            raise naming.missing(wanted.digest, "memory")
        return verified(io.BytesIO(data), wanted)

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        if self.exists(expected.digest):
            return
        data = bytearray()
        pump(source, expected, data.extend)
        with self._lock:
            self._blobs[expected.digest] = bytes(data)

    def resolve(self, reference: str) -> Descriptor:
        if digest := naming.digest_of(reference):
            data = self._blobs.get(digest)
            if data is None:
                raise naming.missing(reference, "memory")
            return naming.describe(data, digest)
        found = self._names.get(naming.normalized(reference))
        if found is None:
            raise naming.missing(reference, "memory")
        return found

    def tag(self, reference: str, target: Descriptor) -> None:
        with self._lock:
            if digests.parse(target.digest) not in self._blobs:
                raise naming.missing(target.digest, "memory")
            self._names[naming.normalized(reference)] = target

    def names(self) -> list[tuple[str, Descriptor]]:
        """Every name and what it names, sorted."""
        with self._lock:
            return sorted(self._names.items())
