"""Limits on the memory and processors of a step, by control groups of its own.

Both hierarchies are understood: version 2, where a group must have been delegated to us (root has all; a
user's systemd delegates on request), and version 1 with one hierarchy for each controller. Imports next to
nothing: the helper process uses it too.
"""

from __future__ import annotations

import errno
import os
import time
from typing import NamedTuple

Limits = dict[str, int | str]  # of the names below; what is not there is not limited

_PERIOD = 100_000  # microseconds
# The files of a limit: (controller, file of version 1, file of version 2).
_FILES = {
    "memory": ("memory", "memory.limit_in_bytes", "memory.max"),
    "memory_swap": ("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"),
    "cpu_shares": ("cpu", "cpu.shares", "cpu.weight"),
    "cpu_quota": ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    "cpuset_cpus": ("cpuset", "cpuset.cpus", "cpuset.cpus"),
    "cpuset_mems": ("cpuset", "cpuset.mems", "cpuset.mems"),
}


class _Mounted(NamedTuple):
    """A hierarchy: where it is mounted and our own group in it. ``controllers`` is None for version 2."""

    folder: str
    controllers: tuple[str, ...] | None


def enter(limits: Limits, pid: int) -> list[str]:
    """Put the process into new groups with these limits; the groups' folders, for ``leave``. OSError with a
    sentence that says what is missing when a limit cannot be set: none is then left."""
    made: list[str] = []
    try:
        for controller in sorted({_FILES[name][0] for name in limits if name in _FILES}):
            wanted = {
                name: value for name, value in limits.items() if _FILES.get(name, ("",))[0] == controller
            }
            made.append(_enter_one(controller, wanted, limits, pid))
    except OSError:
        leave(made)
        raise
    return made


def leave(made: list[str]) -> None:
    """Remove groups; processes in them are gone or about to be."""
    for folder in made:
        for _ in range(50):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    break
                time.sleep(0.01)  # the kernel is still taking the last process out
            else:
                break


def _enter_one(controller: str, wanted: Limits, limits: Limits, pid: int) -> str:
    found = _hierarchy(controller)
    if found is None:
        raise OSError(errno.ENOTSUP, f"no control group for {controller} is mounted here")
    _sweep(found.folder, f"polyarch-{controller}-")
    folder = os.path.join(found.folder, f"polyarch-{controller}-{pid}")
    try:
        os.mkdir(folder)
        try:
            for name, value in _ordered(wanted):
                _set(folder, name, value, limits, second=found.controllers is None)
            if controller == "cpuset" and found.controllers is not None:
                _complete(folder, found.folder)
            _write(os.path.join(folder, "cgroup.procs"), str(pid))
        except OSError:
            os.rmdir(folder)
            raise
    except OSError as error:
        names = ", ".join("--" + name.replace("_", "-") for name in wanted)
        raise OSError(
            error.errno,
            f"{names} cannot be set: {error.strerror} ({error.filename or folder}); the control group must "
            "be delegated to you, as with: systemd-run --user --scope -p Delegate=yes",
        ) from None
    return folder


def _sweep(parent: str, prefix: str) -> None:
    """Remove groups of steps whose supervisor was killed before it could."""
    for name in os.listdir(parent):
        if name.startswith(prefix) and not os.path.exists(f"/proc/{name.removeprefix(prefix)}"):
            try:
                os.rmdir(os.path.join(parent, name))
            except OSError:
                pass  # not empty: another pid namespace's


def _ordered(wanted: Limits) -> list[tuple[str, int | str]]:
    """Memory before memory with swap, which must not be less."""
    return [(name, wanted[name]) for name in _FILES if name in wanted]


def _set(folder: str, name: str, value: int | str, limits: Limits, *, second: bool) -> None:
    _, first_file, second_file = _FILES[name]
    text = str(value)
    if name == "cpu_quota":
        period = int(limits.get("cpu_period", _PERIOD))
        if not second:
            _write(os.path.join(folder, "cpu.cfs_period_us"), str(period))
        else:
            text = f"{value} {period}"
    elif second and name == "cpu_shares":  # 2–262144 onto 1–10000, as systemd and runc do
        text = str(1 + (int(value) - 2) * 9999 // 262142)
    elif second and name == "memory_swap":  # memory and swap together, there; swap alone, here
        text = "max" if int(value) < 0 else str(max(0, int(value) - int(limits.get("memory", 0))))
    _write(os.path.join(folder, second_file if second else first_file), text)


def _complete(folder: str, parent: str) -> None:
    """A cpuset of version 1 takes no process before it has both processors and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        with open(os.path.join(folder, name)) as file:
            empty = not file.read().strip()
        if empty:
            with open(os.path.join(parent, name)) as file:
                _write(os.path.join(folder, name), file.read().strip())


def _hierarchy(controller: str) -> _Mounted | None:
    """Our own group where ``controller`` can be used."""
    own = _own_groups()
    second: _Mounted | None = None
    for kind, place, root, options in _mounts():
        if kind == "cgroup" and controller in options:
            return _Mounted(place + _below(own.get(controller, "/"), root), tuple(options))
        if kind == "cgroup2":
            second = _Mounted(place + _below(own.get("", "/"), root), None)
    if second is None:
        return None
    return second if _offers(second.folder, controller) else None


def _offers(folder: str, controller: str) -> bool:
    """Whether groups below this one of version 2 can have the controller; asked for where they do not yet."""
    try:
        with open(os.path.join(folder, "cgroup.controllers")) as file:
            if controller not in file.read().split():
                return False
        with open(os.path.join(folder, "cgroup.subtree_control")) as file:
            if controller in file.read().split():
                return True
        _write(os.path.join(folder, "cgroup.subtree_control"), f"+{controller}")
    except OSError as error:
        return error.errno in (errno.EBUSY, errno.EACCES, errno.EPERM)  # making the group says what is wrong
    return True


def _own_groups() -> dict[str, str]:
    """Controller ("" for version 2) → the path of our group."""
    found = {}
    with open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found


def _mounts() -> list[tuple[str, str, str, list[str]]]:
    """(kind, mount point, root of the mount, super options) of every hierarchy."""
    found = []
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fields, last = before.split(), after.split()
            if last and last[0] in ("cgroup", "cgroup2"):
                found.append((last[0], fields[4], fields[3], last[-1].split(",")))
    return found


def _below(path: str, root: str) -> str:
    """Our group's path as the mount shows it."""
    shown = path.removeprefix(root.rstrip("/")) if root != "/" else path
    return "" if shown == "/" else shown


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(file)
