"""What a build shows while it runs: plain lines, a live table on a terminal, JSON, or nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from polyarch.solver.events import (
    Event,
    EventSink,
    VertexCompleted,
    VertexLog,
    VertexStarted,
    VertexStatus,
    Warning,
)

if TYPE_CHECKING:
    from rich.text import Text

MODES = ("auto", "tty", "plain", "rawjson", "quiet", "none")
TAIL = 6  # lines of a running step's output shown on a terminal
FOREIGN = ("emulated", "accelerated")  # how a step ran that this machine could not run itself


@contextmanager
def shown(mode: str) -> Iterator[EventSink]:
    """A sink for a build's events. ``mode`` is one of MODES; UsageError for another."""
    if mode not in MODES:
        from polyarch.errors import UsageError

        raise UsageError(
            f"--progress {mode}: there is no such mode", hint=f"one of {', '.join(MODES)}", reason="progress"
        )
    stream = sys.stderr
    if mode in ("auto", "tty") and stream.isatty():
        with _Terminal() as terminal:
            yield terminal
    elif mode == "rawjson":
        yield _RawJson(stream)
    elif mode in ("quiet", "none"):
        yield _nothing
    else:
        yield _Plain(stream)


def _nothing(event: Event) -> None:
    pass


class _RawJson:
    """One JSON object a line, in the form of BuildKit's SolveStatus, so that its readers read ours."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._started: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        import json

        with self._lock:
            print(json.dumps(self._row(event)), file=self._stream, flush=True)

    def _row(self, event: Event) -> dict[str, list[dict[str, object]]]:
        match event:
            case VertexStarted():
                started = self._started[event.digest] = _rfc3339(event.time)
                return {"vertexes": [{"digest": event.digest, "name": event.name, "started": started}]}
            case VertexCompleted():
                ended = _rfc3339(event.time)
                vertex: dict[str, object] = {"digest": event.digest, "name": event.name}
                vertex |= {"started": self._started.get(event.digest, ended), "completed": ended}
                error = event.error or ("canceled" if event.cancelled else "")
                return {"vertexes": [vertex | _present(cached=event.cached, error=error)]}
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
    lines: list[str] = field(default_factory=list)
    status: dict[str, VertexStatus] = field(default_factory=dict)


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
                        size = f" {_bytes(event.current)}" if event.current else ""
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
    notes = [note for note in (event.how if event.how in FOREIGN else "", event.reason) if note]
    return f"DONE {event.time - started:.1f}s" + (f" ({'; '.join(notes)})" if notes else "")


def warned(event: Warning) -> str:
    """The line for a warning."""
    return f"warning: {event.file}:{event.line}: {event.rule}: {event.message} ({event.url})"


def _bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.1f}{unit}" if unit != "B" else f"{count}B"
        value /= 1000
    return ""


class _Terminal:
    """A live table: one line a step, the output of running steps below it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._lock = threading.Lock()
        self._steps: dict[str, _Numbered] = {}
        self._ended: dict[str, VertexCompleted] = {}
        self._warnings: list[Warning] = []
        self._started = time.time()
        # Last: it renders at once.
        self._live = Live(console=self._console, refresh_per_second=10, get_renderable=self._render)

    def __enter__(self) -> _Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        for warning in self._warnings:
            self._console.print(warned(warning), markup=False)

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case VertexStarted():
                    if event.digest not in self._steps:
                        number = len(self._steps) + 1
                        self._steps[event.digest] = _Numbered(number, event.name, event.time)
                    self._ended.pop(event.digest, None)
                case VertexLog():
                    step = self._steps[event.digest]
                    *lines, step.partial = (step.partial + event.data).split(b"\n")
                    step.lines += [line.decode("utf-8", "replace") for line in lines]
                    del step.lines[:-TAIL]
                case VertexStatus():
                    step = self._steps.setdefault(
                        event.digest, _Numbered(len(self._steps) + 1, event.id, event.time)
                    )
                    step.status[event.id] = event
                case VertexCompleted():
                    self._ended[event.digest] = event
                case Warning():
                    self._warnings.append(event)

    def _render(self) -> Text:
        from rich.text import Text

        with self._lock:
            now = time.time()
            width = self._console.width
            room = max(8, self._console.height - 4)
            text = Text(no_wrap=True)
            done = sum(1 for digest in self._steps if digest in self._ended)
            text.append(f"[+] {now - self._started:.1f}s ({done}/{len(self._steps)})\n", style="bold")
            rows = sorted(self._steps.items(), key=lambda item: item[0] not in self._ended)
            for digest, step in rows[-room:]:
                self._row(text, step, self._ended.get(digest), now, width)
            return text

    def _row(
        self, text: Text, step: _Numbered, ended: VertexCompleted | None, now: float, width: int
    ) -> None:
        name = step.name.replace("\n", " ")
        if ended is None:
            mark, style, note = "=>", "cyan", f"{now - step.started:.1f}s"
        elif ended.error:
            mark, style, note = "=> ERROR", "red", f"{ended.time - step.started:.1f}s"
        elif ended.cached:
            mark, style, note = "=> CACHED", "green", "0.0s"
        else:
            mark, style, note = "=>", "blue", f"{ended.time - step.started:.1f}s"
            if ended.how in FOREIGN:
                note = f"{ended.how} {note}"
        line = f" {mark} {name}"[: max(10, width - len(note) - 2)]
        text.append(line.ljust(max(0, width - len(note) - 2)) + " " + note + "\n", style=style)
        if ended is None:
            for output in step.lines[-TAIL:]:
                text.append(f" => => # {output}"[: width - 1] + "\n", style="dim")
            for status in step.status.values():
                total = f" / {_bytes(status.total)}" if status.total else ""
                text.append(f" => => {status.id} {_bytes(status.current)}{total}\n", style="dim")
