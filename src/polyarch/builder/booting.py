"""What is told while a node gets ready, as progress: nothing where it is ready at once."""

from __future__ import annotations

import hashlib
import time
from types import TracebackType

from polyarch.solver.events import EventSink, VertexCompleted, VertexLog, VertexStarted


class Booting:
    """A vertex for the time a node takes to get ready, shown from the first thing that is told."""

    def __init__(self, node: str, events: EventSink) -> None:
        self._name = f"[internal] booting node {node}"
        self._digest = "sha256:" + hashlib.sha256(self._name.encode()).hexdigest()
        self._events = events
        self._shown = False

    def tell(self, text: str) -> None:
        """Something happened."""
        now = time.time()
        if not self._shown:
            self._shown = True
            self._events(VertexStarted(self._digest, self._name, now))
        self._events(VertexLog(self._digest, 1, text.encode() + b"\n", now))

    def __enter__(self) -> Booting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            said = str(error) if error else ""
            self._events(VertexCompleted(self._digest, self._name, time.time(), error=said))
