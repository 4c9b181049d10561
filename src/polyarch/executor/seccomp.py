"""The seccomp filter of a step: what docker's default profile refuses is refused, with the same errors.

A classic BPF program per processor architecture the kernel can run programs of (a 64-bit kernel runs 32-bit
programs too). Emulated programs make the host's system calls, so the host's filter is theirs as well.
"""

from __future__ import annotations

import functools
import os
import struct

_EPERM, _ENOSYS = 1, 38
_ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENT0, _ARGUMENT0_HIGH = 0, 4, 16, 20

# CLONE_NEW* of user, mount, cgroup, uts, ipc, pid and network namespaces.
NAMESPACES = (0x0002_0000, *(1 << bit for bit in range(25, 31)))
_NAMESPACE_FLAGS = sum(NAMESPACES)

# personality(2) values that change nothing dangerous: default, PER_LINUX32, UNAME26, both, "tell me".
_PERSONALITIES = (0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)

_AF_ALG, _AF_VSOCK = 38, 40

# Refused with EPERM. A name an architecture lacks has no number there.
_NEW = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "pidfd_getfd": 438,
    "process_madvise": 440, "mount_setattr": 442, "quotactl_fd": 443, "set_mempolicy_home_node": 450,
}  # fmt: skip

_X86_64 = {
    **_NEW,
    "acct": 163, "add_key": 248, "bpf": 321, "clock_adjtime": 305, "clock_settime": 227, "create_module": 174,
    "delete_module": 176, "finit_module": 313, "get_kernel_syms": 177, "get_mempolicy": 239,
    "init_module": 175, "ioperm": 173, "iopl": 172, "kcmp": 312, "kexec_file_load": 320, "kexec_load": 246,
    "keyctl": 250, "lookup_dcookie": 212, "mbind": 237, "mount": 165, "move_pages": 279, "migrate_pages": 256,
    "nfsservctl": 180, "open_by_handle_at": 304, "perf_event_open": 298, "pivot_root": 155,
    "query_module": 178, "quotactl": 179, "reboot": 169, "request_key": 249, "set_mempolicy": 238,
    "setns": 308, "settimeofday": 164, "swapon": 167, "swapoff": 168, "sysfs": 139, "_sysctl": 156,
    "umount2": 166, "unshare": 272, "uselib": 134, "userfaultfd": 323, "ustat": 136, "vhangup": 153,
    "syslog": 103, "fanotify_init": 300, "setdomainname": 171, "sethostname": 170,
}  # fmt: skip

_I386 = {
    **_NEW,
    "acct": 51, "add_key": 286, "bpf": 357, "clock_adjtime": 343, "clock_settime": 264,
    "clock_settime64": 404,
    "clock_adjtime64": 405, "create_module": 127, "delete_module": 129, "finit_module": 350,
    "get_kernel_syms": 130, "get_mempolicy": 275, "init_module": 128, "ioperm": 101, "iopl": 110, "kcmp": 349,
    "kexec_load": 283, "keyctl": 288, "lookup_dcookie": 253, "mbind": 274, "mount": 21, "move_pages": 317,
    "migrate_pages": 294, "nfsservctl": 169, "open_by_handle_at": 342, "perf_event_open": 336,
    "pivot_root": 217, "query_module": 167, "quotactl": 131, "reboot": 88, "request_key": 287,
    "set_mempolicy": 276, "setns": 346, "settimeofday": 79, "stime": 25, "swapon": 87, "swapoff": 115,
    "sysfs": 135, "_sysctl": 149, "umount": 22, "umount2": 52, "unshare": 310, "uselib": 86,
    "userfaultfd": 374, "ustat": 62, "vm86": 166, "vm86old": 113, "vhangup": 111, "syslog": 103,
    "fanotify_init": 338, "setdomainname": 121, "sethostname": 74,
}  # fmt: skip

_ARM64 = {
    **_NEW,
    "acct": 89, "add_key": 217, "bpf": 280, "clock_adjtime": 266, "clock_settime": 112, "delete_module": 106,
    "finit_module": 273, "get_mempolicy": 236, "init_module": 105, "kcmp": 272, "kexec_file_load": 294,
    "kexec_load": 104, "keyctl": 219, "lookup_dcookie": 18, "mbind": 235, "mount": 40, "move_pages": 239,
    "migrate_pages": 238, "nfsservctl": 42, "open_by_handle_at": 265, "perf_event_open": 241,
    "pivot_root": 41, "quotactl": 60, "reboot": 142, "request_key": 218, "set_mempolicy": 237, "setns": 268,
    "settimeofday": 170, "swapon": 224, "swapoff": 225, "umount2": 39, "unshare": 97, "userfaultfd": 282,
    "vhangup": 58, "syslog": 116, "fanotify_init": 262, "setdomainname": 162, "sethostname": 161,
}  # fmt: skip

_ARM = {
    **_NEW,
    "acct": 51, "add_key": 309, "bpf": 386, "clock_adjtime": 372, "clock_settime": 262,
    "clock_settime64": 404,
    "clock_adjtime64": 405, "delete_module": 129, "finit_module": 379, "get_mempolicy": 320,
    "init_module": 128, "kcmp": 378, "kexec_file_load": 401, "kexec_load": 347, "keyctl": 311,
    "lookup_dcookie": 249, "mbind": 319, "mount": 21, "move_pages": 344, "migrate_pages": 400,
    "nfsservctl": 169, "open_by_handle_at": 371, "perf_event_open": 364, "pivot_root": 218, "quotactl": 131,
    "reboot": 88, "request_key": 310, "set_mempolicy": 321, "setns": 375, "settimeofday": 79, "swapon": 87,
    "swapoff": 115, "sysfs": 135, "_sysctl": 149, "umount2": 52, "unshare": 337, "uselib": 86,
    "userfaultfd": 388, "ustat": 62, "vhangup": 111, "syslog": 103, "fanotify_init": 367,
    "setdomainname": 121, "sethostname": 74,
}  # fmt: skip

# Audit architecture → (refused calls, numbers of clone, personality and socket).
_Table = tuple[int, dict[str, int], int, int, int]
_TABLES: dict[str, tuple[_Table, _Table]] = {
    "x86_64": ((0xC000_003E, _X86_64, 56, 135, 41), (0x4000_0003, _I386, 120, 136, 359)),
    "aarch64": ((0xC000_00B7, _ARM64, 220, 92, 198), (0x4000_0028, _ARM, 120, 136, 281)),
}
_CLONE3 = 435


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _refuse(error: int) -> bytes:
    return _op(_RETURN, _ERRNO | error)


def _section(refused: dict[str, int], clone: int, personality: int, socket: int, *, x32: bool) -> bytes:
    """The filter for one architecture. The accumulator holds the system call's number; always returns."""
    deny, allow = _refuse(_EPERM), _op(_RETURN, _ALLOW)
    program = b""
    if x32:  # the x32 ABI: its numbers would pass every test below
        program += _op(_JUMP_BITS, 0x4000_0000, 0, 1) + _refuse(_ENOSYS)
    # clone3's flags are in memory where a filter cannot look: absent, so that libraries use clone.
    program += _op(_JUMP_EQUAL, _CLONE3, 0, 1) + _refuse(_ENOSYS)
    program += _op(_JUMP_EQUAL, clone, 0, 4)
    program += _op(_LOAD, _ARGUMENT0) + _op(_JUMP_BITS, _NAMESPACE_FLAGS, 0, 1) + deny + allow
    count = len(_PERSONALITIES)
    program += _op(_JUMP_EQUAL, personality, 0, count + 3) + _op(_LOAD, _ARGUMENT0)
    for index, value in enumerate(_PERSONALITIES):
        program += _op(_JUMP_EQUAL, value, count - index, 0)
    program += deny + allow
    program += _op(_JUMP_EQUAL, socket, 0, 5) + _op(_LOAD, _ARGUMENT0)
    program += _op(_JUMP_EQUAL, _AF_VSOCK, 1, 0) + _op(_JUMP_EQUAL, _AF_ALG, 0, 1) + deny + allow
    for number in sorted(set(refused.values())):
        program += _op(_JUMP_EQUAL, number, 0, 1) + deny
    return program + allow


@functools.cache
def program(machine: str | None = None) -> bytes:
    """The filter for this kernel as BPF instructions, b"" where the processor is unknown."""
    tables = _TABLES.get(machine or os.uname().machine)
    if tables is None:
        return b""
    (main, refused, *numbers), (compat, compat_refused, *compat_numbers) = tables
    second = _section(compat_refused, *compat_numbers, x32=False)
    first = _section(refused, *numbers, x32=main == 0xC000_003E)
    return b"".join(
        (
            _op(_LOAD, _ARCHITECTURE),
            # Jumps reach 255 instructions; a section may be longer, so skip by "ja".
            _op(_JUMP_EQUAL, main, 0, 2),
            _op(_LOAD, _NUMBER),
            _op(0x05, len(second) // 8 + 3),
            _op(_JUMP_EQUAL, compat, 1, 0),
            _refuse(_ENOSYS),
            _op(_LOAD, _NUMBER),
            second,
            first,
        )
    )


def refused_names() -> list[str]:
    """The system calls that are refused whatever their arguments, by name (for an OCI runtime)."""
    return sorted(set().union(*(table[1] for pair in _TABLES.values() for table in pair)))
