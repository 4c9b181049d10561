"""Records of builds: one file for each command line and folder it was given in, replaced by every build.

A record says what the build depended on and what it answered. Losing one costs time only; one that cannot be
read, is of another version, user or environment, or is too old counts as lost.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time

from polyarch.content.place import RECORDS, state_root
from polyarch.version import VERSION

TYPE_CHECKING = False  # type checkers take it for true

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Seconds. A build that is answered by a record leaves no trace of having used images and layers, and the
# collector goes by the time of their last use; after this the build is done in full again.
LIFETIME = 3600.0
_FORMAT = 1
_MOST = 200  # records kept
_FLEETING = frozenset({"_", "SHLVL", "OLDPWD", "PWD"})  # of the environment: what shells change by themselves


def load(words: Sequence[str]) -> dict[str, Any] | None:
    """The record of the last build with the command line ``words`` here, if it may still be used."""
    try:
        with open(_path(words), "rb") as stream:
            record = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("stamp") != stamp():
        return None
    made = record.get("made")
    if not isinstance(made, float) or not made <= time.time() < made + LIFETIME:
        return None
    return record


def save(words: Sequence[str], record: dict[str, Any]) -> None:
    """Keep ``record`` for the next build with the same ``words``. What cannot be written is left out."""
    path = _path(words)
    folder = os.path.dirname(path)
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(temporary, "w", encoding="ascii") as stream:
            json.dump({**record, "stamp": stamp(), "made": time.time()}, stream)
        os.replace(temporary, path)
        _limit(folder)
    except OSError:
        _remove(temporary)


def discard(words: Sequence[str]) -> None:
    """Forget the record of ``words``."""
    _remove(_path(words))


def stamp() -> str:
    """What must be the same for a record to mean anything: program, interpreter, user, environment."""
    environment = sorted((name, value) for name, value in os.environ.items() if name not in _FLEETING)
    said = (_FORMAT, VERSION, _program(), sys.version, os.geteuid(), os.uname().machine, environment)
    return hashlib.sha256(repr(said).encode("utf-8", "backslashreplace")).hexdigest()


def _program() -> list[tuple[str, int]]:
    """The times of our own modules: whoever works on them wants to see what they do."""
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = []
    folders = [top]
    while folders:
        with os.scandir(folders.pop()) as items:
            for item in items:
                if item.name.endswith(".py"):
                    found.append((item.path, item.stat().st_mtime_ns))
                elif item.name != "__pycache__" and item.is_dir():
                    folders.append(item.path)
    return sorted(found)


def _path(words: Sequence[str]) -> str:
    said = "\0".join([os.getcwd(), *words]).encode("utf-8", "surrogateescape")
    return os.path.join(state_root(), RECORDS, hashlib.sha256(said).hexdigest())


def _limit(folder: str) -> None:
    """Remove the oldest records when there are too many."""
    names = os.listdir(folder)
    if len(names) > _MOST:
        paths = [os.path.join(folder, name) for name in names]
        for path in sorted(paths, key=os.path.getmtime)[: len(paths) - _MOST]:
            _remove(path)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # not there, or not ours: it will be replaced, or not be read
