"""A cache in front of caches elsewhere: what is not known here is looked for there, and then known here.

A cheap key is often worth nothing on another machine (it holds the times of files), so all keys of a result
are remembered together and travel together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

from polyarch.solver.cache import CacheStore

_KEYS = "keys of "  # in front of a result's first key: all of them


class Elsewhere(Protocol):
    """Results of other machines. Asking may mean to fetch, and never raises."""

    def result(self, key: str) -> tuple[Sequence[str], str] | None:
        """All keys of the result that ``key`` leads to, cheapest first, and its record."""
        ...

    def note(self, key: str) -> str | None:
        """A small thing that was remembered there."""
        ...


class ChainedCache:
    """A CacheStore: ``local`` first, then ``elsewhere``."""

    def __init__(self, local: CacheStore, elsewhere: Elsewhere) -> None:
        self._local = local
        self._elsewhere = elsewhere

    def get(self, key: str) -> str | None:
        record = self._local.get(key)
        if record is not None:
            return record
        found = self._elsewhere.result(key) if key.startswith("sha256:") else None
        if found is None:
            return None
        keys, record = found
        for each in keys:
            if each == key or self._local.get(each) is None:
                self._local.put(each, record)
        remember_keys(self._local, keys)
        return record

    def put(self, key: str, record: str) -> None:
        self._local.put(key, record)

    def parts(self, slot: str) -> dict[str, str] | None:
        return self._local.parts(slot)

    def put_parts(self, slot: str, parts: dict[str, str]) -> None:
        self._local.put_parts(slot, parts)


class Notes:
    """Small things to remember beside results (an image's time, what was found in it): looked up as results
    are. ``seen`` is everything that was asked for and known, or told."""

    def __init__(self, local: CacheStore, elsewhere: Elsewhere | None = None) -> None:
        self._local = local
        self._elsewhere = elsewhere
        self.seen: dict[str, str] = {}

    def get(self, key: str) -> str | None:
        """What was remembered under ``key``."""
        text = self._local.get(key)
        if text is None and self._elsewhere is not None:
            text = self._elsewhere.note(key)
            if text is not None:
                self._local.put(key, text)
        if text is not None:
            self.seen[key] = text
        return text

    def put(self, key: str, record: str) -> None:
        """Remember ``record``."""
        self.seen[key] = record
        self._local.put(key, record)


def remember_keys(cache: CacheStore, keys: Sequence[str]) -> None:
    """Remember that ``keys``, cheapest first, lead to one result."""
    if len(keys) > 1:
        cache.put(_KEYS + keys[0], json.dumps(list(keys)))


def known_keys(cache: CacheStore, first: str) -> tuple[str, ...]:
    """Everything that was remembered with ``first``, itself in front."""
    try:
        found = json.loads(cache.get(_KEYS + first) or "[]")
    except ValueError:
        return (first,)
    return tuple(str(key) for key in found) if isinstance(found, list) and found[:1] == [first] else (first,)
