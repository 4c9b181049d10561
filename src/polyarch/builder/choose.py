"""Which node of a builder makes which platform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from polyarch.builder.instance import Builder, NodeRecord
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform

Reported = Callable[[NodeRecord], Sequence[Platform]]  # what a node says it runs natively; may reach it


@dataclass(frozen=True)
class Assignment:
    """The platforms one node makes, and why it is this node."""

    node: NodeRecord
    platforms: tuple[Platform, ...]
    reason: str


def assign(builder: Builder, wanted: Sequence[Platform], reported: Reported) -> list[Assignment]:
    """Every platform to a node: the one that declares it, else the one that reports it, else the first, which
    emulates. Nodes without platforms are left out."""
    chosen: dict[tuple[str, str], list[Platform]] = {}
    for platform in wanted:
        name, reason = _choose(builder, platform, reported)
        chosen.setdefault((name, reason), []).append(platform)
    nodes = {record.name: record for record in builder.nodes}
    return [Assignment(nodes[name], tuple(which), reason) for (name, reason), which in chosen.items()]


def _choose(builder: Builder, platform: Platform, reported: Reported) -> tuple[str, str]:
    for record in builder.nodes:
        if platforms.choose(platform, record.platforms, strict=True) is not None:
            return record.name, "declared"
    for record in builder.nodes:
        if any(platforms.choose(native, [platform]) is not None for native in reported(record)):
            return record.name, "native"
    return builder.nodes[0].name, "emulated: no native node"
