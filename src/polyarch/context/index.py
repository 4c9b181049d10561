"""Which content a file had when it was last read, as git's index does it: an unchanged file costs one stat.

A file counts as unchanged while its inode, size, mtime and ctime are. That cannot be told of a file that was
changed about when it was read, because it may have been changed again without any of these moving: such a
file is not remembered until it has rested ("racily clean" in git's words).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from polyarch.content.state import State
from polyarch.context.stats import INODES, rested
from polyarch.layer.database import Database

_VERSION = 1
_SCHEMA = """
CREATE TABLE context_roots (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE);
CREATE TABLE context_files (
    root INTEGER NOT NULL, path TEXT NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, digest TEXT NOT NULL, machine TEXT NOT NULL,
    PRIMARY KEY (root, path)) WITHOUT ROWID
"""

# A row: path, inode, size, mtime and ctime in nanoseconds, digest, machine.
Row = tuple[str, int, int, int, int, str, str]


class Stamp(NamedTuple):
    """What a stat says of a file's content."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_ino & INODES, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def rested(self, now_ns: int) -> bool:
        """Whether a read at ``now_ns`` saw all changes that these times can stand for."""
        return rested(self.mtime_ns, self.ctime_ns, now_ns)


class Known(NamedTuple):
    """A file's content as it was read: digest and machine."""

    stamp: Stamp
    digest: str
    machine: str


class ContentIndex:
    """Digests of files by folder, kept in the state's database. Losing it costs reading the files again."""

    def __init__(self, state: State) -> None:
        self._database = Database(state.database, room="context", version=_VERSION, schema=_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def load(self, root: Path) -> dict[str, Row]:
        """Everything known of the files under ``root``, by path relative to it."""
        rows = self._database.read(
            "SELECT f.path, f.inode, f.size, f.mtime, f.ctime, f.digest, f.machine"
            " FROM context_files f JOIN context_roots r ON f.root = r.id WHERE r.path = ?",
            (_key(root),),
        )
        return {row[0]: row for row in rows}  # type: ignore[misc]

    def record(
        self, root: Path, found: Iterable[tuple[str, Known]], *, gone: Iterable[str] = (), now_ns: int
    ) -> None:
        """Remember what was read at ``now_ns`` (or later) of files under ``root``; forget ``gone``."""
        rows = [
            (path, *known.stamp, known.digest, known.machine)
            for path, known in found
            if known.stamp.rested(now_ns) and _storable(path)
        ]
        key = _key(root)
        forgotten = [(path,) for path in gone if _storable(path)]
        if not rows and not forgotten:
            return
        number = "(SELECT id FROM context_roots WHERE path = :1)".replace(":1", _quoted(key))
        self._database.write(
            [
                ("INSERT OR IGNORE INTO context_roots (path) VALUES (?)", [(key,)]),
                (f"DELETE FROM context_files WHERE root = {number} AND path = ?", forgotten),
                (f"INSERT OR REPLACE INTO context_files VALUES ({number}, ?, ?, ?, ?, ?, ?, ?)", rows),
            ]
        )


def _key(root: Path) -> str:
    return os.fsencode(os.path.realpath(root)).hex() if not _storable(str(root)) else os.path.realpath(root)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _storable(text: str) -> bool:
    """SQLite's text is UTF-8; files with other names are read again every time."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
