"""The live table: a line a vertex, grouped by platform, within the room there is."""

from __future__ import annotations

import os
import pty
import re
import sys

from polyarch.cli.terminal import Board
from polyarch.solver.events import (
    Event,
    Planned,
    PlannedVertex,
    VertexCompleted,
    VertexLog,
    VertexStarted,
    VertexStatus,
)

AMD, ARM = "linux/amd64", "linux/arm64"
EVENTS: list[Event] = [
    Planned(
        (
            PlannedVertex("sha256:a", "FROM base", (), (AMD, ARM)),
            PlannedVertex("sha256:b", "RUN make # amd64", ("sha256:a",), (AMD,)),
            PlannedVertex("sha256:c", "RUN make # arm64", ("sha256:a",), (ARM,)),
            PlannedVertex("sha256:d", "COPY late", ("sha256:c",), (ARM,)),
        )
    ),
    VertexStarted("sha256:a", "FROM base", 10.0),
    VertexStatus("sha256:a", "sha256:0123456789abcdef", 0, 40_000_000, 10.0),
    VertexStatus("sha256:a", "sha256:0123456789abcdef", 10_000_000, 40_000_000, 12.0),
]


def board(*more: Event) -> Board:
    made = Board()
    made.started = 10.0
    for event in (*EVENTS, *more):
        made.take(event)
    return made


def shown(made: Board, now: float = 13.0, width: int = 80, height: int = 40) -> list[str]:
    return [re.sub(r" {2,}", "  ", text).rstrip() for text, _ in made.lines(width, height, now)]


def test_bytes_and_their_rate() -> None:
    lines = shown(board())
    assert lines[0] == "[+] 3.0s (0/4)  10.0MB transferred"
    assert "all platforms  0/1" in lines
    assert "  ↕ sha256:0123456789ab 10.0MB / 40.0MB  5.0MB/s" in lines


def test_lines_are_grouped_by_platform_and_say_how_and_how_long() -> None:
    lines = shown(
        board(
            VertexCompleted("sha256:a", "", 12.0),
            VertexStarted("sha256:b", "", 12.0),
            VertexStarted("sha256:c", "", 12.0),
            VertexLog("sha256:c", 1, b"one\ntwo\r\x1b[1mthree\n", 12.5),
            VertexCompleted("sha256:b", "", 12.0, cached=True),
            VertexStarted("sha256:x", "exporting to image", 12.5),
        )
    )
    first, second = lines.index("linux/amd64  1/1"), lines.index("linux/arm64  0/2")
    assert lines[first + 1] == "  ✓ RUN make # amd64  cached"
    assert lines[second + 1] == "  ▸ RUN make # arm64  1.0s"
    assert [line for line in lines if "│" in line] == ["  │ one", "  │ \x1b[1mthree"]
    assert lines[-2:] == ["export  0/1", "  ▸ exporting to image  0.5s"]
    assert not any("late" in line for line in lines)  # what waits is in the count only
    ended = board(
        VertexStarted("sha256:c", "", 12.0),
        VertexCompleted("sha256:c", "", 13.5, how="emulated"),
        VertexStarted("sha256:d", "", 13.5),
        VertexCompleted("sha256:d", "", 13.6, error="no room"),
    )
    assert "  ✓ RUN make # arm64  emulated  1.5s" in shown(ended)
    assert "  ✗ COPY late  ERROR  0.1s" in shown(ended)


def test_it_fits_whatever_room_there_is() -> None:
    made = Board()
    vertices = tuple(
        PlannedVertex(f"sha256:{n}", f"RUN step {n} " + "x" * 200, (), (AMD,)) for n in range(50)
    )
    made.take(Planned(vertices))
    for n in range(50):
        made.take(VertexStarted(f"sha256:{n}", "", float(n)))
        made.take(VertexLog(f"sha256:{n}", 1, b"y" * 500 + b"\n", float(n)))
        if n < 45:
            made.take(VertexCompleted(f"sha256:{n}", "", n + 0.5, error="failed" if n == 3 else ""))
    for width in (1, 20, 40, 200):
        for height in (1, 5, 12, 30):
            lines = made.lines(width, height, 60.0)
            assert len(lines) <= max(4, height) and all(len(text) < max(width, 20) for text, _ in lines)
    text = "\n".join(line for line, _ in made.lines(80, 24, 60.0))
    assert "step 49" in text and "step 45" in text  # what runs is never left out


def test_on_a_real_terminal_nothing_of_a_step_reaches_the_cursor() -> None:
    """A step's escape sequences would otherwise draw over the table."""
    script = (
        "import sys, time; from polyarch.cli.progress import shown\n"
        "from polyarch.solver.events import *\n"
        "with shown('auto') as sink:\n"
        " sink(VertexStarted('sha256:a', 'RUN x', time.time()))\n"
        " sink(VertexLog('sha256:a', 1, b'\\x1b]0;title\\x07\\x1b[2J here\\n', time.time()))\n"
        " time.sleep(0.3)\n"
    )
    process, terminal = pty.fork()
    if process == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-c", script])
    written = b""
    try:
        while data := os.read(terminal, 65536):
            written += data
    except OSError:
        pass  # the end, on Linux
    os.waitpid(process, 0)
    assert b"RUN x" in written and b"\x1b]0;title" not in written and b"\x1b[2J here" not in written
