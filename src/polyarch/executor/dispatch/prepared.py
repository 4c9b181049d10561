"""Emulators as steps use them: copies with the dispatcher in front, made once and kept in the state
directory."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from polyarch.executor.dispatch import models
from polyarch.executor.dispatch.graft import dispatcher, graft

# Only for machines whose programs may have twins or whose processor is worth choosing: a copy is 15 MB.
_MACHINES = ("aarch64", "x86_64", "riscv64", "ppc64le", "loongarch64")
_RULES = "1"  # changes with how a model is chosen


def prepared(emulator: Path, qemu: str, folder: Path) -> Path:
    """The copy of ``emulator`` in ``folder``; ``emulator`` itself where there is no dispatcher for this
    machine's processor, or none can be put into that emulator."""
    code = dispatcher()
    if code is None or qemu not in _MACHINES:
        return emulator
    status = emulator.stat()
    identity = f"{_RULES} {emulator} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    key = hashlib.sha256(identity.encode(errors="surrogateescape") + code).hexdigest()[:16]
    place = folder / f"qemu-{qemu}-{key}"
    if place.is_file():
        return place
    try:
        content = graft(emulator.read_bytes(), code, models.best(emulator, qemu))
    except ValueError:
        return emulator
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".qemu.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(name, 0o755)
        os.replace(name, place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    for old in folder.glob(f"qemu-{qemu}-*"):
        if old != place:
            old.unlink(missing_ok=True)  # of an emulator that was replaced; a running step keeps it open
    return place
