"""A registry that fails on command: our own server behind an application that breaks what it is told to, and
a proxy that cuts connections in the middle."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polyarch.registry.server import serve_in_thread
from polyarch.registry.server.exchange import App, Message, Receive, Scope, Send


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose method and path match.

    ``status`` answers at once with that status, ``headers`` and ``body``; otherwise the registry answers and
    its body is passed through ``change``, which may also shorten it; ``cut`` breaks the connection after that
    many bytes of the body.
    """

    method: str = ".*"
    path: str = ".*"
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    change: Callable[[bytes], bytes] | None = None
    cut: int = -1
    changed_headers: Mapping[str, str] = field(default_factory=dict)

    def matches(self, scope: Scope) -> bool:
        return bool(
            self.times and re.fullmatch(self.method, scope["method"]) and re.search(self.path, scope["path"])
        )


class Cut(Exception):
    """Makes the server drop the connection."""


@dataclass
class Faults:
    """The faults to come, and every request that came: method, path, and headers by lower-case name."""

    planned: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def wrap(self, app: App) -> App:
        """``app`` with these faults."""

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
            self.requests.append((scope["method"], scope["path"], headers))
            fault = next((fault for fault in self.planned if fault.matches(scope)), None)
            if fault is None:
                await app(scope, receive, send)
                return
            fault.times -= 1
            if fault.status:
                await _answer(fault, send)
            else:
                await app(scope, receive, _breaking(fault, send))

        return faulty

    def seen(self, method: str, path: str) -> int:
        """How many requests with this method had a path that contains ``path``."""
        return sum(1 for m, p, _ in self.requests if m == method and path in p)


async def _answer(fault: Fault, send: Send) -> None:
    headers = {"Content-Length": str(len(fault.body)), **fault.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": raw})
    await send({"type": "http.response.body", "body": fault.body})


def _breaking(fault: Fault, send: Send) -> Send:
    left = fault.cut

    async def broken(message: Message) -> None:
        nonlocal left
        if message["type"] == "http.response.start" and fault.changed_headers:
            lowered = {name.lower().encode() for name in fault.changed_headers}
            kept = [(name, value) for name, value in message["headers"] if name.lower() not in lowered]
            extra = [(name.encode(), value.encode()) for name, value in fault.changed_headers.items()]
            message = {**message, "headers": kept + extra}
        if message["type"] == "http.response.body":
            body = message.get("body", b"")
            if fault.change:
                body = fault.change(body)
            if left >= 0:
                if len(body) >= left:
                    await send({**message, "body": body[:left], "more_body": True})
                    raise Cut
                left -= len(body)
            message = {**message, "body": body}
        await send(message)

    return broken


@contextlib.contextmanager
def faulty_registry(root: Path, faults: Faults) -> Iterator[str]:
    """Our server in ``root`` with ``faults``; gives its ``host:port``."""
    import logging

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the faults are meant
    with serve_in_thread(root, wrap=faults.wrap) as host:
        yield host


class CuttingProxy:
    """Passes connections on to ``target`` (``host:port``) and resets the first ``cuts`` of them that carry
    more than ``after`` bytes from the client, as a network that breaks during an upload does."""

    def __init__(self, target: str, *, after: int, cuts: int = 1) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._after = after
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.was_cut = 0

    def __enter__(self) -> CuttingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            back = threading.Thread(target=_pipe, args=(server, client), daemon=True)
            back.start()
            passed = 0
            with contextlib.suppress(OSError):
                while chunk := client.recv(1 << 16):
                    server.sendall(chunk)
                    passed += len(chunk)
                    if passed > self._after and self.was_cut < self._cuts:
                        self.was_cut += 1
                        for end in (client, server):
                            end.shutdown(socket.SHUT_RDWR)
                        return
                server.shutdown(socket.SHUT_WR)
                back.join()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
