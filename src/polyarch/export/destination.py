"""Where an archive goes: a file that appears whole or not at all, or standard output."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from polyarch.content.ingest import disk, sync_folder
from polyarch.errors import NotFoundError, UsageError

STDOUT = "-"


@contextmanager
def writing(destination: str, stdout: BinaryIO | None = None) -> Iterator[BinaryIO]:
    """A stream to ``destination``; ``-`` is ``stdout`` (by default the process's), unless it is a terminal.

    A file gets its name when the block ends well; otherwise what was there stays. A pipe or device is
    written as it is.
    """
    if destination == STDOUT:
        yield _standard_output(stdout)
        return
    path = Path(destination)
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise UsageError(f"the destination {path} is a directory", reason="destination-is-directory")
        with path.open("wb") as special:
            yield special
        return
    target = path.resolve() if path.is_symlink() else path
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        stream = temporary.open("xb")
    except FileNotFoundError:
        raise NotFoundError(
            f"the directory {target.parent} of the destination {path.name} is not there",
            hint=f"mkdir -p {target.parent}",
            reason="not-found",
        ) from None
    try:
        with disk(f"writing {path}", target.parent):
            with stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check(destination: str, *, directory: bool) -> None:
    """Refuse a destination that cannot work before anything is built. UsageError says why."""
    if destination == STDOUT:
        _standard_output(None)
        return
    path = Path(destination)
    if directory and path.exists() and not path.is_dir():
        raise UsageError(f"the destination {path} is a file, not a directory", reason="destination-is-file")
    if not directory and path.is_dir():
        raise UsageError(f"the destination {path} is a directory", reason="destination-is-directory")


def _standard_output(stdout: BinaryIO | None) -> BinaryIO:
    stream = stdout or sys.stdout.buffer
    if stream.isatty():
        raise UsageError(
            "refusing to write an archive to a terminal",
            hint="redirect standard output, or give a file (dest=FILE, -o FILE)",
            reason="terminal",
        )
    return stream
