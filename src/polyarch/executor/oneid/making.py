"""Files that a step makes and removes as somebody else than root, and device nodes: made in its place where
the new file is somebody else's, refused where the recorded owners and modes would refuse it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from polyarch.executor.oneid import nodes
from polyarch.executor.oneid.caller import AT_FDCWD, Caller
from polyarch.executor.oneid.credentials import Credentials, Register
from polyarch.executor.oneid.listener import Listener, Notification
from polyarch.executor.oneid.records import Owner, Records

Handler = Callable[[Caller, Notification], int | None]
_NOFOLLOW = 0x100
_TAKEN_OVER = os.O_ACCMODE | os.O_APPEND | os.O_NONBLOCK | os.O_SYNC | os.O_LARGEFILE


class Answered(Exception):
    """The caller has its answer already."""


class Making:
    """Answers for one step."""

    def __init__(self, records: Records, register: Register, listener: Listener) -> None:
        self._records = records
        self._register = register
        self._listener = listener

    def handlers(self) -> dict[str, Handler]:
        here = AT_FDCWD
        return {
            "open": lambda c, n: self._open(c, n, here, *n.arguments[:3]),
            "openat": lambda c, n: self._open(c, n, *n.arguments[:4]),
            "creat": lambda c, n: self._open(
                c, n, here, n.arguments[0], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, n.arguments[1]
            ),
            "mkdir": lambda c, n: self._mkdir(c, n, here, *n.arguments[:2]),
            "mkdirat": lambda c, n: self._mkdir(c, n, *n.arguments[:3]),
            "symlink": lambda c, n: self._symlink(c, n, n.arguments[0], here, n.arguments[1]),
            "symlinkat": lambda c, n: self._symlink(c, n, *n.arguments[:3]),
            "mknod": lambda c, n: self._mknod(c, n, here, *n.arguments[:3]),
            "mknodat": lambda c, n: self._mknod(c, n, *n.arguments[:4]),
            "unlink": lambda c, n: self._remove(c, n, here, n.arguments[0]),
            "rmdir": lambda c, n: self._remove(c, n, here, n.arguments[0]),
            "unlinkat": lambda c, n: self._remove(c, n, *n.arguments[:2]),
            "rename": lambda c, n: self._rename(c, n, here, n.arguments[0], here, n.arguments[1]),
            "renameat": lambda c, n: self._rename(c, n, *n.arguments[:4]),
            "renameat2": lambda c, n: self._rename(c, n, *n.arguments[:4]),
            "access": lambda c, n: self._access(c, n, here, *n.arguments[:2]),
            "faccessat": lambda c, n: self._access(c, n, *n.arguments[:3]),
            "faccessat2": lambda c, n: self._access(c, n, *n.arguments[:4]),
            "chmod": lambda c, n: self._chmod(c, n, here, n.arguments[0]),
            "fchmodat": lambda c, n: self._chmod(c, n, n.arguments[0], n.arguments[1]),
            "fchmodat2": lambda c, n: self._chmod(c, n, n.arguments[0], n.arguments[1], n.arguments[3]),
            "fchmod": self._fchmod,
        }

    # --- making ---------------------------------------------------------------------------------------------

    def _heir(self, who: Credentials, folder: int) -> Owner | None:
        """Whose a new file in ``folder`` is; None for root's. PermissionError where it may not be."""
        status = os.fstat(folder)
        if who.uid == 0 and who.gid == 0 and not status.st_mode & stat.S_ISGID:
            return None
        above = self._records.owner(folder, status.st_mode) or (0, 0)
        if not who.may(3, above, status.st_mode):
            raise PermissionError(errno.EACCES, "not permitted")
        heir = who.uid, above[1] if status.st_mode & stat.S_ISGID else who.gid
        return None if heir == (0, 0) else heir

    def _mark(self, folder: int, name: str, owner: Owner) -> None:
        made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            self._records.mark(made, os.fstat(made).st_mode, owner)
        finally:
            os.close(made)

    def _new(
        self, caller: Caller, call: Notification, folder: int, path: int, make: Callable[[int, str], object]
    ) -> int | None:
        """Make something for the caller where it would not be root's."""
        who = self._register.of(call.pid)
        with caller.parent(folder, caller.path(path)) as (above, name):
            if _there(above, name):
                return None
            heir = self._heir(who, above)
            if heir is None:
                return None
            make(above, name)
            self._mark(above, name, heir)
        return 0

    def _mkdir(self, caller: Caller, call: Notification, folder: int, path: int, mode: int) -> int | None:
        return self._new(
            caller,
            call,
            folder,
            path,
            lambda above, name: os.mkdir(name, mode & 0o1777 & ~caller.umask(), dir_fd=above),
        )

    def _symlink(self, caller: Caller, call: Notification, target: int, folder: int, path: int) -> int | None:
        link = caller.path(target)
        return self._new(
            caller, call, folder, path, lambda above, name: os.symlink(link, os.fsencode(name), dir_fd=above)
        )

    def _mknod(
        self, caller: Caller, call: Notification, folder: int, path: int, mode: int, device: int
    ) -> int | None:
        if not nodes.is_device(mode, device):
            return self._new(
                caller,
                call,
                folder,
                path,
                lambda above, name: os.mknod(name, mode & 0xFFFF & ~caller.umask(), dir_fd=above),
            )
        if self._register.of(call.pid).uid:
            raise PermissionError(errno.EPERM, "not root")
        with caller.parent(folder, caller.path(path)) as (above, name):
            heir = self._heir(self._register.of(call.pid), above)
            nodes.make(above, name, mode & (~0o777 | ~caller.umask()), device & 0xFFFF_FFFF)
            if heir is not None:
                self._mark(above, name, heir)
        return 0

    def _open(
        self, caller: Caller, call: Notification, folder: int, path: int, flags: int, mode: int
    ) -> int | None:
        """Open for writing. Only files that are made for somebody else than root are opened here."""
        flags &= 0xFFFF_FFFF
        who = self._register.of(call.pid)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return None
        name = caller.path(path)
        try:
            with caller.file(folder, name, follow=not flags & (os.O_NOFOLLOW | os.O_EXCL)) as file:
                self._allowed(who, file, _wanted(flags))
                return None
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                return None
        with caller.parent(folder, name) as (above, last):
            if _there(above, last):  # a dangling link leads elsewhere
                return None
            heir = self._heir(who, above)
            if heir is None:
                return None
            taken = flags & _TAKEN_OVER | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            made = os.open(last, taken, mode & 0o7777 & ~caller.umask(), dir_fd=above)
            try:
                self._mark(above, last, heir)
                self._listener.give(call, made, close_on_exec=bool(flags & os.O_CLOEXEC))
            finally:
                os.close(made)
        raise Answered

    # --- permissions ----------------------------------------------------------------------------------------

    def _allowed(self, who: Credentials, file: int, wanted: int) -> None:
        """PermissionError unless ``who`` may do what is ``wanted`` with the file."""
        mode = os.fstat(file).st_mode
        if who.uid and not stat.S_ISLNK(mode) and not stat.S_ISCHR(mode):
            owner = self._records.owner(file, mode) or (0, 0)
            if not who.may(wanted, owner, mode):
                raise PermissionError(errno.EACCES, "not permitted")

    def _access(
        self, caller: Caller, call: Notification, folder: int, path: int, wanted: int, flags: int = 0
    ) -> int | None:
        who = self._register.of(call.pid)
        if who.uid == 0 or not wanted & 7:
            return None
        with caller.file(folder, caller.path(path), follow=not flags & _NOFOLLOW) as file:
            self._allowed(who, file, wanted & 7)
        return None

    def _remove(self, caller: Caller, call: Notification, folder: int, path: int) -> int | None:
        who = self._register.of(call.pid)
        if who.uid == 0:
            return None
        with caller.parent(folder, caller.path(path)) as (above, name):
            if _there(above, name):
                self._may_remove(who, above, name)
        return None

    def _may_remove(self, who: Credentials, above: int, name: str) -> None:
        status = os.fstat(above)
        owner = self._records.owner(above, status.st_mode) or (0, 0)
        if not who.may(3, owner, status.st_mode):
            raise PermissionError(errno.EACCES, "not permitted")
        if status.st_mode & stat.S_ISVTX and owner[0] != who.uid:
            file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            try:
                theirs = self._records.owner(file, os.fstat(file).st_mode) or (0, 0)
            finally:
                os.close(file)
            if theirs[0] != who.uid:
                raise PermissionError(errno.EPERM, "somebody else's")

    def _rename(
        self, caller: Caller, call: Notification, folder: int, path: int, folder2: int, path2: int
    ) -> int | None:
        who = self._register.of(call.pid)
        if who.uid:
            self._remove(caller, call, folder, path)
            with caller.parent(folder2, caller.path(path2)) as (above, name):
                self._heir(who, above)
                if _there(above, name):
                    self._may_remove(who, above, name)
        if self._records.has_links:
            with caller.file(folder, caller.path(path), follow=False) as file:
                mode = os.fstat(file).st_mode
                owner = self._records.owner(file, mode)
                if owner is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                    self._records.give(file, mode, owner)  # its path in the lower layer no longer tells
        return None

    def _chmod(
        self, caller: Caller, call: Notification, folder: int, path: int, flags: int = 0
    ) -> int | None:
        if self._register.of(call.pid).uid == 0:
            return None
        with caller.file(folder, caller.path(path), follow=not flags & _NOFOLLOW) as file:
            self._owned(call, file)
        return None

    def _fchmod(self, caller: Caller, call: Notification) -> int | None:
        if self._register.of(call.pid).uid == 0:
            return None
        with caller.descriptor(call.arguments[0]) as file:
            self._owned(call, file)
        return None

    def _owned(self, call: Notification, file: int) -> None:
        owner = self._records.owner(file, os.fstat(file).st_mode) or (0, 0)
        if owner[0] != self._register.of(call.pid).uid:
            raise PermissionError(errno.EPERM, "not the owner")


def _wanted(flags: int) -> int:
    wanted = {os.O_RDONLY: 4, os.O_WRONLY: 2, os.O_RDWR: 6}.get(flags & os.O_ACCMODE, 0)
    return wanted | (2 if flags & os.O_TRUNC else 0)


def _there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
