"""Running the registry: as a program until a signal, or in a thread beside other code."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from polyarch.errors import PolyarchError, UsageError
from polyarch.oci.platform import Platform
from polyarch.registry.server.app import create_app
from polyarch.registry.server.exchange import App
from polyarch.registry.server.storage import Storage
from polyarch.registry.server.uploads import expire

DEFAULT_PLATFORM = Platform(os="linux", architecture="amd64")
Wrap = Callable[[App], App]


def serve(
    root: Path, listen: str, *, default_platform: Platform = DEFAULT_PLATFORM, ready: Callable[[str], None]
) -> None:
    """Serve the registry in ``root`` on ``listen`` (``host:port``, port 0 for any) until SIGINT or SIGTERM.

    ``ready`` is called with the address when connections are taken. PolyarchError (``address-in-use`` and
    others) when the address cannot be had. A second signal stops at once.
    """
    with contextlib.closing(bind(listen)) as listener:
        server = _Server(_config(root, default_platform, None), lambda: ready(_address(listener)))

        def stop(_signal: int, _frame: object) -> None:
            server.force_exit = server.should_exit
            server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        _run(server, listener)


@contextlib.contextmanager
def serve_in_thread(
    root: Path, *, port: int = 0, default_platform: Platform = DEFAULT_PLATFORM, wrap: Wrap | None = None
) -> Iterator[str]:
    """Serve the registry in ``root`` on loopback while the block lasts; gives ``host:port`` as in references.

    ``wrap`` puts another ASGI application around it, as tests do to break things.
    """
    listener = bind(f"127.0.0.1:{port}")
    started = threading.Event()
    server = _Server(_config(root, default_platform, wrap), started.set)
    thread = threading.Thread(target=_run, args=(server, listener), name="registry", daemon=True)
    thread.start()
    try:
        while not started.wait(0.05):
            if not thread.is_alive():
                raise PolyarchError("the registry did not start", reason="server-failed")
        yield _address(listener)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def bind(listen: str) -> socket.socket:
    """A listening socket for ``host:port``; errors say what is wrong with it."""
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(
            f"{listen!r} is no address to listen on",
            hint="write host:port, such as 127.0.0.1:5000, or port 0 for any free one",
            reason="invalid-address",
        )
    host = host.strip("[]") or "0.0.0.0"
    try:
        family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        reason = "address-in-use" if error.errno == errno.EADDRINUSE else "cannot-listen"
        raise PolyarchError(
            f"cannot listen on {listen}: {error.strerror or error}",
            hint="choose another address with --listen; port 0 takes any free port",
            reason=reason,
        ) from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _config(root: Path, default_platform: Platform, wrap: Wrap | None) -> uvicorn.Config:
    expire(root / "repositories")
    app = create_app(Storage(root), default_platform=default_platform)
    return uvicorn.Config(
        wrap(app) if wrap else app,
        http="httptools",
        ws="none",
        loop="uvloop",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",  # not a line for every client that tries TLS first
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it is ready and leaves signals to us."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _run(server: _Server, listener: socket.socket) -> None:
    import uvloop

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(server.serve(sockets=[listener]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
