"""Bytes between this process and one that has other privileges: pipes with a thread at one end."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Thread
from typing import BinaryIO

from polyarch.layer.apply import write_all

_CHUNK = 1 << 20
_F_SETPIPE_SIZE = 1031


def feed(produce: Callable[[Callable[[bytes], object]], object], consume: Callable[[int], object]) -> None:
    """Call ``consume`` with the reading end of a pipe into which ``produce`` writes from another thread.

    An error of the producer is raised before one of the consumer, which only saw the bytes end too early,
    unless the consumer stopped reading first.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    _enlarge(reading)
    failed: list[BaseException] = []
    stopped: list[BaseException] = []

    def run() -> None:
        try:
            produce(lambda piece: write_all(writing, piece))
        except BrokenPipeError:
            pass  # the consumer has stopped, and says why itself
        except BaseException as error:
            failed.append(error)
        finally:
            os.close(writing)

    thread = Thread(target=run, name="feed", daemon=True)
    thread.start()
    try:
        consume(reading)
    except BaseException as error:
        stopped.append(error)
    finally:
        os.close(reading)
        thread.join()
    if failed or stopped:
        raise (failed or stopped)[0]


def drain(produce: Callable[[int], object], sink: Callable[[bytes], object]) -> None:
    """Call ``produce`` in another thread with the writing end of a pipe, and hand what it writes to
    ``sink`` here. Errors of the producer come first."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    _enlarge(reading)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            produce(writing)
        except BaseException as error:
            failed.append(error)
        finally:
            os.close(writing)

    thread = Thread(target=run, name="drain", daemon=True)
    thread.start()
    try:
        with os.fdopen(reading, "rb", 0) as stream:
            while piece := stream.read(_CHUNK):
                sink(piece)
    finally:
        thread.join()
    if failed:
        raise failed[0]


def memory_file(data: bytes = b"") -> BinaryIO:
    """An open file in memory that can be passed to another process."""
    descriptor = os.memfd_create("polyarch", os.MFD_CLOEXEC)
    stream = os.fdopen(descriptor, "w+b", 0)
    if data:
        write_all(descriptor, data)
    return stream


def _enlarge(descriptor: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SIZE, _CHUNK)
    except OSError:
        pass  # only slower
