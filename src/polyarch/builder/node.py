"""The protocol of a node: something that solves graphs and holds the results' content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event
from typing import Protocol

from polyarch.graph.vertex import Graph
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.platform import Platform
from polyarch.solver.events import EventSink


class Node(Protocol):
    """A machine that builds. Closing it ends what it has started."""

    @property
    def platforms(self) -> Sequence[Platform]:
        """What runs here without emulation, best first."""
        ...

    def solve(
        self, graph: Graph, wanted: Sequence[str], events: EventSink, cancelled: Event
    ) -> Mapping[str, Rootfs]:
        """The root filesystems of the vertices named by digest. The first failure is raised after everything
        has stopped; CancelledError when ``cancelled`` was set."""
        ...

    def close(self) -> None: ...
