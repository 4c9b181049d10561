"""A program's standard input and output in a pod, over the WebSocket of ``pods/exec``.

Messages start with the number of a channel (v4.channel.k8s.io). The frames (RFC 6455, section 5) are made
and read here: one thread reads while another writes, for which TLS needs more care than a client that does
the one after the other.
"""

from __future__ import annotations

import json
import os
import threading

from polyarch.builder.buildkit.streams import Stream

_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSED = 0, 1, 2, 3, 255
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_LONGEST_MESSAGE = 64 << 20
_MOST_SENT = 1 << 17  # bytes a message; API servers refuse huge ones
_KEPT = 4096  # bytes of standard error


class Exec:
    """A running program. Implements ``Stream``; ``said`` is the end of what it wrote to standard error."""

    def __init__(self, under: Stream, what: str) -> None:
        self._under = under
        self._what = what
        self._buffer = bytearray()
        self._sending = threading.Lock()
        self._said = b""
        self._over = False

    @property
    def said(self) -> str:
        """The end of what the program wrote to its standard error, and how it ended."""
        return self._said.decode("utf-8", "replace").strip()

    def read(self) -> bytes:
        """See ``Stream``. OSError when the program failed."""
        while not self._over:
            message = self._message()
            if message is None:
                self._over = True
                break
            channel, data = (message[0], message[1:]) if message else (_STDERR, b"")
            if channel == _STDOUT and data:
                return data
            if channel == _STDERR:
                self._said = (self._said + data)[-_KEPT:]
            elif channel == _STATUS:
                self._ended(data)
            elif channel == _CLOSED and data[:1] == bytes([_STDOUT]):
                self._over = True
        return b""

    def write(self, data: bytes) -> None:
        """See ``Stream``."""
        view = memoryview(data)
        for start in range(0, len(view), _MOST_SENT):
            self._send(_BINARY, bytes([_STDIN]) + view[start : start + _MOST_SENT])

    def end(self) -> None:
        """The protocol cannot close one direction; the program sees the end when this is closed."""

    def close(self) -> None:
        """End the program and the connection. Harmless when repeated."""
        try:
            self._send(_CLOSE, (1000).to_bytes(2, "big"))
        except OSError:
            pass  # the connection is broken already
        self._under.close()

    def _ended(self, data: bytes) -> None:
        """The API's status of the program: a Status object of v1."""
        self._over = True
        try:
            status = json.loads(data)
            failed = status.get("status") != "Success"
            message = str(status.get("message", ""))
        except (ValueError, AttributeError, RecursionError):
            return
        if failed:
            self._said += f"\n{self._what} ended: {message or 'it failed'}".encode()
            raise OSError(self.said)

    # --- frames ---------------------------------------------------------------------------------------------

    def _message(self) -> bytes | None:
        """The next message, None at the end. OSError for what is no WebSocket."""
        whole = b""
        while True:
            head = self._take(2)
            if head is None:
                return None
            final, code, masked, size = head[0] & 0x80, head[0] & 0x0F, head[1] & 0x80, head[1] & 0x7F
            if size > 125:
                more = self._take(2 if size == 126 else 8)
                if more is None:
                    return None
                size = int.from_bytes(more, "big")
            if masked or size + len(whole) > _LONGEST_MESSAGE:
                raise OSError(f"{self._what}: the API server breaks the WebSocket protocol")
            data = self._take(size)
            if data is None or code == _CLOSE:
                return None
            if code == _PING:
                self._send(_PONG, data)
            elif code != _PONG:
                whole += data
                if final:
                    return whole

    def _take(self, size: int) -> bytes | None:
        while len(self._buffer) < size:
            try:
                more = self._under.read()
            except ValueError:  # it was closed while this waited
                return None
            if not more:
                return None
            self._buffer += more
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _send(self, code: int, data: bytes) -> None:
        mask = os.urandom(4)
        size = len(data)
        length = (
            bytes([0x80 | size])
            if size < 126
            else bytes([0x80 | 126]) + size.to_bytes(2, "big")
            if size < 1 << 16
            else bytes([0x80 | 127]) + size.to_bytes(8, "big")
        )
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        masked = (int.from_bytes(data, "big") ^ key).to_bytes(size, "big")
        with self._sending:
            self._under.write(bytes([0x80 | code]) + length + mask + masked)
