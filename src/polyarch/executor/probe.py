"""What this machine really can do, found out by doing it in a short-lived process of its own.

``python -I -S -c "… probe.main([...])"``: prints ``ok`` or what failed. The parent side is ``run``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from polyarch.executor import binfmt, machines, syscalls
from polyarch.executor.oneid import listener

_SOURCE = str(Path(__file__).resolve().parents[2])


def run(*arguments: str, timeout: float = 20) -> str:
    """Run one probe in a process of its own; "" when it worked, else one line of what failed."""
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1));"
        "from polyarch.executor import probe; probe.main(sys.argv[1:])"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, _SOURCE, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            env={},
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    text = done.stdout.decode(errors="replace").strip()
    if text == "ok" and done.returncode == 0:
        return ""
    return (
        text
        or done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        or f"status {done.returncode}"
    )


def main(arguments: list[str]) -> None:
    """The probe's process."""
    try:
        match arguments:
            case ["namespaces"]:
                _namespaces()
            case ["native", qemu]:
                _run_program(qemu)
            case ["binfmt", qemu, interpreter]:
                _enter_single_id()
                machine = next(m for m in machines.MACHINES if m.qemu == qemu)
                line = binfmt.registration(machine, interpreter, keep_name=False)
                keep = binfmt.private_instance([line])
                _run_program(qemu)
                os.close(keep)
            case ["notification"]:
                _enter_single_id()
                os.close(listener.install(listener.program(frozenset({"mknodat"}))))
            case ["private-binfmt"]:
                _enter_single_id()
                os.close(binfmt.private_instance([]))
            case _:
                raise ValueError(f"no such probe: {arguments}")
    except OSError as error:
        syscalls.report(f"{error.strerror or error}")
        os._exit(1)
    except Exception as error:
        syscalls.report(f"{error}")
        os._exit(1)
    syscalls.report("ok")


def _enter_single_id() -> None:
    uid, gid = os.getuid(), os.getgid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _namespaces() -> None:
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    if not syscalls.may_mount():
        _enter_single_id()
    syscalls.unshare(flags)


def _run_program(qemu: str) -> None:
    machine = next(m for m in machines.MACHINES if m.qemu == qemu)
    program = os.memfd_create(f"{qemu}-probe", 0)  # inheritable: the emulator opens it by its number
    os.write(program, machine.program())
    child = os.fork()
    if child == 0:
        try:
            null = os.open("/dev/null", os.O_WRONLY)
            os.dup2(null, 2)
            os.execve(program, ["probe"], {})
        except OSError as error:
            os._exit(100 + (error.errno or 0) % 100)
    deadline = time.monotonic() + 10
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            raise OSError(0, "it did not answer within ten seconds")
        time.sleep(0.001)
    code = os.waitstatus_to_exitcode(status)
    if code >= 100:
        raise OSError(code - 100, os.strerror(code - 100))
    if code:
        raise OSError(0, f"a program of {qemu} ended with status {code}")
