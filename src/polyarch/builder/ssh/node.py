"""A node on another machine, reached by ssh, as its client sees it. Implements ``Node``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from threading import Event
from typing import BinaryIO, cast

import msgspec

from polyarch.builder.embedded import EmbeddedNode, Surroundings
from polyarch.builder.instance import NodeRecord
from polyarch.builder.node import NodeLostError
from polyarch.builder.report import NodeReport, Prune, Pruned, Usage
from polyarch.builder.ssh import terms
from polyarch.builder.ssh.connection import Connection
from polyarch.builder.ssh.files import Incoming
from polyarch.builder.ssh.lending import Lender
from polyarch.builder.ssh.terms import BlobTerm, LayerTerm, Opening
from polyarch.builder.wire import faults
from polyarch.builder.wire.peer import Call, Peer
from polyarch.content.copy import Repository
from polyarch.content.verify import verified
from polyarch.errors import CancelledError, PolyarchError
from polyarch.graph.vertex import LAYOUT, LOCAL, Graph, ImageOp
from polyarch.layer import toc as tocs
from polyarch.layer.distant import DistantLayer
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.layer import Blob, Compression, Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.stored import Kind
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.solver.events import EventSink, Warning
from polyarch.solver.scheduler import Finding

_STOP_SECONDS = 10.0  # for which a node that was told to stop is waited for
_MAX_ANSWER = 1 << 30


class SshNode:
    """See ``Node``. NodeLostError when the host cannot be reached; while it works, a connection that breaks
    is mended behind the scenes."""

    def __init__(self, record: NodeRecord, home: EmbeddedNode, around: Surroundings) -> None:
        self.name = record.name
        self._home = home
        self._around = around
        self._lender = Lender(home, around)
        self._events: EventSink | None = None
        self._untold: list[str] = []
        self._opened = False
        self.failures: dict[str, BaseException] = {}
        self._lock = threading.Lock()
        begun = around.begun.get(record.name)
        self._connection = Connection(record, self._lender.handlers(), self._told, begun)
        self.platforms: Sequence[Platform] = tuple(
            Platform.parse(text) for text in self._connection.hello.platforms
        )
        self._holder = NodeHolder(self._connection.peer)
        home.local.held.append(self._holder)
        home.layers.elsewhere = _chained(home, self._holder)

    def close(self) -> None:
        """End the conversation, and everything that still runs for it there."""
        if self._holder in self._home.local.held:
            self._home.local.held.remove(self._holder)
            self._holder.forget()
        self._connection.close()

    # --- solving --------------------------------------------------------------------------------------------

    def solve(
        self, graph: Graph, wanted: Sequence[str], events: EventSink, cancelled: Event
    ) -> Mapping[str, Rootfs]:
        """See ``Node``."""
        self._events = events
        while self._untold:
            self._told(self._untold.pop(0))
        self._open()
        origins = self._lend(graph, wanted)
        call = self._send_graph("solve", graph, wanted)
        offset = self._connection.clock_offset
        try:
            while message := call.read(cancelled):
                events(terms.decode_event(message, offset))
            answer = call.result(cancelled)
        except CancelledError:
            self._stop(call)
            raise
        except NodeLostError:
            raise
        except PolyarchError:
            if self._around.keep_going:
                told = self._connection.peer.ask("failures")
                self.failures = {str(digest): faults.decode(data) for digest, data in told}
            raise
        found = msgspec.convert(answer, dict[str, list[LayerTerm]])
        return {
            digest: Rootfs([self._layer(layer, origins) for layer in layers])
            for digest, layers in found.items()
        }

    def preview(self, graph: Graph, wanted: Sequence[str]) -> Sequence[tuple[str, str]]:
        """See ``Previews``."""
        self._open()
        self._lend(graph, wanted)
        answer = self._send_graph("preview", graph, wanted).result()
        return msgspec.convert(answer, list[tuple[str, str]])

    def keep_imported(self) -> None:
        """See ``Crew.keep_imported``."""
        if self._opened and self._home.imports is not None:
            self._connection.peer.ask("keep")

    def _send_graph(self, method: str, graph: Graph, wanted: Sequence[str]) -> Call:
        call = self._connection.peer.call(method, list(wanted))
        call.write_all(terms.encode_graph(graph, wanted))
        call.end()
        return call

    def _open(self) -> None:
        """Tell once what this side brings along."""
        with self._lock:
            if self._opened:
                return
            around = self._around
            opening = Opening(
                contexts=tuple(around.contexts),
                secrets=tuple(around.secrets),
                agents=tuple(around.agents),
                proxies=around.proxies,
                allow=tuple(sorted(around.allow)),
                runtime=around.runtime,
                accelerate=around.accelerate,
                emulator_patience=around.emulator_patience,
                keep_going=around.keep_going,
                caches=self._home.imports is not None,
                insecure=tuple(sorted(self._home.client.config.insecure)),
                same_host=self._connection.same_host,
            )
            self._connection.peer.ask("open", msgspec.msgpack.encode(opening))
            self._opened = True

    def _lend(self, graph: Graph, wanted: Sequence[str]) -> dict[str, str]:
        """Let the node have the base images of the graph; the origin of each layer."""
        origins: dict[str, str] = {}
        for vertex in graph.reach(wanted).values():
            if not isinstance(vertex.op, ImageOp):
                continue
            places = [vertex.op.origin]
            for descriptor in vertex.op.layers:
                origins[descriptor.digest] = vertex.op.origin
                self._lender.lend_blob(vertex.op.origin, descriptor)
                if vertex.op.origin == LOCAL:
                    places += self._home.local.origins.places(descriptor.digest)
            for place in places:
                if place != LOCAL and not place.startswith(LAYOUT):
                    self._lender.lend_credentials(place.partition("/")[0])
        self._holder.lend_credentials = self._lender.lend_credentials
        return origins

    def _stop(self, call: Call) -> None:
        """Stop a solve there, and wait for that: nothing may run on when this returns."""
        try:
            call.cancel()
            deadline = Event()
            connected = self._connection.peer.link.connected
            timer = threading.Timer(_STOP_SECONDS if connected else 1.0, deadline.set)
            timer.daemon = True
            timer.start()
            try:
                while call.read(deadline):
                    pass
                call.result(deadline)
            finally:
                timer.cancel()
        except PolyarchError:
            pass  # that is what was asked for

    def _layer(self, term: LayerTerm, origins: Mapping[str, str]) -> Layer:
        layers = self._home.layers
        if term.kind == "image" and term.descriptor is not None:
            origin = self._home.origin(origins.get(term.descriptor.digest, LOCAL))
            if not term.held or layers.is_described(term.id):
                return layers.image_layer(term.descriptor, term.diff_id, origin)
            blob = Blob(term.descriptor, term.diff_id)
            return DistantLayer(layers, term.id, "image", self._holder, original=blob, origin=origin)
        here = layers.here(term.id)
        if here is not None:
            return here
        kind: Kind = "files" if term.kind == "files" else "step"
        return self._holder.layer(layers, term.id, kind)

    def _told(self, sentence: str) -> None:
        if self._events is not None:
            self._events(Warning("Node", sentence))
        else:
            self._untold.append(sentence)

    # --- the machine ----------------------------------------------------------------------------------------

    def report(self, *, full: bool = False) -> NodeReport:
        """See ``Reports``."""
        answer = self._connection.peer.ask("report", "full" if full else "")
        return msgspec.convert(answer, NodeReport)

    def usage(self, filters: Sequence[str] = ()) -> Sequence[Usage]:
        """See ``Keeps``."""
        call = self._connection.peer.call("usage", list(filters))
        data = call.read_all(_MAX_ANSWER)
        call.result()
        return msgspec.msgpack.decode(data, type=list[Usage])

    def prune(self, wanted: Prune) -> Pruned:
        """See ``Keeps``."""
        call = self._connection.peer.call("prune", msgspec.msgpack.encode(wanted))
        data = call.read_all(_MAX_ANSWER)
        call.result()
        return msgspec.msgpack.decode(data, type=Pruned)

    # --- what was learnt ------------------------------------------------------------------------------------

    @property
    def findings(self) -> Mapping[str, Finding]:
        """See ``Learns``."""
        if not self._opened:
            return {}
        return _findings(self._connection.peer.call("findings"))

    def findings_over(self, known: Callable[[str], str | None]) -> Mapping[str, Finding]:
        """See ``Learns``."""
        records = {key: known(key) for one in self.findings.values() for key in one.keys}
        call = self._connection.peer.call("findings-over", b"")
        call.write_all(msgspec.msgpack.encode({k: v for k, v in records.items() if v is not None}))
        call.end()
        return _findings(call)


def _findings(call: Call) -> dict[str, Finding]:
    data = call.read_all(_MAX_ANSWER)
    call.result()
    rows = msgspec.msgpack.decode(data, type=list[tuple[str, tuple[str, ...], str]])
    return {digest: Finding(keys, record) for digest, keys, record in rows}


def _chained(home: EmbeddedNode, holder: NodeHolder) -> Callable[[str], Layer | None]:
    """Layers that are unknown here may be known on a node: those between the results, for caches."""
    before = home.layers.elsewhere

    def elsewhere(id: str) -> Layer | None:
        return holder.known(id) or before(id)

    return elsewhere


class NodeHolder:
    """The layers a node holds, and their blobs. Implements ``layer.distant.Holder`` and ``Held``."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._layers: dict[str, DistantLayer] = {}
        self._blobs: dict[str, tuple[str, Compression]] = {}
        self.lend_credentials: Callable[[str], None] = lambda registry: None

    def layer(self, layers: object, id: str, kind: Kind) -> DistantLayer:
        """The layer ``id``, always the same object."""
        from polyarch.layer.store import LayerStore

        assert isinstance(layers, LayerStore)
        return self._layers.setdefault(id, DistantLayer(layers, id, kind, self))

    def forget(self) -> None:
        """The node is not there any more."""
        self._layers.clear()
        self._blobs.clear()

    def known(self, id: str) -> Layer | None:
        """A layer that was named before."""
        return self._layers.get(id)

    def toc(self, id: str) -> Toc:
        """See ``Holder``."""
        import zstandard

        call = self._peer.call("entries", id)
        data = call.read_all(_MAX_ANSWER)
        call.result()
        return tocs.decode(zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_ANSWER))

    def blob(self, id: str, compression: Compression) -> Blob:
        """See ``Holder``."""
        answer = self._peer.ask("make-blob", id, terms.encode_compression(compression))
        term = msgspec.convert(answer, BlobTerm)
        self._blobs[term.descriptor.digest] = (id, compression)
        return Blob(term.descriptor, term.diff_id)

    def file(self, id: str, entry: Entry) -> BinaryIO:
        """See ``Holder``."""
        return cast(BinaryIO, Incoming(self._peer.call("file", id, tocs.quoted(entry.path))))

    def content(self, id: str, blob: Blob, compression: Compression) -> BinaryIO:
        """See ``Holder``."""
        wanted = blob.descriptor
        call = self._peer.call("content", id, terms.encode_compression(compression), wanted.digest)
        return verified(cast(BinaryIO, Incoming(call)), wanted, where="a node")

    # --- as a store -----------------------------------------------------------------------------------------

    def exists(self, digest: str) -> bool:
        """See ``Held``."""
        return digest in self._blobs

    def open(self, wanted: Descriptor) -> BinaryIO:
        """See ``Held``."""
        id, compression = self._blobs[wanted.digest]
        return self.content(id, Blob(wanted, ""), compression)

    def deliver(self, wanted: Descriptor, target: Repository) -> bool:
        """See ``Held``."""
        id, compression = self._blobs[wanted.digest]
        self.lend_credentials(target.registry)
        place = f"{target.registry}/{target.name}"
        return bool(
            self._peer.ask("deliver", id, terms.encode_compression(compression), wanted.digest, place)
        )
