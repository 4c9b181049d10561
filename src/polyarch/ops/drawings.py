"""What was drawn in this build: COPY of the same files onto the bases of several platforms is drawn once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock, RLock

from polyarch.layer import toc as tocs
from polyarch.layer.entry import Toc
from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.ops.canvas import Canvas


@dataclass
class Drawing:
    """A canvas that nothing is drawn on any more. ``selected`` are, by the action's number, digests of what
    was taken of a local input. Thread-safe."""

    canvas: Canvas
    selected: dict[int, str]
    _lock: RLock = field(default_factory=RLock)
    _layer: Layer | None = None

    @cached_property
    def toc(self) -> Toc:
        """The layer's entries."""
        with self._lock:
            return self.canvas.toc()

    @cached_property
    def content(self) -> str:
        """A digest of what the entries are, their times aside."""
        return tocs.name(self.toc, kind="content", times=False)

    def layer(self, layers: LayerStore) -> Layer:
        """The layer."""
        with self._lock:
            if self._layer is None:
                self._layer = layers.file_layer(self.toc, self.canvas.open)
            return self._layer


class Drawings:
    """The drawings of one build. Thread-safe."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._locks: dict[str, Lock] = {}
        self._found: dict[str, list[Drawing]] = {}

    def get(self, what: str, base: Rootfs, draw: Callable[[], Drawing]) -> Drawing:
        """The drawing of ``what`` (actions and sources) on ``base``: one that was made on another base, if
        all that was looked at there is the same here, or else a new one. Waits for whoever draws the same."""
        with self._guard:
            lock = self._locks.setdefault(what, Lock())
        with lock:
            for known in self._found.get(what, ()):
                if known.canvas.fits(base):
                    return known
            made = draw()
            self._found.setdefault(what, []).append(made)
            return made
