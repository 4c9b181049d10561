"""The critical path of a build: the chain of vertices that decided how long it took."""

from __future__ import annotations

from collections.abc import Mapping

from polyarch.history.reader import VertexRecord


def critical_path(vertices: Mapping[str, VertexRecord]) -> list[str]:
    """The digests along the chain, first to last: from what ended last, back to the input that ended last,
    and so on. Exporting waits for everything."""
    ended = {digest: each for digest, each in vertices.items() if each.ended}
    if not ended:
        return []
    current = max(ended, key=lambda digest: ended[digest].ended)
    chain = [current]
    while True:
        vertex = ended[current]
        names = vertex.plan.inputs
        if (
            not names and not vertex.plan.start and not vertex.plan.platforms
        ):  # an export has no inputs of its own
            names = tuple(name for name, each in ended.items() if each.ended <= vertex.started + 0.001)
        before = [name for name in names if name in ended and name not in chain]
        if not before:
            return chain[::-1]
        current = max(before, key=lambda digest: (ended[digest].ended, ended[digest].started))
        chain.append(current)
