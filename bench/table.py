"""The table: medians, their spread, and ratios of what was measured in the same round."""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

OURS = "polyarch"
OTHERS = ("buildkit", "buildah")


@dataclass
class Measured:
    """A row's seconds by builder, one a round; memory in bytes; who failed and why."""

    name: str
    about: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    floor: list[float] = field(default_factory=list)


def render(rows: Sequence[Measured], *, head: bool) -> str:
    """A Markdown table; the ratio is theirs ÷ ours, the median over the rounds, with its range."""
    lines = []
    if head:
        lines.append("| row | work | floor | polyarch | BuildKit | ÷ ours | buildah | ÷ ours | our memory |")
        lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        bottom = f"{statistics.median(row.floor):.3f} s" if row.floor else ""
        cells = [f"`{row.name}`", row.about, bottom, _seconds(row, OURS)]
        for other in OTHERS:
            cells += [_seconds(row, other), _ratio(row, other)]
        memory = row.memory.get(OURS, 0)
        cells.append(f"{memory / 1e6:.0f} MB" if memory else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(row: Measured, builder: str) -> str:
    times = row.seconds.get(builder)
    if not times:
        return "failed" if builder in row.failed else "–"
    digits = 3 if max(times) < 1 else 2
    spread = f" ({min(times):.{digits}f}–{max(times):.{digits}f})" if len(times) > 1 else ""
    return f"{statistics.median(times):.{digits}f} s{spread}"


def _ratio(row: Measured, builder: str) -> str:
    ours, theirs = row.seconds.get(OURS), row.seconds.get(builder)
    if not ours or not theirs:
        return "–"
    ratios = [their / our for our, their in zip(ours, theirs, strict=False)]
    return f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f}–{max(ratios):.1f})"


def write(readme: Path, table: str, *, rounds: int) -> None:
    """Replace what stands between the markers of ``readme``."""
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores, {platform.machine()}"
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = f"{day}, {machine}, {rounds} rounds after one to warm up.\n\n{table}\n"
    old = readme.read_text()
    pattern = re.compile(r"(<!-- table -->\n).*?(<!-- end -->)", re.DOTALL)
    readme.write_text(pattern.sub(lambda found: found[1] + text + found[2], old))
