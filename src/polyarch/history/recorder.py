"""Writes the record of a build while it runs.

Every line is one ``write`` to a file that is locked as long as the build lives, so that a killed build leaves
a readable record that is known to be of a dead one. A record is never worth a build: when it cannot be
written (a full disk), the build goes on without.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from polyarch.errors import CancelledError, PolyarchError
from polyarch.history import lines
from polyarch.history.hiding import Veil
from polyarch.history.keeping import file_name, new_id, prune
from polyarch.history.lines import (
    Began,
    Ended,
    Finished,
    Line,
    Log,
    Plan,
    PlanVertex,
    Started,
    Transfer,
    Variant,
    Warned,
)
from polyarch.solver.events import (
    Event,
    EventSink,
    Planned,
    VertexCompleted,
    VertexLog,
    VertexStarted,
    VertexStatus,
    Warning,
)

MAX_LOGS = 64 << 20  # bytes of output kept of one build
_MAX_PARTIAL = 64 << 10  # bytes of a line without an end
_STATUS_SECONDS = 0.5  # between two lines about one transfer


class Recorder:
    """One build's record, and a sink that passes events on. ``hide`` is told of every secret before a step
    sees it. Thread-safe."""

    def __init__(self, folder: Path, began: Callable[[str, float], Began], events: EventSink) -> None:
        self.id = new_id()
        self.veil = Veil()
        self._folder = folder
        self._events = events
        self._lock = Lock()
        self._file = -1
        self._partial: dict[tuple[str, int], bytes] = {}
        self._told: dict[tuple[str, str], float] = {}
        self._planned: set[str] = set()
        self._logged = 0
        self._steps: dict[str, bool] = {}
        now = time.time()
        self._open(now)
        self._write(began(self.id, now))

    # --- events ---------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Planned():
                    self._plan(event)
                case VertexStarted():
                    name = "" if event.digest in self._planned else self.veil(event.name)
                    self._write(Started(vertex=event.digest, at=event.time, name=name))
                case VertexLog():
                    self._log(event)
                case VertexStatus():
                    self._status(event)
                case VertexCompleted():
                    self._end(event)
                case Warning():
                    warned = Warned(
                        rule=event.rule, message=self.veil(event.message), url=event.url, at_line=event.line
                    )
                    self._write(warned)
        self._events(event)

    def finish(self, finished: Finished) -> None:
        """The build is over."""
        with self._lock:
            for (vertex, stream), rest in self._partial.items():
                self._say(vertex, stream, rest, time.time())
            self._partial.clear()
            self._write(finished)
            self._close()
        prune(str(self._folder))

    def succeeded(
        self, *, digest: str, names: tuple[str, ...], variants: tuple[Variant, ...], sizes: dict[str, int]
    ) -> None:
        """``finish`` after success. See ``Finished``."""
        self.finish(
            Finished(
                at=time.time(),
                status="completed",
                steps=len(self._steps),
                cached=sum(self._steps.values()),
                digest=digest,
                names=names,
                variants=variants,
                sizes=sizes,
            )
        )

    def failed(self, error: BaseException) -> None:
        """``finish`` with what went wrong."""
        stopped = isinstance(error, CancelledError | KeyboardInterrupt)
        text = error.summary if isinstance(error, PolyarchError) else f"{type(error).__name__}: {error}"
        detail, hint, reason = "", "", ""
        if isinstance(error, PolyarchError):
            detail, hint, reason = error.detail, error.hint, error.reason
        self.finish(
            Finished(
                at=time.time(),
                status="canceled" if stopped else "error",
                error=self.veil(text),
                detail=self.veil(detail),
                hint=self.veil(hint),
                reason=reason,
                steps=len(self._steps),
                cached=sum(self._steps.values()),
            )
        )

    def hiding(self, read: Callable[[], bytes]) -> Callable[[], bytes]:
        """``read`` of a secret, whose value is hidden from when it was read."""

        def reading() -> bytes:
            value = read()
            self.veil.hide(value)
            return value

        return reading

    # --- lines ----------------------------------------------------------------------------------------------

    def _plan(self, event: Planned) -> None:
        self._planned = {vertex.digest for vertex in event.vertices}
        vertices = tuple(
            PlanVertex(
                digest=each.digest,
                name=self.veil(each.name),
                inputs=each.inputs,
                platforms=each.platforms,
                start=each.start,
                end=each.end,
            )
            for each in event.vertices
        )
        self._write(Plan(file=event.file, text=self.veil(event.text), vertices=vertices))

    def _log(self, event: VertexLog) -> None:
        key = (event.digest, event.stream)
        data = self._partial.pop(key, b"") + event.data
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if len(data) - cut > _MAX_PARTIAL:
            cut = len(data)
        if cut < len(data):
            self._partial[key] = data[cut:]
        if cut:
            self._say(event.digest, event.stream, data[:cut], event.time)

    def _say(self, vertex: str, stream: int, data: bytes, at: float) -> None:
        if self._logged >= MAX_LOGS:
            return
        self._logged += len(data)
        text = self.veil(data.decode("utf-8", "replace"))
        if self._logged >= MAX_LOGS:
            text += f"\n[output over {MAX_LOGS >> 20} MiB is not kept]\n"
        self._write(Log(vertex=vertex, at=at, text=text, stream=stream))

    def _status(self, event: VertexStatus) -> None:
        key = (event.digest, event.id)
        if not event.done and event.time - self._told.get(key, 0.0) < _STATUS_SECONDS:
            return
        self._told[key] = event.time
        self._write(
            Transfer(
                vertex=event.digest,
                at=event.time,
                id=event.id,
                current=event.current,
                total=event.total,
                done=event.done,
            )
        )

    def _end(self, event: VertexCompleted) -> None:
        for stream in (1, 2):
            rest = self._partial.pop((event.digest, stream), b"")
            if rest:
                self._say(event.digest, stream, rest, event.time)
        if event.digest in self._planned:
            self._steps[event.digest] = event.cached
        self._write(
            Ended(
                vertex=event.digest,
                at=event.time,
                cached=event.cached,
                error=self.veil(event.error),
                cancelled=event.cancelled,
                reason=self.veil(event.reason),
                how=event.how,
                emulation=event.emulation,
            )
        )

    # --- the file -------------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        path = self._folder / file_name(self.id, now)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, flags, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:
            self._close()

    def _write(self, line: Line) -> None:
        if self._file < 0:
            return
        try:
            view = memoryview(lines.encode(line) + b"\n")
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
