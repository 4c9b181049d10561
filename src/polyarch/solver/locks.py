"""Locks between processes, so that two builds on one store do not do the same step twice."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from polyarch.errors import CancelledError

_POLL_SECONDS = 0.05


class FileLocks:
    """Exclusive locks by name: files in one folder, which the kernel releases with their process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def hold(self, name: str, cancelled: Event) -> Iterator[bool]:
        """Wait for the lock ``name``; True when somebody else had it. CancelledError when told to stop."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name.replace(":", "-").replace("/", "-")
        waited = False
        while True:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                while not _try(descriptor):
                    waited = True
                    if cancelled.wait(_POLL_SECONDS):
                        raise CancelledError("the build was stopped", reason="cancelled")
                if not _is(descriptor, path):
                    continue  # its last holder removed the file; what we hold is nobody else's lock
                try:
                    yield waited
                finally:
                    path.unlink(missing_ok=True)
                return
            finally:
                os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)
