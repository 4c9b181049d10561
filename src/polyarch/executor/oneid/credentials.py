"""Who a process of a step takes itself for, where in truth all are one user.

A set of ids has a number, and the process carries the number in a resource limit that the kernel has not
used since 2.4 (RLIMIT_LOCKS) but hands on to children and through execve: so nobody has to follow forks. A
step may change it, which changes what it takes itself for and no right it has.
"""

from __future__ import annotations

import resource
from typing import NamedTuple

_LOCKS = 10
_INFINITY = resource.RLIM_INFINITY


class Credentials(NamedTuple):
    """Real, effective and saved ids, and supplementary groups."""

    users: tuple[int, int, int] = (0, 0, 0)
    groups: tuple[int, int, int] = (0, 0, 0)
    others: tuple[int, ...] = ()

    @property
    def uid(self) -> int:
        return self.users[1]

    @property
    def gid(self) -> int:
        return self.groups[1]

    def may(self, wanted: int, owner: tuple[int, int], mode: int) -> bool:
        """Whether the permission bits give ``wanted`` (4 read, 2 write, 1 execute or search)."""
        if self.uid == 0:
            return wanted & 1 == 0 or mode & 0o111 != 0 or mode & 0o170000 == 0o040000
        if self.uid == owner[0]:
            bits = mode >> 6
        elif owner[1] == self.gid or owner[1] in self.others:
            bits = mode >> 3
        else:
            bits = mode
        return bits & wanted == wanted


class Register:
    """The sets of ids in a step. The first is root's."""

    def __init__(self, first: Credentials) -> None:
        self._sets = [first]
        self._numbers = {first: 0}

    def of(self, pid: int) -> Credentials:
        """Of a process. ProcessLookupError when it is gone."""
        soft, _ = resource.prlimit(pid, _LOCKS)
        return self._sets[soft - 1] if 0 < soft <= len(self._sets) else self._sets[0]

    def become(self, pid: int, wanted: Credentials) -> None:
        number = self._numbers.get(wanted)
        if number is None:
            if len(self._sets) >= 1 << 20:
                raise PermissionError("too many sets of ids")
            number = self._numbers[wanted] = len(self._sets)
            self._sets.append(wanted)
        _, hard = resource.prlimit(pid, _LOCKS)
        limit = number + 1 if number else _INFINITY
        resource.prlimit(pid, _LOCKS, (limit if hard == _INFINITY or limit <= hard else hard, hard))


def changed(
    old: tuple[int, int, int], name: str, words: tuple[int, ...], *, free: bool
) -> tuple[int, int, int]:
    """The three ids after setuid, setreuid or setresuid (or the same for groups; ``name`` without the last
    three letters). PermissionError as the kernel has it, where the process is not ``free`` to choose."""
    real, effective, saved = old
    new = [None if word & 0xFFFF_FFFF == 0xFFFF_FFFF else word & 0xFFFF_FFFF for word in words]
    match name:
        case "set":
            (wanted,) = new[:1]
            if wanted is None:
                raise ValueError
            if free:
                return wanted, wanted, wanted
            if wanted not in (real, saved):
                raise PermissionError
            return real, wanted, saved
        case "setre":
            r, e = new[:2]
            if not free and ((r not in (None, real, effective)) or e not in (None, *old)):
                raise PermissionError
            after = real if r is None else r, effective if e is None else e
            keep = r is None and (e is None or e == real)
            return *after, saved if keep else after[1]
        case _:
            if not free and any(word not in (None, *old) for word in new[:3]):
                raise PermissionError
            a, b, c = (was if word is None else word for was, word in zip(old, new, strict=False))
            return a, b, c
