"""Calls over a link, both ways and many at a time: a method with arguments, data both ways, a result.

Data is a row of messages; who sends them waits when the other does not read them. Whoever calls may cancel.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from threading import Event
from typing import Any

import msgspec

from polyarch.builder.wire import faults
from polyarch.builder.wire.link import COUNTED, MAX_PAYLOAD, Frame, Link
from polyarch.errors import CancelledError, PolyarchError


class Kind(IntEnum):
    """Kinds of frames; GOODBYE is on stream 0."""

    CALL = COUNTED
    DATA = COUNTED + 1
    END = COUNTED + 2
    RESULT = COUNTED + 3
    ERROR = COUNTED + 4
    CREDIT = COUNTED + 5
    CANCEL = COUNTED + 6
    GOODBYE = COUNTED + 7


CHUNK = 128 << 10  # bytes of a message, at most
_WINDOW = 4 << 20  # bytes of one call under way in one direction
_MOST_CALLS = 4096  # of the other end at a time
_POLL = 0.2  # seconds

Handler = Callable[..., object]  # called with the Call and its arguments, in a thread of its own


class Call:
    """One call, at either end."""

    def __init__(self, peer: Peer, stream: int, method: str) -> None:
        self.method = method
        self.cancelled = Event()
        self._peer = peer
        self._stream = stream
        self._changed = threading.Condition()
        self._incoming: deque[bytes] = deque()
        self._ended = False  # no more data will come
        self._done = False
        self._value: object = None
        self._error: PolyarchError | None = None
        self._allowed = _WINDOW
        self._consumed = 0

    # --- data -----------------------------------------------------------------------------------------------

    def write(self, message: bytes) -> None:
        """Send a message of at most CHUNK bytes; waits for the other end to read. CancelledError when it does
        not want any more, and what ended the link."""
        with self._changed:
            while self._allowed <= 0 and not self._stopped():
                self._changed.wait()
            self._raise()
            self._allowed -= len(message)
        self._peer.send(self._stream, Kind.DATA, message)

    def write_all(self, data: bytes) -> None:
        """Send ``data`` as messages."""
        for start in range(0, len(data), CHUNK):
            self.write(data[start : start + CHUNK])

    def read_all(self, limit: int) -> bytes:
        """All messages joined; PolyarchError when they are more than ``limit`` bytes."""
        found = bytearray()
        while message := self.read():
            found += message
            if len(found) > limit:
                raise PolyarchError(f"an answer has more than {limit} bytes", reason="protocol")
        return bytes(found)

    def end(self) -> None:
        """Say that no more messages will be written."""
        self._peer.send(self._stream, Kind.END)

    def read(self, cancelled: Event | None = None) -> bytes:
        """The next message; empty when there will be none. Raises the call's error, if that comes first, and
        CancelledError when ``cancelled`` is set meanwhile."""
        with self._changed:
            while not self._incoming and not self._ended and not self._stopped():
                self._changed.wait(None if cancelled is None else _POLL)
                if cancelled is not None and cancelled.is_set():
                    raise CancelledError("the build was stopped", reason="cancelled")
            if not self._incoming:
                self._raise()
                return b""
            message = self._incoming.popleft()
            self._consumed += len(message)
            credit, ended = self._consumed, self._ended
            if credit >= _WINDOW // 4:
                self._consumed = 0
        if credit >= _WINDOW // 4 and not ended:
            self._peer.send(self._stream, Kind.CREDIT, credit.to_bytes(4, "big"))
        return message

    def __iter__(self) -> Iterator[bytes]:
        while message := self.read():
            yield message

    # --- the end --------------------------------------------------------------------------------------------

    def result(self, cancelled: Event | None = None) -> Any:
        """Wait for what the call gives; raises what it raised. Messages that were not read are lost."""
        with self._changed:
            while not self._done:
                if self._incoming:
                    self._allow_rest()
                self._changed.wait(None if cancelled is None else _POLL)
                if cancelled is not None and cancelled.is_set() and not self._done:
                    raise CancelledError("the build was stopped", reason="cancelled")
            self._raise()
            return self._value

    def cancel(self) -> None:
        """Let the other end stop, unless it is done."""
        if not self._done:
            self._peer.send(self._stream, Kind.CANCEL, urgent=True)

    def _allow_rest(self) -> None:
        size = sum(len(message) for message in self._incoming)
        self._incoming.clear()
        self._peer.send(self._stream, Kind.CREDIT, size.to_bytes(4, "big"), urgent=True)

    def _stopped(self) -> bool:
        return self._error is not None or self.cancelled.is_set()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
        if self.cancelled.is_set():
            raise CancelledError("the other end does not wait for this any more", reason="cancelled")

    def take(self, kind: int, payload: bytes) -> None:
        """A frame for this call came."""
        with self._changed:
            match kind:
                case Kind.DATA:
                    self._incoming.append(payload)
                case Kind.END:
                    self._ended = True
                case Kind.RESULT:
                    self._ended = self._done = True
                    self._value = msgspec.msgpack.decode(payload)
                case Kind.ERROR:
                    self._ended = self._done = True
                    self._error = faults.decode(payload)
                case Kind.CREDIT:
                    self._allowed += int.from_bytes(payload, "big")
                case Kind.CANCEL:
                    self.cancelled.set()
            self._changed.notify_all()

    def fail(self, error: PolyarchError) -> None:
        """The link is over."""
        with self._changed:
            if not self._done:
                self._done = self._ended = True
                self._error = error
            self.cancelled.set()
            self._changed.notify_all()


class Peer:
    """One end of a conversation. ``handlers`` answer the other's calls; ``left`` is called when it says
    good-bye, ``broken`` when a connection broke. ``first`` makes the numbers of our calls odd or even."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        first: int,
        broken: Callable[[], None] = lambda: None,
        left: Callable[[], None] = lambda: None,
    ) -> None:
        self.link = Link(self._deliver, broken, self._over)
        self._handlers = handlers
        self._left = left
        self._lock = threading.Lock()
        self._next = first
        self._calls: dict[int, Call] = {}
        self._served: dict[int, Call] = {}

    def call(self, method: str, *arguments: object) -> Call:
        """Begin a call; the caller reads, writes, and asks for the result."""
        payload = msgspec.msgpack.encode((method, arguments))
        with self._lock:
            call = Call(self, self._next, method)
            self._calls[self._next] = call
            self._next += 2
        for start in range(0, len(payload), CHUNK):  # long arguments travel as several frames
            self.link.send(call._stream, Kind.CALL, payload[start : start + CHUNK])
        self.link.send(call._stream, Kind.CALL)
        return call

    def ask(self, method: str, *arguments: object, cancelled: Event | None = None) -> Any:
        """A call that is nothing but a question."""
        call = self.call(method, *arguments)
        try:
            return call.result(cancelled)
        except CancelledError:
            call.cancel()
            raise

    def stop_serving(self, error: PolyarchError) -> None:
        """End the other end's calls, and wait for none of ours."""
        self._over(error)

    def tell_goodbye(self) -> None:
        """Say that no more will come."""
        self.send(0, Kind.GOODBYE, urgent=True)

    def send(self, stream: int, kind: int, payload: bytes = b"", *, urgent: bool = False) -> None:
        """Send a frame of a call."""
        self.link.send(stream, kind, payload, urgent=urgent)

    # --- what comes -----------------------------------------------------------------------------------------

    def _deliver(self, frame: Frame) -> None:
        stream, kind, payload = frame
        if kind == Kind.GOODBYE:
            self._left()
            return
        ours = stream % 2 == self._next % 2
        with self._lock:
            call = (self._calls if ours else self._served).get(stream)
            if call is None and not ours and kind == Kind.CALL and len(self._served) < _MOST_CALLS:
                call = self._served[stream] = Call(self, stream, "")
        if call is None:
            return  # it is over
        if kind == Kind.CALL:
            self._begin(call, payload)
            return
        call.take(kind, payload)
        if kind in (Kind.RESULT, Kind.ERROR):
            with self._lock:
                self._calls.pop(stream, None)

    def _begin(self, call: Call, payload: bytes) -> None:
        """Another part of a call's arguments; an empty one is the last."""
        if payload:
            call.take(Kind.DATA, payload)
            return
        with call._changed:
            data = b"".join(call._incoming)
            call._incoming.clear()
        threading.Thread(target=self._serve, args=(call, data), name="serve", daemon=True).start()

    def _serve(self, call: Call, data: bytes) -> None:
        try:
            method, arguments = msgspec.msgpack.decode(data, type=tuple[str, list[Any]])
            call.method = method
            handler = self._handlers.get(method)
            if handler is None:
                raise PolyarchError(f"the other side does not know {method!r}", reason="protocol")
            value = handler(call, *arguments)
            answer = (Kind.RESULT, msgspec.msgpack.encode(value))
            if len(answer[1]) > MAX_PAYLOAD:
                raise PolyarchError(f"the answer to {method!r} is too long", reason="protocol")
        except BaseException as error:
            answer = (Kind.ERROR, faults.encode(error))
        with self._lock:
            self._served.pop(call._stream, None)
        try:
            self._answer(call._stream, *answer)
        except PolyarchError:
            pass  # the link is over: nobody waits

    def _answer(self, stream: int, kind: int, payload: bytes) -> None:
        self.link.send(stream, kind, payload, urgent=True)

    def _over(self, error: PolyarchError) -> None:
        with self._lock:
            calls = [*self._calls.values(), *self._served.values()]
            self._calls.clear()
        for call in calls:
            call.fail(error)
