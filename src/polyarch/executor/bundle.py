"""Inside a step's namespaces, for an OCI runtime: the root filesystem and the sources of mounts, put where
the bundle's config.json says they are. No pivot_root: the runtime does that."""

from __future__ import annotations

import os
import stat
from typing import Any

from polyarch.executor import syscalls
from polyarch.executor.assembly import Assembly


def prepare(step: dict[str, Any], trees: dict[str, int]) -> Assembly:
    """Everything the runtime needs. Mount points that are missing are made, to be removed after."""
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    assembly = Assembly(step["scratch"], trees["root"])
    proc = syscalls.new_mount("proc", [])
    syscalls.move_mount(proc, "/proc")  # of this pid namespace: the runtime looks its children up there
    os.close(proc)
    for name in ("proc", "sys", "dev"):
        assembly.system(name)
    for index, (target, content) in enumerate(step["files"].items()):
        _place(assembly, assembly.private_file(content, 0, 0, 0o644), f"etc{index}", target)
    for index, mount in enumerate(step["mounts"]):
        match mount["kind"]:
            case "bind":
                tree = trees[str(index)]
            case "overlay":
                tree = assembly.part(trees[str(index)], mount["path"], str(index))
            case "secret":
                tree = assembly.private_file(mount["content"], mount["uid"], mount["gid"], mount["mode"])
            case _:
                _point(assembly, mount["target"], directory=True)
                continue
        _place(assembly, tree, f"mount{index}", mount["target"])
    _write(os.path.join(assembly.place, "config.json"), step["runtime"]["config"])
    return assembly


def command(step: dict[str, Any]) -> list[str]:
    """The runtime's command line."""
    runtime, place = step["runtime"], step["scratch"]
    return [runtime["path"], "--root", f"{place}/state", "run", "--bundle", place, runtime["name"]]


def _place(assembly: Assembly, tree: int, name: str, target: str) -> None:
    """Mount ``tree`` where the runtime will bind it from, and see to its mount point."""
    path = os.path.join(assembly.place, name)
    directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    if directory:
        os.mkdir(path, 0o755)
    else:
        _write(path, b"")
    assembly.attach(tree, path)
    _point(assembly, target, directory=directory)


def _point(assembly: Assembly, target: str, *, directory: bool) -> None:
    if target.split("/")[1] != "dev":  # a tmpfs of the runtime's own
        os.close(assembly.target(target, directory=directory))


def _write(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, data)
    finally:
        os.close(file)
