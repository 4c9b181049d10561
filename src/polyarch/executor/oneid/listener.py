"""Seccomp user notification (seccomp_unotify(2)): a filter that hands system calls to a supervisor, and the
supervisor's side of it. Owns numbers and structures; knows nothing of what the calls mean."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import NamedTuple

from polyarch.executor.oneid import numbers

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_SECCOMP = 277 if numbers.ARM64 else 317
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_RECEIVE, _SEND, _VALID, _ADD_FILE, _SET_FLAGS = (
    0xC050_2100,
    0xC018_2101,
    0x4008_2102,
    0x4018_2103,
    0x4008_2104,
)
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_FILE = struct.Struct("=QIIII")
_CONTINUE = 1
_LOAD, _EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _NOTIFY = 0x7FFF_0000, 0x7FC0_0000
# Opening for reading alone needs nobody's advice: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC.
_WRITING = 0o3 | 0o100 | 0o1000
RLIMIT_LOCKS = 10
# Calls that matter with some values of an argument only: its number, the test, the value.
_ONLY_IF = {
    "open": (1, _BITS, _WRITING),
    "openat": (2, _BITS, _WRITING),
    "setrlimit": (0, _EQUAL, RLIMIT_LOCKS),
    "prlimit64": (1, _EQUAL, RLIMIT_LOCKS),
}


def program(names: frozenset[str], *, reading: bool = False) -> bytes:
    """The filter that notifies of the calls in ``names`` and allows the rest; of files that are opened for
    ``reading`` only where asked to."""
    parts = [_op(_LOAD, 4), _op(_EQUAL, numbers.AUDIT, 1, 0), _op(_RETURN, _ALLOW), _op(_LOAD, 0)]
    for name, number in sorted(numbers.NUMBERS.items(), key=lambda pair: pair[1]):
        if name not in names:
            continue
        position, test, value = _ONLY_IF.get(name, (0, 0, 0))
        if not test or (reading and test == _BITS):
            parts += [_op(_EQUAL, number, 0, 1), _op(_RETURN, _NOTIFY)]
        else:
            parts += [
                _op(_EQUAL, number, 0, 4),
                _op(_LOAD, 16 + 8 * position),
                _op(test, value, 0, 1),
                _op(_RETURN, _NOTIFY),
                _op(_RETURN, _ALLOW),
            ]
    return b"".join((*parts, _op(_RETURN, _ALLOW)))


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def install(filter: bytes) -> int:
    """Install the filter on this process; the listener. OSError where the kernel has none (before 5.5)."""
    buffer = ctypes.create_string_buffer(filter, len(filter))
    structure = struct.pack("=HxxxxxxQ", len(filter) // 8, ctypes.addressof(buffer))
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        words = (_SECCOMP, 1, flags)
        result = int(_libc.syscall(*(ctypes.c_long(word) for word in words), structure))
        if result >= 0:
            return result
    code = ctypes.get_errno()
    raise OSError(code, f"a single user id needs seccomp user notification: {os.strerror(code)}")


class Notification(NamedTuple):
    """One call of process ``pid`` (a thread's, as seen from here) that waits for its answer."""

    id: int
    pid: int
    name: str
    arguments: tuple[int, ...]


class Listener:
    """The supervisor's end. Calls whose caller died meanwhile are answered into nothing."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._names = {number: name for name, number in numbers.NUMBERS.items()}
        try:
            fcntl.ioctl(descriptor, _SET_FLAGS, 1)  # wake up on the same processor (Linux 6.6)
        except OSError:
            pass

    def receive(self) -> Notification | None:
        """The next call; None when its caller is gone already."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.descriptor, _RECEIVE, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        id, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        return Notification(id, pid, self._names.get(number, ""), tuple(arguments))

    def valid(self, call: Notification) -> bool:
        """Whether the caller still waits: only then its process id is not somebody else's."""
        try:
            fcntl.ioctl(self.descriptor, _VALID, struct.pack("=Q", call.id))
        except OSError:
            return False
        return True

    def let(self, call: Notification) -> None:
        """Let the kernel do the call."""
        self._send(_ANSWER.pack(call.id, 0, 0, _CONTINUE))

    def answer(self, call: Notification, value: int) -> None:
        self._send(_ANSWER.pack(call.id, value, 0, 0))

    def refuse(self, call: Notification, code: int) -> None:
        self._send(_ANSWER.pack(call.id, 0, -code, 0))

    def give(self, call: Notification, file: int, *, close_on_exec: bool) -> None:
        """Answer with a new descriptor of the caller's: a copy of ``file``."""
        flags = os.O_CLOEXEC if close_on_exec else 0
        try:
            fcntl.ioctl(self.descriptor, _ADD_FILE, _FILE.pack(call.id, 2, file, 0, flags))
        except OSError as error:
            self.refuse(call, error.errno or errno.EMFILE)

    def _send(self, answer: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, answer)
        except OSError:
            pass  # the caller is gone
