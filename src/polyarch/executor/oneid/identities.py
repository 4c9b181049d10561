"""The calls by which a process learns and changes who it is."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from polyarch.executor.oneid.caller import Caller
from polyarch.executor.oneid.credentials import Credentials, Register, changed
from polyarch.executor.oneid.listener import Notification

Handler = Callable[[Caller, Notification], int | None]
_MOST_GROUPS = 65536
_UNLIMITED = (1 << 64) - 1


_NAMES = (
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "setfsuid",
    "setfsgid",
    "getresuid",
    "getresgid",
    "getgroups",
)


class Identities:
    """Answers for one step."""

    NAMES = (
        *_NAMES,
        "setgroups",
        *(f"set{kind}{what}" for kind in ("", "re", "res") for what in ("uid", "gid")),
    )

    def __init__(self, register: Register) -> None:
        self._register = register

    def handlers(self) -> dict[str, Handler]:
        of = self._register.of
        found: dict[str, Handler] = {
            "getuid": lambda c, n: of(n.pid).users[0],
            "geteuid": lambda c, n: of(n.pid).users[1],
            "getgid": lambda c, n: of(n.pid).groups[0],
            "getegid": lambda c, n: of(n.pid).groups[1],
            "setfsuid": lambda c, n: of(n.pid).uid,
            "setfsgid": lambda c, n: of(n.pid).gid,
            "getresuid": lambda c, n: _three(c, n, of(n.pid).users),
            "getresgid": lambda c, n: _three(c, n, of(n.pid).groups),
            "getgroups": self._getgroups,
            "setgroups": self._setgroups,
            # The limit that carries the ids is nobody's to set: PAM would reset it with the others.
            "setrlimit": lambda c, n: 0,
            "prlimit64": self._prlimit,
        }
        for name, words in (("set", 1), ("setre", 2), ("setres", 3)):
            found[f"{name}uid"] = self._change(name, words, groups=False)
            found[f"{name}gid"] = self._change(name, words, groups=True)
        return found

    def _change(self, name: str, words: int, *, groups: bool) -> Handler:
        def handler(caller: Caller, call: Notification) -> int:
            who = self._register.of(call.pid)
            old = who.groups if groups else who.users
            try:
                new = changed(old, name, call.arguments[:words], free=who.uid == 0)
            except ValueError:
                raise OSError(errno.EINVAL, "no id") from None
            except PermissionError:
                raise OSError(errno.EPERM, "not root") from None
            if groups:
                self._register.become(call.pid, who._replace(groups=new))
            else:
                self._register.become(call.pid, who._replace(users=new))
            return 0

        return handler

    @staticmethod
    def _prlimit(caller: Caller, call: Notification) -> int | None:
        wanted, old = call.arguments[2:4]
        if not wanted:
            return None
        if old:
            caller.write(old, struct.pack("=QQ", _UNLIMITED, _UNLIMITED))
        return 0

    def _getgroups(self, caller: Caller, call: Notification) -> int:
        size, address = call.arguments[:2]
        groups = self._register.of(call.pid).others
        size &= 0xFFFF_FFFF
        if size:
            if size < len(groups) or size > 0x7FFF_FFFF:
                raise OSError(errno.EINVAL, "too small")
            caller.write(address, struct.pack(f"={len(groups)}I", *groups))
        return len(groups)

    def _setgroups(self, caller: Caller, call: Notification) -> int:
        size, address = call.arguments[:2]
        size &= 0xFFFF_FFFF
        who: Credentials = self._register.of(call.pid)
        if who.uid:
            raise OSError(errno.EPERM, "not root")
        if size > _MOST_GROUPS:
            raise OSError(errno.EINVAL, "too many groups")
        data = caller.read(address, 4 * size) if size else b""
        if len(data) != 4 * size:
            raise OSError(errno.EFAULT, "bad address")
        self._register.become(call.pid, who._replace(others=struct.unpack(f"={size}I", data)))
        return 0


def _three(caller: Caller, call: Notification, ids: tuple[int, int, int]) -> int:
    for address, value in zip(call.arguments, ids, strict=False):
        caller.write(address, struct.pack("=I", value))
    return 0
