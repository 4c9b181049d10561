"""Answers the system calls of a step in which one user plays all: owners are recorded instead of given, told
as they were recorded, and processes take themselves for whom they became.

None of this protects anything: what a step may do to the machine is decided by its namespaces. It makes
programs that are not run by root behave as they would, as far as layers can tell.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from polyarch.executor.oneid import nodes, numbers
from polyarch.executor.oneid import status as statuses
from polyarch.executor.oneid.caller import AT_FDCWD, Caller, Gone
from polyarch.executor.oneid.credentials import Credentials, Register
from polyarch.executor.oneid.identities import Identities
from polyarch.executor.oneid.listener import Listener, Notification
from polyarch.executor.oneid.making import Answered, Making
from polyarch.executor.oneid.records import Records
from polyarch.layer import owners

_NOFOLLOW, _FOLLOW, _EMPTY = 0x100, 0x400, 0x1000
_UNCHANGED = 0xFFFF_FFFF
# Calls the kernel must not do itself: there is one user and no device.
_DECIDED = frozenset(name for name in numbers.NUMBERS if "chown" in name or "mknod" in name) | frozenset(
    (*Identities.NAMES, "setrlimit")
)
_MAGIC = (b"/proc/", b"/dev/std", b"/dev/fd/")

Handler = Callable[[Caller, Notification], int | None]


class Supervision:
    """One step's supervisor of ids. ``serve`` when ``descriptor`` can be read, ``close`` at the end."""

    def __init__(self, descriptor: int, step: dict[str, Any]) -> None:
        os.umask(0)  # what is made for a caller gets the caller's
        uid, gid, groups = step["identity"]
        first = Credentials((uid,) * 3, (gid,) * 3, tuple(groups))
        self._listener = Listener(descriptor)
        self.records = Records(str(step["upper"]), step["links"])
        self.register = Register(first)
        self._handlers = self._every() if step["single"] else nodes.handlers()

    def _every(self) -> dict[str, Handler]:
        here = AT_FDCWD
        identities = Identities(self.register)
        making = Making(self.records, self.register, self._listener)
        return {
            **identities.handlers(),
            **making.handlers(),
            "stat": lambda c, n: self._stat(c, n, here, n.arguments[0], n.arguments[1]),
            "lstat": lambda c, n: self._stat(c, n, here, n.arguments[0], n.arguments[1], _NOFOLLOW),
            "newfstatat": lambda c, n: self._stat(c, n, *n.arguments[:4]),
            "statx": lambda c, n: self._stat(
                c, n, n.arguments[0], n.arguments[1], n.arguments[4], n.arguments[2]
            ),
            "fstat": self._fstat,
            "listxattr": lambda c, n: self._list(c, n, 0),
            "llistxattr": lambda c, n: self._list(c, n, _NOFOLLOW),
            "flistxattr": lambda c, n: self._list(c, n, -1),
            "chown": lambda c, n: self._chown(c, n, (here, *n.arguments[:3]), 0),
            "lchown": lambda c, n: self._chown(c, n, (here, *n.arguments[:3]), _NOFOLLOW),
            "fchownat": lambda c, n: self._chown(c, n, n.arguments[:4], n.arguments[4]),
            "fchown": self._fchown,
            "execve": lambda c, n: self._exec(c, n, AT_FDCWD, n.arguments[0], 0),
            "execveat": lambda c, n: self._exec(c, n, n.arguments[0], n.arguments[1], n.arguments[4]),
        }  # fmt: skip

    @property
    def descriptor(self) -> int:
        return self._listener.descriptor

    def serve(self) -> None:
        """Answer one call. Whatever goes wrong, the caller gets an answer and the others theirs."""
        call = self._listener.receive()
        if call is None:
            return
        caller = Caller(self._listener, call)
        handler = self._handlers.get(call.name)
        try:
            value = handler(caller, call) if handler is not None else None
        except (Gone, ProcessLookupError):
            return
        except Answered:
            return
        except OSError as error:
            if call.name in _DECIDED or isinstance(error, PermissionError):
                self._listener.refuse(call, error.errno or errno.EPERM)
            else:
                self._listener.let(call)  # what hindered us hinders the caller, and the kernel says it better
            return
        except Exception:
            self._listener.refuse(call, errno.EINVAL)
            return
        if value is None:
            self._listener.let(call)
        else:
            self._listener.answer(call, value)

    def close(self) -> None:
        os.close(self._listener.descriptor)
        self.records.save()

    # --- who owns it ----------------------------------------------------------------------------------------

    def _stat(
        self, caller: Caller, call: Notification, folder: int, path: int, buffer: int, flags: int = 0
    ) -> int | None:
        name = caller.path(path) if path else b""
        if name.startswith(b"/proc/"):
            return None
        with caller.file(folder, name, follow=not flags & _NOFOLLOW) as file:
            return self._tell(caller, call, file, buffer)

    def _fstat(self, caller: Caller, call: Notification) -> int | None:
        with caller.descriptor(call.arguments[0]) as file:
            return self._tell(caller, call, file, call.arguments[1])

    def _tell(self, caller: Caller, call: Notification, file: int, buffer: int) -> int | None:
        status = os.fstat(file)
        owner, node = self.records.owner(file, status.st_mode), self.records.node(file, status)
        if owner is None and node is None:
            return None
        owner = owner or (0, 0)
        if call.name == "statx":
            caller.write(buffer, statuses.extended(file, status, owner, node))
        else:
            caller.write(buffer, statuses.packed(status, owner, node))
        return 0

    def _list(self, caller: Caller, call: Notification, flags: int) -> int | None:
        """Attributes without those that are only here: a copy of the file must not be made with them."""
        where, buffer, size = call.arguments[:3]
        if flags < 0:
            opened = caller.descriptor(where)
        else:
            opened = caller.file(AT_FDCWD, caller.path(where), follow=not flags & _NOFOLLOW)
        with opened as file:
            names = os.listxattr(f"/proc/self/fd/{file}")
        left = [name for name in names if not name.startswith(owners.OURS)]
        if len(left) == len(names):
            return None
        data = b"".join(os.fsencode(name) + b"\0" for name in left)
        if size and size < len(data):
            raise OSError(errno.ERANGE, "too small")
        if size:
            caller.write(buffer, data)
        return len(data)

    # --- giving away ----------------------------------------------------------------------------------------

    def _chown(self, caller: Caller, call: Notification, words: tuple[int, ...], flags: int) -> int | None:
        folder, path, uid, gid = words
        name = caller.path(path)
        if not name and not flags & _EMPTY:
            raise OSError(errno.ENOENT, "no path")
        try:
            with caller.file(folder, name, follow=not flags & _NOFOLLOW) as file:
                return self._give(call, file, uid, gid)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOENT) and name.startswith(_MAGIC):
                return 0  # an open pipe or terminal, of which nothing is kept
            raise

    def _fchown(self, caller: Caller, call: Notification) -> int | None:
        number, uid, gid = call.arguments[:3]
        with caller.descriptor(number) as file:
            return self._give(call, file, uid, gid)

    def _give(self, call: Notification, file: int, uid: int, gid: int) -> int:
        uid, gid = uid & _UNCHANGED, gid & _UNCHANGED
        mode = os.fstat(file).st_mode
        if stat.S_ISSOCK(mode) or stat.S_ISCHR(mode):
            return 0  # a terminal, a socket: no layer has them
        old = self.records.owner(file, mode) or (0, 0)
        new = old[0] if uid == _UNCHANGED else uid, old[1] if gid == _UNCHANGED else gid
        who = self.register.of(call.pid)
        if who.uid and (
            who.uid != old[0] or new[0] != old[0] or new[1] not in (old[1], who.gid, *who.others)
        ):
            raise PermissionError(errno.EPERM, "not the owner")
        if (uid, gid) != (_UNCHANGED, _UNCHANGED):
            self.records.give(file, mode, new)
        return 0

    # --- programs that run as their owner -------------------------------------------------------------------

    def _exec(self, caller: Caller, call: Notification, folder: int, path: int, flags: int) -> int | None:
        with caller.file(folder, caller.path(path), follow=not flags & _NOFOLLOW) as file:
            status = os.fstat(file)
            owner = self.records.owner(file, status.st_mode) or (0, 0)
        mode = status.st_mode
        who = self.register.of(call.pid)
        if stat.S_ISREG(mode) and mode & 0o111 and not who.may(1, owner, mode):
            raise PermissionError(errno.EACCES, "not executable")
        if not stat.S_ISREG(mode) or not mode & (stat.S_ISUID | stat.S_ISGID):
            return None
        users, groups = who.users, who.groups
        if mode & stat.S_ISUID:
            users = users[0], owner[0], owner[0]
        if mode & stat.S_ISGID and mode & stat.S_IXGRP:
            groups = groups[0], owner[1], owner[1]
        self.register.become(call.pid, Credentials(users, groups, who.others))
        return None
