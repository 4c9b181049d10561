"""A node that is a BuildKit daemon: our graph goes there, and what it makes becomes known here."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from threading import Event, Lock

from polyarch.builder.buildkit import attachables, needs
from polyarch.builder.buildkit.caches import Caches
from polyarch.builder.buildkit.contents import EXPORT, IMAGES, Contents
from polyarch.builder.buildkit.daemon import Daemon
from polyarch.builder.buildkit.facts import Facts
from polyarch.builder.buildkit.filesync import Directories, Listing, wanted_roots
from polyarch.builder.buildkit.llb import Translation, translate
from polyarch.builder.buildkit.llb_exec import Given
from polyarch.builder.buildkit.llb_sources import Sources, local_name
from polyarch.builder.buildkit.progress import Progress
from polyarch.builder.buildkit.protocol import control_pb2 as control
from polyarch.builder.buildkit.results import Bases, exported, image_rootfs, read_result, rootfs_of
from polyarch.builder.buildkit.session import Session
from polyarch.builder.buildkit.solving import solve
from polyarch.builder.embedded import EmbeddedNode, Surroundings
from polyarch.builder.handover import Handed, Image
from polyarch.builder.instance import NodeRecord
from polyarch.builder.node import NodeLostError
from polyarch.builder.report import NodeReport, Prune, Pruned, Usage
from polyarch.content.store import Store
from polyarch.errors import CancelledError, PolyarchError, UsageError
from polyarch.graph.vertex import Graph, ImageOp
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.ops.session import ContextFiles
from polyarch.solver.events import EventSink, Warning

_AT_ONCE = 16


def open_node(record: NodeRecord, home: EmbeddedNode, surroundings: Surroundings) -> BuildKitNode:
    """The daemon of a record with the driver ``remote`` or ``docker-engine`` (this machine's engine or
    another's). NodeLostError when it does not answer."""
    try:
        daemon = Daemon(record.endpoint, record.driver_opts, engine=record.driver == "docker-engine")
    except PolyarchError as error:
        if error.reason != "node-unreachable":
            raise
        raise _lost(record.name, error) from None
    push = record.driver_opts.get("push", "auto")
    node = BuildKitNode(record.name, daemon, home, surroundings, push=push)
    try:
        _ = node.platforms
    except BaseException:
        node.close()
        raise
    return node


def _lost(name: str, error: PolyarchError) -> NodeLostError:
    return NodeLostError(name, f"node {name}: {error.summary}", detail=error.detail, hint=error.hint)


class BuildKitNode:
    """Solves graphs in a daemon. Implements ``Node``, ``Reports``, ``Keeps`` and ``HasFrontend``.

    What a build makes is exported into the home's store; blobs that are there, and layers of base images, do
    not travel. ``push`` says who sends it to a registry: the client, or the daemon, by digest; "auto" is the
    daemon where it is on another machine.
    """

    def __init__(
        self,
        name: str,
        daemon: Daemon,
        home: EmbeddedNode,
        surroundings: Surroundings,
        *,
        push: str = "auto",
    ) -> None:
        self.name = name
        self._daemon = daemon
        self._home = home
        self._around = surroundings
        self._facts = Facts(daemon)
        if push not in ("auto", "client", "daemon"):
            raise UsageError(
                f"node {name}: push={push}", hint="push is auto, client or daemon", reason="invalid-option"
            )
        far = push == "daemon" or (push == "auto" and not daemon.near)
        self.pushes = surroundings.pushes if far else ()
        self.caches = Caches(surroundings.cache_from, surroundings.cache_to)

    @property
    def platforms(self) -> Sequence[Platform]:
        try:
            return self._facts.natives
        except PolyarchError as error:
            raise _lost(self.name, error) from None

    def report(self, *, full: bool = False) -> NodeReport:
        """See ``Reports``."""
        return self._facts.report()

    def usage(self, filters: Sequence[str] = ()) -> Sequence[Usage]:
        """See ``Keeps``."""
        return self._facts.usage(filters)

    def prune(self, wanted: Prune) -> Pruned:
        """See ``Keeps``."""
        return self._facts.prune(wanted)

    def close(self) -> None:
        self._daemon.close()

    def solve(
        self, graph: Graph, wanted: Sequence[str], events: EventSink, cancelled: Event
    ) -> Mapping[str, Rootfs]:
        found: dict[str, Rootfs] = {}
        todo: list[str] = []
        for digest in dict.fromkeys(wanted):
            op = graph.vertices[digest].op
            if isinstance(op, ImageOp):
                found[digest] = image_rootfs(op, self._home)
            else:
                todo.append(digest)
        if todo:
            natives = tuple(self.platforms)
            sources = Sources()
            given = Given(self._around.proxies, frozenset(self._around.agents))
            translation = translate(graph, todo, sources, given)
            found.update((digest, Rootfs()) for digest in translation.empty)
            progress = Progress(graph, translation.names, events, natives)
            imports = self.caches.read(events)
            work = _Solve(self, graph, translation, progress, cancelled, events, imports)
            found.update(work.run(sources))
        return found

    def frontend(
        self, given: Handed, wanted: tuple[Platform, ...], events: EventSink, cancelled: Event
    ) -> Sequence[Image]:
        """See ``HasFrontend``."""
        from polyarch.builder.buildkit import frontend

        return frontend.build(self, given, wanted, events, cancelled)

    # --- for one solve --------------------------------------------------------------------------------------

    @property
    def daemon(self) -> Daemon:
        """The connection."""
        return self._daemon

    @property
    def home(self) -> EmbeddedNode:
        """Where results become known."""
        return self._home

    @property
    def entitlements(self) -> list[str]:
        """What steps are allowed."""
        return sorted(self._around.allow)

    @property
    def contexts(self) -> Mapping[str, ContextFiles]:
        """The client's directories."""
        return self._around.contexts

    def open_session(self, contents: Contents, directories: Directories) -> Session:
        """A session with everything the daemon may ask for. NodeLostError when it does not answer."""
        offers = [
            directories.offer(),
            contents.offer(),
            attachables.Registries(self._home.client).offer(),
            attachables.secrets(self._around.secrets),
            attachables.agents(self._around.agents),
        ]
        try:
            return Session(self._daemon, offers, shared_key=_shared_key(self._home))
        except PolyarchError as error:
            raise NodeLostError(self.name, error.summary, detail=error.detail, hint=error.hint) from None

    def directories(self, graph: Graph, wanted: Collection[str]) -> Directories:
        """The contexts, and of each what the graph reads."""
        listings: dict[str, Callable[[], Listing]] = {}
        for name, paths in needs.needed(graph, wanted).items():
            if name in self._around.contexts:
                opener = self._around.contexts[name]
                listings[local_name(name)] = partial(_listing, opener, self._home, paths)
        return Directories(listings)


@dataclass
class _Solve:
    """The requests of one graph, side by side, with one session for all."""

    node: BuildKitNode
    graph: Graph
    translation: Translation
    progress: Progress
    cancelled: Event
    events: EventSink
    imports: Sequence[control.CacheOptionsEntry] = ()

    def run(self, sources: Sources) -> dict[str, Rootfs]:
        """The root filesystems by vertex. The first failure stops all and is raised."""
        home = self.node.home
        bases = Bases(self.graph, home)
        layout = home.layers.content
        stores: dict[str, Store] = {
            f"{IMAGES}{name}": home.origin(origin) for name, origin in sources.stores.items()
        }
        contents = Contents(
            {EXPORT: layout, **self.node.caches.stores()},
            stores,
            lambda digest: digest in bases.digests or layout.exists(digest),
        )
        for vertex in self.graph.vertices.values():
            if isinstance(vertex.op, ImageOp):
                contents.sizes.update((layer.digest, layer.size) for layer in vertex.op.layers)
        directories = self.node.directories(self.graph, self.translation.definitions)
        session = self.node.open_session(contents, directories)
        stop = _Stop(self.cancelled)
        try:
            self._write_caches(session, stop)
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="buildkit") as pool:
                running = {
                    digest: pool.submit(self._one, digest, session, bases, stop)
                    for digest in self.translation.definitions
                }
                return self._collect(running, stop)
        finally:
            session.close()

    def _write_caches(self, session: Session, stop: Event) -> None:
        """Let the daemon write its caches: of everything at once, for one request would replace another's,
        and first, for what it has just done it tells by names that mean nothing elsewhere."""
        caches = self.node.caches
        if entries := caches.written():
            request = control.SolveRequest(
                definition=self.translation.everything,
                cache=control.CacheOptions(imports=self.imports, exports=entries),
                entitlements=self.node.entitlements,
            )
            caches.name(self._ask(request, session, stop))

    def _push(self, digest: str, repository: str, session: Session, stop: Event) -> None:
        """Let the daemon put the layers where the image goes, by digest; the client finds them there, or puts
        them there itself."""
        attributes = {"name": repository, "push": "true", "push-by-digest": "true", "name-canonical": "true"}
        if self.node.home.client.config.is_insecure(Reference.parse(repository).registry):
            attributes["registry.insecure"] = "true"
        request = control.SolveRequest(
            definition=self.translation.definitions[digest],
            exporter="image",
            exporter_attrs={**attributes, "oci-mediatypes": "true", "store": "false"},
            entitlements=self.node.entitlements,
        )
        try:
            self._ask(request, session, stop)
        except (CancelledError, NodeLostError):
            raise
        except PolyarchError as error:
            message = (
                f"node {self.node.name} cannot push to {repository}, so this machine does: {error.summary}"
            )
            self.events(Warning("NodePush", message))

    def _ask(self, request: control.SolveRequest, session: Session, stop: Event) -> dict[str, str]:
        node = self.node
        return solve(node.daemon, session, request, self.progress, stop, graph=self.graph, node=node.name)

    def _collect(self, running: Mapping[str, Future[Rootfs]], stop: _Stop) -> dict[str, Rootfs]:
        failure: BaseException | None = None
        try:
            pending = set(running.values())
            while pending:
                done, pending = wait(pending, timeout=0.1, return_when="FIRST_COMPLETED")
                for future in done:
                    error = future.exception()
                    if error is not None:
                        stop.set()
                        if failure is None or isinstance(failure, CancelledError):
                            failure = error
        except BaseException:  # Ctrl-C too: leaving the pool waits for what runs
            stop.set()
            raise
        if failure is not None:
            raise failure
        return {digest: future.result() for digest, future in running.items()}

    def _one(self, digest: str, session: Session, bases: Bases, stop: Event) -> Rootfs:
        request = control.SolveRequest(
            definition=self.translation.definitions[digest],
            exporter="oci",
            exporter_attrs={"tar": "false", "oci-mediatypes": "true"},
            cache=control.CacheOptions(imports=self.imports),
            entitlements=self.node.entitlements,
        )
        node = self.node
        root = exported(self._ask(request, session, stop), "image")
        for repository in node.pushes:
            self._push(digest, repository, session, stop)
        _, manifest, config = next(read_result(node.home.layers.content, root))
        return rootfs_of(manifest, config, bases, node.home)


class _Stop(Event):
    """Set when one request has failed, or when the whole build is to stop."""

    def __init__(self, whole: Event) -> None:
        super().__init__()
        self._whole = whole
        self._lock = Lock()

    def is_set(self) -> bool:
        return super().is_set() or self._whole.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        if self.is_set():
            return True
        super().wait(timeout)
        return self.is_set()


def _listing(opener: ContextFiles, home: EmbeddedNode, paths: frozenset[str]) -> Listing:
    rootfs = opener(home.layers)
    return Listing(rootfs, wanted_roots(rootfs, paths))


def _shared_key(home: EmbeddedNode) -> str:
    """By what the daemon finds again the files this client sent last time."""
    text = f"{home.state.root.absolute()}\n{os.getcwd()}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
