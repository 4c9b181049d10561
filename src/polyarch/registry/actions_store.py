"""A build cache in the Actions cache as a ``Store``: layers are entries under their digests; an index with
its manifests and tables is one entry under the cache's name, so that two requests tell what is there.

An entry can never be changed. So a name has numbers, ``NAME#1``, ``NAME#2`` …, and the newest counts; that a
number can be taken only once is the compare-and-swap that a registry lacks.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import secrets
import threading
import time
import zlib
from typing import BinaryIO

import msgspec

from polyarch.content.memory import MemoryStore
from polyarch.content.naming import missing
from polyarch.content.verify import read
from polyarch.content.walk import children, is_manifest
from polyarch.errors import ContentError, RegistryError, UnsupportedError
from polyarch.image.cache_table import CONFIG
from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES, Raw
from polyarch.registry import actions_blobs
from polyarch.registry.actions_service import CacheService, Patience
from polyarch.registry.failures import Task

_PREFIX = "polyarch-1"
_DOCUMENTS = frozenset({
    CONFIG, media_types.OCI_EMPTY, media_types.OCI_MANIFEST, media_types.OCI_INDEX,
    media_types.DOCKER_MANIFEST, media_types.DOCKER_INDEX,
})  # fmt: skip
_MAX_ENTRY = 32 << 20  # bytes of a name's entry
_MAX_DOCUMENTS = 128 << 20  # bytes of what is in it
_MAX_DIGESTS = 256


class _Bundle(msgspec.Struct, frozen=True):
    """A name's entry, deflated JSON: the documents by digest in base64, and which of them is the root."""

    root: str
    media_type: str
    documents: dict[str, str]


class ActionsCache:
    """One cache of one ref. ``ref`` is whose entries its names are among; None where nothing may be written.

    Seconds: ``conflict`` is how long a writer that took a number first is waited for, ``twin`` one that is
    writing the same layer.
    """

    conflict = 15.0
    twin = 3.0
    pause = 0.5

    def __init__(self, service: CacheService, ref: str | None) -> None:
        self._service = service
        self._ref = ref
        self._memory = MemoryStore()
        self._numbers: dict[str, int] = {}
        self._given_up: dict[str, int] = {}  # numbers that somebody took and never used
        self._patience = Patience(service.access.timeout)
        self._lock = threading.Lock()

    def exists(self, digest: str) -> bool:
        """See ``Store``."""
        if self._memory.exists(digest):
            return True
        return self._service.find(_blob_key(digest)) is not None

    def open(self, wanted: Descriptor) -> BinaryIO:
        """See ``Store``."""
        if self._memory.exists(wanted.digest):
            return self._memory.open(wanted)
        task = self._task(f"reading {wanted.digest[:19]}")

        def sign() -> str:
            found = self._service.find(_blob_key(wanted.digest))
            if found is None:
                raise missing(wanted.digest, "the Actions cache")
            return found.url

        backoff = self._service.web.backoff
        return actions_blobs.open_blob(self._service, sign, wanted, task, backoff=backoff)

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        """See ``Store``. Documents are kept until a name leads to them."""
        if expected.media_type in _DOCUMENTS:
            self._memory.push(source, expected)
            return
        if self.exists(expected.digest):
            return
        key = _blob_key(expected.digest)
        self._may_write(key)
        url = self._service.create(key)
        if url is None:  # somebody writes it now, or died doing so
            end = time.monotonic() + self.twin
            while time.monotonic() < end:
                time.sleep(self.pause)
                if self.exists(expected.digest):
                    return
            key = f"{key}#{secrets.token_hex(6)}"
            url = self._service.create(key)
        if url is None:
            raise RegistryError("the Actions cache takes no layer", reason="upload-refused")
        task = self._task(f"writing {expected.digest[:19]}")
        actions_blobs.upload(self._service, url, source, expected, self._patience, task)
        self._service.finalize(key, expected.size)

    def resolve(self, reference: str) -> Descriptor:
        """See ``Store``."""
        if digests.is_valid(reference):
            return self._memory.resolve(reference)
        key = self._name_key(reference)
        found = self._service.find(key)
        if found is None:
            raise missing(reference, "the Actions cache")
        number = found.key.removeprefix(key)
        self._numbers[reference] = int(number) if number.isascii() and number.isdigit() else 0
        data = actions_blobs.download(
            self._service, found.url, _MAX_ENTRY, self._task(f"reading {reference}")
        )
        return self._unpack(data)

    def tag(self, reference: str, target: Descriptor) -> None:
        """See ``Store``; RegistryError ``cache-conflict`` where somebody else was faster."""
        data = self._pack(target)
        key = self._name_key(reference)
        self._may_write(key)
        with self._lock:
            before = self._numbers.get(reference, 0)
            number = max(before, self._given_up.get(reference, 0)) + 1
            url = self._service.create(f"{key}{number}")
            if url is None:
                self._wait_for(reference, key, before, number)
            else:
                task = self._task(f"naming {reference}")
                entry = Descriptor(media_type="", digest=digests.of(data), size=len(data))
                actions_blobs.upload(self._service, url, io.BytesIO(data), entry, self._patience, task)
                self._service.finalize(f"{key}{number}", len(data))
                self._numbers[reference] = number
                return
        raise RegistryError("somebody else has changed the cache", reason="cache-conflict")

    def _wait_for(self, reference: str, key: str, before: int, number: int) -> None:
        """Until whoever took ``number`` has used it, or for ever will not."""
        end = time.monotonic() + self.conflict
        while time.monotonic() < end:
            found = self._service.find(key)
            if found is not None and found.key != f"{key}{before}":
                return
            self._patience.check(self._task(f"naming {reference}"))
            time.sleep(self.pause)
        self._given_up[reference] = number

    def _may_write(self, what: str) -> None:
        if self._ref is None:
            raise UnsupportedError(
                "this job may only read the Actions cache",
                hint="its token opens no ref for writing, as in some events of forks",
                reason="cache-read-only",
            )

    def _name_key(self, reference: str) -> str:
        ref = hashlib.sha256((self._ref or "").encode()).hexdigest()[:8]
        return f"{_PREFIX}-index-{reference}-{ref}#"

    def _pack(self, root: Descriptor) -> bytes:
        documents: dict[str, str] = {}
        pending = [root]
        while pending:
            current = pending.pop()
            data = read(self._memory, current, limit=_MAX_DOCUMENTS)
            documents[current.digest] = base64.b64encode(data).decode()
            if is_manifest(current):
                below = children(Raw.parse(data, current.media_type))
                pending += [one for one in below if self._memory.exists(one.digest)]
        return zlib.compress(msgspec.json.encode(_Bundle(root.digest, root.media_type, documents)))

    def _unpack(self, data: bytes) -> Descriptor:
        """Take an entry's documents, each checked, and return its root."""
        try:
            inflater = zlib.decompressobj()
            text = inflater.decompress(data, _MAX_DOCUMENTS)
            if inflater.unconsumed_tail or not inflater.eof:
                raise ValueError
            bundle = msgspec.json.decode(text, type=_Bundle)
            if len(bundle.documents) > _MAX_DIGESTS:
                raise ValueError
            for digest, encoded in bundle.documents.items():
                document = base64.b64decode(encoded, validate=True)
                expected = Descriptor(media_type="", digest=digests.parse(digest), size=len(document))
                self._memory.push(io.BytesIO(document), expected)
        except (zlib.error, ValueError, msgspec.MsgspecError, binascii.Error, RecursionError):
            raise _nonsense() from None
        found = self._memory.resolve(bundle.root)
        if found.size > MAX_BYTES:
            raise _nonsense()
        return found

    def _task(self, operation: str) -> Task:
        return Task(f"{operation} in the Actions cache", self._service.web.registry)


def _nonsense() -> ContentError:
    return ContentError("an entry of the Actions cache makes no sense", reason="invalid-cache")


def _blob_key(digest: str) -> str:
    return f"{_PREFIX}-blob-{digests.parse(digest)}"
