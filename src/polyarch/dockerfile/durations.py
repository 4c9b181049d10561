"""Time spans as Go's time.ParseDuration reads them: ``1h30m``, ``500ms``, ``1.5s``."""

from __future__ import annotations

import re
from decimal import Decimal

_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> int | None:
    """``text`` in nanoseconds; None when it is no time span or does not fit in 64 bits."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = Decimal(0)
    position = 0
    while position < len(rest):
        match = _PART.match(rest, position)
        if match is None or len(match[1]) > 40:
            return None
        total += Decimal(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not position or total >= 2**63:
        return None
    return sign * int(total)
