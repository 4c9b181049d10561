"""From the contract's values (spec.py) to the plain values a step is sent as, and the checks on the way."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polyarch.errors import NotFoundError, UsageError
from polyarch.executor import capabilities
from polyarch.executor.spec import Bind, Identity, Mount, Overlay, Process, RootFilesystem, SecretFile, Tmpfs

Description = dict[str, Any]

_RESERVED = ("/proc", "/sys")


def describe(process: Process, root: RootFilesystem, mounts: tuple[Mount, ...]) -> Description:
    """The step without what depends on the machine (scratch, stubs, emulators). UsageError, NotFoundError."""
    if not process.arguments or not process.arguments[0]:
        raise UsageError("the process to run has no name", reason="no-command")
    for word in (*process.arguments, *process.environment, process.directory):
        if "\0" in word:
            raise UsageError("arguments and environment cannot hold NUL characters", reason="nul-character")
    return {
        "arguments": list(process.arguments),
        "environment": list(process.environment),
        "directory": posixpath.join("/", process.directory),
        "identity": (process.identity.uid, process.identity.gid, _groups(process.identity)),
        "network": "none" if process.network == "none" else "host",
        "insecure": process.security == "insecure",
        "hostname": process.hostname[:64],
        "shm_size": process.shm_size,
        "limits": list(process.limits),
        "resources": dict(process.resources),
        "read_only": process.read_only,
        "terminal": process.terminal,
        "stdin": process.stdin is not None and not process.terminal,
        "files": {"/etc/hosts": _hosts(process), "/etc/resolv.conf": _resolver()},
        "lowers": [str(path) for path in root.lowers],
        "upper": str(root.upper or ""),
        "work": str(root.work or ""),
        "mounts": [_mount(mount) for mount in mounts],
        "highest_capability": capabilities.last(),
    }


def _groups(identity: Identity) -> list[int]:
    """The supplementary groups, the user's own first, as container engines have it."""
    return list(dict.fromkeys((identity.gid, *identity.groups)))


def _mount(mount: Mount) -> dict[str, Any]:
    target = posixpath.normpath(posixpath.join("/", mount.target))
    if target == "/" or any(target == place or target.startswith(place + "/") for place in _RESERVED):
        raise UsageError(f"nothing can be mounted at {mount.target}", reason="bad-mount-target")
    common: dict[str, Any] = {"kind": mount.kind, "target": target.replace("//", "/")}
    match mount:
        case Bind():
            if not os.path.lexists(mount.source):
                raise NotFoundError(
                    f"cannot mount {mount.source}: no such file or directory", reason="no-mount-source"
                )
            return common | {"source": str(mount.source), "read_only": mount.read_only}
        case Overlay():
            return common | {
                "lowers": [str(path) for path in mount.lowers],
                "path": mount.path,
                "writable": mount.writable,
            }
        case Tmpfs():
            return common | {"size": mount.size, "mode": mount.mode}
        case SecretFile():
            return common | {
                "content": mount.content,
                "uid": mount.uid,
                "gid": mount.gid,
                "mode": mount.mode,
            }


def _hosts(process: Process) -> bytes:
    lines = [f"127.0.0.1\tlocalhost {process.hostname}", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{address}\t{name}" for name, address in process.hosts]
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")


def _resolver() -> bytes:
    try:
        return Path("/etc/resolv.conf").read_bytes()
    except OSError:
        return b""


def stubs(mounts: Iterable[dict[str, Any]]) -> list[tuple[str, bool]]:
    """The mount points a step needs as (path, is directory), parents first, as far as known beforehand."""
    points: dict[str, bool] = {
        "proc": True,
        "sys": True,
        "dev": True,
        "etc": True,
        "etc/hosts": False,
        "etc/resolv.conf": False,
    }
    for mount in mounts:
        match mount["kind"]:
            case "bind":
                directory = os.path.isdir(str(mount["source"]))
            case "tmpfs":
                directory = True
            case "secret":
                directory = False
            case _:
                if str(mount["path"]).strip("/"):
                    continue  # a file or a directory: only the helper may be able to look
                directory = True
        parts = str(mount["target"]).strip("/").split("/")
        if parts[0] == "dev":
            continue  # a tmpfs of the step's own
        paths = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if any(points.get(path) is False for path in paths) or points.get(paths[-1], directory) != directory:
            continue  # at odds with another mount: made in the step, or refused there
        points |= dict.fromkeys(paths[:-1], True) | {paths[-1]: directory}
    return sorted(points.items())
