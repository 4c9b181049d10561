"""``polyarch build`` of what has not changed: the last build's answer, as soon as it is known to hold."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False  # type checkers take it for true

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


_SILENT = ("quiet", "none")


def answer(words: Sequence[str]) -> int | None:
    """Print what the last build with the command line ``words`` did, if it is still what a build would do;
    None if there has to be one. Whatever goes wrong here, the build will tell better."""
    started, began = time.monotonic(), time.time()
    try:
        from polyarch.content.place import state_root
        from polyarch.unchanged import facts, record

        found = record.load(words)
        if found is None or not facts.hold(found, state_root()):
            return None
        from polyarch.history import keeping

        id = keeping.new_id()
        for path, text in found["written"].items():
            write(path, text.replace(found["build"], id))
        if "history" in found:
            keeping.again(os.path.join(state_root(), keeping.FOLDER), found["history"], began, id)
        shown, printed = _texts(found, time.monotonic() - started)
    except Exception:
        if os.environ.get("POLYARCH_DEBUG"):
            raise
        return None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    try:
        sys.stderr.write(shown)
        sys.stdout.write(printed)
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    return 0


def write(path: str, text: str) -> None:
    """Replace a file's content at once."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}")
    try:
        with open(temporary, "w") as stream:
            stream.write(text)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass  # it was never there
        raise


def _texts(found: dict[str, Any], seconds: float) -> tuple[str, str]:
    """What goes to standard error and to standard output."""
    mode = found["mode"]
    if mode == "quiet":
        return "", found["id"] + "\n"
    lines: list[str] = []
    if mode not in _SILENT:
        names = [name.replace("\n", " ") for name in found["steps"]]
        if mode in ("auto", "tty") and sys.stderr.isatty():
            lines += [f"[+] {seconds:.1f}s ({len(names)}/{len(names)})", *(f" => CACHED {n}" for n in names)]
        else:
            for number, name in enumerate(names, 1):
                lines += [f"#{number} {name}", f"#{number} CACHED", ""]
        lines += found["warnings"]
    lines += [*found["lines"], f"done in {seconds:.1f} s"]
    return "\n".join(lines) + "\n", ""
