"""Blobs of the Actions cache: up as Azure block blobs, down with ranges, by URLs that are signed for a while.

Small ones are put whole; large ones in blocks that can each be sent again, and a list of them at the end
(Put Blob, Put Block, Put Block List of Azure's Blob service).
"""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Callable
from typing import BinaryIO, cast

from polyarch.content.verify import Verifier, verified
from polyarch.errors import ContentError, NotFoundError, RegistryError
from polyarch.oci.descriptor import Descriptor
from polyarch.registry.actions_service import CacheService, Patience
from polyarch.registry.failures import Task, unreachable
from polyarch.registry.transport import BROKEN, Call, Response

BLOCK = 8 << 20  # bytes of a block; what is smaller is put at once
_ATTEMPTS = 5  # in a row without a single byte
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def upload(
    service: CacheService, url: str, source: BinaryIO, expected: Descriptor, patience: Patience, task: Task
) -> None:
    """Send what ``source`` yields; ContentError where that is not ``expected``, before it is whole there."""
    verifier = Verifier(expected, source=source)
    first = _block(source, verifier)
    if expected.size <= BLOCK:
        _verify_end(source, verifier)
        _put(service, url, first, {"x-ms-blob-type": "BlockBlob"}, patience, task)
        return
    names: list[str] = []
    block = first
    while block:
        names.append(base64.b64encode(f"{len(names):08}".encode()).decode())
        _put(service, f"{url}{_joint(url)}comp=block&blockid={names[-1]}", block, {}, patience, task)
        block = _block(source, verifier)
    verifier.finish()
    listed = "".join(f"<Latest>{name}</Latest>" for name in names)
    body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
    _put(service, f"{url}{_joint(url)}comp=blocklist", body, {"Content-Type": "text/xml"}, patience, task)


def _joint(url: str) -> str:
    return "&" if "?" in url else "?"


def _block(source: BinaryIO, verifier: Verifier) -> bytes:
    """The next piece, checked as far as it goes."""
    pieces = bytearray()
    while len(pieces) < BLOCK:
        chunk = source.read(min(BLOCK - len(pieces), verifier.remaining + 1))
        if not chunk:
            break
        verifier.update(chunk)
        pieces += chunk
    return bytes(pieces)


def _verify_end(source: BinaryIO, verifier: Verifier) -> None:
    if not verifier.remaining and source.read(1):
        verifier.update(b"x")  # more than was promised
    verifier.finish()


def _put(
    service: CacheService, url: str, data: bytes, headers: dict[str, str], patience: Patience, task: Task
) -> None:
    patience.check(task)
    call = Call(task, "PUT", url, {"Content-Length": str(len(data)), **headers}, data)
    with service.web.call(call, expect=(200, 201)):
        return


def open_blob(
    service: CacheService, sign: Callable[[], str], wanted: Descriptor, task: Task, *, backoff: float
) -> BinaryIO:
    """The verified content of ``wanted``; ``sign`` gives a fresh URL for it. NotFoundError now when it was
    evicted."""
    stream = _Stream(service, sign, wanted, task, backoff)
    stream.connect()
    return verified(cast(BinaryIO, stream), wanted, where="the Actions cache")


class _Stream(io.RawIOBase):
    """Picks up where a connection broke, with a new URL where the old one has run out."""

    def __init__(
        self, service: CacheService, sign: Callable[[], str], wanted: Descriptor, task: Task, backoff: float
    ) -> None:
        super().__init__()
        self._service = service
        self._sign = sign
        self._url = sign()
        self._wanted = wanted
        self._task = task
        self._backoff = backoff
        self._position = 0
        self._patience = Patience(service.access.timeout)
        self._response: Response | None = None

    def readable(self) -> bool:
        return True

    def connect(self) -> None:
        """Ask for what is still missing."""
        response = self._get()
        if response.status in (401, 403):  # the signature has run out
            response.close()
            self._url = self._sign()
            response = self._get()
        if response.status not in (200, 206):
            error = self._service.web.refusal(self._task, response)
            response.close()
            raise error
        found = _RANGE.match(response.headers.get("Content-Range", ""))
        start = int(found[1]) if found and response.status == 206 else 0
        if start > self._position:
            response.close()
            raise RegistryError(f"{self._task}: it sent another part than asked for", reason="bad-range")
        self._check_length(response, start)
        _skip(response, self._position - start)
        self._response = response

    def _get(self) -> Response:
        headers = {"Accept-Encoding": "identity", "x-ms-range": f"bytes={self._position}-"}
        headers["Range"] = headers["x-ms-range"]
        if not self._position:
            del headers["Range"], headers["x-ms-range"]
        return self._service.web.send(Call(self._task, "GET", self._url, headers))

    def _check_length(self, response: Response, start: int) -> None:
        """What is known to be too short or too long need not be read."""
        promised = response.headers.get("Content-Length", "")
        left = self._wanted.size - start
        if promised.isdigit() and int(promised) != left:
            response.close()
            raise ContentError(
                f"{self._task}: there are {int(promised) + start} bytes of it, not {self._wanted.size}",
                reason="truncated" if int(promised) < left else "size-mismatch",
            )

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        failures = 0
        while True:
            self._patience.check(self._task)
            try:
                if self._response is None:
                    self.connect()
                assert self._response is not None
                chunk = self._response.read(size)
                if not chunk and self._position < self._wanted.size and failures < _ATTEMPTS:
                    raise EOFError
                self._position += len(chunk)
                return chunk
            except (*BROKEN, EOFError) as error:
                failures += 1
                self._drop()
                if failures > _ATTEMPTS:
                    if isinstance(error, EOFError):
                        return b""
                    raise unreachable(self._task, error) from error
                time.sleep(self._backoff * failures)

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def close(self) -> None:
        self._drop()
        super().close()


def _skip(response: Response, count: int) -> None:
    """A server that knows no ranges starts over: throw away what was read already."""
    while count > 0:
        chunk = response.read(min(count, 1 << 20))
        if not chunk:
            return  # the verifier will see that it is too short
        count -= len(chunk)


def download(service: CacheService, url: str, limit: int, task: Task) -> bytes:
    """A small entry, whole; NotFoundError when it was evicted, ContentError when it is longer than
    ``limit``. Nothing says what it should be: whoever asks has to look."""
    patience = Patience(service.access.timeout)
    for attempt in range(1, _ATTEMPTS + 1):
        patience.check(task)
        response = service.web.send(Call(task, "GET", url, {"Accept-Encoding": "identity"}))
        try:
            if response.status != 200:
                raise service.web.refusal(task, response)
            data = response.read(limit + 1)
            promised = response.headers.get("Content-Length", "")
            if len(data) > limit:
                raise ContentError(f"{task}: it is larger than {limit} bytes", reason="too-large")
            if promised.isdigit() and len(data) < int(promised):
                raise EOFError
            return data
        except (*BROKEN, EOFError) as error:
            if attempt == _ATTEMPTS:
                raise unreachable(task, error) from error
            time.sleep(service.web.backoff * attempt)
        finally:
            response.close()
    raise NotFoundError(f"{task}: not found", reason="not-found")
