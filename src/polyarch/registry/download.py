"""A blob on its way from a registry: a stream that picks up where a broken connection left it."""

from __future__ import annotations

import io
import re
import time
from typing import BinaryIO, cast

from polyarch.content.verify import verified
from polyarch.errors import ContentError, RegistryError
from polyarch.oci.descriptor import Descriptor
from polyarch.registry.failures import unreachable
from polyarch.registry.transport import BROKEN, Call, Response, Transport

_ATTEMPTS = 5  # in a row without a single byte
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def open_blob(transport: Transport, call: Call, wanted: Descriptor, *, backoff: float) -> BinaryIO:
    """The verified content of ``wanted``; NotFoundError or RegistryError now when it cannot be had."""
    stream = _Resuming(transport, call, wanted, backoff)
    stream.connect()
    return verified(cast(BinaryIO, stream), wanted, where=transport.registry)


class _Resuming(io.RawIOBase):
    def __init__(self, transport: Transport, call: Call, wanted: Descriptor, backoff: float) -> None:
        super().__init__()
        self._transport = transport
        self._call = call
        self._wanted = wanted
        self._backoff = backoff
        self._position = 0
        self._response: Response | None = None

    def readable(self) -> bool:
        return True

    def connect(self) -> None:
        """Ask for what is still missing."""
        headers = {**self._call.headers, "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        call = Call(self._call.task, "GET", self._call.path, headers, None, self._call.scopes,
                    self._call.repository)  # fmt: skip
        response = self._transport.send(call)
        if response.status == 206 and self._position:
            found = _RANGE.match(response.headers.get("Content-Range", ""))
            if not found or int(found[1]) != self._position:
                response.close()
                raise RegistryError(
                    f"{self._call.task}: {self._transport.registry} sent another part than asked for",
                    status=206,
                    reason="bad-range",
                )
        elif response.status == 200:
            self._skip(response, self._position)
        else:
            error = self._transport.refusal(self._call.task, response)
            response.close()
            raise error
        self._check_length(response)
        self._response = response

    def _check_length(self, response: Response) -> None:
        """What is known to be too short or too long need not be read."""
        promised = response.headers.get("Content-Length", "")
        left = self._wanted.size - self._position if response.status == 206 else self._wanted.size
        if promised.isdigit() and int(promised) != left:
            response.close()
            raise ContentError(
                f"{self._call.task}: {self._transport.registry} has {promised} bytes of it, not {left}",
                reason="truncated" if int(promised) < left else "size-mismatch",
            )

    def _skip(self, response: Response, count: int) -> None:
        """A server that knows no ranges starts over: throw away what was read already."""
        while count:
            chunk = response.read(min(count, 1 << 20))
            if not chunk:
                break  # the verifier will see that it is too short
            count -= len(chunk)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        failures = 0
        while True:
            try:
                if self._response is None:
                    self.connect()
                assert self._response is not None
                chunk = self._response.read(size)
                if not chunk and self._position < self._wanted.size and failures < _ATTEMPTS:
                    raise EOFError  # ended early without an error: no Content-Length, or a lying proxy
                self._position += len(chunk)
                return chunk
            except (*BROKEN, EOFError) as error:
                failures += 1
                self._drop()
                if failures > _ATTEMPTS:
                    if isinstance(error, EOFError):
                        return b""
                    raise unreachable(self._call.task, error) from error
                time.sleep(self._backoff * failures)

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def close(self) -> None:
        self._drop()
        super().close()
