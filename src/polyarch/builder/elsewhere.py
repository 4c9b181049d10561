"""Whether the nodes elsewhere can run the steps that are planned for them, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from polyarch.builder.crew import Work
from polyarch.builder.node import Node
from polyarch.builder.report import Reports
from polyarch.errors import UnsupportedError
from polyarch.graph.vertex import Graph
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.proof.preflight import Check, Problem, run_platforms


def check_elsewhere(works: Sequence[Work], node: Callable[[str], Node]) -> Iterator[Problem | Check]:
    """How steps run on every node that is not this machine. Only what a node does not run natively is asked
    for; one that cannot tell is believed."""
    for work in works:
        share = work.share
        if share.here or share.silent:
            continue
        emulated: Sequence[Platform] | None = None
        for platform, digests in run_platforms(_part(work)).items():
            subject = f"steps for {platform}"
            if share.runs_natively(platform):
                yield Check(subject=subject, state="ok", detail=f"native on node {share.node}")
                continue
            if emulated is None:
                asked = node(share.node)
                emulated = asked.report().emulated if isinstance(asked, Reports) else (platform,)
            if any(platforms.choose(one, [platform]) is not None for one in emulated):
                yield Check(subject=subject, state="ok", detail=f"emulated on node {share.node}")
                continue
            error = UnsupportedError(
                f"cannot run programs of {platform} on node {share.node}: it has no emulator for them",
                hint=f"add a node for {platform} (polyarch create --append), or emulators to {share.node}",
                reason="no-emulator",
            )
            error.location = work.graph.meta[digests[0]].location
            yield Problem(subject, error, tuple(digests))


def _part(work: Work) -> Graph:
    """What the node has to do of the graph."""
    return Graph(work.graph.reach(work.wanted), work.graph.meta)
