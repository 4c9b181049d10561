"""Progress on a terminal: a live table, one line a vertex, grouped by the platforms it is for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyarch.cli.progress import amount, warned
from polyarch.solver.events import (
    Event,
    Planned,
    VertexCompleted,
    VertexLog,
    VertexStarted,
    VertexStatus,
    Warning,
    made,
)

if TYPE_CHECKING:
    from rich.text import Text

TAIL = 6  # lines of a running step's output
_SHARED = "all platforms"
_EXPORT = "export"


@dataclass
class Row:
    """One vertex. Times are seconds since 1970, 0 before it began."""

    name: str
    group: str
    started: float = 0.0
    completed: VertexCompleted | None = None
    partial: bytes = b""
    lines: list[str] = field(default_factory=list)
    transfers: dict[str, Transfer] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        """Whether bytes are on their way; a base's layers are fetched when somebody needs them."""
        return any(not each.last.done for each in self.transfers.values())

    @property
    def rank(self) -> int:
        """Where it comes when there is no room for all: what runs and what failed counts most."""
        if self.completed is None or self.active:
            return 0 if self.started else 3
        return 1 if self.completed.error else 2


@dataclass
class Transfer:
    """Bytes of one thing, since when."""

    since: float
    first: int
    last: VertexStatus

    def text(self) -> str:
        """``12.3MB / 40.0MB  5.1MB/s``."""
        shown = amount(self.last.current) if self.last.current or self.last.total else ""
        if self.last.total:
            shown += f" / {amount(self.last.total)}"
        passed = self.last.time - self.since
        if passed > 0.05 and self.last.current > self.first:
            shown += f"  {amount(int((self.last.current - self.first) / passed))}/s"
        return shown


class Board:
    """What is known of all vertices, and the lines that show it. Not thread-safe."""

    def __init__(self) -> None:
        self.started = time.time()
        self.rows: dict[str, Row] = {}
        self.warnings: list[Warning] = []
        self._platforms: list[str] = []

    def take(self, event: Event) -> None:
        """See ``EventSink``."""
        match event:
            case Planned():
                every = dict.fromkeys(each for vertex in event.vertices for each in vertex.platforms)
                self._platforms = list(every)
                for vertex in event.vertices:
                    self.rows[vertex.digest] = Row(vertex.name, self._group(vertex.platforms))
            case VertexStarted():
                row = self.rows.setdefault(event.digest, Row(event.name, _EXPORT))
                row.started, row.completed = event.time, None
            case VertexLog():
                row = self.rows.setdefault(event.digest, Row("", _EXPORT, event.time))
                *lines, row.partial = (row.partial + event.data).split(b"\n")
                row.lines += [line.decode("utf-8", "replace").rpartition("\r")[2] for line in lines]
                del row.lines[:-TAIL]
            case VertexStatus():
                row = self.rows.setdefault(event.digest, Row(event.id, _EXPORT, event.time))
                known = row.transfers.setdefault(event.id, Transfer(event.time, event.current, event))
                known.last = event
            case VertexCompleted():
                self.rows.setdefault(event.digest, Row(event.name, _EXPORT, event.time)).completed = event
            case Warning():
                self.warnings.append(event)

    def _group(self, targets: Sequence[str]) -> str:
        if len(self._platforms) > 1 and set(targets) == set(self._platforms):
            return _SHARED
        return ", ".join(targets) or _SHARED

    def lines(self, width: int, height: int, now: float) -> list[tuple[str, str]]:
        """Text and style of each line, no wider and no more than there is room for."""
        width = max(width, 20)
        done = sum(1 for row in self.rows.values() if row.completed is not None)
        moved = sum(each.last.current for row in self.rows.values() for each in row.transfers.values())
        head = f"[+] {now - self.started:.1f}s ({done}/{len(self.rows)})"
        found = [(head + (f"  {amount(moved)} transferred" if moved else ""), "bold")]
        chosen = self._chosen(max(4, height - 3))
        for group in self._groups():
            members = [row for row in self.rows.values() if row.group == group]
            ended = sum(1 for row in members if row.completed is not None)
            if any(id(row) in chosen for row in members):
                found.append((f"{group}  {ended}/{len(members)}", "bold"))
                for row in members:
                    if id(row) in chosen:
                        found += _row_lines(row, now, width)
        return [(text[: width - 1], style) for text, style in found[: max(4, height - 1)]]

    def _groups(self) -> list[str]:
        """In the order of the platforms; exporting comes last."""
        order = dict.fromkeys(row.group for row in self.rows.values())
        return sorted(order, key=lambda group: group == _EXPORT)

    def _chosen(self, room: int) -> set[int]:
        """The rows (by id) that fit, the most interesting first, the latest of them first."""
        ranked = sorted(
            self.rows.values(),
            key=lambda row: (row.rank, -(row.completed.time if row.completed is not None else row.started)),
        )
        chosen: set[int] = set()
        groups: set[str] = set()
        for row in ranked:
            if row.rank == 3 and not row.started:
                continue  # what waits is in the count
            room -= (
                1 + (row.group not in groups) + (len(row.lines) + len(row.transfers) if not row.rank else 0)
            )
            if room < 0 and chosen:
                break
            groups.add(row.group)
            chosen.add(id(row))
        return chosen


def _row_lines(row: Row, now: float, width: int) -> Iterable[tuple[str, str]]:
    mark, style, note = _state(row, now)
    name = row.name.replace("\n", " ")
    room = max(8, width - len(note) - 6)
    text = f"  {mark} {name}"
    text = text if len(text) <= room else text[: room - 1] + "…"
    yield text.ljust(room) + "  " + note, style
    for output in row.lines[-TAIL:] if row.completed is None else ():
        yield f"      │ {output}", "dim"
    for id, transfer in row.transfers.items():
        if not transfer.last.done and not (row.completed is not None and row.completed.error):
            yield f"      ↕ {_short(id)} {transfer.text()}", "dim"


def _state(row: Row, now: float) -> tuple[str, str, str]:
    """Mark, style, and what stands at the right: how it was made, bytes, time."""
    end = row.completed
    moved = sum(each.last.current for each in row.transfers.values())
    words = [amount(moved)] if moved else []
    if end is None:
        return "▸", "cyan", "  ".join((*words, f"{now - row.started:.1f}s"))
    time_taken = f"{max(0.0, end.time - row.started):.1f}s" if row.started else "0.0s"
    if end.cancelled:
        return "-", "dim", "canceled"
    if end.error:
        return "✗", "red", f"ERROR  {time_taken}"
    if end.cached:
        return "✓", "green", "  ".join(("cached", *words))
    return "✓", "blue", "  ".join((*((made(end.how, end.emulation),) if end.how else ()), *words, time_taken))


def _short(id: str) -> str:
    return id[:19] if id.startswith("sha256:") else id


class Terminal:
    """A sink that keeps a board on the screen; thread-safe."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._lock = threading.Lock()
        self._board = Board()
        # Last: it renders at once.
        self._live = Live(console=self._console, refresh_per_second=10, get_renderable=self._render)

    def __enter__(self) -> Terminal:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        for warning in self._board.warnings:
            self._console.print(warned(warning), markup=False)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._board.take(event)

    def _render(self) -> Text:
        from rich.text import Text

        with self._lock:
            lines = self._board.lines(self._console.width, self._console.height, time.time())
        text = Text(no_wrap=True)
        for line, style in lines:
            text.append(_printable(line) + "\n", style=style)
        return text


def _printable(line: str) -> str:
    """Without what would move the cursor or change colours."""
    return "".join(character if character.isprintable() else " " for character in line)
