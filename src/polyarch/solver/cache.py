"""Which key gave which result: one SQLite file, shared by processes, dropped when it cannot be read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from polyarch.layer.database import Database

VERSION = 1  # of the tables below; another version's tables are dropped

_SCHEMA = """
CREATE TABLE solver_results (key TEXT PRIMARY KEY, record TEXT NOT NULL, used REAL NOT NULL);
CREATE TABLE solver_slots (slot TEXT PRIMARY KEY, parts TEXT NOT NULL);
"""


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
    """A CacheStore on disk, shared by threads and processes; what cannot be read is forgotten."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, room="solver", version=VERSION, schema=_SCHEMA)

    def get(self, key: str) -> str | None:
        rows = self._database.read("SELECT record FROM solver_results WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def put(self, key: str, record: str) -> None:
        row = (key, record, time.time())
        self._database.write([("INSERT OR REPLACE INTO solver_results VALUES (?, ?, ?)", [row])])

    def parts(self, slot: str) -> dict[str, str] | None:
        rows = self._database.read("SELECT parts FROM solver_slots WHERE slot = ?", (slot,))
        if not rows:
            return None
        found: dict[str, str] = json.loads(str(rows[0][0]))
        return found

    def put_parts(self, slot: str, parts: dict[str, str]) -> None:
        row = (slot, json.dumps(parts))
        self._database.write([("INSERT OR REPLACE INTO solver_slots VALUES (?, ?)", [row])])

    def prune(self, is_left: Callable[[str], bool], unused_since: float) -> None:
        """Forget the records that ``is_left`` knows to be worthless, but for those written since then
        (seconds since 1970)."""
        rows = self._database.read("SELECT key, record FROM solver_results WHERE used < ?", (unused_since,))
        gone = [(key,) for key, record in rows if not is_left(str(record))]
        self._database.write([("DELETE FROM solver_results WHERE key = ?", gone)])
        self._database.compact()

    def close(self) -> None:
        """Close the file."""
        self._database.close()
