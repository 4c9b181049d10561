"""What this machine's processor is: its platform, and the levels of its architecture that it reaches."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import msgspec

from polyarch.oci.platform import Platform, host

# The x86-64 psABI's microarchitecture levels, by the kernel's names of their features.
_LEVELS = {
    "v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "v3": "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
    "v4": "avx512f avx512bw avx512cd avx512dq avx512vl",
}
_CPUINFO = Path("/proc/cpuinfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@cache
def natives() -> tuple[Platform, ...]:
    """This machine's platform, then the higher levels of it that its programs may be made for."""
    own = host()
    if own.architecture != "amd64":
        return (own,)
    try:
        text = _CPUINFO.read_text(errors="replace")
    except OSError:
        return (own,)
    return (own, *(msgspec.structs.replace(own, variant=level) for level in levels(text)))


def levels(cpuinfo: str) -> list[str]:
    """The x86-64 levels above the first that the first processor of ``/proc/cpuinfo`` reaches."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    flags = set(line.partition(":")[2].split())
    reached = []
    for level, needed in _LEVELS.items():
        if not flags.issuperset(needed.split()):
            break
        reached.append(level)
    return reached


def count() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


def memory() -> int:
    """Bytes of memory there are, or that this process' control group may have."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            sizes.append(int(path.read_text()))
        except (OSError, ValueError):
            continue  # not there, or "max"
    return min(sizes)
