"""The files of records: their names, how many there may be, and one for a build that did nothing.

Imports next to nothing, because an unchanged build is recorded with this.
"""

from __future__ import annotations

import fcntl
import json
import os
import time

TYPE_CHECKING = False  # type checkers take it for true

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FOLDER = "history"  # in the state directory
SUFFIX = ".jsonl"
MAX_RECORDS = 100
MAX_BYTES = 256 << 20  # of all records together
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id() -> str:
    """The name of a build, in the form of BuildKit's: 25 letters and digits."""
    number = int.from_bytes(os.urandom(16), "big") >> 4
    found = ""
    for _ in range(25):
        number, digit = divmod(number, 36)
        found = _ALPHABET[digit] + found
    return found


def file_name(id: str, at: float) -> str:
    """What the record of a build is called: names sort by time. ``at`` in seconds since 1970."""
    return f"{max(0, int(at * 1000)):013d}-{id}{SUFFIX}"


def again(folder: str, like: Mapping[str, Any], began: float, id: str) -> None:
    """Record the build ``id``, which found everything as it was. ``like`` is the finished record of the one
    before: ``began`` and ``finished`` are its first and last line, ``plan`` the text of its plan,
    ``vertices`` the digests in it. What cannot be written is left out."""
    now = time.time()
    lines = [json.dumps({**like["began"], "id": id, "at": began}), like["plan"]]
    for digest in like["vertices"]:
        lines.append(json.dumps({"line": "started", "vertex": digest, "at": began}))
        lines.append(json.dumps({"line": "ended", "vertex": digest, "at": began, "cached": True}))
    count = len(like["vertices"])
    lines.append(json.dumps({**like["finished"], "at": now, "steps": count, "cached": count}))
    path = os.path.join(folder, file_name(id, began))
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
    except OSError:
        return
    prune(folder)


def prune(folder: str, *, records: int = MAX_RECORDS, size: int = MAX_BYTES) -> None:
    """Remove the oldest records beyond a number and a size in bytes, but none of a running build."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry) for entry in entries if entry.name.endswith(SUFFIX))
        total = 0
        for number, (_, entry) in enumerate(reversed(found), 1):
            total += entry.stat(follow_symlinks=False).st_size
            if number > 1 and (number > records or total > size):
                remove(entry.path)
    except OSError:
        pass  # another process was faster, or it is not ours: nothing depends on it


def remove(path: str) -> bool:
    """Remove a record unless its build runs; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return not os.path.exists(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
