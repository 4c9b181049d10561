"""The default node: this machine, this process, no daemon."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, BinaryIO, Protocol

from polyarch.builder import here
from polyarch.builder.quota import keep_within
from polyarch.builder.report import NodeReport, Prune, Pruned, Usage
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.errors import NotFoundError
from polyarch.executor import cpu
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import Executor
from polyarch.graph.vertex import LAYOUT, LOCAL, ExecOp, Graph, ImageOp
from polyarch.image.cache_table import Layer as CachedLayer
from polyarch.image.sparse import SparseStore
from polyarch.layer.layer import Layer, Privilege
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.ops.make import operation
from polyarch.ops.result import Result
from polyarch.ops.session import ContextFiles, Session
from polyarch.ops.twins.mode import Mode
from polyarch.registry.client import Client
from polyarch.solver.cache import CacheStore, SqliteCache
from polyarch.solver.events import EventSink, ignore
from polyarch.solver.locks import FileLocks
from polyarch.solver.remote import ChainedCache, Elsewhere, Notes
from polyarch.solver.scheduler import Finding, Scheduler, Task

if TYPE_CHECKING:
    from polyarch.builder.ssh.transport import Ssh
    from polyarch.executor.runtimes import RuntimeExecutor
    from polyarch.export.cache_options import CacheFrom, CacheTo
    from polyarch.ops.twins.accelerator import Accelerator


@dataclass(frozen=True)
class Surroundings:
    """What the client of a node brings along: its directories, secrets, agents and proxy settings."""

    contexts: Mapping[str, ContextFiles] = field(default_factory=dict)
    secrets: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    agents: Mapping[str, Path] = field(default_factory=dict)
    proxies: tuple[str, ...] = ()
    allow: frozenset[str] = frozenset()
    runtime: str = ""
    pushes: tuple[str, ...] = ()  # repositories the image goes to: nodes far away may push there themselves
    cache_from: tuple[CacheFrom, ...] = ()  # for daemons, which read and write caches by themselves
    cache_to: tuple[CacheTo, ...] = ()
    accelerate: Mode = "auto"
    emulator_patience: float = 0
    resources: tuple[tuple[str, int | str], ...] = ()
    keep_going: bool = False
    begun: Mapping[str, Ssh] = field(default_factory=dict)  # connections to nodes that were begun before


class Imports(Elsewhere, Protocol):
    """Caches of other machines (``builder.cache_import.CacheImport``)."""

    def attach(self, layers: LayerStore, local: SparseStore) -> None:
        """Let ``layers`` find there what it does not have."""
        ...

    def find(self, id: str) -> tuple[str, CachedLayer] | None:
        """Where a layer can be had (as origins are written), and what is known of it."""
        ...


class _LazyPrivilege:
    """Starts the sandbox only when somebody really needs to own files."""

    def __init__(self, start: Callable[[], Privilege]) -> None:
        self._start = start

    def call(self, function: str, *arguments: object, files: Sequence[int] = ()) -> object:
        return self._start().call(function, *arguments, files=files)

    def open(self, path: Path) -> BinaryIO:
        return self._start().open(path)


class EmbeddedNode:
    """Solves graphs here. Implements ``Node``.

    It is also the home of every build (``builder.node``): ``layers``, ``notes`` and the local store serve
    results of all nodes. ``failures`` are, after ``solve``, what failed by vertex.
    """

    def __init__(
        self,
        state: State,
        local: SparseStore,
        client: Client,
        surroundings: Surroundings,
        imports: Imports | None = None,
        name: str = "default",
    ) -> None:
        self.name = name
        self.state = state
        self.local = local
        self.client = client
        self._around = surroundings
        self.imports = imports
        self._sandbox: Sandbox | None = None
        self._runtime: RuntimeExecutor | None = None
        self._settling: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.layers = LayerStore(state, local.layout, _LazyPrivilege(lambda: self.sandbox().privilege))
        self.layers.origin = local
        keep_within(state, local.layout, self.layers)
        known = SqliteCache(state.database)
        self._cache: CacheStore = known
        self.imported: ChainedCache | None = None
        self.notes = Notes(known, imports)
        self._schedulers: list[Scheduler] = []
        self.failures: Mapping[str, BaseException] = {}
        if imports is not None:
            self._cache = self.imported = ChainedCache(known, imports)
            imports.attach(self.layers, local)

    @property
    def platforms(self) -> Sequence[Platform]:
        return cpu.natives()

    def report(self, *, full: bool = False) -> NodeReport:
        """See ``Reports``."""
        return here.report(self.state, full=full)

    def usage(self, filters: Sequence[str] = ()) -> Sequence[Usage]:
        """See ``Keeps``."""
        return here.usage(self.state, filters)

    def prune(self, wanted: Prune) -> Pruned:
        """See ``Keeps``."""
        return here.prune(self.state, wanted)

    def sandbox(self) -> Sandbox:
        """The sandbox, started when first asked for."""
        with self._lock:
            if self._sandbox is None:
                self._sandbox = Sandbox.start(self.state)
            return self._sandbox

    def solve(
        self, graph: Graph, wanted: Sequence[str], events: EventSink, cancelled: Event
    ) -> Mapping[str, Rootfs]:
        locks = FileLocks(self.state.locks)
        processes = max(4, os.cpu_count() or 1)
        scheduler = Scheduler(
            self._cache,
            events,
            cancelled,
            processes=processes,
            locks=locks,
            keep_going=self._around.keep_going,
        )
        self.failures = scheduler.failures
        results = scheduler.solve(self._tasks(graph), wanted)
        self._schedulers.append(scheduler)
        found: dict[str, Rootfs] = {}
        for digest, result in results.items():
            assert isinstance(result, Result)
            found[digest] = result.rootfs
        self._settling.append(threading.Thread(target=self.layers.settle, name="settle"))
        self._settling[-1].start()  # beside the export, which waits for the disk as well
        return found

    @property
    def findings(self) -> Mapping[str, Finding]:
        """See ``Learns``."""
        return {digest: one for each in self._schedulers for digest, one in each.findings().items()}

    def findings_over(self, known: Callable[[str], str | None]) -> Mapping[str, Finding]:
        """See ``Scheduler.findings_over``."""
        return {d: one for each in self._schedulers for d, one in each.findings_over(known).items()}

    def expect(self, graph: Graph) -> None:
        """Get ready for ``graph``, which will be asked for soon."""
        if not self._around.runtime and any(isinstance(v.op, ExecOp) for v in graph.vertices.values()):
            self.sandbox().prepare()

    def preview(self, graph: Graph, wanted: Sequence[str]) -> list[tuple[str, str]]:
        """For each vertex needed (by digest): "source", "cached", or why it would run."""
        scheduler = Scheduler(self._cache, ignore, Event())
        return [
            (task.node.digest, verdict) for task, verdict in scheduler.preview(self._tasks(graph), wanted)
        ]

    def _tasks(self, graph: Graph) -> list[Task]:
        session = Session(
            state=self.state,
            layers=self.layers,
            cache=self._cache,
            contexts=self._around.contexts,
            origins=self.origin,
            executor=self._executor,
            secrets=self._around.secrets,
            agents=self._around.agents,
            proxies=self._around.proxies,
            allow=self._around.allow,
            accelerator=self._accelerator(graph),
            emulator_patience=self._around.emulator_patience,
            resources=self._around.resources,
        )
        return [
            Task(
                vertex,
                operation(vertex, session),
                graph.meta[digest].name,
                graph.meta[digest].slot,
                graph.meta[digest].ignore_cache,
            )
            for digest, vertex in graph.vertices.items()
        ]

    def _accelerator(self, graph: Graph) -> Accelerator | None:
        if self._around.accelerate == "off" or self._around.runtime:
            return None
        from polyarch.ops.twins.accelerator import Accelerator

        images = [vertex.op for vertex in graph.vertices.values() if isinstance(vertex.op, ImageOp)]
        return Accelerator(self.state, images, self._sibling, strict=self._around.accelerate == "strict")

    def _sibling(self, image: ImageOp, platform: Platform) -> Sequence[Layer] | None:
        """The layers of another variant of a base image; None when there is none."""
        from polyarch.proof.bases import BaseResolver

        resolver = BaseResolver(self.local, self.client)
        try:
            if image.origin.startswith(LAYOUT):
                digest = image.reference.partition("@")[2]
                found = resolver.in_layout(f"{image.origin.removeprefix(LAYOUT)}@{digest}", platform)
            else:
                found = resolver.image(image.reference, platform)
        except NotFoundError:
            return None
        return [
            self.layers.image_layer(descriptor, diff_id, self.origin(found.origin))
            for descriptor, diff_id in zip(found.layers, found.diff_ids, strict=True)
        ]

    def close(self) -> None:
        while self._settling:
            self._settling.pop().join()
        for started in (self._sandbox, self._runtime):
            if started is not None:
                started.close()

    def _executor(self) -> Executor:
        if not self._around.runtime:
            return self.sandbox()
        with self._lock:
            if self._runtime is None:
                from polyarch.executor.runtimes import RuntimeExecutor

                self._runtime = RuntimeExecutor(self._around.runtime, self.state)
            return self._runtime

    def origin(self, origin: str) -> Store:
        """What holds the layers of an image of that origin (see ``ImageOp``)."""
        if origin == LOCAL:
            return self.local
        if origin.startswith(LAYOUT):
            return Layout(Path(origin.removeprefix(LAYOUT)), create=False)
        return self.client.repository(Reference.parse(origin))


def base_origins(graph: Graph, local: SparseStore) -> dict[str, tuple[str, ...]]:
    """Where layers of base images can be had, by their digests: what an exporter need not upload."""
    found: dict[str, tuple[str, ...]] = {}
    for vertex in graph.vertices.values():
        if isinstance(vertex.op, ImageOp):
            for descriptor in vertex.op.layers:
                places = local.origins.places(descriptor.digest) if vertex.op.origin == LOCAL else ()
                if vertex.op.origin != LOCAL:
                    places = (vertex.op.origin,)
                found[descriptor.digest] = tuple(dict.fromkeys((*found.get(descriptor.digest, ()), *places)))
    return found
