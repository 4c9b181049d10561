"""How an error is shown: the place in the Dockerfile, what happened, the way out. Returns the exit code."""

from __future__ import annotations

import os
import sys
import traceback

from polyarch.errors import Location, PolyarchError


def excerpt(location: Location) -> str:
    """The lines of ``location`` with two around them, each numbered, the guilty ones marked."""
    lines = location.source.rstrip("\n").split("\n")
    first, last = max(1, location.start - 2), min(len(lines), location.end + 2)
    width = len(str(last))
    shown = [f"{location.file}:{location.start}"]
    for number in range(first, last + 1):
        mark = ">>>" if location.start <= number <= location.end else "   "
        shown.append(f"{mark} {number:{width}} | {lines[number - 1]}")
    return "\n".join(shown)


def render(error: PolyarchError) -> str:
    """The whole message for a terminal or a log."""
    parts = []
    if error.location is not None:
        parts.append(excerpt(error.location) if error.location.source else error.location.file)
    parts.append(f"error: {error.summary}")
    if error.detail:
        parts.append(error.detail.rstrip("\n"))
    if error.hint:
        parts.append(f"hint: {error.hint}")
    return "\n".join(parts)


def report(error: Exception) -> int:
    """Print ``error`` to standard error; 1 for what we know, 2 for usage, 1 with a traceback for bugs."""
    debug = bool(os.environ.get("POLYARCH_DEBUG"))
    if isinstance(error, PolyarchError):
        print(render(error), file=sys.stderr)
        if debug:
            traceback.print_exception(error)
        return error.exit_code
    if isinstance(error, OSError) and not debug:
        from polyarch.cli.system_errors import explain

        print(render(explain(error)), file=sys.stderr)
        return 1
    traceback.print_exception(error)
    print("error: this is a bug in polyarch; please report the lines above", file=sys.stderr)
    return 1
