"""The most a state directory may take: ``POLYARCH_STORAGE_MAX``, kept before something is written.

What takes too much room is first made smaller, the least recently used first and never what is in use; only
when that is not enough is the writing refused. Sizes of when they were last measured count, so that
a store may grow past its limit by what other processes write meanwhile, and by what a running step writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import PolyarchError, UsageError
from polyarch.layer.store import LayerStore

if TYPE_CHECKING:
    from polyarch.builder.storage import Storage

VARIABLE = "POLYARCH_STORAGE_MAX"
T = TypeVar("T")
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def maximum(environ: Mapping[str, str] = os.environ) -> int | None:
    """The limit in bytes; None where none is set. UsageError where it is no size."""
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", text.lower())
    if match is None:
        raise UsageError(f"{VARIABLE}={text!r} is not a size", hint="such as 20g", reason="invalid-size")
    return int(float(match[1]) * _UNITS[match[2]])


def keep_within(state: State, layout: Layout, layers: LayerStore | None = None) -> None:
    """Let ``layout`` keep the limit of the environment. ``layers`` is used to look into trees and remove
    them; without it one is opened when it is needed."""
    limit = maximum()
    if limit is not None:
        layout.admit = Quota(state, limit, layers).admit


class Quota:
    """One process's watch over the limit. Thread-safe."""

    def __init__(self, state: State, limit: int, layers: LayerStore | None) -> None:
        self._state = state
        self._limit = limit
        self._layers = layers
        self._lock = Lock()
        self._used: int | None = None

    def admit(self, size: int) -> None:
        """Make sure that there is room for ``size`` more bytes. PolyarchError (``storage-full``)."""
        from polyarch.builder.collect import collect

        with self._lock:
            if self._used is None or self._used + size > self._limit:
                self._used = self._with_storage(lambda storage: storage.used())
            if self._used + size > self._limit:
                room = max(0, self._limit - size)
                self._with_storage(lambda storage: collect(storage, keep_bytes=room))
                self._used = self._with_storage(lambda storage: storage.used())
            if self._used + size > self._limit:
                raise self._full(size)
            self._used += size

    def _with_storage(self, action: Callable[[Storage], T]) -> T:
        from polyarch.builder.storage import Storage

        if self._layers is not None:
            storage = Storage(self._state, self._layers)
            try:
                return action(storage)
            finally:
                storage.close()
        with Storage.open(self._state) as storage:
            return action(storage)

    def _full(self, size: int) -> PolyarchError:
        return PolyarchError(
            f"storing {_amount(size)} would take {self._state.root} over its limit of {_amount(self._limit)}",
            detail=f"{_amount(self._used or 0)} are used by images, and by what builds use now",
            hint=f"remove images ('polyarch images', 'polyarch rmi') or all that is not in use"
            f" ('polyarch prune --all'), or raise {VARIABLE}",
            reason="storage-full",
        )


def _amount(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
