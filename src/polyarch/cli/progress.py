"""What a build shows while it runs: plain lines, a live table on a terminal, JSON, or nothing."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from polyarch.solver.events import (
    Event,
    EventSink,
    Planned,
    PlannedVertex,
    VertexCompleted,
    VertexLog,
    VertexStarted,
    VertexStatus,
    Warning,
    made,
)

_UNCACHEABLE = ("source", "costs nothing")  # reasons of what is always done
MODES = ("auto", "tty", "plain", "rawjson", "quiet", "none")
FOREIGN = ("emulated", "accelerated")  # how a step ran that this machine could not run itself


@contextmanager
def shown(mode: str) -> Iterator[EventSink]:
    """A sink for a build's events. ``mode`` is one of MODES; UsageError for another."""
    if mode not in MODES:
        from polyarch.errors import UsageError

        raise UsageError(
            f"--progress {mode}: there is no such mode", hint=f"one of {', '.join(MODES)}", reason="progress"
        )
    if mode in ("auto", "tty") and sys.stderr.isatty():
        from polyarch.cli.terminal import Terminal

        with Terminal() as terminal:
            yield terminal
    else:
        yield sink(mode, sys.stderr)


def sink(mode: str, stream: TextIO) -> EventSink:
    """A sink that prints lines: JSON, nothing, or plain text."""
    if mode == "rawjson":
        return _RawJson(stream)
    return _nothing if mode in ("quiet", "none") else _Plain(stream)


def _nothing(event: Event) -> None:
    pass


class _RawJson:
    """One JSON object a line, in the form of BuildKit's SolveStatus, so that its readers read ours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._started: dict[str, str] = {}
        self._known: dict[str, dict[str, object]] = {}

    def _vertex(self, event: VertexStarted | VertexCompleted) -> dict[str, object]:
        return self._known.get(event.digest) or {"digest": event.digest, "name": event.name}

    def __call__(self, event: Event) -> None:
        import json

        with self._lock:
            if row := self._row(event):
                print(json.dumps(row), file=self._stream, flush=True)

    def _row(self, event: Event) -> dict[str, list[dict[str, object]]]:
        match event:
            case Planned():
                self._known = {each.digest: _planned(each) for each in event.vertices}
                return {"vertexes": list(self._known.values())} if self._known else {}
            case VertexStarted():
                started = self._started[event.digest] = _rfc3339(event.time)
                return {"vertexes": [self._vertex(event) | {"started": started}]}
            case VertexCompleted():
                ended = _rfc3339(event.time)
                vertex = self._vertex(event) | {
                    "started": self._started.get(event.digest, ended),
                    "completed": ended,
                }
                vertex["cached"] = event.cached
                if not event.cached and event.reason:
                    vertex["reason"] = event.reason  # why it was not
                error = event.error or ("canceled" if event.cancelled else "")
                return {
                    "vertexes": [vertex | _present(how=event.how, emulation=event.emulation, error=error)]
                }
            case VertexStatus():
                now = _rfc3339(event.time)
                status: dict[str, object] = {"id": event.id, "vertex": event.digest, "current": event.current}
                status["timestamp"] = now
                return {"statuses": [status | _present(total=event.total, completed=event.done and now)]}
            case VertexLog():
                log = {"vertex": event.digest, "stream": event.stream, "data": _base64(event.data)}
                return {"logs": [{**log, "timestamp": _rfc3339(event.time)}]}
            case Warning():
                text = f"{event.rule}: {event.message} ({event.file}:{event.line})"
                return {"warnings": [{"level": 1, "short": _base64(text.encode()), "url": event.url}]}


def _planned(vertex: PlannedVertex) -> dict[str, object]:
    found: dict[str, object] = {"digest": vertex.digest, "name": vertex.name}
    return found | _present(inputs=vertex.inputs, platforms=vertex.platforms)


def _present(**values: object) -> dict[str, object]:
    """What is not empty: Go leaves the rest out."""
    return {name: value for name, value in values.items() if value}


def _rfc3339(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode("ascii")


@dataclass
class _Numbered:
    number: int
    name: str
    started: float
    partial: bytes = b""


class _Plain:
    """``#3 [linux/arm64 2/4] RUN make``, its output as ``#3 1.204 text``, and how it ended."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._steps: dict[str, _Numbered] = {}
        self._last = 0

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case VertexStarted():
                    self._begin(event)
                case VertexLog():
                    self._log(event)
                case VertexCompleted():
                    self._end(event)
                case VertexStatus(done=True):
                    step = self._steps.get(event.digest)
                    if step is not None:
                        size = f" {amount(event.current)}" if event.current else ""
                        self._print(step, f"{event.id}{size} done")
                case Warning():
                    print(warned(event), file=self._stream)

    def _begin(self, event: VertexStarted) -> None:
        step = self._steps.get(event.digest)
        if step is None:
            step = self._steps[event.digest] = _Numbered(len(self._steps) + 1, event.name, event.time)
        step.started = event.time
        self._print(step, event.name.replace("\n", " "))

    def _log(self, event: VertexLog) -> None:
        step = self._steps[event.digest]
        *lines, step.partial = (step.partial + event.data).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace").rpartition("\r")[2] or line.decode("utf-8", "replace")
            self._print(step, f"{event.time - step.started:.3f} {text}")

    def _end(self, event: VertexCompleted) -> None:
        step = self._steps.get(event.digest)
        if step is None:
            return
        if step.partial:
            self._print(step, f"{event.time - step.started:.3f} {step.partial.decode('utf-8', 'replace')}")
            step.partial = b""
        self._print(step, _ending(event, step.started))

    def _print(self, step: _Numbered, text: str) -> None:
        if self._last not in (0, step.number):
            print(file=self._stream)
        self._last = step.number
        print(f"#{step.number} {text}", file=self._stream, flush=True)


def _ending(event: VertexCompleted, started: float) -> str:
    if event.cancelled:
        return "CANCELED"
    if event.error:
        return f"ERROR: {event.error}"
    if event.cached:
        return "CACHED"
    reason = "" if event.reason in _UNCACHEABLE else event.reason
    notes = [
        note for note in (made(event.how, event.emulation) if event.how in FOREIGN else "", reason) if note
    ]
    return f"DONE {event.time - started:.1f}s" + (f" ({'; '.join(notes)})" if notes else "")


def warned(event: Warning) -> str:
    """The line for a warning."""
    place = f"{event.file}:{event.line}: " if event.file else ""
    page = f" ({event.url})" if event.url else ""
    return f"warning: {place}{event.rule}: {event.message}{page}"


def amount(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.1f}{unit}" if unit != "B" else f"{count}B"
        value /= 1000
    return ""
