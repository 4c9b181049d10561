"""What runs inside a step's namespaces: pid 1, which puts the root filesystem together and reaps, and the
process itself up to its execve.

After pivot_root nothing may be imported: the root filesystem is the image's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import struct
from typing import Any

from polyarch.executor import binfmt, bundle, capabilities, machines, seccomp, syscalls, wire
from polyarch.executor.assembly import Assembly

Step = dict[str, Any]

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
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
            _process(step, files, terminal)
    except OSError as error:
        wire.report(sock, "refused", error.strerror or str(error))
        os._exit(_INTERNAL)
    except BaseException as error:
        wire.report(sock, "bug", _describe(error))
        os._exit(_INTERNAL)
    wire.close_all(files)
    code = _reap(child)
    assembly.take_apart()
    if keep >= 0:
        os.close(keep)
    wire.report(sock, "exited", code)
    os._exit(0)


def _describe(error: BaseException) -> str:
    """An error and where it happened, without importing anything."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    return f"{type(error).__name__}: {error} ({where})"


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


# --- the process --------------------------------------------------------------------------------------------


def _process(step: Step, files: list[int], terminal: str) -> None:
    """Become the process. Only for a fresh child; does not return."""
    try:
        _standard_files(step, files, terminal)
    except OSError as error:
        _fail(f"cannot open standard input and output: {error.strerror}", _NOT_EXECUTABLE)
    try:
        syscalls.close_range(3, 0xFFFF_FFFF)
        _default_signals()
        if step["runtime"]:
            command = bundle.command(step)
            os.chdir("/")
            os.execve(command[0], command, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        _limits(step)
        _directory(str(step["directory"]))
        _identity(step)
    except OSError as error:
        _fail(error.strerror or "unknown error", _NOT_EXECUTABLE)
    except BaseException as error:
        _fail(_describe(error), _INTERNAL)
    _execute(step)


def _fail(message: str, code: int) -> None:
    try:
        os.write(2, f"polyarch: {message}\n".encode(errors="surrogateescape"))
    finally:
        os._exit(code)


def _standard_files(step: Step, files: list[int], terminal: str) -> None:
    uid = _uid(step)
    os.setsid()
    if terminal:
        slave = os.open(terminal, os.O_RDWR)
        fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
        sources = [slave] * 3
    else:
        # A user other than root must be able to open /dev/stdout again.
        for file in files[-2:]:
            if uid:
                os.fchown(file, uid, -1)
        stdin = files[0] if step["stdin"] else os.open("/dev/null", os.O_RDONLY)
        sources = [stdin, *files[-2:]]
    copies = [fcntl.fcntl(source, fcntl.F_DUPFD, 10) for source in sources]
    for number, copy in enumerate(copies):
        os.dup2(copy, number, inheritable=True)


def _default_signals() -> None:
    for number in range(1, 65):
        if number in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            continue
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            pass
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _limits(step: Step) -> None:
    if step["emulated"]:  # QEMU writes a core file of its own for a crash, into the layer
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot enter the working directory {path}: {error.strerror}") from None


def _identity(step: Step) -> None:
    uid, gid, groups = step["identity"]
    highest = int(step["highest_capability"])
    keep = (1 << highest + 1) - 1 if step["insecure"] else capabilities.mask(capabilities.DOCKER_DEFAULT)
    permitted = capabilities.permitted()
    capabilities.drop_bounding(keep, highest)
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    program = b"" if step["insecure"] else seccomp.program()
    if program:
        syscalls.set_seccomp(program)
    if uid:
        os.setresuid(uid, uid, uid)  # which gives up every capability
    else:
        syscalls.capset(permitted & keep, permitted & keep, 0)


def _execute(step: Step) -> None:
    arguments: list[str] = step["arguments"]
    environment: dict[str, str] = {}
    for line in step["environment"]:
        name, _, value = line.partition("=")
        environment[name] = value
    denied = ""
    for path in _paths(arguments[0], environment):
        try:
            os.execve(path, arguments, environment)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(path):
                _fail(f"cannot run {path}: {_missing(path)}", _NOT_FOUND)
        except PermissionError:
            denied = denied or path
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                _fail(f"cannot run {path}: {_format(path)}", _NOT_EXECUTABLE)
            if error.errno == errno.E2BIG:
                _fail(f"cannot run {path}: arguments and environment are too long", _NOT_EXECUTABLE)
            _fail(f"cannot run {path}: {error.strerror}", _NOT_EXECUTABLE)
        except ValueError as error:
            _fail(f"cannot run {path}: {error}", _NOT_EXECUTABLE)
    if denied:
        what = "is a directory" if os.path.isdir(denied) else "is not executable for this user"
        _fail(f"cannot run {denied}: {what}", _NOT_EXECUTABLE)
    where = "" if "/" in arguments[0] else f" in PATH ({environment.get('PATH', _SEARCH)})"
    _fail(f"cannot run {arguments[0]}: not found{where}", _NOT_FOUND)


def _paths(name: str, environment: dict[str, str]) -> list[str]:
    if "/" in name:
        return [name]
    folders = environment.get("PATH", _SEARCH).split(":")
    return [os.path.join(folder or ".", name) for folder in folders] if name else []


def _header(path: str) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            return os.read(file, 4096)
        finally:
            os.close(file)
    except OSError:
        return b""


def _missing(path: str) -> str:
    """Why execve finds nothing although ``path`` is there."""
    header = _header(path)
    if header[:2] == b"#!":
        line = header[2:].split(b"\n")[0].decode("utf-8", "surrogateescape").strip()
        return f"its interpreter {line.split()[0] if line else '(none)'} is missing in the image"
    loader = machines.interpreter(header)
    if loader:
        machine = machines.identify(header)
        kind = f" (the loader of {machine.architecture} programs)" if machine else ""
        return f"{loader}{kind}, which it needs, is missing in the image"
    return "it is a symbolic link to nothing" if os.path.islink(path) else "not found"


def _format(path: str) -> str:
    header = _header(path)
    machine = machines.identify(header)
    if machine is not None:
        return f"it is a program for {machine.architecture}, which nothing on this machine runs"
    if not header:
        return "the file is empty"
    if header[:4] == b"\x7fELF":
        return "it is a program for another kind of machine"
    return "it is neither a program nor a script that starts with #!"
