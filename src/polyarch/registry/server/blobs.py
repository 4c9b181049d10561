"""The endpoints for blobs and uploads (distribution-spec end-2, end-4 to end-6, end-10, end-11, end-13)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from polyarch.registry.server.exchange import Disconnected, Request, Response
from polyarch.registry.server.refusal import Refusal
from polyarch.registry.server.storage import Shelf, Storage, checked_digest
from polyarch.registry.server.uploads import Upload, Uploads

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True)
class BlobEndpoints:
    """Answers requests below ``/v2/NAME/blobs/``."""

    storage: Storage
    uploads: Uploads

    async def get(self, request: Request, shelf: Shelf, digest: str) -> Response:
        """GET and HEAD, with ranges (RFC 9110 §14) and conditions."""
        path = shelf.blob(checked_digest(digest))
        if path is None:
            raise Refusal(404, "BLOB_UNKNOWN", "this repository has no such blob", digest)
        size = path.stat().st_size
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
            "Cache-Control": "max-age=31536000",
        }
        if digest in request.headers.get("if-none-match", ""):
            return Response(304, headers)
        part = wanted_part(request.headers.get("range", ""), size)
        if part is None:
            return Response(200, headers, path=path, length=size)
        first, last = part
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Response(206, headers, path=path, offset=first, length=last - first + 1)

    async def delete(self, request: Request, shelf: Shelf, digest: str) -> Response:
        if not shelf.remove_blob(checked_digest(digest)):
            raise Refusal(404, "BLOB_UNKNOWN", "this repository has no such blob", digest)
        return Response(202)

    async def begin(self, request: Request, shelf: Shelf) -> Response:
        """POST: open an upload, take a whole blob at once, or mount one of another repository."""
        if "mount" in request.query:
            digest = checked_digest(request.query["mount"])
            origin = request.query.get("from", "")
            if origin and self.storage.shelf(origin).blob(digest):
                shelf.add_blob(digest)
                return _created(shelf, digest)
        elif "digest" in request.query:
            return await self._whole(request, shelf, checked_digest(request.query["digest"]))
        return _progress(202, shelf, await self.uploads.begin(shelf))

    async def _whole(self, request: Request, shelf: Shelf, digest: str) -> Response:
        upload = await self.uploads.begin(shelf)
        try:
            await self.uploads.receive(shelf, upload, request)
            await self.uploads.commit(shelf, upload, digest)
        except (Refusal, Disconnected):
            self.uploads.drop(shelf, upload)  # nobody knows its name, so nobody can go on with it
            raise
        return _created(shelf, digest)

    async def status(self, request: Request, shelf: Shelf, identity: str) -> Response:
        async with self.uploads.use(shelf, identity) as upload:
            return _progress(204, shelf, upload)

    async def append(self, request: Request, shelf: Shelf, identity: str) -> Response:
        """PATCH: a chunk, or a stream of unknown length."""
        async with self.uploads.use(shelf, identity) as upload:
            await self.uploads.receive(shelf, upload, request)
            return _progress(202, shelf, upload)

    async def finish(self, request: Request, shelf: Shelf, identity: str) -> Response:
        """PUT: the last chunk, if any, and the digest."""
        if "digest" not in request.query:
            raise Refusal(400, "DIGEST_INVALID", "the digest is missing")
        digest = checked_digest(request.query["digest"])
        async with self.uploads.use(shelf, identity) as upload:
            await self.uploads.receive(shelf, upload, request)
            await self.uploads.commit(shelf, upload, digest)
        return _created(shelf, digest)

    async def cancel(self, request: Request, shelf: Shelf, identity: str) -> Response:
        async with self.uploads.use(shelf, identity) as upload:
            self.uploads.drop(shelf, upload)
        return Response(204)


def wanted_part(header: str, size: int) -> tuple[int, int] | None:
    """The first and last byte of a single range, None for the whole; Refusal (416) when it cannot be met.
    Several ranges at once may be ignored, and are."""
    match = _RANGE.fullmatch(header.strip())
    if not match or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        begin, end = max(0, size - int(last)), size - 1
    else:
        begin, end = int(first), min(int(last), size - 1) if last else size - 1
        if last and int(last) < begin:
            return None  # not a valid range, so no range at all
    if begin >= size or end < begin:
        raise Refusal(416, "SIZE_INVALID", "the range is not in the blob", None, {
            "Content-Range": f"bytes */{size}"})  # fmt: skip
    return begin, end


def _created(shelf: Shelf, digest: str) -> Response:
    return Response(201, {"Location": f"/v2/{shelf.name}/blobs/{digest}", "Docker-Content-Digest": digest})


def _progress(status: int, shelf: Shelf, upload: Upload) -> Response:
    return Response(
        status,
        {
            "Location": f"/v2/{shelf.name}/blobs/uploads/{upload.identity}",
            "Range": upload.range,
            "Docker-Upload-UUID": upload.identity,
        },
    )
