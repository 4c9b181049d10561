"""What a node tells of itself and of what it keeps; the same for every driver, and fit to be sent as JSON.

A ``Node`` that can answer implements ``Reports`` and ``Keeps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform

Kind = Literal["image", "blob", "layer", "cachemount", "source", "upload", "temporary"]
KINDS: tuple[Kind, ...] = ("image", "blob", "layer", "cachemount", "source", "upload", "temporary")
Status = Literal["running", "inactive", "stopped", "error"]


class GcRule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a daemon collects garbage by itself. Sizes are bytes, 0 where there is no such limit; ``keep`` is
    how many seconds of rest spare a record."""

    everything: bool = False
    filters: tuple[str, ...] = ()
    keep: float = 0.0
    reserved: int = 0
    max_used: int = 0
    min_free: int = 0


class NodeReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node's facts. Numbers are 0 and texts empty where the node does not say. Sizes are bytes.

    ``native`` come best first, the first is the node's own platform; ``emulated`` need an emulator, which is
    there. ``cache`` is what everything takes that the node keeps. ``missing`` names what the node lacks, a
    line each. Of a node with the status "error", ``error`` and ``hint`` say what is wrong.
    """

    status: Status = "running"
    version: str = ""
    native: tuple[Platform, ...] = ()
    emulated: tuple[Platform, ...] = ()
    cpus: int = 0
    memory: int = 0
    disk_total: int = 0
    disk_free: int = 0
    cache: int = 0
    labels: dict[str, str] = {}
    missing: tuple[str, ...] = ()
    rules: tuple[GcRule, ...] = ()
    error: str = ""
    hint: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something a node keeps. ``kind`` is one of ``KINDS``, "records" or, of BuildKit, its own record type;
    ``used_ns`` and ``created_ns`` are nanoseconds since 1970, 0 when unknown."""

    id: str
    kind: str
    size: int = 0
    description: str = ""
    used_ns: int = 0
    created_ns: int = 0
    uses: int = 0
    shared: bool = False
    in_use: bool = False
    reclaimable: bool = True
    path: str = ""


class Prune(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to remove. ``filters`` are texts as ``polyarch du --filter`` has them; sizes are bytes, None where
    there is no such limit."""

    everything: bool = False
    filters: tuple[str, ...] = ()
    max_used: int | None = None
    reserved: int | None = None
    min_free: int | None = None
    dry_run: bool = False


class Pruned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was removed. ``size`` is how much that freed, ``kept`` what was spared as in use."""

    items: tuple[Usage, ...] = ()
    size: int = 0
    kept: int = 0


@runtime_checkable
class Reports(Protocol):
    """A node that tells its facts."""

    def report(self, *, full: bool = False) -> NodeReport:
        """The node's facts now; with ``full`` also what takes long to find out: the cache's size and what is
        missing. Raises PolyarchError where it does not answer."""
        ...


@runtime_checkable
class Keeps(Protocol):
    """A node that keeps things, and can be told to remove some."""

    def usage(self, filters: Sequence[str] = ()) -> Sequence[Usage]:
        """Everything it keeps that the filters let through."""
        ...

    def prune(self, wanted: Prune) -> Pruned:
        """Remove what is wanted and nobody uses."""
        ...


def split(offered: Sequence[Platform]) -> tuple[tuple[Platform, ...], tuple[Platform, ...]]:
    """A daemon's platforms as native and emulated ones: it names its own first, and then what it runs in any
    way."""
    native = [one for one in offered if platforms.choose(offered[0], [one]) is not None]
    levels = [one for one in offered if one not in native and _level_of(one, offered[0])]
    known = (*native, *levels)
    return known, tuple(one for one in offered if one not in known)


def _level_of(platform: Platform, own: Platform) -> bool:
    """Whether ``platform`` is a level of the machine's own architecture, such as linux/amd64/v3."""
    return (platform.os, platform.architecture) == (own.os, own.architecture)
