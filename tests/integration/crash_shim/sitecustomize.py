"""Loaded by Python itself in a process under test (PYTHONPATH): counts the steps it takes on the file system
and, at a chosen one, kills it or lets the call fail.

    POLYARCH_FAULT=count:FILE     write the number of steps to FILE when the process ends
    POLYARCH_FAULT=kill:N         SIGKILL instead of step N
    POLYARCH_FAULT=ENOSPC:N       from step N on everything that needs room fails
    POLYARCH_FAULT=EIO:N          step N fails
"""

import atexit
import builtins
import errno
import io
import os
import signal
import sqlite3
import stat
import threading

_KIND, _, _VALUE = os.environ.pop("POLYARCH_FAULT", "").partition(":")
_ROOM = {"write", "pwrite", "open", "mkdir", "rename", "replace", "link", "symlink", "fsync", "commit"}
_lock = threading.Lock()
_steps = 0


def _step(name):
    """Count one step; the error it is to fail with, if any."""
    global _steps
    with _lock:
        _steps += 1
        number = _steps
    if _KIND == "kill" and number == int(_VALUE):
        os.kill(os.getpid(), signal.SIGKILL)
    if _KIND == "ENOSPC" and number >= int(_VALUE) and name in _ROOM:
        return errno.ENOSPC
    if _KIND == "EIO" and number == int(_VALUE):
        return errno.EIO
    return 0


def _counted(name, counts=lambda *a, **k: True):
    real = getattr(os, name)

    def call(*arguments, **options):
        if counts(*arguments, **options) and (code := _step(name)):
            named = (str(arguments[0]),) if not isinstance(arguments[0], int) else ()
            raise OSError(code, os.strerror(code), *named)
        return real(*arguments, **options)

    for group in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if real in group:
            group.add(call)
    setattr(os, name, call)


def _is_file(descriptor, *_):
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _is_on_disk(descriptor, *_):
    return _is_file(descriptor) and not os.readlink(f"/proc/self/fd/{descriptor}").startswith("/memfd:")


def _creates(path, flags, *_, **__):
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) and not str(path).startswith(("/dev/", "/proc/"))


class _Connection(sqlite3.Connection):
    def __exit__(self, kind, error, trace):
        if kind is None and (code := _step("commit")):
            super().__exit__(sqlite3.OperationalError, None, None)
            text = "database or disk is full" if code == errno.ENOSPC else "disk I/O error"
            failure = sqlite3.OperationalError(text)
            failure.sqlite_errorcode = sqlite3.SQLITE_FULL if code == errno.ENOSPC else sqlite3.SQLITE_IOERR
            raise failure
        return super().__exit__(kind, error, trace)


def _patch():
    for name in ("fsync", "rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir"):
        _counted(name)
    _counted("utime")
    _counted("write", _is_on_disk)
    _counted("pwrite", _is_on_disk)
    _counted("ftruncate", _is_on_disk)
    _counted("open", _creates)
    real_open, real_connect = io.open, sqlite3.connect

    def opened(file, mode="r", *arguments, **options):
        if set(mode) & set("wax+") and not isinstance(file, int) and (code := _step("open")):
            raise OSError(code, os.strerror(code), str(file))
        return real_open(file, mode, *arguments, **options)

    builtins.open = io.open = opened
    sqlite3.connect = lambda *a, **k: real_connect(*a, **{"factory": _Connection, **k})
    if _KIND == "count":
        atexit.register(lambda: real_open(_VALUE, "w").write(str(_steps)))


if _KIND:
    _patch()
