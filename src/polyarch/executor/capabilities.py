"""Linux capabilities: docker's default set, all of them, and giving up the rest."""

from __future__ import annotations

import os

from polyarch.executor import syscalls

# Numbers from linux/capability.h.
DOCKER_DEFAULT = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_RAW": 13,
    "CAP_SYS_CHROOT": 18,
    "CAP_MKNOD": 27,
    "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}


def last() -> int:
    """The highest capability this kernel knows."""
    try:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
            return int(file.read())
    except OSError:
        return 40


def mask(names: dict[str, int]) -> int:
    return sum(1 << number for number in names.values())


def drop_bounding(keep: int, highest: int) -> None:
    """Nothing this process or its children execute can have a capability outside ``keep``."""
    for number in range(highest + 1):
        if not keep >> number & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            except OSError:
                if number <= 31:  # newer ones may not exist where "highest" could not be read
                    raise


def permitted() -> int:
    """The permitted set of this process."""
    file = os.open("/proc/self/status", os.O_RDONLY)
    try:
        text = os.read(file, 1 << 16)
    finally:
        os.close(file)
    start = text.index(b"CapPrm:") + 7
    return int(text[start : text.index(b"\n", start)], 16)
