"""The nodes of one build: which platforms each makes, and all of them at work side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from threading import Event, RLock, Thread

import msgspec

from polyarch.builder.booting import Booting
from polyarch.builder.connect import connect
from polyarch.builder.embedded import EmbeddedNode, Surroundings
from polyarch.builder.instance import Builder, NodeRecord
from polyarch.builder.node import Learns, Node, NodeLostError, Previews
from polyarch.builder.report import Reports
from polyarch.errors import CancelledError, NotFoundError, PolyarchError
from polyarch.graph.vertex import Graph
from polyarch.layer.rootfs import Rootfs
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.solver import events as solver_events
from polyarch.solver.events import EventSink, Planned, VertexCompleted, VertexStarted, Warning
from polyarch.solver.scheduler import Finding


@dataclass(frozen=True)
class Share:
    """What one node makes of a build, and of each platform why it is this node, "" where there was no choice.

    ``natives`` are what runs on it without emulation; the first is its ``$BUILDPLATFORM``. ``here`` says that
    the node is this machine. ``silent`` says why the node could not be asked, which only a plan can bear.
    """

    node: str
    platforms: tuple[Platform, ...]
    natives: tuple[Platform, ...]
    reasons: tuple[str, ...] = ()
    here: bool = False
    silent: str = ""

    def reason(self, platform: Platform) -> str:
        """Why the node makes ``platform``."""
        return dict(zip(self.platforms, self.reasons, strict=False)).get(platform, "")

    def runs_natively(self, platform: Platform) -> bool:
        """Whether the node's processor executes programs of ``platform``."""
        return any(platforms.choose(native, [platform]) is not None for native in self.natives)


@dataclass(frozen=True)
class Work:
    """A share with what is to be solved for it."""

    share: Share
    graph: Graph
    wanted: tuple[str, ...]


Replan = Callable[
    [Sequence[Share]], Sequence[Work]
]  # shares that were taken over → what is to be solved for them


class Crew:
    """A builder's nodes as one build uses them. A node is reached when first needed; closing closes all.

    ``findings`` and ``findings_over`` are those of all nodes together. With ``keep_going`` a failure stops no
    other node; ``failures`` are then all there were, by vertex. Thread-safe.
    """

    def __init__(
        self,
        builder: Builder,
        home: EmbeddedNode,
        surroundings: Surroundings,
        fallback: str = "",
        *,
        keep_going: bool = False,
        only_plan: bool = False,
    ) -> None:
        self.home = home
        self._builder = builder
        self._around = surroundings
        self._nodes: dict[str, Node] = {}
        self._lost: dict[str, NodeLostError] = {}
        self._natives: dict[str, tuple[Platform, ...]] = {}
        self._fallback = fallback
        self._only_plan = only_plan
        self._silent: dict[str, str] = {}
        self._keep_going = keep_going
        self.failures: dict[str, BaseException] = {}
        self._lock = RLock()
        self._events: EventSink = solver_events.ignore
        self._emulated: dict[str, Sequence[Platform]] = {}
        self._reaching: dict[str, RLock] = {}
        self._unreached: dict[str, PolyarchError] = {}

    def close(self) -> None:
        """Close every node that was reached."""
        with self._lock:
            nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            if node is not self.home:
                node.close()
        self.home.close()

    def node(self, name: str) -> Node:
        """The node called ``name``, reached if it was not. NodeLostError when it was given up."""
        with self._lock:
            reaching = self._reaching.setdefault(name, RLock())
        with reaching:  # nodes are reached side by side
            if name in self._lost:
                raise self._lost[name]
            if name in self._unreached:
                raise self._unreached.pop(name)
            if name not in self._nodes:
                with Booting(name, self._events) as booting:
                    node = connect(self._record(name), self.home, self._around, booting.tell)
                with self._lock:
                    self._nodes[name] = node
            return self._nodes[name]

    def _reach(self, names: Iterable[str]) -> None:
        """Reach several nodes at once; what goes wrong is raised when one is used."""

        def reach(name: str) -> None:
            try:
                self.node(name)
            except PolyarchError as error:
                self._unreached[name] = error  # for whoever uses it

        threads = [Thread(target=reach, args=(name,), name=f"reach-{name}", daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _record(self, name: str) -> NodeRecord:
        for record in self._builder.nodes:
            if record.name == name:
                return record
        raise NotFoundError(f"the builder {self._builder.name} has no node {name!r}", reason="node-not-found")

    # --- the division ---------------------------------------------------------------------------------------

    def shares(self, wanted: Sequence[Platform], events: EventSink) -> tuple[Share, ...]:
        """Which node makes which of ``wanted``. A node that cannot be reached is warned of, and others take
        its platforms; NodeLostError where none can."""
        self._events = events
        while True:
            alive = [record for record in self._builder.nodes if record.name not in self._lost]
            if not alive:
                raise _hopeless(next(iter(self._lost.values())), "")
            try:
                shares = self._divide(wanted, alive)
            except NodeLostError as error:
                if error.node in self._lost:
                    raise  # nobody is left
                self.give_up(error)
                if len(alive) > 1:
                    events(Warning("NodeLost", f"{error.summary}; others take its part"))
                continue
            self._check_replacements(shares)
            return shares

    def _divide(self, wanted: Sequence[Platform], alive: Sequence[NodeRecord]) -> tuple[Share, ...]:
        if not wanted:
            reason = "" if len(self._builder.nodes) == 1 else "the first node"
            return (self._share(alive[0], (), (reason,)),)
        if len(alive) == 1:
            reason = "" if len(self._builder.nodes) == 1 else "the only node left"
            return (self._share(alive[0], wanted, (reason,) * len(wanted)),)
        from polyarch.builder.choose import assign

        builder = msgspec.structs.replace(self._builder, nodes=tuple(alive))
        chosen = assign(builder, wanted, self._natives_of, self._emulated_by)
        self._reach([one.node.name for one in chosen])
        return tuple(self._share(one.node, one.platforms, one.reasons) for one in chosen)

    def _natives_of(self, record: NodeRecord) -> tuple[Platform, ...]:
        """What the node says it runs natively; of one that a plan need not reach, what was declared."""
        self._reach([one.name for one in self._builder.nodes if not self._is_known(one.name)])
        try:
            return tuple(self.node(record.name).platforms)
        except PolyarchError as error:
            if not self._only_plan:
                raise
            self._silent[record.name] = error.summary
            return record.platforms

    def _is_known(self, name: str) -> bool:
        return name in self._nodes or name in self._lost or name in self._unreached

    def _emulated_by(self, record: NodeRecord) -> Sequence[Platform]:
        """What the node says it emulates."""
        if record.name in self._silent:
            return ()
        if record.name not in self._emulated:
            node = self.node(record.name)
            self._emulated[record.name] = node.report().emulated if isinstance(node, Reports) else ()
        return self._emulated[record.name]

    def _check_replacements(self, shares: Sequence[Share]) -> None:
        """Platforms of a lost node are not emulated elsewhere unless that is wanted."""
        if self._fallback == "emulate":
            return
        for share in shares:
            for platform in share.platforms:
                if share.runs_natively(platform):
                    continue
                for name, error in self._lost.items():
                    if self._was_native(name, platform):
                        raise _hopeless(error, f"no other node runs {platform} natively")

    def _was_native(self, name: str, platform: Platform) -> bool:
        """Whether a lost node may have run ``platform`` natively."""
        record = self._record(name)
        if name in self._natives:
            natives = self._natives[name]
            return any(platforms.choose(native, [platform]) is not None for native in natives)
        return not record.platforms or platforms.choose(platform, record.platforms, strict=True) is not None

    def _share(self, record: NodeRecord, wanted: Sequence[Platform], reasons: Sequence[str]) -> Share:
        natives = self._natives[record.name] = self._natives_of(record) or (platforms.host(),)
        silent = self._silent.get(record.name, "")
        here = not silent and self.node(record.name) is self.home
        return Share(record.name, tuple(wanted) or natives[:1], natives, tuple(reasons), here, silent)

    # --- work -----------------------------------------------------------------------------------------------

    def expect(self, works: Sequence[Work]) -> None:
        """Let this machine get ready for its part, while the rest is looked at."""
        for work in works:
            if work.share.here:
                self.home.expect(work.graph)

    def preview(self, works: Sequence[Work]) -> list[tuple[Share, str, str]]:
        """For each vertex needed: whose it is, its digest, and "source", "cached", or why it would run. Of a
        node that cannot tell, everything would run."""
        found = []
        for work in works:
            if work.share.silent:
                unknown = "not known: the node does not answer"
                found += [(work.share, digest, unknown) for digest in work.graph.reach(work.wanted)]
                continue
            node = self.node(work.share.node)
            if isinstance(node, Previews):
                verdicts = node.preview(work.graph, work.wanted)
            else:
                verdicts = [(digest, "not known before") for digest in work.graph.reach(work.wanted)]
            found += [(work.share, digest, verdict) for digest, verdict in verdicts]
        return found

    def solve(
        self,
        works: Sequence[Work],
        sink: Callable[[str], EventSink],
        cancelled: Event,
        replan: Replan,
    ) -> Mapping[str, Rootfs]:
        """The root filesystems of everything wanted, by vertex. ``sink`` gives the sink for a node's events;
        it is asked for "" where only one node has something to do.

        The first failure stops all nodes and is raised. A node that is lost is warned of, and its platforms
        are divided anew among the others, which go on meanwhile.
        """
        found: dict[str, Rootfs] = {}
        several = len({work.share.node for work in works}) > 1
        stop = _Either(cancelled)
        failure: BaseException | None = None
        with ThreadPoolExecutor(max(1, len(self._builder.nodes)), thread_name_prefix="node") as pool:
            running: dict[Future[Mapping[str, Rootfs]], Work] = {}

            def label(share: Share) -> EventSink:
                return sink(share.node if several else "")

            def start(some: Sequence[Work]) -> None:
                for work in some:
                    running[pool.submit(self._solve, work, label(work.share), stop)] = work

            try:
                start(works)
                while running:
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        work = running.pop(future)
                        try:
                            found.update(future.result())
                        except NodeLostError as error:
                            if stop.is_set():
                                failure = _worse(failure, _stopped())
                                continue
                            taken = self._redivide([work.share], error, label(work.share))
                            start(replan(taken))
                        except BaseException as error:
                            failure = _worse(failure, error)
                            if not self._goes_on_after(work, error):
                                stop.set()
            except BaseException:  # also Ctrl-C: leaving the pool waits for what runs, so stop it first
                stop.set()
                raise
        if failure is not None:
            raise failure
        return found

    def _goes_on_after(self, work: Work, error: BaseException) -> bool:
        """Whether the other nodes are to finish all the same."""
        if not self._keep_going or not isinstance(error, PolyarchError) or isinstance(error, CancelledError):
            return False
        told = getattr(self.node(work.share.node), "failures", None)
        self.failures.update(told or dict.fromkeys(work.wanted, error))
        return True

    def _solve(self, work: Work, events: EventSink, cancelled: Event) -> Mapping[str, Rootfs]:
        return self.node(work.share.node).solve(work.graph, work.wanted, events, cancelled)

    def _redivide(self, shares: Sequence[Share], lost: NodeLostError, events: EventSink) -> list[Share]:
        """What others take over from a node that was lost."""
        self.give_up(lost)
        orphans = [platform for share in shares if share.node == lost.node for platform in share.platforms]
        taken = self.shares(orphans, events)
        where = ", ".join(f"{', '.join(str(p) for p in one.platforms)} to node {one.node}" for one in taken)
        events(Warning("NodeLost", f"{lost.summary}; its part of the build goes on: {where}"))
        return list(taken)

    def replace(self, lost: NodeLostError, shares: Sequence[Share], events: EventSink) -> list[Share]:
        """The shares of a node that was lost together with its results, divided among the others. Raises
        ``lost`` where that was tried before."""
        if lost.node in self._lost:
            raise lost
        return self._redivide([share for share in shares if share.node == lost.node], lost, events)

    def keep_imported(self) -> None:
        """The build has shown that what its nodes took from caches elsewhere is good."""
        with self._lock:
            nodes = [node for node in self._nodes.values() if node is not self.home]
        for node in nodes:
            keep = getattr(node, "keep_imported", None)
            if keep is not None:
                keep()

    def give_up(self, lost: NodeLostError) -> None:
        """Use a node no more."""
        with self._lock:
            self._lost[lost.node] = lost
            node = self._nodes.pop(lost.node, None)
        if node is not None and node is not self.home:
            node.close()

    # --- what was learnt ------------------------------------------------------------------------------------

    @property
    def findings(self) -> Mapping[str, Finding]:
        """See ``Learns``."""
        return {digest: one for node in self._learning() for digest, one in node.findings.items()}

    def findings_over(self, known: Callable[[str], str | None]) -> Mapping[str, Finding]:
        """See ``Learns``."""
        return {digest: one for node in self._learning() for digest, one in node.findings_over(known).items()}

    def _learning(self) -> list[Learns]:
        with self._lock:
            return [node for node in self._nodes.values() if isinstance(node, Learns)]


class _Either(Event):
    """Set when it is set, or when another is."""

    def __init__(self, other: Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()


def labelled(events: EventSink, node: str) -> EventSink:
    """A sink for what one of several nodes does: its vertices are told from those of others."""

    def send(event: solver_events.Event) -> None:
        if isinstance(event, Warning):
            events(event)
            return
        if isinstance(event, Planned):
            return  # told once, for all nodes
        digest = labelled_digest(node, event.digest)
        if isinstance(event, VertexStarted | VertexCompleted):
            events(replace(event, digest=digest, name=f"[{node}] {event.name}"))
        else:
            events(replace(event, digest=digest))

    return send


def labelled_digest(node: str, digest: str) -> str:
    """What a vertex is called in the events of one of several nodes."""
    return "sha256:" + hashlib.sha256(f"{node} {digest}".encode()).hexdigest()


def _stopped() -> CancelledError:
    return CancelledError("the build was stopped", reason="cancelled")


def _hopeless(error: NodeLostError, why: str) -> NodeLostError:
    """The loss of a node that nobody replaces."""
    hint = f"{error.hint or 'mend the node'}; --fallback emulate builds its platforms elsewhere"
    detail = "\n".join(part for part in (error.detail, why) if part)
    return NodeLostError(error.node, error.summary, detail=detail, hint=hint)


def _worse(first: BaseException | None, second: BaseException) -> BaseException:
    """The error to show: the one that came first, but never a mere consequence of it."""
    if first is None or (isinstance(first, CancelledError) and not isinstance(second, CancelledError)):
        return second
    return first
