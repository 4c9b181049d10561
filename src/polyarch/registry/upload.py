"""A blob on its way to a registry (distribution-spec, "Pushing blobs").

POST opens an upload, PUT sends the bytes and closes it. When a connection breaks the registry is asked how
much it has, the rest goes in PATCH requests; a server or proxy that takes no large bodies gets small ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from polyarch.content.verify import CHUNK, Verifier
from polyarch.errors import ContentError, RegistryError
from polyarch.oci.descriptor import Descriptor
from polyarch.registry import journal
from polyarch.registry.failures import Task
from polyarch.registry.transport import Call, Response, Transport, finish

_RANGE = re.compile(r"(?:bytes=)?(\d+)-(\d+)")
_SMALL_BODY = 32 << 20  # bytes a request, where larger ones are refused
_OCTETS = {"Content-Type": "application/octet-stream"}


@dataclass
class Uploader:
    """Sends blobs into one repository. ``sessions`` are uploads that were opened and not used yet, by digest.

    The methods raise RegistryError; ``upload-interrupted`` means that the same blob, read again from its
    beginning, can go on where it stopped.
    """

    transport: Transport
    repository: str
    scopes: frozenset[str]
    folder: Path | None
    sessions: dict[str, str]
    body_limit: int = 0  # bytes a request may carry, 0 for any number
    _disputed: set[str] = field(default_factory=set)

    def upload(self, source: BinaryIO, expected: Descriptor) -> None:
        """Send ``source``, which must be what ``expected`` says (ContentError, and nothing is kept)."""
        task = Task(
            f"pushing {expected.digest} to {self.transport.registry}/{self.repository}",
            self.transport.registry,
        )
        with journal.entry(
            self.folder, self.transport.registry, self.repository, expected.digest, expected.size
        ) as entry:
            offset = 0
            entry.location = entry.location or self.sessions.pop(expected.digest, "")
            if entry.location:
                offset = self._offset(task, entry, expected)
            if not entry.location:
                entry.record(self._begin(task))
            try:
                self._send(task, entry, _Body(source, expected), offset)
            except ContentError:
                self._abandon(task, entry)
                raise
            except RegistryError as error:
                self._interrupted(entry, expected, error)
            entry.forget()

    def _begin(self, task: Task) -> str:
        path = f"/v2/{self.repository}/blobs/uploads/"
        with self.transport.call(self._call(task, "POST", path), expect=(202,)) as response:
            return self._location(task, response)

    def _offset(self, task: Task, entry: journal.Entry, expected: Descriptor) -> int:
        """How many bytes the registry has of an upload that was begun; forgets one that it does not know."""
        try:
            with self.transport.call(self._call(task, "GET", entry.location), expect=(204,)) as response:
                found = _RANGE.fullmatch(response.headers.get("Range", "").strip())
                entry.record(self._location(task, response, entry.location))
                # "0-0" is what an empty upload says too; one byte is not worth resuming.
                offset = int(found[2]) + 1 if found and int(found[2]) else 0
        except (RegistryError, LookupError) as error:
            if getattr(error, "reason", "") in ("registry-down", "rate-limited", "unauthorized"):
                raise
            offset = expected.size + 1
        except Exception:
            offset = expected.size + 1
        if offset > expected.size:
            entry.location = ""
            return 0
        return offset

    def _send(self, task: Task, entry: journal.Entry, body: _Body, offset: int) -> None:
        body.skip(offset)
        size = body.size
        pieces = offset or (self.body_limit and size > self.body_limit)
        while pieces and offset < size:
            end = min(size, offset + (self.body_limit or size))
            headers = {
                **_OCTETS,
                "Content-Length": str(end - offset),
                "Content-Range": f"{offset}-{end - 1}",
            }
            call = self._call(task, "PATCH", entry.location, headers, body.take(end - offset))
            with self.transport.call(call, expect=(202,)) as response:
                entry.record(self._location(task, response, entry.location))
            offset = end
        location = entry.location + ("&" if urlsplit(entry.location).query else "?") + f"digest={body.digest}"
        headers = {**_OCTETS, "Content-Length": str(size - offset)}
        content = body.take(size - offset) if offset < size else b""
        body.finish_if_empty()
        with self.transport.call(
            self._call(task, "PUT", location, headers, content), expect=(201, 204)
        ) as done:
            found = done.headers.get("Docker-Content-Digest", body.digest)
            if found.startswith("sha256:") and body.digest.startswith("sha256:") and found != body.digest:
                raise RegistryError(
                    f"{task}: {self.transport.registry} says it stored {found}",
                    status=done.status,
                    reason="digest-mismatch",
                )

    def _interrupted(self, entry: journal.Entry, expected: Descriptor, error: RegistryError) -> None:
        """Decide what a failed upload means for the next attempt, and raise."""
        if error.status == 413 and not self.body_limit and expected.size > _SMALL_BODY:
            self.body_limit = _SMALL_BODY
            entry.forget()
        elif error.reason in ("registry-down", "registry-failed", "rate-limited"):
            self.sessions[expected.digest] = entry.location
        elif error.status == 416 and expected.digest not in self._disputed:
            # the registry was still busy with bytes of the connection that broke: ask it again
            self._disputed.add(expected.digest)
            self.sessions[expected.digest] = entry.location
        elif error.status in (400, 404, 416) and not _fresh(error):
            entry.forget()  # the registry lost the upload, or sees it otherwise: begin anew
        else:
            entry.forget()
            raise error
        raise RegistryError(
            error.summary,
            status=error.status,
            detail=error.detail,
            hint=error.hint,
            reason="upload-interrupted",
        ) from error

    def _abandon(self, task: Task, entry: journal.Entry) -> None:
        """Tell the registry to throw away what it has; its own clean-up does so otherwise."""
        location = entry.location
        entry.forget()
        try:
            finish(self.transport.send(self._call(task, "DELETE", location)))
        except RegistryError:
            pass  # the reason to abandon is what the user needs to know

    def _call(
        self,
        task: Task,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: Iterator[bytes] | bytes | None = None,
    ) -> Call:
        return Call(
            task,
            method,
            path,
            headers or ({"Content-Length": "0"} if method == "POST" else {}),
            body,
            self.scopes,
            self.repository,
            repeatable=body is None or isinstance(body, bytes),
        )

    def _location(self, task: Task, response: Response, otherwise: str = "") -> str:
        location = response.headers.get("Location") or otherwise
        if not location:
            raise RegistryError(
                f"{task}: {self.transport.registry} opened an upload without saying where",
                status=response.status,
                reason="bad-response",
            )
        return self.transport.absolute(location)


class _Body:
    """The bytes of a blob, verified while they are handed to the connection."""

    def __init__(self, source: BinaryIO, expected: Descriptor) -> None:
        self._source = source
        self._verifier = Verifier(expected, "the source", source=source)
        self.digest = expected.digest
        self.size = expected.size

    def skip(self, count: int) -> None:
        """Read past what the registry has already."""
        for _ in self.take(count):
            pass

    def take(self, count: int) -> Iterator[bytes]:
        """The next ``count`` bytes; ContentError before the last of all when they are not as promised."""
        while count:
            chunk = self._source.read(min(CHUNK, count))
            if not chunk:
                self._verifier.finish()
                return
            self._verifier.update(chunk)
            if not self._verifier.remaining and self._source.read(1):
                self._verifier.update(b"\0")  # there is more than there should be
            count -= len(chunk)
            yield chunk

    def finish_if_empty(self) -> None:
        if not self.size:
            if self._source.read(1):
                self._verifier.update(b"\0")
            self._verifier.finish()


def _fresh(error: RegistryError) -> bool:
    return "DIGEST_INVALID" in error.detail or "NAME_" in error.detail
