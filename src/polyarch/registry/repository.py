"""One repository of a registry as a Store (distribution-spec v1.1, client side)."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from dataclasses import replace
from typing import BinaryIO
from urllib.parse import quote, urlencode, urljoin, urlsplit

from polyarch.content import naming
from polyarch.content.verify import pump, verified
from polyarch.content.walk import is_manifest
from polyarch.errors import ContentError, NotFoundError, RegistryError, UsageError
from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES, Raw
from polyarch.oci.reference import Reference
from polyarch.registry.auth import scope
from polyarch.registry.config import Config
from polyarch.registry.credentials import Credential
from polyarch.registry.download import open_blob
from polyarch.registry.failures import Task
from polyarch.registry.transport import Call, Response, Transport, finish
from polyarch.registry.upload import Uploader

_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_LINK = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')
_MAX_PAGES = 1000
_REMEMBERED = 64  # manifests kept so that tagging needs no download
_ATTEMPTS = 4


class Repository:
    """A store in a registry. ``registry`` is as in references (``docker.io``), ``name`` the repository.

    References given to ``resolve`` and ``tag`` are full ones of this repository, bare tags, or digests. Safe
    to share between threads.
    """

    def __init__(self, transport: Transport, reference: Reference, config: Config) -> None:
        self.registry = reference.registry
        self.name = reference.repository
        self._transport = transport
        self._config = config
        self._lock = threading.Lock()
        self._manifests: dict[str, tuple[bytes, str]] = {}
        self._pull = frozenset({scope(self.name, "pull")})
        self._push = frozenset({scope(self.name, "pull", "push")})
        self._uploader = Uploader(transport, self.name, self._push, config.uploads, {})

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}"

    # --- the Store protocol ---------------------------------------------------------------------------------

    def exists(self, digest: str) -> bool:
        digests.parse(digest)
        if digest in self._manifests:
            return True
        return self._head("blobs", digest) or self._head("manifests", digest)

    def open(self, wanted: Descriptor) -> BinaryIO:
        digests.parse(wanted.digest)
        task = self._task(f"pulling {wanted.digest} from {self}")
        if is_manifest(wanted):
            if wanted.size > MAX_BYTES:
                raise ContentError(f"{task}: a manifest of {wanted.size} bytes", reason="manifest-too-large")
            data, _ = self._fetch_manifest(task, wanted.digest)
            return verified(io.BytesIO(data), wanted, where=self.registry)
        call = self._call(task, "GET", f"blobs/{wanted.digest}")
        return open_blob(self._transport, call, wanted, backoff=self._config.backoff)

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        if is_manifest(expected):
            self._push_manifest(source, expected)
        elif not self._head("blobs", digests.parse(expected.digest)):
            self.send(source, expected)

    def resolve(self, reference: str) -> Descriptor:
        target = self._target(reference)
        task = self._task(f"resolving {self}{'@' if ':' in target else ':'}{target}")
        call = self._call(task, "HEAD", f"manifests/{target}", _ACCEPT)
        response = self._transport.send(call)
        finish(response)
        if response.status == 200 and (found := _described(response, target)):
            return found
        data, media_type = self._fetch_manifest(task, target)
        raw = Raw.parse(data, media_type)
        digest = target if ":" in target else raw.digest
        return Descriptor(media_type=raw.media_type, digest=digest, size=len(data))

    def tag(self, reference: str, target: Descriptor) -> None:
        name = self._target(reference)
        task = self._task(f"tagging {target.digest} as {self}:{name}")
        if ":" in name:
            raise UsageError(f"{reference!r} is a digest, not a tag", reason="invalid-reference")
        data, media_type = self._fetch_manifest(task, target.digest)
        self._put_manifest(task, name, data, media_type, target.digest)

    # --- more than the protocol -----------------------------------------------------------------------------

    def holds(self, descriptor: Descriptor) -> bool:
        """``exists`` in one request, because the media type says where to look."""
        if descriptor.digest in self._manifests:
            return True
        return self._head("manifests" if is_manifest(descriptor) else "blobs", descriptor.digest)

    def manifest(self, reference: str) -> tuple[Descriptor, Raw]:
        """What ``reference`` names, with its bytes, in one request."""
        target = self._target(reference)
        task = self._task(f"resolving {self}{'@' if ':' in target else ':'}{target}")
        data, media_type = self._fetch_manifest(task, target)
        raw = Raw.parse(data, media_type)
        digest = target if ":" in target else raw.digest
        self._remember(digest, data, raw.media_type)
        return Descriptor(media_type=raw.media_type, digest=digest, size=len(data)), raw

    def credential(self) -> Credential | None:
        """What this repository is pushed to with; None for nobody's name."""
        return self._transport.credential(self.name)

    def check_push(self) -> None:
        """Raise RegistryError where pushing is not allowed: an upload is opened and cancelled again."""
        task = self._task(f"asking whether {self} may be pushed to")
        call = self._call(task, "POST", "blobs/uploads/", {"Content-Length": "0"}, push=True)
        with self._transport.call(call, expect=(202,)) as response:
            location = response.headers.get("Location", "")
        if location:
            where = self._transport.absolute(location)
            try:
                finish(self._transport.send(Call(task, "DELETE", where, {}, None, self._push, self.name)))
            except RegistryError:
                pass  # registries throw forgotten uploads away by themselves

    def send(self, source: BinaryIO, expected: Descriptor) -> None:
        """``push`` a blob that is known not to be there: it is not looked for once more."""
        start = source.tell() if source.seekable() else None
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._uploader.upload(source, expected)
                return
            except RegistryError as error:
                if error.reason != "upload-interrupted" or start is None or attempt == _ATTEMPTS:
                    raise
            source.seek(start)
            time.sleep(self._config.backoff * 2 ** (attempt - 1))

    def mount(self, descriptor: Descriptor, from_repository: str) -> bool:
        """Take a blob over from another repository of this registry; whether that worked. When it did not,
        the upload the registry opened instead is used by the next push of this blob."""
        task = self._task(f"mounting {descriptor.digest} from {from_repository} into {self}")
        query = urlencode({"mount": descriptor.digest, "from": from_repository})
        call = self._call(task, "POST", f"blobs/uploads/?{query}", {"Content-Length": "0"}, push=True)
        scopes = call.scopes | {scope(from_repository, "pull")}
        try:
            with self._transport.call(replace(call, scopes=scopes), expect=(201, 202)) as response:
                if response.status == 201:
                    return True
                if location := response.headers.get("Location"):
                    self._uploader.sessions[descriptor.digest] = self._transport.absolute(location)
        except (RegistryError, NotFoundError) as error:
            if error.reason in ("registry-down", "tls"):
                raise
        return False

    def delete(self, digest: str) -> bool:
        """Remove a manifest or, where there is none of this digest, a blob; whether it was there.
        RegistryError when the registry does not allow deleting."""
        digests.parse(digest)
        task = self._task(f"deleting {digest} from {self}")
        self._manifests.pop(digest, None)
        for kind in ("manifests", "blobs"):
            call = self._call(task, "DELETE", f"{kind}/{digest}", delete=True)
            try:
                with self._transport.call(call, expect=(200, 202, 204)):
                    return True
            except NotFoundError:
                continue
        return False

    def tags(self) -> list[str]:
        """Every tag, as the registry sorts them. NotFoundError when it does not know the repository."""
        call = self._call(self._task(f"listing the tags of {self}"), "GET", "tags/list?n=1000")
        return paginate(self._transport, call, "tags")

    def referrers(self, digest: str, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """The manifests whose subject is ``digest`` (distribution-spec, "Listing Referrers"), through the
        referrers tag where the registry lacks the endpoint."""
        task = self._task(f"listing what refers to {digest} in {self}")
        query = "?" + urlencode({"artifactType": artifact_type}) if artifact_type else ""
        try:
            call = self._call(task, "GET", f"referrers/{digests.parse(digest)}{query}")
            with self._transport.call(call, expect=(200,)) as response:
                found = Raw.parse(_read_limited(response, task), media_types.OCI_INDEX).index.manifests
        except NotFoundError:
            try:
                data, media_type = self._fetch_manifest(task, digest.replace(":", "-"))
            except NotFoundError:
                return ()
            found = Raw.parse(data, media_type).index.manifests
        return tuple(d for d in found if not artifact_type or d.artifact_type == artifact_type)

    # --- inside ---------------------------------------------------------------------------------------------

    def _task(self, operation: str) -> Task:
        return Task(operation, self.registry)

    def _call(
        self,
        task: Task,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        *,
        push: bool = False,
        delete: bool = False,
    ) -> Call:
        scopes = self._push if push else self._pull
        if delete:
            scopes = frozenset({scope(self.name, "delete", "pull", "push")})
        return Call(task, method, f"/v2/{self.name}/{path}", headers or {}, body, scopes, self.name)

    def _target(self, reference: str) -> str:
        """The tag or digest that ``reference`` means in this repository."""
        if digest := naming.digest_of(reference):
            return digest
        if _TAG.fullmatch(reference):
            return reference
        parsed = Reference.parse(reference)
        if (parsed.registry, parsed.repository) != (self.registry, self.name):
            raise UsageError(f"{reference} is not in the repository {self}", reason="invalid-reference")
        return parsed.digest or parsed.tag

    def _head(self, kind: str, digest: str) -> bool:
        task = self._task(f"looking for {digest} in {self}")
        headers = _ACCEPT if kind == "manifests" else {}
        try:
            with self._transport.call(self._call(task, "HEAD", f"{kind}/{digest}", headers), expect=(200,)):
                return True
        except NotFoundError:
            return False

    def _fetch_manifest(self, task: Task, target: str) -> tuple[bytes, str]:
        """The bytes and media type of a manifest, verified where ``target`` is a digest."""
        if known := self._manifests.get(target):
            return known
        call = self._call(task, "GET", f"manifests/{quote(target, safe=':')}", _ACCEPT)
        with self._transport.call(call, expect=(200,)) as response:
            data = _read_limited(response, task)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
            promised = response.headers.get("Docker-Content-Digest", "")
        for digest in {target if ":" in target else "", promised if digests.is_valid(promised) else ""} - {
            ""
        }:
            wanted = Descriptor(media_type=media_type, digest=digest, size=len(data))
            pump(io.BytesIO(data), wanted, lambda _chunk: None, where=self.registry)
        if ":" in target:
            self._remember(target, data, media_type)
        return data, media_type

    def _push_manifest(self, source: BinaryIO, expected: Descriptor) -> None:
        task = self._task(f"pushing manifest {expected.digest} to {self}")
        if expected.size > MAX_BYTES:
            raise ContentError(f"{task}: it has {expected.size} bytes", reason="manifest-too-large")
        data = bytearray()
        pump(source, expected, data.extend)
        self._put_manifest(task, expected.digest, bytes(data), expected.media_type, expected.digest)

    def _put_manifest(self, task: Task, target: str, data: bytes, media_type: str, digest: str) -> None:
        headers = {"Content-Type": media_type, "Content-Length": str(len(data))}
        call = self._call(task, "PUT", f"manifests/{target}", headers, data, push=True)
        with self._transport.call(call, expect=(200, 201, 202)) as response:
            stored = response.headers.get("Docker-Content-Digest", digest)
        if stored != digest and digests.algorithm(stored) == digests.algorithm(digest):
            raise RegistryError(
                f"{task}: {self.registry} stored something else, {stored[:100]}", reason="digest-mismatch"
            )
        self._remember(digest, data, media_type)

    def _remember(self, digest: str, data: bytes, media_type: str) -> None:
        with self._lock:
            while len(self._manifests) >= _REMEMBERED:
                self._manifests.pop(next(iter(self._manifests)))
            self._manifests[digest] = (data, media_type)


_ACCEPT = {"Accept": ", ".join(media_types.ACCEPTED)}


def _described(response: Response, target: str) -> Descriptor | None:
    """What a HEAD says, where it says enough; its digest is believed only until the content is read."""
    media_type = response.headers.get("Content-Type", "").partition(";")[0].strip()
    digest = response.headers.get("Docker-Content-Digest", target)
    length = response.headers.get("Content-Length", "")
    if media_type not in media_types.ACCEPTED or not digests.is_valid(digest) or not length.isdigit():
        return None
    if (":" in target and digest != target) or not 0 < int(length) <= MAX_BYTES:
        return None
    return Descriptor(media_type=media_type, digest=digest, size=int(length))


def _read_limited(response: Response, task: Task) -> bytes:
    data = response.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        response.close()
        raise ContentError(f"{task}: it has more than {MAX_BYTES} bytes", reason="manifest-too-large")
    return data


def paginate(transport: Transport, call: Call, key: str) -> list[str]:
    """All pages of a list of names; pages on other hosts, and endless ones, are not followed."""
    names: list[str] = []
    for _ in range(_MAX_PAGES):
        with transport.call(call, expect=(200,)) as response:
            data = _read_limited(response, call.task)
            link = _LINK.search(response.headers.get("Link", ""))
        try:
            names += [str(name) for name in json.loads(data).get(key) or []]
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise RegistryError(f"{call.task}: the answer makes no sense", reason="bad-response") from None
        if not link:
            break
        target = urlsplit(urljoin(f"http://here{call.path}", link[1]))
        call = replace(call, path=f"{target.path}?{target.query}")
    return names
