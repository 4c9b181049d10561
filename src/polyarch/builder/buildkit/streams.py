"""Byte streams to where a daemon is: sockets, TLS, and programs that pass bytes on."""

from __future__ import annotations

import os
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol

from polyarch.errors import PolyarchError, UnsupportedError

CHUNK = 1 << 16
_CONNECT_WITHIN = 20.0  # seconds
_KEPT = 4096  # bytes of what a program says when it fails


class Stream(Protocol):
    """Bytes in both directions; one thread reads while another writes."""

    def read(self) -> bytes:
        """Some bytes, empty at the end. OSError when the connection breaks."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of ``data``. OSError when the connection breaks."""
        ...

    def end(self) -> None:
        """Nothing more will be written."""
        ...

    def close(self) -> None: ...


class SocketStream:
    """A connected socket. ``ahead`` are bytes that were read from it already."""

    def __init__(self, connection: socket.socket, ahead: bytes = b"") -> None:
        self.connection = connection
        self._ahead = ahead

    def read(self) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        return self.connection.recv(CHUNK)

    def write(self, data: bytes) -> None:
        self.connection.sendall(data)

    def end(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side was faster

    def close(self) -> None:
        try:
            self.connection.shutdown(socket.SHUT_RDWR)  # wakes up who reads
        except OSError:
            pass  # it was not connected any more
        self.connection.close()


class TlsStream:
    """A TLS connection, for which OpenSSL allows one thread at a time."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        connection.setblocking(False)

    def read(self) -> bytes:
        while True:
            try:
                with self._lock:
                    return self._connection.recv(CHUNK)
            except ssl.SSLWantReadError:
                select.select([self._connection], [], [])
            except ssl.SSLWantWriteError:
                select.select([], [self._connection], [])

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                with self._lock:
                    view = view[self._connection.send(view) :]
            except ssl.SSLWantWriteError:
                select.select([], [self._connection], [])
            except ssl.SSLWantReadError:
                select.select([self._connection], [], [])

    def end(self) -> None:
        """TLS cannot close one direction; the other side sees the end when this is closed."""

    def close(self) -> None:
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was not connected any more
        self._connection.close()


class ProcessStream:
    """A program whose standard input and output are the stream, such as ssh."""

    def __init__(self, command: Sequence[str], what: str) -> None:
        self._what = what
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for us; we end it
            )
        except FileNotFoundError:
            raise UnsupportedError(
                f"{what}: the command {command[0]} is not installed",
                hint=f"install {command[0]}, or give the node an address of its own (tcp:// or unix://)",
                reason="no-transport",
            ) from None
        self._said = bytearray()
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()

    def _listen(self, stream: IO[bytes]) -> None:
        while data := stream.read(CHUNK):
            self._said += data
            del self._said[:-_KEPT]

    @property
    def said(self) -> str:
        """The end of what the program wrote to its standard error."""
        return self._said.decode("utf-8", "replace").strip()

    def read(self) -> bytes:
        assert self._process.stdout is not None
        return os.read(self._process.stdout.fileno(), CHUNK)

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self._process.stdin.fileno(), view) :]

    def end(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(1)


def connect_unix(path: Path) -> Stream:
    """A stream to a unix socket."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_CONNECT_WITHIN)
        connection.connect(str(path))
        connection.settimeout(None)
    except OSError as error:
        connection.close()
        raise unreachable(f"unix://{path}", error) from None
    return SocketStream(connection)


def connect_tcp(host: str, port: int, tls: ssl.SSLContext | None = None, name: str = "") -> Stream:
    """A stream to a TCP port, in TLS where ``tls`` says so; ``name`` is whom its certificate must name."""
    try:
        connection = socket.create_connection((host, port), _CONNECT_WITHIN)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            return TlsStream(tls.wrap_socket(connection, server_hostname=name or host))
        connection.settimeout(None)
        return SocketStream(connection)
    except OSError as error:
        raise unreachable(f"tcp://{host}:{port}", error) from None


def unreachable(place: str, error: OSError | str) -> PolyarchError:
    """What is raised where nobody answers."""
    why = error if isinstance(error, str) else error.strerror or str(error)
    return PolyarchError(
        f"the builder at {place} cannot be reached: {why}",
        hint="check that the daemon runs and the address is right ('polyarch inspect' asks every node)",
        reason="node-unreachable",
    )
