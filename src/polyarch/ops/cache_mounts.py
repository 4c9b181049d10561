"""Directories that survive between builds: ``RUN --mount=type=cache``.

A cache belongs to an id *and a platform*, so that compilers of two architectures never find each other's
objects. An id that begins with ``any/`` is shared by all platforms on purpose.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from polyarch.errors import CancelledError
from polyarch.graph.vertex import ExecMount
from polyarch.layer import owners
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.oci.platform import Platform

SHARED_PREFIX = "any/"
_POLL_SECONDS = 0.05


class CacheMounts:
    """The caches below one folder: ``DIGEST/DIGEST.NUMBER`` with a lock file beside each."""

    def __init__(self, folder: Path, layers: LayerStore) -> None:
        self._folder = folder
        self._layers = layers

    @contextmanager
    def use(
        self, mount: ExecMount, platform: Platform, seed: Rootfs | None, cancelled: Event, origin: str = ""
    ) -> Iterator[Path]:
        """The directory for a mount, while the step runs. ``origin`` names what ``seed`` is.

        ``shared``: any number of steps at once; ``locked``: the second waits; ``private``: a second step at
        the same time gets another directory. CancelledError when told to stop while waiting.
        """
        folder = self._folder / _name(mount, platform, origin)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # setuid files may lie below
        folder.mkdir(exist_ok=True)
        _label(folder / "label", f"{mount.id} {'any' if _is_shared(mount) else platform}")
        number = 0
        while True:
            lock = os.open(folder / f"{number}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                if _lock(lock, mount.sharing, cancelled):
                    os.utime(lock)  # the time of its last use, for the collector
                    yield self._directory(folder / str(number), mount, seed, cancelled)
                    return
            finally:
                os.close(lock)
            number += 1

    def _directory(self, path: Path, mount: ExecMount, seed: Rootfs | None, cancelled: Event) -> Path:
        """The cache's directory, made by the first of those who share it; the others wait for that."""
        if path.is_dir():
            return path
        making = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(making, "locked", cancelled)
            return path if path.is_dir() else self._make(path, mount, seed)
        finally:
            os.close(making)

    def _make(self, path: Path, mount: ExecMount, seed: Rootfs | None) -> Path:
        source = seed.resolve(mount.source) if seed is not None else ""
        entry = seed.get(source) if seed is not None else None
        mode = mount.mode if mount.mode is not None else (entry.mode if entry is not None else 0o755)
        owner = (mount.uid or 0, mount.gid or 0)
        fresh = path.with_name(f"{path.name}.new")
        privilege = self._layers.privilege
        trees = [str(tree) for tree in seed.trees()] if seed is not None else []
        privilege.call("polyarch.ops.cache_mounts:make", str(fresh), trees, source, mode, *owner)
        os.rename(fresh, path)
        return path


def make(path: str, trees: list[str], source: str, mode: int, uid: int, gid: int) -> None:
    """Make a cache's directory (where files may be owned by anybody), filled from layers' trees."""
    shutil.rmtree(path, ignore_errors=True)
    os.mkdir(path, 0o700)
    for tree in trees:
        below = os.path.join(tree, source) if source else tree
        if os.path.isdir(below) and not os.path.islink(below):
            shutil.copytree(below, path, symlinks=True, dirs_exist_ok=True)
    if owners.recorded():
        owners.write(path, uid, gid)
    else:
        os.chown(path, uid, gid)
    os.chmod(path, mode)


def _name(mount: ExecMount, platform: Platform, origin: str) -> str:
    """The folder of a cache. What it is seeded with belongs to it, as in BuildKit: another seed, another
    cache."""
    key = "\0".join((mount.id, "" if _is_shared(mount) else str(platform), mount.source, origin))
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _is_shared(mount: ExecMount) -> bool:
    return mount.id.startswith(SHARED_PREFIX)


def _label(path: Path, text: str) -> None:
    """What a person calls the cache, for ``du``."""
    if not path.exists():
        path.write_text(text, encoding="utf-8", errors="surrogateescape")


def _lock(descriptor: int, sharing: str, cancelled: Event) -> bool:
    """Take the lock that ``sharing`` needs; False when a private one is taken already."""
    kind = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if sharing == "private":
                return False
        if cancelled.wait(_POLL_SECONDS):
            raise CancelledError("the build was stopped", reason="cancelled")
