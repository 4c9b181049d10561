"""The system calls Python has no function for: mounts by file descriptor, namespaces, capabilities, openat2.

Owns the numbers and the calling conventions (x86-64 and arm64, where all of these but clone,
pivot_root and capset share one number) and nothing else. Every call raises OSError with the operation in it.
Imports are few: the helper process starts with this module.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

CLONE_NEWNS = 0x0002_0000
CLONE_NEWCGROUP = 0x0200_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2

ATTR_RDONLY = 1
ATTR_NOSUID = 2
ATTR_NODEV = 4
ATTR_NOEXEC = 8

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

_ARM64 = os.uname().machine == "aarch64"
_CLONE = 220 if _ARM64 else 56
_PIVOT_ROOT = 41 if _ARM64 else 155
_CAPSET = 91 if _ARM64 else 126
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 428, 429, 430, 431, 432
_OPENAT2, _MOUNT_SETATTR = 437, 442

Path = str | bytes


def _bytes(path: Path) -> bytes:
    return os.fsencode(path)


def _fail(operation: str, path: Path | None = None) -> OSError:
    code = ctypes.get_errno()
    name = "" if path is None else " " + os.fsdecode(path)
    return OSError(code, f"{operation}{name}: {os.strerror(code)}")


def _call(operation: str, number: int, *arguments: object, path: Path | None = None) -> int:
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        raise _fail(operation, path)
    return result


def clone(flags: int) -> int:
    """fork() into the new namespaces of ``flags``: 0 in the child. Only for a process without threads."""
    return _call("clone", _CLONE, flags | 17, 0, 0, 0, 0)  # 17: SIGCHLD


def unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        raise _fail("unshare")


def mount(
    source: Path | None, target: Path, kind: str | None = None, flags: int = 0, options: str | None = None
) -> None:
    encode = None if kind is None else kind.encode()
    if (
        _libc.mount(
            None if source is None else _bytes(source),
            _bytes(target),
            encode,
            ctypes.c_ulong(flags),
            None if options is None else options.encode(),
        )
        != 0
    ):
        raise _fail(f"mount {kind or ''} on", target)


def umount(target: Path, flags: int = 0) -> None:
    if _libc.umount2(_bytes(target), flags) != 0:
        raise _fail("umount", target)


def pivot_root(new_root: int) -> None:
    """Make the mounted directory open at ``new_root`` the root, and let go of the old one."""
    os.fchdir(new_root)
    _call("pivot_root", _PIVOT_ROOT, b".", b".")
    umount(".", MNT_DETACH)
    os.chdir("/")


def open_tree(path: Path, directory: int = AT_FDCWD, *, recursive: bool = False) -> int:
    """A detached copy of the mount(s) at ``path`` (or at ``directory`` itself when it is empty)."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return _call("open_tree", _OPEN_TREE, directory, _bytes(path), flags, path=path)


def move_mount(tree: int, target: Path, directory: int = AT_FDCWD) -> None:
    """Attach the detached mount ``tree`` at ``target`` (or at ``directory`` itself when it is empty)."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | (0 if target else _MOVE_MOUNT_T_EMPTY_PATH)
    _call("move_mount", _MOVE_MOUNT, tree, b"", directory, _bytes(target), flags, path=target)


def mount_setattr(tree: int, attributes: int, *, recursive: bool = False) -> None:
    """Set ``ATTR_*`` on an open mount."""
    structure = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _call("mount_setattr", _MOUNT_SETATTR, tree, b"", flags, structure, len(structure))


def new_mount(kind: str, options: list[tuple[str, str | None]], attributes: int = 0) -> int:
    """A detached mount of a new file system; an option without value is a flag.

    The kernel's own explanation (fs context log) becomes part of the OSError.
    """
    context = _call("fsopen", _FSOPEN, kind.encode(), 1)
    try:
        for key, value in options:
            if value is None:
                _call(f"{kind} option {key}", _FSCONFIG, context, 0, key.encode(), None, 0)
            else:
                _call(f"{kind} option {key}", _FSCONFIG, context, 1, key.encode(), os.fsencode(value), 0)
        _call(f"mount {kind}", _FSCONFIG, context, 6, None, None, 0)
        return _call(f"fsmount {kind}", _FSMOUNT, context, 1, attributes)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}{_log(context)}") from None
    finally:
        os.close(context)


def _log(context: int) -> str:
    lines = []
    try:
        while line := os.read(context, 1024):
            lines.append(line.decode(errors="replace").strip())
    except OSError:
        pass  # ENODATA: no more lines
    return f" ({'; '.join(lines)})" if lines else ""


def openat2(directory: int, path: Path, flags: int, resolve: int, mode: int = 0) -> int:
    """open(2) with a say in how the path is resolved (``RESOLVE_*``)."""
    structure = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    while True:
        try:
            return _call(
                "open", _OPENAT2, directory, _bytes(path) or b".", structure, len(structure), path=path
            )
        except OSError as error:
            if error.errno != errno.EAGAIN:  # a rename raced with ".."
                raise


def prctl(option: int, argument: int | bytes = 0) -> None:
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
    if _libc.prctl(option, value, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise _fail(f"prctl {option}")


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this process's capabilities, given as bit masks."""
    header = struct.pack("=Ii", 0x2008_0522, 0)
    sets = (effective, permitted, inheritable)
    data = struct.pack("=IIIIII", *(mask & 0xFFFF_FFFF for mask in sets), *(mask >> 32 for mask in sets))
    _call("capset", _CAPSET, header, data)


def set_seccomp(program: bytes) -> None:
    """Install a filter made of 8-byte classic BPF instructions."""
    buffer = ctypes.create_string_buffer(program, len(program))
    structure = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    if _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), structure, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise _fail("seccomp")


def close_range(first: int, last: int) -> None:
    """Close every descriptor from ``first`` to ``last``."""
    if first <= last and _libc.syscall(436, ctypes.c_uint(first), ctypes.c_uint(last), 0) != 0:
        os.closerange(first, min(last, os.sysconf("SC_OPEN_MAX")) + 1)


def new_session_keyring() -> None:
    """Leave the session keyring behind, with the keys of whoever started us."""
    _libc.syscall(
        219 if _ARM64 else 250, 1, None, 0, 0, 0
    )  # keyctl(KEYCTL_JOIN_SESSION_KEYRING); best effort


def sethostname(name: str) -> None:
    encoded = name.encode()
    if _libc.sethostname(encoded, len(encoded)) != 0:
        raise _fail("sethostname")


def may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN: it can mount without a user namespace of its own."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def report(text: str) -> None:
    """Write one line to standard output, as far as it goes."""
    os.write(1, text.encode(errors="replace") + b"\n")


def hide_command_line(name: bytes) -> None:
    """Show ``name`` as the command line of this process and of those it forks."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc(5) fields 48 and 49
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, name[: end - start - 1], min(len(name), end - start - 1))
