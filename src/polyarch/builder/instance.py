"""Builders and their nodes, as they are recorded."""

from __future__ import annotations

import msgspec

from polyarch.oci.platform import Platform


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node as it was declared. ``endpoint`` is empty for this machine."""

    name: str
    endpoint: str = ""
    driver: str = "embedded"
    platforms: tuple[Platform, ...] = ()
    driver_opts: dict[str, str] = {}
    flags: tuple[str, ...] = ()


class Builder(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named set of nodes."""

    name: str
    driver: str = "embedded"
    nodes: tuple[NodeRecord, ...] = ()


DEFAULT = Builder(name="default", nodes=(NodeRecord(name="default"),))
