"""What the client offers to the daemon while a build runs: a gRPC server at the far end of one stream."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from polyarch.builder.buildkit import rpc
from polyarch.builder.buildkit.bridge import PrivateFolder, join
from polyarch.builder.buildkit.daemon import Daemon
from polyarch.builder.buildkit.streams import Stream, connect_unix

_PREFIX = "X-Docker-Expose-Session-"


@dataclass(frozen=True)
class Offer:
    """One service with the methods that are offered of it."""

    service: ServiceDescriptor
    methods: Mapping[str, rpc.Handler]


class Threads(Executor):
    """A thread for each call, none of which keeps the process from ending."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(call(*args, **options))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True, name="session").start()
        return future


class Session:
    """A session, open from its making to ``close``. ``id`` is what a request to solve names it by.

    The daemon asks every few seconds whether the client lives; ``silence`` tells for how many seconds it has
    not, and so whether it lives itself.
    """

    def __init__(self, daemon: Daemon, offers: Iterable[Offer], *, shared_key: str = "") -> None:
        self.id = uuid.uuid4().hex
        self._folder = PrivateFolder()
        self._asked = time.monotonic()
        self.ended = threading.Event()
        offers = list(offers)
        socket = self._folder.path / "socket"
        self._server = grpc.server(Threads(), options=rpc.UNLIMITED)
        self._server.add_generic_rpc_handlers(
            (
                rpc.HealthHandler(self._was_asked),
                *(rpc.handlers(offer.service, offer.methods) for offer in offers),
            )
        )
        self._server.add_insecure_port(f"unix:{socket}")
        self._server.start()
        methods = [path for offer in offers for path in rpc.paths(offer.service, offer.methods)]
        try:
            self._far = daemon.open_session(
                [
                    (f"{_PREFIX}Uuid", self.id),
                    (f"{_PREFIX}Name", "polyarch"),
                    (f"{_PREFIX}Sharedkey", shared_key),
                    *((f"{_PREFIX}Grpc-Method", method) for method in methods),
                ]
            )
            self._thread = threading.Thread(target=self._run, args=(socket, self._far), daemon=True)
            self._thread.start()
        except BaseException:
            self._stop()
            raise

    @property
    def silence(self) -> float:
        """Seconds since the daemon asked last."""
        return time.monotonic() - self._asked

    def close(self) -> None:
        """End the session; whatever the daemon still reads from it fails."""
        self._far.close()
        self._thread.join(5)
        self._stop()

    def _stop(self) -> None:
        self._server.stop(0)
        self._folder.close()

    def _run(self, socket: Path, far: Stream) -> None:
        try:
            join(connect_unix(socket), far)
        finally:
            self.ended.set()

    def _was_asked(self) -> None:
        self._asked = time.monotonic()
