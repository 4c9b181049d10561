"""A step's process, from the fork of pid 1 to its execve: files, limits, identity, and what is said when a
program cannot be run. Runs after pivot_root, so it imports nothing later on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from typing import Any

from polyarch.executor import bundle, capabilities, machines, seccomp, syscalls
from polyarch.executor.oneid import overseer

Step = dict[str, Any]

_SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126
_INTERNAL = 70


def become(step: Step, files: list[int], terminal: str) -> None:
    """Become the process. Only for a fresh child; does not return."""
    try:
        _standard_files(step, files, terminal)
    except OSError as error:
        _fail(f"cannot open standard input and output: {error.strerror}", _NOT_EXECUTABLE)
    try:
        watched = overseer.keep(step)
        _default_signals()
        if step["runtime"]:
            command = bundle.command(step)
            os.chdir("/")
            os.execve(command[0], command, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
        _limits(step)
        _directory(str(step["directory"]))
        _identity(step, watched)
    except OSError as error:
        _fail(error.strerror or "unknown error", _NOT_EXECUTABLE)
    except BaseException as error:
        _fail(describe(error), _INTERNAL)
    _execute(step)


def _fail(message: str, code: int) -> None:
    try:
        os.write(2, f"polyarch: {message}\n".encode(errors="surrogateescape"))
    finally:
        os._exit(code)


def _standard_files(step: Step, files: list[int], terminal: str) -> None:
    uid = int(step["identity"][0])
    os.setsid()
    if terminal:
        slave = os.open(terminal, os.O_RDWR)
        fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
        sources = [slave] * 3
    else:
        # A user other than root must be able to open /dev/stdout again.
        for file in files[-2:]:
            if uid and not step["single"]:
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
    for name, soft, hard in step["limits"]:
        kind = getattr(resource, f"RLIMIT_{str(name).upper()}")
        try:
            resource.setrlimit(kind, (int(soft), int(hard)))
        except (OSError, ValueError) as error:
            raise OSError(f"the limit {name}={soft}:{hard} cannot be set: {error}") from None
    if step["emulated"]:  # QEMU writes a core file of its own for a crash, into the layer
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot enter the working directory {path}: {error.strerror}") from None


def _identity(step: Step, watched: int) -> None:
    uid, gid, groups = step["identity"]
    highest = int(step["highest_capability"])
    keep = (1 << highest + 1) - 1 if step["insecure"] else capabilities.mask(capabilities.DOCKER_DEFAULT)
    permitted = capabilities.permitted()
    capabilities.drop_bounding(keep, highest)
    if not step["single"]:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
    overseer.watch(step, watched)
    program = b"" if step["insecure"] else seccomp.program()
    if program:
        syscalls.set_seccomp(program)
    if uid and not step["single"]:
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


def describe(error: BaseException) -> str:
    """An error and where it happened, without importing anything."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    return f"{type(error).__name__}: {error} ({where})"
