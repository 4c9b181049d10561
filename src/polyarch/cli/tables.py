"""Columns of text, and amounts as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns with three spaces between them, as docker prints them."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = []
    for line in lines:
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        shown.append("   ".join(cells).rstrip())
    return "\n".join(shown)


def tabbed(lines: Sequence[tuple[str, str] | str]) -> str:
    """Pairs as Go's text/tabwriter aligns them (padding 1): the first cells of neighbouring pairs get one
    width; a plain string ends a column."""
    out: list[str] = []
    start = 0
    while start < len(lines):
        end = start
        while end < len(lines) and isinstance(lines[end], tuple):
            end += 1
        block = [line for line in lines[start:end] if isinstance(line, tuple)]
        width = max((len(cell) for cell, _ in block), default=0) + 1
        out += [cell.ljust(width) + text for cell, text in block]
        if end < len(lines):
            out.append(str(lines[end]))
        start = end + 1
    return "\n".join(out)


def size(count: int) -> str:
    """Bytes with three digits and a decimal unit: ``931kB``, ``1.9MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    if unit == "B":
        return f"{count}B"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    text = f"{value:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


def age(created: str, now: datetime | None = None) -> str:
    """How long ago ``created`` (RFC 3339) was, as docker says it; "" when it is no time."""
    try:
        then = datetime.fromisoformat(created)
    except ValueError:
        return ""
    seconds = int(((now or datetime.now(UTC)) - _aware(then)).total_seconds())
    for limit, unit, name in (
        (120, 1, "second"),
        (7200, 60, "minute"),
        (172_800, 3600, "hour"),
        (1_209_600, 86_400, "day"),
        (5_184_000, 604_800, "week"),
        (63_072_000, 2_592_000, "month"),
    ):
        if seconds < limit:
            count = max(0, seconds // unit)
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return f"{seconds // 31_536_000} years ago"


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
