"""A process of a step that waits for an answer: its memory and the files it names.

Everything a caller says is hostile. Paths are resolved by the kernel inside the caller's own root directory
(openat2, RESOLVE_IN_ROOT), to a descriptor that is then worked on; what another thread does to the path or to
the memory meanwhile changes which of the step's own files is meant, and nothing else. Before anything is done
the listener is asked whether the caller still waits, so that its process id is not another's.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from polyarch.executor import syscalls
from polyarch.executor.oneid.listener import Listener, Notification

AT_FDCWD = 0xFFFF_FF9C
_PATH_MAX = 4096
_PAGE = 4096
_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS

_libc = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Gone(Exception):
    """The caller no longer waits."""


class Caller:
    """The process behind one notification."""

    def __init__(self, listener: Listener, call: Notification) -> None:
        self._listener = listener
        self._call = call
        self._proc = f"/proc/{call.pid}"

    def check(self) -> None:
        if not self._listener.valid(self._call):
            raise Gone

    # --- memory ---------------------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at ``address``, fewer where its memory ends. EFAULT when there are none."""
        buffer = ctypes.create_string_buffer(size)
        ours = _Vector(ctypes.addressof(buffer), size)
        theirs = _Vector(address, size)
        one = ctypes.c_ulong(1)
        count = _libc.process_vm_readv(
            self._call.pid, ctypes.byref(ours), one, ctypes.byref(theirs), one, ctypes.c_ulong(0)
        )
        if count <= 0:
            raise OSError(errno.EFAULT, "bad address")
        return buffer.raw[:count]

    def path(self, address: int) -> bytes:
        """The path at ``address``."""
        found = b""
        while len(found) < _PATH_MAX:
            piece = self.read(address, _PAGE - address % _PAGE)
            end = piece.find(b"\0")
            if end >= 0:
                found += piece[:end]
                if len(found) >= _PATH_MAX:
                    break
                return found
            found += piece
            address += len(piece)
        raise OSError(errno.ENAMETOOLONG, "path too long")

    def write(self, address: int, data: bytes) -> None:
        """Write to its memory, of the very process that waits."""
        memory = os.open(f"{self._proc}/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            self.check()
            if os.pwrite(memory, data, address) != len(data):
                raise OSError(errno.EFAULT, "bad address")
        except OverflowError:
            raise OSError(errno.EFAULT, "bad address") from None
        finally:
            os.close(memory)

    # --- files ----------------------------------------------------------------------------------------------

    @contextmanager
    def file(self, folder: int, path: bytes, *, follow: bool) -> Iterator[int]:
        """What ``path`` means to the caller, relative to its descriptor ``folder``, opened with O_PATH."""
        descriptor = self._open(folder & 0xFFFF_FFFF, path, 0 if follow else os.O_NOFOLLOW)
        try:
            self.check()
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def parent(self, folder: int, path: bytes) -> Iterator[tuple[int, str]]:
        """The directory of ``path`` and the last name. ENOENT and the like as for the caller itself."""
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise OSError(errno.EEXIST, "no name")
        if not above:
            above = b"/" if path.startswith(b"/") else b"."
        with self.file(folder, above, follow=True) as descriptor:
            yield descriptor, os.fsdecode(name)

    @contextmanager
    def descriptor(self, number: int) -> Iterator[int]:
        """What the caller has open as ``number``."""
        descriptor = self._own(number & 0xFFFF_FFFF)
        try:
            self.check()
            yield descriptor
        finally:
            os.close(descriptor)

    def _own(self, number: int) -> int:
        """An O_PATH descriptor of what is open there. Only what is in a file system has an owner to keep."""
        link = f"{self._proc}/{'cwd' if number == AT_FDCWD else f'fd/{number}'}"
        try:
            return os.open(link, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            raise OSError(errno.EBADF, "bad file descriptor") from None

    def _open(self, folder: int, path: bytes, flags: int) -> int:
        if not path:
            return self._own(folder)
        flags |= os.O_PATH
        if path.startswith(b"/"):
            return self._in_root(path, flags)
        base = self._own(folder)
        try:
            # What stays below the directory needs no root; most paths do.
            return syscalls.openat2(base, path, flags, _BENEATH)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            return self._in_root(self._place(base) + b"/" + path, flags)
        finally:
            os.close(base)

    def _in_root(self, path: bytes, flags: int) -> int:
        root = os.open(f"{self._proc}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return syscalls.openat2(root, path, flags, _IN_ROOT)
        finally:
            os.close(root)

    def _place(self, folder: int) -> bytes:
        """The path of an open directory inside the caller's root."""
        path = os.readlink(b"/proc/self/fd/%d" % folder)
        root = os.readlink(f"{self._proc}/root".encode())
        if root != b"/" and path.startswith(root):
            path = path[len(root) :]
        return path

    def umask(self) -> int:
        return int(self._status(b"Umask:") or b"22", 8)

    def capable(self, capability: int) -> bool:
        """Whether it has a capability, of its own user namespace."""
        return bool(int(self._status(b"CapEff:") or b"0", 16) >> capability & 1)

    def _status(self, key: bytes) -> bytes:
        with open(f"{self._proc}/status", "rb") as file:
            found = [line.split()[1] for line in file if line.startswith(key)]
        self.check()
        return found[0] if found else b""
