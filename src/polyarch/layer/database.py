"""One SQLite file as a place for what may be forgotten: opened late, replaced when it is damaged.

Every room has its own tables and its own version of them; a version that is not ours is dropped and made
anew. Nothing in here is ever the only copy of something, so that a database that cannot be read or written
(a full disk, a foreign file) costs time, not correctness: reads then find nothing, writes do nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import RLock

_BUSY_MS = 10_000


class Database:
    """The tables of one ``room`` in the file ``path``. ``schema`` is a script of CREATE statements whose
    tables all start with the room's name; a change of it needs another ``version``. Thread-safe."""

    def __init__(self, path: Path, *, room: str, version: int, schema: str) -> None:
        self._path = path
        self._room = room
        self._version = version
        self._schema = schema
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None

    def read(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """All rows of a query; none when the database cannot be read."""
        with self._lock:
            for _ in range(2):
                try:
                    connection = self._open(create=False)
                    return connection.execute(query, values).fetchall() if connection else []
                except sqlite3.Error as error:
                    self._recover(error)
            return []

    def write(self, statements: Iterable[tuple[str, Iterable[Sequence[object]]]]) -> bool:
        """Execute statements, each for all its rows, in one transaction; whether it could be done."""
        work = [(statement, list(rows)) for statement, rows in statements]
        with self._lock:
            for _ in range(2):
                try:
                    connection = self._open(create=True)
                    if connection is None:
                        return False
                    with connection:
                        for statement, rows in work:
                            connection.executemany(statement, rows)
                    return True
                except (sqlite3.Error, OSError) as error:
                    self._recover(error)
            return False

    def compact(self) -> None:
        """Give the disk back what deleted rows took, unless others are at work in the file."""
        with self._lock:
            try:
                connection = self._open(create=False)
                if connection is None:
                    return
                connection.execute("PRAGMA busy_timeout = 100")
                (free,) = connection.execute("PRAGMA freelist_count").fetchone()
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
                if free > max(100, pages // 4):
                    connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except (sqlite3.Error, OSError) as error:
                self._recover(error)
            finally:
                self.close()

    def close(self) -> None:
        """Close the file; it is opened again when needed."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        if self._connection is None:
            if not create and not self._path.exists():
                return None
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_MS / 1000, check_same_thread=False, isolation_level="IMMEDIATE"
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS rooms (name TEXT PRIMARY KEY, version INTEGER)")
        found = connection.execute("SELECT version FROM rooms WHERE name = ?", (self._room,)).fetchone()
        if found == (self._version,):
            return
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            found = connection.execute("SELECT version FROM rooms WHERE name = ?", (self._room,)).fetchone()
            if found == (self._version,):
                return
            tables = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB ?", (self._room + "_*",)
            ).fetchall()
            for (table,) in tables:
                connection.execute(f'DROP TABLE "{table}"')
            for statement in self._schema.split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute("INSERT OR REPLACE INTO rooms VALUES (?, ?)", (self._room, self._version))

    def _recover(self, error: Exception) -> None:
        """After a failure: close, and remove the file if it is damaged rather than busy or full."""
        self.close()
        if getattr(error, "sqlite_errorcode", 0) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
