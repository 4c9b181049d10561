"""Watches what a running step writes, where the store has a limit: it is stopped before the disk is full.

Best effort: the step's folder is measured every second or less often, so that it may write for so long after
it has gone over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from polyarch.errors import CancelledError, PolyarchError
from polyarch.layer.store import LayerStore

_SECONDS = 1.0  # between two measurements, and at least so many times what one took
_SHARE = 20
_POLL_SECONDS = 0.05


@contextmanager
def within_limit(layers: LayerStore, upper: Path, cancelled: Event) -> Iterator[Event]:
    """What stops the step that writes to ``upper``: ``cancelled``, or growing over the limit, which is raised
    as what it is (``storage-full``)."""
    if not layers.content.limited:
        yield cancelled
        return
    watch = _Watch(layers, upper, cancelled)
    watch.start()
    try:
        yield watch.stop
    except CancelledError:
        if watch.failure is not None:
            raise watch.failure from None
        raise
    finally:
        watch.ended.set()
        watch.join()


class _Watch(Thread):
    def __init__(self, layers: LayerStore, upper: Path, cancelled: Event) -> None:
        super().__init__(name="room", daemon=True)
        self._layers = layers
        self._upper = upper
        self._cancelled = cancelled
        self.stop = Event()
        self.ended = Event()
        self.failure: PolyarchError | None = None

    def run(self) -> None:
        known, due = 0, time.monotonic() + _SECONDS
        while not self.ended.wait(_POLL_SECONDS):
            if self._cancelled.is_set():
                self.stop.set()
                return
            if time.monotonic() < due:
                continue
            began = time.monotonic()
            try:
                size, _ = self._layers.measure(self._upper)
                self._layers.content.admit(max(0, size - known))
            except PolyarchError as error:
                if error.reason == "storage-full":
                    self.failure = error
                    self.stop.set()
                    return
                continue  # it could not be measured: so be it
            known = max(known, size)
            now = time.monotonic()
            due = now + max(_SECONDS, _SHARE * (now - began))
