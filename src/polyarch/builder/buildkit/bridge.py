"""gRPC speaks to addresses only; what has none is given one: a private socket, passed on from there."""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from polyarch.builder.buildkit.streams import SocketStream, Stream
from polyarch.errors import PolyarchError


def join(one: Stream, other: Stream) -> None:
    """Pass bytes on in both directions until both have ended; returns then, with both closed."""
    back = threading.Thread(target=_pump, args=(other, one), daemon=True, name="bridge")
    back.start()
    _pump(one, other)
    back.join()
    one.close()
    other.close()


def _pump(source: Stream, target: Stream) -> None:
    try:
        while data := source.read():
            target.write(data)
    except (OSError, ValueError):  # ValueError: closed meanwhile
        source.close()
        target.close()
        return
    target.end()


class PrivateFolder:
    """A folder nobody else can look into, for sockets."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="polyarch-"))  # mode 0700

    def close(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)


class _Noting(SocketStream):
    """Calls ``first`` before it closes: who waits for the other end finds noted why."""

    def __init__(self, connection: socket.socket, first: Callable[[], None]) -> None:
        super().__init__(connection)
        self._first = first

    def close(self) -> None:
        self._first()
        super().close()


class Bridge:
    """A private unix socket; each connection to it becomes one of ``dial``. ``failure`` is what it raised
    last."""

    def __init__(self, dial: Callable[[], Stream]) -> None:
        self._dial = dial
        self._folder = PrivateFolder()
        self._open: set[Stream] = set()
        self._lock = threading.Lock()
        self.failure: PolyarchError | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder.path / "socket"))
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True, name="bridge").start()

    @property
    def address(self) -> str:
        """What gRPC is given."""
        return f"unix:{self._folder.path / 'socket'}"

    def close(self) -> None:
        """Break all connections."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes up who accepts
        except OSError:
            pass  # not every system knows that of a listening socket
        self._listener.close()
        with self._lock:
            streams = list(self._open)
        for stream in streams:
            stream.close()
        self._folder.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True, name="bridge").start()

    def _serve(self, connection: socket.socket) -> None:
        near = SocketStream(connection)
        try:
            far = self._dial()
        except PolyarchError as error:
            self.failure = error
            near.close()
            return
        near = _Noting(connection, lambda: self._note(far))
        with self._lock:
            self._open |= {near, far}
        try:
            join(near, far)
        finally:
            self._note(far)
            with self._lock:
                self._open -= {near, far}

    def _note(self, far: Stream) -> None:
        """Keep what the other side said of its end."""
        if said := getattr(far, "said", ""):
            self.failure = PolyarchError(said.splitlines()[-1], detail=said, reason="node-unreachable")
