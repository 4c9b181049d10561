"""A step with a terminal: the caller's is passed through."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
import threading

import pytest

from polyarch.executor import terminal
from polyarch.executor.spec import Identity

pytestmark = pytest.mark.userns


@pytest.fixture
def caller():
    """(our side, the caller's side) of a terminal of 33 rows and 101 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_it_is_a_terminal(bench, caller):
    result = bench.sh(
        "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; ls -l /dev/console | wc -l; exit 6",
        terminal=True,
        stdin=caller[1],
    )
    assert result.code == 6
    assert result.out.replace("\r", "").split("\n")[:4] == ["/dev/pts/0", "33 101", "all", "1"]


def test_what_is_typed_arrives(bench, caller):
    ours, theirs = caller
    threading.Timer(0.5, lambda: os.write(ours, b"typed\n")).start()
    result = bench.sh("read line; echo got $line", terminal=True, stdin=theirs)
    assert "got typed" in result.out


def test_another_user_owns_the_terminal(bench, caller):
    result = bench.sh(
        "stat -c %u $(tty); echo ok > $(tty)", terminal=True, stdin=caller[1], identity=Identity(33)
    )
    owner = "0" if bench.mode == "single" else "33"  # a terminal keeps no record
    assert result.out.replace("\r", "").split() == [owner, "ok"]


def test_raw_mode_is_undone(caller):
    theirs = caller[1]
    before = termios.tcgetattr(theirs)
    with terminal.raw(theirs):
        assert termios.tcgetattr(theirs)[3] & termios.ECHO == 0
    assert termios.tcgetattr(theirs) == before


def test_raw_mode_of_a_file_is_nothing(tmp_path):
    with open(tmp_path / "f", "w") as file, terminal.raw(file.fileno()):
        pass


def test_a_file_as_input_ends(bench, tmp_path):
    (tmp_path / "in").write_text("one\n")
    with open(tmp_path / "in", "rb") as file:
        result = bench.sh("cat", terminal=True, stdin=file.fileno())
    assert result.code == 0 and "one" in result.out
