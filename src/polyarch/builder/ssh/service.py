"""What a node does for its client: solve graphs, and hand out what came of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import msgspec

from polyarch.builder import here
from polyarch.builder.embedded import EmbeddedNode, Surroundings
from polyarch.builder.report import NodeReport, Prune
from polyarch.builder.ssh import terms
from polyarch.builder.ssh.borrowed import Agents, BorrowedCache, BorrowedCredentials, BorrowedImages, Reach
from polyarch.builder.ssh.files import Contexts
from polyarch.builder.ssh.terms import BlobTerm, LayerTerm, Opening
from polyarch.builder.wire import faults
from polyarch.builder.wire.peer import CHUNK, Call, Handler, Peer
from polyarch.content.lease import Lease
from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.graph.vertex import Graph, ImageOp
from polyarch.image.locate import local_store
from polyarch.layer import toc as tocs
from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.stored import ImportedLayerError, StoredLayer
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.proof.preflight import Problem, check_executors, check_space, joined
from polyarch.registry.client import Client
from polyarch.registry.config import Config
from polyarch.solver.cache import SqliteCache
from polyarch.solver.events import EventSink, Warning


class HostedNode(EmbeddedNode):
    """The embedded node, solving for somebody else: images come from registries, or through the client."""

    images: Callable[[str], BorrowedImages]

    def origin(self, origin: str) -> Store:
        return self.images(origin)

    def _sibling(self, image: ImageOp, platform: Platform) -> Sequence[Layer] | None:
        try:
            return super()._sibling(image, platform)
        except PolyarchError:
            return None  # the registry may be out of reach from here


class Service:
    """Answers one client's calls with one embedded node."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._node: HostedNode | None = None
        self._client: Client | None = None
        self._reach: Reach | None = None
        self._layers: dict[str, Layer] = {}  # of results, so that they stay known
        self._solving = 0
        self.peer: Peer | None = None

    def handlers(self) -> Mapping[str, Handler]:
        """What a client may ask."""
        return {
            "open": self._open,
            "preview": self._preview,
            "solve": self._solve,
            "failures": self._failures,
            "findings": self._findings,
            "findings-over": self._findings_over,
            "keep": self._keep,
            "entries": self._entries,
            "make-blob": self._make_blob,
            "file": self._file,
            "content": self._content,
            "deliver": self._deliver,
            "report": self._report,
            "usage": self._usage,
            "prune": self._prune,
        }

    def close(self) -> None:
        """End what was started."""
        with self._lock:
            self._stack.close()
            self._node = None

    @property
    def node(self) -> HostedNode:
        """The node; PolyarchError before the client has opened it."""
        if self._node is None:
            raise PolyarchError("the client has not said what it brings along", reason="protocol")
        return self._node

    def _open(self, call: Call, data: bytes) -> None:
        opening = msgspec.msgpack.decode(data, type=Opening)
        peer = self.peer
        assert peer is not None
        with self._lock:
            self._stack.enter_context(Lease(self._state.leases))
            config = Config.from_environment()
            config = replace(
                config, insecure=config.insecure | set(opening.insecure), attempts=2, connect_timeout=5.0
            )
            client = Client(credentials=BorrowedCredentials(peer), config=config)
            self._client = self._stack.enter_context(client)
            self._reach = reach = Reach(client, same_host=opening.same_host)
            contexts = Contexts(peer, self._state, compress=not opening.same_host)
            self._stack.callback(contexts.files.close)
            agents = Agents(peer, opening.agents)
            self._stack.callback(agents.close)
            around = Surroundings(
                contexts={name: _opener(contexts, name) for name in opening.contexts},
                secrets={name: _asker(peer, name) for name in opening.secrets},
                agents=agents.sockets,
                proxies=opening.proxies,
                allow=frozenset(opening.allow),
                runtime=opening.runtime,
                accelerate=opening.accelerate,
                emulator_patience=opening.emulator_patience,
                keep_going=opening.keep_going,
            )
            imports = BorrowedCache(peer, reach) if opening.caches else None
            node = HostedNode(self._state, local_store(self._state, client), client, around, imports)
            node.images = lambda origin: BorrowedImages(peer, reach, origin)
            self._stack.callback(node.close)
            self._node = node

    # --- solving --------------------------------------------------------------------------------------------

    def _preview(self, call: Call, wanted: list[str]) -> list[tuple[str, str]]:
        graph = terms.decode_graph(call.read_all(terms.MAX_GRAPH))
        return self.node.preview(graph, wanted)

    def _solve(self, call: Call, wanted: list[str]) -> dict[str, list[LayerTerm]]:
        graph = terms.decode_graph(call.read_all(terms.MAX_GRAPH))
        node = self.node

        def send(event: Any) -> None:
            try:
                call.write(terms.encode_event(event))
            except PolyarchError:
                pass  # nobody listens any more; what runs is stopped by ``cancelled``

        self._check(graph, wanted, send)

        try:
            solved = node.solve(graph, wanted, send, call.cancelled)
        except ImportedLayerError:
            node.layers.forget_imported()
            if node.imported is not None:
                node.imported.forget()
            raise
        return {digest: [self._term(layer) for layer in rootfs.layers] for digest, rootfs in solved.items()}

    def _check(self, graph: Graph, wanted: Sequence[str], events: EventSink) -> None:
        """Refuse at once what this machine could not do later, unless it need not."""
        found = check_executors(graph, SqliteCache(self._state.database))
        problems = [one for one in found if isinstance(one, Problem)]
        space = check_space(graph, self._state, self.node.local.layout)
        if isinstance(space, Problem):
            raise space.error
        if space.state == "warning":
            events(Warning("Preflight", f"the node's disk: {space.detail}"))
        if not problems:
            return
        verdicts = self.node.preview(graph, wanted)
        running = {digest for digest, verdict in verdicts if verdict not in ("cached", "source")}
        problems = [problem for problem in problems if running.intersection(problem.vertices)]
        if problems:
            raise joined(problems)

    def _term(self, layer: Layer) -> LayerTerm:
        if not isinstance(layer, StoredLayer):
            layer = layer.whole()  # type: ignore[attr-defined]  # a context as it is
        self._layers[layer.id] = layer
        layers = self.node.layers
        assert isinstance(layer, StoredLayer)
        if layer.kind != "image" or layer.original is None:
            return LayerTerm(layer.id, layer.kind, held=True)
        held = layers.existing_tree(layer.id) is not None or layers.at_hand(layer)
        return LayerTerm(layer.id, "image", held, layer.original.descriptor, layer.original.diff_id)

    def _failures(self, call: Call) -> list[tuple[str, bytes]]:
        """Everything that failed in the last solve, by vertex, where it was to keep going."""
        return [(digest, faults.encode(error)) for digest, error in self.node.failures.items()]

    def _findings(self, call: Call) -> None:
        """Keys and records of all results so far."""
        found = [(digest, one.keys, one.record) for digest, one in self.node.findings.items()]
        call.write_all(msgspec.msgpack.encode(found))

    def _findings_over(self, call: Call, data: bytes) -> None:
        """The same over others' results, which come along: records by key."""
        known = msgspec.msgpack.decode(call.read_all(terms.MAX_GRAPH), type=dict[str, str])
        over = self.node.findings_over(known.get)
        call.write_all(msgspec.msgpack.encode([(d, one.keys, one.record) for d, one in over.items()]))

    def _keep(self, call: Call) -> None:
        """The build has shown that what came from caches elsewhere is good."""
        if self.node.imported is not None:
            self.node.imported.keep()

    # --- layers ---------------------------------------------------------------------------------------------

    def _layer(self, id: str) -> Layer:
        layer = self._layers.get(id) or self.node.layers.load(id)
        if layer is None:
            raise NotFoundError(f"the layer {id} is not on the node any more", reason="layer-gone")
        return layer

    def _entries(self, call: Call, id: str) -> None:
        import zstandard

        toc = self._layer(id).toc()
        call.write_all(zstandard.ZstdCompressor(level=1).compress(tocs.encode(toc)))

    def _make_blob(self, call: Call, id: str, compression: list[Any]) -> BlobTerm:
        blob = self._layer(id).blob(terms.decode_compression(compression))
        return BlobTerm(blob.descriptor, blob.diff_id)

    def _file(self, call: Call, id: str, path: str) -> None:
        rootfs = Rootfs((self._layer(id),))
        with rootfs.open(tocs.unquoted(path)) as stream:
            _send(call, stream)

    def _content(self, call: Call, id: str, compression: list[Any], digest: str) -> None:
        """A blob of a layer, made again where it is gone."""
        descriptor = self._blob(id, compression, digest)
        with self.node.local.open(descriptor) as stream:
            _send(call, stream)

    def _blob(self, id: str, compression: list[Any], digest: str) -> Descriptor:
        layer = self._layer(id)
        original = layer.original if isinstance(layer, StoredLayer) else None
        if original is not None and original.descriptor.digest == digest:
            layer.toc()  # brings it here
            return original.descriptor
        blob = layer.blob(terms.decode_compression(compression))
        if blob.descriptor.digest != digest:
            raise NotFoundError(f"{digest} is not on the node any more", reason="layer-gone")
        return blob.descriptor

    def _deliver(self, call: Call, id: str, compression: list[Any], digest: str, repository: str) -> bool:
        """Push a blob of a layer from here; False where the registry is out of reach."""
        reach = self._reach
        assert reach is not None
        target = reach.store(repository)
        if target is None:
            return False
        descriptor = self._blob(id, compression, digest)
        try:
            with self.node.local.open(descriptor) as stream:
                target.push(stream, descriptor)
        except PolyarchError as error:
            reach.failed(repository, error)
            return False
        return True

    # --- the machine ----------------------------------------------------------------------------------------

    def _report(self, call: Call, what: str) -> NodeReport:
        return here.report(self._state, full=what == "full")

    def _usage(self, call: Call, filters: list[str]) -> None:
        call.write_all(msgspec.msgpack.encode(here.usage(self._state, filters)))

    def _prune(self, call: Call, data: bytes) -> None:
        pruned = here.prune(self._state, msgspec.msgpack.decode(data, type=Prune))
        call.write_all(msgspec.msgpack.encode(pruned))


def _send(call: Call, stream: Any) -> None:
    while piece := stream.read(CHUNK):
        call.write(piece)


def _opener(contexts: Contexts, name: str) -> Callable[[Any], Rootfs]:
    return lambda store: contexts.open(name, store)


def _asker(peer: Peer, name: str) -> Callable[[], bytes]:
    def ask() -> bytes:
        answer = peer.ask("secret", name)
        return bytes(answer)

    return ask
