"""The peak memory of a process and everything it starts, as the kernel divides shared pages (PSS)."""

from __future__ import annotations

import threading
from pathlib import Path

# Seconds between looks, each of which costs a fraction of a millisecond a process: soon at first, because an
# unchanged build is over in a moment.
INTERVALS = (0.015, 0.01, 0.02, 0.04, 0.1)


class Watch:
    """Looks at the session of process ``leader`` until `stop`."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak in bytes."""
        self._ended.set()
        self._thread.join()
        return self._peak

    def _look(self) -> None:
        looks = 0
        while not self._ended.wait(INTERVALS[min(looks, len(INTERVALS) - 1)]):
            looks += 1
            self._peak = max(self._peak, sum(map(_pss, self._members())))

    def _members(self) -> list[Path]:
        found = []
        for path in Path("/proc").iterdir():
            if not path.name.isdigit():
                continue
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            if int(fields[3]) == self._leader:  # the session, proc(5)
                found.append(path)
        return found


def _pss(process: Path) -> int:
    try:
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it has ended
    return 0
