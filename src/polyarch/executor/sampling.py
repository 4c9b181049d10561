"""How much of an emulated step's processor time goes into emulation, by looking at what runs, now and then.

Imports next to nothing: the helper process uses it.
"""

from __future__ import annotations

import os

INTERVAL = 50  # milliseconds
_ENOUGH = 4  # looks at a running process; fewer say nothing


class Sampler:
    """Looks at the processes of one step. ``root`` is its first process, as this process sees it."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._emulated = 0
        self._native = 0

    def look(self) -> None:
        """Count the processes that are running at this moment, emulated and native ones."""
        pending = [self._root]
        while pending:
            pid = pending.pop()
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as file:
                    pending += [int(child) for child in file.read().split()]
                if pid == self._root:
                    continue  # our own first process
                with open(f"/proc/{pid}/stat", "rb") as stream:
                    state = stream.read(1024).rpartition(b") ")[2][:1]
                if state != b"R":
                    continue
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            except (OSError, ValueError):
                continue  # it has ended, or is not ours to look at
            if program.startswith("qemu-") or "-binfmt" in program:
                self._emulated += 1
            else:
                self._native += 1

    def share(self) -> float | None:
        """The share of emulation, 0 to 1; None when too little was seen."""
        total = self._emulated + self._native
        return self._emulated / total if total >= _ENOUGH else None
