"""The helper: a small single-threaded process, started once, that forks for every step, call and file.

Forking out of a live interpreter without threads takes a millisecond; starting one takes forty, and a process
with threads must not fork at all. The helper holds nothing: it passes the sockets and pipes of a request to
the child, which talks to the requester directly. It ends, and every child with it, when its control socket
does.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
from collections.abc import Callable

from polyarch.executor import binfmt, seccomp, supervisor, syscalls, wire


def main(control: socket.socket) -> None:
    """Serve requests until the control socket closes."""
    syscalls.prctl(syscalls.PR_SET_NAME, b"polyarch-helper")
    syscalls.hide_command_line(b"polyarch-helper")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children leave no zombies
    seccomp.program()  # made once: children inherit it
    gc.disable()
    gc.freeze()  # collecting would copy pages the children share
    wire.send_files(control, wire.pack(("ready", None)), [])
    _serve(control)


def _serve(control: socket.socket) -> None:
    private_binfmt = -1
    while True:
        data, files = wire.receive_files(control)
        if not data:
            return
        kind, detail = wire.unpack_event(data)
        if kind == "step":
            _fork(control, supervisor.run, files)
        elif kind == "call":
            _import(detail)
            _fork(control, _answer, files)
        elif kind == "open":
            _open(detail, files)
        elif kind == "binfmt":
            # One instance serves every step of this user namespace.
            try:
                if private_binfmt < 0:
                    private_binfmt = _register(*detail)
                wire.report(_socket(files), "ok")
            except OSError as error:
                wire.report(_socket(files), "error", str(error.strerror))
        else:
            wire.close_all(files)


def _register(emulators: list[tuple[str, str, bool]], place: str) -> int:
    tree = syscalls.new_mount("tmpfs", [("mode", "755")], syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV)
    syscalls.move_mount(tree, place)
    os.close(tree)
    return binfmt.private_emulators(emulators, place)


def _socket(files: list[int]) -> socket.socket:
    return socket.socket(fileno=files.pop(0))


def _fork(
    control: socket.socket, function: Callable[[socket.socket, list[int]], None], files: list[int]
) -> None:
    child = os.fork()
    if child:
        wire.close_all(files)
        return
    status = 70
    try:
        control.close()
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        function(_socket(files), files)
        status = 0
    finally:
        os._exit(status)


def _import(module: str) -> None:
    """Import what a call needs here, so that the next call finds it."""
    try:
        importlib.import_module(module)
    except Exception:
        return  # the child tries again and reports it
    gc.freeze()


def _answer(sock: socket.socket, files: list[int]) -> None:
    from polyarch.executor import calls

    calls.answer(sock, files)


def _open(path: str, files: list[int]) -> None:
    """Open a regular file for the parent, which may not be allowed to."""
    import stat

    sock = _socket(files)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        wire.report(sock, "error", (error.errno, error.strerror))
        sock.close()
        return
    try:
        if stat.S_ISREG(os.fstat(file).st_mode):
            wire.report(sock, "file")
            wire.send_file(sock, file)
        else:
            wire.report(sock, "error", (22, "not a regular file"))
    except OSError:
        pass  # the parent went away
    finally:
        os.close(file)
        sock.close()
