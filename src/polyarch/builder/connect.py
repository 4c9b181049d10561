"""From a node's record to the node itself."""

from __future__ import annotations

from collections.abc import Callable

from polyarch.builder.embedded import EmbeddedNode, Surroundings
from polyarch.builder.instance import NodeRecord
from polyarch.builder.node import Node
from polyarch.errors import UnsupportedError


def _quiet(text: str) -> None:
    """Tell nobody."""


def connect(
    record: NodeRecord, home: EmbeddedNode, surroundings: Surroundings, tell: Callable[[str], None] = _quiet
) -> Node:
    """The node behind ``record``, reached and ready; UnsupportedError for a driver there is not.

    ``home`` is where its results become known, ``surroundings`` what the client of the build brings along.
    ``tell`` hears what has to be done until the node is ready, where that takes long.
    """
    match record.driver:
        case "embedded":
            return home
        case "remote" | "docker-engine":
            from polyarch.builder.buildkit.node import open_node

            return open_node(record, home, surroundings)
        case "ssh":
            from polyarch.builder.ssh.node import SshNode

            return SshNode(record, home, surroundings)
        case "kubernetes":
            from polyarch.builder.kubernetes import driver as kubernetes

            return kubernetes.open_node(record, home, surroundings, tell)
        case driver:
            raise UnsupportedError(
                f"node {record.name}: there is no driver {driver!r}",
                hint="drivers are embedded, ssh, remote, docker-engine and kubernetes",
                reason="unknown-driver",
            )
