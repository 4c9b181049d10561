"""Writing a build's cache for other machines: ``--cache-to``.

Several jobs write to one name at the same time, and a registry cannot compare and swap. So a writer reads
what is there, puts its own in, looks whether the name still leads to what it read, names the new index, and
looks again a moment later; whoever was overwritten does it once more. What others wrote stays.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import msgspec

from polyarch.content.copy import copy
from polyarch.content.layout import Layout
from polyarch.content.store import Store
from polyarch.content.verify import read, read_manifest
from polyarch.content.walk import children
from polyarch.errors import CancelledError, ContentError, NotFoundError, PolyarchError, RegistryError
from polyarch.export.cache_options import CacheTo
from polyarch.export.cache_service import cache_to_write
from polyarch.export.cache_targets import DirectoryTarget, ServiceTarget, TagTarget, Target
from polyarch.export.progress import Reporter, reporter
from polyarch.export.push import Repositories
from polyarch.graph.vertex import Vertex
from polyarch.image import cache_table
from polyarch.image.cache_table import Layer, Note, Part, Row
from polyarch.image.sparse import SparseStore
from polyarch.layer.layer import Compression
from polyarch.layer.store import LayerStore
from polyarch.layer.stored import ImportedLayerError, StoredLayer, wanted_key
from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Index, Raw, encode
from polyarch.oci.platform import Platform
from polyarch.ops.result import record_layers, record_of
from polyarch.solver.events import EventSink, Warning
from polyarch.solver.remote import is_portable
from polyarch.solver.scheduler import Finding

_ATTEMPTS = 20
_AT_ONCE = 8
_FRESH_SECONDS = 24 * 3600  # what was written since then need not be written again
_BUILDKIT = "application/vnd.buildkit.cacheconfig.v0"


@dataclass(frozen=True)
class Learnt:
    """What a build knows for one platform: the results its image depends on, and the ids of its layers.
    ``over`` gives the results as they are on top of others' (records by key)."""

    platform: Platform
    rows: tuple[Row, ...]
    final: tuple[str, ...]
    over: Callable[[Callable[[str], str | None]], tuple[Row, ...]]


def rows_of(vertex: Vertex | None, findings: Mapping[str, Finding]) -> tuple[Row, ...]:
    """The results that ``vertex`` depends on, in a fixed order, under keys that others can use."""
    rows: dict[str, Row] = {}
    pending = [vertex] if vertex is not None else []
    seen = set()
    while pending:
        current = pending.pop()
        if current.digest in seen:
            continue
        seen.add(current.digest)
        pending += reversed(current.inputs)
        finding = findings.get(current.digest)
        if finding is None:
            continue
        keys = tuple(key for key in finding.keys if is_portable(key))
        if not keys:
            continue
        how = str(json.loads(finding.record).get("how", ""))
        rows[keys[0]] = Row(keys, record_layers(finding.record), how)
    return tuple(rows.values())


@dataclass
class CacheWriter:
    """Writes caches. ``pushed`` are the repositories that the build's image was pushed to, from which a
    registry may take its layers over; ``compression`` is the image's; ``fresh`` results replace those that
    others had (``--no-cache``).
    """

    layers: LayerStore
    local: SparseStore
    client: Repositories
    learnt: Sequence[Learnt]
    notes: Mapping[str, str]
    compression: Compression
    pushed: Sequence[str]
    events: EventSink
    cancelled: Event = field(default_factory=Event)
    fresh: bool = False

    def write(self, option: CacheTo) -> None:
        """Write one cache. What goes wrong is a warning, and an error only where the option says so."""
        if option.type == "inline":
            return
        try:
            with reporter(f"exporting cache to {option.type}", self.events).running() as report:
                self._write(option, report)
        except CancelledError:
            raise
        except (PolyarchError, OSError) as error:
            if option.strict:
                raise
            said = error.summary if isinstance(error, PolyarchError) else str(error)
            self.events(Warning("CacheExport", f"the cache {option} was not written: {said}"))

    def _write(self, option: CacheTo, report: Reporter) -> None:
        now = int(time.time())
        with report.phase("preparing build cache for export"):
            ours = {one.platform: self._part(one, option, now) for one in self.learnt}
        with report.phase(f"writing cache {option}"):
            if option.service is not None:
                store = cache_to_write(option.service)
                names = {platform: option.service.name(platform) for platform in ours}
                for platform, part in ours.items():
                    self._write_to(ServiceTarget(store, names[platform]), {platform: part}, now, report)
            elif option.reference is not None:
                repository = self.client.repository(option.reference)
                self._write_to(TagTarget(repository, option.reference), ours, now, report)
            else:
                layout = Layout(Path(str(option.path)))
                self._write_to(DirectoryTarget(layout, option.tag), ours, now, report)

    def _write_to(self, target: Target, ours: dict[Platform, Part], now: int, report: Reporter) -> None:
        written = ""
        if not target.refuses_gaps:
            ours = {platform: self._obtainable(part, target) for platform, part in ours.items()}
        with target.held():
            learnt = {} if self.fresh else {one.platform: one for one in self.learnt}
            merge = _Merge(target, ours, learnt, now)
            if not merge.is_known():
                self._upload(target, ours, report)
                written = merge.run(self.cancelled)
        report.line(f"cache {written}" if written else "the cache knows all of this already")

    def _part(self, one: Learnt, option: CacheTo, now: int) -> Part:
        wanted = dict.fromkeys(id for row in one.rows for id in row.layers)
        if option.mode == "min":
            wanted = {id: None for id in wanted if id in one.final}
        compression = option.compression or self.compression
        found: dict[str, Layer] = {}
        for id in list(wanted)[: cache_table.MAX_LAYERS]:
            layer = self.layers.load(id)
            if layer is None:
                continue
            try:
                found[id] = Layer(layer.blob(compression), wanted_key(compression, clamp=False))
            except ImportedLayerError:
                continue  # nobody needed it so far; whoever does makes it anew
        rows = tuple(msgspec.structs.replace(row, used=now) for row in one.rows[: cache_table.MAX_ROWS])
        notes = {
            key: Note(text, now) for key, text in self.notes.items() if len(text) <= cache_table.MAX_NOTE
        }
        return Part(rows, found, notes)

    def _obtainable(self, part: Part, target: Target) -> Part:
        """Without layers that another machine made and nobody has any more: they were evicted."""

        def is_there(one: tuple[str, Layer]) -> bool:
            layer = self.layers.load(one[0])
            if not isinstance(layer, StoredLayer) or not layer.imported or self.layers.at_hand(layer):
                return True
            return target.store.exists(one[1].blob.descriptor.digest)

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cache") as pool:
            there = list(pool.map(is_there, part.layers.items()))
        kept = [id for id, here in zip(part.layers, there, strict=True) if here]
        return cache_table.only(part, kept)

    def _upload(self, target: Target, ours: Mapping[Platform, Part], report: Reporter) -> None:
        """All layers, each platform's below a manifest of its own."""
        for part in ours.values():
            raw, config = cache_table.manifest(part)
            layout = self.local.layout
            layout.push_bytes(cache_table.EMPTY, media_types.OCI_EMPTY)
            layout.push_bytes(config, cache_table.CONFIG)
            layout.push_bytes(raw.data, raw.media_type)
            blobs = [layer.blob.descriptor.digest for layer in part.layers.values()]
            known = self.local.places(blobs)
            origins = {digest: (*self.pushed, *known.get(digest, ())) for digest in blobs}
            copy(
                self.local,
                target.store,
                raw.descriptor,
                progress=report.transferred,
                cancelled=self.cancelled,
                origins=origins,
            )


# --- merging --------------------------------------------------------------------------------------------


@dataclass
class _Merge:
    """Puts our parts beside what is there."""

    target: Target
    ours: dict[Platform, Part]
    learnt: Mapping[Platform, Learnt]
    now: int
    seen: dict[str, bool] = field(default_factory=dict)  # whether blobs are there

    def is_known(self) -> bool:
        """Whether what is there says all that we could say."""
        try:
            return self._covered(self._entries(self.target.resolve()))
        except NotFoundError:
            return False

    def run(self, cancelled: Event) -> str:
        """The digest of the index that has everything; "" where nothing had to be written."""
        written = ""
        self.seen.clear()  # ours have been sent since
        for _ in range(_ATTEMPTS):
            before = self.target.resolve()
            there = self._entries(before)
            if self._covered(there):
                return written
            index = self._index(there)
            if self._digest(self.target.resolve()) != self._digest(before):
                continue  # somebody was faster: what they wrote is read first
            self.target.name(index)
            written = index.digest
            if cancelled.wait(self.target.patience):
                raise CancelledError("the export was stopped", reason="cancelled")
            if self._digest(self.target.resolve()) == written:
                return written
        raise RegistryError(
            f"others changed the cache {_ATTEMPTS} times while it was written",
            hint="give some of the jobs a cache of their own",
            reason="cache-busy",
        )

    @staticmethod
    def _digest(found: Descriptor | None) -> str:
        return found.digest if found is not None else ""

    def _entries(self, root: Descriptor | None) -> list[Descriptor]:
        """The entries of the cache that is there. ContentError where it is something else, which must not be
        overwritten."""
        if root is None:
            return []
        raw = read_manifest(self.target.store, root)
        below = children(raw)
        if raw.is_index and cache_table.MARK in raw.index.annotations:
            return list(below)
        if any(entry.media_type == _BUILDKIT for entry in below):
            return []
        raise ContentError(
            "there is something else under this name",
            hint="give the cache a name of its own",
            reason="not-a-cache",
        )

    def _covered(self, there: Sequence[Descriptor]) -> bool:
        entries = {entry.platform: entry for entry in there}
        for platform, part in self.ours.items():
            entry = entries.get(platform)
            known = self._read(entry) if entry is not None else None
            if known is None or not cache_table.covers(known, part, self.now - _FRESH_SECONDS):
                return False
        return True

    def _read(self, entry: Descriptor) -> Part | None:
        """The part an entry names; None where it cannot be used."""
        try:
            raw = read_manifest(self.target.store, entry)
            data = read(self.target.store, raw.manifest.config, limit=cache_table.MAX_TABLE)
            return self._present(cache_table.parse(data, raw.manifest.layers))
        except (ContentError, NotFoundError):
            return None

    def _index(self, there: Sequence[Descriptor]) -> Raw:
        """A new index: others' entries as they are, ours with what was there for the same platform."""
        entries = {entry.platform: entry for entry in there}
        for platform, part in list(self.ours.items()):
            theirs = self._read(entries[platform]) if platform in entries else None
            if theirs is not None and platform in self.learnt:
                part = self.ours[platform] = self._over(platform, part, theirs)
            raw = self._push(part, theirs)
            entries[platform] = msgspec.structs.replace(
                raw.descriptor, platform=platform, annotations={cache_table.MARK: str(cache_table.VERSION)}
            )
        ordered = sorted(entries.values(), key=lambda entry: str(entry.platform))
        index = Index(
            schema_version=2,
            media_type=media_types.OCI_INDEX,
            manifests=tuple(ordered),
            annotations={cache_table.MARK: str(cache_table.VERSION)},
        )
        raw = encode(index)
        _put(self.target.store, raw.data, raw.media_type)
        return raw

    def _over(self, platform: Platform, ours: Part, theirs: Part) -> Part:
        """Our part where others ran the same steps at the same time: their results stay, and ours that stand
        on such are said to stand on theirs. Otherwise nobody would find what they built on top."""
        known = {key: row for row in theirs.rows if row.used > self.now - _FRESH_SECONDS for key in row.keys}
        if all(known[key].layers == row.layers for row in ours.rows for key in row.keys if key in known):
            return ours
        records = {key: record_of(row.layers, row.how) for key, row in known.items()}
        rows = self.learnt[platform].over(records.get)
        rows = tuple(msgspec.structs.replace(row, used=self.now) for row in rows)
        return Part(rows, ours.layers, ours.notes)

    def _push(self, ours: Part, theirs: Part | None) -> Raw:
        """The manifest of both together, or of ours alone where layers of theirs are gone."""
        if theirs is not None:
            both = cache_table.merged(ours, theirs, self.now)
            raw, config = cache_table.manifest(both)
            try:
                _put(self.target.store, config, cache_table.CONFIG)
                _put(self.target.store, raw.data, raw.media_type)
                return raw
            except (RegistryError, NotFoundError) as error:
                if getattr(error, "status", 404) not in (400, 404):
                    raise
        raw, config = cache_table.manifest(ours)
        _put(self.target.store, config, cache_table.CONFIG)
        _put(self.target.store, raw.data, raw.media_type)
        return raw

    def _present(self, part: Part) -> Part:
        """Without layers that are gone, and results that had them. A registry refuses a manifest with a gap,
        so that nothing has to be asked there; others do not."""
        if self.target.refuses_gaps:
            return part
        asked = [blob for blob in _blobs(part).values() if blob not in self.seen]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="cache") as pool:
            self.seen.update(zip(asked, pool.map(self.target.store.exists, asked), strict=True))
        gone = {id for id, blob in _blobs(part).items() if not self.seen[blob]}
        rows = tuple(row for row in part.rows if gone.isdisjoint(row.layers))
        return Part(rows, {id: layer for id, layer in part.layers.items() if id not in gone}, part.notes)


def _blobs(part: Part) -> dict[str, str]:
    return {id: layer.blob.descriptor.digest for id, layer in part.layers.items()}


def _put(store: Store, data: bytes, media_type: str) -> None:
    store.push(io.BytesIO(data), Descriptor(media_type=media_type, digest=digests.of(data), size=len(data)))
