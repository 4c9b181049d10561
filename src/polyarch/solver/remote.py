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
_MAX_KEYS = 16


def is_portable(key: str) -> bool:
    """Whether a key means the same on every machine."""
    return key.startswith("sha256:")


class Elsewhere(Protocol):
    """Results of other machines. Asking may mean to fetch, and never raises."""

    def result(self, key: str) -> tuple[Sequence[str], str] | None:
        """All keys of the result that ``key`` leads to, cheapest first, and its record."""
        ...

    def note(self, key: str) -> str | None:
        """A small thing that was remembered there."""
        ...


class ChainedCache:
    """A CacheStore: ``local`` first, then ``elsewhere``. What came from there is kept only by ``keep``, when
    the build has shown that it is good."""

    def __init__(self, local: CacheStore, elsewhere: Elsewhere) -> None:
        self._local = local
        self._elsewhere = elsewhere
        self._imported: dict[str, str] = {}
        self._records: set[str] = set()

    def keep(self) -> None:
        """Remember here what was found elsewhere."""
        for key, record in self._imported.items():
            self._local.put(key, record)
        self.forget()

    def forget(self) -> None:
        """Take what was found elsewhere for not found."""
        self._imported, self._records = {}, set()

    def get(self, key: str) -> str | None:
        record = self._local.get(key) or self._imported.get(key)
        if record is not None:
            return record
        found = self._elsewhere.result(key) if is_portable(key) else None
        if found is None:
            return None
        keys, record = found
        self._records.add(record)
        for number in range(len(keys) - 1):
            self._imported[_KEYS + keys[number]] = json.dumps(keys[number:])
        for each in keys:
            if each == key or self._local.get(each) is None:
                self._imported[each] = record
        return record

    def put(self, key: str, record: str) -> None:
        if record in self._records:
            self._imported[key] = record
        else:
            self._imported.pop(key, None)
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
    """Remember that ``keys``, cheapest first, lead to one result, with all that is known of each."""
    if len(keys) > 1:
        known = known_keys(cache, keys)
        for number in range(len(known) - 1):
            cache.put(_KEYS + known[number], json.dumps(known[number:]))


def known_keys(cache: CacheStore, keys: Sequence[str]) -> tuple[str, ...]:
    """``keys`` and everything that was remembered with any of them, cheapest first."""
    found = dict.fromkeys(keys)
    for key in keys:
        try:
            more = json.loads(cache.get(_KEYS + key) or "[]")
        except ValueError:
            continue
        if isinstance(more, list):
            found.update(dict.fromkeys(str(one) for one in more[:_MAX_KEYS]))
    return tuple(found)[:_MAX_KEYS]
