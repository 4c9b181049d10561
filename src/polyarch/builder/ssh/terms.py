"""The words of the protocol: graphs, events and layers as they travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import msgspec

from polyarch.errors import ContentError
from polyarch.graph.vertex import AnyOp, Graph, Vertex, VertexMeta
from polyarch.layer.layer import Compression
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.ops.twins.mode import Mode
from polyarch.solver import events
from polyarch.solver.events import Event

MAX_GRAPH = 64 << 20  # bytes


class _Row(msgspec.Struct, frozen=True, array_like=True):
    op: AnyOp
    inputs: tuple[int, ...]
    name: str
    slot: str
    platform: Platform | None
    ignore_cache: bool


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What a client brings along; of secrets and agents only the names."""

    contexts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    runtime: str = ""
    accelerate: Mode = "auto"
    emulator_patience: float = 0
    keep_going: bool = False
    caches: bool = False
    insecure: tuple[str, ...] = ()
    same_host: bool = False


class LayerTerm(msgspec.Struct, frozen=True, array_like=True):
    """A layer of a result. ``held`` says that its entries and files can be had from the node; ``descriptor``
    is that of an image's layer."""

    id: str
    kind: str
    held: bool
    descriptor: Descriptor | None = None
    diff_id: str = ""


class BlobTerm(msgspec.Struct, frozen=True, array_like=True):
    """A blob that was made on the node."""

    descriptor: Descriptor
    diff_id: str


def encode_graph(graph: Graph, wanted: Sequence[str]) -> bytes:
    """What ``wanted`` needs of the graph."""
    needed = graph.reach(wanted)
    places = {digest: number for number, digest in enumerate(needed)}
    rows = []
    for digest, vertex in needed.items():
        meta = graph.meta[digest]
        inputs = tuple(places[source.digest] for source in vertex.inputs)
        rows.append(_Row(vertex.op, inputs, meta.name, meta.slot, meta.platform, meta.ignore_cache))
    return msgspec.msgpack.encode(rows)


def decode_graph(data: bytes) -> Graph:
    """ContentError for what is no graph."""
    try:
        rows = msgspec.msgpack.decode(data, type=list[_Row])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ContentError(f"the graph cannot be read: {error}", reason="protocol") from None
    graph = Graph()
    vertices: list[Vertex] = []
    for row in rows:
        if any(not 0 <= number < len(vertices) for number in row.inputs):
            raise ContentError("the graph cannot be read: an input is not there", reason="protocol")
        vertex = Vertex(row.op, tuple(vertices[number] for number in row.inputs))
        vertices.append(vertex)
        graph.add(vertex, VertexMeta(row.name, row.slot, None, row.platform, row.ignore_cache))
    return graph


_EVENTS: tuple[type[Any], ...] = (
    events.VertexStarted,
    events.VertexCompleted,
    events.VertexLog,
    events.VertexStatus,
    events.Warning,
)
_NUMBERS = {kind: number for number, kind in enumerate(_EVENTS)}
_NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in _EVENTS}


def encode_event(event: Event) -> bytes:
    """An event as its kind's number and fields."""
    kind = type(event)
    return msgspec.msgpack.encode((_NUMBERS[kind], [getattr(event, name) for name in _NAMES[kind]]))


def decode_event(data: bytes, clock_offset: float) -> Event:
    """The event, its time by this side's clock. ContentError for anything else."""
    try:
        number, values = msgspec.msgpack.decode(data, type=tuple[int, list[Any]])
        kind = _EVENTS[number]
        given = dict(zip(_NAMES[kind], values, strict=True))
        if "time" in given:
            given["time"] = float(given["time"]) + clock_offset
        event: Event = msgspec.convert(given, kind)
        return event
    except (msgspec.MsgspecError, IndexError, ValueError, TypeError) as error:
        raise ContentError(f"the node said what nobody understands: {error}", reason="protocol") from None


def encode_compression(compression: Compression) -> list[Any]:
    """A compression as plain values."""
    return [compression.kind, compression.level, compression.force, compression.clamp_mtime]


def decode_compression(values: Sequence[Any]) -> Compression:
    """What ``encode_compression`` gave."""
    kind, level, force, clamp = values
    return msgspec.convert({"kind": kind, "level": level, "force": force, "clamp_mtime": clamp}, Compression)
