"""How a blob gets onto disk: a temporary file, hashed while written, fsynced, renamed into its place.

Temporary files carry a lock while their writer lives, so that what a killed process left behind can be told
from what another one is writing just now.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from polyarch.errors import PolyarchError

PREFIX = ".ingest-"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk(operation: str, where: Path) -> Iterator[None]:
    """Turn a full disk into a PolyarchError that says what was being done and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise PolyarchError(
            f"{operation}: no space left in {where}",
            hint="free some space on that disk, or set POLYARCH_ROOT to a directory on a larger one",
            reason="no-space",
        ) from None


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


class Ingest:
    """One temporary file in ``folder``. ``write`` it, then ``place`` it; leaving the ``with`` block without
    having done so removes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self._fd = _create(folder)
        self._placed = False

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Write all of ``chunk``; returns its length."""
        view = memoryview(chunk)
        total = len(view)
        with disk("storing content", self._folder):
            while view:
                view = view[os.write(self._fd, view) :]
        return total

    def place(self, target: Path) -> None:
        """Let the file appear under its name, atomically and durably but for the folder's own fsync."""
        with disk("storing content", self._folder):
            os.fsync(self._fd)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._path, target)
        self._placed = True

    def abort(self) -> None:
        """Remove the file unless it was placed. Harmless when repeated."""
        if self._fd < 0:
            return
        if not self._placed:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


class BlobWriter:
    """A blob whose digest is known only when all of it was written.

    >>> with layout.writer() as writer:      # doctest: +SKIP
    ...     writer.write(b"...")
    ...     digest, size = writer.commit()
    """

    def __init__(self, blobs: Path, folder: Path, holds: Callable[[Path, int], bool]) -> None:
        """``holds`` says whether a file of that size is in that place already."""
        self._blobs = blobs
        self._holds = holds
        self._ingest = Ingest(folder)
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ingest.abort()

    def write(self, chunk: bytes | bytearray | memoryview) -> int:
        """Append ``chunk``; returns its length. A full disk raises PolyarchError (``no-space``)."""
        self._hash.update(chunk)
        self.size += len(chunk)
        return self._ingest.write(chunk)

    def commit(self) -> tuple[str, int]:
        """Store what was written; returns its digest and size in bytes."""
        encoded = self._hash.hexdigest()
        target = self._blobs / "sha256" / encoded
        if not self._holds(target, self.size):
            self._ingest.place(target)
        self._ingest.abort()
        return f"sha256:{encoded}", self.size


def _create(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(8)}"
        with disk("storing content", folder):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:  # else a sweep took it before it was locked
            return path, descriptor
        os.close(descriptor)


def sweep(folder: Path) -> int:
    """Remove temporary files whose writers are gone; returns how many there were."""
    removed = 0
    for path in folder.glob(PREFIX + "*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # gone meanwhile, or not ours to touch
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            removed += 1
        except OSError:
            pass  # its writer lives
        finally:
            os.close(descriptor)
    return removed
