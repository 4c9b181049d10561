"""Which node of a builder makes which platform, and why: buildx's rules, which need no node to be reached
where all platforms were declared.

1. A node for which the very platform was declared; of several the first.
2. A node whose declared or reported platforms run it natively; the closest variant counts, then the first.
3. A node that says it emulates the platform.
4. The first node, which may have an emulator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polyarch.builder.instance import Builder, NodeRecord
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform

Reported = Callable[[NodeRecord], Sequence[Platform]]
"""What a node says it runs; asking may reach it. Empty for a node that does not answer."""


@dataclass(frozen=True)
class Assignment:
    """The platforms one node makes, and for each why it is this node."""

    node: NodeRecord
    platforms: tuple[Platform, ...]
    reasons: tuple[str, ...]


def assign(
    builder: Builder,
    wanted: Sequence[Platform],
    natives: Reported,
    emulated: Reported = lambda record: (),
) -> list[Assignment]:
    """Every platform to a node. Nodes come in the order their first platform is wanted in; those without work
    are left out. ``natives`` and ``emulated`` are asked only for what declarations do not settle.
    """
    if not builder.nodes:
        return []
    chosen: dict[str, list[tuple[Platform, str]]] = {}
    for platform in wanted:
        record, reason = _choose(builder, platform, natives, emulated)
        chosen.setdefault(record.name, []).append((platform, reason))
    found = []
    for record in builder.nodes:
        if part := chosen.get(record.name):
            found.append(Assignment(record, tuple(p for p, _ in part), tuple(why for _, why in part)))
    order = list(chosen)
    return sorted(found, key=lambda one: order.index(one.node.name))


def _choose(
    builder: Builder, platform: Platform, natives: Reported, emulated: Reported
) -> tuple[NodeRecord, str]:
    for record in builder.nodes:
        if any(_runs(declared, platform, strict=True) for declared in record.platforms):
            return record, "declared"
    if (near := _nearest(builder, platform, natives)) is not None:
        return near
    for record in builder.nodes:
        if any(_runs(one, platform) for one in emulated(record)):
            return record, "emulated: no node runs it natively"
    return builder.nodes[0], "emulated: no node offers it, this is the first"


def _nearest(builder: Builder, platform: Platform, natives: Reported) -> tuple[NodeRecord, str] | None:
    """The node that comes closest; one that is as close as an earlier one is not closer."""
    best: tuple[NodeRecord, str] | None = None
    closest: Platform | None = None
    for record in builder.nodes:
        reported = [(one, "reported") for one in natives(record)]
        for offered, how in [*((one, "declared") for one in record.platforms), *reported]:
            if not _runs(offered, platform):
                continue
            if closest is None or _closer(offered, platform, closest):
                same = _runs(offered, platform, strict=True)
                closest = offered
                best = record, how if same else f"{how} {offered} runs {platform}"
    return best


def _runs(machine: Platform, image: Platform, *, strict: bool = False) -> bool:
    """Whether programs for ``image`` run on ``machine``; with ``strict``, whether they are the same."""
    return platforms.choose(machine, [image], strict=strict) is not None


def _closer(offered: Platform, platform: Platform, than: Platform) -> bool:
    """Whether ``platform`` stands before ``than`` in what ``offered`` runs, best first."""
    order = platforms.compatible(offered)

    def position(one: Platform) -> int:
        one = one.normalized()
        return order.index(one) if one in order else len(order)

    return position(platform) < position(than)
