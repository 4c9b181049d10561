"""The filters of ``du`` and ``prune``: ``KEY=VALUE``, ``KEY!=VALUE`` or a bare word; all must hold."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from polyarch.builder.report import KINDS, Usage
from polyarch.errors import UsageError

Wanted = Callable[[Usage], bool]
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_ALIASES = {"exec.cachemount": "cachemount", "source.git.checkout": "source", "regular": "layer"}
_BUILDKIT = ("frontend", "internal", "source.local")
_WORDS: dict[str, Wanted] = {
    "shared": lambda item: item.shared,
    "private": lambda item: not item.shared,
    "inuse": lambda item: item.in_use,
    "reclaimable": lambda item: item.reclaimable,
}


def parse(texts: Sequence[str]) -> Wanted:
    """What the filters let through. UsageError names the filter that makes no sense."""
    tests = [_one(part.strip()) for text in texts for part in text.split(",")]
    return lambda item: all(test(item) for test in tests)


def _one(text: str) -> Wanted:
    match = re.fullmatch(r"([a-z-]+)(?:(!?=)(.*))?", text)
    if match is None:
        raise _wrong(text)
    key, operator, value = match[1], match[2], match[3] or ""
    test = _test(key, value, text)
    if operator == "!=":
        return lambda item: not test(item)
    return test


def _test(key: str, value: str, text: str) -> Wanted:
    match key:
        case "until" | "unused-for":
            limit = _moment(value, text)
            return lambda item: item.used_ns < limit
        case "type":
            kind = _ALIASES.get(value, value)
            if kind not in (*KINDS, *_BUILDKIT):
                raise UsageError(
                    f"--filter {text}: there is no such type",
                    hint=", ".join(KINDS),
                    reason="invalid-filter",
                )
            return lambda item: item.kind in (kind, value)
        case "id" if value:
            return lambda item: item.id.startswith(value) or item.id.partition(":")[2].startswith(value)
        case "description" if value:
            return lambda item: value in item.description
        case "shared" | "private" | "inuse" | "reclaimable":
            plain, given = _WORDS[key], value.lower() or "true"
            if given not in ("true", "false", "1", "0"):
                raise _wrong(text)
            return plain if given in ("true", "1") else lambda item: not plain(item)
    raise _wrong(text)


def _moment(value: str, text: str) -> int:
    """Nanoseconds since 1970 from a Go duration (before now), a number of seconds, or RFC 3339."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdw])", value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return int((time.time() - sum(float(n) * _SECONDS[unit] for n, unit in parts)) * 1e9)
    if value == "0":
        return time.time_ns()
    try:
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return int(float(value) * 1e9)
        moment = datetime.fromisoformat(value)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise UsageError(
            f"--filter {text}: that is no time",
            hint="a duration such as 24h or 90m, or a time such as 2024-05-06T07:08:09Z",
            reason="invalid-filter",
        ) from None


def _wrong(text: str) -> UsageError:
    return UsageError(
        f"--filter {text}: not understood",
        hint="until=24h, type=KIND, id=PREFIX, description=TEXT, shared, private, inuse, reclaimable",
        reason="invalid-filter",
    )
