"""Our graph as the daemon's: vertices become operations of BuildKit's low-level language.

An operation is named by the digest of its bytes, so they are written deterministically. Where our graph has
an empty root filesystem, theirs has no operation at all: an input of -1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from polyarch.builder.buildkit import llb_exec, llb_file, llb_sources
from polyarch.builder.buildkit.protocol import llb_pb2 as pb
from polyarch.graph.vertex import (
    ExecOp,
    FileOp,
    GitOp,
    Graph,
    HttpOp,
    ImageOp,
    InlineOp,
    LocalOp,
    MergeOp,
    Vertex,
)

EMPTY = -1  # as an input: an empty root filesystem
NAME = "llb.customname"


@dataclass(frozen=True)
class Translation:
    """A graph for the daemon. ``names`` says which of our vertices an operation is, by digest; ``empty`` are
    those of our vertices that have no layers and no operation; ``everything`` has all that is wanted behind
    it, and nothing else."""

    definitions: dict[str, pb.Definition]
    names: dict[str, str]
    empty: frozenset[str]
    everything: pb.Definition


@dataclass
class Writer:
    """The operations written so far. ``digests`` are those of our vertices' operations, "" where empty."""

    graph: Graph
    surroundings: llb_sources.Sources
    given: llb_exec.Given
    data: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, pb.OpMetadata] = field(default_factory=dict)
    below: dict[str, tuple[str, ...]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def put(self, op: pb.Op, *, name: str = "", fresh: bool = False, caps: Sequence[str] = ()) -> str:
        """Add an operation; its digest."""
        data = _bytes(op)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.data[digest] = data
        self.below[digest] = tuple(entry.digest for entry in op.inputs)
        meta = self.metadata.setdefault(digest, pb.OpMetadata())
        if name:
            meta.description[NAME] = name
        meta.ignore_cache = meta.ignore_cache or fresh
        for cap in (*caps, "constraints", *(("platform",) if op.HasField("platform") else ())):
            meta.caps[cap] = True
        return digest

    def vertex(self, vertex: Vertex) -> str:
        """Write a vertex whose inputs are written; the digest of its operation, "" where it is empty."""
        written = self.digests[vertex.digest] = self._write(vertex)
        if written:
            self.names.setdefault(written, vertex.digest)
        return written

    def _write(self, vertex: Vertex) -> str:
        meta = self.graph.meta[vertex.digest]
        inputs = [self.digests[entry.digest] for entry in vertex.inputs]
        match vertex.op:
            case ImageOp() as op:
                return self._source(llb_sources.image(op, self.surroundings), meta.name)
            case LocalOp() as op:
                return self._source(llb_sources.local(op, self.surroundings), meta.name)
            case HttpOp() as op:
                return self._source(llb_sources.http(op), meta.name)
            case GitOp() as op:
                return self._source(llb_sources.git(op), meta.name)
            case InlineOp() as op:
                return self.put(llb_file.inline(op), name=meta.name, caps=llb_file.CAPS)
            case MergeOp():
                return self.merged(inputs, meta.name)
            case FileOp() as op:
                if not op.actions:
                    return "" if op.detached else inputs[0]
                written = llb_file.file_op(op, inputs)
                caps = llb_file.caps(op)
                return self.put(written, name=meta.name, fresh=meta.ignore_cache, caps=caps)
            case ExecOp() as op:
                written = llb_exec.exec_op(op, inputs, self._seed, self.given)
                caps = llb_exec.caps(written)
                return self.put(written, name=meta.name, fresh=meta.ignore_cache, caps=caps)

    def _source(self, source: llb_sources.Source | None, name: str) -> str:
        if source is None:
            return ""
        op = pb.Op(source=pb.SourceOp(identifier=source.identifier, attrs=source.attributes))
        if source.platform is not None:
            op.platform.CopyFrom(llb_exec.platform(source.platform))
        return self.put(op, name=name, caps=source.caps)

    def merged(self, inputs: Sequence[str], name: str) -> str:
        """The digest of an operation that puts the layers of each of ``inputs`` above those before."""
        present = [digest for digest in inputs if digest]
        if len(present) < 2:
            return present[0] if present else ""
        merge = pb.MergeOp(inputs=[pb.MergeInput(input=number) for number in range(len(present))])
        op = pb.Op(inputs=[pb.Input(digest=digest) for digest in present], merge=merge)
        return self.put(op, name=name, caps=("mergeop",))

    def _seed(self, op: pb.Op, name: str) -> str:
        return self.put(op, name=name, caps=llb_file.CAPS)

    def definition(self, digest: str) -> pb.Definition:
        """The definition whose result is that of the operation ``digest``."""
        found: dict[str, None] = {}
        pending = [digest]
        while pending:
            current = pending.pop()
            if current not in found:
                found[current] = None
                pending.extend(self.below[current])
        definition = pb.Definition()
        for one in self.data:
            if one in found:
                definition.operations.append(self.data[one])
                definition.metadata[one].CopyFrom(self.metadata[one])
        last = pb.Op(inputs=[pb.Input(digest=digest)]).SerializeToString(deterministic=True)
        definition.operations.append(last)
        named = definition.metadata["sha256:" + hashlib.sha256(last).hexdigest()]
        named.caps["constraints"] = True
        return definition


def _bytes(op: pb.Op) -> bytes:
    """As the daemon would write it, which names an operation by what it writes itself: Go's encoder puts the
    one of several fields last, whatever its number."""
    rest = pb.Op()
    rest.CopyFrom(op)
    kind = op.WhichOneof("op")
    if kind is None:
        return rest.SerializeToString(deterministic=True)
    rest.ClearField(kind)
    last = pb.Op()
    getattr(last, kind).CopyFrom(getattr(op, kind))
    return rest.SerializeToString(deterministic=True) + last.SerializeToString(deterministic=True)


def translate(
    graph: Graph, wanted: Sequence[str], sources: llb_sources.Sources, given: llb_exec.Given
) -> Translation:
    """A definition for each of ``wanted``. UnsupportedError for what their language cannot say."""
    writer = Writer(graph, sources, given)
    for vertex in graph.reach(wanted).values():
        writer.vertex(vertex)
    written = {digest: writer.digests[digest] for digest in wanted}
    definitions = {digest: writer.definition(name) for digest, name in written.items() if name}
    empty = frozenset(digest for digest in wanted if digest not in definitions)
    operations = list(dict.fromkeys(writer.digests[digest] for digest in definitions))
    everything = writer.definition(writer.merged(operations, "everything")) if operations else pb.Definition()
    return Translation(definitions, writer.names, empty, everything)
