"""Frames over a byte stream that may break: what was sent and not acknowledged is sent again on the next one.

A frame is a length, a stream's number and a kind, then the payload. Both ends count the frames that count
(everything but ACK, PING and PONG), keep what the other has not acknowledged, and tell each other when they
meet again how many they have received. So whoever uses a link never learns that a connection broke, only that
nothing came for a while, and, when nobody mended it, that the link is over.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from polyarch.errors import PolyarchError

_HEADER = struct.Struct("!IIB")
_COUNT = struct.Struct("!Q")
MAX_PAYLOAD = 1 << 20  # bytes of one frame
_UNACKNOWLEDGED = 16 << 20  # bytes after which a sender waits
_ACK_EVERY = 256 << 10  # bytes received before they are acknowledged
_GATHERED = 512 << 10  # bytes written at once

# Kinds below 8 are the link's own and are not counted.
ACK, PING, PONG = 1, 2, 3
COUNTED = 8


class Frame(NamedTuple):
    """``stream`` 0 is the connection's own."""

    stream: int
    kind: int
    payload: bytes


class Pipe(Protocol):
    """A byte stream in both directions. Reading and writing go on in different threads."""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes as soon as there are any; empty at the end. OSError when it broke."""
        ...

    def write(self, data: bytes) -> None:
        """All of it. OSError when it broke."""
        ...

    def close(self) -> None:
        """End it; a read or write that waits ends too."""
        ...


class Descriptors:
    """A pipe made of two file descriptors, which belong to it."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing

    def read(self, size: int) -> bytes:
        return os.read(self._reading, size)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._writing, view) :]

    def close(self) -> None:
        """The numbers stay taken, for a thread that waits may use them once more when it wakes up."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self._reading, inheritable=False)
        os.dup2(null, self._writing, inheritable=False)
        os.close(null)


class SocketPipe:
    """A pipe that is a connected socket, which belongs to it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, size: int) -> bytes:
        return self._connection.recv(size)

    def write(self, data: bytes) -> None:
        self._connection.sendall(data)

    def close(self) -> None:
        """Nobody waits any longer; the socket itself goes with the last thread that uses it."""
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already


class Link:
    """One end. ``deliver`` gets every counted frame once, in order, from one thread, and must not wait;
    ``broken`` is called when a pipe ended, ``over`` once when the link failed for good."""

    def __init__(
        self,
        deliver: Callable[[Frame], None],
        broken: Callable[[], None],
        over: Callable[[PolyarchError], None],
    ) -> None:
        self._deliver = deliver
        self._broken = broken
        self._over = over
        self._changed = threading.Condition()
        self._delivering = threading.Lock()
        self._pipe: Pipe | None = None
        self._error: PolyarchError | None = None
        self._control: deque[bytes] = deque()
        self._pending: deque[bytes] = deque()  # not written on this pipe
        self._written: deque[bytes] = deque()  # written, not acknowledged
        self._size = 0  # bytes of both
        self._acknowledged = 0  # frames
        self._received = 0  # frames
        self._unconfirmed = 0  # bytes received and not acknowledged by us
        self._heard = time.monotonic()

    # --- connections ----------------------------------------------------------------------------------------

    @property
    def received(self) -> int:
        """How many frames came: what the other end need not send again. Asked while there is no pipe."""
        with self._delivering:
            return self._received

    @property
    def silence(self) -> float:
        """Seconds since anything came."""
        return time.monotonic() - self._heard

    @property
    def connected(self) -> bool:
        """Whether there is a pipe that is not known to be broken."""
        return self._pipe is not None

    def attach(self, pipe: Pipe, they_received: int) -> None:
        """Go on over ``pipe``; an earlier one is closed. The other end has received so many frames."""
        with self._changed:
            before, self._pipe = self._pipe, pipe
            self._drop(they_received)
            self._pending = self._written + self._pending
            self._written = deque()
            self._control.clear()
            self._heard = time.monotonic()
            self._changed.notify_all()
        if before is not None:
            before.close()
        for work in (self._read, self._write):
            threading.Thread(target=work, args=(pipe,), name=f"link{work.__name__}", daemon=True).start()

    def detach(self, pipe: Pipe | None = None) -> None:
        """Give a pipe up that does not work (by default the current one)."""
        with self._changed:
            pipe = pipe or self._pipe
            current = pipe is not None and pipe is self._pipe
            if current:
                self._pipe = None
                self._changed.notify_all()
        if pipe is not None:
            pipe.close()
        if current:
            self._broken()

    def fail(self, error: PolyarchError) -> None:
        """End the link for good; idempotent."""
        with self._changed:
            if self._error is not None:
                return
            self._error = error
            pipe, self._pipe = self._pipe, None
            self._changed.notify_all()
        if pipe is not None:
            pipe.close()
        self._over(error)

    # --- sending --------------------------------------------------------------------------------------------

    def send(self, stream: int, kind: int, payload: bytes = b"", *, urgent: bool = False) -> None:
        """Send a frame; waits while too much is unacknowledged, unless it is ``urgent``. Raises what the link
        failed with."""
        data = _HEADER.pack(len(payload), stream, kind) + payload
        with self._changed:
            while self._error is None and not urgent and self._size > _UNACKNOWLEDGED:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            self._pending.append(data)
            self._size += len(data)
            self._changed.notify_all()

    def ping(self) -> None:
        """Ask the other end for a sign of life."""
        self._tell(_HEADER.pack(0, 0, PING))

    def flush(self, seconds: float) -> bool:
        """Wait until everything was written to the pipe; whether it was."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._pipe is not None and (self._pending or self._control):
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return not self._pending

    def _tell(self, data: bytes) -> None:
        with self._changed:
            self._control.append(data)
            self._changed.notify_all()

    def _write(self, pipe: Pipe) -> None:
        try:
            while True:
                with self._changed:
                    while self._pipe is pipe and not self._pending and not self._control:
                        self._changed.wait()
                    if self._pipe is not pipe:
                        return
                    chunk = list(self._control)
                    self._control.clear()
                    size = 0
                    while self._pending and size < _GATHERED:
                        frame = self._pending.popleft()
                        self._written.append(frame)
                        chunk.append(frame)
                        size += len(frame)
                pipe.write(b"".join(chunk))
                with self._changed:
                    self._changed.notify_all()
        except (OSError, ValueError):
            self.detach(pipe)

    # --- receiving ------------------------------------------------------------------------------------------

    def _read(self, pipe: Pipe) -> None:
        buffer = bytearray()
        try:
            while data := pipe.read(256 << 10):
                self._heard = time.monotonic()
                buffer += data
                with self._delivering:  # an earlier pipe's thread may still be at it
                    if self._pipe is not pipe:
                        return
                    self._take(buffer)
        except (OSError, ValueError):
            pass
        self.detach(pipe)

    def _take(self, buffer: bytearray) -> None:
        """Handle every whole frame in ``buffer`` and remove it from there."""
        position = 0
        while len(buffer) - position >= _HEADER.size:
            length, stream, kind = _HEADER.unpack_from(buffer, position)
            if length > MAX_PAYLOAD:
                raise ValueError("a frame is too long")
            end = position + _HEADER.size + length
            if len(buffer) < end:
                break
            payload = bytes(buffer[position + _HEADER.size : end])
            position = end
            if kind < COUNTED:
                self._own(kind, payload)
                continue
            self._received += 1
            self._unconfirmed += length + _HEADER.size
            self._deliver(Frame(stream, kind, payload))
        del buffer[:position]
        if self._unconfirmed >= _ACK_EVERY:
            self._acknowledge(ACK)

    def _own(self, kind: int, payload: bytes) -> None:
        if kind == PING:
            self._acknowledge(PONG)
        elif kind in (ACK, PONG) and len(payload) == _COUNT.size:
            with self._changed:
                self._drop(_COUNT.unpack(payload)[0])
                self._changed.notify_all()

    def _acknowledge(self, kind: int) -> None:
        self._unconfirmed = 0
        self._tell(_HEADER.pack(_COUNT.size, 0, kind) + _COUNT.pack(self._received))

    def _drop(self, received: int) -> None:
        """Forget what the other end has received."""
        while self._acknowledged < received and (self._written or self._pending):
            gone = self._written.popleft() if self._written else self._pending.popleft()
            self._size -= len(gone)
            self._acknowledged += 1
