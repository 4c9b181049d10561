"""What of the client's directories a graph reads, so that nothing else is sent."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from polyarch.graph.vertex import CopyAction, ExecOp, FileOp, Graph, LocalOp, MergeOp, Vertex

_WILDCARD = re.compile(r"[*?\[\\]")


def needed(graph: Graph, wanted: Collection[str]) -> dict[str, frozenset[str]]:
    """For each directory, by name, the paths that steps read; "" is all of it."""
    found: dict[str, set[str]] = {}
    for digest, vertex in graph.reach(wanted).items():
        if digest in wanted and isinstance(vertex.op, LocalOp):
            found.setdefault(vertex.op.name, set()).add("")
        for name, path in _reads(vertex):
            found.setdefault(name, set()).add(path)
    return {name: frozenset(paths) for name, paths in found.items()}


def _reads(vertex: Vertex) -> Iterator[tuple[str, str]]:
    match vertex.op:
        case FileOp(actions=actions, detached=detached):
            if not detached and (name := _local(vertex, 0)):
                yield name, ""
            for action in actions:
                if isinstance(action, CopyAction) and (name := _local(vertex, action.input)):
                    yield name, _fixed(action)
        case MergeOp():
            for number in range(len(vertex.inputs)):
                if name := _local(vertex, number):
                    yield name, ""
        case ExecOp(mounts=mounts):
            if name := _local(vertex, 0):
                yield name, ""
            for mount in mounts:
                if mount.input is not None and (name := _local(vertex, mount.input)):
                    yield name, mount.source.strip("/")


def _local(vertex: Vertex, number: int) -> str:
    source = vertex.inputs[number].op
    return source.name if isinstance(source, LocalOp) else ""


def _fixed(action: CopyAction) -> str:
    """The part of a copy's source before the first wildcard."""
    if not action.wildcards:
        return action.source.strip("/")
    parts: list[str] = []
    for part in action.source.strip("/").split("/"):
        if _WILDCARD.search(part):
            break
        parts.append(part)
    return "/".join(parts)
