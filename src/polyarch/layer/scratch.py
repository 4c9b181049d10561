"""Folders for work in progress, which nobody else touches while their process lives.

Each is locked by the process that works in it. What a killed process left behind has no lock any more and is
removed by the next one that needs such a folder.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from polyarch.content.ingest import disk
from polyarch.errors import PolyarchError

PURPOSES = ("step-", "tree-", "old-")  # how the names of these folders begin


class Scratch:
    """Folders under ``root``. ``remove`` removes one with everything in it, whoever owns it."""

    def __init__(self, root: Path, remove: Callable[[Path], object]) -> None:
        self._root = root
        self._remove = remove
        self._lock = Lock()
        self._locks: dict[Path, int] = {}
        self._swept = False

    def new(self, purpose: str) -> Path:
        """A fresh folder that others leave alone until it is moved (then ``release`` it) or removed."""
        assert f"{purpose}-" in PURPOSES
        self._sweep_once()
        while True:
            folder = self._root / f"{purpose}-{secrets.token_hex(8)}"
            with disk("making a layer", self._root):
                folder.mkdir(parents=True)
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # another process's sweep took it before it was locked
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not folder.exists():  # the same, a moment later
                os.close(descriptor)
                continue
            os.fchmod(descriptor, 0o755)
            with self._lock:
                self._locks[folder] = descriptor
            return folder

    def release(self, folder: Path) -> None:
        """The folder was moved to where it belongs."""
        with self._lock:
            descriptor = self._locks.pop(folder, -1)
        if descriptor >= 0:
            os.close(descriptor)

    def throw_away(self, folder: Path) -> None:
        """Remove a folder. One from elsewhere on this file system disappears from its place at once, whatever
        happens meanwhile."""
        if folder.parent != self._root:
            trash = self.new("old")
            os.rename(folder, trash / "tree")
            folder = trash
        try:
            self._remove(folder)
        finally:
            self.release(folder)

    @contextmanager
    def to_throw_away(self) -> Iterator[Path]:
        """A folder for what is to be removed; it is, when the block ends."""
        trash = self.new("old")
        try:
            yield trash
        finally:
            self.throw_away(trash)

    def _sweep_once(self) -> None:
        with self._lock:
            if self._swept:
                return
            self._swept = True
        self.sweep()

    def sweep(self) -> None:
        """Remove the folders of dead processes."""
        if not self._root.is_dir():
            return
        for folder in self._root.iterdir():
            if folder.name.startswith(PURPOSES):
                self._sweep(folder)

    def _sweep(self, folder: Path) -> None:
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return  # gone meanwhile, or no folder of ours
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove(folder)
        except OSError:
            pass  # somebody works in it
        except PolyarchError:
            pass  # another user's: not being able to tidy up keeps nobody from working
        finally:
            os.close(descriptor)
