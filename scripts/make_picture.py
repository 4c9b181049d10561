"""Draws docs/demo.svg: what a real run of the commands in the README printed.

    python scripts/make_picture.py        runs them from nothing, but for packages `make demo` fetched

Nothing is made up: every line is the program's. Only the colours of the prompt are added.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
DEMO = Path(os.environ.get("DEMO_ROOT", ROOT / "build" / "demo"))
STATE = DEMO / "picture"
TARGET = ROOT / "docs" / "demo.svg"
WIDTH = 120
PORT = 5078
IMAGE = f"localhost:{PORT}/hello"
COMMANDS = (
    "polyarch base create base/python --platform linux/amd64,linux/arm64 --variant essential"
    " --include python3 --scripts skip",
    f"polyarch build --platform linux/amd64,linux/arm64 -t {IMAGE} --push --build-arg PYTHON=base/python"
    " examples/python-emulated",
    f"polyarch run --platform linux/amd64 {IMAGE}",
    f"polyarch run --platform linux/arm64 {IMAGE}",
)


def captured(command: str, environment: dict[str, str]) -> str:
    """What ``command`` writes to a terminal of WIDTH columns; RuntimeError where it fails."""
    main, other = pty.openpty()
    os.set_inheritable(other, True)
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    process = subprocess.Popen(
        command, shell=True, cwd=ROOT, env=environment, stdin=other, stdout=other, stderr=other
    )
    os.close(other)
    parts = []
    while True:
        ready, _, _ = select.select([main], [], [], 0.2)
        if ready:
            try:
                parts.append(os.read(main, 1 << 16))
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
    os.close(main)
    text = b"".join(parts).decode(errors="replace")
    if process.wait():
        raise RuntimeError(f"{command}\n{text}")
    return text


def settled(text: str) -> list[str]:
    """The lines that are left on a terminal: what was written over is gone, colours are kept.

    Understands what our progress uses: carriage return, new line, cursor up, erase line and below, colours.
    """
    screen: list[list[tuple[str, str]]] = [[]]  # of (colour, character)
    row = column = 0
    colour = ""
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", text):
        line = screen[row]
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
            if row == len(screen):
                screen.append([])
        elif token.endswith("m") and len(token) > 1:
            colour = "" if token in ("\x1b[0m", "\x1b[m") else colour + token
        elif token.endswith("A") and len(token) > 1:
            row = max(0, row - int(token[2:-1] or 1))
        elif token.endswith("K") and len(token) > 1:
            del line[0 if token == "\x1b[2K" else column :]
        elif token.endswith("J") and len(token) > 1:
            del line[column:], screen[row + 1 :]
        elif len(token) == 1:
            line += [("", " ")] * (column - len(line))
            line[column : column + 1] = [(colour, token)]
            column += 1
    shown = ("".join(f"{style}{char}\x1b[0m" if style else char for style, char in line) for line in screen)
    return [line for line in shown if line.strip()]


def main() -> int:
    """Run the commands and draw what they printed."""
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    if (DEMO / "state" / "base").is_dir():
        (STATE / "base").symlink_to(DEMO / "state" / "base")
    binaries = ROOT / ".venv" / "bin"
    environment = {
        **os.environ,
        "POLYARCH_ROOT": str(STATE),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "COLUMNS": str(WIDTH),
    }
    registry = subprocess.Popen(
        ["polyarch", "serve", "--root", str(STATE / "registry"), "--listen", f"127.0.0.1:{PORT}"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
    try:
        assert registry.stdout is not None
        registry.stdout.readline()
        for command in COMMANDS:
            console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
            for line in settled(captured(command, environment)):
                console.print(Text.from_ansi(line), overflow="ellipsis", no_wrap=True)
            console.print()
    finally:
        registry.terminate()
        registry.wait()
    console.save_svg(str(TARGET), title="polyarch", theme=MONOKAI)
    return 0


if __name__ == "__main__":
    sys.exit(main())
