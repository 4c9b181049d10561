"""Which key gave which result: one SQLite file, shared by processes, dropped when it cannot be read."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

VERSION = 1  # of the tables below; another version's tables are dropped

_SCHEMA = """
CREATE TABLE IF NOT EXISTS solver_version (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, record TEXT NOT NULL, used REAL NOT NULL);
CREATE TABLE IF NOT EXISTS slots (slot TEXT PRIMARY KEY, parts TEXT NOT NULL);
"""

_T = TypeVar("_T")


class CacheStore(Protocol):
    """Keys to records. ``put`` replaces; losing an entry costs time, never correctness."""

    def get(self, key: str) -> str | None: ...

    def put(self, key: str, record: str) -> None: ...

    def parts(self, slot: str) -> dict[str, str] | None:
        """What went into the key of this place in the Dockerfile the last time."""
        ...

    def put_parts(self, slot: str, parts: dict[str, str]) -> None: ...


class MemoryCache:
    """A CacheStore for one process."""

    def __init__(self) -> None:
        self._results: dict[str, str] = {}
        self._slots: dict[str, dict[str, str]] = {}

    def get(self, key: str) -> str | None:
        return self._results.get(key)

    def put(self, key: str, record: str) -> None:
        self._results[key] = record

    def parts(self, slot: str) -> dict[str, str] | None:
        return self._slots.get(slot)

    def put_parts(self, slot: str, parts: dict[str, str]) -> None:
        self._slots[slot] = parts


class SqliteCache:
    """A CacheStore on disk. One connection a thread; a file that cannot be read is made anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._repair = threading.Lock()

    def get(self, key: str) -> str | None:
        row = self._query("SELECT record FROM results WHERE key = ?", (key,))
        return None if row is None else str(row[0])

    def put(self, key: str, record: str) -> None:
        self._execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (key, record, time.time()))

    def parts(self, slot: str) -> dict[str, str] | None:
        row = self._query("SELECT parts FROM slots WHERE slot = ?", (slot,))
        if row is None:
            return None
        found: dict[str, str] = json.loads(str(row[0]))
        return found

    def put_parts(self, slot: str, parts: dict[str, str]) -> None:
        self._execute("INSERT OR REPLACE INTO slots VALUES (?, ?)", (slot, json.dumps(parts)))

    def _query(self, statement: str, values: tuple[object, ...]) -> tuple[object, ...] | None:
        def ask(connection: sqlite3.Connection) -> tuple[object, ...] | None:
            row: tuple[object, ...] | None = connection.execute(statement, values).fetchone()
            return row

        return self._guarded(ask, None)

    def _execute(self, statement: str, values: tuple[object, ...]) -> None:
        def change(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute(statement, values)

        self._guarded(change, None)

    def _guarded(self, action: Callable[[sqlite3.Connection], _T], default: _T) -> _T:
        """Run ``action``; where the file is damaged, drop it and go on without what it held."""
        try:
            return action(self._connection())
        except sqlite3.OperationalError:  # locked for too long, read-only, no space: go on without a cache
            return default
        except sqlite3.DatabaseError:
            self._drop()
            return default

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self._path, timeout=30)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            _migrate(connection)
            self._local.connection = connection
        return connection

    def _drop(self) -> None:
        with self._repair:
            self._local.connection = None
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _migrate(connection: sqlite3.Connection) -> None:
    with connection:
        connection.executescript(_SCHEMA)
        row = connection.execute("SELECT version FROM solver_version").fetchone()
        if row is None or row[0] != VERSION:
            connection.executescript(
                "DELETE FROM solver_version; DELETE FROM results; DELETE FROM slots;"
                f"INSERT INTO solver_version VALUES ({VERSION});"
            )


@contextmanager
def opened(path: Path) -> Iterator[SqliteCache]:
    """A SqliteCache; its connections end with their threads."""
    cache = SqliteCache(path)
    try:
        yield cache
    finally:
        connection = getattr(cache._local, "connection", None)
        if connection is not None:
            with closing(connection):
                pass
