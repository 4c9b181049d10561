"""Moving content between stores: pull, push, load, mirror and node transfer are all ``copy``.

Children go before their parents, so that a target never holds a manifest whose parts are missing; a name is
given by the caller, after all. Blobs travel in a small pool of threads; what the target has is skipped, what
it can mount from another repository is mounted.

An index may be copied sparsely (``platforms``): its bytes whole, but only the wanted variants' content.
Stores of our own accept that and ``walk(sparse=True)`` reads it; a registry must be complete and refuses.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import BinaryIO, Protocol, cast, runtime_checkable

from polyarch.content.store import Store
from polyarch.content.verify import read
from polyarch.content.walk import ATTESTS, Budget, children, is_foreign, is_manifest, pick, variants
from polyarch.errors import CancelledError, NotFoundError, PolyarchError, UsageError
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import MAX_BYTES, Raw
from polyarch.oci.platform import Platform

Progress = Callable[[Descriptor, int], None]
_TRANSIENT = frozenset({"truncated", "registry-down", "rate-limited", "upload-interrupted"})
_ATTEMPTS = 4
_GRACE = 2.0  # seconds in which threads may end by themselves when the work is stopped


@runtime_checkable
class Repository(Protocol):
    """What a store that is a registry's repository can do besides (``registry.client``)."""

    @property
    def registry(self) -> str: ...
    @property
    def name(self) -> str: ...

    def holds(self, descriptor: Descriptor) -> bool:
        """``exists``, with less asking because the media type is known."""
        ...

    def send(self, source: BinaryIO, expected: Descriptor) -> None:
        """``push`` a blob that is known not to be there: it is not looked for once more."""
        ...

    def mount(self, descriptor: Descriptor, from_repository: str) -> bool:
        """Take a blob over from another repository of the same registry; whether that worked."""
        ...


@runtime_checkable
class Delivers(Protocol):
    """A source that can have some of its content sent from where it is, without passing through here."""

    def deliver(self, wanted: Descriptor, target: Repository) -> bool:
        """Put ``wanted`` into ``target``; whether that was possible and worked."""
        ...


def holds(store: Store, descriptor: Descriptor) -> bool:
    """Whether ``store`` has the content, asked in the cheapest way it offers."""
    return store.holds(descriptor) if isinstance(store, Repository) else store.exists(descriptor.digest)


def copy(
    source: Store,
    target: Store,
    root: Descriptor,
    *,
    platforms: Collection[Platform] | None = None,
    progress: Progress | None = None,
    workers: int = 4,
    cancelled: Event | None = None,
    origins: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Let ``target`` hold ``root`` and everything it leads to.

    ``progress(descriptor, count)`` is called from any thread with bytes that went over, or with the whole
    size when nothing had to; after a retry a descriptor's counts may sum to more than its size. ``origins``
    says for a blob's digest in which repositories (``registry/repository``) it is known to be; those of the
    target's own registry are tried as mounts, so that ``source`` need not even have the blob. ``cancelled``
    stops with CancelledError between two chunks. Nothing that failed leaves a parent behind.
    """
    transfer = _Transfer(
        source, target, progress or (lambda _descriptor, _count: None), cancelled or Event(), origins or {}
    )
    plan = _Plan(source, target, platforms)
    plan.visit(root)
    _spread(transfer.blob, plan.blobs, workers, transfer)
    for descriptor in plan.present:
        transfer.progress(descriptor, descriptor.size)
    for descriptor, data in plan.manifests:
        transfer.manifest(descriptor, data)


def _spread(
    work: Callable[[Descriptor], None], items: Sequence[Descriptor], workers: int, transfer: _Transfer
) -> None:
    """Do ``work`` for all ``items`` in a few threads; the first failure stops the others and is raised.

    Not an executor of the standard library: that waits, even when the process ends, for a thread that hangs
    in a dead connection, and Ctrl-C must not.
    """
    todo: SimpleQueue[Descriptor] = SimpleQueue()
    outcomes: SimpleQueue[BaseException | None] = SimpleQueue()
    for item in items:
        todo.put(item)

    def run() -> None:
        while not transfer.stop.is_set():
            try:
                work(todo.get_nowait())
            except Empty:
                return
            except BaseException as error:
                outcomes.put(error)
            else:
                outcomes.put(None)

    count = min(max(1, workers), len(items))
    threads = [Thread(target=run, name=f"copy-{number}", daemon=True) for number in range(count)]
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            if outcome := _wait(outcomes, transfer.cancelled):
                raise outcome
    except BaseException:
        transfer.stop.set()
        end = time.monotonic() + _GRACE
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
        raise


def _wait(outcomes: SimpleQueue[BaseException | None], cancelled: Event) -> BaseException | None:
    while True:
        try:
            return outcomes.get(timeout=0.1)
        except Empty:
            if cancelled.is_set():
                return CancelledError("the transfer was stopped", reason="cancelled")


@dataclass
class _Plan:
    """What has to be copied: blobs in any order, manifests after their children."""

    source: Store
    target: Store
    platforms: Collection[Platform] | None
    blobs: list[Descriptor] = field(default_factory=list)
    manifests: list[tuple[Descriptor, bytes]] = field(default_factory=list)
    present: list[Descriptor] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)
    _budget: Budget = field(default_factory=Budget)

    def visit(self, descriptor: Descriptor, depth: int = 0) -> None:
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        if not is_manifest(descriptor):
            if not is_foreign(descriptor):
                self.blobs.append(descriptor)
            return
        data = self._read(descriptor)
        raw = Raw.parse(data, descriptor.media_type)
        below: Sequence[Descriptor] = children(raw)
        self._budget.spend(len(below), descriptor, depth + 1 if raw.is_index else depth)
        if raw.is_index:
            below = self._wanted(below, descriptor)
        there = holds(self.target, descriptor)
        # A registry that has an image's manifest has its blobs: it refuses the manifest otherwise.
        if raw.is_index or not (there and isinstance(self.target, Repository)):
            for child in below:
                self.visit(child, depth + 1)
        if there:
            self.present.append(descriptor)
        else:
            self.manifests.append((descriptor, data))

    def _wanted(self, entries: Sequence[Descriptor], index: Descriptor) -> Sequence[Descriptor]:
        if self.platforms is None:
            return entries
        if isinstance(self.target, Repository):
            raise UsageError(
                f"an index cannot be put into a registry with only some of its platforms ({index.digest})",
                hint="copy one platform's manifest instead, or make a new index of the platforms wanted",
                reason="sparse-index",
            )
        chosen = pick(variants(self.source, entries), self.platforms, where=index.digest)
        wanted = {entry.digest for entry in chosen}
        return [e for e in entries if e.digest in wanted or e.annotations.get(ATTESTS) in wanted]

    def _read(self, descriptor: Descriptor) -> bytes:
        """A manifest's bytes; a sparse source may lack one that the target has."""
        for store in (self.source, self.target):
            try:
                return read(store, descriptor, limit=MAX_BYTES)
            except NotFoundError:
                continue
        raise NotFoundError(
            f"{descriptor.digest} is in neither the source nor the target",
            hint="the image is there for some of its platforms only: pull it whole first",
            reason="not-found",
        )


@dataclass
class _Transfer:
    source: Store
    target: Store
    progress: Progress
    cancelled: Event
    origins: Mapping[str, Collection[str]]
    stop: Event = field(default_factory=Event)

    def manifest(self, descriptor: Descriptor, data: bytes) -> None:
        self.check()
        self.target.push(io.BytesIO(data), descriptor)
        self.progress(descriptor, descriptor.size)

    def blob(self, descriptor: Descriptor) -> None:
        self.check()
        if holds(self.target, descriptor) or self._mounted(descriptor) or self._delivered(descriptor):
            self.progress(descriptor, descriptor.size)
            return
        put = self.target.send if isinstance(self.target, Repository) else self.target.push
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self.source.open(descriptor) as stream:
                    put(cast(BinaryIO, _Watched(stream, descriptor, self)), descriptor)
                return
            except PolyarchError as error:
                if attempt == _ATTEMPTS or error.reason not in _TRANSIENT:
                    raise
            if self.cancelled.wait(0.2 * 2**attempt):
                self.check()

    def _delivered(self, descriptor: Descriptor) -> bool:
        """Who says that it has sent something is not simply believed: its registry may be another."""
        source, target = self.source, self.target
        if not isinstance(source, Delivers) or not isinstance(target, Repository):
            return False
        return source.deliver(descriptor, target) and holds(target, descriptor)

    def _mounted(self, descriptor: Descriptor) -> bool:
        target = self.target
        if not isinstance(target, Repository):
            return False
        places = list(self.origins.get(descriptor.digest, ()))
        if isinstance(self.source, Repository):
            places.insert(0, f"{self.source.registry}/{self.source.name}")
        for place in dict.fromkeys(places):
            registry, _, name = place.partition("/")
            if registry == target.registry and name != target.name and target.mount(descriptor, name):
                return True
        return False

    def check(self) -> None:
        if self.cancelled.is_set() or self.stop.is_set():
            raise CancelledError("the transfer was stopped", reason="cancelled")


class _Watched(io.RawIOBase):
    """A stream that reports what passes and can be stopped. Does not close what it reads."""

    def __init__(self, source: BinaryIO, descriptor: Descriptor, transfer: _Transfer) -> None:
        super().__init__()
        self._source = source
        self._descriptor = descriptor
        self._transfer = transfer

    @property
    def verifies(self) -> object:
        """What the stream underneath answers for (``content.verify``)."""
        return getattr(self._source, "verifies", None)

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        self._transfer.check()
        chunk = self._source.read(-1 if size is None else size)
        if chunk:
            self._transfer.progress(self._descriptor, len(chunk))
        return chunk
