"""Which uploads are under way where, so that a later process can go on with them.

One small file per upload, locked while a process works on it. A file that cannot be read is thrown away: the
upload then starts over.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SMALLEST = 1 << 20  # bytes; smaller blobs are sent again faster than resumed
_LIFETIME = 7 * 24 * 3600  # seconds after which no registry knows an upload any more


@dataclass
class Entry:
    """One upload's line in the journal. ``location`` is empty where there is nothing to go on with."""

    location: str = ""
    _fd: int = -1
    _path: Path | None = None

    def record(self, location: str) -> None:
        """From now on the upload goes on at ``location``."""
        self.location = location
        if self._fd >= 0:
            data = json.dumps({"location": location, "time": int(time.time())}).encode()
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))

    def forget(self) -> None:
        """The upload is done, or lost."""
        self.location = ""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


@contextmanager
def entry(folder: Path | None, registry: str, repository: str, digest: str, size: int) -> Iterator[Entry]:
    """The journal's entry for one blob going to one repository, ours alone while the block lasts. Where the
    journal cannot be kept, or another process is at it, an entry that is kept in memory only."""
    if folder is None or size < SMALLEST:
        yield Entry()
        return
    name = hashlib.sha256(f"{registry}/{repository}@{digest}".encode()).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _drop_old(folder)
        path = folder / f"{name}.json"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield Entry()  # a convenience only: a full or read-only disk does not stop an upload
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield Entry()
            return
        kept = Entry(_read(descriptor), descriptor, path)
        yield kept
        if not kept.location:
            kept.forget()
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> str:
    try:
        document = json.loads(os.pread(descriptor, 1 << 16, 0))
        location = document["location"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return location if isinstance(location, str) else ""


def _drop_old(folder: Path) -> None:
    for path in folder.glob("*.json"):
        try:
            if path.stat().st_mtime < time.time() - _LIFETIME:
                path.unlink()
        except OSError:
            continue  # another process was faster
