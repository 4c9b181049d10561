"""Uploads under way (distribution-spec, "Pushing a blob monolithically" and "in chunks").

The bytes grow in one file, hashed as they come. After a restart the file is hashed again, so that an upload
survives the server.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from polyarch.content.ingest import disk
from polyarch.errors import PolyarchError
from polyarch.oci import digest as digests
from polyarch.registry.server.exchange import Request
from polyarch.registry.server.refusal import Refusal
from polyarch.registry.server.storage import Shelf

_ID = re.compile(r"[0-9a-f]{32}")
_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/(?:\d+|\*))?")
_PATIENCE = 20.0  # seconds to wait for an earlier request on the same upload to end
_LIFETIME = 7 * 24 * 3600  # seconds an abandoned upload is kept


@dataclass
class Upload:
    """One upload; used by one request at a time."""

    identity: str
    path: Path
    size: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def load(self) -> None:
        """Take in what the file holds already (after a restart)."""
        self.size, self._hash = 0, hashlib.sha256()
        with self.path.open("rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                self._hash.update(chunk)
                self.size += len(chunk)

    def append(self, chunks: list[bytes]) -> None:
        """Add bytes; PolyarchError (``no-space``) when the disk is full."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            for chunk in chunks:
                view = memoryview(chunk)
                with disk("receiving a blob", self.path.parent):
                    while view:
                        view = view[os.write(descriptor, view) :]
                self._hash.update(chunk)
                self.size += len(chunk)
        finally:
            os.close(descriptor)

    def digest(self, algorithm: str) -> str:
        """The digest of what came so far."""
        if algorithm == "sha256":
            return f"sha256:{self._hash.hexdigest()}"
        with self.path.open("rb") as file:
            return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"

    @property
    def range(self) -> str:
        """The Range header: what is here. An upload without bytes says ``0-0`` too, as docker's does."""
        return f"0-{max(0, self.size - 1)}"


class Uploads:
    """Every upload this server knows. Called from the event loop; what blocks goes to threads."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Upload] = {}

    async def begin(self, shelf: Shelf) -> Upload:
        """A new upload without bytes."""
        identity = secrets.token_hex(16)
        path = shelf.uploads / identity
        await asyncio.to_thread(_create, path)
        upload = self._known[shelf.name, identity] = Upload(identity, path)
        return upload

    @asynccontextmanager
    async def use(self, shelf: Shelf, identity: str) -> AsyncIterator[Upload]:
        """An upload that was begun, ours alone while the block lasts; Refusal when there is none."""
        unknown = Refusal(404, "BLOB_UPLOAD_UNKNOWN", "this upload is not known (any more)", identity)
        if not _ID.fullmatch(identity):
            raise unknown
        upload = self._known.get((shelf.name, identity))
        if upload is None:
            upload = Upload(identity, shelf.uploads / identity)
            try:
                await asyncio.to_thread(upload.load)
            except FileNotFoundError:
                raise unknown from None
            upload = self._known.setdefault((shelf.name, identity), upload)
        try:
            await asyncio.wait_for(upload.lock.acquire(), _PATIENCE)
        except TimeoutError:
            raise Refusal(409, "BLOB_UPLOAD_INVALID", "another request uses this upload") from None
        try:
            if not upload.path.exists():
                raise unknown
            yield upload
        finally:
            upload.lock.release()

    async def receive(self, shelf: Shelf, upload: Upload, request: Request) -> None:
        """Append the request's body, where it says it belongs. What came before a connection broke stays."""
        end = _expected_end(upload, request, shelf)
        pending: asyncio.Future[None] | None = None
        try:
            async for chunks in request.blocks():
                if pending is not None:
                    await pending
                pending = asyncio.ensure_future(asyncio.to_thread(upload.append, chunks))
            if pending is not None:
                await pending
        except PolyarchError:
            self.drop(shelf, upload)
            raise
        except BaseException:
            if pending is not None and not pending.done():
                await asyncio.wait([pending])
            raise
        if end is not None and upload.size != end:
            raise Refusal(400, "SIZE_INVALID", "the body is not as long as its Content-Range says")

    async def commit(self, shelf: Shelf, upload: Upload, digest: str) -> None:
        """Make the upload a blob of the repository; Refusal (and the upload is gone) when it is not what
        ``digest`` says."""
        found = await asyncio.to_thread(upload.digest, digests.algorithm(digest))
        if found != digest:
            self.drop(shelf, upload)
            raise Refusal(400, "DIGEST_INVALID", "the content has another digest", {"found": found})
        await asyncio.to_thread(_adopt, shelf, upload.path, digest)
        self._known.pop((shelf.name, upload.identity), None)

    def drop(self, shelf: Shelf, upload: Upload) -> None:
        """Forget an upload and its bytes."""
        self._known.pop((shelf.name, upload.identity), None)
        upload.path.unlink(missing_ok=True)


def _create(path: Path) -> None:
    with disk("beginning an upload", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o644, exist_ok=False)


def _adopt(shelf: Shelf, path: Path, digest: str) -> None:
    shelf.layout.adopt(path, digest)
    shelf.add_blob(digest)


def _expected_end(upload: Upload, request: Request, shelf: Shelf) -> int | None:
    """The size the upload must have after this body, where its Content-Range tells; Refusal (416) when it
    does not begin where the upload ends."""
    header = request.headers.get("content-range")
    if header is None:
        return None
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if not match:
        raise Refusal(400, "BLOB_UPLOAD_INVALID", "the Content-Range makes no sense", header[:100])
    first, last = int(match[1]), int(match[2])
    if last < first and request.length != 0:
        raise Refusal(400, "BLOB_UPLOAD_INVALID", "the Content-Range makes no sense", header[:100])
    if first != upload.size:
        raise Refusal(
            416,
            "BLOB_UPLOAD_INVALID",
            f"the upload has {upload.size} bytes, so the next chunk begins there",
            header[:100],
            {
                "Range": upload.range,
                "Location": f"/v2/{shelf.name}/blobs/uploads/{upload.identity}",
                "Docker-Upload-UUID": upload.identity,
            },
        )
    if request.length is not None and last - first + 1 != request.length:
        raise Refusal(400, "SIZE_INVALID", "Content-Range and Content-Length differ")
    return last + 1


def expire(repositories: Path) -> int:
    """Remove uploads that nobody continued for a week; returns how many."""
    removed = 0
    for path in repositories.rglob("_uploads/*"):
        try:
            if path.stat().st_mtime < time.time() - _LIFETIME:
                path.unlink()
                removed += 1
        except OSError:
            continue  # finished meanwhile
    return removed
