"""Process 1 of a step's namespaces: it puts the root filesystem together, starts the process (process.py),
reaps, and takes everything apart.

After pivot_root nothing may be imported: the root filesystem is the image's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import struct
from typing import Any

from polyarch.executor import binfmt, bundle, process, syscalls, wire
from polyarch.executor.assembly import Assembly

Step = dict[str, Any]

_INTERNAL = 70


def main(step: Step, trees: dict[str, int], sock: socket.socket, files: list[int], wait: int) -> None:
    """Process 1 of the step. Reports to ``sock``; never returns normally."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.read(wait, 1) != b"g":
        os._exit(_INTERNAL)  # the supervisor died before it could say so
    try:
        terminal, master, keep = "", -1, -1
        if step["runtime"]:
            assembly = bundle.prepare(step, trees)
            if step["terminal"]:
                master, terminal = _outer_terminal()
        else:
            assembly, terminal, master, keep = _prepare(step, trees)
        if master >= 0:
            wire.report(sock, "terminal")
            wire.send_file(sock, master)
            os.close(master)
        _harden()
        child = os.fork()
        if child == 0:
            process.become(step, files, terminal)
    except OSError as error:
        wire.report(sock, "refused", error.strerror or str(error))
        os._exit(_INTERNAL)
    except BaseException as error:
        wire.report(sock, "bug", process.describe(error))
        os._exit(_INTERNAL)
    wire.close_all(files)
    code = _reap(child)
    assembly.take_apart()
    if keep >= 0:
        os.close(keep)
    wire.report(sock, "exited", code)
    os._exit(0)


def _harden() -> None:
    """This process holds every capability of its namespaces: nothing of the step may look into it, and it
    must never take code from the step's root filesystem."""
    import sys

    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_NAME, b"init")
    sys.path.clear()
    sys.meta_path.clear()


def _reap(child: int) -> int:
    """Wait for the process, then end everything it left behind. The code as a shell gives it."""
    status = 0
    while True:
        done, result = os.wait()
        if done == child:
            status = result
            break
    if os.getpid() == 1:  # never outside a pid namespace of our own
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


# --- pid 1: the root filesystem -----------------------------------------------------------------------------


def _prepare(step: Step, trees: dict[str, int]) -> tuple[Assembly, str, int, int]:
    """Everything before the process: mounts, network, names. The assembly, the terminal's path inside, its
    master (or -1) and a descriptor that keeps the emulators registered (or -1)."""
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    os.umask(0)
    assembly = Assembly(str(step["scratch"]), trees["root"])
    assembly.proc()
    _sys(assembly, trees)
    assembly.dev(int(step["shm_size"]))
    keep = -1
    if step["emulators"]:
        keep = binfmt.private_emulators(step["emulators"], assembly.place)
    terminal, master = "", -1
    if step["terminal"]:
        master, terminal = assembly.terminal(_uid(step))
    _files(assembly, step)
    _mounts(assembly, step, trees)
    if not step["read_only"]:
        assembly.directory(str(step["directory"]))
    if not step["insecure"]:
        assembly.mask()
    if step["read_only"]:
        syscalls.mount_setattr(trees["root"], syscalls.ATTR_RDONLY)
    syscalls.sethostname(str(step["hostname"]))
    if step["network"] == "none":
        _loopback()
    syscalls.new_session_keyring()
    syscalls.pivot_root(assembly.root)
    os.umask(0o022)
    return assembly, terminal, master, keep


def _uid(step: Step) -> int:
    uid: int = step["identity"][0]
    return uid


def _sys(assembly: Assembly, trees: dict[str, int]) -> None:
    attributes = syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV | syscalls.ATTR_NOEXEC
    tree = trees["sys"] if "sys" in trees else syscalls.new_mount("sysfs", [], attributes)
    assembly.attach_system(tree, "sys")


def _files(assembly: Assembly, step: Step) -> None:
    for path in ("/etc/resolv.conf", "/etc/hosts"):
        content = step["files"][path]
        assembly.attach_in_image(assembly.private_file(content, 0, 0, 0o644), path, directory=False)


def _mounts(assembly: Assembly, step: Step, trees: dict[str, int]) -> None:
    mounts: list[dict[str, Any]] = step["mounts"]
    order = sorted(range(len(mounts)), key=lambda index: str(mounts[index]["target"]).count("/"))
    for index in order:
        mount = mounts[index]
        target = str(mount["target"])
        match mount["kind"]:
            case "bind":
                tree = trees[str(index)]
            case "overlay":
                tree = assembly.part(trees[str(index)], str(mount["path"]), str(index))
            case "tmpfs":
                options: list[tuple[str, str | None]] = [("mode", f"{mount['mode']:o}")]
                if mount["size"]:
                    options.append(("size", str(mount["size"])))
                tree = syscalls.new_mount("tmpfs", options, syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV)
            case "secret":
                tree = assembly.private_file(
                    mount["content"],
                    mount["uid"],
                    mount["gid"],
                    mount["mode"],
                )
            case _:
                raise OSError(errno.EINVAL, f"unknown kind of mount {mount['kind']}")
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        assembly.attach_in_image(tree, target, directory=directory)


def _loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0x41)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(sock, 0x8914, request)  # SIOCSIFFLAGS


def _outer_terminal() -> tuple[int, str]:
    """A pseudo-terminal of the host's for a runtime, which makes the step's own."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    os.close(slave)
    return master, name
