"""Which processor an emulator should emulate: found out once for each emulator, by running a program under
it.

QEMU's default for arm64 computes pointer authentication codes as the architecture's own cipher, in software,
for every function call of programs compiled with it: they run up to six times slower. Without that feature
the same instructions do nothing, as on the processors before it.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from polyarch.executor.machines import MACHINES

_WORTHWHILE = 1.5  # how many times faster another model must be to be preferred
_PATIENCE = 20.0  # seconds
_CANDIDATES = {"aarch64": "max,pauth=off", "x86_64": "max"}


def best(emulator: Path, qemu: str) -> str:
    """The model for ``-cpu``, "" for the emulator's own default. ``qemu`` is its name for the machine."""
    candidate = _CANDIDATES.get(qemu, "")
    if not candidate:
        return ""
    program = _program(qemu)
    before, after = _seconds(emulator, "", program), _seconds(emulator, candidate, program)
    if after is None:
        return ""
    if qemu == "x86_64":  # not for speed: older defaults lack instructions that today's distributions expect
        return candidate
    return candidate if before is None or before > _WORTHWHILE * after else ""


def _program(qemu: str) -> bytes:
    """The smallest program of the machine; for arm64 with 30,000 calls that are signed and checked."""
    machine = next(machine for machine in MACHINES if machine.qemu == qemu)
    if qemu != "aarch64":
        return machine.program()
    loop = struct.pack(
        "<5I",
        0xD28EA601,  # mov x1, #30000
        0xD503233F,  # paciasp
        0xD50323BF,  # autiasp
        0xF1000421,  # subs x1, x1, #1
        0x54FFFFA1,  # b.ne to paciasp
    )
    return machine._replace(code=loop.hex() + machine.code).program()


def _seconds(emulator: Path, model: str, program: bytes) -> float | None:
    """How long the program takes, the better of two; None when it does not end well."""
    times = []
    with tempfile.NamedTemporaryFile(suffix=".probe") as file:
        file.write(program)
        file.flush()
        os.chmod(file.name, 0o755)
        command = [str(emulator), *(["-cpu", model] if model else []), file.name]
        for _ in range(2):
            start = time.perf_counter()
            try:
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
                )
            except (OSError, subprocess.SubprocessError):
                return None
            if done.returncode:
                return None
            times.append(time.perf_counter() - start)
    return min(times)
