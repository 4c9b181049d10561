"""The endpoints for manifests, tags and referrers (distribution-spec end-3, end-7 to end-9, end-12)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from polyarch.content.walk import is_attestation, is_foreign, is_manifest
from polyarch.errors import ContentError, PolyarchError
from polyarch.oci import digest as digests
from polyarch.oci import media_types, platform
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES, Raw
from polyarch.oci.platform import Platform, parse_known
from polyarch.registry.server.exchange import Request, Response
from polyarch.registry.server.refusal import Refusal
from polyarch.registry.server.storage import Shelf, checked_digest, is_tag

_AGENT = re.compile(r"\bos/([a-z0-9]+) arch/([a-z0-9]+)")  # what docker's engine says about itself
_ZERO = re.compile(r"\bq\s*=\s*0(?:\.0*)?\s*(?:;|$)")  # a quality of 0 means: not this


@dataclass(frozen=True)
class ManifestEndpoints:
    """Answers requests below ``/v2/NAME/manifests/``, ``tags/`` and ``referrers/``.

    ``default`` is the platform of clients that ask by tag, take no index, and do not say what they are.
    """

    default: Platform

    async def get(self, request: Request, shelf: Shelf, reference: str) -> Response:
        """GET and HEAD. The bytes are those that were pushed."""
        digest = shelf.resolve(reference)
        raw = shelf.manifest(digest) if digest else None
        if digest is None or raw is None:
            raise _unknown(shelf, reference)
        if ":" not in reference and raw.is_index and not accepts_index(request.headers.get("accept", "")):
            digest, raw = self._variant(request, shelf, digest, raw)
        headers = {
            "Content-Type": raw.media_type,
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Vary": "Accept",
        }
        if digest in request.headers.get("if-none-match", ""):
            return Response(304, headers)
        return Response(200, headers, raw.data)

    def _variant(self, request: Request, shelf: Shelf, digest: str, raw: Raw) -> tuple[str, Raw]:
        """The manifest of the client's platform out of an index."""
        wanted = self._platform(request)
        entries = [e for e in raw.index.manifests if e.platform is not None and not is_attestation(e)]
        position = platform.choose(wanted, [e.platform for e in entries if e.platform is not None])
        found = shelf.manifest(entries[position].digest) if position is not None else None
        if position is None or found is None or found.is_index:
            raise Refusal(
                404,
                "MANIFEST_UNKNOWN",
                f"this is an image index without {wanted}, and the client accepts no index",
                {"platforms": [str(e.platform) for e in entries]},
            )
        return entries[position].digest, found

    def _platform(self, request: Request) -> Platform:
        if match := _AGENT.search(request.headers.get("user-agent", "").lower()):
            try:
                return parse_known(f"{match[1]}/{match[2]}")
            except PolyarchError:
                pass  # a platform nobody knows; the default serves as well as any
        return self.default

    async def put(self, request: Request, shelf: Shelf, reference: str) -> Response:
        """Store a manifest that is what it claims to be and whose parts are all here."""
        if ":" in reference:
            checked_digest(reference)
        elif not is_tag(reference):
            raise Refusal(400, "TAG_INVALID", "the tag is not valid", reference[:200])
        data = await request.whole(MAX_BYTES)
        declared = request.headers.get("content-type", "").partition(";")[0].strip()
        digest = _digest_of(data, reference)
        raw, subject = _validated(data, declared, shelf)
        tag = "" if ":" in reference else reference
        await asyncio.to_thread(shelf.add_manifest, raw, digest, tag, subject)
        headers = {"Location": f"/v2/{shelf.name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if subject:
            headers["OCI-Subject"] = subject
        return Response(201, headers)

    async def delete(self, request: Request, shelf: Shelf, reference: str) -> Response:
        """By tag: the tag alone. By digest: the manifest and every tag that names it."""
        digest = shelf.resolve(reference)
        raw = shelf.manifest(digest) if digest else None
        if digest is None or raw is None:
            raise _unknown(shelf, reference)
        if ":" in reference:
            shelf.remove_manifest(digest, _subject_of(raw))
        else:
            shelf.remove_tag(reference)
        return Response(202)

    async def tags(self, request: Request, shelf: Shelf) -> Response:
        if not shelf.exists:
            raise Refusal(404, "NAME_UNKNOWN", "there is no such repository", shelf.name)
        names, headers = page(request, shelf.tags())
        return Response(200, headers, json.dumps({"name": shelf.name, "tags": names}).encode())

    async def referrers(self, request: Request, shelf: Shelf, subject: str) -> Response:
        """An index of what refers to ``subject``, also of what clients kept in its fallback tag."""
        found: dict[str, dict[str, Any]] = {}
        fallback = shelf.resolve(checked_digest(subject).replace(":", "-"))
        old = shelf.manifest(fallback) if fallback else None
        if old is not None and old.is_index:
            for entry in old.index.manifests:
                found[entry.digest] = msgspec.to_builtins(entry)
        for digest in shelf.referrers(subject):
            raw = shelf.manifest(digest)
            if raw is not None:
                found[digest] = _referrer(raw, digest)
        headers = {"Content-Type": media_types.OCI_INDEX}
        entries = list(found.values())
        if wanted := request.query.get("artifactType"):
            entries = [entry for entry in entries if entry.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}
        return Response(200, headers, json.dumps(document).encode())


def accepts_index(header: str) -> bool:
    """Whether a client with this Accept header takes an index (RFC 9110 §12.5.1: none means anything)."""
    if not header.strip():
        return True
    for entry in header.lower().split(","):
        kind, _, parameters = entry.partition(";")
        taken = kind.strip() in media_types.INDEXES | {"*/*", "application/*"}
        if taken and not _ZERO.search(parameters):
            return True
    return False


def page(request: Request, names: list[str]) -> tuple[list[str], dict[str, str]]:
    """The part of a sorted list that ``n`` and ``last`` ask for, and the headers with the way to the next."""
    headers = {"Content-Type": "application/json"}
    text = request.query.get("n", "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refusal(400, "PAGINATION_NUMBER_INVALID", "n must be a number", text[:50])
    if last := request.query.get("last", ""):
        names = [name for name in names if name > last]
    if not text or int(text) >= len(names):
        return names, headers
    count = int(text)
    if count:
        query = urlencode({"n": count, "last": names[count - 1]})
        headers["Link"] = f'<{request.path}?{query}>; rel="next"'
    return names[:count], headers


def _unknown(shelf: Shelf, reference: str) -> Refusal:
    if not shelf.exists:
        return Refusal(404, "NAME_UNKNOWN", "there is no such repository", shelf.name)
    return Refusal(404, "MANIFEST_UNKNOWN", "this repository has no such manifest", reference)


def _digest_of(data: bytes, reference: str) -> str:
    """The digest to keep a manifest under; Refusal when the reference is another."""
    algorithm = digests.algorithm(reference) if ":" in reference else "sha256"
    digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
    if ":" in reference and digest != reference:
        raise Refusal(400, "DIGEST_INVALID", "the manifest has another digest", {"found": digest})
    return digest


def _validated(data: bytes, declared: str, shelf: Shelf) -> tuple[Raw, str]:
    """The manifest, and its subject's digest or an empty string; Refusal names what is wrong."""
    try:
        raw = Raw.parse(data, declared)
        parts = raw.index.manifests if raw.is_index else (raw.manifest.config, *raw.manifest.layers)
        subject = _subject_of(raw)
        for part in parts:
            digests.parse(part.digest)
        if subject:
            digests.parse(subject)
    except ContentError as error:
        raise Refusal(400, "MANIFEST_INVALID", error.summary) from None
    if declared in media_types.ACCEPTED and declared != raw.media_type:
        raise Refusal(
            400, "MANIFEST_INVALID", "Content-Type and mediaType differ", [declared, raw.media_type]
        )
    for part in parts:
        _check_part(part, shelf, index=raw.is_index)
    return raw, subject


def _check_part(part: Descriptor, shelf: Shelf, *, index: bool) -> None:
    # Build caches are indexes whose entries are layers, so in an index both may stand for a part.
    if index and shelf.has_manifest(part.digest):
        return
    path = None if index and is_manifest(part) else shelf.blob(part.digest)
    if path is None:
        if is_foreign(part):
            return
        raise Refusal(
            404, "MANIFEST_BLOB_UNKNOWN", "a part of the manifest is not here", {"digest": part.digest}
        )
    if path.stat().st_size != part.size:
        raise Refusal(400, "SIZE_INVALID", "a part of the manifest has another size", {"digest": part.digest})


def _subject_of(raw: Raw) -> str:
    view = raw.index if raw.is_index else raw.manifest
    return view.subject.digest if view.subject else ""


def _referrer(raw: Raw, digest: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"mediaType": raw.media_type, "digest": digest, "size": len(raw.data)}
    if raw.is_index:
        kind, annotations = raw.index.artifact_type, raw.index.annotations
    else:
        kind = raw.manifest.artifact_type or raw.manifest.config.media_type
        annotations = raw.manifest.annotations
    if kind:
        entry["artifactType"] = kind
    if annotations:
        entry["annotations"] = annotations
    return entry
