"""The supervisor of one step: a child of the helper, outside the step's namespaces.

It makes the mounts that need the privileges of the outside (overlays, host directories) as detached mounts,
clones the step's first process into new namespaces, and kills it when the requester asks or goes away.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from typing import Any

from polyarch.executor import cgroups, inside, syscalls, wire
from polyarch.executor.oneid import overseer
from polyarch.executor.sampling import INTERVAL, Sampler

Step = dict[str, Any]
Options = list[tuple[str, str | None]]

_PAGE = 4096


def run(sock: socket.socket, files: list[int]) -> None:
    """Run the step that ``sock`` describes; ``files`` are standard input, output and error."""
    data = wire.receive_block(sock)
    if data is None:
        return
    step: Step = wire.unpack(data)
    trees: dict[str, int] = {}
    try:
        trees = _detached_mounts(step)
        ids = overseer.channel(step)
        child, go = _clone(step, trees, sock, files)
    except OSError as error:
        wire.report(sock, "refused", error.strerror or str(error))
        return
    ids.started()
    wire.close_all([*trees.values(), *files])  # mounts must not outlive the step
    groups: list[str] = []
    try:
        groups = cgroups.enter(step["resources"], child)
    except OSError as error:
        wire.report(sock, "limits", error.strerror or str(error))
        os.kill(child, signal.SIGKILL)
    sampler = Sampler(child) if step["emulated"] else None
    _watch(sock, child, go, sampler, ids)
    ids.close()
    if sampler is not None:
        wire.report(sock, "emulated", sampler.share())
    cgroups.leave(groups)
    wire.report(sock, "ended")


def _clone(step: Step, trees: dict[str, int], sock: socket.socket, files: list[int]) -> tuple[int, int]:
    flags = (
        syscalls.CLONE_NEWNS
        | syscalls.CLONE_NEWPID
        | syscalls.CLONE_NEWIPC
        | syscalls.CLONE_NEWUTS
        | syscalls.CLONE_NEWCGROUP
    )
    if step["network"] == "none":
        flags |= syscalls.CLONE_NEWNET
    if step["identity_namespace"]:
        flags |= syscalls.CLONE_NEWUSER
    wait, go = os.pipe()
    child = syscalls.clone(flags)
    if child == 0:
        try:
            os.close(go)
            inside.main(step, trees, sock, files, wait)
        finally:
            os._exit(70)
    os.close(wait)
    if step["identity_namespace"]:
        try:
            for kind in ("uid", "gid"):
                _write(f"/proc/{child}/{kind}_map", b"0 0 4294967295\n")
        except OSError:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
    return child, go


def _write(path: str, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, data)
    finally:
        os.close(file)


def _watch(sock: socket.socket, child: int, go: int, sampler: Sampler | None, ids: overseer.Channel) -> None:
    """Let the step begin; kill it when the requester says anything or is gone; wait for its end."""
    os.write(go, b"g")
    watched = os.pidfd_open(child)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(watched, select.POLLIN)
    ids.register(poll)
    while True:
        ready = dict(poll.poll(INTERVAL if sampler is not None else None))
        if sampler is not None and ids.descriptor not in ready:
            sampler.look()
        if watched in ready:
            break
        if ids.descriptor in ready:
            ids.serve(poll)
        if sock.fileno() in ready:
            os.kill(child, signal.SIGKILL)  # pid 1 of the step: the kernel kills everything in there
            poll.unregister(sock)
    os.waitpid(child, 0)
    os.close(watched)
    os.close(go)


# --- mounts -------------------------------------------------------------------------------------------------


def _detached_mounts(step: Step) -> dict[str, int]:
    """Mounts attached nowhere, by name: "root", "sys", and "0", "1", … of the step's mounts."""
    trees: dict[str, int] = {}
    upper, work = step["upper"], step["work"]
    mounts: list[dict[str, Any]] = step["mounts"]
    scratch = ""
    if not upper or any(m["kind"] == "overlay" and m["writable"] for m in mounts):
        scratch = _scratch(step)
    if not upper:
        upper, work = _upper(scratch, "root")
    userxattr = bool(step["userxattr"])
    # A step may make device nodes, as in docker, but not open them.
    attributes = 0 if step["insecure"] else syscalls.ATTR_NODEV
    trees["root"] = overlay(step["lowers"], upper, work, attributes, userxattr=userxattr)
    for index, mount in enumerate(mounts):
        if mount["kind"] == "bind":
            trees[str(index)] = tree = syscalls.open_tree(str(mount["source"]), recursive=True)
            extra = attributes | (syscalls.ATTR_RDONLY if mount["read_only"] else 0)
            syscalls.mount_setattr(tree, extra, recursive=True)
        elif mount["kind"] == "overlay":
            above = _upper(scratch, str(index)) if mount["writable"] else ("", "")
            lowers = [str(step["empty"]), *mount["lowers"]]  # one alone is no overlay
            trees[str(index)] = overlay(lowers, *above, attributes, userxattr=userxattr)
    if step["network"] != "none":
        trees["sys"] = sysfs()
    return trees


def sysfs() -> int:
    """/sys, fresh where this process may, else a copy of the host's mounts; read-only."""
    attributes = syscalls.ATTR_RDONLY | syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV | syscalls.ATTR_NOEXEC
    try:
        return syscalls.new_mount("sysfs", [], attributes)
    except OSError:
        tree = syscalls.open_tree("/sys", recursive=True)
        syscalls.mount_setattr(tree, attributes, recursive=True)
        return tree


def _scratch(step: Step) -> str:
    """A tmpfs in a mount namespace of this process's own, for what is written and thrown away."""
    place = str(step["scratch"])
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    tree = syscalls.new_mount("tmpfs", [("mode", "700")], syscalls.ATTR_NOSUID)
    syscalls.move_mount(tree, place)
    os.close(tree)
    return place


def _upper(scratch: str, name: str) -> tuple[str, str]:
    folders = os.path.join(scratch, f"{name}-upper"), os.path.join(scratch, f"{name}-work")
    for folder in folders:
        os.mkdir(folder, 0o755)
    return folders


def overlay(lowers: list[str], upper: str, work: str, attributes: int = 0, *, userxattr: bool) -> int:
    """A detached overlay of ``lowers`` (lowest first), read-only without ``upper``.

    Layers are given by descriptor: an option's value ends at 255 bytes, and mount tables show no host path.
    """
    options: Options = [("index", "off"), ("xino", "off")]
    if userxattr:
        options.append(("userxattr", None))
    else:
        options += [("redirect_dir", "nofollow"), ("metacopy", "off")]
    folders = [upper, work] if upper else []
    if upper:
        # What a step writes is a layer only when it ended well, so its fsyncs (dpkg makes thousands) buy
        # nothing. The kernel leaves a mark in the work directory; a step before ours may have.
        options.append(("volatile", None))
        _forget_volatile(work)
    try:
        with _Opened([*folders, *reversed(lowers)]) as names:
            above: Options = list(zip(("upperdir", "workdir"), names, strict=False)) if upper else []
            below: Options = [("lowerdir+", name) for name in names[len(folders) :]]
            return syscalls.new_mount("overlay", [*below, *above, *options], attributes)
    except OSError as error:
        if error.errno != errno.EINVAL or "lowerdir+" not in str(error):
            raise
    tree = _overlay_before_6_8(lowers, folders, options)
    syscalls.mount_setattr(tree, attributes)
    return tree


def _forget_volatile(work: str) -> None:
    mark = os.path.join(work, "work/incompat/volatile")
    try:
        os.unlink(os.path.join(mark, "dirty"))
        os.rmdir(mark)
        os.rmdir(os.path.dirname(mark))
    except FileNotFoundError:
        pass  # a fresh directory, as is usual


class _Opened:
    """Directories by names of 20 bytes at most: descriptors, open meanwhile."""

    def __init__(self, paths: list[str]) -> None:
        self._descriptors: list[int] = []
        self._paths = paths

    def __enter__(self) -> list[str]:
        for path in self._paths:
            self._descriptors.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return [f"/proc/self/fd/{descriptor}" for descriptor in self._descriptors]

    def __exit__(self, *_: object) -> None:
        wire.close_all(self._descriptors)


def _overlay_before_6_8(lowers: list[str], folders: list[str], options: Options) -> int:
    """The same through mount(2), whose options end at one page: about 200 layers."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    # Opened only now: layers must be seen through this mount namespace.
    with _Opened([*folders, *reversed(lowers)]) as names:
        pairs: Options = [("lowerdir", ":".join(names[len(folders) :])), *options]
        if folders:
            pairs += list(zip(("upperdir", "workdir"), names, strict=False))
        text = ",".join(key if value is None else f"{key}={value}" for key, value in pairs)
        if len(text) >= _PAGE:
            raise OSError(
                errno.E2BIG,
                f"{len(lowers)} layers are more than this kernel's mount(2) takes (Linux 6.8: 500)",
            )
        syscalls.mount("overlay", "/proc", "overlay", 0, text)
    tree = syscalls.open_tree("/proc")
    syscalls.umount("/proc", syscalls.MNT_DETACH)
    return tree
