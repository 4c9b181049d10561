"""A builder's nodes outside of a build: asked for their facts all at once, started, stopped, and tidied.

A node that does not answer in time has a report that says so; it never keeps others waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from polyarch.builder import here
from polyarch.builder.instance import EMBEDDED, NodeRecord
from polyarch.builder.report import Keeps, NodeReport, Prune, Pruned, Reports, Usage
from polyarch.content.state import State
from polyarch.errors import PolyarchError, UnsupportedError

if TYPE_CHECKING:
    from polyarch.builder.node import Node

WITHIN = 20.0  # seconds a node has to answer, as with buildx
READY_WITHIN = 600.0  # seconds to install something or to start pods
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Answered(Generic[Answer]):
    """What one node answered, or why it did not."""

    node: NodeRecord
    answer: Answer | None = None
    error: PolyarchError | None = None


def ask_all(
    nodes: Sequence[NodeRecord], ask: Callable[[NodeRecord], Answer], *, within: float = WITHIN
) -> list[Answered[Answer]]:
    """What ``ask`` answers for every node, all asked at once. What takes longer than ``within`` seconds is
    given up; its thread ends with the process."""
    found: dict[int, Answered[Answer]] = {}

    def run(number: int, node: NodeRecord) -> None:
        try:
            found[number] = Answered(node, ask(node))
        except PolyarchError as error:
            found[number] = Answered(node, error=error)
        except Exception as error:  # whatever a library raises: others' answers are to be seen all the same
            failure = PolyarchError(f"node {node.name}: {error}", reason="node-failed")
            found[number] = Answered(node, error=failure)

    threads = [
        threading.Thread(target=run, args=(number, node), name=f"ask-{node.name}", daemon=True)
        for number, node in enumerate(nodes)
    ]
    limit = time.monotonic() + within
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, limit - time.monotonic()))
    return [
        found.get(number) or Answered(node, error=_silent(node, within)) for number, node in enumerate(nodes)
    ]


def _silent(node: NodeRecord, within: float) -> PolyarchError:
    return PolyarchError(
        f"node {node.name} at {node.place} did not answer within {within:.0f} s",
        hint="see whether the machine is up and reachable",
        reason="node-timeout",
    )


def reports(
    nodes: Sequence[NodeRecord], state: State, *, full: bool = False, within: float = WITHIN
) -> list[NodeReport]:
    """Every node's facts; of one that does not answer, why."""
    answers = ask_all(nodes, lambda node: report(node, state, full=full), within=within)
    return [one.answer if one.answer is not None else _failed(one.error) for one in answers]


def _failed(error: PolyarchError | None) -> NodeReport:
    if error is None:
        return NodeReport(status="error", error="no answer")
    lines = [error.summary, *error.detail.strip().splitlines()[:5]]
    return NodeReport(status="error", error="\n".join(lines), hint=error.hint)


def report(node: NodeRecord, state: State, *, full: bool = False) -> NodeReport:
    """One node's facts. PolyarchError where it does not answer."""
    if node.driver == EMBEDDED:
        return here.report(state, full=full)
    pods = _pods(node)
    if pods.status != "running":
        return pods
    with _reached(node, state) as reached:
        if isinstance(reached, Reports):
            found = reached.report(full=full)
            return msgspec.structs.replace(found, labels={**found.labels, **pods.labels})
    return NodeReport(native=tuple(reached.platforms))


def _pods(node: NodeRecord) -> NodeReport:
    """Whether the node runs, as far as that can be known without reaching it, which would start its pods."""
    if node.driver != "kubernetes":
        return NodeReport()
    from polyarch.builder.kubernetes import driver

    return driver.report(node)


def usage(node: NodeRecord, state: State, filters: Sequence[str]) -> Sequence[Usage]:
    """What one node keeps."""
    if node.driver == EMBEDDED:
        return here.usage(state, filters)
    if _pods(node).status != "running":
        return ()
    with _keeping(node, state) as reached:
        return reached.usage(filters)


def prune(node: NodeRecord, state: State, wanted: Prune) -> Pruned:
    """Tidy one node."""
    if node.driver == EMBEDDED:
        return here.prune(state, wanted)
    if _pods(node).status != "running":
        return Pruned()
    with _keeping(node, state) as reached:
        return reached.prune(wanted)


def start(node: NodeRecord, state: State, tell: Callable[[str], None]) -> None:
    """Make the node ready: install polyarch there, or start its pods. ``tell`` hears how it goes."""
    if node.driver == "kubernetes":
        from polyarch.builder.kubernetes import driver

        driver.start(node, tell)
    if node.driver == "ssh":
        from polyarch.builder.ssh.bootstrap import bootstrap

        bootstrap(node, tell)
    report(node, state)


def stop(node: NodeRecord) -> None:
    """End what was started for the node."""
    if node.driver == "kubernetes":
        from polyarch.builder.kubernetes import driver

        driver.stop(node)


def remove(node: NodeRecord, *, keep_daemon: bool = False) -> None:
    """Remove what was made for the node. Machines and daemons that others set up stay as they are."""
    if node.driver == "kubernetes" and not keep_daemon:
        from polyarch.builder.kubernetes import driver

        driver.remove(node)


@contextmanager
def _reached(record: NodeRecord, state: State) -> Iterator[Node]:
    """The node itself, for the time of a block."""
    from polyarch.builder.connect import connect
    from polyarch.builder.embedded import EmbeddedNode, Surroundings
    from polyarch.image.locate import local_store
    from polyarch.registry.client import Client

    around = Surroundings()
    with Client() as client:
        home = EmbeddedNode(state, local_store(state, client), client, around)
        try:
            node = connect(record, home, around)
            try:
                yield node
            finally:
                node.close()
        finally:
            home.close()


@contextmanager
def _keeping(record: NodeRecord, state: State) -> Iterator[Keeps]:
    with _reached(record, state) as node:
        if not isinstance(node, Keeps):
            raise UnsupportedError(
                f"node {record.name}: the driver {record.driver} does not tell what it keeps",
                reason="not-supported",
            )
        yield node
