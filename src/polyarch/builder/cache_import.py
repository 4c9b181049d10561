"""Results of other machines, from registries and directories: ``--cache-from``.

Nothing is fetched before something is not known here; then the tables, which are small, and never more. A
layer's bytes come when somebody reads them. Everything is untrusted: a cache that cannot be read is a
warning, one that lies is not asked again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from polyarch.content.copy import Repository
from polyarch.content.layout import Layout
from polyarch.content.naming import missing
from polyarch.content.store import Store
from polyarch.content.verify import read, read_manifest
from polyarch.content.walk import children, is_manifest
from polyarch.errors import ContentError, NotFoundError, PolyarchError
from polyarch.export.cache_options import CacheFrom
from polyarch.image import cache_table
from polyarch.image.cache_table import Part, Row
from polyarch.image.sparse import LAYOUT_PREFIX, SparseStore
from polyarch.layer.layer import Layer
from polyarch.layer.store import LayerStore
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw
from polyarch.oci.platform import Platform
from polyarch.ops.result import record_of
from polyarch.registry.client import Client
from polyarch.solver.events import EventSink, Warning

if TYPE_CHECKING:
    from polyarch.registry.actions_store import ActionsCache

_MAX_ENTRIES = 64  # of an index
_AT_ONCE = 8


@dataclass
class _Source:
    """One ``--cache-from``: read when first asked, and forgotten when it lied."""

    option: CacheFrom
    client: Client
    wanted: Sequence[Platform]
    service: tuple[ActionsCache, str] | None = None  # and the name in it
    failure: PolyarchError | None = None  # why there is no service
    parts: list[Part] | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    dropped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def place(self) -> str:
        """Where its layers are, as origins are written; "" where nothing else but this build can get them."""
        if self.service is not None:
            return ""
        return self.option.reference.name if self.option.reference else f"{LAYOUT_PREFIX}{self.option.path}"

    def load(self, warn: Callable[[str], None]) -> list[Part]:
        """Its parts, those of the wanted platforms first."""
        with self.lock:
            if self.parts is None:
                self.parts = []
                try:
                    self._read()
                except (PolyarchError, OSError) as error:
                    if self.service is not None and isinstance(error, NotFoundError):
                        return []  # nothing was written for this ref yet, or it was evicted
                    warn(f"the cache {self.option} is not used: {_said(error)}")
        return [] if self.dropped else self.parts

    def _read(self) -> None:
        store: Store
        if self.failure is not None:
            raise self.failure
        if self.service is not None:
            store, name = self.service
            root = store.resolve(name)
        elif self.option.reference is not None:
            store = self.client.repository(self.option.reference)
            root = store.resolve(self.option.reference.digest or self.option.reference.tag)
        else:
            store = Layout(Path(str(self.option.path)), create=False)
            root = store.resolve(self.option.tag)
        raw = read_manifest(store, root)
        entries: Sequence[Descriptor] = [root]
        if raw.is_index:
            entries = [entry for entry in children(raw) if is_manifest(entry)][:_MAX_ENTRIES]
            entries = sorted(entries, key=lambda entry: entry.platform not in self.wanted)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cache") as pool:
            known = {root.digest: raw}
            found = pool.map(lambda entry: _part(store, entry, known.get(entry.digest)), entries)
            parts = [part for part in found if part is not None]
        if not parts:
            raise ContentError("there is no polyarch cache in it", reason="no-cache")
        for part in parts:
            for row in part.rows:
                for key in row.keys:
                    self.rows.setdefault(key, row)
        self.parts = parts


def _part(store: Store, entry: Descriptor, raw: Raw | None) -> Part | None:
    """What a manifest says, as a cache of its own or as an image that brings one along."""
    raw = raw or read_manifest(store, entry)
    if raw.is_index:
        return None
    manifest = raw.manifest
    children(raw)  # checks every digest
    if manifest.config.media_type == cache_table.CONFIG:
        data = read(store, manifest.config, limit=cache_table.MAX_TABLE)
        return cache_table.parse(data, manifest.layers)
    text = manifest.annotations.get(cache_table.INLINE)
    return cache_table.from_inline(text, manifest.layers) if text else None


def _sources(option: CacheFrom, client: Client, wanted: Sequence[Platform]) -> Iterator[_Source]:
    """The caches that an option means; in the Actions cache every platform and ref has its own."""
    if option.service is None:
        yield _Source(option, client, wanted)
        return
    from polyarch.export.cache_service import caches_to_read

    try:
        for found in caches_to_read(option.service, wanted):
            yield _Source(option, client, wanted, found)
    except PolyarchError as error:
        yield _Source(option, client, wanted, failure=error)


class _Service:
    """Layers in the Actions cache, which can be had as long as the job lasts. Implements ``Held``."""

    def __init__(self, sources: Sequence[_Source]) -> None:
        self._sources = sources

    def exists(self, digest: str) -> bool:
        return self._holder(digest) is not None

    def open(self, wanted: Descriptor) -> BinaryIO:
        holder = self._holder(wanted.digest)
        if holder is None:
            raise missing(wanted.digest, "the Actions cache")
        return holder.open(wanted)

    def deliver(self, wanted: Descriptor, target: Repository) -> bool:
        return False

    def _holder(self, digest: str) -> ActionsCache | None:
        for source in self._sources:
            if source.service is not None and not source.dropped:
                layers = (layer for part in source.parts or () for layer in part.layers.values())
                if any(layer.blob.descriptor.digest == digest for layer in layers):
                    return source.service[0]
        return None


class CacheImport:
    """All caches of a build, in the order they were given. Implements ``solver.remote.Elsewhere``."""

    def __init__(
        self, options: Sequence[CacheFrom], wanted: Sequence[Platform], client: Client, events: EventSink
    ) -> None:
        self._sources = [one for option in options for one in _sources(option, client, wanted)]
        self._events = events

    def __len__(self) -> int:
        return len(self._sources)

    def result(self, key: str) -> tuple[Sequence[str], str] | None:
        """See ``Elsewhere``. A cache that has the layers too is preferred to one that knows of them."""
        best: Row | None = None
        for source in self._sources:
            parts = source.load(self._warn)
            row = source.rows.get(key) if parts else None
            if row is None:
                continue
            if all(any(id in part.layers for part in parts) for id in row.layers):
                best = row
                break
            best = best or row
        if best is None:
            return None
        return best.keys, record_of(best.layers, best.how)

    def note(self, key: str) -> str | None:
        """See ``Elsewhere``."""
        for source in self._sources:
            for part in source.load(self._warn):
                if key in part.notes:
                    return part.notes[key].text
        return None

    def attach(self, layers: LayerStore, local: SparseStore) -> None:
        """Let ``layers`` find here what it does not have."""
        if any(source.service is not None for source in self._sources):
            local.held.append(_Service(self._sources))

        def elsewhere(id: str) -> Layer | None:
            found = self.find(id)
            if found is None:
                return None
            place, layer = found
            if place:
                local.origins.record({layer.blob.descriptor.digest: (place,)})
            return layers.remote_layer(id, layer.blob, layer.made_as)

        layers.elsewhere = elsewhere

    def find(self, id: str) -> tuple[str, cache_table.Layer] | None:
        """Where a layer can be had (as origins are written), and what is known of it."""
        for source in self._sources:
            for part in source.load(self._warn):
                if (found := part.layers.get(id)) is not None:
                    return source.place, found
        return None

    def blame(self, layer_id: str) -> None:
        """Ask those no more that offered a layer which is not what they said."""
        guilty = [s for s in self._sources if any(layer_id in part.layers for part in s.parts or ())]
        for source in guilty:
            source.dropped = True
            self._warn(f"the cache {source.option} is not used any more: its layers are not what it says")
        if not guilty:
            self._warn("a layer of an earlier build's remote cache cannot be had any more")

    def _warn(self, message: str) -> None:
        self._events(Warning("CacheImport", message))


def _said(error: PolyarchError | OSError) -> str:
    return error.summary if isinstance(error, PolyarchError) else str(error)
