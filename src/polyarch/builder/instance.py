"""Builders and their nodes, as they are recorded: plain values, and what must hold among them."""

from __future__ import annotations

import re

import msgspec

from polyarch.errors import NotFoundError, UsageError
from polyarch.oci.platform import Platform

EMBEDDED = "embedded"
DAEMONS = ("remote", "docker-engine", "docker-container", "kubernetes")  # drivers of BuildKit daemons
MAX_NAME = 128  # characters; a builder's name is also a file's
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]*")


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node as it was declared.

    ``endpoint`` is empty for this machine; ``platforms`` are the declared ones; ``files`` are the daemon's
    configuration (``buildkitd.toml``) and what it names, for drivers that start daemons.
    """

    name: str
    endpoint: str = ""
    driver: str = EMBEDDED
    platforms: tuple[Platform, ...] = ()
    driver_opts: dict[str, str] = {}
    flags: tuple[str, ...] = ()
    files: dict[str, bytes] = {}

    @property
    def place(self) -> str:
        """Where the node is, as people write it."""
        return self.endpoint or EMBEDDED


class Builder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named set of nodes. The order counts: the first one gets what no other can do better."""

    name: str
    nodes: tuple[NodeRecord, ...] = ()

    @property
    def driver(self) -> str:
        """The kinds of its nodes: mostly one."""
        return ", ".join(dict.fromkeys(node.driver for node in self.nodes))

    @property
    def is_daemons(self) -> bool:
        """Whether all its nodes are BuildKit daemons, which read and write caches by themselves."""
        return all(node.driver in DAEMONS for node in self.nodes)

    @property
    def loads(self) -> bool:
        """Whether results of one platform go to the Docker engine where nothing else is said."""
        return any(node.driver_opts.get("default-load") == "true" for node in self.nodes)

    def find(self, name: str) -> NodeRecord | None:
        """The node called ``name``."""
        return next((node for node in self.nodes if node.name == name), None)

    def next_name(self) -> str:
        """A name for one more node."""
        number = 0
        while self.find(f"{self.name}{number}") is not None:
            number += 1
        return f"{self.name}{number}"

    def put(self, node: NodeRecord) -> Builder:
        """The builder with ``node`` in place of the one of that name, or behind all others.

        A platform belongs to the node it was declared for last. UsageError where two nodes would be at one
        place.
        """
        for other in self.nodes:
            if other.name != node.name and other.place == node.place:
                raise UsageError(
                    f"node {node.name}: {node.place} is the place of node {other.name} already",
                    hint=f"change that node with --node {other.name}, or name another endpoint",
                    reason="duplicate-endpoint",
                )
        taken = {platform.normalized() for platform in node.platforms}
        others = {
            other.name: msgspec.structs.replace(
                other, platforms=tuple(p for p in other.platforms if p.normalized() not in taken)
            )
            for other in self.nodes
        }
        nodes = {**others, node.name: node}
        return msgspec.structs.replace(self, nodes=tuple(nodes.values()))

    def without(self, name: str) -> Builder:
        """The builder without its node ``name``. NotFoundError where it has none, UsageError for the last."""
        if self.find(name) is None:
            raise NotFoundError(
                f"builder {self.name} has no node {name!r}",
                hint=f"its nodes are {', '.join(node.name for node in self.nodes)}",
                reason="node-not-found",
            )
        if len(self.nodes) == 1:
            raise UsageError(
                f"node {name} is the last of builder {self.name}",
                hint=f"remove the builder: polyarch rm {self.name}",
                reason="last-node",
            )
        left = tuple(node for node in self.nodes if node.name != name)
        return msgspec.structs.replace(self, nodes=left)


DEFAULT = Builder(name="default", nodes=(NodeRecord(name="default"),))
"""This machine alone; always there."""


def valid_name(text: str) -> str:
    """A name of a builder or node in lower case. UsageError where it cannot be one."""
    if _NAME.fullmatch(text) is None or len(text) > MAX_NAME:
        raise UsageError(
            f"invalid name {text!r}: it must start with a letter and hold letters, digits and ._- alone",
            reason="invalid-name",
        )
    return text.lower()
