"""What the stats of a folder's entries say: one walk, one stat a file, nothing read.

A folder whose stats are the same holds the same, as git's index has it. So this is all that an unchanged
build looks at, and it imports next to nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost a third of Python's start

if TYPE_CHECKING:
    from typing import Protocol

    from polyarch.errors import PolyarchError

    class Ignored(Protocol):
        """What a folder is filtered by; ``context.ignore.Matcher`` is one."""

        @property
        def patterns(self) -> tuple[str, ...]:
            """The patterns in effect, from which the like can be made."""
            ...

        def excluded(
            self, path: str, parent: tuple[bool, ...] | None = None
        ) -> tuple[bool, tuple[bool, ...]]:
            """Whether ``path``, relative to the context, is to be left out, and what to pass for the paths
            in it; ``parent`` is what was returned for the directory it is in."""
            ...

        def can_skip_directory(self, path: str) -> bool:
            """Whether nothing under the directory ``path``, which is left out, can be let in again."""
            ...


INODES = (1 << 62) - 1  # some network file systems number inodes beyond SQLite's largest integer
TICK_NS = 40_000_000  # clocks of file systems lag by a tick of the kernel, at most 10 ms; be generous
COARSE_NS = 2_500_000_000  # where times are whole seconds (or two, on FAT)

Fact = tuple[object, ...]
# A path still to be looked at, and what the ignore rules said of the directory it is in.
_Task = tuple[str, "os.DirEntry[str]", tuple[bool, ...] | None]
# A path that was found: relative to the folder, its status, where it leads when it is a symlink.
Found = tuple[str, os.stat_result, str]


class Walk:
    """One walk over the folder ``root``, in the order of a toc; iterate once. ``facts`` are, then, what names
    this state of the folder."""

    def __init__(self, root: str, matcher: Ignored | None = None) -> None:
        self._root = root
        self._matcher = matcher
        self.facts: list[Fact] = []

    def __iter__(self) -> Iterator[Found]:
        """Every entry that is not left out. A directory that is left out comes after all when something in
        it is let in again. PolyarchError for what cannot be read."""
        pending: list[Found] = []
        todo: list[_Task] = []
        matcher = self._matcher
        self._push(todo, "", None)
        while todo:
            path, item, above = todo.pop()
            ignored, state = matcher.excluded(path, above) if matcher is not None else (False, None)
            try:
                directory = item.is_dir(follow_symlinks=False)
                if ignored and (not directory or self._can_skip(path)):
                    continue
                status = item.stat(follow_symlinks=False)
                link = self._note(path, status)
                if directory:
                    self._push(todo, path, state)
            except FileNotFoundError:
                continue  # removed meanwhile
            except OSError as error:
                raise unreadable(path, error) from None
            while pending and not path.startswith(pending[-1][0] + "/"):
                pending.pop()
            if ignored:
                pending.append((path, status, link))
                continue
            if pending:
                yield from pending
                pending.clear()
            yield path, status, link

    def _can_skip(self, path: str) -> bool:
        return self._matcher is None or self._matcher.can_skip_directory(path)

    def _push(self, todo: list[_Task], path: str, state: tuple[bool, ...] | None) -> None:
        prefix = path + "/" if path else ""
        try:
            with os.scandir(f"{self._root}/{path}" if path else self._root) as items:
                found = sorted(items, key=_name, reverse=True)
        except OSError as error:
            raise unreadable(path or ".", error) from None
        todo.extend([(prefix + item.name, item, state) for item in found])

    def _note(self, path: str, status: os.stat_result) -> str:
        """Keep what was seen; where it leads when it is a symlink."""
        mode, mtime = status.st_mode, status.st_mtime_ns
        if stat.S_ISREG(mode):
            inode = status.st_ino & INODES
            self.facts.append((path, mode & 0o7777, inode, status.st_size, mtime, status.st_ctime_ns))
            return ""
        self.facts.append((path, mode, mtime))
        if not stat.S_ISLNK(mode):
            return ""
        link = os.readlink(f"{self._root}/{path}")
        self.facts.append((link,))
        return link


def identity(facts: list[Fact]) -> str:
    """The name of the state of a folder that ``facts`` describe."""
    import hashlib

    return "context:sha256:" + hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace")).hexdigest()


def rested(mtime_ns: int, ctime_ns: int, now_ns: int) -> bool:
    """Whether a read at ``now_ns`` saw all changes that these times can stand for."""
    coarse = mtime_ns % 1_000_000_000 == 0 and ctime_ns % 1_000_000_000 == 0
    return max(mtime_ns, ctime_ns) < now_ns - (COARSE_NS if coarse else TICK_NS)


def all_rested(facts: list[Fact], now_ns: int) -> bool:
    """Whether that is so for every file among ``facts``."""
    return all(len(fact) < 6 or rested(fact[4], fact[5], now_ns) for fact in facts)  # type: ignore[arg-type]


def unreadable(path: str, error: OSError) -> PolyarchError:
    """The error for what cannot be read."""
    from polyarch.errors import PolyarchError

    return PolyarchError(
        f"{path} in the build context cannot be read: {os.strerror(error.errno or 0).lower()}",
        hint="make it readable, or leave it out with a line in .dockerignore",
        reason="context-unreadable",
    )


def _name(item: os.DirEntry[str]) -> str:
    return item.name
