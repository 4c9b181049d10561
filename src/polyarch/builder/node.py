"""The protocol of a node: something that solves graphs and holds the results' content.

The *home* of a build is always this machine's ``EmbeddedNode``: its layer store, its local store and its
notes are what assembling, proof and export work with, whichever node solved. A node elsewhere answers with
layers that the home knows by what is said of them; their bytes stay where they are until somebody reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import Protocol, runtime_checkable

from polyarch.errors import PolyarchError
from polyarch.graph.vertex import Graph
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.platform import Platform
from polyarch.solver.events import EventSink
from polyarch.solver.scheduler import Finding


class Node(Protocol):
    """A machine that builds. Closing it ends what it has started."""

    @property
    def name(self) -> str:
        """What its builder calls it."""
        ...

    @property
    def platforms(self) -> Sequence[Platform]:
        """What runs here without emulation, best first: the first is ``$BUILDPLATFORM``."""
        ...

    def solve(
        self, graph: Graph, wanted: Sequence[str], events: EventSink, cancelled: Event
    ) -> Mapping[str, Rootfs]:
        """The root filesystems of the vertices named by digest. The first failure is raised after everything
        has stopped; CancelledError when ``cancelled`` was set, NodeLostError when the node is gone."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Previews(Protocol):
    """A node that can tell what it would do."""

    def preview(self, graph: Graph, wanted: Sequence[str]) -> Sequence[tuple[str, str]]:
        """For each vertex needed (by digest): "source", "cached", or why it would run."""
        ...


@runtime_checkable
class Learns(Protocol):
    """A node that can tell which keys lead to its results, for caches elsewhere."""

    @property
    def findings(self) -> Mapping[str, Finding]:
        """After ``solve``: keys and records of all results, by vertex."""
        ...

    def findings_over(self, known: Callable[[str], str | None]) -> Mapping[str, Finding]:
        """See ``Scheduler.findings_over``."""
        ...


class NodeLostError(PolyarchError):
    """A node does not answer any more; another may do its part. ``node`` is its name."""

    def __init__(self, node: str, summary: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(summary, detail=detail, hint=hint, reason="node-lost")
        self.node = node
