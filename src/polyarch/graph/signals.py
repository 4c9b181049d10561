"""STOPSIGNAL's names and numbers, as docker takes them on Linux."""

from __future__ import annotations

import re

from polyarch.errors import DockerfileError

_NAMES = frozenset(
    (
        "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP "
        "SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX"
    ).split()
)
_REALTIME = re.compile(r"RTMIN\+([1-9]|1[0-5])|RTMAX-([1-9]|1[0-4])")


def check_signal(signal: str) -> None:
    """DockerfileError unless ``signal`` is a signal's name (with or without SIG) or number."""
    if signal.isascii() and signal.lstrip("+-").isdigit():
        if int(signal) == 0:
            raise _bad(signal)
        return
    name = signal.upper().removeprefix("SIG")
    if name not in _NAMES and not _REALTIME.fullmatch(name):
        raise _bad(signal)


def _bad(signal: str) -> DockerfileError:
    import difflib

    close = difflib.get_close_matches(signal.upper().removeprefix("SIG"), sorted(_NAMES), n=1)
    hint = f"did you mean SIG{close[0]}?" if close else "use a name such as SIGTERM, or a number"
    return DockerfileError(f"STOPSIGNAL: invalid signal {signal!r}", hint=hint, reason="invalid-signal")
