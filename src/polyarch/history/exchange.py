"""Records from elsewhere: what ``history export`` wrote, taken into this machine's history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from polyarch.errors import ContentError
from polyarch.history import lines
from polyarch.history.keeping import file_name, new_id
from polyarch.history.lines import Began

_MAX_LINE = 64 << 20
_MAX_BYTES = 1 << 30


def take(stream: IO[bytes], folder: Path) -> Iterator[str]:
    """Write each record of ``stream`` under an id of its own, whole or not at all; their ids. ContentError
    for anything that is no record."""
    began: Began | None = None
    kept: list[bytes] = []
    total = 0
    while data := stream.readline(_MAX_LINE):
        total += len(data)
        line = lines.decode(data)
        if line is None or (began is None and not isinstance(line, Began)) or total > _MAX_BYTES:
            raise ContentError("this is no export of build records", reason="invalid-record")
        if isinstance(line, Began):
            if began is not None:
                yield _write(folder, began, kept)
            began, kept = msgspec.structs.replace(line, id=new_id(), options={}), []
        else:
            kept.append(lines.encode(line))
    if began is not None:
        yield _write(folder, began, kept)


def _write(folder: Path, began: Began, kept: list[bytes]) -> str:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / file_name(began.id, min(began.at, 9_999_999_999.0))
    temporary = path.with_suffix(".new")
    try:
        temporary.write_bytes(b"\n".join((lines.encode(began), *kept)) + b"\n")
        os.chmod(temporary, 0o600)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return began.id
