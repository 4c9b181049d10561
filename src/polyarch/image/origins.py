"""Where layers of base images can be had that the local store knows but does not hold.

A build on top of a registry's image does not download layers it never looks into. The image made of them is
complete only together with this table, so it lives beside the content and not in the cache, which may be
dropped at any time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from polyarch.content.state import State
from polyarch.errors import ContentError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS origin (
    digest TEXT NOT NULL,
    place TEXT NOT NULL,  -- registry/repository, or oci-layout:PATH
    PRIMARY KEY (digest, place)
) WITHOUT ROWID
"""
_BATCH = 500  # below SQLite's smallest limit on variables in one statement


class Origins:
    """The table of one state directory. Safe to share between threads and processes; nothing is created
    before something is recorded."""

    def __init__(self, state: State) -> None:
        self._path: Path = state.root / "origins.db"

    def record(self, origins: Mapping[str, Collection[str]]) -> None:
        """Remember for each digest the places that are known to have it. Idempotent."""
        rows = [(digest, place) for digest, places in origins.items() for place in places]
        if not rows:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._connect() as database:
            database.executemany("INSERT OR IGNORE INTO origin VALUES (?, ?)", rows)

    def places(self, digest: str) -> tuple[str, ...]:
        """The places that had ``digest`` when it was recorded; empty when none is known."""
        return self.known([digest]).get(digest, ())

    def known(self, digests: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The places of each of ``digests`` that has any."""
        wanted = list(dict.fromkeys(digests))
        if not self._path.is_file() or not wanted:
            return {}
        found: dict[str, tuple[str, ...]] = {}
        with self._connect() as database:
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                marks = ",".join("?" * len(batch))
                query = f"SELECT digest, place FROM origin WHERE digest IN ({marks}) ORDER BY place"
                for digest, place in database.execute(query, batch):
                    found[digest] = (*found.get(digest, ()), place)
        return found

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=30)) as database, database:
                database.execute(_SCHEMA)
                yield database
        except sqlite3.DatabaseError as error:
            raise ContentError(
                f"the table of layer origins {self._path} cannot be used: {error}",
                hint="move that file away and pull the base images again",
                reason="origins-unreadable",
            ) from None
