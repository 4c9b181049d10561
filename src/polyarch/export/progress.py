"""What exporting tells: one vertex with a line for each thing that takes time, as BuildKit shows it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from polyarch.errors import CancelledError
from polyarch.oci.descriptor import Descriptor
from polyarch.solver import events
from polyarch.solver.events import EventSink, VertexCompleted, VertexStarted, VertexStatus


class Reporter:
    """One vertex of exporting. Its methods may be called from any thread."""

    def __init__(self, name: str, sink: EventSink) -> None:
        self.digest = "sha256:" + hashlib.sha256(f"export {name}".encode()).hexdigest()
        self._name = name
        self._sink = sink
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    @contextmanager
    def running(self) -> Iterator[Reporter]:
        """Start the vertex, and complete it however the block ends."""
        self._sink(VertexStarted(self.digest, self._name, time.time()))
        error, cancelled = "", False
        try:
            yield self
        except BaseException as caught:
            error, cancelled = str(caught), isinstance(caught, CancelledError | KeyboardInterrupt)
            raise
        finally:
            done = VertexCompleted(self.digest, self._name, time.time(), error=error, cancelled=cancelled)
            self._sink(done)

    @contextmanager
    def phase(self, id: str) -> Iterator[None]:
        """A line that appears now and is done when the block ends well."""
        self.line(id, done=False)
        yield
        self.line(id)

    def line(self, id: str, *, done: bool = True) -> None:
        """A line without a size."""
        self._sink(VertexStatus(self.digest, id, 0, 0, time.time(), done=done))

    def transferred(self, descriptor: Descriptor, count: int) -> None:
        """Bytes of ``descriptor`` went over: what ``content.copy`` calls."""
        with self._lock:
            current = self._counts.get(descriptor.digest, 0) + count
            self._counts[descriptor.digest] = current
        shown = min(current, descriptor.size)
        done = current >= descriptor.size
        status = VertexStatus(self.digest, descriptor.digest, shown, descriptor.size, time.time(), done=done)
        self._sink(status)


def reporter(name: str, sink: EventSink | None) -> Reporter:
    """A reporter to ``sink``, or to nobody."""
    return Reporter(name, sink or events.ignore)
