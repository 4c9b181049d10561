"""One HTTP exchange in ASGI's terms: the request, its body in large pieces, the response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from polyarch.registry.server.refusal import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BLOCK = 1 << 20  # bytes handed to a worker thread at once
_IDLE = 120.0  # seconds without a byte after which a sender counts as gone


class Disconnected(Exception):
    """The client went away before its request was whole."""


@dataclass
class Request:
    """A request. ``query`` keeps the first of repeated parameters; header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    receive: Receive

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Request:
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        query: dict[str, str] = {}
        try:
            for name, value in parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True):
                query.setdefault(name, value)
        except ValueError:
            raise Refusal(400, "UNSUPPORTED", "the query makes no sense") from None
        return cls(scope["method"], scope["path"], query, headers, receive)

    @property
    def length(self) -> int | None:
        """Content-Length in bytes, where given."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    async def blocks(self) -> AsyncIterator[list[bytes]]:
        """The body, as lists of chunks of about one BLOCK together. Disconnected when it ends too early."""
        chunks: list[bytes] = []
        collected = 0
        while True:
            try:
                message = await asyncio.wait_for(self.receive(), _IDLE)
            except TimeoutError:
                message = {"type": "http.disconnect"}
            if message["type"] == "http.disconnect":
                if chunks:
                    yield chunks
                raise Disconnected
            if chunk := message.get("body", b""):
                chunks.append(chunk)
                collected += len(chunk)
            more = message.get("more_body", False)
            if collected >= BLOCK or (chunks and not more):
                yield chunks
                chunks, collected = [], 0
            if not more:
                return

    async def whole(self, limit: int) -> bytes:
        """The body, of at most ``limit`` bytes; Refusal when it is larger."""
        data = bytearray()
        async for chunks in self.blocks():
            data += b"".join(chunks)
            if len(data) > limit:
                raise Refusal(413, "SIZE_INVALID", f"a manifest may have {limit} bytes at most")
        return bytes(data)


@dataclass
class Response:
    """An answer: ``body``, or a part of the file ``path``. A HEAD request gets the headers only."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    path: Path | None = None
    offset: int = 0
    length: int = 0

    @classmethod
    def refusing(cls, refusal: Refusal) -> Response:
        headers = {"Content-Type": "application/json", **refusal.headers}
        return cls(refusal.status, headers, refusal.body())

    async def send(self, send: Send, *, head: bool) -> None:
        size = self.length if self.path else len(self.body)
        headers = {"Docker-Distribution-API-Version": "registry/2.0", **self.headers}
        if self.status != 304 and "Content-Length" not in headers and self.status != 204:
            headers["Content-Length"] = str(size)
        start = {
            "type": "http.response.start",
            "status": self.status,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        }
        if self.path is None or head:
            await send(start)
            await send({"type": "http.response.body", "body": b"" if head else self.body})
            return
        await self._send_file(send, start)

    async def _send_file(self, send: Send, start: Message) -> None:
        """Stream the file, reading the next piece while the last one is on its way."""
        assert self.path is not None
        loop = asyncio.get_running_loop()
        with self.path.open("rb", buffering=0) as file:
            await send(start)
            file.seek(self.offset)
            left = self.length
            following = loop.run_in_executor(None, file.read, min(BLOCK, left))
            while left > 0:
                chunk = await following
                if not chunk:
                    raise OSError("a blob became shorter while it was sent")  # cuts the connection
                left -= len(chunk)
                if left > 0:
                    following = loop.run_in_executor(None, file.read, min(BLOCK, left))
                try:
                    await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})
                except BaseException:
                    if left > 0:
                        await asyncio.wait([following])  # the file must not be closed under it
                    raise
            if not self.length:
                await send({"type": "http.response.body", "body": b""})
