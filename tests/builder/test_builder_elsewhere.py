"""Whether other nodes can run what is planned for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from polyarch.builder.crew import Share, Work
from polyarch.builder.elsewhere import check_elsewhere
from polyarch.builder.node import Node
from polyarch.builder.report import NodeReport
from polyarch.errors import Location
from polyarch.graph.vertex import ExecOp, Graph, Vertex, VertexMeta
from polyarch.oci.platform import Platform
from polyarch.proof.preflight import Check, Problem

AMD, ARM, S390 = (Platform.parse(f"linux/{name}") for name in ("amd64", "arm64", "s390x"))


class _Node:
    def __init__(self, emulated: Sequence[Platform]) -> None:
        self.emulated = tuple(emulated)
        self.asked = 0

    def report(self, *, full: bool = False) -> NodeReport:
        self.asked += 1
        return NodeReport(emulated=self.emulated)


def _work(share: Share, *wanted: Platform) -> Work:
    graph, digests = Graph(), []
    for platform in wanted:
        op = ExecOp(arguments=("/bin/true",), environment=(), directory="/", platform=platform)
        vertex = Vertex(op)
        graph.add(vertex, VertexMeta(f"RUN for {platform}", location=Location("Dockerfile", 2, 2)))
        digests.append(vertex.digest)
    return Work(share, graph, tuple(digests))


@pytest.mark.parametrize(
    "wanted, emulated, said, asked",
    [
        ((ARM,), (), ["ok native on node far"], 0),
        ((ARM, AMD), (AMD,), ["ok native on node far", "ok emulated on node far"], 1),
        ((AMD, S390), (AMD,), ["ok emulated on node far", "cannot run programs of linux/s390x"], 1),
    ],
)
def test_steps_elsewhere(
    wanted: Sequence[Platform], emulated: Sequence[Platform], said: list[str], asked: int
) -> None:
    node = _Node(emulated)
    work = _work(Share("far", tuple(wanted), (ARM,)), *wanted)
    found = list(check_elsewhere([work], lambda name: cast(Node, node)))
    texts = [
        f"{one.state} {one.detail}" if isinstance(one, Check) else cast(Problem, one).error.summary
        for one in found
    ]
    assert len(texts) == len(said) and all(
        text.startswith(part) for text, part in zip(texts, said, strict=True)
    )
    assert node.asked == asked
    for one in found:
        if isinstance(one, Problem):
            assert one.vertices and one.error.location and "--append" in one.error.hint


def test_this_machine_and_silent_nodes_are_not_asked() -> None:
    def ask(name: str) -> Any:
        raise AssertionError(name)

    works = [
        _work(Share("here", (AMD,), (ARM,), here=True), AMD),
        _work(Share("far", (AMD,), (ARM,), silent="no answer"), AMD),
    ]
    assert list(check_elsewhere(works, ask)) == []
