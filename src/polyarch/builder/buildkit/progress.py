"""What the daemon tells while it solves, as our events, with our vertices' names."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping

import grpc

from polyarch.builder.buildkit.protocol import control_pb2 as control
from polyarch.graph.vertex import ExecOp, Graph
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.solver.events import (
    EventSink,
    VertexCompleted,
    VertexLog,
    VertexStarted,
    VertexStatus,
    Warning,
)

_KEPT = 16 << 10  # bytes of a step's output that go into the error
_CANCELLED = "context canceled"


class Progress:
    """Follows one solve. ``failed`` is the digest of the vertex that failed first, "" while none has; what it
    said last is its ``output``."""

    def __init__(
        self, graph: Graph, names: Mapping[str, str], events: EventSink, natives: tuple[Platform, ...]
    ) -> None:
        self._graph = graph
        self._names = dict(names)
        self._events = events
        self._natives = natives
        self._started: set[str] = set()
        self._completed: set[str] = set()
        self._output: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._by_name = _unique({digest: meta.name for digest, meta in graph.meta.items()})
        self.failed = ""

    @property
    def output(self) -> str:
        """The end of what the failed step wrote."""
        return self._output.get(self.failed, b"").decode("utf-8", "replace")

    def follow(self, responses: object) -> None:
        """Pass everything on until the stream ends."""
        try:
            for response in responses:  # type: ignore[attr-defined]  # grpcio brings no types
                with self._lock:
                    self._take(response)
        except grpc.RpcError:
            return  # the solve itself says what is wrong

    def _take(self, response: control.StatusResponse) -> None:
        for vertex in response.vertexes:
            self._vertex(vertex)
        for status in response.statuses:
            self._events(
                VertexStatus(
                    self._digest(status.vertex),
                    status.id or status.name,
                    status.current,
                    status.total,
                    _seconds(status.timestamp),
                    done=status.HasField("completed"),
                )
            )
        for log in response.logs:
            digest = self._digest(log.vertex)
            self._output[digest] = (self._output.get(digest, b"") + log.msg)[-_KEPT:]
            self._events(VertexLog(digest, log.stream, log.msg, _seconds(log.timestamp)))
        for warning in response.warnings:
            self._events(Warning("BuildKit", warning.short.decode("utf-8", "replace"), warning.url))

    def _vertex(self, vertex: control.Vertex) -> None:
        digest = self._known(vertex)
        meta = self._graph.meta.get(digest)
        name = meta.name if meta is not None else vertex.name
        if vertex.HasField("started") and digest not in self._started:
            self._started.add(digest)
            self._events(VertexStarted(digest, name, _seconds(vertex.started)))
        if vertex.HasField("completed") and digest not in self._completed:
            self._completed.add(digest)
            cancelled = bool(vertex.error) and _CANCELLED in vertex.error
            if vertex.error and not cancelled and not self.failed:
                self.failed = digest
            self._events(
                VertexCompleted(
                    digest,
                    name,
                    _seconds(vertex.completed),
                    cached=vertex.cached,
                    error=vertex.error,
                    cancelled=cancelled,
                    how="" if vertex.cached or vertex.error else self._how(digest),
                )
            )

    def _how(self, digest: str) -> str:
        vertex = self._graph.vertices.get(digest)
        if vertex is None or not isinstance(vertex.op, ExecOp):
            return ""
        wanted = vertex.op.platform
        native = any(platforms.choose(one, [wanted]) is not None for one in self._natives)
        return "native" if native else "emulated"

    def _digest(self, theirs: str) -> str:
        return self._names.get(theirs, theirs)

    def _known(self, vertex: control.Vertex) -> str:
        """Our digest of a vertex. A daemon of another version may name operations by other bytes."""
        if vertex.digest not in self._names and vertex.name in self._by_name:
            self._names[vertex.digest] = self._by_name[vertex.name]
        return self._digest(vertex.digest)


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """The digests by name, where a name means one vertex only."""
    count = Counter(names.values())
    return {name: digest for digest, name in names.items() if count[name] == 1}


def _seconds(stamp: object) -> float:
    seconds, nanos = getattr(stamp, "seconds", 0), getattr(stamp, "nanos", 0)
    return float(seconds) + nanos / 1e9 if seconds else time.time()
