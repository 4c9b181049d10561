"""Runs one command of the host as root of namespaces of its own, with emulators only it knows of.

    python -m polyarch.base.namespace [--binfmt=HEX…] -- COMMAND…

The command sees the host's files. It is in mount, process, IPC and name namespaces, and in a user namespace
where this user is not root, or where handlers for foreign programs are to be registered (Linux 6.7). When
this process ends, however it ends, everything in there is killed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from polyarch.executor import binfmt, idmap, syscalls

_SPACES = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS


def main(arguments: list[str]) -> int:
    """The exit code of the command; 125 where the namespaces could not be made, with a line on stderr."""
    split = arguments.index("--")
    registrations = [bytes.fromhex(word.removeprefix("--binfmt=")) for word in arguments[:split]]
    command = arguments[split + 1 :]
    try:
        mapped = bool(registrations) or not syscalls.may_mount()
        return _run(command, registrations, mapped=mapped)
    except (OSError, idmap.NoIds) as error:
        hint = getattr(error, "hint", "")
        print(f"E: namespaces: {error}{f' ({hint})' if hint else ''}", file=sys.stderr)  # noqa: T201
        return 125


def _run(command: list[str], registrations: list[bytes], *, mapped: bool) -> int:
    users, groups = idmap.plan() if mapped else ([], [])
    ready, set_ready = os.pipe()
    mapping, set_mapping = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(set_mapping)
        _die_with_parent()
        _guarded(lambda: _enter(command, registrations, set_ready, mapping, mapped=mapped))
    os.close(mapping)
    os.close(set_ready)
    try:
        if os.read(ready, 1) and mapped:
            idmap.write(child, users, groups)
        os.write(set_mapping, b"x")
    except BrokenPipeError:
        pass  # the child failed and says so
    except OSError:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    return _status(os.waitpid(child, 0)[1])


def _enter(
    command: list[str], registrations: list[bytes], ready: int, mapping: int, *, mapped: bool
) -> NoReturn:
    """The child: into the namespaces, then on with the first process of the new process namespace."""
    if mapped:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    os.write(ready, b"x")
    if not os.read(mapping, 1):
        os._exit(125)
    if mapped:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        _die_with_parent()  # changing ids has undone it
    syscalls.unshare(_SPACES)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    if registrations:
        os.set_inheritable(binfmt.private_instance(registrations), True)
    first = os.fork()
    if first == 0:
        _die_with_parent()
        _guarded(lambda: _first(command))
    os._exit(_status(os.waitpid(first, 0)[1]))


def _first(command: list[str]) -> NoReturn:
    """The first process: gives the command a /proc of its own, and buries the dead."""
    try:
        syscalls.mount("proc", "/proc", "proc")
    except OSError:
        pass  # the outer /proc is partly masked, as in containers; its processes show, that is all
    child = os.fork()
    if child == 0:
        os.execvp(command[0], command)
    while True:
        dead, status = os.wait()
        if dead == child:
            os._exit(_status(status))


def _guarded(work: Callable[[], object]) -> NoReturn:
    """Run ``work`` in a forked child; whatever goes wrong ends it, and never the caller's code after it."""
    try:
        work()
    except BaseException as error:
        os.write(2, f"E: namespaces: {error}\n".encode(errors="replace"))
    os._exit(125)


def _die_with_parent() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def _status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
