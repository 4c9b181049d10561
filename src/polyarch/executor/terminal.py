"""The caller's terminal: raw mode, window size, and copying between it and a step's pseudo-terminal."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """The terminal behind ``descriptor`` in raw mode meanwhile; nothing when it is no terminal."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class Relay:
    """One pseudo-terminal ``master`` connected to the terminal (or file) ``descriptor``."""

    def __init__(self, master: int, descriptor: int) -> None:
        self.master = master
        self.descriptor = descriptor
        self.open = True  # whether there may be more input
        self._size = b""
        self.follow_size()

    def follow_size(self) -> None:
        """Give the pseudo-terminal the caller's window size when it has changed."""
        try:
            size = fcntl.ioctl(self.descriptor, termios.TIOCGWINSZ, bytes(8))
            if size != self._size and struct.unpack("HHHH", size)[0]:
                fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
                self._size = size
        except OSError:
            pass  # not a terminal, or the step has ended

    def output(self) -> bytes:
        """What the step wrote; b"" at the end."""
        try:
            return os.read(self.master, 1 << 16)
        except OSError as error:
            if error.errno == errno.EIO:  # the last process of the step closed it
                return b""
            raise

    def input(self) -> None:
        """Pass on what the caller typed; the end of a file becomes end-of-transmission."""
        try:
            data = os.read(self.descriptor, 1 << 12)
            if not data:
                self.open = False
                data = b"\x04"
            while data:
                data = data[os.write(self.master, data) :]
        except OSError:
            self.open = False

    def close(self) -> None:
        os.close(self.master)
