"""The numbers of the system calls that tell or change whose something is, for x86-64 and arm64."""

from __future__ import annotations

import os

ARM64 = os.uname().machine == "aarch64"
AUDIT = 0xC000_00B7 if ARM64 else 0xC000_003E

_BOTH = {"openat2": 437, "faccessat2": 439, "fchmodat2": 452}

_X86_64 = {
    **_BOTH, "open": 2, "stat": 4, "fstat": 5, "lstat": 6, "access": 21, "execve": 59, "rename": 82,
    "mkdir": 83, "rmdir": 84, "creat": 85, "unlink": 87, "symlink": 88, "chmod": 90, "fchmod": 91,
    "chown": 92, "fchown": 93, "lchown": 94, "getuid": 102, "getgid": 104, "setuid": 105, "setgid": 106,
    "geteuid": 107, "getegid": 108, "setreuid": 113, "setregid": 114, "getgroups": 115, "setgroups": 116,
    "setresuid": 117, "getresuid": 118, "setresgid": 119, "getresgid": 120, "setfsuid": 122,
    "setfsgid": 123, "mknod": 133, "setrlimit": 160, "listxattr": 194, "llistxattr": 195,
    "flistxattr": 196, "openat": 257, "mkdirat": 258, "mknodat": 259, "fchownat": 260, "newfstatat": 262,
    "unlinkat": 263, "renameat": 264, "symlinkat": 266, "fchmodat": 268, "faccessat": 269,
    "prlimit64": 302, "renameat2": 316, "execveat": 322, "statx": 332,
}  # fmt: skip

_ARM64 = {
    **_BOTH, "listxattr": 11, "llistxattr": 12, "flistxattr": 13, "mknodat": 33, "mkdirat": 34,
    "unlinkat": 35, "symlinkat": 36, "renameat": 38, "faccessat": 48, "fchmod": 52, "fchmodat": 53,
    "fchownat": 54, "fchown": 55, "openat": 56, "newfstatat": 79, "fstat": 80, "setregid": 143,
    "setgid": 144, "setreuid": 145, "setuid": 146, "setresuid": 147, "getresuid": 148, "setresgid": 149,
    "getresgid": 150, "setfsuid": 151, "setfsgid": 152, "getgroups": 158, "setgroups": 159,
    "setrlimit": 164, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "execve": 221,
    "prlimit64": 261, "renameat2": 276, "execveat": 281, "statx": 291,
}  # fmt: skip

NUMBERS = _ARM64 if ARM64 else _X86_64
EVERY = frozenset(NUMBERS)
NODES = frozenset({"mknod", "mknodat"})  # all that is missing where many ids are mapped
