"""What keeps a collector's hands off the content that living processes use.

A process that uses a state directory holds a *lease*: a locked file, whose time says since when. Whatever it
finds and relies on gets a newer time than that ("held"); whatever it writes has one anyway. A collector
removes nothing that is younger than the oldest lease that lives, or than itself. Holding and removing exclude
each other by a lock on the folder of the leases (the *gate*), so that nothing goes between being found and
being held. The kernel gives all locks back when a process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType

_SUFFIX = ".lease"
_NOW = "now"


class Lease:
    """One process's lease in ``folder``. It is taken when first needed, and given back by ``close``, with
    the object, or with the process. Thread-safe. Where the folder cannot be written there is nothing to
    collect either, and no lease is taken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._since = 0  # nanoseconds; 0 while there is no lease
        self._impossible = False
        self._finalizer: weakref.finalize[[int, Path, int], Lease] | None = None

    def __enter__(self) -> Lease:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self) -> bool:
        """Take the lease now; whether there is one."""
        if self._since:
            return True
        with self._lock:
            if self._since or self._impossible:
                return bool(self._since)
            try:
                descriptor, path = _register(self._folder)
            except OSError:
                self._impossible = True
                return False
            self._finalizer = weakref.finalize(self, _give_back, descriptor, path, os.getpid())
            self._since = os.fstat(descriptor).st_mtime_ns
            return True

    def hold(self, path: Path, status: os.stat_result) -> bool:
        """Let what is at ``path``, of which ``status`` was just read, stay while this lease lives; whether it
        is still there."""
        if not self.take() or status.st_mtime_ns >= self._since:
            return True
        with gate(self._folder, shared=True):
            now = max(time.time_ns(), self._since)  # clocks are set back now and then
            try:
                os.utime(path, ns=(now, now))
            except FileNotFoundError:
                return False
            except OSError:
                pass  # another user's, whose collector will not find us: as good as it gets
        return True

    def close(self) -> None:
        """Give the lease back. Harmless when repeated."""
        with self._lock:
            self._since, self._impossible = 0, False
            if self._finalizer is not None:
                self._finalizer()
                self._finalizer = None


def _register(folder: Path) -> tuple[int, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{secrets.token_hex(6)}{_SUFFIX}"
    with gate(folder, shared=True):  # a collector either sees the lease, or is older than it
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor, path


def _give_back(descriptor: int, path: Path, owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked child's exit is not the end of its parent
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # without a lock it is as good as gone
    os.close(descriptor)


@contextmanager
def gate(folder: Path, *, shared: bool) -> Iterator[None]:
    """Shared by those who hold things, exclusive for who removes them; held for moments only."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Claim:
    """A collector's right: to remove what was last used before ``limit`` (nanoseconds). ``living`` is how
    many leases there were when it was made."""

    folder: Path
    limit: int
    living: int

    @classmethod
    def make(cls, folder: Path) -> Claim:
        """Look at the leases, and remove those of dead processes."""
        if not folder.parent.is_dir():
            return cls(folder, time.time_ns(), 0)  # nothing to collect
        folder.mkdir(exist_ok=True)
        with gate(folder, shared=False):
            limit, living = _now(folder), 0
            for path in folder.glob("*" + _SUFFIX):
                since = _since(path)
                if since:
                    limit, living = min(limit, since), living + 1
        return cls(folder, limit, living)

    @contextmanager
    def removing(self, path: Path) -> Iterator[bool]:
        """Whether ``path`` may be removed in this block; meanwhile nobody takes hold of it."""
        with gate(self.folder, shared=False):
            try:
                status = path.lstat()
            except FileNotFoundError:
                yield False
                return
            yield status.st_mtime_ns < self.limit

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no lease lives; none is given out in this block."""
        with gate(self.folder, shared=False):
            yield not any(_since(path) for path in self.folder.glob("*" + _SUFFIX))


def _now(folder: Path) -> int:
    """The file system's idea of the present, which is what all other times are compared with."""
    descriptor = os.open(folder / _NOW, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)


def _since(path: Path) -> int:
    """Since when a lease lives; 0 for one that is dead, which is removed."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.fstat(descriptor).st_mtime_ns
    else:
        path.unlink(missing_ok=True)
        return 0
    finally:
        os.close(descriptor)
