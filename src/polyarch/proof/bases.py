"""Base images, looked up once for each reference and platform, all of them before anything runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.content.verify import read, read_manifest
from polyarch.content.walk import children, pick, variants
from polyarch.errors import ContentError, NotFoundError, PolyarchError, UsageError
from polyarch.graph.convert import BaseImage
from polyarch.graph.stages import StageState
from polyarch.graph.vertex import LAYOUT as LAYOUT
from polyarch.graph.vertex import LOCAL as LOCAL
from polyarch.image.locate import locate
from polyarch.image.sparse import SparseStore
from polyarch.oci import platform as platforms
from polyarch.oci.config import ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client

_MAX_CLOSEST = 4  # images for which others are looked for


@dataclass
class _Found:
    """A reference resolved: where it is, what it names."""

    store: Store
    origin: str
    reference: Reference
    root: Descriptor
    raw: Raw


@dataclass
class BaseResolver:
    """Implements ``graph.convert.Resolver``: the local store first (unless ``pull``), then the registry.

    One manifest request for each reference, however many platforms are asked for; answers are kept for the
    build. ``foreign`` takes an image for one other platform alone as it is, which the checks warn of. Safe
    between threads.
    """

    local: SparseStore
    client: Client
    pull: bool = False
    foreign: bool = False
    _found: dict[str, _Found] = field(default_factory=dict)
    _images: dict[tuple[str, Platform], BaseImage] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def image(self, reference: str, platform: Platform) -> BaseImage:
        """The variant of ``reference`` for ``platform``; NotFoundError lists the platforms there are."""
        parsed = Reference.parse(reference)
        return self._cached(str(parsed), platform, lambda: self._find(parsed))

    def sole_platform(self, reference: str) -> Platform | None:
        """The platform of an image that `image` has found to be for one alone; None for an index."""
        found = self._found[str(Reference.parse(reference))]
        if found.raw.is_index:
            return None
        return ImageConfig.parse(read(found.store, found.raw.manifest.config, limit=8 << 20)).platform

    def in_layout(self, location: str, platform: Platform) -> BaseImage:
        """The same in an OCI layout on disk: ``PATH[:tag][@digest]``."""
        return self._cached(LAYOUT + location, platform, lambda: _find_in_layout(location))

    @property
    def answers(self) -> tuple[tuple[Reference, str, str], ...]:
        """Every reference that was looked up, where it was found, and the digest it stands for."""
        return tuple((found.reference, found.origin, found.root.digest) for found in self._found.values())

    def _cached(self, key: str, platform: Platform, find: Callable[[], _Found]) -> BaseImage:
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            known = self._images.get((key, platform))
            if known is None:
                found = self._found.get(key)
                if found is None:
                    found = self._found[key] = find()
                known = self._images[key, platform] = _variant(found, platform, foreign=self.foreign)
            return known

    def _find(self, reference: Reference) -> _Found:
        if not self.pull:
            try:
                root = self.local.resolve(str(reference))
                return _Found(self.local, LOCAL, reference, root, read_manifest(self.local, root))
            except NotFoundError:
                pass
        repository = self.client.repository(reference)
        root, raw = repository.manifest(reference.digest or reference.tag)
        return _Found(repository, reference.name, reference, root, raw)


def _find_in_layout(location: str) -> _Found:
    located = locate("oci-layout://" + location, state=State.default(), client=Client())
    layout, root = located.store, located.descriptor
    assert isinstance(layout, Layout)
    reference = Reference("oci-layout", layout.root.name.lower() or "image", digest=root.digest)
    return _Found(layout, LAYOUT + str(layout.root), reference, root, read_manifest(layout, root))


def _variant(found: _Found, platform: Platform, *, foreign: bool) -> BaseImage:
    name = found.reference.familiar
    descriptor = found.root
    raw = found.raw
    for _ in range(4):  # an index may hold indexes
        if not raw.is_index:
            break
        descriptor = pick(variants(found.store, children(raw)), (platform,), where=name)[0]
        raw = read_manifest(found.store, descriptor)
    if raw.is_index:
        raise ContentError(f"{name}: indexes inside indexes", reason="content-too-deep")
    config = ImageConfig.parse(read(found.store, raw.manifest.config, limit=8 << 20))
    alone = not found.raw.is_index
    known = bool(config.architecture) and not (foreign and alone)
    if known and platforms.choose(platform, [config.platform]) is None:
        raise NotFoundError(
            f"{name} has no variant for {platform}",
            hint=f"it is an image for {config.platform} alone"
            + (_pinned(found) or _foreign(config.platform)),
            reason="no-platform",
        )
    diff_ids = (config.rootfs.diff_ids if config.rootfs else None) or ()
    if len(diff_ids) != len(raw.manifest.layers):
        raise ContentError(
            f"{name}: {len(raw.manifest.layers)} layers but {len(diff_ids)} diff_ids in its config",
            reason="invalid-image",
        )
    return BaseImage(
        reference=str(replace(found.reference, digest=found.root.digest)),
        origin=found.origin,
        manifest=descriptor.digest,
        layers=raw.manifest.layers,
        diff_ids=tuple(diff_ids),
        config=config,
    )


def _pinned(found: _Found) -> str:
    """The way out where a digest names one platform's manifest in place of the index."""
    if not found.reference.digest:
        return ""
    name = found.reference.with_digest("").familiar
    return f": the digest is of that platform's manifest; pin the index's, which names all of {name}"


def _foreign(platform: Platform) -> str:
    return f"; FROM --platform={platform} takes it on purpose, and --proof=off everywhere"


def check_bases(
    resolver: BaseResolver, wanted: Iterable[tuple[str, Platform, StageState]], *, workers: int = 8
) -> None:
    """Resolve everything at once. One error names every pair of image and platform that is missing."""
    pairs: dict[tuple[str, Platform], StageState] = {}
    for reference, platform, state in wanted:
        pairs.setdefault((reference, platform), state)
    failures: list[tuple[str, Platform, PolyarchError]] = []

    def attempt(pair: tuple[str, Platform]) -> None:
        try:
            resolver.image(*pair)
        except PolyarchError as error:
            failures.append((*pair, error))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(attempt, pairs))
    if failures:
        order = list(pairs)
        failures.sort(key=lambda failure: order.index((failure[0], failure[1])))
        raise _summary(failures, pairs[failures[0][0], failures[0][1]], resolver)


def _summary(
    failures: Sequence[tuple[str, Platform, PolyarchError]], state: StageState, resolver: BaseResolver
) -> PolyarchError:
    """The first failure, with every pair that is missing and what to take instead."""
    first = failures[0][2]
    hints = [first.hint] if first.hint else []
    hints += _instead(failures, resolver)
    if any(error.reason == "no-platform" for _, _, error in failures):
        hints.append("make a base that has it with `polyarch base create`")
    first.location = first.location or state.location
    if len(failures) > 1:
        lines = []
        for reference, platform, error in failures:
            there = f" ({error.hint})" if error.reason == "no-platform" and error.hint else ""
            lines.append(f"  {reference} for {platform}: {error.summary}{there}")
        first.detail = "\n".join(["missing altogether:", *lines])
    first.hint = "; ".join(hints)
    return first


def _instead(
    failures: Sequence[tuple[str, Platform, PolyarchError]], resolver: BaseResolver
) -> Iterator[str]:
    """The closest tags of each image that is missing, or lacks a platform."""
    from polyarch.proof.closest import closest

    missing: dict[str, list[Platform]] = {}
    for reference, platform, error in failures:
        if isinstance(error, NotFoundError):
            missing.setdefault(reference, []).append(platform)
    for name, wanted in list(missing.items())[:_MAX_CLOSEST]:
        try:
            parsed = Reference.parse(name)
        except UsageError:
            continue
        if tags := closest(resolver.client, parsed, wanted):
            listed = ", ".join(parsed.with_tag(tag).familiar for tag in tags)
            yield f"closest that has {', '.join(map(str, wanted))}: {listed}"
