"""Removes what is not needed any more, while builds may run: see ``content.lease`` for why that is safe."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from polyarch.builder.storage import Item, Storage
from polyarch.content import ingest
from polyarch.content.lease import Claim
from polyarch.errors import PolyarchError
from polyarch.layer.scratch import PURPOSES
from polyarch.layer.stored import ORIGINAL
from polyarch.ops.result import record_layers
from polyarch.solver.cache import SqliteCache

Keep = Callable[[Item], bool]


@dataclass(frozen=True)
class Removed:
    """What a collection removed, or would; ``kept`` is how much of the rest it had to leave because living
    processes use it. Sizes in bytes."""

    items: tuple[Item, ...]
    kept: int = 0

    @property
    def size(self) -> int:
        """Bytes freed."""
        return sum(item.size for item in self.items)


def collect(
    storage: Storage,
    *,
    everything: bool = False,
    wanted: Keep = lambda item: True,
    keep_bytes: int | None = None,
    dry_run: bool = False,
) -> Removed:
    """Remove what ``wanted`` says of what no image needs; with ``everything`` images and what they need too.

    With ``keep_bytes`` the least recently used goes first, and only until all that is left is no larger.
    What a living process uses stays in any case.
    """
    if not dry_run:
        _forget_builds(storage)
    claim = storage.claim()
    items = storage.items(claim)
    candidates = [item for item in items if wanted(item) and (everything or not _needed(item))]
    total = sum(item.size for item in items) + storage.database_size()
    chosen = _oldest(candidates, total, keep_bytes)
    kept = sum(item.size for item in candidates if item.in_use)
    if dry_run:
        return Removed(tuple(chosen), kept)
    roots = {item.id: storage.below_image(item.id) for item in chosen if item.kind == "image"}
    removed = [item for item in chosen if _remove(storage, claim, item)]
    if lost := {digest for item in removed for digest in roots.get(item.id, ())}:
        _drop_blobs(storage, claim, lost)
    _sweep(storage)
    _drop_mount_points(storage, claim)
    _forget(storage, claim, everything=everything)
    return Removed(tuple(removed), kept)


def _forget_builds(storage: Storage) -> None:
    """First of all, let no build be answered by what is removed next."""
    if storage.state.unchanged.is_dir():
        for path in storage.state.unchanged.iterdir():
            path.unlink(missing_ok=True)


def _needed(item: Item) -> bool:
    return item.kind == "image" or item.shared


def _oldest(candidates: Sequence[Item], total: int, keep_bytes: int | None) -> list[Item]:
    """Those to remove, the least recently used first."""
    chosen = []
    for item in sorted((c for c in candidates if not c.in_use), key=lambda c: c.used_ns):
        if keep_bytes is not None and total <= keep_bytes:
            break
        total -= item.size
        chosen.append(item)
    return chosen


def _remove(storage: Storage, claim: Claim, item: Item) -> bool:
    """Remove one item unless somebody has begun to use it; whether it is gone. What cannot be removed stays:
    the rest must not wait for it."""
    try:
        match item.kind:
            case "image":
                return _remove_image(storage, claim, item)
            case "blob":
                with claim.removing(item.path) as idle:
                    return idle and storage.layout.delete(item.id)
            case "layer":
                return storage.layers.collect_tree(item.id, claim)
            case "cachemount":
                return _remove_cache(storage, item)
            case "source":
                return _remove_source(claim, item)
            case "upload":
                return _remove_file(item.path)
            case "temporary":
                return _remove_temporary(storage, claim, item)
    except (OSError, PolyarchError):
        return False


def _remove_image(storage: Storage, claim: Claim, item: Item) -> bool:
    """Forget all names of an image; its blobs go afterwards, if no other image needs them."""
    with claim.removing(item.path) as idle:
        if idle or not item.path.exists():
            storage.layout.forget(item.id)
            return True
    return False


def _drop_blobs(storage: Storage, claim: Claim, lost: set[str]) -> None:
    """Those of ``lost`` that nothing needs any more."""
    for item in storage.items(claim):
        if item.kind == "blob" and item.id in lost and not item.in_use:
            _remove(storage, claim, item)


def _remove_cache(storage: Storage, item: Item) -> bool:
    """The lock file stays: others may wait for it."""
    with _locked(item.path.with_name(item.path.name + ".lock")) as ours:
        if ours:
            storage.layers.discard_folder(item.path)
    return ours


def _remove_source(claim: Claim, item: Item) -> bool:
    """All of it but the lock, which others may wait for."""
    lock = item.path / "lock"
    with _locked(lock) as ours:
        if not ours or lock.stat().st_mtime_ns >= claim.limit:
            return False
        for entry in item.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != lock:
                entry.unlink()
    return True


def _remove_file(path: Path) -> bool:
    """A file that is locked by who works on it."""
    with _locked(path) as ours:
        if ours:
            path.unlink(missing_ok=True)
    return ours


def _remove_temporary(storage: Storage, claim: Claim, item: Item) -> bool:
    if item.path.is_file():
        return _remove_file(item.path)
    if not item.path.exists():
        return True  # swept already
    if item.path.name.startswith(PURPOSES):
        with _locked(item.path) as ours:
            if ours:
                storage.layers.discard_folder(item.path)
        return ours
    trash = item.path.with_name(f"leftover-{item.path.name}")
    with claim.alone() as alone:
        if alone:
            item.path.rename(trash)
    if alone:
        storage.layers.discard_folder(trash)
    return alone


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether we got the lock on ``path``; held during the block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _sweep(storage: Storage) -> None:
    """What dead processes left: half-written files, folders of steps, locks."""
    state = storage.state
    storage.layers.sweep()
    for folder in (state.content, *state.sources.glob("http/*")):
        ingest.sweep(folder)
    if state.locks.is_dir():
        for path in state.locks.iterdir():
            _remove_file(path)


def _drop_mount_points(storage: Storage, claim: Claim) -> None:
    """The small trees of mount points that steps have below their layers; they are made again when needed."""
    trash = []
    with claim.alone() as alone:
        for path in storage.state.temporary.glob("points-*") if alone else ():
            trash.append(path.rename(path.with_name(f"leftover-{path.name}")))
    for path in trash:
        storage.layers.discard_folder(path)


def _forget(storage: Storage, claim: Claim, *, everything: bool) -> None:
    """Rows of the cache's tables that lead nowhere any more; of what can be fetched again only when all is
    to go."""
    forms = storage.layers.forms
    here = {digest for digest, _ in storage.layout.blobs()}
    kept = {id for id, _ in storage.layers.trees()}
    storage.forget_sizes(kept)
    for id, wanted, digest in forms.all_blobs():
        if digest in here or (wanted.startswith(ORIGINAL) and not everything):
            kept.add(id)
    before = claim.limit // 1_000_000_000
    forms.remove(*(forms.ids(unused_since=before) - kept))
    known = forms.ids()
    cache = SqliteCache(storage.state.database)
    try:
        cache.prune(lambda record: _has_layers(record, known), before)
    finally:
        cache.close()


def _has_layers(record: str, known: set[str]) -> bool:
    """Whether the layers of a record are known; other records, such as times, are always good."""
    try:
        return all(id in known for id in record_layers(record))
    except (ValueError, KeyError, TypeError):
        return True
