"""How the helper process starts: signals, the user namespace of an ordinary user, a read-only interpreter.

The interpreter is executed again through a read-only mount of itself, because a step may find its way to the
interpreter's file (/proc/PID/exe of a process that is about to become the step's) and must not write it.
Imports as little as it can: it runs before the second start.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from polyarch.executor import syscalls, wire

CODE = (
    "import sys; sys.path.insert(0, sys.argv[3]);"  # "-c" is argv[0]
    "from polyarch.executor import entry; entry.start(sys.argv[1:])"
)


def start(arguments: list[str]) -> None:
    """``CONTROL-DESCRIPTOR root|user|inside PATH…``: the paths modules are imported from."""
    descriptor, mode, *paths = arguments
    control = socket.socket(fileno=int(descriptor))
    if mode != "inside":
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the terminal's signals are the parent's business
        if mode == "user" and not _enter_user_namespace(control):
            return
        _execute_again(descriptor, paths)
    control.set_inheritable(False)
    sys.path.extend(path for path in paths if path not in sys.path)
    from polyarch.executor import helper

    helper.main(control)


def _enter_user_namespace(control: socket.socket) -> bool:
    """The parent writes the id maps when we say that we are there; it learns what was refused."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        wire.send_files(control, wire.pack(("unshared", os.getpid())), [])
        data, _ = wire.receive_files(control)
        if not data:
            return False
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        if data != b"single":  # where setgroups(2) is forbidden for good
            os.setgroups([])
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    except OSError as error:
        wire.send_files(control, wire.pack(("refused", str(error.strerror))), [])
        return False
    return True


def _execute_again(descriptor: str, paths: list[str]) -> None:
    try:
        tree = syscalls.open_tree(os.path.realpath(sys.executable))
        syscalls.mount_setattr(tree, syscalls.ATTR_RDONLY)
        os.execve(
            f"/proc/self/fd/{tree}",
            [sys.executable, "-I", "-S", "-c", CODE, descriptor, "inside", *paths],
            dict(os.environ),
        )
    except OSError as error:
        # Without it the file's own permissions protect it.
        sys.stderr.write(f"polyarch: the interpreter stays writable: {error}\n")
